// Package mariahost runs private MariaDB servers on this host, for tests that want the real
// database.
//
// It uses the server programs that the host has, and never touches a server that it did not make:
//
//	inst, err := mariahost.Find()
//	srv, err := inst.Start(ctx, mariahost.Config{Name: "stock"})
//	defer srv.Stop(context.Background())
//	db, err := sql.Open("mysql", srv.DSN("root", ""))
//
// A server has a directory of its own (data, socket, log), and listens on its Unix socket alone,
// which is open to the caller's user and root. What such a server has promised survives
// [Server.Kill] and [Server.Restart], which is what they are for.
//
// MariaDB refuses to run as root, so that a caller who is root has its servers run as the user
// mysql, or nobody. A server ends with its parent, where the system can see to it.
package mariahost

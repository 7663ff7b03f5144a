// Package pghost runs private PostgreSQL servers on this host, for demonstrations and for tests
// that want the real database.
//
// It uses the server programs that the host has, or lets apt install them, and never touches a
// cluster that it did not make:
//
//	inst, err := pghost.Ensure(ctx, os.Stderr)             // find, else install
//	srv, err := inst.Start(ctx, pghost.Config{Name: "bank_a"})
//	defer srv.Stop(context.Background())
//	pool, err := pgxpool.New(ctx, srv.DSN("postgres"))
//
// A server has a directory of its own (data, socket, log), a free port on 127.0.0.1 beside its Unix
// socket, and a random password on that port, since every user of the host can reach it; the socket
// is open to the caller's user alone. fsync is on: what such a server has promised survives
// [Server.Kill] and [Server.Restart], which is what they are for.
//
// Two traps are closed here. PostgreSQL refuses to run as root, so that a caller who is root has
// its servers run as the user postgres, or nobody. And a port that is taken makes a new server die
// while its client talks to the stranger who holds the port, so that the system identifier read
// over the connection is compared with the one in the data directory before anybody gets an
// address.
//
// A server ends with its parent: the kernel sends it SIGQUIT when the thread that started it dies,
// and that thread is kept until the server has ended. The directory that it leaves is removed by
// the next server that is started on this host.
package pghost

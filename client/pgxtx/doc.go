// Package pgxtx lets the pgx pools of an application take part in its transactions: a [DB] is a
// pool and the name under which the coordinator knows its database.
//
//	accounts := pgxtx.New("bank_a", pool, pgxtx.OwnerRole("gavel_owner"))
//
//	err := c.InTx(ctx, func(ctx context.Context) error {                  // c is a client.Client
//		_, err := accounts.Exec(ctx, `UPDATE acct SET bal = bal - $1 WHERE id = $2`, 30, "alice")
//		return err
//	})
//
// A DB has Exec, Query, QueryRow, SendBatch and CopyFrom, which is what sqlc calls DBTX: generated
// code runs unchanged, by New(accounts). The transaction is taken from the context of each call.
// Its branch, one connection of the pool, is opened by the first call and given back when the
// transaction has ended, prepared or not: nothing of the pool is held while the coordinator
// decides. Without a transaction a call returns client.ErrNoTransaction; it never commits by
// itself, unless [AllowAutocommit] says so.
//
// A statement whose result nobody looks at may be queued: [DB.Queue], and [DB.QueueExactly] where
// it must affect a certain number of rows. It travels in the packet that prepares the branch, which
// is then a single round trip if nothing else was sent.
//
// # What happens when
//
//	isolation level      client.Isolation sets it for every branch, in the message that begins it
//	40001, 40P01, 55P03  the transaction rolls back, and client.Retry runs its function again
//	an error is ignored  it rolls back all the same, in every branch. That holds for errors of the
//	                     server, and for statements that never reached it, such as one that could
//	                     not be encoded
//	panic                every branch is rolled back, and the panic goes on
//	the context ends     the running statement is cancelled, its connection closed, and all
//	                     branches are rolled back
//	savepoints           tx, err := db.Tx(ctx), then tx.Begin(ctx): its Rollback undoes what
//	                     happened since, errors included, and its Commit keeps it
//	InTx within InTx     the inner function works on the outer one's branches
//	rows are open        the connection is busy: another statement is not sent, not here and not
//	                     on another connection; it fails with ErrBusy, and so does the transaction
//	two goroutines at    the second statement fails with ErrBusy in the same way. Different
//	one database         databases may be used at the same time
//	COMMIT, ROLLBACK,    refused with ErrControl, before it is sent: the end of a transaction
//	PREPARE … as SQL     belongs to InTx. SAVEPOINT, ROLLBACK TO and RELEASE are welcome
//	temporary tables,    PostgreSQL cannot prepare what used them; the transaction rolls back.
//	LISTEN, NOTIFY       Where one database decides alone they work
//
// # What a reader is
//
// With several branches, one that wrote nothing just commits. A branch counts as such only if every
// one of its statements answered SELECT or SHOW, PostgreSQL gave it no transaction number, and the
// database has nothing installed that writes elsewhere on its behalf. A function called by SELECT
// that sends a notification is not seen by any of these: its notification goes out when the branch
// commits.
//
// # A branch that decides
//
// With client.Delegate a branch is not prepared: its COMMIT, after a row that says so, the marker,
// in one message with what is queued, is the decision. The database needs the schema of the
// markers, which `gavel markers` makes, and the application's role the right to insert into it. A
// branch that only read decides all the same, but where its session is read-only the transaction
// can only roll back.
//
// # A lost COMMIT
//
// Where one database decides alone, the number of its transaction is read before COMMIT is sent. If
// the answer to COMMIT is lost, the database is asked on another connection what became of that
// number; only if the server has restarted meanwhile, or does not come back in time, the outcome is
// client.ErrInDoubt. Everything else PostgreSQL demands of a branch is written down in
// participant/postgres/pgbranch.
package pgxtx

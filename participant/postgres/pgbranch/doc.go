// Package pgbranch knows PostgreSQL's rules for a branch of a global transaction: how it begins,
// when its PREPARE TRANSACTION is a vote, how it is finished, and what "does not exist" may mean.
// It works on one connection at a time, owns none, and is the only place where these rules are
// written down.
//
//	pgbranch.Begin(ctx, conn, pgbranch.BeginOptions{ID: id})
//	… the application's SQL on conn …
//	v := pgbranch.Prepare(ctx, conn, name, pgbranch.PrepareOptions{OwnerRole: "gavel_owner"})
//	… v.Vote and v.Evidence go to the coordinator; after its decision, on any connection …
//	pgbranch.Finish(ctx, other, "gavel_owner", true, []txn.Name{name})
//
// Where the decision was left to this database, [Decide] takes the place of Prepare, and commits.
//
// # What PostgreSQL does to the unwary
//
//   - PREPARE TRANSACTION of a failed transaction succeeds, with the command tag ROLLBACK.
//   - A cancel request while PREPARE waits for a synchronous standby turns "not replicated" into
//     success with a WARNING; statement_timeout does the same to COMMIT PREPARED.
//   - COMMIT PREPARED of a name that does not exist (42704) may mean committed, rolled back, or
//     lost.
//   - Transaction numbers are handed out again after a crash, a failover or a restore.
//   - A hot standby lists no prepared transactions although they exist.
//
// So a vote is Yes only if the tag is exactly PREPARE TRANSACTION, no WARNING came with it, and the
// server has said who it is. To see warnings whatever notice handler the application gave to its
// pool, messages are sent and received one by one; the application's handler sees them as well.
//
// # Contexts
//
// From PREPARE on, the end of a context never sends a cancel request, because of the second
// surprise above: the connection is closed instead, the outcome is unknown, and the server goes on
// by itself. A read that fails because the network did makes pgconn send a cancel request of its
// own; by then the answer is unknown already, and stays so.
//
// # The one data layout
//
// A branch leaves two traces in PostgreSQL: its prepared name ([txn.Name]), and, where its
// transaction was known when it began, the shared advisory lock (K, S) with K the low 31 bits of
// the log id and S the low 32 bits of the sequence, which maps a backend to its transaction and
// survives PREPARE.
//
// One that decides leaves a marker instead of a name: a row (transaction, votes of the others) of
// the table gavel.marker, of which the primary key allows one for each transaction. Who writes it
// first decides ([Decide], [EnsureMarkers]), and a row without votes says never.
//
// The rules are those of presumed abort in Mohan, Lindsay and Obermarck (TODS 1986), section 3.
package pgbranch

// Package postgres speaks for one PostgreSQL database as a participant.Resource: it finishes the
// branches that applications prepared there, votes for those that only a listing can prove, and
// tells where branches stand.
//
//	r, err := postgres.Open(ctx, postgres.Config{
//		Name: "bank_a", DSN: dsn, OwnerRole: "gavel_owner",
//	})
//	defer r.Close()
//
// The application's work does not pass through here: it runs SQL and PREPARE TRANSACTION on its own
// connections, by the rules of package pgbranch, which are this package's rules too.
//
// # What it needs of the database
//
// PostgreSQL 14 or newer, max_prepared_transactions at least as high as the number of connections
// that prepare, and a direct connection: session-level locks do not survive a pooler in transaction
// mode. No superuser: a NOLOGIN role owns the branches, and is granted to the applications' roles
// and to this adapter's. [Resource.Describe] checks all of it, with a real PREPARE, and prints what
// to paste.
//
// # Decisions that are left to it
//
// A database in which the table gavel.marker is set up may decide transactions ([Resource.Decide]).
// There is at most one row for each:
//
//	txid      the transaction
//	decision  the votes of all other branches, written with the work of the branch here, in one
//	          database transaction; or NULL, written by us: it never commits
//
// The primary key makes whoever inserts first the one who decides. A row without a decision stays
// for good, since nobody knows how late its client is; others go when the coordinator has no more
// use for them.
//
// # The right database
//
// Every connection is asked who it leads to before anything else. A standby is refused, because it
// lists no prepared transactions though it has them. Another system identifier or database than the
// registered one, a lower timeline, or a lower position on the same timeline than ever seen is an
// old primary or a restored backup: its branches are Held ([HeldError]), and nothing is finished
// before somebody calls [Resource.Expect]. A higher timeline is an ordinary failover.
//
// # One resolver per log
//
// Two session-level advisory locks per log, named by the 60 bits of its id, make sure that only one
// process finishes its branches in this database:
//
//	right   log id            exclusive, held by one control connection per process
//	crew    log id | 1<<60    shared, held by each connection that finishes branches
//
// Every holder's application_name says gavel/<log>/<epoch>/<process>. A process with a higher epoch
// ends the holder's session, takes the right, and then ends all sessions of the old crew; a lower
// epoch is fenced. A connection that joins a crew looks, after it has the lock, whether its own
// process still holds the right. So whoever took the lock before the right changed hands is ended,
// and whoever took it after that sees it: no COMMIT PREPARED or ROLLBACK PREPARED of the old
// process can follow the new one's first.
//
// # Failure semantics
//
// A lost connection leaves what it was asked unknown. The adapter then looks at the list on another
// connection and finishes what is still there; for what is not, the evidence of its vote decides,
// and without evidence it is Gone. It never turns "does not exist" into an outcome. A commit that
// PostgreSQL reports with a warning about its synchronous standby is unknown until a synchronous
// write of the adapter's own has come back without one.
//
// The listing is the first half of recovery in the sense of Mohan, Lindsay and Obermarck (TODS
// 1986), section 3: list what is in doubt, ask the coordinator, act.
package postgres

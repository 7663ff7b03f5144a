// Package mysql speaks for one MariaDB database as a participant.Resource: it finishes the branches
// that applications prepared there by XA, votes for those that only a listing can prove, and tells
// where branches stand. MySQL speaks the same SQL, and is experimental: no test of this package has
// seen one, so that it is refused unless [Config.Experimental] is set.
//
//	r, err := mysql.Open(ctx, mysql.Config{Name: "stock", DSN: "gavel@tcp(db:3306)/stock"})
//	defer r.Close()
//
// The application's work does not pass through here: it runs its SQL and XA PREPARE on its own
// connections, by the rules of package xabranch, which are this package's rules too.
//
// # What it needs of the server
//
// The tables of xabranch.Schema, once for each server, and the grants of xabranch.Grants. InnoDB
// tables, innodb_flush_log_at_trx_commit = 1, no Galera, and a direct connection: user locks do not
// survive a pooler. [Resource.Describe] checks it, with a real XA PREPARE, and prints what to
// paste.
//
// # One database of several
//
// XA RECOVER lists the whole server, and anybody may finish what it lists. The row that each branch
// writes says in which database it was prepared, so that of a branch of another database this
// adapter says Foreign. One without a row was prepared by other rules than ours: nobody can tell
// whose it is, or would know after a commit whether it happened. It is never voted for and never
// committed, and is rolled back where the coordinator says so.
//
// # One resolver per log
//
// A user lock, named by log and database, is the right to finish its branches here; it is held by
// one control connection per process, and the epoch that took it last stands in gavel.resolver.
// Each connection that finishes branches holds one of 64 further locks, its place in the crew. A
// process with a higher epoch ends the holder's session, takes the right, and ends all sessions of
// the old crew; a lower epoch is fenced. A connection that joins a crew looks, after it has its
// place, whether its own process still holds the right. So whoever took a place before the right
// changed hands is ended, and whoever took it after that sees it.
//
// # Failure semantics
//
// A lost connection leaves what it was asked unknown. The adapter then looks at the list on another
// connection and finishes what is still there; for what is not, the row decides: committed with
// it, rolled back without it, and Gone where the caller has no evidence that there ever was one.
// A branch that its session still holds is waited for, up to a second; that session is ended on the
// way.
//
// # What stays
//
// The rows of committed branches, some 150 bytes each, stay for as long as their coordinator may
// ask about them, which is its retention: a branch without its row looks rolled back. It says how
// far that is with each call, and listings remove what is older, a few thousand rows at most with
// each. A resource that is long down holds that mark back at all others, for what it has not heard.
//
// The rows of a log that was given up, or that another log has adopted, never go, for nobody speaks
// for it any more. Once no branch of it is prepared or in doubt anywhere, an operator may remove
// them by what all its names begin with, "gavel1.", the log and a full stop:
//
//	DELETE FROM gavel.branch WHERE name LIKE 'gavel1.LOG.%'
package mysql

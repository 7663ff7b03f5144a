// Package session runs the statements of clients that have no driver of the database: it keeps a
// session of the database for each branch, and prepares it when the coordinator asks.
//
//	client ── Attach, Execute …, Finish ──▶ Keeper ── a session ──▶ the database
//	coordinator ── Prepare, Rollback, … ──▶ Keeper ── the rest ───▶ the resource itself
//
// A [Keeper] is a participant.Resource around another one. It answers for the branches that it has
// a session of, and leaves every other branch, and all that is prepared, to the resource. So a
// branch that was prepared here is finished like one that its application has prepared by itself,
// also by another process, after a crash of this one.
//
//	keeper, err := session.New(session.Config{Resource: r, Database: sessions})
//	branch, err := keeper.Attach(ctx, session.Attachment{Name: name})
//	n, err := branch.Execute(ctx, session.Statement{SQL: "update …"}, nil)
//	err = branch.Finish()
//
// # The life of a branch
//
//	Attach ──▶ opening ──▶ open ◀──▶ running         Execute
//	                        │           │
//	               Prepare  │           │  a statement fails, Close before Finish, Prepare,
//	                        ▼           │  Rollback, a newer epoch, too old, too idle, shutdown
//	                    preparing       ▼
//	                        │        ending          the database rolls it back
//	                        ▼           │
//	                      ended ◀───────┘            with a vote
//
// Only an idle session is prepared. What takes one away while a statement runs cancels the
// statement, and the one who waits for it rolls the branch back. The last vote of a branch is
// remembered, so that whoever asks again hears the same one, and a name is attached only once:
// work that comes behind a rollback, or behind a PREPARE, finds no session.
//
// # Votes
//
//	(yes)       the database has prepared it. Asked again, the resource looks for it in its list
//	(read only) the branch wrote nothing, and what it has read still holds
//	(no)        this process ran the branch, and it has ended, or never will be prepared
//	(unknown)   the answer to PREPARE was lost. Nothing is rolled back then: the name may be
//	            prepared, and belongs to its coordinator
//
// PREPARE does not depend on the patience of who asked for it: it goes on when the caller's context
// ends, within a limit of its own, and the next one who asks waits for the same answer.
//
// # What ends a branch that nobody asks for
//
// A session costs a connection, and holds locks. It ends when it is left alone for [Config.Idle],
// when it is older than [Config.Life], and with the connection of its client, unless that had said
// that there are no more statements. The database is told about the idle time too, so that a
// process that hangs does not hold locks for ever.
package session

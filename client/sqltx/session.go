package sqltx

import (
	"context"
	"database/sql"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

// session is a database's part in a branch: the flow, which is that of [branch], is the same for
// all. Nobody else uses it, and its methods are called one at a time, but for cut, and for what the
// application does with rows.
type session interface {
	runner
	ender
	// look says how the session stands.
	look() state
	// note hears how a statement went, with an error or without.
	note(err error)
	// explain is the ending of a branch that can only roll back because of err, with the error of
	// the server that the application ignored, if it was one.
	explain(err error) client.Ending
	// cut loses the connection under whoever uses it, and does not wait for that.
	cut()
	// free lets go of what the session has beside its connection.
	free()
}

// runner runs the application's statements. The end of ctx ends rows.
type runner interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// ender ends a branch that runs no statement any more. One of prepare, commit and rollBack is
// called, and leaves nothing to be ended.
type ender interface {
	// reader says whether the branch certainly wrote nothing. Wrote says that something was sent to
	// it that may write.
	reader(ctx context.Context, wrote bool) (bool, error)
	prepare(ctx context.Context, name txn.Name) client.Ending
	commit(ctx context.Context, wrote bool) client.Ending
	// ask is called with the ending of a commit that is unknown, once the connection is back at its
	// pool, and learns more if the database can tell.
	ask(ctx context.Context, e client.Ending) client.Ending
	rollBack(ctx context.Context)
}

// opening is how a session is to begin.
type opening struct {
	client.OpenOptions
	// name is that of the branch, for a database that wants it first.
	name txn.Name
}

// begin begins a session's branch on a connection, which stays the caller's.
func (d Dialect) begin(
	ctx context.Context, db *DB, conn *sql.Conn, o opening,
) (session, error) {
	if d == MariaDB {
		return beginMaria(ctx, db, conn, o)
	}
	return beginPostgres(ctx, db, conn, o)
}

// controls is the first word of SQL that would begin, end or prepare a transaction, or empty.
func (d Dialect) controls(text string) string {
	if d == MariaDB {
		return mariaControls(text)
	}
	return pgbranch.Controls(text)
}

// named says whether a branch has its name from the beginning on.
func (d Dialect) named() bool { return d == MariaDB }

// state is how a session stands.
type state struct {
	closed, busy bool
	tx           txState
}

type txState uint8

const (
	// txIdle: outside of a transaction.
	txIdle txState = iota
	// txOpen: the branch runs.
	txOpen
	// txFailed: the branch can only roll back, and the session knows.
	txFailed
)

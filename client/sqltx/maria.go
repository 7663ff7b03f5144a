package sqltx

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/go-sql-driver/mysql"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

// maria is a session of MariaDB. The rules of its branch are those of xabranch, which uses the
// connection of the pool itself; the application's statements go over it by way of a wire.
type maria struct {
	runner
	db   *DB
	conn *sql.Conn
	wire *wire
	// over is a pool of the wire alone.
	over *sql.DB
	xa   *xabranch.Branch
	// reads says that the branch was begun as one that only reads.
	reads bool
	// ended says that the branch was rolled back, and the connection is idle.
	ended bool
}

var errNotMySQL = errors.New("sqltx: the pool's driver is not github.com/go-sql-driver/mysql, " +
	"whose errors alone tell what has become of a branch")

func beginMaria(
	ctx context.Context, db *DB, conn *sql.Conn, o opening,
) (session, error) {
	if d := db.pool.Driver(); !isMySQL(d) {
		return nil, fmt.Errorf("%w: it is %T", errNotMySQL, d)
	}
	xa, err := xabranch.Begin(ctx, conn, o.name, xabranch.BeginOptions{
		Isolation: xabranch.Isolation(o.Level), ReadOnly: o.ReadOnly})
	if err != nil {
		return nil, err
	}
	s := &maria{db: db, conn: conn, wire: newWire(conn), xa: xa, reads: o.ReadOnly}
	s.over = sql.OpenDB(connector{conn: s.wire})
	if s.runner, err = s.over.Conn(ctx); err != nil {
		s.free()
		return nil, err
	}
	return s, nil
}

func isMySQL(d driver.Driver) bool {
	switch d.(type) {
	case *mysql.MySQLDriver, mysql.MySQLDriver:
		return true
	}
	return false
}

func (s *maria) look() state {
	if s.ended {
		return state{tx: txIdle}
	}
	busy, err := s.wire.standing()
	s.note(err)
	stands := state{busy: busy, tx: txOpen}
	if s.xa.Failed() != nil {
		stands.tx = txFailed
	}
	if !busy {
		stands.closed = !s.wire.alive()
	}
	return stands
}

// note: MariaDB lets a statement that failed pass, so that it is the branch that remembers.
func (s *maria) note(err error) { s.xa.Fail(err) }

func (s *maria) explain(err error) client.Ending {
	failed := s.xa.Failed()
	e := client.Ending{Standing: txn.StandingRolledBack, Reason: err.Error(), Err: err}
	if failed != nil && (errors.Is(err, errSwallowed) || errors.Is(err, errSession)) {
		e.Reason += ": " + failed.Error()
		e.Err = errors.Join(err, failed)
	}
	e.SQLState = xabranch.SQLState(e.Err)
	return e
}

// cut ends what runs, and rows that are open; their connection is closed by that.
func (s *maria) cut() { s.wire.stop() }

func (s *maria) free() {
	s.wire.stop()
	// Rows that nobody has closed do not hold this up: they are of a wire that has nothing to lose.
	_ = s.over.Close()
}

// reader: that nothing was written is known only where the server allowed no writes.
func (s *maria) reader(context.Context, bool) (bool, error) { return s.reads, nil }

func (s *maria) prepare(ctx context.Context, _ txn.Name) client.Ending {
	v := s.xa.Prepare(ctx, xabranch.PrepareOptions{
		Expect: s.db.expect, Experimental: s.db.experimental})
	e := client.Ending{Evidence: v.Evidence, Reason: v.Reason, SQLState: v.SQLState, Err: v.Err}
	switch v.Vote {
	case txn.VoteYes:
		e.Standing = txn.StandingPrepared
	case txn.VoteNo:
		e.Standing = txn.StandingRolledBack
	}
	return e
}

// commit ends a branch that only read, of which a rollback leaves as much. Nothing else is
// committed here: the branch has its name from the coordinator, which then decides.
func (s *maria) commit(ctx context.Context, _ bool) client.Ending {
	err := s.end(ctx)
	if err == nil && s.reads {
		return client.Ending{Standing: txn.StandingCommitted}
	}
	if s.reads {
		return s.explain(err)
	}
	return client.Ending{Standing: txn.StandingRolledBack, Err: err,
		SQLState: xabranch.SQLState(err), Reason: "the branch was rolled back: one that may have " +
			"written commits by the coordinator alone"}
}

func (s *maria) ask(_ context.Context, e client.Ending) client.Ending { return e }

func (s *maria) rollBack(ctx context.Context) { _ = s.end(ctx) }

// end rolls the branch back. After an error the connection is closed, and its server does the same
// on its own.
func (s *maria) end(ctx context.Context) error {
	err := s.xa.Rollback(ctx)
	s.ended = err == nil
	return err
}

// mariaControls is the first word of SQL that begins or ends a transaction, or a branch of one, or
// else empty. It is a help and not a safeguard: within a branch the server refuses all of it but
// XA.
func mariaControls(text string) string {
	first, rest := pgbranch.FirstWord(text)
	second, rest := pgbranch.FirstWord(rest)
	switch first {
	case "COMMIT", "XA":
		return first
	case "BEGIN":
		if second != "NOT" { // BEGIN NOT ATOMIC is a block
			return first
		}
	case "START":
		if second == "TRANSACTION" {
			return first
		}
	case "ROLLBACK":
		if second == "WORK" {
			second, _ = pgbranch.FirstWord(rest)
		}
		if second != "TO" {
			return first
		}
	}
	return ""
}

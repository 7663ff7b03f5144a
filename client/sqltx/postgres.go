package sqltx

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/internal/onpg"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

// postgres is a session of PostgreSQL.
type postgres struct {
	*sql.Conn
	db *DB
	// socket may be closed under whoever uses the connection.
	socket net.Conn
	// last is the last error that the server gave, but for its complaints about an earlier one.
	last *pgconn.PgError
	// mark is that of the transaction whose COMMIT was sent.
	mark pgbranch.Mark
}

var errNotPgx = errors.New("sqltx: the pool's driver is not github.com/jackc/pgx/v5/stdlib, " +
	"whose sessions alone can be prepared")

// failedTransaction is the SQLSTATE of a statement in a transaction that had failed before.
const failedTransaction = "25P02"

func beginPostgres(
	ctx context.Context, db *DB, conn *sql.Conn, o opening,
) (session, error) {
	s := &postgres{Conn: conn, db: db}
	err := lend(conn, func(pg *pgconn.PgConn) error {
		s.socket = pg.Conn()
		return pgbranch.Begin(ctx, pg, pgbranch.BeginOptions{
			Isolation: pgbranch.Isolation(o.Level), ReadOnly: o.ReadOnly,
			IdleTimeout: o.IdleTimeout, ID: o.ID,
		})
	})
	return s, err
}

// lend calls f with the connection below a *sql.Conn.
func lend(conn *sql.Conn, f func(*pgconn.PgConn) error) error {
	return conn.Raw(func(driverConn any) error {
		c, ok := driverConn.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("%w: it is %T", errNotPgx, driverConn)
		}
		return f(c.Conn().PgConn())
	})
}

// look waits for whoever reads rows at this moment, but not for ever: then it closes the socket.
func (s *postgres) look() state {
	late := time.AfterFunc(patience, s.cut)
	defer late.Stop()
	stands := state{closed: true}
	_ = lend(s.Conn, func(pg *pgconn.PgConn) error {
		stands = state{closed: pg.IsClosed(), busy: pg.IsBusy(), tx: txFailed}
		switch pg.TxStatus() {
		case 'I':
			stands.tx = txIdle
		case 'T':
			stands.tx = txOpen
		}
		return nil
	})
	return stands
}

func (s *postgres) note(err error) {
	pg, fromServer := errors.AsType[*pgconn.PgError](err)
	if fromServer && (s.last == nil || pg.Code != failedTransaction) {
		s.last = pg
	}
}

func (s *postgres) explain(err error) client.Ending {
	e := onpg.RolledBack(err, err.Error())
	if s.last != nil && (errors.Is(err, errSwallowed) || errors.Is(err, errSession)) {
		e.Err, e.SQLState = errors.Join(err, s.last), s.last.Code
		e.Reason += ": " + s.last.Message
	}
	return e
}

func (s *postgres) cut() { _ = s.socket.Close() }

func (s *postgres) free() {}

func (s *postgres) reader(ctx context.Context, wrote bool) (reader bool, err error) {
	if wrote {
		return false, nil
	}
	err = lend(s.Conn, func(pg *pgconn.PgConn) (err error) {
		reader, err = pgbranch.Reader(ctx, pg)
		return err
	})
	return reader, err
}

func (s *postgres) prepare(ctx context.Context, name txn.Name) client.Ending {
	var v pgbranch.Verdict
	err := lend(s.Conn, func(pg *pgconn.PgConn) error {
		v = pgbranch.Prepare(ctx, pg, name, pgbranch.PrepareOptions{
			OwnerRole: s.db.owner, Expect: s.db.expect})
		return nil
	})
	if err != nil {
		// Nothing was sent.
		s.rollBack(ctx)
		return onpg.RolledBack(err, "the session was lost before it was prepared")
	}
	lost, ok := errors.AsType[*pgbranch.TransportError](v.Err)
	if v.Vote == txn.VoteUnknown && ok && !lost.Sent {
		// Nothing was sent, so that nothing is prepared, and ends here without effect.
		v.Vote = txn.VoteNo
		s.rollBack(ctx)
	}
	return onpg.Ending(v)
}

// commit ends the branch by the database's own COMMIT, the one decision about it, in the manner of
// pgxtx: the number of a transaction that wrote is read before, because after a lost connection
// nobody could.
func (s *postgres) commit(ctx context.Context, wrote bool) client.Ending {
	if wrote {
		err := lend(s.Conn, func(pg *pgconn.PgConn) (err error) {
			s.mark, err = pgbranch.MarkTransaction(ctx, pg, false)
			return err
		})
		if err != nil {
			s.rollBack(ctx)
			return onpg.RolledBack(err, "the session failed before COMMIT was sent")
		}
	}
	var tags []*pgconn.Result
	err := lend(s.Conn, func(pg *pgconn.PgConn) (err error) {
		tags, err = pg.Exec(ctx, "commit").ReadAll()
		return err
	})
	_, fromServer := errors.AsType[*pgconn.PgError](err)
	switch {
	case err == nil && len(tags) == 1 && tags[0].CommandTag.String() == "COMMIT":
		return client.Ending{Standing: txn.StandingCommitted}
	case err == nil && len(tags) == 1 && tags[0].CommandTag.String() == "ROLLBACK":
		return s.explain(errSwallowed)
	case fromServer && pgbranch.Classify(err) != pgbranch.ClassUnknown:
		s.rollBack(ctx)
		return onpg.RolledBack(err, "")
	}
	return client.Ending{Err: err}
}

func (s *postgres) ask(ctx context.Context, e client.Ending) client.Ending {
	return onpg.AskFor(ctx, s.db.lend, s.mark, e.Err)
}

// lend calls f with a connection of the pool.
func (db *DB) lend(ctx context.Context, f func(*pgconn.PgConn) error) error {
	conn, err := db.pool.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return lend(conn, f)
}

// rollBack ends the branch without effect. A connection that cannot be used for a ROLLBACK is
// closed, and its server does the same on its own.
func (s *postgres) rollBack(ctx context.Context) {
	err := lend(s.Conn, func(pg *pgconn.PgConn) (err error) {
		if !pg.IsClosed() && pg.TxStatus() != 'I' {
			_, err = pg.Exec(ctx, "rollback").ReadAll()
		}
		return err
	})
	if err != nil {
		s.cut()
	}
}

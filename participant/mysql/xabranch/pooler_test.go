package xabranch_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/txn"
)

// pooler shares two sessions of a server out among the statements of one connection, as a pooler
// does that does not know of transactions by XA.
type pooler struct {
	driver.Connector
	// leads is the place of the session that gets the next statements. moves counts the statements
	// until that changes, if it is not zero.
	leads, moves int
}

func (p *pooler) Connect(ctx context.Context) (driver.Conn, error) {
	var c pooled
	c.pooler = p
	for i := range c.sessions {
		conn, err := p.Connector.Connect(ctx)
		if err != nil {
			return nil, err
		}
		c.sessions[i] = conn.(oneSession)
	}
	return &c, nil
}

type oneSession interface {
	driver.Conn
	driver.ExecerContext
	driver.QueryerContext
}

type pooled struct {
	*pooler
	sessions [2]oneSession
}

func (c *pooled) session() oneSession {
	if c.moves > 0 {
		if c.moves--; c.moves == 0 {
			c.leads = 1 - c.leads
		}
	}
	return c.sessions[c.leads]
}

func (c *pooled) Prepare(query string) (driver.Stmt, error) { return c.session().Prepare(query) }
func (c *pooled) Begin() (driver.Tx, error)                 { return nil, errors.ErrUnsupported }

func (c *pooled) Close() error {
	return errors.Join(c.sessions[0].Close(), c.sessions[1].Close())
}

func (c *pooled) ExecContext(
	ctx context.Context, query string, args []driver.NamedValue,
) (driver.Result, error) {
	return c.session().ExecContext(ctx, query, args)
}

func (c *pooled) QueryContext(
	ctx context.Context, query string, args []driver.NamedValue,
) (driver.Rows, error) {
	return c.session().QueryContext(ctx, query, args)
}

// A branch is prepared only where all that is known of it came from one session.
func TestPoolerInBetween(t *testing.T) {
	c, err := mysql.ParseDSN(srv.DSN("root", "bank"))
	if err != nil {
		t.Fatal(err)
	}
	direct, err := mysql.NewConnector(c)
	if err != nil {
		t.Fatal(err)
	}
	p := &pooler{Connector: direct}
	db := sql.OpenDB(p)
	defer db.Close()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p.moves = 3 // the first two are those by which Begin looks
	_, err = xabranch.Begin(t.Context(), conn, newName(), xabranch.BeginOptions{})
	if !errors.Is(err, xabranch.ErrPooled) {
		t.Errorf("begun across two sessions: %v", err)
	}

	if conn, err = db.Conn(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := xabranch.Begin(t.Context(), conn, newName(), xabranch.BeginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.leads = 1 - p.leads
	voted(t, b, xabranch.PrepareOptions{}, txn.VoteNo, "connect to the server directly")
}

// A branch whose connection leads elsewhere in the end is not rolled back by an answer.
func TestPoolerAtRollback(t *testing.T) {
	c, err := mysql.ParseDSN(srv.DSN("root", "bank"))
	if err != nil {
		t.Fatal(err)
	}
	direct, err := mysql.NewConnector(c)
	if err != nil {
		t.Fatal(err)
	}
	p := &pooler{Connector: direct}
	db := sql.OpenDB(p)
	defer db.Close()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := xabranch.Begin(t.Context(), conn, newName(), xabranch.BeginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.leads = 1 - p.leads
	if err := b.Rollback(t.Context()); !errors.Is(err, xabranch.ErrPooled) {
		t.Errorf("rolled back at another session: %v", err)
	}
}

package crash_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/integration/proxy"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
	"github.com/gavel-tx/gavel/txn"
)

// side is one of the two databases of a bank, with a connection of the test's own.
type side struct {
	name     string
	server   *pghost.Server
	database string
	conn     *pgx.Conn
	// proxy, if not nil, is where processes connect to.
	proxy *proxy.Postgres
	// local has them connect by the server's socket, which no network separates.
	local bool
	// decoys are prepared names at this side that nobody may touch.
	decoys []string
	// marks: decisions may be left to it.
	marks bool
}

// dsn is the address that processes get. It holds a password, and goes by the environment.
func (s *side) dsn() string {
	direct := s.server.TCPDSN(s.database)
	switch {
	case s.local:
		return s.server.DSN(s.database)
	case s.proxy != nil:
		return strings.Replace(direct, "@"+tcpAddress(s.server)+"/", "@"+s.proxy.Addr()+"/", 1)
	}
	return direct
}

// again is the pause between two questions to a database that recovers.
const again = 3 * time.Millisecond

// ask asks on the side's connection. A lost connection is made anew, until ctx ends: the server was
// killed on purpose. An error of the question itself is final.
func (s *side) ask(ctx context.Context, f func(*pgx.Conn) error) error {
	tick := time.NewTicker(again)
	defer tick.Stop()
	for {
		err := s.connect(ctx)
		if err == nil {
			if err = f(s.conn); err == nil || !s.conn.IsClosed() {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("ask %s: %w", s.name, err)
		}
	}
}

func (s *side) connect(ctx context.Context) error {
	if s.conn != nil && !s.conn.IsClosed() {
		return nil
	}
	var err error
	s.conn, err = pgx.Connect(ctx, s.server.DSN(s.database))
	return err
}

func (s *side) close(ctx context.Context) {
	if s.conn != nil {
		_ = s.conn.Close(ctx)
	}
}

// list runs a query with one column of text.
func (s *side) list(ctx context.Context, sql string, args ...any) (all []string, err error) {
	err = s.ask(ctx, func(c *pgx.Conn) error {
		rows, err := c.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return all, err
}

// prepared lists the prepared names of ours that are left in this database.
func (s *side) prepared(ctx context.Context) ([]string, error) {
	return s.list(ctx, `SELECT gid FROM pg_prepared_xacts WHERE database = current_database()
		AND starts_with(gid, $1) AND gid <> ALL (coalesce($2::text[], '{}'))`,
		txn.NamePrefix, s.decoys)
}

// markers lists the transactions whose commit was decided here and is not ended in the log.
func (s *side) markers(ctx context.Context) ([]string, error) {
	if !s.marks {
		return nil, nil
	}
	return s.list(ctx, "SELECT 'marker of ' || txid FROM gavel.marker WHERE decision IS NOT NULL")
}

// trail is what the database knows of its counter.
func (s *side) trail(ctx context.Context) (t crash.Trail, err error) {
	err = s.ask(ctx, func(c *pgx.Conn) error {
		found, err := c.Query(ctx, "SELECT n, value FROM trail ORDER BY value, n")
		if err != nil {
			return err
		}
		if t.Marks, err = pgx.CollectRows(found, pgx.RowToStructByPos[crash.Mark]); err != nil {
			return err
		}
		return c.QueryRow(ctx, "SELECT value FROM counter").Scan(&t.Counter)
	})
	return t, err
}

// row is one row of a ledger.
type row = crash.Row

// rows are the rows of transfers from a number on.
func (s *side) rows(ctx context.Context, from int64) (all []row, err error) {
	err = s.ask(ctx, func(c *pgx.Conn) error {
		found, err := c.Query(ctx, "SELECT n, amount FROM ledger WHERE n >= $1", from)
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(found, pgx.RowToStructByPos[row])
		return err
	})
	return all, err
}

func (s *side) sum(ctx context.Context) (sum int64, err error) {
	err = s.ask(ctx, func(c *pgx.Conn) error {
		return c.QueryRow(ctx, "SELECT sum(balance)::bigint FROM account").Scan(&sum)
	})
	return sum, err
}

// killBackend kills one backend that serves the resource, or, while the coordinator has none, one
// of the teller. It returns when the server has begun to recover: all its sessions are gone, the
// test's own too, which is how one knows.
func (s *side) killBackend(ctx context.Context, rng *rand.Rand) (int, error) {
	for {
		pids, err := s.backends(ctx)
		if err != nil {
			return 0, err
		}
		// A session may end by itself meanwhile; then another one is looked for.
		if len(pids) > 0 {
			pid := pids[rng.IntN(len(pids))]
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				if lost, err := s.awaitLoss(ctx, pid); lost || err != nil {
					return pid, err
				}
			}
		}
	}
}

func (s *side) backends(ctx context.Context) (pids []int, err error) {
	err = s.ask(ctx, func(c *pgx.Conn) error {
		rows, err := c.Query(ctx, `SELECT pid FROM (
			SELECT pid, rank() OVER (ORDER BY application_name NOT LIKE 'gavel%')
			FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid()
				AND backend_type = 'client backend') AS serving WHERE rank = 1 ORDER BY pid`)
		if err != nil {
			return err
		}
		pids, err = pgx.CollectRows(rows, pgx.RowTo[int])
		return err
	})
	return pids, err
}

// awaitLoss asks until the server ends the connection. One that was killed stays in the list until
// the server recovers. If it is not there any more, it had ended by itself a moment before, and the
// signal has met its remains: then nothing is lost, and the server goes on.
func (s *side) awaitLoss(ctx context.Context, pid int) (lost bool, err error) {
	tick := time.NewTicker(again)
	defer tick.Stop()
	for {
		var there bool
		err := s.conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)",
			pid).Scan(&there)
		switch {
		case ctx.Err() != nil:
			return false, ctx.Err()
		case s.conn.IsClosed():
			return true, nil
		case err != nil || !there:
			return false, err
		}
		<-tick.C
	}
}

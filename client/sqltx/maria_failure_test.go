package sqltx_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	driversql "github.com/go-sql-driver/mysql"

	"github.com/gavel-tx/gavel/client/sqltx"
)

// wrong is what goes wrong in a branch while everybody ignores it, and what is heard of it then.
type wrong struct {
	work func(context.Context)
	is   error
	code string
	say  string
}

// rollsBack: whatever goes wrong, no branch commits.
func (s *shop) rollsBack(cases map[string]wrong) {
	for name, c := range cases {
		s.t.Run(name, func(t *testing.T) {
			err := s.client.InTx(t.Context(), func(ctx context.Context) error {
				if err := s.buy(ctx); err != nil {
					return err
				}
				c.work(ctx)
				return nil
			})
			a := wantAborted(t, err)
			if c.is != nil && !errors.Is(err, c.is) || a.SQLState != c.code ||
				!strings.Contains(err.Error(), c.say) {
				t.Errorf("state %q: %v", a.SQLState, err)
			}
			if n := s.goods.Stats().InUse; n != 0 {
				t.Errorf("%d connections are not back", n)
			}
		})
	}
	s.want(100, 100)
}

func TestMariaStatementFails(t *testing.T) {
	s := newShop(t, func(c *driversql.Config) { c.MultiStatements = true })
	exec := func(text string, args ...any) func(context.Context) {
		return func(ctx context.Context) { _, _ = s.stock.ExecContext(ctx, text, args...) }
	}
	const advice = "before or after"
	s.rollsBack(map[string]wrong{
		"an error of the server":   {exec(take, 500), nil, "23000", "CONSTRAINT"},
		"an error of the driver":   {exec(take, struct{}{}), nil, "", "unsupported type"},
		"a COMMIT":                 {exec(`COMMIT`), sqltx.ErrControl, "", "COMMIT was not sent"},
		"a branch":                 {exec(`XA END 'x'`), sqltx.ErrControl, "", "XA was not sent"},
		"a COMMIT behind":          {exec(`DO 1; COMMIT`), nil, "XAE07", advice},
		"a table":                  {exec(`CREATE TABLE t (i INT)`), nil, "XAE07", advice},
		"a lock":                   {exec(`LOCK TABLES goods READ`), nil, "XAE07", advice},
		"another database":         {exec(`USE other`), nil, "", "leave USE out"},
		"a session that is gone":   {exec(`KILL CONNECTION_ID()`), nil, "70100", "killed"},
		"a statement that is gone": {exec(`KILL QUERY CONNECTION_ID()`), nil, "70100", ""},
	})
}

func TestMariaRowsFail(t *testing.T) {
	s := newShop(t, func(c *driversql.Config) { c.MultiStatements = true })
	s.rollsBack(map[string]wrong{
		"an error of a query": {func(ctx context.Context) {
			_, _ = s.stock.QueryContext(ctx, `SELECT 1 FROM nowhere`)
		}, nil, "42S02", "nowhere"},
		"an error of a row": {func(ctx context.Context) {
			_ = s.stock.QueryRowContext(ctx, `SELECT fails(?)`, 2)
		}, nil, "45000", "one too many"},
		"an error behind a row": {func(ctx context.Context) {
			rows, err := s.stock.QueryContext(ctx, `SELECT fails(seq) FROM seq_1_to_3`)
			if err != nil || !rows.Next() {
				t.Error("no first row", err)
			}
			for rows.Next() {
			}
		}, nil, "45000", "one too many"},
		"an error of rows that are closed": {func(ctx context.Context) {
			rows, err := s.stock.QueryContext(ctx, `SELECT fails(seq) FROM seq_1_to_3`)
			if err != nil {
				t.Error("no first row", err)
			}
			_ = rows.Close()
		}, nil, "45000", "one too many"},
		"an error of the second result": {func(ctx context.Context) {
			rows, err := s.stock.QueryContext(ctx, `SELECT 1; SELECT fails(2)`)
			if err != nil || !rows.Next() || rows.Next() {
				t.Error("not one row", err)
			}
			if rows.NextResultSet() && rows.Next() {
				t.Error("a second result")
			}
			_ = rows.Close()
		}, nil, "45000", "one too many"},
		"two at once": {func(ctx context.Context) {
			rows, err := s.stock.QueryContext(ctx, series)
			_, second := s.stock.ExecContext(ctx, take, 30)
			if err != nil || !errors.Is(second, sqltx.ErrBusy) {
				t.Errorf("beside open rows: %v, %v", err, second)
			}
			if err := rows.Close(); err != nil {
				t.Error(err)
			}
		}, sqltx.ErrBusy, "", ""},
		"open rows": {func(ctx context.Context) {
			if _, err := s.stock.QueryContext(ctx, series); err != nil {
				t.Error(err)
			}
		}, nil, "", "close them"},
		"open rows of a context that never ends": {func(ctx context.Context) {
			_, err := s.stock.QueryContext(context.WithoutCancel(ctx), series)
			if err != nil {
				t.Error(err)
			}
		}, nil, "", "close them"},
	})
}

// TestMariaStraggler: a goroutine that the function forgot holds nothing up.
func TestMariaStraggler(t *testing.T) {
	s := newShop(t)
	for _, query := range []bool{false, true} {
		done := make(chan error, 1)
		err := s.client.InTx(t.Context(), func(ctx context.Context) error {
			if err := s.buy(ctx); err != nil {
				return err
			}
			arg := onceStarting{started: make(chan struct{}), once: new(sync.Once)}
			go func() {
				var err error
				if query {
					_, err = s.stock.QueryContext(ctx, `SELECT SLEEP(?)`, arg)
				} else {
					_, err = s.stock.ExecContext(ctx, `DO SLEEP(?)`, arg)
				}
				done <- err
			}()
			<-arg.started
			return nil
		})
		wantAborted(t, err)
		if err := <-done; err == nil {
			t.Error("the straggler was not cut off")
		}
	}
	s.killSleepers()
	s.want(100, 100)
}

// onceStarting is an argument of a minute that says when it is used.
type onceStarting struct {
	started chan struct{}
	once    *sync.Once
}

func (s onceStarting) Value() (driver.Value, error) {
	s.once.Do(func() { close(s.started) })
	return float64(60), nil
}

// killSleepers ends the sessions that sleep on: MariaDB does not notice before that their
// connections have ended, and their branches keep their locks.
func (s *shop) killSleepers() {
	s.t.Helper()
	root, err := sql.Open("mysql", maria.DSN("root", ""))
	if err != nil {
		s.t.Fatal(err)
	}
	defer root.Close()
	var ids []string
	rows, err := root.Query(`SELECT id FROM information_schema.processlist
		WHERE user = 'app' AND state = 'User sleep'`)
	if err != nil {
		s.t.Fatal(err)
	}
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			s.t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		s.t.Fatal(err)
	}
	for _, id := range ids {
		if _, err := root.Exec(`KILL CONNECTION ` + id); err != nil {
			s.t.Log(err) // it has ended by itself
		}
	}
}

// TestMariaContextEnds: while a statement runs, and while rows are read.
func TestMariaContextEnds(t *testing.T) {
	s := newShop(t)
	for name, wait := range map[string]func(context.Context) error{
		"a statement": func(ctx context.Context) error {
			_, err := s.stock.ExecContext(ctx, `DO SLEEP(60)`)
			return err
		},
		"rows": func(ctx context.Context) error {
			rows, err := s.stock.QueryContext(ctx,
				`SELECT IF(seq < 50000, seq, SLEEP(60)) FROM seq_1_to_60000`)
			if err != nil {
				return err
			}
			for rows.Next() {
			}
			return rows.Err()
		},
		"rows that nobody reads": func(ctx context.Context) error {
			_, err := s.stock.QueryContext(ctx,
				`SELECT IF(seq < 50000, seq, SLEEP(60)) FROM seq_1_to_60000`)
			<-ctx.Done()
			return err
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		late := time.AfterFunc(100*time.Millisecond, cancel)
		err := s.client.InTx(ctx, func(ctx context.Context) error {
			if err := s.buy(ctx); err != nil {
				return err
			}
			if err := wait(ctx); err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", name, err)
			}
			return nil
		})
		late.Stop()
		cancel()
		if wantAborted(t, err); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.killSleepers()
	s.want(100, 100)
}

// lossy loses a pool's connection at the statement that prepares: before it is sent, or with its
// answer.
func lossy(delivered bool, happens *atomic.Bool) func(*driversql.Config) {
	return func(c *driversql.Config) {
		c.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			return &cut{Conn: conn, text: "XA PREPARE", delivered: delivered, happens: happens}, err
		}
	}
}

// TestMariaLostAnswer: of an XA PREPARE that may have arrived the vote is unknown, and the
// coordinator asks the database.
func TestMariaLostAnswer(t *testing.T) {
	for _, delivered := range []bool{false, true} {
		var happens atomic.Bool
		s := newShop(t, lossy(delivered, &happens))
		happens.Store(true)
		err := s.client.InTx(t.Context(), s.buy)
		if happens.Load() {
			t.Error("nothing was lost")
		}
		if err == nil {
			s.want(70, 70)
			continue
		}
		wantAborted(t, err)
		s.want(100, 100)
	}
}

// TestMariaPanicGoesOn, and holds nothing up.
func TestMariaPanicGoesOn(t *testing.T) {
	s := newShop(t)
	for name, f := range map[string]func(context.Context){
		"exec":  func(ctx context.Context) { _, _ = s.stock.ExecContext(ctx, take, panicking{}) },
		"query": func(ctx context.Context) { _, _ = s.stock.QueryContext(ctx, take, panicking{}) },
		"row":   func(ctx context.Context) { s.stock.QueryRowContext(ctx, take, panicking{}) },
		"its own": func(ctx context.Context) {
			_, _ = s.stock.ExecContext(ctx, take, 30)
			panic("no value")
		},
	} {
		func() {
			defer func() {
				if p := recover(); p != "no value" {
					t.Errorf("%s: recovered %v", name, p)
				}
			}()
			err := s.client.InTx(context.Background(), func(ctx context.Context) error {
				f(ctx)
				return nil
			})
			t.Errorf("%s: %v", name, err)
		}()
		err := s.client.InTx(context.Background(), func(ctx context.Context) error {
			defer func() { _ = recover() }()
			f(ctx)
			return nil
		})
		if name == "its own" {
			continue // nothing failed at the database
		}
		wantAborted(t, err)
	}
	s.want(100, 70)
}

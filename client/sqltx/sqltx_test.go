package sqltx_test

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/gaveltest"
	"github.com/gavel-tx/gavel/client/sqltx"
	"github.com/gavel-tx/gavel/participant/postgres"
	"github.com/gavel-tx/gavel/txn"
)

const (
	debit  = `UPDATE acct SET bal = bal - $1 WHERE id = 'alice'`
	credit = `UPDATE acct SET bal = bal + $1 WHERE id = 'bob'`
)

var errPoor = errors.New("balance too low")

// dbtx is what code that sqlc has generated demands.
type dbtx interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
	PrepareContext(context.Context, string) (*sql.Stmt, error)
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	QueryRowContext(context.Context, string, ...any) *sql.Row
}

var _ dbtx = (*sqltx.DB)(nil)

// bank is two databases, alice's account in one and bob's in the other.
type bank struct {
	*gaveltest.Gavel
	t      *testing.T
	client *client.Client
	pools  [2]*sql.DB
	a, b   *sqltx.DB
}

func newBank(t *testing.T, change ...func(*pgx.ConnConfig)) *bank {
	t.Helper()
	b := &bank{t: t}
	var resources []gaveltest.Resource
	for i, s := range srvs {
		if err := s.Exec(t.Context(), "postgres", `TRUNCATE acct, once;
			INSERT INTO acct VALUES ('`+[]string{"alice", "bob"}[i]+`', 100)`); err != nil {
			t.Fatal(err)
		}
		cfg, err := pgx.ParseConfig(s.DSN("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range change {
			f(cfg)
		}
		b.pools[i] = stdlib.OpenDB(*cfg)
		b.atEnd(b.pools[i].Close)
		r, err := postgres.Open(t.Context(), postgres.Config{Name: s.Name(),
			DSN: s.DSN("postgres"), OwnerRole: "gavel_owner"})
		if err != nil {
			t.Fatal(err)
		}
		b.atEnd(r.Close)
		resources = append(resources, gaveltest.Of(s.Name(), r))
	}
	b.a = sqltx.New("bank_a", b.pools[0], sqltx.PostgreSQL, sqltx.OwnerRole("gavel_owner"))
	b.b = sqltx.New("bank_b", b.pools[1], sqltx.PostgreSQL, sqltx.OwnerRole("gavel_owner"))
	b.Gavel = gaveltest.New(t, resources...)
	b.client = client.New(b)
	return b
}

func (b *bank) atEnd(f func() error) {
	b.t.Cleanup(func() {
		if err := f(); err != nil {
			b.t.Error(err)
		}
	})
}

func (b *bank) pay(ctx context.Context) error {
	if _, err := b.a.ExecContext(ctx, debit, 30); err != nil {
		return err
	}
	_, err := b.b.ExecContext(ctx, credit, 30)
	return err
}

// want compares the books, when everything has ended. Every connection is back at its pool.
func (b *bank) want(alice, bob int) {
	b.t.Helper()
	b.Settle()
	var got [2]int
	for i, pool := range b.pools {
		err := pool.QueryRowContext(context.Background(), `SELECT bal FROM acct`).Scan(&got[i])
		if err != nil {
			b.t.Fatal(err)
		}
		if n := pool.Stats().InUse; n != 0 {
			b.t.Errorf("%d connections are not back", n)
		}
	}
	if got != [2]int{alice, bob} {
		b.t.Errorf("balances %v, want %d and %d", got, alice, bob)
	}
}

func wantAborted(t *testing.T, err error) *client.AbortedError {
	t.Helper()
	a, ok := errors.AsType[*client.AbortedError](err)
	if !ok {
		t.Fatalf("error %v, want an AbortedError", err)
	}
	return a
}

func TestCommit(t *testing.T) {
	b := newBank(t)
	var seen int
	err := b.client.InTx(t.Context(), func(ctx context.Context) error {
		if err := b.pay(ctx); err != nil {
			return err
		}
		return b.b.QueryRowContext(ctx, `SELECT bal FROM acct WHERE id = $1`, "bob").Scan(&seen)
	})
	if err != nil || seen != 130 {
		t.Errorf("saw %d: %v", seen, err)
	}
	b.want(70, 130)
}

// TestOneDatabase decides by itself.
func TestOneDatabase(t *testing.T) {
	b := newBank(t)
	var r txn.Result
	err := b.client.InTx(t.Context(), func(ctx context.Context) error {
		_, err := b.a.ExecContext(ctx, debit, 30)
		return err
	}, client.Report(&r))
	if err != nil || r.Plan != txn.PlanOnePhase {
		t.Errorf("%+v: %v", r, err)
	}
	b.want(70, 100)
	err = b.client.InTx(t.Context(), func(ctx context.Context) error {
		_, err := b.a.ExecContext(ctx, `INSERT INTO once VALUES (1), (1)`)
		return err
	})
	if a := wantAborted(t, err); a.SQLState != "23505" {
		t.Errorf("%+v", a)
	}
	b.want(70, 100)
}

// TestReader: a branch that wrote nothing just commits, and one database decides.
func TestReader(t *testing.T) {
	b := newBank(t)
	var r txn.Result
	err := b.client.InTx(t.Context(), func(ctx context.Context) error {
		var bal int
		err := b.b.QueryRowContext(ctx, `SELECT bal FROM acct`).Scan(&bal)
		_, second := b.a.ExecContext(ctx, debit, bal-70)
		return errors.Join(err, second)
	}, client.Report(&r))
	if err != nil || r.Plan != txn.PlanOnePhase {
		t.Errorf("%+v: %v", r, err)
	}
	b.want(70, 100)
}

// TestRollsBack: whatever goes wrong, and whoever ignores it, no branch commits.
func TestRollsBack(t *testing.T) {
	b := newBank(t)
	ignoring := func(f func(context.Context)) func(context.Context) error {
		return func(ctx context.Context) error {
			f(ctx)
			return nil
		}
	}
	for name, c := range map[string]struct {
		work func(context.Context) error
		is   error
		code string
	}{
		"an error": {func(ctx context.Context) error { return errors.Join(b.pay(ctx), errPoor) },
			errPoor, ""},
		"an ignored error of the server": {ignoring(func(ctx context.Context) {
			_, _ = b.b.ExecContext(ctx, credit, -500)
		}), nil, "23514"},
		"an ignored error of a query": {ignoring(func(ctx context.Context) {
			_, _ = b.b.QueryContext(ctx, `SELECT 1/0`)
		}), nil, "22012"},
		"an ignored error of a row": {ignoring(func(ctx context.Context) {
			_ = b.b.QueryRowContext(ctx, `SELECT 1/$1::int`, 0).Err()
		}), nil, "22012"},
		"an ignored error of the driver": {ignoring(func(ctx context.Context) {
			_, _ = b.b.ExecContext(ctx, credit, struct{}{})
		}), nil, ""},
		"a COMMIT": {ignoring(func(ctx context.Context) {
			_, _ = b.b.ExecContext(ctx, `COMMIT`)
		}), sqltx.ErrControl, ""},
		"two at once": {ignoring(func(ctx context.Context) {
			rows, err := b.b.QueryContext(ctx, `SELECT generate_series(1, 100000)`)
			_, second := b.b.ExecContext(ctx, credit, 30)
			if err != nil || !errors.Is(second, sqltx.ErrBusy) {
				t.Errorf("beside open rows: %v, %v", err, second)
			}
			if err := rows.Close(); err != nil {
				t.Error(err)
			}
		}), sqltx.ErrBusy, ""},
		"open rows": {ignoring(func(ctx context.Context) {
			_, err := b.b.QueryContext(ctx, `SELECT generate_series(1, 100000)`)
			if err != nil {
				t.Error(err)
			}
		}), nil, ""},
		"a session that is gone": {ignoring(func(ctx context.Context) {
			_, _ = b.b.ExecContext(ctx, `SELECT pg_terminate_backend(pg_backend_pid())`)
		}), nil, "57P01"},
	} {
		t.Run(name, func(t *testing.T) {
			err := b.client.InTx(t.Context(), func(ctx context.Context) error {
				if _, err := b.a.ExecContext(ctx, debit, 30); err != nil {
					return err
				}
				return c.work(ctx)
			})
			a := wantAborted(t, err)
			if c.is != nil && !errors.Is(err, c.is) || a.SQLState != c.code {
				t.Errorf("%+v: %v", a, err)
			}
		})
	}
	b.want(100, 100)
}

// TestTextThatEndsTheBranch: what it did by then stays, and everything else rolls back.
func TestTextThatEndsTheBranch(t *testing.T) {
	b := newBank(t)
	err := b.client.InTx(t.Context(), func(ctx context.Context) error {
		_, _ = b.a.ExecContext(ctx, debit, 30)
		_, _ = b.b.ExecContext(ctx, `UPDATE acct SET bal = 1; COMMIT`)
		_, err := b.b.ExecContext(ctx, `UPDATE acct SET bal = 2`)
		return err
	})
	if wantAborted(t, err); !errors.Is(err, sqltx.ErrEnded) {
		t.Error(err)
	}
	b.want(100, 1)
}

// TestAStragglerIsCutOff: a goroutine that the function forgot holds nothing up.
func TestAStragglerIsCutOff(t *testing.T) {
	b := newBank(t)
	done := make(chan error, 1)
	err := b.client.InTx(t.Context(), func(ctx context.Context) error {
		if _, err := b.a.ExecContext(ctx, debit, 30); err != nil {
			return err
		}
		started := make(chan struct{})
		go func() {
			_, err := b.a.ExecContext(ctx, `SELECT pg_sleep($1)`, starting{started})
			done <- err
		}()
		<-started
		return nil
	})
	wantAborted(t, err)
	if err := <-done; err == nil {
		t.Error("the straggler was not cut off")
	}
	b.want(100, 100)
}

// starting is an argument of a minute that says when it is used.
type starting struct{ used chan struct{} }

func (s starting) Value() (driver.Value, error) {
	close(s.used)
	return float64(60), nil
}

// cut loses a pool's connection when it is to carry a text: before it is sent, or with its answer.
type cut struct {
	net.Conn
	text      string
	delivered bool
	happens   *atomic.Bool
	lost      atomic.Bool
}

func (c *cut) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte(c.text)) && c.happens.CompareAndSwap(true, false) {
		if !c.delivered {
			c.Close()
			return 0, net.ErrClosed
		}
		c.lost.Store(true)
	}
	return c.Conn.Write(b)
}

func (c *cut) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.lost.Load() {
		c.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

// TestALostAnswer: of a COMMIT it is asked for, and of a PREPARE the vote is unknown.
func TestALostAnswer(t *testing.T) {
	for _, text := range []string{"commit", "PREPARE TRANSACTION"} {
		for _, delivered := range []bool{false, true} {
			var happens atomic.Bool
			b := newBank(t, func(cfg *pgx.ConnConfig) {
				dial := cfg.DialFunc
				cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
					conn, err := dial(ctx, network, addr)
					return &cut{Conn: conn, text: text, delivered: delivered,
						happens: &happens}, err
				}
			})
			happens.Store(true)
			alone := text == "commit"
			err := b.client.InTx(t.Context(), func(ctx context.Context) error {
				if alone {
					_, err := b.a.ExecContext(ctx, debit, 30)
					return err
				}
				return b.pay(ctx)
			})
			alice, bob := 100, 100
			switch {
			case !delivered:
				wantAborted(t, err)
			case alone:
				alice = 70
			default:
				alice, bob = 70, 130
			}
			if delivered && err != nil {
				t.Errorf("%s: %v", text, err)
			}
			b.want(alice, bob)
		}
	}
}

// TestOutside of a transaction nothing is done, unless the DB says so.
func TestOutside(t *testing.T) {
	b := newBank(t)
	var n int
	_, exec := b.a.ExecContext(t.Context(), debit, 30)
	_, query := b.a.QueryContext(t.Context(), `SELECT 1`)
	_, prepare := b.a.PrepareContext(t.Context(), `SELECT 1`)
	row := b.a.QueryRowContext(t.Context(), `SELECT 1`).Scan(&n)
	for _, err := range []error{exec, query, prepare, row} {
		if !errors.Is(err, client.ErrNoTransaction) {
			t.Error(err)
		}
	}
	auto := sqltx.New("bank_a", b.pools[0], sqltx.PostgreSQL, sqltx.AllowAutocommit())
	if _, err := auto.ExecContext(t.Context(), debit, 30); err != nil {
		t.Error(err)
	}
	if err := auto.QueryRowContext(t.Context(), `SELECT bal FROM acct`).Scan(&n); n != 70 {
		t.Error(n, err)
	}
	stmt, err := auto.PrepareContext(t.Context(), debit)
	if err != nil {
		t.Fatal(err)
	}
	if err := stmt.Close(); err != nil {
		t.Error(err)
	}
	var late context.Context
	if err := b.client.InTx(t.Context(), func(ctx context.Context) error {
		late = ctx
		if _, err := b.a.PrepareContext(ctx, debit); !errors.Is(err, sqltx.ErrPrepare) {
			t.Error(err)
		}
		return b.pay(ctx)
	}); err != nil {
		t.Error(err)
	}
	if err := b.pay(late); !errors.Is(err, client.ErrFinished) {
		t.Error(err)
	}
	b.want(40, 130)
}

// foreign is a connection of some other driver.
type foreign struct{ driver.Conn }

func (foreign) Close() error { return nil }

type foreigner struct{}

func (foreigner) Connect(context.Context) (driver.Conn, error) { return foreign{}, nil }
func (foreigner) Driver() driver.Driver                        { return nil }

// TestAnotherDriver: the error says which one is needed.
func TestAnotherDriver(t *testing.T) {
	b := newBank(t)
	pool := sql.OpenDB(foreigner{})
	b.atEnd(pool.Close)
	db := sqltx.New("bank_a", pool, sqltx.PostgreSQL)
	err := b.client.InTx(t.Context(), func(ctx context.Context) error {
		_, err := db.ExecContext(ctx, debit, 30)
		return err
	})
	if wantAborted(t, err); !strings.Contains(err.Error(), "pgx/v5/stdlib") {
		t.Error(err)
	}
	b.want(100, 100)
}

// TestASerializationFailure is worth another try.
func TestASerializationFailure(t *testing.T) {
	b := newBank(t)
	tries := 0
	err := b.client.InTx(t.Context(), func(ctx context.Context) error {
		if tries++; tries == 1 {
			return &pgconn.PgError{Code: "40001"}
		}
		return b.pay(ctx)
	}, client.Retry(1), client.Isolation(client.Serializable))
	if err != nil || tries != 2 {
		t.Errorf("%d tries: %v", tries, err)
	}
	b.want(70, 130)
}

// panicking is an argument that cannot be asked for.
type panicking struct{}

func (panicking) Value() (driver.Value, error) { panic("no value") }

// TestRowsThatNobodyCloses hold nothing up, whatever they hold.
func TestRowsThatNobodyCloses(t *testing.T) {
	b := newBank(t)
	for name, f := range map[string]func(context.Context) error{
		"a row without a scan": func(ctx context.Context) error {
			return b.b.QueryRowContext(ctx, `UPDATE acct SET bal = bal`).Err()
		},
		"an empty result": func(ctx context.Context) error {
			_, err := b.b.QueryContext(ctx, `SELECT 1 WHERE false`)
			return err
		},
		"a context that never ends": func(ctx context.Context) error {
			_, err := b.b.QueryContext(context.WithoutCancel(ctx), `SELECT 1 WHERE false`)
			return err
		},
	} {
		for _, both := range []bool{false, true} {
			err := b.client.InTx(context.Background(), func(ctx context.Context) error {
				if err := f(ctx); err != nil || !both {
					return err
				}
				_, err := b.a.ExecContext(ctx, debit, 0)
				return err
			})
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			b.want(100, 100)
		}
	}
	err := b.client.InTx(context.Background(), func(ctx context.Context) error {
		_, err := b.b.QueryContext(context.WithoutCancel(ctx), `SELECT generate_series(1, 100000)`)
		return err
	})
	wantAborted(t, err)
	b.want(100, 100)
}

// TestAPanicGoesOn, and holds nothing up.
func TestAPanicGoesOn(t *testing.T) {
	b := newBank(t)
	for name, f := range map[string]func(context.Context){
		"exec":  func(ctx context.Context) { _, _ = b.a.ExecContext(ctx, debit, panicking{}) },
		"query": func(ctx context.Context) { _, _ = b.a.QueryContext(ctx, debit, panicking{}) },
		"row":   func(ctx context.Context) { b.a.QueryRowContext(ctx, debit, panicking{}) },
		"its own": func(ctx context.Context) {
			_, _ = b.a.ExecContext(ctx, debit, 30)
			panic("no value")
		},
	} {
		func() {
			defer func() {
				if p := recover(); p != "no value" {
					t.Errorf("%s: recovered %v", name, p)
				}
			}()
			err := b.client.InTx(context.Background(), func(ctx context.Context) error {
				f(ctx)
				return nil
			})
			t.Errorf("%s: %v", name, err)
		}()
	}
	b.Settle()
}

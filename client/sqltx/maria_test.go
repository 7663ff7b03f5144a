package sqltx_test

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"testing"

	driversql "github.com/go-sql-driver/mysql"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/gaveltest"
	"github.com/gavel-tx/gavel/client/sqltx"
	"github.com/gavel-tx/gavel/participant/mysql"
	"github.com/gavel-tx/gavel/participant/postgres"
	"github.com/gavel-tx/gavel/txn"
)

const (
	take   = `UPDATE goods SET n = n - ? WHERE id = 'apples'`
	series = `SELECT seq FROM seq_1_to_100000`
)

// shop is two databases: the account of alice at PostgreSQL, and apples at MariaDB.
type shop struct {
	*gaveltest.Gavel
	t        *testing.T
	client   *client.Client
	payments *sql.DB
	goods    *sql.DB
	bank     *sqltx.DB
	stock    *sqltx.DB
}

func newShop(t *testing.T, change ...func(*driversql.Config)) *shop {
	t.Helper()
	s := &shop{t: t}
	account, err := postgres.Open(t.Context(), postgres.Config{Name: "bank_a",
		DSN: srvs[0].DSN("postgres"), OwnerRole: "gavel_owner"})
	if err != nil {
		t.Fatal(err)
	}
	s.atEnd(account.Close)
	adapter, err := mysql.Open(t.Context(), mysql.Config{Name: "stock",
		DSN: maria.DSN("gavel", "stock")})
	if err != nil {
		t.Fatal(err)
	}
	s.atEnd(adapter.Close)
	s.Gavel = gaveltest.New(t, gaveltest.Of("bank_a", account), gaveltest.Of("stock", adapter))
	s.client = client.New(s)
	if s.payments, err = sql.Open("pgx", srvs[0].DSN("postgres")); err != nil {
		t.Fatal(err)
	}
	s.atEnd(s.payments.Close)
	s.goods = openMaria(t, change...)
	s.bank = sqltx.New("bank_a", s.payments, sqltx.PostgreSQL, sqltx.OwnerRole("gavel_owner"))
	s.stock = sqltx.New("stock", s.goods, sqltx.MariaDB)
	if err := srvs[0].Exec(t.Context(), "postgres", `TRUNCATE acct, once;
		INSERT INTO acct VALUES ('alice', 100)`); err != nil {
		t.Fatal(err)
	}
	if err := maria.Exec(t.Context(), `DELETE FROM stock.goods`,
		`INSERT INTO stock.goods VALUES ('apples', 100)`); err != nil {
		t.Fatal(err)
	}
	return s
}

func openMaria(t *testing.T, change ...func(*driversql.Config)) *sql.DB {
	t.Helper()
	c, err := driversql.ParseDSN(maria.DSN("app", "stock"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(c)
	}
	k, err := driversql.NewConnector(c)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(k)
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func (s *shop) atEnd(f func() error) {
	s.t.Cleanup(func() {
		if err := f(); err != nil {
			s.t.Error(err)
		}
	})
}

// buy pays 30 for 30 apples.
func (s *shop) buy(ctx context.Context) error {
	if _, err := s.bank.ExecContext(ctx, debit, 30); err != nil {
		return err
	}
	_, err := s.stock.ExecContext(ctx, take, 30)
	return err
}

// want compares the books, when everything has ended. Every connection is back at its pool.
func (s *shop) want(alice, apples int) {
	s.t.Helper()
	s.Settle()
	var got [2]int
	err := errors.Join(
		s.payments.QueryRow(`SELECT bal FROM acct`).Scan(&got[0]),
		s.goods.QueryRow(`SELECT n FROM goods FOR UPDATE`).Scan(&got[1]))
	if err != nil {
		s.t.Fatal(err)
	}
	if got != [2]int{alice, apples} {
		s.t.Errorf("balance and apples %v, want %d and %d", got, alice, apples)
	}
	for _, pool := range []*sql.DB{s.payments, s.goods} {
		if n := pool.Stats().InUse; n != 0 {
			s.t.Errorf("%d connections are not back", n)
		}
	}
}

// rows counts the rows of branches at the server.
func (s *shop) rows() (n int) {
	s.t.Helper()
	if err := s.goods.QueryRow(`SELECT COUNT(*) FROM gavel.branch`).Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

func TestMariaCommits(t *testing.T) {
	for _, one := range []bool{false, true} {
		s := newShop(t, func(c *driversql.Config) { c.InterpolateParams = one })
		s.goods.SetMaxOpenConns(1)
		for i := range 3 {
			var seen, other int
			err := s.client.InTx(t.Context(), func(ctx context.Context) error {
				if err := s.buy(ctx); err != nil {
					return err
				}
				rows, err := s.stock.QueryContext(ctx, `SELECT n FROM goods WHERE id = ?
					UNION ALL SELECT 7`, "apples")
				if err != nil {
					return err
				}
				for _, into := range []*int{&seen, &other} {
					if !rows.Next() {
						t.Error("a row is missing")
					}
					if err := rows.Scan(into); err != nil {
						t.Error(err)
					}
				}
				if rows.Next() {
					t.Error("a row too many")
				}
				return errors.Join(rows.Err(), rows.Close())
			})
			if err != nil || seen != 70-30*i || other != 7 {
				t.Errorf("saw %d and %d: %v", seen, other, err)
			}
			s.want(70-30*i, 70-30*i)
		}
	}
}

// TestMariaAlone: the coordinator decides, because the branch has its name from there.
func TestMariaAlone(t *testing.T) {
	s := newShop(t)
	var r txn.Result
	err := s.client.InTx(t.Context(), func(ctx context.Context) error {
		_, err := s.stock.ExecContext(ctx, take, 30)
		return err
	}, client.Report(&r))
	if err != nil || r.ID.IsZero() || r.Outcome != txn.OutcomeCommitted {
		t.Errorf("%+v: %v", r, err)
	}
	s.want(100, 70)
}

// TestMariaReader: a branch that was begun as one that only reads leaves nothing behind.
func TestMariaReader(t *testing.T) {
	s := newShop(t)
	before := s.rows()
	for _, both := range []bool{false, true} {
		err := s.client.InTx(t.Context(), func(ctx context.Context) error {
			var n, bal int
			if both {
				err := s.bank.QueryRowContext(ctx, `SELECT bal FROM acct`).Scan(&bal)
				if err != nil {
					return err
				}
			}
			if _, err := s.stock.ExecContext(ctx, `SET @seen = 1`); err != nil {
				return err
			}
			return s.stock.QueryRowContext(ctx, `SELECT n FROM goods`).Scan(&n)
		}, client.ReadOnly(), client.Isolation(client.RepeatableRead))
		if err != nil {
			t.Error(err)
		}
	}
	err := s.client.InTx(t.Context(), func(ctx context.Context) error {
		_, _ = s.stock.ExecContext(ctx, take, 30)
		return nil
	}, client.ReadOnly())
	if a := wantAborted(t, err); a.SQLState != "25006" {
		t.Errorf("%+v: %v", a, err)
	}
	if got := s.rows(); got != before {
		t.Errorf("%d rows of branches, and %d before", got, before)
	}
	s.want(100, 100)
}

// TestMariaUse: a branch that has left its database has read who knows what, and its connection is
// of no use to the next one.
func TestMariaUse(t *testing.T) {
	s := newShop(t)
	s.goods.SetMaxOpenConns(1)
	fails := errors.New("the function fails")
	for _, returns := range []error{nil, fails} {
		err := s.client.InTx(t.Context(), func(ctx context.Context) error {
			_, err := s.stock.ExecContext(ctx, `USE gavel`)
			return errors.Join(err, returns)
		}, client.ReadOnly())
		if returns == nil {
			wantAborted(t, err)
		}
		if returns != nil && !errors.Is(err, returns) || returns == nil &&
			!strings.Contains(err.Error(), "leave USE out") {
			t.Error(err)
		}
		var at string
		if err := s.goods.QueryRow(`SELECT DATABASE()`).Scan(&at); err != nil || at != "stock" {
			t.Errorf("the pool has a connection to %q: %v", at, err)
		}
	}
	if err := s.client.InTx(t.Context(), s.buy); err != nil {
		t.Error(err)
	}
}

// TestMariaLevel: at READ COMMITTED a branch sees what commits meanwhile, and by default it does
// not.
func TestMariaLevel(t *testing.T) {
	s := newShop(t)
	for level, want := range map[client.Level]int{"": 100, client.ReadCommitted: 90} {
		err := s.client.InTx(t.Context(), func(ctx context.Context) error {
			var n int
			row := func() error {
				return s.stock.QueryRowContext(ctx, `SELECT n FROM goods`).Scan(&n)
			}
			first := row()
			_, other := s.goods.ExecContext(ctx, `UPDATE goods SET n = 90`)
			if err := errors.Join(first, other, row()); err != nil || n != want {
				t.Errorf("%q: saw %d: %v", level, n, err)
			}
			return nil
		}, client.Isolation(level))
		if err != nil {
			t.Error(err)
		}
		if _, err := s.goods.Exec(`UPDATE goods SET n = 100`); err != nil {
			t.Fatal(err)
		}
	}
	s.want(100, 100)
}

// TestMariaSavepoint: what was rolled back to one is gone, and the rest commits.
func TestMariaSavepoint(t *testing.T) {
	s := newShop(t)
	err := s.client.InTx(t.Context(), func(ctx context.Context) error {
		for _, text := range []string{`SAVEPOINT s`, `UPDATE goods SET n = 1`,
			`ROLLBACK WORK TO SAVEPOINT s`, `BEGIN NOT ATOMIC UPDATE goods SET n = n - 1; END`,
			`CREATE TEMPORARY TABLE scratch (i INT)`, `INSERT INTO scratch VALUES (1)`,
			`UPDATE goods, scratch SET n = n - i`} {
			if _, err := s.stock.ExecContext(ctx, text); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	s.want(100, 98)
}

// TestMariaElsewhere: what is prepared is prepared in the database that is meant, or not at all.
func TestMariaElsewhere(t *testing.T) {
	s := newShop(t)
	s.stock = sqltx.New("stock", s.goods, sqltx.MariaDB,
		sqltx.Expect(txn.Identity{System: 1, Database: 1}))
	err := s.client.InTx(t.Context(), s.buy)
	if wantAborted(t, err); !strings.Contains(err.Error(), "correct the address") {
		t.Error(err)
	}
	s.want(100, 100)
}

// TestMariaKilledBefore: a session that ends before its PREPARE is a No of its branch, and all
// others roll back.
func TestMariaKilledBefore(t *testing.T) {
	s := newShop(t)
	err := s.client.InTx(t.Context(), func(ctx context.Context) error {
		if err := s.buy(ctx); err != nil {
			return err
		}
		var id string
		row := s.stock.QueryRowContext(ctx, `SELECT CONNECTION_ID()`)
		if err := row.Scan(&id); err != nil {
			return err
		}
		return maria.Exec(ctx, `KILL CONNECTION `+id)
	})
	a := wantAborted(t, err)
	if a.Resource != "stock" || a.Cause != txn.CauseVotedNo {
		t.Errorf("%+v", a)
	}
	s.want(100, 100)
}

// TestMariaLocked: a lock that is not to be had is worth another try, told or not.
func TestMariaLocked(t *testing.T) {
	s := newShop(t)
	for _, told := range []bool{true, false} {
		holder, err := s.goods.Begin()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := holder.Exec(take, 0); err != nil {
			t.Fatal(err)
		}
		tries := 0
		err = s.client.InTx(t.Context(), func(ctx context.Context) error {
			if tries++; tries == 2 {
				if err := holder.Rollback(); err != nil {
					return err
				}
			}
			_, err := s.stock.ExecContext(ctx, `SET STATEMENT innodb_lock_wait_timeout = 0 FOR `+
				`UPDATE goods SET n = n - 30`)
			if err != nil && !told {
				return nil
			}
			return err
		}, client.Retry(1))
		if err != nil || tries != 2 {
			t.Errorf("%d tries: %v", tries, err)
		}
	}
	s.want(100, 40)
}

// TestMariaRowsThatNobodyCloses hold nothing up if there is nothing in them.
func TestMariaRowsThatNobodyCloses(t *testing.T) {
	s := newShop(t)
	for name, f := range map[string]func(context.Context) error{
		"a row without a scan": func(ctx context.Context) error {
			return s.stock.QueryRowContext(ctx, `UPDATE goods SET n = n`).Err()
		},
		"an empty result": func(ctx context.Context) error {
			_, err := s.stock.QueryContext(ctx, `SELECT 1 FROM goods WHERE false`)
			return err
		},
		"a context that never ends": func(ctx context.Context) error {
			_, err := s.stock.QueryContext(context.WithoutCancel(ctx),
				`SELECT 1 FROM goods WHERE ?`, false)
			return err
		},
	} {
		err := s.client.InTx(context.Background(), func(ctx context.Context) error {
			if err := f(ctx); err != nil {
				return err
			}
			_, err := s.stock.ExecContext(ctx, take, 0)
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		s.want(100, 100)
	}
}

// TestMariaRowsAfterTheEnd are an error, and no rows of somebody else.
func TestMariaRowsAfterTheEnd(t *testing.T) {
	s := newShop(t)
	var rows *sql.Rows
	err := s.client.InTx(t.Context(), func(ctx context.Context) (err error) {
		rows, err = s.stock.QueryContext(context.WithoutCancel(ctx), series)
		return errors.Join(err, errPoor)
	})
	if !errors.Is(err, errPoor) {
		t.Error(err)
	}
	n := 0
	for rows.Next() {
		n++
	}
	if rows.Err() == nil || n > 1 {
		t.Errorf("%d rows: %v", n, rows.Err())
	}
	s.want(100, 100)
}

// TestMariaRowsTellTheirColumns: what the driver knows of them comes through.
func TestMariaRowsTellTheirColumns(t *testing.T) {
	s := newShop(t, func(c *driversql.Config) { c.MultiStatements = true })
	err := s.client.InTx(t.Context(), func(ctx context.Context) error {
		rows, err := s.stock.QueryContext(ctx, `SELECT id, n FROM goods; SELECT 5 AS five`)
		if err != nil {
			return err
		}
		defer rows.Close()
		types, err := rows.ColumnTypes()
		if err != nil || len(types) != 2 || types[0].DatabaseTypeName() != "VARCHAR" {
			t.Errorf("columns %v: %v", types, err)
		}
		var id, n string
		if !rows.Next() || rows.Scan(&id, &n) != nil || id != "apples" || n != "100" ||
			rows.Next() {
			t.Errorf("first result: %s %s", id, n)
		}
		columns := []string{}
		if rows.NextResultSet() {
			columns, err = rows.Columns()
		}
		if err != nil || !slices.Equal(columns, []string{"five"}) || !rows.Next() ||
			rows.Scan(&n) != nil || n != "5" || rows.Next() || rows.NextResultSet() {
			t.Errorf("second result: %v, %s: %v", columns, n, err)
		}
		return rows.Err()
	})
	if err != nil {
		t.Error(err)
	}
	s.want(100, 100)
}

// TestMariaOutside of a transaction nothing is done, unless the DB says so.
func TestMariaOutside(t *testing.T) {
	s := newShop(t)
	if _, err := s.stock.ExecContext(t.Context(), take, 30); !errors.Is(err,
		client.ErrNoTransaction) {
		t.Error(err)
	}
	auto := sqltx.New("stock", s.goods, sqltx.MariaDB, sqltx.AllowAutocommit())
	if _, err := auto.ExecContext(t.Context(), take, 30); err != nil {
		t.Error(err)
	}
	var late context.Context
	err := s.client.InTx(t.Context(), func(ctx context.Context) error {
		late = ctx
		if _, err := s.stock.PrepareContext(ctx, take); !errors.Is(err, sqltx.ErrPrepare) {
			t.Error(err)
		}
		return s.buy(ctx)
	})
	if err != nil {
		t.Error(err)
	}
	if err := s.buy(late); !errors.Is(err, client.ErrFinished) {
		t.Error(err)
	}
	s.want(70, 40)
}

// TestMariaDriver: the error says which one is needed.
func TestMariaDriver(t *testing.T) {
	s := newShop(t)
	db := sqltx.New("stock", s.payments, sqltx.MariaDB)
	err := s.client.InTx(t.Context(), func(ctx context.Context) error {
		_, err := db.ExecContext(ctx, take, 30)
		return err
	})
	if wantAborted(t, err); !strings.Contains(err.Error(), "go-sql-driver/mysql") {
		t.Error(err)
	}
	s.want(100, 100)
}

package pgxtx_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
)

// The two tests of this file each run a careless handler twice: by the pattern that is widespread,
// to show that the books do not balance then, and by this package.

// credits is a handler that credits bob and ignores that its entry in a list of events is a
// duplicate.
func credits(ctx context.Context, db statements) error {
	if _, err := db.Exec(ctx, credit, 30); err != nil {
		return err
	}
	_, _ = db.Exec(ctx, `INSERT INTO acct (id, bal) VALUES ('bob', 0)`)
	return nil
}

type statements interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func TestAnIgnoredErrorLosesNoMoney(t *testing.T) {
	bk := newBank(t)
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		if _, err := bk.a.Exec(ctx, debit, 30); err != nil {
			return err
		}
		return credits(ctx, bk.b)
	})
	e := wantAborted(t, err)
	if e.Resource != "bank_b" || e.SQLState != "23505" {
		t.Errorf("%+v", e)
	}
	if _, ok := errors.AsType[*pgconn.PgError](err); !ok {
		t.Errorf("%v does not wrap the error that was ignored", err)
	}
	bk.want(100, 100)
}

func TestAnIgnoredErrorLosesMoneyByTheNaivePattern(t *testing.T) {
	bk := newBank(t)
	ctx := t.Context()
	a, b := naiveBegin(t, srvA), naiveBegin(t, srvB)
	if _, err := a.Exec(ctx, debit, 30); err != nil {
		t.Fatal(err)
	}
	if err := credits(ctx, b); err != nil {
		t.Fatal(err)
	}
	// A PREPARE of a failed transaction is answered without an error, by the tag ROLLBACK.
	naivePrepare(t, a, "naive a")
	naivePrepare(t, b, "naive b")
	naiveCommit(t, a, "naive a")
	naiveCommit(t, b, "naive b")
	bk.want(70, 100)
}

func naiveBegin(t *testing.T, s *pghost.Server) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	if _, err := conn.Exec(t.Context(), `BEGIN`); err != nil {
		t.Fatal(err)
	}
	return conn
}

// naivePrepare looks at the error alone.
func naivePrepare(t *testing.T, conn *pgx.Conn, name string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), `PREPARE TRANSACTION '`+name+`'`); err != nil {
		t.Fatal(err)
	}
}

// naiveCommit takes "does not exist" for "committed already".
func naiveCommit(t *testing.T, conn *pgx.Conn, name string) {
	t.Helper()
	_, err := conn.Exec(t.Context(), `COMMIT PREPARED '`+name+`'`)
	if pg, ok := errors.AsType[*pgconn.PgError](err); err != nil && (!ok || pg.Code != "42704") {
		t.Fatal(err)
	}
}

// creditsEach credits every account that a query finds, while its rows are still open, and gives up
// after that, so that the whole transaction rolls back.
func creditsEach(ctx context.Context, db statements) error {
	rows, err := db.Query(ctx, `SELECT id FROM acct WHERE id = 'bob'`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		_, _ = db.Exec(ctx, credit, 30)
	}
	return errPoor
}

var errPoor = errors.New("balance too low")

func TestAWriteBesideOpenRowsInventsNoMoney(t *testing.T) {
	bk := newBank(t)
	for name, swallow := range map[string]bool{"error returned": false, "error swallowed": true} {
		err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
			if _, err := bk.a.Exec(ctx, debit, 30); err != nil {
				return err
			}
			if err := creditsEach(ctx, bk.b); !swallow {
				return err
			}
			return nil
		})
		wantAborted(t, err)
		if swallow != errors.Is(err, pgxtx.ErrBusy) {
			t.Errorf("%s: %v", name, err)
		}
		bk.want(100, 100)
	}
}

func TestAWriteBesideOpenRowsInventsMoneyByTheNaivePattern(t *testing.T) {
	bk := newBank(t)
	branch := &naivePool{pool: bk.poolB, conn: naiveBegin(t, srvB)}
	if err := creditsEach(t.Context(), branch); err == nil {
		t.Fatal("the handler did not fail")
	}
	if _, err := branch.conn.Exec(t.Context(), `ROLLBACK`); err != nil {
		t.Fatal(err)
	}
	bk.want(100, 130)
}

// naivePool does what a pool in the place of a session does: a statement goes to the connection of
// the branch if that is free, and to another one, outside of the branch, if it is not.
type naivePool struct {
	pool *pgxpool.Pool
	conn *pgx.Conn
}

func (p *naivePool) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if p.conn.PgConn().IsBusy() {
		return p.pool.Exec(ctx, sql, args...)
	}
	return p.conn.Exec(ctx, sql, args...)
}

func (p *naivePool) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return p.conn.Query(ctx, sql, args...)
}

func TestRowsThatWereReadFirstAreNoObstacle(t *testing.T) {
	bk := newBank(t)
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		rows, err := bk.b.Query(ctx, `SELECT id FROM acct ORDER BY id`)
		if err != nil {
			return err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		for _, id := range ids {
			_, err := bk.b.Exec(ctx, `UPDATE acct SET bal = bal + 1 WHERE id = $1`, id)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	bk.want(100, 101)
}

// What is left open at the end is a statement whose result nobody has seen.
func TestWhatIsLeftOpenRollsBack(t *testing.T) {
	for name, leave := range map[string]func(context.Context, *pgxtx.DB){
		"rows":       func(ctx context.Context, db *pgxtx.DB) { _, _ = db.Query(ctx, `SELECT 1`) },
		"a row":      func(ctx context.Context, db *pgxtx.DB) { db.QueryRow(ctx, `SELECT 1`) },
		"many rows":  func(ctx context.Context, db *pgxtx.DB) { readOne(ctx, db) },
		"no results": func(ctx context.Context, db *pgxtx.DB) { sendBatch(ctx, db) },
	} {
		t.Run(name, func(t *testing.T) {
			bk := newBank(t)
			err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
				if err := bk.pay(ctx); err != nil {
					return err
				}
				leave(ctx, bk.b)
				return nil
			})
			if e := wantAborted(t, err); e.Resource != "bank_b" {
				t.Errorf("%+v", e)
			}
			bk.want(100, 100)
		})
	}
}

func readOne(ctx context.Context, db *pgxtx.DB) {
	rows, _ := db.Query(ctx, `SELECT repeat('x', 1000) FROM generate_series(1, 100000)`)
	rows.Next()
}

func sendBatch(ctx context.Context, db *pgxtx.DB) {
	var b pgx.Batch
	b.Queue(credit, 1)
	db.SendBatch(ctx, &b)
}

func TestStatementsThatNeverReachedTheServerCount(t *testing.T) {
	for name, act := range map[string]func(context.Context, *pgxtx.DB) error{
		"an argument that cannot be encoded": func(ctx context.Context, db *pgxtx.DB) error {
			_, err := db.Exec(ctx, credit, make(chan int))
			return err
		},
		"an argument too few": func(ctx context.Context, db *pgxtx.DB) error {
			_, err := db.Query(ctx, `SELECT $1::int + $2::int`, 1)
			return err
		},
		"a row of too few": func(ctx context.Context, db *pgxtx.DB) error {
			var n int
			return db.QueryRow(ctx, `SELECT $1::int + $2::int`, 1).Scan(&n)
		},
		"a batch that cannot be encoded": func(ctx context.Context, db *pgxtx.DB) error {
			var b pgx.Batch
			b.Queue(credit, make(chan int))
			return db.SendBatch(ctx, &b).Close()
		},
		"a batch that begins": func(ctx context.Context, db *pgxtx.DB) error {
			var b pgx.Batch
			b.BeginTx(pgx.TxOptions{})
			return db.SendBatch(ctx, &b).Close()
		},
		"a context that has ended": func(ctx context.Context, db *pgxtx.DB) error {
			ended, cancel := context.WithCancel(ctx)
			cancel()
			_, err := db.Exec(ended, credit, 1)
			return err
		},
		"COMMIT": func(ctx context.Context, db *pgxtx.DB) error {
			_, err := db.Exec(ctx, `COMMIT`)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			bk := newBank(t)
			err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
				if err := bk.pay(ctx); err != nil {
					return err
				}
				if err := act(ctx, bk.b); err == nil {
					t.Error("no error")
				}
				return nil
			})
			if e := wantAborted(t, err); e.Resource != "bank_b" {
				t.Errorf("%+v", e)
			}
			bk.want(100, 100)
		})
	}
}

func TestWhatIsNoFailureOfAStatementIsIgnored(t *testing.T) {
	bk := newBank(t)
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		var n int
		if err := bk.b.QueryRow(ctx, `SELECT 1 WHERE false`).Scan(&n); err != pgx.ErrNoRows {
			t.Errorf("no row: %v", err)
		}
		if err := bk.b.QueryRow(ctx, `SELECT 'x'`).Scan(&n); err == nil {
			t.Error("a text was scanned into a number")
		}
		rows, _ := bk.b.Query(ctx, `SELECT id FROM acct`)
		rows.Next()
		if err := rows.Scan(&n); err == nil {
			t.Error("a text was scanned into a number")
		}
		return bk.pay(ctx)
	})
	if err != nil {
		t.Fatal(err)
	}
	bk.want(70, 130)
}

// SQL that ends the transaction from the middle of a text cannot be refused, but it is seen: what
// follows would commit by itself.
func TestAfterSQLThatEndsTheTransactionNothingIsSent(t *testing.T) {
	for _, next := range []func(context.Context, statements) error{
		func(ctx context.Context, db statements) error {
			_, err := db.Exec(ctx, credit, 30)
			return err
		},
		func(ctx context.Context, db statements) error {
			rows, err := db.Query(ctx, `UPDATE acct SET bal = 0 RETURNING id`)
			rows.Close()
			return err
		},
		func(context.Context, statements) error { return pgxtx.ErrEnded },
	} {
		bk := newBank(t)
		err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
			if err := bk.pay(ctx); err != nil {
				return err
			}
			if _, err := bk.b.Exec(ctx, `SELECT 1; ROLLBACK`); err != nil {
				return err
			}
			if err := next(ctx, bk.b); !errors.Is(err, pgxtx.ErrEnded) {
				t.Errorf("the next statement: %v", err)
			}
			return nil
		})
		wantAborted(t, err)
		if !errors.Is(err, pgxtx.ErrEnded) {
			t.Errorf("error %v", err)
		}
		bk.want(100, 100)
	}
}

func TestAnotherKindOfObjectForTheSameResource(t *testing.T) {
	bk := newBank(t)
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		if _, err := client.Join(ctx, "bank_a", stranger); err != nil {
			return err
		}
		_, _ = bk.a.Exec(ctx, debit, 30)
		return nil
	})
	wantAborted(t, err)
	bk.want(100, 100)
}

func stranger(context.Context, client.OpenOptions) (client.Branch, error) {
	return strangeBranch{}, nil
}

// strangeBranch is only ever rolled back.
type strangeBranch struct{ client.Branch }

func (strangeBranch) Finish(context.Context, bool) client.Ending { return client.Ending{} }

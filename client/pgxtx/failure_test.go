package pgxtx_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/txn"
)

func TestAPanicRollsBackBothSides(t *testing.T) {
	bk := newBank(t)
	func() {
		defer func() {
			if p := recover(); p != "boom" {
				t.Errorf("recovered %v", p)
			}
		}()
		_ = bk.client.InTx(t.Context(), func(ctx context.Context) error {
			_ = bk.pay(ctx)
			panic("boom")
		})
	}()
	bk.want(100, 100)
}

// bomb panics when it is used by pgx, in the middle of a statement.
type bomb struct{}

func (bomb) ScanRow(pgx.Rows) error { panic("scan") }
func (bomb) Next() bool             { return true }
func (bomb) Err() error             { return nil }
func (bomb) Values() ([]any, error) { panic("copy") }

func TestAPanicWithinAStatementCostsTheTransactionAndNoConnection(t *testing.T) {
	for name, use := range map[string]func(context.Context, *pgxtx.DB){
		"Scan of a row": func(ctx context.Context, db *pgxtx.DB) {
			_ = db.QueryRow(ctx, `SELECT 1`).Scan(bomb{})
		},
		"Scan of rows": func(ctx context.Context, db *pgxtx.DB) {
			rows, _ := db.Query(ctx, `SELECT 1`)
			rows.Next()
			_ = rows.Scan(bomb{})
		},
		"callback of a batch": func(ctx context.Context, db *pgxtx.DB) {
			var b pgx.Batch
			b.Queue(`SELECT 1`).QueryRow(func(row pgx.Row) error { return row.Scan(bomb{}) })
			_ = db.SendBatch(ctx, &b).Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			bk := newBank(t)
			err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
				if err := bk.pay(ctx); err != nil {
					return err
				}
				defer func() { _ = recover() }()
				use(ctx, bk.b)
				return nil
			})
			wantAborted(t, err)
			bk.want(100, 100)
		})
	}
}

func TestTheEndOfTheContextRollsBackBothSides(t *testing.T) {
	bk := newBank(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := bk.client.InTx(ctx, func(ctx context.Context) error {
		defer cancel()
		return bk.pay(ctx)
	})
	wantAborted(t, err)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	bk.want(100, 100)
}

func TestACancelledStatementRollsBackEvenIfItsErrorIsIgnored(t *testing.T) {
	bk := newBank(t)
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		if err := bk.pay(ctx); err != nil {
			return err
		}
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		if _, err := bk.b.Exec(short, `SELECT pg_sleep(60)`); err == nil {
			t.Error("the statement was not cancelled")
		}
		return nil
	})
	wantAborted(t, err)
	bk.want(100, 100)
}

// signal tells of every statement that pgx begins.
type signal chan string

func (s signal) TraceQueryStart(
	ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData,
) context.Context {
	if strings.Contains(d.SQL, "signal") {
		s <- d.SQL
	}
	return ctx
}

func (signal) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func withSignal() (signal, func(*pgxpool.Config)) {
	s := make(signal, 16)
	return s, func(c *pgxpool.Config) { c.ConnConfig.Tracer = s }
}

// A goroutine that the function forgot is in the middle of a statement when the function returns:
// nobody can say whether it belongs to the transaction.
func TestAStatementThatStillRunsRollsBack(t *testing.T) {
	started, traced := withSignal()
	bk := newBank(t, traced)
	var join sync.WaitGroup
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		if err := bk.pay(ctx); err != nil {
			return err
		}
		join.Go(func() {
			_, err := bk.b.Exec(context.WithoutCancel(ctx), `/* signal */ SELECT pg_sleep(60)`)
			if err == nil {
				t.Error("the statement went on after the end")
			}
			if _, err := bk.b.Exec(ctx, credit, 30); !errors.Is(err, client.ErrFinished) {
				t.Errorf("a statement after the end: %v", err)
			}
		})
		<-started
		return nil
	})
	wantAborted(t, err)
	join.Wait()
	bk.want(100, 100)
}

func TestRowsThatAreReadAfterTheEndAreOver(t *testing.T) {
	bk := newBank(t)
	var rows pgx.Rows
	var row pgx.Row
	var results pgx.BatchResults
	err := bk.client.InTx(t.Context(), func(ctx context.Context) (err error) {
		var b pgx.Batch
		b.Queue(`SELECT 1`)
		results = bk.b.SendBatch(ctx, &b)
		row = bk.a.QueryRow(ctx, `SELECT 1`)
		return nil
	})
	wantAborted(t, err)
	err = bk.client.InTx(t.Context(), func(ctx context.Context) (err error) {
		rows, err = bk.a.Query(ctx, `SELECT generate_series(1, 3)`)
		rows.Next()
		return err
	})
	wantAborted(t, err)
	var n int
	if rows.Next() || !errors.Is(rows.Err(), client.ErrFinished) || rows.RawValues() != nil {
		t.Errorf("the rows go on: %v", rows.Err())
	}
	if err := rows.Scan(&n); !errors.Is(err, client.ErrFinished) {
		t.Errorf("Scan: %v", err)
	}
	if _, err := rows.Values(); !errors.Is(err, client.ErrFinished) {
		t.Errorf("Values: %v", err)
	}
	rows.Close()
	if err := row.Scan(&n); !errors.Is(err, client.ErrFinished) {
		t.Errorf("the row: %v", err)
	}
	if _, err := results.Exec(); !errors.Is(err, client.ErrFinished) {
		t.Errorf("the results: %v", err)
	}
	if err := results.QueryRow().Scan(&n); !errors.Is(err, client.ErrFinished) {
		t.Errorf("a row of the results: %v", err)
	}
	if err := results.Close(); !errors.Is(err, client.ErrFinished) {
		t.Errorf("closing the results: %v", err)
	}
}

func TestTwoGoroutinesAtOneDatabase(t *testing.T) {
	bk := newBank(t)
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		if err := bk.pay(ctx); err != nil {
			return err
		}
		copying, refused := make(chan struct{}), make(chan struct{})
		var join sync.WaitGroup
		join.Go(func() {
			src := pgx.CopyFromFunc(func() ([]any, error) {
				close(copying)
				<-refused
				return nil, nil
			})
			_, err := bk.b.CopyFrom(ctx, pgx.Identifier{"acct"}, []string{"id", "bal"}, src)
			if err != nil {
				t.Errorf("the first statement: %v", err)
			}
		})
		<-copying
		if _, err := bk.b.Exec(ctx, `SELECT 1`); !errors.Is(err, pgxtx.ErrBusy) {
			t.Errorf("the second statement: %v", err)
		}
		close(refused)
		join.Wait()
		return nil
	})
	wantAborted(t, err)
	if !errors.Is(err, pgxtx.ErrBusy) {
		t.Errorf("error %v", err)
	}
	bk.want(100, 100)
}

func TestTwoGoroutinesAtTwoDatabases(t *testing.T) {
	bk := newBank(t)
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		var errA, errB error
		var join sync.WaitGroup
		join.Go(func() { _, errA = bk.a.Exec(ctx, debit, 30) })
		join.Go(func() { _, errB = bk.b.Exec(ctx, credit, 30) })
		join.Wait()
		return errors.Join(errA, errB)
	})
	if err != nil {
		t.Fatal(err)
	}
	bk.want(70, 130)
}

func TestNestedInTxWorksOnTheSameBranches(t *testing.T) {
	bk := newBank(t)
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		if err := bk.client.InTx(ctx, bk.pay); err != nil {
			return err
		}
		bk.want(100, 100)
		return bk.client.InTx(ctx, bk.pay)
	})
	if err != nil {
		t.Fatal(err)
	}
	bk.want(40, 160)
}

// A deferred constraint speaks at PREPARE, or at COMMIT where one database decides.
func TestADeferredConstraint(t *testing.T) {
	for _, n := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d databases", n), func(t *testing.T) {
			bk := newBank(t)
			err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
				if n == 2 {
					if _, err := bk.a.Exec(ctx, debit, 30); err != nil {
						return err
					}
				}
				_, err := bk.b.Exec(ctx, `INSERT INTO once VALUES (1), (1)`)
				return err
			})
			e := wantAborted(t, err)
			if e.SQLState != "23505" || e.Resource != "bank_b" || e.Retryable {
				t.Errorf("%+v", e)
			}
			bk.want(100, 100)
		})
	}
}

// failsOnce makes the first attempt of a function fail, by what somebody outside does at the wrong
// moment.
func failsOnce(t *testing.T, bk *bank, level client.Level, fail func(context.Context) error) {
	t.Helper()
	tries := 0
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		tries++
		var n int
		err := bk.a.QueryRow(ctx, `SELECT bal FROM acct WHERE id = 'alice'`).Scan(&n)
		if err != nil {
			return err
		}
		if tries == 1 {
			if err := fail(ctx); err != nil {
				return err
			}
		}
		return bk.pay(ctx)
	}, client.Isolation(level), client.Retry(2))
	if err != nil || tries != 2 {
		t.Errorf("error %v after %d tries", err, tries)
	}
}

func TestASerializationFailureIsRetried(t *testing.T) {
	bk := newBank(t)
	failsOnce(t, bk, client.RepeatableRead, func(context.Context) error {
		exec(t, srvA, `UPDATE acct SET bal = bal + 1 WHERE id = 'alice'`)
		return nil
	})
	bk.want(71, 130)
}

func TestALockThatIsNotFreeIsRetried(t *testing.T) {
	bk := newBank(t)
	holder := naiveBegin(t, srvA)
	_, err := holder.Exec(t.Context(), `SELECT FROM acct WHERE id = 'bob' FOR UPDATE`)
	if err != nil {
		t.Fatal(err)
	}
	failsOnce(t, bk, "", func(ctx context.Context) error {
		_, err := bk.a.Exec(ctx, `SELECT FROM acct WHERE id = 'bob' FOR UPDATE NOWAIT`)
		return err
	})
	bk.want(70, 130)
}

func TestADeadlockIsRetried(t *testing.T) {
	bk := newBank(t)
	other := naiveBegin(t, srvA)
	bob := `UPDATE acct SET bal = bal WHERE id = 'bob'`
	if _, err := other.Exec(t.Context(), `SET LOCAL deadlock_timeout = '1h'; `+bob); err != nil {
		t.Fatal(err)
	}
	var join sync.WaitGroup
	failsOnce(t, bk, "", func(ctx context.Context) error {
		if _, err := bk.a.Exec(ctx, debit, 30); err != nil {
			return err
		}
		join.Go(func() {
			_, err := other.Exec(context.Background(),
				`UPDATE acct SET bal = bal WHERE id = 'alice'`)
			if err == nil {
				_, err = other.Exec(context.Background(), `COMMIT`)
			}
			if err != nil {
				t.Errorf("the other side of the deadlock: %v", err)
			}
		})
		waiting := `SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'`
		eventually(t, "the other side waits", func() bool {
			return scan[int](t, srvA, waiting) > 0
		})
		_, err := bk.a.Exec(ctx, bob)
		return err
	})
	join.Wait()
	bk.want(70, 130)
}

func TestASessionThatTheServerEnds(t *testing.T) {
	for name, last := range map[string]func(context.Context, *bank) error{
		"before a statement": func(ctx context.Context, bk *bank) error {
			_, err := bk.b.Exec(ctx, `SELECT 1`)
			if err == nil {
				bk.t.Error("a statement on a session that was ended")
			}
			return nil
		},
		"before PREPARE": func(context.Context, *bank) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			bk := newBank(t)
			err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
				if err := bk.pay(ctx); err != nil {
					return err
				}
				var pid int
				if err := bk.b.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&pid); err != nil {
					return err
				}
				exec(t, srvB, fmt.Sprintf(`SELECT pg_terminate_backend(%d, 5000)`, pid))
				return last(ctx, bk)
			})
			wantAborted(t, err)
			bk.want(100, 100)
		})
	}
}

func TestAPoolThatCannotConnect(t *testing.T) {
	bk := newBank(t)
	conf, err := pgxpool.ParseConfig("postgres:///nowhere?host=/nonexistent")
	if err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	bk.b = pgxtx.New("bank_b", pool)
	err = bk.client.InTx(t.Context(), func(ctx context.Context) error {
		_ = bk.pay(ctx)
		return nil
	})
	if e := wantAborted(t, err); !strings.Contains(e.Error(), "bank_b: get a connection") {
		t.Errorf("%v", err)
	}
	bk.want(100, 100)
}

func TestABeginOnAConnectionThatIsDead(t *testing.T) {
	bk := newBank(t)
	conn, err := bk.poolB.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pid := conn.Conn().PgConn().PID()
	conn.Release()
	exec(t, srvB, fmt.Sprintf(`SELECT pg_terminate_backend(%d, 5000)`, pid))
	err = bk.client.InTx(t.Context(), bk.pay)
	if e := wantAborted(t, err); !strings.Contains(e.Error(), "bank_b: begin a branch") {
		t.Errorf("%v", err)
	}
	bk.want(100, 100)
	if n := sessions(t, srvB); n != 0 {
		t.Errorf("%d sessions are left in a transaction", n)
	}
	bk.wantVotes(txn.VoteNo, txn.VoteNo)
}

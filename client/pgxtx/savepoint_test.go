package pgxtx_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/gavel-tx/gavel/client/pgxtx"
)

// save runs f within a savepoint of bank_b, and keeps it or undoes it.
func (bk *bank) save(ctx context.Context, keep bool, f func(pgx.Tx)) error {
	branch, err := bk.b.Tx(ctx)
	if err != nil {
		return err
	}
	sp, err := branch.Begin(ctx)
	if err != nil {
		return err
	}
	f(sp)
	if keep {
		return sp.Commit(ctx)
	}
	return sp.Rollback(ctx)
}

func creditBy(t *testing.T, ctx context.Context, on statements, n any) error {
	t.Helper()
	_, err := on.Exec(ctx, credit, n)
	return err
}

// What happens within a savepoint of bank_b, whether the transfer commits, and what bob has.
//
//tidy:table every case stands next to its effect
func TestSavepoints(t *testing.T) {
	duplicate := `INSERT INTO acct VALUES ('bob', 1)`
	for _, tc := range []struct {
		name string
		run  func(context.Context, *bank) error
		ok   bool
		bob  int
	}{
		{"kept", func(ctx context.Context, bk *bank) error {
			return bk.save(ctx, true, func(sp pgx.Tx) { _ = creditBy(t, ctx, sp, 1) })
		}, true, 131},
		{"undone", func(ctx context.Context, bk *bank) error {
			return bk.save(ctx, false, func(sp pgx.Tx) { _ = creditBy(t, ctx, sp, 1) })
		}, true, 130},
		{"an error of the server, undone", func(ctx context.Context, bk *bank) error {
			return bk.save(ctx, false, func(sp pgx.Tx) {
				if _, err := sp.Exec(ctx, duplicate); err == nil {
					t.Error("a duplicate was taken")
				}
			})
		}, true, 130},
		{"an error of the server, kept", func(ctx context.Context, bk *bank) error {
			_ = bk.save(ctx, true, func(sp pgx.Tx) { _, _ = sp.Exec(ctx, duplicate) })
			return nil
		}, false, 100},
		{"an error on this side, undone", func(ctx context.Context, bk *bank) error {
			return bk.save(ctx, false, func(sp pgx.Tx) { _ = creditBy(t, ctx, sp, make(chan int)) })
		}, true, 130},
		{"an error on this side, kept", func(ctx context.Context, bk *bank) error {
			return bk.save(ctx, true, func(sp pgx.Tx) { _ = creditBy(t, ctx, sp, make(chan int)) })
		}, false, 100},
		{"an error from before it", func(ctx context.Context, bk *bank) error {
			_ = creditBy(t, ctx, bk.b, make(chan int))
			return bk.save(ctx, false, func(pgx.Tx) {})
		}, false, 100},
		{"an error kept, then another one undone", func(ctx context.Context, bk *bank) error {
			err := bk.save(ctx, true, func(sp pgx.Tx) { _ = creditBy(t, ctx, sp, make(chan int)) })
			return errors.Join(err, bk.save(ctx, false, func(pgx.Tx) {}))
		}, false, 100},
		{"an error kept within, undone without", func(ctx context.Context, bk *bank) error {
			return bk.save(ctx, false, func(pgx.Tx) {
				_ = bk.save(ctx, true, func(sp pgx.Tx) { _ = creditBy(t, ctx, sp, make(chan int)) })
			})
		}, true, 130},
		{"a savepoint within one", func(ctx context.Context, bk *bank) error {
			return bk.save(ctx, true, func(sp pgx.Tx) {
				inner, err := sp.Begin(ctx)
				if err != nil {
					t.Fatal(err)
				}
				_ = creditBy(t, ctx, inner, 10)
				_ = inner.Rollback(ctx)
				_ = creditBy(t, ctx, sp, 1)
			})
		}, true, 131},
		{"busy rows, undone", func(ctx context.Context, bk *bank) error {
			return bk.save(ctx, false, func(sp pgx.Tx) {
				rows, _ := sp.Query(ctx, `SELECT 1`)
				if err := creditBy(t, ctx, sp, 1); !errors.Is(err, pgxtx.ErrBusy) {
					t.Errorf("beside rows: %v", err)
				}
				rows.Close()
			})
		}, true, 130},
		{"a rollback after the commit", func(ctx context.Context, bk *bank) error {
			return bk.save(ctx, true, func(sp pgx.Tx) {
				inner, _ := sp.Begin(ctx)
				_ = creditBy(t, ctx, inner, 1)
				if err := inner.Commit(ctx); err != nil {
					t.Error(err)
				}
				if err := inner.Rollback(ctx); !errors.Is(err, pgx.ErrTxClosed) {
					t.Errorf("rollback of a savepoint that is over: %v", err)
				}
			})
		}, true, 131},
		{"a statement in a savepoint that is over", func(ctx context.Context, bk *bank) error {
			var over pgx.Tx
			err := bk.save(ctx, true, func(sp pgx.Tx) { over = sp })
			if err := creditBy(t, ctx, over, 1); !errors.Is(err, pgx.ErrTxClosed) {
				t.Errorf("a statement in a savepoint that is over: %v", err)
			}
			return err
		}, false, 100},
		{"by SQL", func(ctx context.Context, bk *bank) error {
			_, err1 := bk.b.Exec(ctx, `SAVEPOINT mine`)
			_, err2 := bk.b.Exec(ctx, duplicate)
			_, err3 := bk.b.Exec(ctx, `ROLLBACK TO mine`)
			if err2 == nil {
				t.Error("a duplicate was taken")
			}
			return errors.Join(err1, err3)
		}, true, 130},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bk := newBank(t)
			err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
				if err := bk.pay(ctx); err != nil {
					return err
				}
				return tc.run(ctx, bk)
			})
			if tc.ok != (err == nil) {
				t.Errorf("error %v", err)
			}
			alice := 70
			if !tc.ok {
				wantAborted(t, err)
				alice = 100
			}
			bk.want(alice, tc.bob)
		})
	}
}

func TestTheBranchBelongsToInTx(t *testing.T) {
	for name, end := range map[string]func(pgx.Tx, context.Context) error{
		"Commit": pgx.Tx.Commit, "Rollback": pgx.Tx.Rollback,
	} {
		bk := newBank(t)
		err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
			tx, err := bk.b.Tx(ctx)
			if err != nil {
				return err
			}
			if err := end(tx, ctx); !errors.Is(err, pgxtx.ErrOwned) {
				t.Errorf("%s: %v", name, err)
			}
			return bk.pay(ctx)
		})
		if name == "Commit" && err == nil {
			bk.want(70, 130)
			continue
		}
		// Whoever calls Rollback does not want it committed, though he may not look at the error.
		wantAborted(t, err)
		bk.want(100, 100)
	}
}

func TestTheOtherMethodsOfATx(t *testing.T) {
	bk := newBank(t)
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		if _, err := bk.a.Exec(ctx, debit, 30); err != nil {
			return err
		}
		tx, err := bk.b.Tx(ctx)
		if err != nil {
			return err
		}
		if _, err := tx.Prepare(ctx, "pay", credit); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "pay", 30); err != nil {
			return err
		}
		objects := tx.LargeObjects()
		oid, err := objects.Create(ctx, 0)
		if err != nil {
			return err
		}
		if tx.Conn() == nil {
			t.Error("no connection")
		}
		return objects.Unlink(ctx, oid)
	})
	if err != nil {
		t.Fatal(err)
	}
	bk.want(70, 130)
}

func TestResultsOfABatchOneByOne(t *testing.T) {
	bk := newBank(t)
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		var b pgx.Batch
		b.Queue(credit, 10)
		b.Queue(`SELECT id FROM acct ORDER BY id`)
		b.Queue(`SELECT 7`)
		results := bk.b.SendBatch(ctx, &b)
		if tag, err := results.Exec(); err != nil || tag.RowsAffected() != 1 {
			t.Errorf("first result %s: %v", tag, err)
		}
		rows, err := results.Query()
		if err != nil {
			return err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(ids) != 2 {
			t.Errorf("second result %v: %v", ids, err)
		}
		var n int
		if err := results.QueryRow().Scan(&n); err != nil || n != 7 {
			t.Errorf("third result %d: %v", n, err)
		}
		if _, err := results.Query(); err == nil {
			t.Error("a fourth result")
		}
		_ = results.Close()
		return results.Close()
	})
	// Asking for a result that is not there is an error of this side, and counts.
	wantAborted(t, err)
	bk.want(100, 100)
}

func TestValuesOfRows(t *testing.T) {
	bk := newBank(t)
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		rows, err := bk.b.Query(ctx, `SELECT 'x'::text`)
		if err != nil {
			return err
		}
		defer rows.Close()
		if !rows.Next() || string(rows.RawValues()[0]) != "x" {
			t.Error("no value")
		}
		if v, err := rows.Values(); err != nil || v[0] != "x" {
			t.Errorf("values %v: %v", v, err)
		}
		rows.Close()
		if err := rows.Scan(new(string)); err == nil {
			t.Error("a Scan of rows that are closed")
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
}

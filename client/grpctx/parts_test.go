package grpctx_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/internal/banks"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/txn"
)

// older is a coordinator from before parts: it gives two parts one branch, and prepares what has no
// vote.
type older struct{ *coordinator.Coordinator }

func (o older) Begin(ctx context.Context, r txn.BeginRequest) (txn.Begun, error) {
	r.Part = ""
	return o.Coordinator.Begin(ctx, r)
}

func (o older) Commit(ctx context.Context, r txn.CommitRequest) (txn.Result, error) {
	r.Complete = false
	return o.Coordinator.Commit(ctx, r)
}

// With an older coordinator too no vote speaks for the work of two.
func TestPartsThatShareABranchRollBack(t *testing.T) {
	reads := func(db *pgxtx.DB) handler {
		return func(ctx context.Context) error {
			var n int
			return db.QueryRow(ctx, `SELECT count(*) FROM acct`).Scan(&n)
		}
	}
	kinds := map[string]func(*pgxtx.DB) handler{"writes": note, "reads": reads}
	for first, one := range kinds {
		for second, two := range kinds {
			t.Run(first+", "+second, func(t *testing.T) {
				w := newWorld(t)
				d := older{w.Coord}
				c, b := client.New(d), bankB(t)
				called := w.serve(two(bankB(t)), setup{decider: d})
				again := w.serve(one(bankB(t)), setup{decider: d})
				for name, f := range map[string]handler{
					"caller and service": func(ctx context.Context) error {
						return errors.Join(one(b)(ctx), call(ctx, called))
					},
					"two services": func(ctx context.Context) error {
						return errors.Join(call(ctx, again), call(ctx, called))
					},
				} {
					err := c.InTx(t.Context(), func(ctx context.Context) error {
						return errors.Join(w.Debit(ctx), f(ctx))
					})
					if _, ok := errors.AsType[*client.AbortedError](err); !ok {
						t.Errorf("%s: %v", name, err)
					}
					w.Want(100, 100)
				}
				if n := noted(t); n != 0 {
					t.Errorf("%d notes", n)
				}
			})
		}
	}
}

// A service at a coordinator from before parts is as good as any where nobody else is at its
// database.
func TestAnOlderCoordinatorCommitsWhatIsApart(t *testing.T) {
	w := newWorld(t)
	d := older{w.Coord}
	svc := w.serve(credits(bankB(t)), setup{decider: d})
	if err := client.New(d).InTx(t.Context(), w.transfer(svc)); err != nil {
		t.Fatal(err)
	}
	w.Want(70, 130)
}

// Two calls that need one row wait for each other, no longer than the transaction may live.
func TestTwoCallsForOneRow(t *testing.T) {
	w := newWorld(t)
	svc := w.serve(credits(bankB(t)), setup{})
	began := time.Now()
	err := w.Client.InTx(t.Context(), func(ctx context.Context) error {
		return errors.Join(w.Debit(ctx), call(ctx, svc), call(ctx, svc))
	}, client.Timeout(time.Second))
	banks.WantAborted(t, err)
	if took := time.Since(began); took < time.Second || took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	w.Want(100, 100)
}

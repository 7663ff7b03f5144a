package client_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/txn"
)

var errPoor = errors.New("balance too low")

func TestTheFunctionsErrorRollsBack(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3} {
		d := &decider{}
		dbs := []*database{writer("a"), reader("b"), writer("c")}[:n]
		var r txn.Result
		err := client.New(d).InTx(t.Context(), func(ctx context.Context) error {
			if err := all(dbs...)(ctx); err != nil {
				return err
			}
			return errPoor
		}, client.Report(&r))
		e := wantAborted(t, err)
		if !errors.Is(err, errPoor) || e.Cause != txn.CauseClient || e.Retryable {
			t.Errorf("%d branches: %+v", n, e)
		}
		for _, db := range dbs {
			wantHistory(t, db, "rollback")
		}
		if r.Outcome != txn.OutcomeRolledBack || r.Cause != txn.CauseClient {
			t.Errorf("reported %+v", r)
		}
		if n < 2 {
			if begins, commits := d.calls(); len(begins)+len(commits) != 0 {
				t.Errorf("%d branches: the coordinator was called", n)
			}
			continue
		}
		if e.ID != firstID() {
			t.Errorf("%d branches: id %s", n, e.ID)
		}
		for _, v := range votesOf(t, d) {
			if v != txn.VoteNo {
				t.Errorf("%d branches: the coordinator heard %s", n, v)
			}
		}
	}
}

func TestTheDatabasesCodeIsFoundInTheFunctionsError(t *testing.T) {
	err := client.New(&decider{}).InTx(t.Context(), func(context.Context) error {
		return errors.Join(errPoor, state("40001"))
	})
	if e := wantAborted(t, err); e.SQLState != "40001" || !e.Retryable {
		t.Errorf("%+v", e)
	}
}

func TestAPanicRollsBackAndGoesOn(t *testing.T) {
	d, a, b := &decider{}, writer("a"), writer("b")
	func() {
		defer func() {
			if p := recover(); p != "boom" {
				t.Errorf("recovered %v", p)
			}
		}()
		_ = client.New(d).InTx(t.Context(), func(ctx context.Context) error {
			_ = all(a, b)(ctx)
			panic("boom")
		})
	}()
	wantHistory(t, a, "rollback")
	wantHistory(t, b, "rollback")
	if got := votesOf(t, d); !slices.Equal(got, []txn.Vote{txn.VoteNo, txn.VoteNo}) {
		t.Errorf("the coordinator heard %v", got)
	}
}

func TestGoexitRollsBack(t *testing.T) {
	a := writer("a")
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = client.New(&decider{}).InTx(t.Context(), func(ctx context.Context) error {
			_ = a.do(ctx)
			runtime.Goexit()
			return nil
		})
	}()
	<-done
	wantHistory(t, a, "rollback")
}

func TestTheEndOfTheContextRollsBackOnAnotherOne(t *testing.T) {
	d, a, b := &decider{}, writer("a"), writer("b")
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("the caller has gone")
	err := client.New(d).InTx(ctx, func(ctx context.Context) error {
		defer cancel(gone)
		return all(a, b)(ctx)
	})
	if e := wantAborted(t, err); e.Cause != txn.CauseClient || !errors.Is(err, gone) {
		t.Errorf("%+v", e)
	}
	wantHistory(t, a, "rollback")
	wantHistory(t, b, "rollback")
	if a.cut+b.cut != 0 {
		t.Error("the branches were rolled back on a context that had ended")
	}
	votesOf(t, d)
}

func TestTimeoutEndsTheFunctionsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, a, b := &decider{}, writer("a"), writer("b")
		err := client.New(d, client.Timeout(time.Minute)).InTx(t.Context(),
			func(ctx context.Context) error {
				_ = all(a, b)(ctx)
				<-ctx.Done()
				return nil
			})
		wantAborted(t, err)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		begins, _ := d.calls()
		if begins[0].Timeout != time.Minute || a.opened[0].IdleTimeout != time.Minute {
			t.Errorf("timeout %v at the coordinator, %v at the database",
				begins[0].Timeout, a.opened[0].IdleTimeout)
		}
	})
}

// The function ignores what went wrong at a; b must not commit alone.
func TestAnIgnoredErrorRollsBackEverything(t *testing.T) {
	deadlock := state("40P01")
	for _, tc := range []struct {
		name string
		a    *database
		acts []string
	}{
		{"a statement", broken("a", deadlock), []string{"review", "rollback"}},
		{"opening", &database{name: "a", openErr: deadlock}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, b := &decider{}, writer("b")
			err := client.New(d).InTx(t.Context(), func(ctx context.Context) error {
				_ = tc.a.do(ctx)
				return b.do(ctx)
			})
			wantAborted(t, err)
			if !errors.Is(err, deadlock) {
				t.Errorf("error %v hides its reason", err)
			}
			wantHistory(t, tc.a, tc.acts...)
			for _, act := range b.history() {
				if act != "review" && act != "rollback" {
					t.Errorf("b: %s", act)
				}
			}
			for _, v := range votesOf(t, d) {
				if v != txn.VoteNo {
					t.Errorf("the coordinator heard %s", v)
				}
			}
		})
	}
}

func TestAFailureOfABranchPackageRollsBack(t *testing.T) {
	a := writer("a")
	err := client.New(&decider{}).InTx(t.Context(), func(ctx context.Context) error {
		client.Fail(ctx, errPoor)
		client.Fail(ctx, errors.New("later"))
		return a.do(ctx)
	})
	wantAborted(t, err)
	if !errors.Is(err, errPoor) {
		t.Errorf("error %v, want the first failure", err)
	}
	wantHistory(t, a, "rollback")
	client.Fail(t.Context(), errPoor) // without a transaction: nothing
}

func TestASilentCoordinatorDelaysARollbackOnlyALittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, a, b := &decider{}, writer("a"), writer("b")
		d.onBegin = func(ctx context.Context, _ txn.BeginRequest) (txn.Begun, error) {
			<-ctx.Done()
			return txn.Begun{}, ctx.Err()
		}
		err := client.New(d).InTx(t.Context(), func(ctx context.Context) error {
			_ = all(a, b)(ctx)
			return errPoor
		})
		if !errors.Is(err, errPoor) {
			t.Errorf("error %v", err)
		}
		wantHistory(t, a, "rollback")
		if _, commits := d.calls(); len(commits) != 0 {
			t.Errorf("commits %+v of a transaction without an id", commits)
		}
	})
}

func TestADeciderThatCanRollBackIsAskedTo(t *testing.T) {
	d := rollbacker{&decider{}}
	err := client.New(d).InTx(t.Context(), func(ctx context.Context) error { return errPoor },
		client.IdempotencyKey("k", nil))
	wantAborted(t, err)
	_, commits := d.calls()
	if len(commits) != 0 || !slices.Equal(d.rollbacks, []txn.ID{firstID()}) {
		t.Errorf("rollbacks %v, commits %+v", d.rollbacks, commits)
	}
}

func TestWithoutABranchNobodyVotesNo(t *testing.T) {
	d := &decider{}
	err := client.New(d).InTx(t.Context(), func(ctx context.Context) error { return errPoor },
		client.IdempotencyKey("k", nil))
	wantAborted(t, err)
	// A Commit without votes would have committed the key.
	if _, commits := d.calls(); len(commits) != 0 {
		t.Errorf("commits %+v", commits)
	}
}

func TestNestedJoins(t *testing.T) {
	d, a, b := &decider{}, writer("a"), writer("b")
	c := client.New(d)
	err := c.InTx(t.Context(), func(ctx context.Context) error {
		if err := c.InTx(ctx, all(a), client.Name("inner")); err != nil {
			return err
		}
		wantHistory(t, a) // Nothing has ended yet.
		return c.InTx(ctx, all(a, b))
	})
	if err != nil {
		t.Fatal(err)
	}
	wantHistory(t, a, "review", prepareOf(1))
	votesOf(t, d)
}

func TestANestedFailureDoomsTheOuterTransaction(t *testing.T) {
	for name, inner := range map[string]func(context.Context) error{
		"error": func(context.Context) error { return errPoor },
		"panic": func(context.Context) error { panic(errPoor) },
	} {
		a := writer("a")
		c := client.New(&decider{})
		err := c.InTx(t.Context(), func(ctx context.Context) error {
			defer func() { _ = recover() }()
			_ = a.do(ctx)
			_ = c.InTx(ctx, inner)
			return nil
		})
		wantAborted(t, err)
		if name == "error" && !errors.Is(err, errPoor) {
			t.Errorf("error %v", err)
		}
		wantHistory(t, a, "rollback")
	}
}

func TestNestedRefusals(t *testing.T) {
	c := client.New(&decider{})
	for name, tc := range map[string]struct {
		inner *client.Client
		opt   client.Option
	}{
		"another client": {client.New(&decider{}), client.Name("")},
		"a key":          {c, client.IdempotencyKey("k", nil)},
		"isolation":      {c, client.Isolation(client.Serializable)},
		"read only":      {c, client.ReadOnly()},
	} {
		called := false
		err := c.InTx(t.Context(), func(ctx context.Context) error {
			err := tc.inner.InTx(ctx, func(context.Context) error {
				called = true
				return nil
			}, tc.opt)
			if !errors.Is(err, client.ErrNested) {
				t.Errorf("%s: error %v", name, err)
			}
			return nil
		})
		if called || !errors.Is(err, client.ErrNested) {
			t.Errorf("%s: called %v, outer error %v", name, called, err)
		}
	}
	same := []client.Option{client.Isolation(client.Serializable), client.ReadOnly()}
	err := c.InTx(t.Context(), func(ctx context.Context) error {
		return c.InTx(ctx, func(context.Context) error { return nil }, same...)
	}, same...)
	if err != nil {
		t.Errorf("what the outer transaction has is refused: %v", err)
	}
}

func TestDetachLeavesTheTransaction(t *testing.T) {
	c := client.New(&decider{})
	a, outside := writer("a"), writer("outside")
	err := c.InTx(t.Context(), func(ctx context.Context) error {
		if err := a.do(client.Detach(ctx)); !errors.Is(err, client.ErrNoTransaction) {
			t.Errorf("detached: %v", err)
		}
		if err := c.InTx(client.Detach(ctx), all(outside)); err != nil {
			t.Error(err)
		}
		return errPoor
	})
	wantAborted(t, err)
	wantHistory(t, outside, "commit")
}

func TestUseAfterTheEnd(t *testing.T) {
	a := writer("a")
	var kept context.Context
	err := client.New(&decider{}).InTx(t.Context(), func(ctx context.Context) error {
		kept = ctx
		return a.do(ctx)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.do(kept); !errors.Is(err, client.ErrFinished) {
		t.Errorf("join after the end: %v", err)
	}
	if _, err := client.IDFrom(kept); !errors.Is(err, client.ErrFinished) {
		t.Errorf("id after the end: %v", err)
	}
	wantHistory(t, a, "commit")
}

func TestOutsideOfATransaction(t *testing.T) {
	if err := writer("a").do(t.Context()); !errors.Is(err, client.ErrNoTransaction) {
		t.Errorf("join: %v", err)
	}
	if _, err := client.IDFrom(t.Context()); !errors.Is(err, client.ErrNoTransaction) {
		t.Errorf("id: %v", err)
	}
}

// A goroutine that the function forgot is still opening its branch when the function returns.
func TestABranchThatOpensTooLateIsRolledBackByItsOpener(t *testing.T) {
	a, late := writer("a"), writer("late")
	opening, ended := make(chan struct{}), make(chan struct{})
	late.onOpen = func(context.Context) { close(opening); <-ended }
	var join sync.WaitGroup
	err := client.New(&decider{}).InTx(t.Context(), func(ctx context.Context) error {
		join.Go(func() {
			if err := late.do(ctx); !errors.Is(err, client.ErrFinished) {
				t.Errorf("the late branch: %v", err)
			}
		})
		<-opening
		return a.do(ctx)
	})
	wantAborted(t, err)
	if !strings.Contains(err.Error(), "still being opened") {
		t.Errorf("error %v", err)
	}
	close(ended)
	join.Wait()
	wantHistory(t, a, "rollback")
	wantHistory(t, late, "rollback")
}

// A statement that gives up waiting for a branch was not sent, which counts as a failure.
func TestGivingUpOnABranchThatOpensSlowly(t *testing.T) {
	a := writer("a")
	opening, opened := make(chan struct{}), make(chan struct{})
	a.onOpen = func(context.Context) { close(opening); <-opened }
	err := client.New(&decider{}).InTx(t.Context(), func(ctx context.Context) error {
		var join sync.WaitGroup
		join.Go(func() { _ = a.do(ctx) })
		<-opening
		short, cancel := context.WithCancel(ctx)
		cancel()
		if err := a.do(short); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		close(opened)
		join.Wait()
		return nil
	})
	wantAborted(t, err)
	wantHistory(t, a, "rollback")
}

func TestNamesAndTheNumberOfBranchesAreLimited(t *testing.T) {
	for _, name := range []string{"", strings.Repeat("x", txn.MaxResourceNameLen+1)} {
		err := client.New(&decider{}).InTx(t.Context(), func(ctx context.Context) error {
			_ = writer(name).do(ctx)
			return nil
		})
		wantAborted(t, err)
	}
	d := &decider{}
	err := client.New(d).InTx(t.Context(), func(ctx context.Context) error {
		for i := range txn.MaxBranches {
			name := strings.Repeat("x", i%60+1) + string(rune('a'+i/60))
			if err := writer(name).do(ctx); err != nil {
				t.Fatalf("branch %d: %v", i, err)
			}
		}
		_ = writer("one too many").do(ctx)
		return nil
	})
	if e := wantAborted(t, err); !strings.Contains(e.Error(), "the limit") {
		t.Errorf("%v", err)
	}
}

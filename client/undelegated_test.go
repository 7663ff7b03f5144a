package client_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/txn"
)

// A coordinator that does not agree decides as it does without the option.
func TestACoordinatorThatKeepsTheDecision(t *testing.T) {
	for _, tc := range []struct {
		name  string
		b     *database
		acts  [2][]string
		ack   txn.AckLevel
		plan  txn.Plan
		calls int
	}{
		{"two writers", writer("b"),
			[2][]string{{"review", prepareOf(1)}, {"review", prepareOf(2)}},
			txn.AckApplied, txn.PlanClassic, 1},
		{"two writers, announced", writer("b"),
			[2][]string{{"review", prepareOf(1)}, {"review", prepareOf(2)}},
			txn.AckDecided, txn.PlanClassic, 2},
		{"one writer", reader("b"),
			[2][]string{{"review", "commit"}, {"review", "commit"}},
			txn.AckApplied, txn.PlanOnePhase, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, a := &decider{}, newKeeper("a")
			var r txn.Result
			err := client.New(d, client.Delegate("a")).InTx(t.Context(), all(a.database, tc.b),
				client.Ack(tc.ack), client.Report(&r))
			wantNil(t, err)
			wantHistory(t, a.database, tc.acts[0]...)
			wantHistory(t, tc.b, tc.acts[1]...)
			begins, commits := d.calls()
			if begins[0].Delegate != "a" || r.Plan != tc.plan || len(commits) != tc.calls {
				t.Errorf("asked for %q, reported plan %s, %d commits", begins[0].Delegate, r.Plan,
					len(commits))
			}
		})
	}
}

// The coordinator is not asked to leave the decision to a branch that certainly cannot make it, and
// that is no fault.
func TestWhereNoDelegateIsAskedFor(t *testing.T) {
	for name, tc := range map[string]struct {
		opts []client.Option
		f    func(a *keeper, b, c *database) func(context.Context) error
	}{
		"read only":  {opts: []client.Option{client.ReadOnly()}},
		"classic":    {opts: []client.Option{client.Plan(txn.PlanClassic)}},
		"a key":      {opts: []client.Option{client.IdempotencyKey("k", nil)}},
		"taken back": {opts: []client.Option{client.Delegate("")}},
		"no marker": {f: func(a *keeper, b, _ *database) func(context.Context) error {
			a.as = nil
			return all(a.database, b)
		}},
		"another resource": {opts: []client.Option{client.Delegate("elsewhere")}},
		"known by id": {f: func(a *keeper, b, _ *database) func(context.Context) error {
			return func(ctx context.Context) error {
				if _, err := client.IDFrom(ctx); err != nil {
					return err
				}
				return all(a.database, b)(ctx)
			}
		}},
		"too late": {f: func(a *keeper, b, c *database) func(context.Context) error {
			return func(ctx context.Context) error {
				if err := all(b, c)(ctx); err != nil {
					return err
				}
				// With the id in hand the first Begin is over.
				if _, err := client.IDFrom(ctx); err != nil {
					return err
				}
				return a.do(ctx)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			d, a, b, c := leaving(), newKeeper("a"), writer("b"), writer("c")
			f := all(a.database, b)
			if tc.f != nil {
				f = tc.f(a, b, c)
			}
			err := client.New(d, client.Delegate("a")).InTx(t.Context(), f, tc.opts...)
			wantNil(t, err)
			begins, _ := d.calls()
			for _, r := range begins {
				if slices.Contains(r.Resources, "a") && r.Delegate != "" {
					t.Errorf("begin %+v", r)
				}
			}
			if a.decided != 0 || slices.Contains(a.history(), "rollback") {
				t.Errorf("a: %q", a.history())
			}
		})
	}
}

// A branch that cannot commit with a marker shows itself only when it is open, which may be after
// the coordinator was asked.
func TestABranchThatCannotDecideRollsBack(t *testing.T) {
	d, a, b := rollbacker{leaving()}, writer("a"), writer("b")
	asked := make(chan struct{})
	d.onBegin = func(_ context.Context, r txn.BeginRequest) (txn.Begun, error) {
		defer close(asked)
		return d.enlist(r), nil
	}
	a.onOpen = func(context.Context) { <-asked }
	err := client.New(d, client.Delegate("a")).InTx(t.Context(), all(b, a))
	e := wantAborted(t, err)
	if !strings.Contains(e.Error(), "cannot commit with a marker") || e.Cause != txn.CauseClient {
		t.Errorf("%+v", e)
	}
	wantHistory(t, a, "review", "rollback")
	wantHistory(t, b, "review", "rollback")
	wantAllNo(t, d)
}

// wantAllNo: the coordinator was told by votes, and not asked to roll back: it would have to look
// for a marker.
func wantAllNo(t *testing.T, d rollbacker) {
	t.Helper()
	for _, v := range votesOf(t, d.decider) {
		if v != txn.VoteNo {
			t.Errorf("the coordinator heard %s", v)
		}
	}
	if len(d.rollbacks) != 0 {
		t.Error("the coordinator has to look for a marker that was never sent")
	}
}

// Before the marker is sent the application's own end is certain, and the coordinator hears a proof
// of it.
func TestARollbackBeforeTheDecision(t *testing.T) {
	deadlock := state("40P01")
	for name, tc := range map[string]struct {
		act   func(ctx context.Context, cancel context.CancelFunc) error
		b     *database
		begin func(d *decider, r txn.BeginRequest) (txn.Begun, error)
	}{
		"an error":    {act: func(context.Context, context.CancelFunc) error { return errPoor }},
		"a panic":     {act: func(context.Context, context.CancelFunc) error { panic(errPoor) }},
		"a statement": {b: broken("b", deadlock)},
		"the context": {act: func(_ context.Context, cancel context.CancelFunc) error {
			cancel()
			return nil
		}},
		"a branch of another process": {begin: func(
			d *decider, r txn.BeginRequest) (txn.Begun, error) {
			r.Resources = append(r.Resources, "stranger")
			return d.enlist(r), nil
		}},
		"a delegate of another process": {begin: func(
			d *decider, r txn.BeginRequest) (txn.Begun, error) {
			begun := d.enlist(r)
			begun.Delegate = 7
			return begun, nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			d, a, b := rollbacker{leaving()}, newKeeper("a"), tc.b
			if b == nil {
				b = writer("b")
			}
			if tc.begin != nil {
				d.onBegin = func(_ context.Context, r txn.BeginRequest) (txn.Begun, error) {
					return tc.begin(d.decider, r)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			err := recovered(func() error {
				return client.New(d, client.Delegate("a")).InTx(ctx,
					func(ctx context.Context) error {
						if err := all(a.database, b)(ctx); err != nil || tc.act == nil {
							return err
						}
						return tc.act(ctx, cancel)
					})
			})
			if name != "a panic" {
				wantAborted(t, err)
			}
			for _, db := range []*database{a.database, b} {
				acts := db.history()
				if acts[len(acts)-1] != "rollback" || a.decided != 0 {
					t.Errorf("%s: %q", db.name, acts)
				}
			}
			wantAllNo(t, d)
		})
	}
}

// recovered is f's error, or that of its panic.
func recovered(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err, _ = p.(error)
		}
	}()
	return f()
}

// A resource that comes later is enlisted, and its vote stands in the marker. If it is refused, all
// is rolled back, and the coordinator hears so of the branches that it told.
func TestALaterBranchBesideADelegate(t *testing.T) {
	refusal := txn.Refusef(txn.ReasonNoResource, "resources", "no such resource")
	for _, err := range []error{nil, refusal} {
		d, a, b, c := rollbacker{leaving()}, newKeeper("a"), writer("b"), writer("c")
		d.onBegin = func(_ context.Context, r txn.BeginRequest) (txn.Begun, error) {
			if r.Delegate != "a" {
				t.Errorf("a Begin for %v says that %q decides", r.Resources, r.Delegate)
			}
			if !r.ID.IsZero() && err != nil {
				return txn.Begun{}, err
			}
			return d.enlist(r), nil
		}
		got := client.New(d, client.Delegate("a")).InTx(t.Context(),
			func(ctx context.Context) error {
				if err := all(a.database, b)(ctx); err != nil {
					return err
				}
				if _, err := client.IDFrom(ctx); err != nil {
					return err
				}
				return c.do(ctx)
			})
		if err != nil {
			wantAborted(t, got)
			wantAllNo(t, d)
			continue
		}
		wantNil(t, got)
		votes, err := txn.ParseDecision(a.decision)
		if err != nil || len(votes) != 2 || voteAt(t, d.decider, 3).Vote != txn.VoteYes {
			t.Errorf("the marker holds %+v: %v", votes, err)
		}
	}
}

func TestADelegatedTransactionIsRetried(t *testing.T) {
	d, tries := leaving(), 0
	var seen []*keeper
	c := client.New(d, client.Delegate("a"), client.Retry(2))
	err := c.InTx(t.Context(), func(ctx context.Context) error {
		a := newKeeper("a")
		if tries++; tries == 1 {
			a.ending = client.Ending{Standing: txn.StandingRolledBack, SQLState: "40001",
				Err: state("40001")}
		}
		seen = append(seen, a)
		// An inner transaction joins, whatever it says of a delegate.
		return errors.Join(a.do(ctx), c.InTx(ctx, writer("b").do, client.Delegate("b")))
	})
	if err != nil || tries != 2 || seen[0].id == seen[1].id {
		t.Errorf("error %v after %d tries", err, tries)
	}
	_, commits := d.calls()
	for i, want := range []txn.Vote{txn.VoteNo, txn.VoteCommitted} {
		if seen[i].decided != 1 ||
			!slices.ContainsFunc(commits[i].Votes, func(v txn.BranchVote) bool {
				return v.Branch == 1 && v.Vote == want
			}) {
			t.Errorf("try %d: votes %+v", i+1, commits[i].Votes)
		}
	}
}

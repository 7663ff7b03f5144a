package client_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/txn"
)

// TestIntentBesideThePrepares: who wants to hear the decision announces the branches while they are
// being prepared, and then votes.
func TestIntentBesideThePrepares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := writer("a"), writer("b")
		d := &decider{}
		hold := make(chan struct{})
		a.onPrepare = func() { <-hold }
		d.onCommit = func(_ context.Context, r txn.CommitRequest) (txn.Result, error) {
			if r.Intent {
				// It has come while a is being prepared.
				close(hold)
				return txn.Result{ID: r.ID, State: txn.StatePreparing}, nil
			}
			return decided(r), nil
		}
		err := client.New(d).InTx(t.Context(), all(a, b), client.Ack(txn.AckDecided))
		if err != nil {
			t.Fatal(err)
		}
		_, commits := d.calls()
		if len(commits) != 2 || !commits[0].Intent || len(commits[0].Votes) != 0 ||
			commits[1].Intent || len(commits[1].Votes) != 2 {
			t.Errorf("commits %+v", commits)
		}
	})
}

// TestNoIntent: where the parallel plan gains nothing, or was ruled out, one Commit is all.
func TestNoIntent(t *testing.T) {
	decided := client.Ack(txn.AckDecided)
	for name, c := range map[string]struct {
		dbs  []*database
		opts []client.Option
	}{
		"applied": {[]*database{writer("a"), writer("b")}, nil},
		"classic": {[]*database{writer("a"), writer("b")},
			[]client.Option{decided, client.Plan(txn.PlanClassic)}},
		"one that may be regretted": {[]*database{writer("a"), unsure("b")},
			[]client.Option{decided}},
		"a reader": {[]*database{writer("a"), writer("b"), reader("c")}, []client.Option{decided}},
		"one writer, pinned": {[]*database{writer("a")},
			[]client.Option{decided, client.IdempotencyKey("k", nil)}},
	} {
		d := &decider{}
		if err := client.New(d).InTx(t.Context(), all(c.dbs...), c.opts...); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, commits := d.calls()
		if slices.ContainsFunc(commits, func(r txn.CommitRequest) bool { return r.Intent }) {
			t.Errorf("%s: commits %+v", name, commits)
		}
	}
	err := client.New(&decider{}).InTx(t.Context(), all(writer("a")),
		client.Plan(txn.PlanDelegate))
	if err == nil {
		t.Error("a plan that cannot be asked for was taken")
	}
}

// TestIntentThatNobodyAnswers: a coordinator that never answers an intent holds up nothing.
func TestIntentThatNobodyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &decider{onCommit: func(ctx context.Context, r txn.CommitRequest) (txn.Result, error) {
			if r.Intent {
				<-ctx.Done()
				return txn.Result{}, ctx.Err()
			}
			return decided(r), nil
		}}
		err := client.New(d).InTx(t.Context(), all(writer("a"), writer("b")),
			client.Ack(txn.AckDecided))
		if err != nil {
			t.Fatal(err)
		}
	})
}

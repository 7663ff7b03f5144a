package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/txn"
)

var errLine = errors.New("the line was cut")

// carry begins a call within a test's function.
func carry(ctx context.Context, t *testing.T) *client.Call {
	t.Helper()
	call, err := client.Carry(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return call
}

// calls is a function that uses a database, and makes a call that ends so.
func calls(t *testing.T, db *database, votes []txn.BranchVote, err error) func(
	context.Context,
) error {
	return func(ctx context.Context) error {
		if err := db.do(ctx); err != nil {
			return err
		}
		return carry(ctx, t).Done(votes, err)
	}
}

// foreign is the Yes of a branch of another process, of many numbers to tell it by.
func foreign(no txn.BranchNo) txn.BranchVote {
	return txn.BranchVote{Branch: no, Vote: txn.VoteYes, Evidence: txn.Evidence{
		Identity: txn.Identity{System: 8, Database: 9}, XID: uint64(no)}}
}

func TestVotesOfCallsGoAlong(t *testing.T) {
	d, a := &decider{}, writer("bank_a")
	votes := []txn.BranchVote{foreign(2), {Branch: 3, Vote: txn.VoteReadOnly}}
	err := client.New(d).InTx(t.Context(), calls(t, a, votes, nil), client.Ack(txn.AckDecided))
	if err != nil {
		t.Fatal(err)
	}
	// One writer, and yet it is prepared: it is not the only one.
	wantHistory(t, a, "review", prepareOf(1))
	_, commits := d.calls()
	want := []txn.CommitRequest{{
		ID: firstID(), Ack: txn.AckDecided, Plan: txn.PlanClassic, Complete: true,
		Votes: append([]txn.BranchVote{{Branch: 1, Vote: txn.VoteYes, Evidence: evidence}},
			votes...),
	}}
	if diff := cmp.Diff(want, commits); diff != "" {
		t.Error(diff)
	}
}

// The id is the coordinator's before the call is made.
func TestACallWaitsForTheCoordinator(t *testing.T) {
	d := &decider{}
	err := client.New(d).InTx(t.Context(), func(ctx context.Context) error {
		call := carry(ctx, t)
		begins, _ := d.calls()
		if call.ID() != firstID() || len(begins) != 1 {
			t.Errorf("%s after %d begins", call.ID(), len(begins))
		}
		return call.Done(nil, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, commits := d.calls(); len(commits) != 1 || !commits[0].Complete {
		t.Errorf("commits %+v", commits)
	}
	d = &decider{onBegin: func(context.Context, txn.BeginRequest) (txn.Begun, error) {
		return txn.Begun{}, errLine
	}}
	err = client.New(d).InTx(t.Context(), func(ctx context.Context) error {
		if call, err := client.Carry(ctx); !errors.Is(err, errLine) || call != nil {
			t.Errorf("a call without a transaction: %v", err)
		}
		return nil
	})
	if wantAborted(t, err); !errors.Is(err, errLine) {
		t.Error(err)
	}
}

// A call that fails ends the transaction, whatever the application makes of its error.
func TestASwallowedFailedCallRollsBack(t *testing.T) {
	no := []txn.BranchVote{foreign(2),
		{Branch: 3, Vote: txn.VoteNo, Reason: "bank_c: a deadlock", SQLState: "40P01"}}
	for _, tc := range []struct {
		name      string
		votes     []txn.BranchVote
		err       error
		says      string
		retryable bool
	}{
		{"a failure", nil, errLine, "the line was cut", false},
		{"a failure with a code", nil, state("40001"), "40001", true},
		{"a failure with votes", no, errLine, "bank_c: a deadlock: the line was cut", true},
		{"a No", no, nil, "bank_c: a deadlock", true},
		{"a No for no reason", []txn.BranchVote{{Branch: 2, Vote: txn.VoteNo}}, nil,
			"branch 2 voted No", false},
		{"too many votes", make([]txn.BranchVote, txn.MaxBranches+1), nil, "64 branches", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, a := &decider{}, writer("bank_a")
			var heard error
			err := client.New(rollbacker{d}).InTx(t.Context(), func(ctx context.Context) error {
				heard = calls(t, a, tc.votes, tc.err)(ctx)
				return nil
			})
			wantHistory(t, a, "rollback")
			e := wantAborted(t, err)
			_, isCall := errors.AsType[*client.CallError](err)
			if !isCall || !strings.Contains(err.Error(), tc.says) || e.Retryable != tc.retryable {
				t.Errorf("%v, retryable %v", err, e.Retryable)
			}
			if heard == nil || tc.err != nil && heard != tc.err {
				t.Errorf("the function hears %v", heard)
			}
			if _, commits := d.calls(); len(commits) != 0 || len(d.rollbacks) != 1 {
				t.Errorf("%d commits, %d rollbacks", len(commits), len(d.rollbacks))
			}
		})
	}
}

func TestACallUnderWayRollsBack(t *testing.T) {
	d, a := &decider{}, writer("bank_a")
	var left *client.Call
	err := client.New(d).InTx(t.Context(), func(ctx context.Context) error {
		left = carry(ctx, t)
		return a.do(ctx)
	})
	if wantAborted(t, err); !strings.Contains(err.Error(), "still under way") {
		t.Error(err)
	}
	wantHistory(t, a, "rollback")
	if err := left.Done([]txn.BranchVote{foreign(2)}, nil); !errors.Is(err, client.ErrFinished) {
		t.Errorf("a late answer: %v", err)
	}
	if err := left.Done(nil, errLine); err != errLine {
		t.Errorf("once more: %v", err)
	}
}

// Two processes with one branch would have one name to prepare, and one vote for the work of both.
func TestABranchVotesOnce(t *testing.T) {
	votes := []txn.BranchVote{foreign(2)}
	for name, f := range map[string]func(context.Context, *database) error{
		"two calls": func(ctx context.Context, a *database) error {
			_ = carry(ctx, t).Done(votes, nil)
			_ = carry(ctx, t).Done(votes, nil)
			return a.do(ctx)
		},
		"a call and its caller": func(ctx context.Context, a *database) error {
			_ = a.do(ctx)
			return carry(ctx, t).Done([]txn.BranchVote{foreign(1)}, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, a := &decider{}, writer("bank_a")
			err := client.New(rollbacker{d}).InTx(t.Context(), func(ctx context.Context) error {
				return f(ctx, a)
			})
			if wantAborted(t, err); !strings.Contains(err.Error(), "too old") {
				t.Error(err)
			}
			if _, commits := d.calls(); len(commits) != 0 {
				t.Errorf("commits %+v", commits)
			}
			for _, act := range a.history() {
				if strings.HasPrefix(act, "prepare") {
					t.Errorf("it was prepared: %q", a.history())
				}
			}
		})
	}
}

func TestACallNeedsATransaction(t *testing.T) {
	if _, err := client.Carry(t.Context()); !errors.Is(err, client.ErrNoTransaction) {
		t.Error(err)
	}
	var late context.Context
	err := client.New(&decider{}).InTx(t.Context(), func(ctx context.Context) error {
		late = ctx
		_, err := client.Carry(client.Detach(ctx))
		if !errors.Is(err, client.ErrNoTransaction) {
			t.Errorf("detached: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Carry(late); !errors.Is(err, client.ErrFinished) {
		t.Errorf("late: %v", err)
	}
}

// A marker speaks for every branch, and nobody here could say how those of another process stand.
func TestCallsAndADelegate(t *testing.T) {
	t.Run("agreed before", func(t *testing.T) {
		d, a, b := leaving(), newKeeper("bank_a"), writer("bank_b")
		err := client.New(d).InTx(t.Context(), func(ctx context.Context) error {
			if err := all(a.database, b)(ctx); err != nil {
				return err
			}
			if _, err := client.IDFrom(ctx); err != nil { // waits for the agreement
				return err
			}
			if _, err := client.Carry(ctx); err == nil {
				t.Error("the call is made")
			}
			return nil
		}, client.Delegate("bank_a"))
		if wantAborted(t, err); !strings.Contains(err.Error(), "Delegate") {
			t.Error(err)
		}
		if a.decided != 0 {
			t.Error("the delegate has decided")
		}
	})
	t.Run("called before", func(t *testing.T) {
		d, a, b := leaving(), newKeeper("bank_a"), writer("bank_b")
		err := client.New(d).InTx(t.Context(), func(ctx context.Context) error {
			if err := a.do(ctx); err != nil {
				return err
			}
			if err := carry(ctx, t).Done([]txn.BranchVote{foreign(3)}, nil); err != nil {
				return err
			}
			return b.do(ctx)
		}, client.Delegate("bank_a"))
		if err != nil {
			t.Fatal(err)
		}
		wantHistory(t, a.database, "review", prepareOf(1))
		if begins, _ := d.calls(); begins[0].Delegate != "" {
			t.Errorf("begun with %+v", begins[0])
		}
	})
}

// What is kept by a resource is asked for there, and is not taken for a branch of which nobody has
// heard.
func TestCallsAndWorkElsewhere(t *testing.T) {
	kept := func() *database {
		db := writer("kv")
		db.review.Elsewhere = true
		db.prepared = client.Ending{Reason: "it is kept there"}
		return db
	}
	want := txn.BranchVote{Branch: 1, Reason: "it is kept there"}
	d := &decider{}
	if err := client.New(d).InTx(t.Context(), calls(t, kept(), nil, nil)); err != nil {
		t.Fatal(err)
	}
	_, commits := d.calls()
	if diff := cmp.Diff([]txn.BranchVote{want}, commits[0].Votes); diff != "" {
		t.Error(diff)
	}
	votes, err := takePart(t, &decider{}, all(kept()))
	if diff := cmp.Diff([]txn.BranchVote{want}, votes); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

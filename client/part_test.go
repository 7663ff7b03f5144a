package client_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/txn"
)

// takePart has a part of the first transaction.
func takePart(
	t *testing.T, d client.Decider, f func(context.Context) error,
) ([]txn.BranchVote, error) {
	t.Helper()
	return client.New(d).TakePart(t.Context(), firstID(), time.Minute, f)
}

func TestAPartPreparesAndVotes(t *testing.T) {
	d, a, b := &decider{}, writer("bank_a"), reader("bank_b")
	votes, err := takePart(t, d, all(a, b))
	if err != nil {
		t.Fatal(err)
	}
	// A single writer is prepared too: it is not the whole transaction.
	wantHistory(t, a, "review", prepareOf(1))
	wantHistory(t, b, "review", "commit")
	want := []txn.BranchVote{{Branch: 1, Vote: txn.VoteYes, Evidence: evidence},
		{Branch: 2, Vote: txn.VoteReadOnly}}
	if diff := cmp.Diff(want, votes); diff != "" {
		t.Error(diff)
	}
	begins, commits := d.calls()
	if len(commits) != 0 {
		t.Errorf("a part decides: %+v", commits)
	}
	for _, r := range begins {
		if r.ID != firstID() || r.Part == "" || r.Part != begins[0].Part ||
			len(r.Part) > txn.MaxPartLen {
			t.Errorf("enlisted by %+v", r)
		}
	}
	if a.opened[0].ID != firstID() || a.opened[0].IdleTimeout != time.Minute {
		t.Errorf("opened with %+v", a.opened[0])
	}
}

func TestPartsHaveDifferentNames(t *testing.T) {
	d := &decider{}
	for _, db := range []*database{writer("bank_a"), writer("bank_a")} {
		if _, err := takePart(t, d, all(db)); err != nil {
			t.Fatal(err)
		}
	}
	if begins, _ := d.calls(); begins[0].Part == begins[1].Part {
		t.Errorf("both are %s", begins[0].Part)
	}
}

// A part without a branch asks for nothing, and has no votes.
func TestAPartWithoutWork(t *testing.T) {
	d := &decider{}
	votes, err := takePart(t, d, func(ctx context.Context) error {
		if id, err := client.IDFrom(ctx); err != nil || id != firstID() {
			t.Errorf("it is %s: %v", id, err)
		}
		return nil
	})
	if begins, _ := d.calls(); err != nil || len(votes) != 0 || len(begins) != 0 {
		t.Errorf("votes %v, %v, begins %v", votes, err, begins)
	}
}

func TestAPartThatCannotCommitRollsBack(t *testing.T) {
	refusing := writer("bank_b")
	refusing.prepared = client.Ending{Standing: txn.StandingRolledBack, Reason: "a deferred check"}
	deadlocked := broken("bank_b", errLine)
	deadlocked.review.SQLState = "40P01"
	unopened := writer("bank_b")
	unopened.openErr = errLine
	for _, tc := range []struct {
		name string
		b    *database
		err  error
		says string
		code string
		a    []string
		own  bool
	}{
		{"its function fails", writer("bank_b"), state("40001"), "40001", "40001",
			[]string{"rollback"}, true},
		{"its function puts an error into words", deadlocked, errLine, "the line was cut", "40P01",
			[]string{"review", "rollback"}, true},
		{"a statement had failed", broken("bank_b", errLine), nil, "bank_b: a statement failed", "",
			[]string{"review", "rollback"}, false},
		{"no session", unopened, nil, "the line was cut", "", []string{"rollback"}, false},
		{"it cannot be prepared", refusing, nil, "bank_b: a deferred check", "",
			[]string{"review", prepareOf(1)}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, a := &decider{}, writer("bank_a")
			votes, err := takePart(t, d, func(ctx context.Context) error {
				_ = all(a, tc.b)(ctx)
				return tc.err
			})
			if err == nil || tc.own != (err == tc.err) {
				t.Errorf("error %v", err)
			}
			wantHistory(t, a, tc.a...)
			i := slices.IndexFunc(votes, func(v txn.BranchVote) bool {
				return v.Vote == txn.VoteNo
			})
			if i < 0 || !strings.Contains(votes[i].Reason, tc.says) ||
				votes[i].SQLState != tc.code {
				t.Errorf("votes %+v", votes)
			}
			if !tc.own && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestAPartThatPanicsRollsBack(t *testing.T) {
	d, a := &decider{}, writer("bank_a")
	defer func() {
		if recover() != "oops" {
			t.Error("the panic does not go on")
		}
		wantHistory(t, a, "rollback")
	}()
	_, _ = takePart(t, d, func(ctx context.Context) error {
		_ = a.do(ctx)
		panic("oops")
	})
}

// What the coordinator does not take cannot be prepared.
func TestAPartThatComesTooLate(t *testing.T) {
	closed := txn.Refusef(txn.ReasonClosed, "transaction_id", "it is being committed")
	d := &decider{onBegin: func(context.Context, txn.BeginRequest) (txn.Begun, error) {
		return txn.Begun{}, closed
	}}
	a := writer("bank_a")
	votes, err := takePart(t, d, all(a))
	if !errors.Is(err, closed) || len(votes) != 0 {
		t.Errorf("votes %v, %v", votes, err)
	}
	wantHistory(t, a, "review", "rollback")
	// Nor is an answer about another transaction believed.
	d = &decider{onBegin: func(context.Context, txn.BeginRequest) (txn.Begun, error) {
		return txn.Begun{ID: txn.NewID(testLog, 2)}, nil
	}}
	b := writer("bank_b")
	if _, err := takePart(t, d, all(b)); err == nil {
		t.Error("no error")
	}
	wantHistory(t, b, "review", "rollback")
}

func TestAPartEndsWithItsTransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, a := &decider{}, writer("bank_a")
		votes, err := client.New(d).TakePart(t.Context(), firstID(), time.Second,
			func(ctx context.Context) error {
				_ = a.do(ctx)
				<-ctx.Done()
				return nil
			})
		if !errors.Is(err, context.DeadlineExceeded) || len(votes) != 1 ||
			votes[0].Vote != txn.VoteNo {
			t.Errorf("votes %v, %v", votes, err)
		}
		wantHistory(t, a, "rollback")
	})
}

// A called service calls another one: all votes go home together.
func TestAPartThatCalls(t *testing.T) {
	d, a := &decider{}, writer("bank_a")
	votes, err := takePart(t, d, calls(t, a, []txn.BranchVote{foreign(7)}, nil))
	if err != nil || len(votes) != 2 || votes[0] != foreign(7) || votes[1].Branch != 1 {
		t.Errorf("votes %+v, %v", votes, err)
	}
	b := writer("bank_b")
	_, err = takePart(t, &decider{}, func(ctx context.Context) error {
		_ = calls(t, b, nil, errLine)(ctx)
		return nil
	})
	if !errors.Is(err, errLine) {
		t.Errorf("a call that failed and was ignored: %v", err)
	}
	wantHistory(t, b, "rollback")
}

func TestAnInTxJoinsThePart(t *testing.T) {
	d, a := &decider{}, writer("bank_a")
	c := client.New(d)
	_, err := c.TakePart(t.Context(), firstID(), 0, func(ctx context.Context) error {
		return c.InTx(ctx, all(a))
	})
	if _, commits := d.calls(); err != nil || len(commits) != 0 {
		t.Errorf("%v, commits %+v", err, commits)
	}
	wantHistory(t, a, "review", prepareOf(1))
}

package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/txn"
)

var errReset = errors.New("connection reset")

// transfer is a transaction with two writers.
func transfer() func(context.Context) error { return all(writer("a"), writer("b")) }

func TestALostAnswerIsAskedForUntilItIsKnown(t *testing.T) {
	for _, lost := range []error{
		errReset,
		txn.ErrUnknown,
		txn.Refusef(txn.ReasonOverloaded, "", "too many"),
		txn.Refusef(txn.ReasonShutdown, "", "draining"),
	} {
		for _, outcome := range []txn.Outcome{txn.OutcomeCommitted, txn.OutcomeRolledBack} {
			synctest.Test(t, func(t *testing.T) {
				d := &decider{}
				d.onCommit = func(_ context.Context, r txn.CommitRequest) (txn.Result, error) {
					if _, commits := d.calls(); len(commits) <= 5 {
						return txn.Result{}, lost
					}
					return txn.Result{ID: r.ID, Outcome: outcome}, nil
				}
				err := client.New(d).InTx(t.Context(), transfer())
				if outcome == txn.OutcomeCommitted && err != nil {
					t.Errorf("after %v: %v", lost, err)
				}
				if outcome == txn.OutcomeRolledBack {
					wantAborted(t, err)
				}
				_, commits := d.calls()
				for _, r := range commits {
					if len(r.Votes) != 2 || r.ID != firstID() {
						t.Errorf("a repeated Commit is another: %+v", r)
					}
				}
			})
		}
	}
}

func TestAnAnswerThatIsNotFinalIsNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &decider{}
		d.onCommit = func(_ context.Context, r txn.CommitRequest) (txn.Result, error) {
			if _, commits := d.calls(); len(commits) == 1 {
				return txn.Result{ID: r.ID, State: txn.StateDeciding}, nil
			}
			return committed(r.ID), nil
		}
		if err := client.New(d).InTx(t.Context(), transfer()); err != nil {
			t.Error(err)
		}
	})
}

// A coordinator that refuses the votes has not taken them; what became of the transaction is its to
// say.
func TestRefusedVotesAreNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refusal := txn.Refusef(txn.ReasonInvalid, "votes", "no such branch")
		d := &decider{onCommit: func(context.Context, txn.CommitRequest) (txn.Result, error) {
			return txn.Result{}, refusal
		}}
		asked := 0
		d.onOutcome = func(_ context.Context, id txn.ID) (txn.Result, error) {
			if asked++; asked < 4 {
				return txn.Result{ID: id, State: txn.StateActive}, nil
			}
			return txn.Result{ID: id, Outcome: txn.OutcomeRolledBack, Cause: txn.CauseExpired}, nil
		}
		e := wantAborted(t, client.New(d).InTx(t.Context(), transfer()))
		if e.Cause != txn.CauseExpired {
			t.Errorf("%+v", e)
		}
		if _, commits := d.calls(); len(commits) != 1 {
			t.Errorf("%d commits", len(commits))
		}
	})
}

func TestARefusalToAnswerLeavesItOpen(t *testing.T) {
	refusal := txn.Refusef(txn.ReasonRegression, "transaction_id", "beyond the log")
	d := &decider{
		onCommit: func(context.Context, txn.CommitRequest) (txn.Result, error) {
			return txn.Result{}, refusal
		},
		onOutcome: func(context.Context, txn.ID) (txn.Result, error) {
			return txn.Result{}, refusal
		},
	}
	err := client.New(d).InTx(t.Context(), transfer())
	wantInDoubt(t, err, firstID())
	if txn.ReasonOf(err) != txn.ReasonRegression {
		t.Errorf("%v hides the refusal", err)
	}
}

// However asking ends, a timeout is never told as a rollback.
func TestInDoubt(t *testing.T) {
	silent := func(ctx context.Context, _ txn.CommitRequest) (txn.Result, error) {
		<-ctx.Done()
		return txn.Result{}, ctx.Err()
	}
	resetting := func(context.Context, txn.CommitRequest) (txn.Result, error) {
		return txn.Result{}, errReset
	}
	for name, onCommit := range map[string]func(
		context.Context, txn.CommitRequest) (txn.Result, error){
		"silent": silent, "resetting": resetting,
	} {
		t.Run(name+", caller gone", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				d := &decider{onCommit: onCommit}
				var r txn.Result
				err := client.New(d).InTx(ctx, transfer(), client.Report(&r))
				wantInDoubt(t, err, firstID())
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v does not say why asking ended", err)
				}
				if r.Outcome != txn.OutcomeUnknown || r.ID != firstID() {
					t.Errorf("reported %+v", r)
				}
			})
		})
		t.Run(name+", bounded", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &decider{onCommit: onCommit}
				err := client.New(d, client.AskFor(time.Second)).InTx(t.Context(), transfer())
				wantInDoubt(t, err, firstID())
			})
		})
		t.Run(name+", branches left alone", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := writer("a"), writer("b")
				d := &decider{onCommit: onCommit}
				err := client.New(d, client.AskFor(time.Second)).InTx(t.Context(), all(a, b))
				wantInDoubt(t, err, firstID())
				// Once the votes may have left, prepared branches are the coordinator's.
				for _, db := range []*database{a, b} {
					acts := db.history()
					if last := acts[len(acts)-1]; !strings.HasPrefix(last, "prepare ") {
						t.Errorf("client truth: after the votes it did %q", last)
					}
				}
			})
		})
	}
}

// The caller leaves while PREPARE runs. The branches are prepared then, and only the coordinator
// may end them, so that it is told the votes once, in any case.
func TestTheVotesAreSentAlthoughTheCallerHasGone(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	d := &decider{}
	a, b := reader("a"), writer("b")
	a.onLeave = func(context.Context) { cancel() }
	c := writer("c")
	d.onCommit = func(ctx context.Context, r txn.CommitRequest) (txn.Result, error) {
		if ctx.Err() != nil {
			t.Error("the votes were sent on a context that had ended")
		}
		return committed(r.ID), nil
	}
	if err := client.New(d).InTx(ctx, all(a, b, c)); err != nil {
		t.Fatal(err)
	}
	if a.cut+b.cut+c.cut != 0 {
		t.Error("a branch was ended on a context that had ended")
	}
}

func TestANoVoteIsCertainWithoutAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := writer("a"), writer("b")
		b.prepared = client.Ending{Standing: txn.StandingRolledBack, Reason: "disk full"}
		d := &decider{onCommit: func(context.Context, txn.CommitRequest) (txn.Result, error) {
			return txn.Result{}, errReset
		}}
		var r txn.Result
		e := wantAborted(t, client.New(d).InTx(t.Context(), all(a, b), client.Report(&r)))
		if e.Resource != "b" || e.ID != firstID() || r.Outcome != txn.OutcomeRolledBack {
			t.Errorf("%+v, reported %+v", e, r)
		}
		if _, commits := d.calls(); len(commits) < 2 {
			t.Error("the prepared branch was left to its deadline after one try")
		}
	})
}

func TestOutcomesAndTheirErrors(t *testing.T) {
	id := firstID()
	for outcome, check := range map[txn.Outcome]func(*testing.T, error){
		txn.OutcomeCommitted: func(t *testing.T, err error) {
			if err != nil {
				t.Errorf("error %v", err)
			}
		},
		txn.OutcomeRolledBack: func(t *testing.T, err error) {
			if e := wantAborted(t, err); e.ID != id || e.Resource != "b" || !e.Retryable {
				t.Errorf("%+v", e)
			}
		},
		txn.OutcomeHeuristicCommit:   wantHeuristic,
		txn.OutcomeHeuristicRollback: wantHeuristic,
		txn.OutcomeHeuristicMixed:    wantHeuristic,
		txn.OutcomeHeuristicHazard:   wantHeuristic,
		txn.OutcomeForgotten:         func(t *testing.T, err error) { wantInDoubt(t, err, id) },
	} {
		t.Run(outcome.String(), func(t *testing.T) {
			d := &decider{onOutcome: func(context.Context, txn.ID) (txn.Result, error) {
				return txn.Result{ID: id, Outcome: outcome, Resource: "b", SQLState: "55P03",
					Cause: txn.CauseVotedNo}, nil
			}}
			check(t, client.New(d).Await(t.Context(), id))
		})
	}
}

func wantHeuristic(t *testing.T, err error) {
	t.Helper()
	e, ok := errors.AsType[*client.HeuristicError](err)
	if !ok || e.Result.ID != firstID() || client.IDOf(err) != firstID() {
		t.Errorf("error %v, want a HeuristicError", err)
	}
}

func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &decider{}
		asked := 0
		d.onOutcome = func(_ context.Context, id txn.ID) (txn.Result, error) {
			switch asked++; asked {
			case 1:
				return txn.Result{}, errReset
			case 2:
				return txn.Result{ID: id, State: txn.StatePreparing}, nil
			}
			return committed(id), nil
		}
		if err := client.New(d).Await(t.Context(), firstID()); err != nil || asked != 3 {
			t.Errorf("error %v after %d questions", err, asked)
		}
		d.onOutcome = func(context.Context, txn.ID) (txn.Result, error) {
			return txn.Result{}, errReset
		}
		err := client.New(d, client.AskFor(time.Second)).Await(t.Context(), firstID())
		wantInDoubt(t, err, firstID())
	})
}

package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/txn"
)

// keeper is a database whose branch can commit with a marker.
type keeper struct {
	*database
	ending   client.Ending
	onDecide func()

	// What Decide was told, and how often it was called.
	id       txn.ID
	at       txn.Evidence
	decision []byte
	decided  int
}

var withMarker = client.Ending{
	Standing: txn.StandingCommitted,
	Evidence: txn.Evidence{Identity: registered.Identity, Position: registered.Position, XID: 9},
}

func newKeeper(name string) *keeper {
	k := &keeper{database: writer(name), ending: withMarker}
	k.as = k
	return k
}

func (k *keeper) Decide(
	ctx context.Context, id txn.ID, at txn.Evidence, decision []byte,
) client.Ending {
	if k.onDecide != nil {
		k.onDecide()
	}
	k.act(ctx, "decide")
	k.id, k.at, k.decision = id, at, slices.Clone(decision)
	k.decided++
	return k.ending
}

// leaving is a coordinator that leaves the decision where it is asked to, and answers as one does:
// by the delegate's vote alone.
func leaving() *decider {
	d := &decider{leaves: true}
	d.onCommit = func(_ context.Context, r txn.CommitRequest) (txn.Result, error) {
		for _, v := range r.Votes {
			if v.Vote == txn.VoteCommitted {
				res := committed(r.ID)
				res.Plan = txn.PlanDelegate
				return res, nil
			}
		}
		return decided(r), nil
	}
	return d
}

// voteAt is the vote of one branch, in the only Commit.
func voteAt(t *testing.T, d *decider, branch txn.BranchNo) txn.BranchVote {
	t.Helper()
	_, commits := d.calls()
	if len(commits) != 1 {
		t.Fatalf("%d commits, want 1: %+v", len(commits), commits)
	}
	for _, v := range commits[0].Votes {
		if v.Branch == branch {
			return v
		}
	}
	t.Fatalf("branch %d has no vote: %+v", branch, commits[0].Votes)
	return txn.BranchVote{}
}

func TestTheDelegateDecides(t *testing.T) {
	d, a, b, c := leaving(), newKeeper("a"), writer("b"), reader("c")
	var r txn.Result
	cl := client.New(d, client.Delegate("a"))
	if err := cl.InTx(t.Context(), all(a.database, b, c), client.Report(&r)); err != nil {
		t.Fatal(err)
	}
	wantHistory(t, a.database, "review", "decide")
	wantHistory(t, b, "review", prepareOf(2))
	wantHistory(t, c, "review", "commit")
	begins, commits := d.calls()
	if begins[0].Delegate != "a" || r.Plan != txn.PlanDelegate {
		t.Errorf("asked for %q, reported plan %s", begins[0].Delegate, r.Plan)
	}
	for _, b := range begins[1:] {
		if b.Delegate != "" {
			t.Errorf("a later Begin asks for %q", b.Delegate)
		}
	}
	others := []txn.BranchVote{
		{Branch: 2, Vote: txn.VoteYes, Evidence: evidence},
		{Branch: 3, Vote: txn.VoteReadOnly},
	}
	want := append([]txn.BranchVote{
		{Branch: 1, Vote: txn.VoteCommitted, Evidence: withMarker.Evidence}}, others...)
	if len(commits) != 1 || !slices.Equal(commits[0].Votes, want) {
		t.Errorf("commits %+v, want votes %+v", commits, want)
	}
	votes, err := txn.ParseDecision(a.decision)
	if err != nil || !slices.Equal(votes, others) {
		t.Errorf("the marker holds %+v: %v", votes, err)
	}
	if a.id != firstID() || a.at != registered {
		t.Errorf("decided %s at %+v", a.id, a.at)
	}
}

// What each ending of the delegate, and each answer of the coordinator to it, is told as.
func TestDelegateEndings(t *testing.T) {
	refused := client.Ending{Standing: txn.StandingRolledBack, Reason: "could not serialize",
		SQLState: "40001", Err: state("40001")}
	lost := client.Ending{Err: errReset}
	rolledBack := txn.Result{ID: firstID(), State: txn.StateRolledBack,
		Outcome: txn.OutcomeRolledBack, Cause: txn.CauseExpired, Reason: "too late"}
	voted := rolledBack
	voted.Cause, voted.Reason = txn.CauseVotedNo, "told by its votes"
	hazard := txn.Result{ID: firstID(), Outcome: txn.OutcomeHeuristicHazard}
	for _, tc := range []struct {
		name   string
		ending client.Ending
		answer txn.Result
		vote   txn.Vote
		check  func(*testing.T, error)
	}{
		{"committed", withMarker, committed(firstID()), txn.VoteCommitted, wantNil},
		{"committed and denied", withMarker, rolledBack, txn.VoteCommitted, wantHeuristic},
		{"committed and a hazard", withMarker, hazard, txn.VoteCommitted, wantHeuristic},
		{"refused", refused, voted, txn.VoteNo, func(t *testing.T, err error) {
			e := wantAborted(t, err)
			if e.Resource != "a" || e.ID != firstID() || !e.Retryable ||
				e.Cause != txn.CauseVotedNo || e.Reason != "could not serialize" ||
				!errors.Is(err, state("40001")) {
				t.Errorf("%+v", e)
			}
		}},
		{"refused, because the coordinator had decided", refused, rolledBack, txn.VoteNo,
			func(t *testing.T, err error) {
				e := wantAborted(t, err)
				if e.Cause != txn.CauseExpired || e.Reason != "too late" {
					t.Errorf("%+v", e)
				}
			}},
		{"refused and denied", refused, committed(firstID()), txn.VoteNo, wantHeuristic},
		{"lost, and it arrived", lost, committed(firstID()), txn.VoteUnknown, wantNil},
		{"lost, and it did not", lost, rolledBack, txn.VoteUnknown,
			func(t *testing.T, err error) {
				if e := wantAborted(t, err); e.Cause != txn.CauseExpired {
					t.Errorf("%+v", e)
				}
			}},
		{"lost, and a hazard", lost, hazard, txn.VoteUnknown, wantHeuristic},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := newKeeper("a"), writer("b")
			a.ending = tc.ending
			d := &decider{leaves: true}
			d.onCommit = func(context.Context, txn.CommitRequest) (txn.Result, error) {
				return tc.answer, nil
			}
			tc.check(t, client.New(d, client.Delegate("a")).InTx(t.Context(),
				all(a.database, b)))
			if v := voteAt(t, d, 1); v.Vote != tc.vote || v.Evidence != tc.ending.Evidence ||
				v.SQLState != tc.ending.SQLState {
				t.Errorf("the delegate's vote is %+v", v)
			}
			wantHistory(t, a.database, "review", "decide")
			wantHistory(t, b, "review", prepareOf(2))
		})
	}
}

func wantNil(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

func TestTheDelegateDecidesLast(t *testing.T) {
	d, a, b, c := leaving(), newKeeper("a"), writer("b"), reader("c")
	a.onDecide = func() {
		for _, db := range []*database{b, c} {
			if len(db.history()) != 2 {
				t.Errorf("the delegate decides, and %s has not voted: %q", db.name, db.history())
			}
		}
	}
	err := client.New(d, client.Delegate("a")).InTx(t.Context(), all(a.database, b, c))
	if err != nil || a.decided != 1 {
		t.Errorf("error %v after %d decisions", err, a.decided)
	}
}

// Over a branch that is not prepared where it should be, nothing is decided: the delegate is rolled
// back, and the coordinator hears so afterwards.
func TestWithoutEveryYesTheDelegateIsRolledBack(t *testing.T) {
	elsewhere, past := evidence, evidence
	elsewhere.Database++
	past.Timeline--
	prepared := func(e txn.Evidence) client.Ending {
		return client.Ending{Standing: txn.StandingPrepared, Evidence: e}
	}
	for _, tc := range []struct {
		name string
		b    client.Ending
		vote txn.BranchVote
		// cause and says are of the error.
		cause txn.Cause
		says  string
	}{
		{"no", client.Ending{Standing: txn.StandingRolledBack, Reason: "deadlock",
			SQLState: "40P01", Err: state("40P01")},
			txn.BranchVote{Branch: 2, Vote: txn.VoteNo, Reason: "deadlock", SQLState: "40P01"},
			txn.CauseVotedNo, "deadlock"},
		{"regretted", client.Ending{Standing: txn.StandingRolledBack, Evidence: evidence,
			Reason: "rows"},
			txn.BranchVote{Branch: 2, Vote: txn.VoteNo, Evidence: evidence, Reason: "rows"},
			txn.CauseVotedNo, "rows"},
		{"unknown", client.Ending{Err: errReset},
			txn.BranchVote{Branch: 2, Vote: txn.VoteUnknown, Reason: errReset.Error()},
			txn.CauseVoteUnknown, errReset.Error()},
		{"elsewhere", prepared(elsewhere),
			txn.BranchVote{Branch: 2, Vote: txn.VoteNo, Evidence: elsewhere},
			txn.CauseIdentity, "prepared at 1/3"},
		{"in the past", prepared(past),
			txn.BranchVote{Branch: 2, Vote: txn.VoteNo, Evidence: past},
			txn.CauseIdentity, "timeline 1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, a, b, c := leaving(), newKeeper("a"), writer("b"), writer("c")
			b.prepared = tc.b
			inner := d.onCommit
			d.onCommit = func(ctx context.Context, r txn.CommitRequest) (txn.Result, error) {
				wantHistory(t, a.database, "review", "rollback")
				return inner(ctx, r)
			}
			err := client.New(d, client.Delegate("a")).InTx(t.Context(), all(a.database, b, c))
			e := wantAborted(t, err)
			if e.Resource != "b" || e.Cause != tc.cause || e.ID != firstID() ||
				!strings.Contains(e.Error(), tc.says) {
				t.Errorf("%+v: %v", e, e)
			}
			got := voteAt(t, d, 2)
			if tc.vote.Reason == "" {
				got.Reason = ""
			}
			if got != tc.vote {
				t.Errorf("b votes %+v, want %+v", got, tc.vote)
			}
			v := voteAt(t, d, 1)
			if v.Vote != txn.VoteNo || !strings.Contains(v.Reason, "b voted") {
				t.Errorf("the delegate's vote is %+v", v)
			}
			if v := voteAt(t, d, 3); v.Vote != txn.VoteYes {
				t.Errorf("c's vote is %+v", v)
			}
			wantHistory(t, a.database, "review", "rollback")
		})
	}
}

// A newer timeline is what every failover leaves behind, and no reason to refuse.
func TestABranchOnANewerTimelineIsPrepared(t *testing.T) {
	d, a, b := leaving(), newKeeper("a"), writer("b")
	b.prepared.Evidence.Timeline++
	err := client.New(d, client.Delegate("a")).InTx(t.Context(), all(a.database, b))
	if err != nil || voteAt(t, d, 2).Vote != txn.VoteYes {
		t.Errorf("error %v", err)
	}
}

// The No of a branch says more than what is unknown about another.
func TestANoIsTheReasonBeforeWhatIsUnknown(t *testing.T) {
	d, a, b, c := leaving(), newKeeper("a"), writer("b"), writer("c")
	b.prepared = client.Ending{Err: errReset}
	c.prepared = client.Ending{Standing: txn.StandingRolledBack, Reason: "disk full"}
	err := client.New(d, client.Delegate("a")).InTx(t.Context(), all(a.database, b, c))
	if e := wantAborted(t, err); e.Resource != "c" || e.Reason != "disk full" {
		t.Errorf("%+v", e)
	}
}

// A lost answer is no rollback once the marker may have left, whatever it was that Decide said; it
// is one, with or without an answer, if the marker can never exist.
func TestLostAnswersOfADelegatedCommit(t *testing.T) {
	for _, ending := range []client.Ending{withMarker, {Err: errReset}} {
		for _, failure := range []error{
			errReset, txn.Refusef(txn.ReasonRolledBack, "transaction_id", "it is over"),
		} {
			t.Run(fmt.Sprint(ending.Standing, failure), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a, b := newKeeper("a"), writer("b")
					a.ending = ending
					d := silent(failure)
					err := client.New(d, client.Delegate("a")).InTx(t.Context(),
						all(a.database, b))
					wantInDoubt(t, err, firstID())
					wantHistory(t, a.database, "review", "decide")
					wantHistory(t, b, "review", prepareOf(2))
				})
			})
		}
	}
	for name, spoil := range map[string]func(a *keeper, b *database){
		"the delegate was refused": func(a *keeper, _ *database) {
			a.ending = client.Ending{Standing: txn.StandingRolledBack, Reason: "too late"}
		},
		"another branch was": func(_ *keeper, b *database) {
			b.prepared = client.Ending{Standing: txn.StandingRolledBack, Reason: "too late"}
		},
		"another branch is unknown": func(_ *keeper, b *database) {
			b.prepared = client.Ending{Reason: "too late"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newKeeper("a"), writer("b")
				spoil(a, b)
				d := silent(errReset)
				err := client.New(d, client.Delegate("a")).InTx(t.Context(),
					all(a.database, b))
				if e := wantAborted(t, err); e.Reason != "too late" {
					t.Errorf("%+v", e)
				}
				if _, commits := d.calls(); len(commits) < 2 {
					t.Error("the prepared branch was left to its deadline after one try")
				}
			})
		})
	}
}

// silent is a coordinator that is lost once branches have been prepared.
func silent(failure error) *decider {
	d := &decider{leaves: true}
	d.onCommit = func(context.Context, txn.CommitRequest) (txn.Result, error) {
		return txn.Result{}, failure
	}
	d.onOutcome = func(context.Context, txn.ID) (txn.Result, error) {
		return txn.Result{}, failure
	}
	return d
}

// A lost answer is asked for again, with the same votes.
func TestADelegatedCommitIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newKeeper("a"), writer("b")
		d := &decider{leaves: true}
		d.onCommit = func(_ context.Context, r txn.CommitRequest) (txn.Result, error) {
			if _, commits := d.calls(); len(commits) < 4 {
				return txn.Result{ID: r.ID, State: txn.StateInDoubt}, nil
			}
			return committed(r.ID), nil
		}
		err := client.New(d, client.Delegate("a")).InTx(t.Context(), all(a.database, b))
		_, commits := d.calls()
		if err != nil || len(commits) != 4 || a.decided != 1 {
			t.Errorf("error %v after %d commits, %d decisions", err, len(commits), a.decided)
		}
		for _, r := range commits {
			if !slices.Equal(r.Votes, commits[0].Votes) {
				t.Errorf("a repeated Commit is another: %+v", r)
			}
		}
	})
}

// The caller leaves while the others are prepared: the decision is made all the same.
func TestADelegateDecidesAlthoughTheCallerHasGone(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	d, a, b := leaving(), newKeeper("a"), writer("b")
	b.onPrepare = cancel
	if err := client.New(d, client.Delegate("a")).InTx(ctx, all(a.database, b)); err != nil {
		t.Fatal(err)
	}
	if a.cut+b.cut != 0 {
		t.Error("a branch was ended on a context that had ended")
	}
}

// Whoever wrote, the delegate decides.
func TestReadersAndADelegate(t *testing.T) {
	for _, finding := range []client.Finding{client.FoundWriter, client.FoundReader} {
		d, a, b := leaving(), newKeeper("a"), reader("b")
		a.review.Finding = finding
		err := client.New(d, client.Delegate("a")).InTx(t.Context(), all(b, a.database),
			client.Ack(txn.AckDecided))
		if err != nil || voteAt(t, d, 2).Vote != txn.VoteCommitted {
			t.Errorf("the delegate is a %s: %v", finding, err)
		}
		wantHistory(t, a.database, "review", "decide")
		wantHistory(t, b, "review", "commit")
	}
}

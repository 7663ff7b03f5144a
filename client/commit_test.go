package client_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/txn"
)

func TestWithoutABranchNothingIsSent(t *testing.T) {
	d := &decider{}
	var r txn.Result
	err := client.New(d).InTx(t.Context(), func(context.Context) error { return nil },
		client.Report(&r))
	begins, commits := d.calls()
	if err != nil || len(begins)+len(commits) != 0 {
		t.Fatalf("error %v, begins %v, commits %v", err, begins, commits)
	}
	if r.Outcome != txn.OutcomeCommitted || r.Plan != txn.PlanNone {
		t.Errorf("reported %s by plan %s", r.Outcome, r.Plan)
	}
}

func TestOneBranchDecidesAlone(t *testing.T) {
	d, a := &decider{}, writer("a")
	var r txn.Result
	if err := client.New(d).InTx(t.Context(), all(a, a, a), client.Report(&r)); err != nil {
		t.Fatal(err)
	}
	wantHistory(t, a, "commit")
	if begins, _ := d.calls(); len(begins) != 0 {
		t.Errorf("the coordinator was called: %v", begins)
	}
	if r.Plan != txn.PlanOnePhase || r.Outcome != txn.OutcomeCommitted {
		t.Errorf("reported %s by plan %s", r.Outcome, r.Plan)
	}
}

func TestTwoWritersPrepareAndVoteOnce(t *testing.T) {
	d, a, b := &decider{}, writer("a"), writer("b")
	c := client.New(d, client.Name("transfer"))
	if err := c.InTx(t.Context(), all(a, b)); err != nil {
		t.Fatal(err)
	}
	wantHistory(t, a, "review", prepareOf(1))
	wantHistory(t, b, "review", prepareOf(2))
	begins, commits := d.calls()
	if len(begins) != 1 || !slices.Equal(begins[0].Resources, []string{"a", "b"}) ||
		begins[0].Label != "transfer" {
		t.Errorf("begins %+v", begins)
	}
	want := []txn.BranchVote{
		{Branch: 1, Vote: txn.VoteYes, Evidence: evidence},
		{Branch: 2, Vote: txn.VoteYes, Evidence: evidence},
	}
	if len(commits) != 1 || !slices.Equal(commits[0].Votes, want) ||
		commits[0].ID != firstID() || commits[0].Ack != txn.AckApplied {
		t.Errorf("commits %+v", commits)
	}
}

func TestFurtherResourcesAreEnlisted(t *testing.T) {
	d := &decider{}
	dbs := []*database{writer("a"), writer("b"), writer("c"), writer("d")}
	err := client.New(d).InTx(t.Context(), func(ctx context.Context) error {
		if err := all(dbs[:2]...)(ctx); err != nil {
			return err
		}
		// With the id in hand the first Begin is over, so that the rest is enlisted one by one.
		if _, err := client.IDFrom(ctx); err != nil {
			return err
		}
		return all(dbs[2:]...)(ctx)
	})
	if err != nil {
		t.Fatal(err)
	}
	begins, commits := d.calls()
	var names []string
	for i, b := range begins {
		names = append(names, b.Resources...)
		if (i > 0) != (b.ID == firstID()) {
			t.Errorf("request %d has id %s", i, b.ID)
		}
	}
	if !slices.Equal(names, []string{"a", "b", "c", "d"}) {
		t.Errorf("enlisted %q", names)
	}
	if len(commits) != 1 || len(commits[0].Votes) != 4 {
		t.Errorf("commits %+v", commits)
	}
}

func TestNothingIsPreparedBeforeTheCoordinatorKnowsTheBranch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := writer("a"), writer("b")
		d := &decider{}
		d.onBegin = func(_ context.Context, r txn.BeginRequest) (txn.Begun, error) {
			// Everything that can happen without the answer has happened now.
			synctest.Wait()
			wantHistory(t, a, "review")
			wantHistory(t, b, "review")
			return d.enlist(r), nil
		}
		if err := client.New(d).InTx(t.Context(), all(a, b)); err != nil {
			t.Fatal(err)
		}
		wantHistory(t, a, "review", prepareOf(1))
		wantHistory(t, b, "review", prepareOf(2))
	})
}

func TestABranchThatTheCoordinatorDidNotAcknowledgeIsNotPrepared(t *testing.T) {
	a, b := writer("a"), writer("b")
	d := &decider{}
	d.onBegin = func(_ context.Context, r txn.BeginRequest) (txn.Begun, error) {
		begun := d.enlist(r)
		begun.Branches = begun.Branches[:1]
		return begun, nil
	}
	wantAborted(t, client.New(d).InTx(t.Context(), all(a, b)))
	wantHistory(t, a, "review", "rollback")
	wantHistory(t, b, "review", "rollback")
}

func TestARefusedBeginRollsBack(t *testing.T) {
	a, b := writer("a"), writer("b")
	refusal := txn.Refusef(txn.ReasonNoResource, "resources", "no resource %q", "b")
	d := &decider{onBegin: func(context.Context, txn.BeginRequest) (txn.Begun, error) {
		return txn.Begun{}, refusal
	}}
	err := client.New(d).InTx(t.Context(), all(a, b))
	wantAborted(t, err)
	if txn.ReasonOf(err) != txn.ReasonNoResource {
		t.Errorf("error %v does not tell the refusal", err)
	}
	wantHistory(t, a, "review", "rollback")
	if _, commits := d.calls(); len(commits) != 0 {
		t.Errorf("commits %+v of a transaction that never began", commits)
	}
}

// The endings of a transaction with several branches, none of which fails.
func TestReadersAndWriters(t *testing.T) {
	for _, tc := range []struct {
		name    string
		a, b, c *database
		pin     bool
		plan    txn.Plan
		acts    [3][]string
		votes   []txn.Vote
	}{
		{"readers only", reader("a"), reader("b"), reader("c"), false, txn.PlanNone,
			[3][]string{{"review", "commit"}, {"review", "commit"}, {"review", "commit"}},
			[]txn.Vote{txn.VoteReadOnly, txn.VoteReadOnly, txn.VoteReadOnly}},
		{"one writer", reader("a"), writer("b"), reader("c"), false, txn.PlanOnePhase,
			[3][]string{{"review", "commit"}, {"review", "commit"}, {"review", "commit"}},
			[]txn.Vote{txn.VoteReadOnly, txn.VoteReadOnly, txn.VoteReadOnly}},
		{"one writer whose id is known outside", reader("a"), writer("b"), reader("c"), true,
			txn.PlanClassic,
			[3][]string{{"review", "commit"}, {"review", prepareOf(2)}, {"review", "commit"}},
			[]txn.Vote{txn.VoteReadOnly, txn.VoteReadOnly, txn.VoteYes}},
		{"two writers", writer("a"), reader("b"), writer("c"), false, txn.PlanClassic,
			[3][]string{{"review", prepareOf(1)}, {"review", "commit"}, {"review", prepareOf(3)}},
			[]txn.Vote{txn.VoteReadOnly, txn.VoteYes, txn.VoteYes}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := &decider{}
			var r txn.Result
			err := client.New(d).InTx(t.Context(), func(ctx context.Context) error {
				if err := all(tc.a, tc.b, tc.c)(ctx); err != nil || !tc.pin {
					return err
				}
				_, err := client.IDFrom(ctx)
				return err
			}, client.Report(&r))
			if err != nil {
				t.Fatal(err)
			}
			for i, db := range []*database{tc.a, tc.b, tc.c} {
				wantHistory(t, db, tc.acts[i]...)
			}
			if r.Plan != tc.plan || r.Outcome != txn.OutcomeCommitted {
				t.Errorf("%s by plan %s, want %s", r.Outcome, r.Plan, tc.plan)
			}
			if got := votesOf(t, d); !slices.Equal(got, tc.votes) {
				t.Errorf("the coordinator heard %v, want %v", got, tc.votes)
			}
		})
	}
}

func votesOf(t *testing.T, d *decider) []txn.Vote {
	t.Helper()
	_, commits := d.calls()
	if len(commits) != 1 {
		t.Fatalf("%d commits, want 1: %+v", len(commits), commits)
	}
	var votes []txn.Vote
	for _, v := range commits[0].Votes {
		votes = append(votes, v.Vote)
	}
	return votes
}

func TestTheWriterWaitsForTheReaders(t *testing.T) {
	a, b := reader("a"), writer("b")
	a.finished = client.Ending{Standing: txn.StandingRolledBack, SQLState: "40001",
		Err: state("40001")}
	d := &decider{}
	e := wantAborted(t, client.New(d).InTx(t.Context(), all(a, b)))
	wantHistory(t, a, "review", "commit")
	wantHistory(t, b, "review", "rollback")
	if e.Resource != "a" || !e.Retryable || e.SQLState != "40001" {
		t.Errorf("aborted by %+v", e)
	}
	if got := votesOf(t, d); !slices.Equal(got, []txn.Vote{txn.VoteNo, txn.VoteNo}) {
		t.Errorf("the coordinator heard %v", got)
	}
}

func TestAReaderWhoseCommitIsLostStopsTheWriters(t *testing.T) {
	a, b, c := reader("a"), writer("b"), writer("c")
	a.finished = client.Ending{Err: errors.New("connection reset")}
	d := &decider{}
	e := wantAborted(t, client.New(d).InTx(t.Context(), all(a, b, c)))
	if e.Resource != "a" || e.Reason != "connection reset" {
		t.Errorf("aborted by %+v", e)
	}
	if got := votesOf(t, d); got[0] != txn.VoteNo {
		t.Errorf("the coordinator heard %v", got)
	}
}

func TestOnePhaseEndings(t *testing.T) {
	down := errors.New("connection reset")
	for _, tc := range []struct {
		name   string
		ending client.Ending
		check  func(*testing.T, error)
	}{
		{"rolled back", client.Ending{Standing: txn.StandingRolledBack, SQLState: "23505",
			Err: state("23505")}, func(t *testing.T, err error) {
			if a := wantAborted(t, err); a.Resource != "b" || a.SQLState != "23505" || a.Retryable {
				t.Errorf("%+v", a)
			}
		}},
		{"lost", client.Ending{Err: down}, func(t *testing.T, err error) {
			// The coordinator cannot be asked: it took no part.
			wantInDoubt(t, err, txn.ID{})
			if !errors.Is(err, down) {
				t.Errorf("%v hides why", err)
			}
		}},
	} {
		for _, others := range [][]*database{nil, {reader("a")}} {
			b := writer("b")
			b.finished = tc.ending
			d := &decider{}
			err := client.New(d).InTx(t.Context(), all(append(others, b)...))
			tc.check(t, err)
			_, commits := d.calls()
			if told := len(commits) > 0; told && tc.name == "lost" {
				t.Errorf("%s: the coordinator heard %+v about what nobody knows", tc.name, commits)
			}
		}
	}
}

func TestANoVoteIsARollback(t *testing.T) {
	a, b := writer("a"), writer("b")
	b.prepared = client.Ending{Standing: txn.StandingRolledBack, Reason: "deadlock detected",
		SQLState: "40P01", Err: state("40P01")}
	d := &decider{}
	var r txn.Result
	err := client.New(d).InTx(t.Context(), all(a, b), client.Report(&r))
	e := wantAborted(t, err)
	if e.ID != firstID() || e.Cause != txn.CauseVotedNo || e.Resource != "b" ||
		e.SQLState != "40P01" || !e.Retryable || !errors.Is(err, state("40P01")) {
		t.Errorf("%+v", e)
	}
	if got := votesOf(t, d); !slices.Equal(got, []txn.Vote{txn.VoteYes, txn.VoteNo}) {
		t.Errorf("votes %v", got)
	}
	if r.Outcome != txn.OutcomeRolledBack {
		t.Errorf("reported %s", r.Outcome)
	}
	// A prepared branch is the coordinator's: the client has not touched it again.
	wantHistory(t, a, "review", prepareOf(1))
}

func TestACommitAgainstANoVoteIsAlarming(t *testing.T) {
	a, b := writer("a"), writer("b")
	b.prepared = client.Ending{Standing: txn.StandingRolledBack, Reason: "disk full"}
	d := &decider{onCommit: func(_ context.Context, r txn.CommitRequest) (txn.Result, error) {
		return committed(r.ID), nil
	}}
	err := client.New(d).InTx(t.Context(), all(a, b))
	if _, ok := errors.AsType[*client.HeuristicError](err); !ok {
		t.Errorf("error %v, want a HeuristicError", err)
	}
}

func TestAnUnknownVoteIsPassedOn(t *testing.T) {
	a, b := writer("a"), writer("b")
	b.prepared = client.Ending{Err: errors.New("connection reset")}
	d := &decider{}
	if err := client.New(d).InTx(t.Context(), all(a, b)); err != nil {
		t.Fatal(err)
	}
	_, commits := d.calls()
	v := commits[0].Votes[1]
	if v.Vote != txn.VoteUnknown || v.Reason != "connection reset" || !v.Evidence.IsZero() {
		t.Errorf("vote %+v", v)
	}
}

func TestManyGoroutinesShareATransaction(t *testing.T) {
	d := &decider{}
	var dbs []*database
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		dbs = append(dbs, writer(name))
	}
	err := client.New(d).InTx(t.Context(), func(ctx context.Context) error {
		var join sync.WaitGroup
		for range 4 {
			for _, db := range dbs {
				join.Go(func() {
					if err := db.do(ctx); err != nil {
						t.Error(err)
					}
				})
			}
		}
		join.Wait()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, db := range dbs {
		if len(db.opened) != 1 {
			t.Errorf("%s: %d branches", db.name, len(db.opened))
		}
	}
	if got := votesOf(t, d); len(got) != len(dbs) {
		t.Errorf("votes %v", got)
	}
}

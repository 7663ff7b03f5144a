package participanttest

import (
	"context"
	"fmt"
	"testing"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// Logs of the suite. Random ones would do as well; fixed ones read better in a failure.
const (
	ownLog   txn.LogID = 0x0123_4567_89ab_cde
	otherLog txn.LogID = 0x0fed_cba9_8765_432
)

// suite is one run over one resource. Its methods are the tests.
type suite struct {
	Harness
	report *Report
	// epoch and seq only rise, so that no test inherits fences or names of an earlier one.
	epoch txn.Epoch
	seq   txn.Seq
}

// Run holds a resource to the whole contract and returns what it found; at the end of the test it
// logs that as a table, which `go test -v` shows. It may be called once per resource: it assumes
// that no branch of its logs was ever there.
func Run(t *testing.T, h Harness) *Report {
	t.Helper()
	report := &Report{Traits: h.Traits, Owners: h.Foreign != nil}
	s := &suite{Harness: h, report: report}
	t.Cleanup(func() { t.Log(report) })
	for _, c := range Cases() {
		test := func(t *testing.T) { c.test(s, t) }
		switch {
		case s.has(c.Needs):
			report.ask(t, c.Name, Passed, test)
		case c.Instead != "":
			report.ask(t, c.Name, PassedInstead, test)
		default:
			report.Results = append(report.Results, Result{c.Name, NotAsked})
		}
	}
	return report
}

// open opens an adapter that is closed at the test's end.
func (s *suite) open(t *testing.T) participant.Resource {
	t.Helper()
	r, err := s.Open(t)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { s.shut(t, r) })
	return r
}

func (s *suite) shut(t *testing.T, r participant.Resource) {
	t.Helper()
	if c, ok := r.(participant.Closer); ok {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
}

// fence starts a new epoch of the suite's log.
func (s *suite) fence() txn.Fence {
	s.epoch++
	return txn.Fence{Log: ownLog, Epoch: s.epoch, LSN: uint64(s.epoch) * 1000}
}

// name is a name that was never used.
func (s *suite) name() txn.Name {
	s.seq++
	return txn.Name{Log: ownLog, Seq: s.seq, Branch: 1}
}

func keyOf(n txn.Name) string { return fmt.Sprintf("k%d", n.Seq) }

func branches(names ...txn.Name) []participant.Branch {
	b := make([]participant.Branch, len(names))
	for i := range b {
		b[i].Name = names[i]
	}
	return b
}

// prepared is a branch that was prepared and voted Yes for, with its evidence.
func (s *suite) prepared(
	t *testing.T, r participant.Resource, f txn.Fence,
) participant.Branch {
	t.Helper()
	return s.preparedAs(t, r, f, s.name())
}

func (s *suite) preparedAs(
	t *testing.T, r participant.Resource, f txn.Fence, name txn.Name,
) participant.Branch {
	t.Helper()
	v := s.Begin(t, r, f, name, keyOf(name)).Prepare(t)
	if v.Vote != txn.VoteYes {
		t.Fatalf("ordinary work voted %v: %s", v.Vote, v.Reason)
	}
	switch {
	case v.Evidence.Identity.IsZero():
		// No coordinator takes a Yes that does not say whose it is.
		t.Error("a Yes came without an identity")
	case s.Traits.Proof == ProofEvidence && v.Evidence.XID == 0:
		t.Error("a Yes came without evidence")
	}
	return participant.Branch{Name: name, Evidence: v.Evidence}
}

// finding makes a call with one branch.
func finding(
	t *testing.T, call resourceCall, f txn.Fence, b participant.Branch,
) participant.Finding {
	t.Helper()
	got, err := call(context.Background(), f, []participant.Branch{b})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 {
		t.Fatalf("%d findings for one branch", len(got))
	}
	return got[0]
}

type resourceCall func(
	context.Context, txn.Fence, []participant.Branch,
) ([]participant.Finding, error)

// standing asserts the answer of a call with one branch.
func standing(
	t *testing.T, call resourceCall, f txn.Fence, b participant.Branch, want txn.Standing,
) {
	t.Helper()
	got := finding(t, call, f, b)
	if got.Standing != want {
		t.Errorf("standing %v (%s), want %v", got.Standing, got.Reason, want)
	}
	if got.Reason == "" && (want == txn.StandingForeign || want == txn.StandingHeld) {
		t.Errorf("%v without a reason", want)
	}
}

// proven is the answer about a branch that ended as told: the truth where the adapter can prove it
// with what it is given, and Gone otherwise. Anything else would be a guess.
func (s *suite) proven(b participant.Branch, ended txn.Standing) txn.Standing {
	switch {
	case s.Traits.Proof == ProofMemory:
		return ended
	case s.Traits.Proof == ProofEvidence && !b.Evidence.IsZero():
		return ended
	}
	return txn.StandingGone
}

// effect asserts what a reader sees.
func (s *suite) effect(t *testing.T, r participant.Resource, name txn.Name, want bool) {
	t.Helper()
	if got := s.Effect(t, r, keyOf(name)); got != want {
		t.Errorf("effect visible: %v, want %v", got, want)
	}
}

// listed says whether List shows the name, and whether as ours.
func listed(
	t *testing.T, r participant.Resource, f txn.Fence, name txn.Name,
) (there, ours bool) {
	t.Helper()
	l, err := r.List(context.Background(), f)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range l.Branches {
		if b.Name == name {
			if there {
				t.Errorf("%s is listed twice", name)
			}
			there, ours = true, b.Ours
		}
	}
	return there, ours
}

// vote asks the adapter for one vote.
func vote(
	t *testing.T, r participant.Resource, f txn.Fence, name txn.Name,
) participant.Vote {
	t.Helper()
	votes, err := r.Prepare(context.Background(), f, branches(name))
	if err != nil {
		t.Fatal(err)
	}
	if len(votes) != 1 {
		t.Fatalf("%d votes for one branch", len(votes))
	}
	return votes[0]
}

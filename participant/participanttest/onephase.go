package participanttest

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// onePhaser is the capability of an adapter that has it.
func (s *suite) onePhaser(t *testing.T, r participant.Resource) participant.OnePhaser {
	t.Helper()
	one, ok := r.(participant.OnePhaser)
	if !ok {
		t.Fatal("the traits promise one phase, and the adapter is no participant.OnePhaser")
	}
	return one
}

// unharmed says whether an answer may be given about a branch that is not here and never
// committed: with the capability an adapter may know enough to prove it.
func (s *suite) unharmed(got txn.Standing) bool {
	return got == txn.StandingGone || s.Traits.OnePhase && got == txn.StandingRolledBack
}

// testOnePhaseDescribed is also the test of an adapter without the capability: the coordinator
// never calls what the description does not tell of, and a call that comes all the same does
// nothing.
func (s *suite) testOnePhaseDescribed(t *testing.T) {
	r, f := s.open(t), s.fence()
	d, ok := r.(participant.Describer)
	if !ok {
		t.Fatal("the adapter cannot describe its resource")
	}
	got, err := d.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.OnePhase != s.Traits.OnePhase {
		t.Errorf("takes one phase: %v, the traits say %v", got.OnePhase, s.Traits.OnePhase)
	}
	one, has := r.(participant.OnePhaser)
	if s.Traits.OnePhase || !has {
		return
	}
	b := s.prepared(t, r, f)
	if _, err := one.CommitOnePhase(t.Context(), f, []participant.Branch{b}); err == nil {
		t.Error("an adapter without the capability answered")
	}
	s.effect(t, r, b.Name, false)
	standing(t, r.Rollback, f, b, txn.StandingRolledBack)
}

// testOnePhase also goes through a crash: the coordinator's log holds nothing by which it could
// tell the end of the branch, and the resource must.
func (s *suite) testOnePhase(t *testing.T) {
	r, f := s.open(t), s.fence()
	one := s.onePhaser(t, r)
	b := participant.Branch{Name: s.name()}
	s.Begin(t, r, f, b.Name, keyOf(b.Name))
	s.effect(t, r, b.Name, false)
	for range 2 {
		standing(t, one.CommitOnePhase, f, b, txn.StandingCommitted)
		s.effect(t, r, b.Name, true)
	}
	standing(t, r.Inquire, f, b, txn.StandingCommitted)
	if there, _ := listed(t, r, f, b.Name); there {
		t.Error("a committed branch is listed as prepared")
	}
	r = s.Crash(t, r)
	one = s.onePhaser(t, r)
	standing(t, one.CommitOnePhase, f, b, txn.StandingCommitted)
	standing(t, r.Inquire, s.fence(), b, txn.StandingCommitted)
	s.effect(t, r, b.Name, true)
}

// testOnePhaseFailed commits work of which a step had failed.
func (s *suite) testOnePhaseFailed(t *testing.T) {
	r, f := s.open(t), s.fence()
	one := s.onePhaser(t, r)
	b := participant.Branch{Name: s.name()}
	s.Begin(t, r, f, b.Name, keyOf(b.Name)).Fail(t)
	for range 2 {
		standing(t, one.CommitOnePhase, f, b, txn.StandingRolledBack)
		s.effect(t, r, b.Name, false)
	}
	r = s.Crash(t, r)
	one = s.onePhaser(t, r)
	standing(t, one.CommitOnePhase, f, b, txn.StandingRolledBack)
	standing(t, r.Inquire, s.fence(), b, txn.StandingRolledBack)
	s.effect(t, r, b.Name, false)
}

// testOnePhaseLost commits work that is not there any more, or never was. An adapter that proves
// its end says the same of it again.
func (s *suite) testOnePhaseLost(t *testing.T) {
	r, f := s.open(t), s.fence()
	crashed, abandoned, never := s.name(), s.name(), s.name()
	w := s.Begin(t, r, f, crashed, keyOf(crashed))
	r = s.Crash(t, r)
	w.Abandon(t)
	s.Begin(t, r, f, abandoned, keyOf(abandoned)).Abandon(t)
	for what, name := range map[string]txn.Name{"crashed": crashed, "abandoned": abandoned,
		"never begun": never} {
		one := s.onePhaser(t, r)
		b := participant.Branch{Name: name}
		was := finding(t, one.CommitOnePhase, f, b)
		if !s.unharmed(was.Standing) {
			t.Errorf("%s: %v (%s)", what, was.Standing, was.Reason)
		}
		for _, call := range []resourceCall{one.CommitOnePhase, r.Inquire} {
			standing(t, call, f, b, was.Standing)
		}
		s.effect(t, r, name, false)
	}
}

// testOnePhasePrepared commits branches that a vote was asked of after all, with the evidence of
// the vote and without.
func (s *suite) testOnePhasePrepared(t *testing.T) {
	r, f := s.open(t), s.fence()
	one := s.onePhaser(t, r)
	b, bare := s.prepared(t, r, f), participant.Branch{Name: s.prepared(t, r, f).Name}
	for _, b := range []participant.Branch{b, bare} {
		for range 2 {
			standing(t, one.CommitOnePhase, f, b, txn.StandingCommitted)
			s.effect(t, r, b.Name, true)
		}
		if there, _ := listed(t, r, f, b.Name); there {
			t.Error("a committed branch is listed as prepared")
		}
	}
}

// testOnePhaseFenced is the takeover in the middle of a one-phase commit: the newer epoch asks how
// it ended, and what it heard must stay true when the older epoch's call arrives.
func (s *suite) testOnePhaseFenced(t *testing.T) {
	r, old := s.open(t), s.fence()
	one := s.onePhaser(t, r)
	b := participant.Branch{Name: s.name()}
	s.Begin(t, r, old, b.Name, keyOf(b.Name))
	current := s.fence()
	was := finding(t, r.Inquire, current, b)
	if !s.unharmed(was.Standing) {
		t.Errorf("an older epoch's work: %v (%s)", was.Standing, was.Reason)
	}
	_, err := one.CommitOnePhase(context.Background(), old, []participant.Branch{b})
	if !errors.Is(err, participant.ErrFenced) {
		t.Errorf("the late call: %v, want ErrFenced", err)
	}
	s.effect(t, r, b.Name, false)
	for _, call := range []resourceCall{r.Inquire, one.CommitOnePhase, r.Inquire} {
		standing(t, call, current, b, was.Standing)
		s.effect(t, r, b.Name, false)
	}
}

func (s *suite) testOnePhaseOtherLogs(t *testing.T) {
	r, f := s.open(t), s.fence()
	one := s.onePhaser(t, r)
	theirs := txn.Fence{Log: otherLog, Epoch: s.epoch, LSN: f.LSN}
	s.seq++
	b := participant.Branch{Name: txn.Name{Log: otherLog, Seq: s.seq, Branch: 1}}
	s.Begin(t, r, theirs, b.Name, keyOf(b.Name))
	mine := participant.Branch{Name: s.name()}
	s.Begin(t, r, f, mine.Name, keyOf(mine.Name))
	got, err := one.CommitOnePhase(t.Context(), f, []participant.Branch{b, mine})
	if err != nil || len(got) != 2 || got[0].Standing != txn.StandingForeign ||
		got[1].Standing != txn.StandingCommitted {
		t.Fatalf("another log's branch and an own one: %+v, %v", got, err)
	}
	s.effect(t, r, b.Name, false)
	standing(t, one.CommitOnePhase, theirs, b, txn.StandingCommitted)
	s.effect(t, r, b.Name, true)
}

// testOnePhaseConcurrent makes the same call several times at once. Each may hear Unknown while
// another is at work.
func (s *suite) testOnePhaseConcurrent(t *testing.T) {
	r, f := s.open(t), s.fence()
	one := s.onePhaser(t, r)
	var batch []participant.Branch
	for range 8 {
		b := participant.Branch{Name: s.name()}
		s.Begin(t, r, f, b.Name, keyOf(b.Name))
		batch = append(batch, b)
	}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			got, err := one.CommitOnePhase(context.Background(), f, batch)
			if err != nil || len(got) != len(batch) {
				t.Errorf("%d findings, %v", len(got), err)
				return
			}
			for i, g := range got {
				if g.Standing != txn.StandingCommitted && g.Standing != txn.StandingUnknown {
					t.Errorf("%s: %v (%s)", batch[i].Name, g.Standing, g.Reason)
				}
			}
		})
	}
	wg.Wait()
	for _, b := range batch {
		standing(t, one.CommitOnePhase, f, b, txn.StandingCommitted)
		s.effect(t, r, b.Name, true)
	}
}

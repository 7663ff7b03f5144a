package participanttest

import (
	"testing"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

func (s *suite) testDescribe(t *testing.T) {
	d, ok := s.open(t).(participant.Describer)
	if !ok {
		t.Fatal("the adapter cannot describe its resource")
	}
	got, err := d.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.Kind == "" || got.Identity.IsZero() {
		t.Errorf("kind %q, identity %s", got.Kind, got.Identity)
	}
	if want := s.Traits.Proof != ProofNone; got.Evidence != want {
		t.Errorf("has evidence: %v, the traits say %v", got.Evidence, want)
	}
	s.report.Kind, s.report.Version = got.Kind, got.Version
	for _, c := range got.Checks {
		if c.What == "" || (c.Fix == "") != (c.Level == participant.LevelOK) {
			t.Errorf("check %+v: needs a text, and a fix unless it is ok", c)
		}
		if c.Level == participant.LevelFail {
			t.Errorf("the resource under test has a fault: %s", c.What)
		}
	}
}

func (s *suite) testCommit(t *testing.T) {
	r, f := s.open(t), s.fence()
	b := s.prepared(t, r, f)
	s.effect(t, r, b.Name, false)
	standing(t, r.Commit, f, b, txn.StandingCommitted)
	s.effect(t, r, b.Name, true)
	for range 2 {
		standing(t, r.Commit, f, b, s.proven(b, txn.StandingCommitted))
	}
	bare := participant.Branch{Name: b.Name}
	standing(t, r.Commit, f, bare, s.proven(bare, txn.StandingCommitted))
	s.effect(t, r, b.Name, true)
	if there, _ := listed(t, r, f, b.Name); there {
		t.Error("a committed branch is listed as prepared")
	}
}

func (s *suite) testRollback(t *testing.T) {
	r, f := s.open(t), s.fence()
	b := s.prepared(t, r, f)
	standing(t, r.Rollback, f, b, txn.StandingRolledBack)
	s.effect(t, r, b.Name, false)
	standing(t, r.Rollback, f, b, s.proven(b, txn.StandingRolledBack))
	// A commit that comes after all must not be told that it worked.
	standing(t, r.Commit, f, b, s.proven(b, txn.StandingRolledBack))
	s.effect(t, r, b.Name, false)
	if there, _ := listed(t, r, f, b.Name); there {
		t.Error("a rolled back branch is listed as prepared")
	}
}

func (s *suite) testPrepareRepeated(t *testing.T) {
	r, f := s.open(t), s.fence()
	b := s.prepared(t, r, f)
	for range 2 {
		v := vote(t, r, f, b.Name)
		if v.Vote != txn.VoteYes {
			t.Fatalf("repeated: %v (%s)", v.Vote, v.Reason)
		}
		// The position may be a later one: it bounds the prepare from above.
		same := v.Evidence.Identity == b.Evidence.Identity && v.Evidence.XID == b.Evidence.XID
		if !same || v.Evidence.Timeline != b.Evidence.Timeline ||
			v.Evidence.LSN < b.Evidence.LSN {
			t.Errorf("repeated: evidence %+v, was %+v", v.Evidence, b.Evidence)
		}
		b.Evidence = v.Evidence
	}
	standing(t, r.Commit, f, b, txn.StandingCommitted)
	s.effect(t, r, b.Name, true)
	standing(t, r.Commit, f, b, s.proven(b, txn.StandingCommitted))
	if v := vote(t, r, f, b.Name); v.Vote == txn.VoteYes && s.Traits.Proof != ProofMemory {
		t.Error("a branch that is not prepared any more voted Yes")
	}
}

func (s *suite) testPrepareUnknown(t *testing.T) {
	r, f := s.open(t), s.fence()
	v := vote(t, r, f, s.name())
	if v.Vote == txn.VoteYes || v.Vote == txn.VoteReadOnly || v.Reason == "" {
		t.Errorf("vote %v, reason %q", v.Vote, v.Reason)
	}
}

// notYes asserts the votes of a branch that ended without effect: of whoever ran it, No; of an
// adapter that did not run it, Unknown.
func (s *suite) notYes(t *testing.T, v participant.Vote) {
	t.Helper()
	allowed := v.Vote == txn.VoteNo || v.Vote == txn.VoteUnknown && s.Traits.Undecided
	if !allowed || v.Reason == "" {
		t.Errorf("vote %v, reason %q", v.Vote, v.Reason)
	}
}

func (s *suite) testFailedWork(t *testing.T) {
	r, f, name := s.open(t), s.fence(), s.name()
	w := s.Begin(t, r, f, name, keyOf(name))
	w.Fail(t)
	if v := w.Prepare(t); v.Vote != txn.VoteNo || v.Reason == "" {
		t.Errorf("whoever saw the failure voted %v, reason %q", v.Vote, v.Reason)
	}
	s.notYes(t, vote(t, r, f, name))
	if there, _ := listed(t, r, f, name); there {
		t.Error("failed work is prepared")
	}
	standing(t, r.Rollback, f, participant.Branch{Name: name},
		s.proven(participant.Branch{Name: name}, txn.StandingRolledBack))
	s.effect(t, r, name, false)
}

func (s *suite) testAbandonedWork(t *testing.T) {
	r, f, name := s.open(t), s.fence(), s.name()
	s.Begin(t, r, f, name, keyOf(name)).Abandon(t)
	s.notYes(t, vote(t, r, f, name))
	if there, _ := listed(t, r, f, name); there {
		t.Error("abandoned work is prepared")
	}
	s.effect(t, r, name, false)
}

func (s *suite) testFinishUnknown(t *testing.T) {
	r, f := s.open(t), s.fence()
	got := finding(t, r.Commit, f, participant.Branch{Name: s.name()})
	if got.Standing != txn.StandingGone {
		t.Errorf("commit of a branch that never was: %v", got.Standing)
	}
	got = finding(t, r.Inquire, f, participant.Branch{Name: s.name()})
	if !s.unharmed(got.Standing) {
		t.Errorf("inquire of a branch that never was: %v", got.Standing)
	}
	got = finding(t, r.Rollback, f, participant.Branch{Name: s.name()})
	// An adapter that remembers may say RolledBack, because it will see to it.
	remembers := s.Traits.Proof == ProofMemory && got.Standing == txn.StandingRolledBack
	if got.Standing != txn.StandingGone && !remembers {
		t.Errorf("rollback of a branch that never was: %v", got.Standing)
	}
}

func (s *suite) testInquire(t *testing.T) {
	r, f := s.open(t), s.fence()
	b := s.prepared(t, r, f)
	for range 2 {
		standing(t, r.Inquire, f, b, txn.StandingPrepared)
		s.effect(t, r, b.Name, false)
	}
	standing(t, r.Commit, f, b, txn.StandingCommitted)
	standing(t, r.Inquire, f, b, s.proven(b, txn.StandingCommitted))
}

// testInquireShows: who has written down an intent, and no vote, learns from an inquiry what a vote
// would have told: the evidence of what is prepared, and where something was not found that never
// was, be it because its vote was No.
func (s *suite) testInquireShows(t *testing.T) {
	r, f := s.open(t), s.fence()
	l, err := r.List(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	intended := txn.Evidence{Identity: l.Identity, Position: l.Position}
	b := s.prepared(t, r, f)
	got := finding(t, r.Inquire, f, participant.Branch{Name: b.Name, Evidence: intended})
	shown := got.Evidence
	if got.Standing != txn.StandingPrepared || shown.Identity != b.Evidence.Identity ||
		shown.XID != b.Evidence.XID || shown.Timeline != b.Evidence.Timeline {
		t.Errorf("prepared: %+v, voted with %+v", got, b.Evidence)
	}
	refused := participant.Branch{Name: s.name(), Evidence: intended}
	w := s.Begin(t, r, f, refused.Name, keyOf(refused.Name))
	w.Fail(t)
	w.Prepare(t)
	never := participant.Branch{Name: s.name(), Evidence: intended}
	for what, b := range map[string]participant.Branch{"voted no": refused, "unheard of": never} {
		got = finding(t, r.Inquire, f, b)
		if got.Standing != txn.StandingGone && got.Standing != txn.StandingRolledBack ||
			got.Evidence.Identity != l.Identity || got.Evidence.XID != 0 ||
			got.Evidence.Timeline != l.Position.Timeline {
			t.Errorf("never prepared, because it was %s: %+v", what, got)
		}
	}
	// Whatever is remembered of a branch that had been prepared, it must not look like that.
	standing(t, r.Rollback, f, b, txn.StandingRolledBack)
	got = finding(t, r.Inquire, f, participant.Branch{Name: b.Name, Evidence: intended})
	if got.Standing == txn.StandingRolledBack && got.Evidence.XID == 0 {
		t.Errorf("prepared and rolled back: %+v", got)
	}
}

func (s *suite) testResolvedByHand(t *testing.T, commit bool) {
	ended, against := txn.StandingRolledBack, txn.StandingCommitted
	if commit {
		ended, against = against, ended
	}
	r, f := s.open(t), s.fence()
	b := s.prepared(t, r, f)
	s.Resolve(t, r, b.Name, commit)
	s.effect(t, r, b.Name, commit)
	for _, call := range []resourceCall{r.Inquire, r.Commit, r.Rollback} {
		got := finding(t, call, f, b)
		if got.Standing == against {
			t.Errorf("a branch that was %v is told to be %v", ended, against)
		}
		if want := s.proven(b, ended); got.Standing != want {
			t.Errorf("standing %v, want %v", got.Standing, want)
		}
	}
	s.effect(t, r, b.Name, commit)
}

func (s *suite) testCrash(t *testing.T) {
	r, f := s.open(t), s.fence()
	toCommit, toRollback := s.prepared(t, r, f), s.prepared(t, r, f)
	done := s.prepared(t, r, f)
	standing(t, r.Commit, f, done, txn.StandingCommitted)
	unprepared := s.name()
	w := s.Begin(t, r, f, unprepared, keyOf(unprepared))
	r = s.Crash(t, r)

	s.effect(t, r, done.Name, true)
	for _, b := range []participant.Branch{toCommit, toRollback} {
		standing(t, r.Inquire, f, b, txn.StandingPrepared)
		if v := vote(t, r, f, b.Name); v.Vote != txn.VoteYes {
			t.Errorf("asked again after the crash: %v (%s)", v.Vote, v.Reason)
		}
		if there, ours := listed(t, r, f, b.Name); !there || !ours {
			t.Errorf("after the crash: listed %v, ours %v", there, ours)
		}
	}
	s.notYes(t, vote(t, r, f, unprepared))
	w.Abandon(t)
	standing(t, r.Commit, f, toCommit, txn.StandingCommitted)
	standing(t, r.Rollback, f, toRollback, txn.StandingRolledBack)
	s.effect(t, r, toCommit.Name, true)
	s.effect(t, r, toRollback.Name, false)
	s.effect(t, r, unprepared, false)
	standing(t, r.Commit, f, done, s.proven(done, txn.StandingCommitted))
}

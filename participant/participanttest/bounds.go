package participanttest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

func (s *suite) testList(t *testing.T) {
	r, f := s.open(t), s.fence()
	before, err := r.List(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	mine := []participant.Branch{s.prepared(t, r, f), s.prepared(t, r, f), s.prepared(t, r, f)}
	l, err := r.List(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	if l.Identity.IsZero() || l.Truncated || l.Unknown != before.Unknown {
		t.Errorf("identity %s, truncated %v, unknown %d", l.Identity, l.Truncated, l.Unknown)
	}
	if len(l.Branches) != len(before.Branches)+3 || l.Limit > 0 && l.Used != before.Used+3 {
		t.Errorf("%d branches and %d slots, then %d and %d", len(before.Branches), before.Used,
			len(l.Branches), l.Used)
	}
	for _, b := range mine {
		at := slices.IndexFunc(
			l.Branches,
			func(x participant.Listed) bool { return x.Name == b.Name },
		)
		if at < 0 {
			t.Errorf("%s is missing", b.Name)
			continue
		}
		got := l.Branches[at]
		if !got.Ours || got.Age < 0 || got.Evidence.XID != b.Evidence.XID {
			t.Errorf("listed %+v, prepared with %+v", got, b.Evidence)
		}
		standing(t, r.Rollback, f, b, txn.StandingRolledBack)
	}
}

func (s *suite) testOtherLogs(t *testing.T) {
	r, f := s.open(t), s.fence()
	theirs := txn.Fence{Log: otherLog, Epoch: s.epoch, LSN: f.LSN}
	s.seq++
	b := s.preparedAs(t, r, theirs, txn.Name{Log: otherLog, Seq: s.seq, Branch: 1})
	standing(t, r.Commit, f, b, txn.StandingForeign)
	standing(t, r.Rollback, f, b, txn.StandingForeign)
	s.effect(t, r, b.Name, false)
	if there, ours := listed(t, r, f, b.Name); !there || !ours {
		t.Errorf("another log's branch: listed %v, finishable %v, want both", there, ours)
	}
	if v := vote(t, r, f, b.Name); v.Vote == txn.VoteYes {
		t.Error("voted Yes in the name of a log for another one's branch")
	}
	standing(t, r.Commit, theirs, b, txn.StandingCommitted)
	s.effect(t, r, b.Name, true)
}

func (s *suite) testOtherOwners(t *testing.T) {
	r, f, name := s.open(t), s.fence(), s.name()
	if s.Foreign == nil {
		s.preparedAs(t, r, f, name)
		if there, ours := listed(t, r, f, name); !there || !ours {
			t.Errorf("a resource without owners: listed %v, ours %v", there, ours)
		}
		standing(t, r.Rollback, f, participant.Branch{Name: name}, txn.StandingRolledBack)
		return
	}
	remove := s.Foreign(t, name)
	defer remove()
	b := participant.Branch{Name: name}
	for _, call := range []resourceCall{r.Inquire, r.Commit, r.Rollback} {
		standing(t, call, f, b, txn.StandingForeign)
	}
	if v := vote(t, r, f, name); v.Vote == txn.VoteYes {
		t.Error("voted Yes for a branch that it cannot finish")
	}
	if there, ours := listed(t, r, f, name); !there || ours {
		t.Errorf("another owner's branch: listed %v, ours %v", there, ours)
	}
}

// everyMethod calls each method of the resource with one branch, and returns the errors.
func (s *suite) everyMethod(
	r participant.Resource, f txn.Fence, b participant.Branch,
) map[string]error {
	batch := []participant.Branch{b}
	errs := map[string]error{}
	_, errs["Prepare"] = r.Prepare(context.Background(), f, batch)
	_, errs["Commit"] = r.Commit(context.Background(), f, batch)
	_, errs["Rollback"] = r.Rollback(context.Background(), f, batch)
	_, errs["Inquire"] = r.Inquire(context.Background(), f, batch)
	_, errs["List"] = r.List(context.Background(), f)
	if one, ok := r.(participant.OnePhaser); ok && s.Traits.OnePhase {
		_, errs["CommitOnePhase"] = one.CommitOnePhase(context.Background(), f, batch)
	}
	if d, ok := r.(participant.Delegate); ok && s.Traits.Delegate {
		_, errs["Decide"] = d.Decide(context.Background(), f, batch)
		errs["RemoveMarkers"] = d.RemoveMarkers(context.Background(), f, []txn.ID{b.Name.ID()})
	}
	return errs
}

func (s *suite) testFenced(t *testing.T) {
	r, old := s.open(t), s.fence()
	b := s.prepared(t, r, old)
	current := s.fence()
	standing(t, r.Inquire, current, b, txn.StandingPrepared)
	for method, err := range s.everyMethod(r, old, b) {
		if !errors.Is(err, participant.ErrFenced) {
			t.Errorf("%s of the older epoch: %v, want ErrFenced", method, err)
		}
	}
	standing(t, r.Inquire, current, b, txn.StandingPrepared)
	s.effect(t, r, b.Name, false)
	standing(t, r.Commit, current, b, txn.StandingCommitted)
}

// A newer epoch whose log is shorter than the older one's was opened on a backup.
func (s *suite) testRegression(t *testing.T) {
	r, f := s.open(t), s.fence()
	b := s.prepared(t, r, f)
	standing(t, r.Inquire, f, b, txn.StandingPrepared)
	restored := s.fence()
	restored.LSN = f.LSN - 1
	for method, err := range s.everyMethod(r, restored, b) {
		if !errors.Is(err, participant.ErrRegression) {
			t.Errorf("%s with a shorter log: %v, want ErrRegression", method, err)
		}
	}
	s.effect(t, r, b.Name, false)
	// Within an epoch calls overtake each other, and an older position means nothing.
	late := f
	late.LSN--
	standing(t, r.Commit, late, b, txn.StandingCommitted)
}

// testTakeover is a second process on the same resource.
func (s *suite) testTakeover(t *testing.T) {
	first, old := s.open(t), s.fence()
	if !s.Traits.Shared {
		if second, err := s.Open(t); err == nil {
			s.shut(t, second)
			t.Fatal("a resource that is not shared was opened twice")
		}
		return
	}
	done, kept := s.prepared(t, first, old), s.prepared(t, first, old)
	standing(t, first.Commit, old, done, txn.StandingCommitted)
	second, twin := s.open(t), old
	if _, err := second.Commit(t.Context(), twin, []participant.Branch{kept}); !errors.Is(err,
		participant.ErrNotResolver) {
		t.Errorf("a second process of the same epoch: %v, want ErrNotResolver", err)
	}
	s.effect(t, first, kept.Name, false)

	current := s.fence()
	taken := s.prepared(t, second, current)
	standing(t, second.Commit, current, taken, txn.StandingCommitted)
	for what, call := range map[string]resourceCall{"commit": first.Commit,
		"rollback": first.Rollback} {
		_, err := call(t.Context(), old, []participant.Branch{kept})
		if !errors.Is(err, participant.ErrFenced) {
			t.Errorf("%s of the deposed process: %v, want ErrFenced", what, err)
		}
	}
	standing(t, second.Inquire, current, kept, txn.StandingPrepared)
	standing(t, second.Commit, current, kept, txn.StandingCommitted)
}

func (s *suite) testOrder(t *testing.T) {
	r, f := s.open(t), s.fence()
	a, missing := s.prepared(t, r, f), participant.Branch{Name: s.name()}
	other := participant.Branch{Name: txn.Name{Log: otherLog, Seq: 1 << 40, Branch: 1}}
	b := s.prepared(t, r, f)
	batch := []participant.Branch{missing, a, other, b}
	want := []txn.Standing{txn.StandingGone, txn.StandingCommitted, txn.StandingForeign,
		txn.StandingCommitted}
	got, err := r.Commit(t.Context(), f, batch)
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d findings (%v), want %d", len(got), err, len(want))
	}
	for i := range want {
		if got[i].Standing != want[i] {
			t.Errorf("finding %d: %v (%s), want %v", i, got[i].Standing, got[i].Reason, want[i])
		}
	}
	votes, err := r.Prepare(t.Context(), f, batch)
	if err != nil || len(votes) != len(batch) {
		t.Errorf("%d votes (%v), want %d", len(votes), err, len(batch))
	}
}

// testConcurrent commits the same branches from several callers at once, which also list. Each may
// hear Unknown while another is at work, and must hear the truth in the end.
func (s *suite) testConcurrent(t *testing.T) {
	r, f := s.open(t), s.fence()
	var batch []participant.Branch
	for range 12 {
		batch = append(batch, s.prepared(t, r, f))
	}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			got, err := r.Commit(context.Background(), f, batch)
			if err != nil {
				t.Errorf("commit: %v", err)
				return
			}
			for i, g := range got {
				if g.Standing != txn.StandingCommitted && g.Standing != txn.StandingUnknown &&
					g.Standing != s.proven(batch[i], txn.StandingCommitted) {
					t.Errorf("commit of %s: %v (%s)", batch[i].Name, g.Standing, g.Reason)
				}
			}
		})
		wg.Go(func() {
			if _, err := r.List(context.Background(), f); err != nil {
				t.Errorf("list: %v", err)
			}
		})
	}
	wg.Wait()
	for _, b := range batch {
		standing(t, r.Commit, f, b, s.proven(b, txn.StandingCommitted))
		s.effect(t, r, b.Name, true)
	}
}

func (s *suite) testContext(t *testing.T) {
	r, f := s.open(t), s.fence()
	b := s.prepared(t, r, f)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	got, err := r.Commit(ctx, f, []participant.Branch{b})
	if err == nil && got[0].Standing != txn.StandingCommitted &&
		got[0].Standing != txn.StandingUnknown {
		t.Errorf("with an ended context: %v", got[0].Standing)
	}
	after := finding(t, r.Commit, f, b)
	if after.Standing != txn.StandingCommitted &&
		after.Standing != s.proven(b, txn.StandingCommitted) {
		t.Errorf("repeated: %v (%s)", after.Standing, after.Reason)
	}
	s.effect(t, r, b.Name, true)
}

func (s *suite) testLimits(t *testing.T) {
	r, f := s.open(t), s.fence()
	var names []txn.Name
	for range participant.MaxBatch + 1 {
		names = append(names, s.name())
	}
	for _, c := range []struct {
		n    int
		fine bool
	}{{0, true}, {participant.MaxBatch, true}, {participant.MaxBatch + 1, false}} {
		batch := branches(names[:c.n]...)
		calls := map[string]resourceCall{"commit": r.Commit, "rollback": r.Rollback,
			"inquire": r.Inquire}
		if s.Traits.OnePhase {
			calls["one phase"] = s.onePhaser(t, r).CommitOnePhase
		}
		for what, call := range calls {
			got, err := call(t.Context(), f, batch)
			if (err == nil) != c.fine || err == nil && len(got) != c.n {
				t.Errorf("%s of %d branches: %d findings, %v", what, c.n, len(got), err)
			}
		}
		votes, err := r.Prepare(t.Context(), f, batch)
		if (err == nil) != c.fine || err == nil && len(votes) != c.n {
			t.Errorf("prepare of %d branches: %d votes, %v", c.n, len(votes), err)
		}
	}
}

func (s *suite) testSlices(t *testing.T) {
	r, f := s.open(t), s.fence()
	a, b := s.prepared(t, r, f), s.prepared(t, r, f)
	batch := []participant.Branch{a}
	if _, err := r.Inquire(t.Context(), f, batch); err != nil {
		t.Fatal(err)
	}
	batch[0] = b
	standing(t, r.Inquire, f, a, txn.StandingPrepared)
	got, err := r.Commit(t.Context(), f, []participant.Branch{a})
	if err != nil {
		t.Fatal(err)
	}
	got[0] = participant.Finding{}
	s.effect(t, r, a.Name, true)
	s.effect(t, r, b.Name, false)
	standing(t, r.Rollback, f, b, txn.StandingRolledBack)
}

func (s *suite) testClosed(t *testing.T) {
	r, err := s.Open(t)
	if err != nil {
		t.Fatal(err)
	}
	f := s.fence()
	b := s.prepared(t, r, f)
	if _, ok := r.(participant.Closer); ok {
		s.shut(t, r)
		for method, err := range s.everyMethod(r, f, b) {
			if err == nil {
				t.Errorf("%s after Close gave an answer", method)
			}
		}
		s.shut(t, r)
		r = s.open(t)
	}
	standing(t, r.Rollback, f, b, txn.StandingRolledBack)
}

package participanttest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// delegate is the capability of an adapter that has it.
func (s *suite) delegate(t *testing.T, r participant.Resource) participant.Delegate {
	t.Helper()
	d, ok := r.(participant.Delegate)
	if !ok {
		t.Fatal("the traits promise a delegate, and the adapter is no participant.Delegate")
	}
	return d
}

// decisionOf makes the decision of a client over two other branches, which no two tests share.
func decisionOf(name txn.Name) (votes []txn.BranchVote, decision []byte) {
	votes = []txn.BranchVote{
		{Branch: 2, Vote: txn.VoteYes, Evidence: txn.Evidence{
			Identity: txn.Identity{System: 1<<63 + 7, Database: 5},
			Position: txn.Position{Timeline: 3, LSN: 1 << 40}, XID: uint64(name.Seq)}},
		{Branch: 3, Vote: txn.VoteReadOnly},
	}
	return votes, txn.AppendDecision(nil, votes)
}

// delegated is a branch with work that waits for its client's decision.
func (s *suite) delegated(
	t *testing.T, r participant.Resource, f txn.Fence,
) (participant.Branch, Work) {
	t.Helper()
	name := s.name()
	return participant.Branch{Name: name}, s.Begin(t, r, f, name, keyOf(name))
}

// committed is a branch that its client has committed with its marker.
func (s *suite) committed(
	t *testing.T, r participant.Resource, f txn.Fence,
) participant.Branch {
	t.Helper()
	b, w := s.delegated(t, r, f)
	s.decides(t, r, b.Name, w, txn.VoteCommitted)
	return b
}

// decides has the client commit with its marker, and asserts what comes of it.
func (s *suite) decides(
	t *testing.T, r participant.Resource, name txn.Name, w Work, want txn.Vote,
) {
	t.Helper()
	_, decision := decisionOf(name)
	v := s.Decide(t, w, decision)
	if v.Vote != want || want == txn.VoteNo && v.Reason == "" {
		t.Errorf("its client's commit: vote %v (%s), want %v", v.Vote, v.Reason, want)
	}
	if want == txn.VoteCommitted && v.Evidence.Identity.IsZero() {
		t.Error("its client's commit came without evidence")
	}
	s.effect(t, r, name, want == txn.VoteCommitted)
}

// decided asserts the answer of a Decide with one branch.
func (s *suite) decided(
	t *testing.T, d participant.Delegate, f txn.Fence, b participant.Branch, want txn.Standing,
) {
	t.Helper()
	got := finding(t, d.Decide, f, b)
	if got.Standing != want {
		t.Errorf("decided %v (%s), want %v", got.Standing, got.Reason, want)
	}
	if known := got.Standing != txn.StandingUnknown; known == got.Evidence.Identity.IsZero() {
		t.Errorf("decided %v with evidence %+v", got.Standing, got.Evidence)
	}
	if got.Standing == txn.StandingUnknown && got.Reason == "" {
		t.Error("unknown without a reason")
	}
	var votes []txn.BranchVote
	if got.Standing == txn.StandingCommitted {
		votes, _ = decisionOf(b.Name)
	}
	if !slices.Equal(got.Votes, votes) {
		t.Errorf("decided %v with the votes %+v, want %+v", got.Standing, got.Votes, votes)
	}
}

// testDelegateDescribed is also the test of an adapter without the capability: the coordinator
// never calls what the description does not tell of, and a call that comes all the same does
// nothing.
func (s *suite) testDelegateDescribed(t *testing.T) {
	r, f := s.open(t), s.fence()
	d, ok := r.(participant.Describer)
	if !ok {
		t.Fatal("the adapter cannot describe its resource")
	}
	got, err := d.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.Delegate != s.Traits.Delegate {
		t.Errorf("takes decisions: %v, the traits say %v", got.Delegate, s.Traits.Delegate)
	}
	able, has := r.(participant.Delegate)
	if s.Traits.Delegate || !has {
		return
	}
	name := s.name()
	if _, err := able.Decide(t.Context(), f, branches(name)); err == nil {
		t.Error("an adapter without the capability answered")
	}
	if err := able.RemoveMarkers(t.Context(), f, []txn.ID{name.ID()}); err == nil {
		t.Error("an adapter without the capability removed markers")
	}
}

// testDelegateNever: where there is no marker, the question is the decision. A client that comes
// later must not commit, before and after a crash.
func (s *suite) testDelegateNever(t *testing.T) {
	r, f := s.open(t), s.fence()
	d := s.delegate(t, r)
	b, w := s.delegated(t, r, f)
	for range 2 {
		s.decided(t, d, f, b, txn.StandingRolledBack)
	}
	s.decides(t, r, b.Name, w, txn.VoteNo)
	s.decided(t, d, f, b, txn.StandingRolledBack)

	never := participant.Branch{Name: s.name()}
	s.decided(t, d, f, never, txn.StandingRolledBack)
	r = s.Crash(t, r)
	d = s.delegate(t, r)
	// A copy of the client's work is as late as the first one.
	late := s.Begin(t, r, f, never.Name, keyOf(never.Name))
	s.decides(t, r, never.Name, late, txn.VoteNo)
	for _, b := range []participant.Branch{b, never} {
		s.decided(t, d, s.fence(), b, txn.StandingRolledBack)
		s.effect(t, r, b.Name, false)
	}
}

// testDelegateCommits: the marker says with which votes, again and again, to every later epoch, and
// no second one takes its place.
func (s *suite) testDelegateCommits(t *testing.T) {
	r, f := s.open(t), s.fence()
	d := s.delegate(t, r)
	b := s.committed(t, r, f)
	for range 2 {
		s.decided(t, d, f, b, txn.StandingCommitted)
		s.effect(t, r, b.Name, true)
	}
	unasked := s.committed(t, r, f)
	r = s.Crash(t, r)
	d = s.delegate(t, r)
	for _, b := range []participant.Branch{b, unasked} {
		s.decided(t, d, s.fence(), b, txn.StandingCommitted)
		s.effect(t, r, b.Name, true)
	}
}

// testDelegateUnderWay: a marker that may still be taken back, and may still be committed, is no
// marker and not none.
func (s *suite) testDelegateUnderWay(t *testing.T) {
	r, f := s.open(t), s.fence()
	d := s.delegate(t, r)
	for _, commit := range []bool{true, false} {
		b, w := s.delegated(t, r, f)
		_, decision := decisionOf(b.Name)
		end := s.Mark(t, w, decision)
		s.decided(t, d, f, b, txn.StandingUnknown)
		s.effect(t, r, b.Name, false)
		end(commit)
		want := txn.StandingRolledBack
		if commit {
			want = txn.StandingCommitted
		}
		s.decided(t, d, f, b, want)
		s.effect(t, r, b.Name, commit)
	}
}

// testDelegateCrashed: with the branch goes its marker, and the way is free for the other one.
func (s *suite) testDelegateCrashed(t *testing.T) {
	r, f := s.open(t), s.fence()
	b, w := s.delegated(t, r, f)
	_, decision := decisionOf(b.Name)
	s.Mark(t, w, decision)
	r = s.Crash(t, r)
	d := s.delegate(t, r)
	s.decided(t, d, f, b, txn.StandingRolledBack)
	s.effect(t, r, b.Name, false)
}

// testDelegateRaces has client and coordinator write their markers at the same time: whoever of
// them wins, both must say the same in the end.
func (s *suite) testDelegateRaces(t *testing.T) {
	r, f := s.open(t), s.fence()
	d := s.delegate(t, r)
	for range 20 {
		b, w := s.delegated(t, r, f)
		_, decision := decisionOf(b.Name)
		found := make(chan participant.Finding, 1)
		go func() {
			got, err := d.Decide(context.Background(), f, []participant.Branch{b})
			if err != nil || len(got) != 1 {
				t.Errorf("%d findings, %v", len(got), err)
				got = []participant.Finding{{}}
			}
			found <- got[0]
		}()
		v, first := s.Decide(t, w, decision), <-found
		want := txn.StandingRolledBack
		if v.Vote == txn.VoteCommitted {
			want = txn.StandingCommitted
		}
		if v.Vote != txn.VoteCommitted && v.Vote != txn.VoteNo ||
			first.Standing != want && first.Standing != txn.StandingUnknown {
			t.Errorf("its client's commit: vote %v (%s), decided %v (%s)", v.Vote, v.Reason,
				first.Standing, first.Reason)
		}
		s.decided(t, d, f, b, want)
		s.effect(t, r, b.Name, want == txn.StandingCommitted)
	}
}

// testDelegateHeld asks for branches that began at another resource, and in this one's future.
// Nothing is decided by it.
func (s *suite) testDelegateHeld(t *testing.T) {
	r, f := s.open(t), s.fence()
	d := s.delegate(t, r)
	l, err := r.List(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	here := txn.Evidence{Identity: l.Identity, Position: l.Position}
	another, ahead := here, here
	another.System++
	ahead.Timeline++
	for _, ev := range []txn.Evidence{another, ahead} {
		b, w := s.delegated(t, r, f)
		s.decided(t, d, f, participant.Branch{Name: b.Name, Evidence: ev}, txn.StandingHeld)
		s.decides(t, r, b.Name, w, txn.VoteCommitted)
		b.Evidence = here
		s.decided(t, d, f, b, txn.StandingCommitted)
	}
}

func (s *suite) testDelegateOtherLogs(t *testing.T) {
	r, f := s.open(t), s.fence()
	d := s.delegate(t, r)
	theirs := txn.Fence{Log: otherLog, Epoch: s.epoch, LSN: f.LSN}
	s.seq++
	name := txn.Name{Log: otherLog, Seq: s.seq, Branch: 1}
	w := s.Begin(t, r, theirs, name, keyOf(name))
	mine, never := s.committed(t, r, f), participant.Branch{Name: s.name()}
	got, err := d.Decide(t.Context(), f, []participant.Branch{{Name: name}, mine, never})
	if err != nil || len(got) != 3 || got[0].Standing != txn.StandingForeign ||
		got[0].Evidence.Identity.IsZero() || got[1].Standing != txn.StandingCommitted ||
		got[2].Standing != txn.StandingRolledBack {
		t.Fatalf("another log's branch and two own ones: %+v, %v", got, err)
	}
	s.decides(t, r, name, w, txn.VoteCommitted)
	s.decided(t, d, theirs, participant.Branch{Name: name}, txn.StandingCommitted)
}

func (s *suite) testDelegateFenced(t *testing.T) {
	r, old := s.open(t), s.fence()
	d := s.delegate(t, r)
	b := participant.Branch{Name: s.name()}
	done := s.committed(t, r, old)
	current := s.fence()
	s.decided(t, d, current, done, txn.StandingCommitted)
	_, err := d.Decide(t.Context(), old, []participant.Branch{b})
	if !errors.Is(err, participant.ErrFenced) {
		t.Errorf("the late call: %v, want ErrFenced", err)
	}
	err = d.RemoveMarkers(t.Context(), old, []txn.ID{done.Name.ID()})
	if !errors.Is(err, participant.ErrFenced) {
		t.Errorf("the late removal: %v, want ErrFenced", err)
	}
	w := s.Begin(t, r, current, b.Name, keyOf(b.Name))
	s.decides(t, r, b.Name, w, txn.VoteCommitted)
	for _, b := range []participant.Branch{b, done} {
		s.decided(t, d, current, b, txn.StandingCommitted)
	}
}

// markers are those that List shows, in their order.
func (s *suite) markers(t *testing.T, r participant.Resource, f txn.Fence) []txn.ID {
	t.Helper()
	l, err := r.List(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	byID := func(a, b txn.ID) int { return bytes.Compare(a[:], b[:]) }
	if !slices.IsSortedFunc(l.Markers, byID) {
		t.Errorf("the markers are out of order: %v", l.Markers)
	}
	return l.Markers
}

// testDelegateMarkers: of this log's, those of commits are listed and removed. One that says never
// is neither, and one of another log stays where it is.
func (s *suite) testDelegateMarkers(t *testing.T) {
	r, f := s.open(t), s.fence()
	d := s.delegate(t, r)
	before := s.markers(t, r, f)
	never, w := s.delegated(t, r, f)
	s.decided(t, d, f, never, txn.StandingRolledBack)
	var mine []txn.ID
	for range 3 {
		mine = append(mine, s.committed(t, r, f).Name.ID())
	}
	theirs := txn.Fence{Log: otherLog, Epoch: s.epoch, LSN: f.LSN}
	s.seq++
	name := txn.Name{Log: otherLog, Seq: s.seq, Branch: 1}
	s.decides(t, r, name, s.Begin(t, r, theirs, name, keyOf(name)), txn.VoteCommitted)
	if got := s.markers(t, r, f); !slices.Equal(got, slices.Concat(before, mine)) {
		t.Errorf("listed %v, before %v, want %v more", got, before, mine)
	}

	all := append(slices.Clone(mine), never.Name.ID(), name.ID(), s.name().ID())
	for range 2 {
		if err := d.RemoveMarkers(t.Context(), f, all); err != nil {
			t.Fatal(err)
		}
		if got := s.markers(t, r, f); !slices.Equal(got, before) {
			t.Errorf("listed after the removal: %v, want %v", got, before)
		}
	}
	s.decides(t, r, never.Name, w, txn.VoteNo)
	s.decided(t, d, theirs, participant.Branch{Name: name}, txn.StandingCommitted)
}

func (s *suite) testDelegateLimits(t *testing.T) {
	r, f := s.open(t), s.fence()
	d := s.delegate(t, r)
	var names []txn.Name
	for range participant.MaxBatch + 1 {
		names = append(names, s.name())
	}
	for n, fine := range map[int]bool{0: true, len(names) - 1: true, len(names): false} {
		got, err := d.Decide(t.Context(), f, branches(names[:n]...))
		if (err == nil) != fine || fine && len(got) != n {
			t.Errorf("decide %d branches: %d findings, %v", n, len(got), err)
		}
	}
	ids := make([]txn.ID, participant.MaxMarkers+1)
	for i := range ids {
		ids[i] = names[0].ID()
	}
	for n, fine := range map[int]bool{0: true, len(ids) - 1: true, len(ids): false} {
		if err := d.RemoveMarkers(t.Context(), f, ids[:n]); (err == nil) != fine {
			t.Errorf("remove %d markers: %v", n, err)
		}
	}
}

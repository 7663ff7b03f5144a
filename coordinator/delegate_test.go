package coordinator

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// marking is a resource that keeps markers. A nil decision says never.
type marking struct {
	*fakeDB
	markers map[txn.ID][]byte
}

func (d *marking) Describe(ctx context.Context) (participant.Description, error) {
	desc, err := d.fakeDB.Describe(ctx)
	desc.Delegate = true
	return desc, err
}

// mark is what a client does on its own connection. It is false if somebody else was first.
func (d *marking) mark(id txn.ID, votes []txn.BranchVote) (txn.Evidence, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, known := d.markers[id]; known {
		return txn.Evidence{}, false
	}
	d.lsn++
	d.markers[id] = txn.AppendDecision(nil, votes)
	return d.evidence(d.lsn), true
}

func (d *marking) Decide(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	done, err := d.gate(ctx, f)
	if err != nil {
		return nil, err
	}
	found := make([]participant.Finding, len(b))
	for i, x := range b {
		decision, known := d.markers[x.Name.ID()]
		if !known {
			d.markers[x.Name.ID()] = nil
		}
		found[i] = participant.Finding{Standing: txn.StandingRolledBack, Evidence: d.evidence(0)}
		if decision != nil {
			found[i].Standing = txn.StandingCommitted
			found[i].Votes, err = txn.ParseDecision(decision)
		}
	}
	return found, done(err)
}

func (d *marking) RemoveMarkers(ctx context.Context, f txn.Fence, ids []txn.ID) error {
	done, err := d.gate(ctx, f)
	if err != nil {
		return err
	}
	for _, id := range ids {
		delete(d.markers, id)
	}
	return done(nil)
}

func (d *marking) List(ctx context.Context, f txn.Fence) (participant.Listing, error) {
	l, err := d.fakeDB.List(ctx, f)
	d.set(func(*fakeDB) {
		for _, id := range slices.SortedFunc(maps.Keys(d.markers), func(a, b txn.ID) int {
			return slices.Compare(a[:], b[:])
		}) {
			if d.markers[id] != nil {
				l.Markers = append(l.Markers, id)
			}
		}
	})
	return l, err
}

func (d *marking) count() (n int) {
	d.set(func(*fakeDB) { n = len(d.markers) })
	return n
}

// left begins a transaction over a and b whose decision is left to b, and prepares a.
func (w *world) left(c *Coordinator) (txn.Begun, []txn.BranchVote) {
	w.t.Helper()
	b, err := c.Begin(w.t.Context(), txn.BeginRequest{Resources: []string{"a", "b"},
		Delegate: "b"})
	if err != nil || b.Delegate != 2 || b.Branches[1].At.Identity != w.dbs["b"].identity {
		w.t.Fatalf("%+v, %v", b, err)
	}
	return b, []txn.BranchVote{w.dbs["a"].prepare(b.Branches[0].Name)}
}

func delegateWorld(t *testing.T) (*world, *marking, func(*Config)) {
	w := newWorld(t)
	b := &marking{fakeDB: w.dbs["b"], markers: map[txn.ID][]byte{}}
	return w, b, func(cfg *Config) { cfg.Resources[1].Manager = b }
}

// TestDelegate: the client commits at b, the coordinator at a, and the marker goes when nobody
// needs it any more.
func TestDelegate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b, use := delegateWorld(t)
		c := w.open(use)
		begun, votes := w.left(c)
		ev, _ := b.mark(begun.ID, votes)
		r := w.commit(c, begun.ID, append(votes, txn.BranchVote{Branch: 2,
			Vote: txn.VoteCommitted, Evidence: ev}), txn.AckApplied)
		if r.Outcome != txn.OutcomeCommitted || r.Plan != txn.PlanDelegate ||
			len(r.Pending()) != 0 {
			t.Errorf("result %+v", r)
		}
		w.want2(map[string][2]int{"a": {1, 0}, "b": {0, 0}})
		w.await("the marker to be removed", func() bool { return b.count() == 0 })
		if r, err := c.Outcome(t.Context(), begun.ID); r.Outcome != txn.OutcomeCommitted {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// TestDelegateAcrossRestart: whoever wrote the marker first has decided, and the next epoch finds
// out who did.
func TestDelegateAcrossRestart(t *testing.T) {
	for name, marked := range map[string]bool{"the client was first": true, "it was not": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, b, use := delegateWorld(t)
				c := w.open(use)
				begun, votes := w.left(c)
				if marked {
					b.mark(begun.ID, votes)
				}
				w.disk = w.disk.KillClone()
				c.Close()
				w.planIsToAsk(b, begun.ID)
				c = w.open(use)
				w.settled()
				want, ends := txn.OutcomeRolledBack, [2]int{0, 1}
				if marked {
					want, ends = txn.OutcomeCommitted, [2]int{1, 0}
				}
				w.want2(map[string][2]int{"a": ends, "b": {0, 0}})
				rest()
				if r, err := c.Outcome(t.Context(), begun.ID); r.Outcome != want {
					t.Errorf("%+v, %v", r, err)
				}
				if _, first := b.mark(begun.ID, votes); first != marked {
					t.Error("the marker of a commit stays, or one that says never does not")
				}
			})
		})
	}
}

// planIsToAsk looks at what recovery would do: nothing, before the marker was asked for.
func (w *world) planIsToAsk(b *marking, id txn.ID) {
	w.t.Helper()
	state, info, err := ReadState(w.disk, logDir)
	if err != nil {
		w.t.Fatal(err)
	}
	before := b.count()
	rows, err := Plan(w.t.Context(), PlanRequest{State: state,
		Resources: []Resource{{Name: "a", Manager: w.dbs["a"]}, {Name: "b", Manager: b}},
		Fence:     txn.Fence{Log: info.ID, Epoch: info.Epoch}})
	if err != nil || len(rows) != 2 || b.count() != before {
		w.t.Fatalf("%+v, %v", rows, err)
	}
	for _, r := range rows {
		if r.Label != 'R' || r.Verdict != protocol.VerdictLeave || r.Name.ID() != id {
			w.t.Errorf("%+v", r)
		}
	}
}

// TestDelegateIsAway: a delegate that cannot be asked holds its own transaction up and nobody
// else's, and is asked until it answers.
func TestDelegateIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b, use := delegateWorld(t)
		c := w.open(use)
		begun, votes := w.left(c)
		b.set(func(d *fakeDB) { d.down = true })
		r := w.commit(c, begun.ID, append(votes, txn.BranchVote{Branch: 2}), txn.AckApplied)
		if r.Outcome != txn.OutcomeUnknown || r.State != txn.StateInDoubt {
			t.Errorf("result %+v", r)
		}
		b.set(func(d *fakeDB) { d.down = false })
		w.settled()
		w.want2(map[string][2]int{"a": {0, 1}, "b": {0, 0}})
	})
}

// TestDrainLeavesADelegateThatIsAway: the other branches of its transactions wait like it, and
// nobody waits for them.
func TestDrainLeavesADelegateThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b, use := delegateWorld(t)
		c := w.open(use)
		begun, votes := w.left(c)
		b.set(func(d *fakeDB) { d.down = true })
		w.commit(c, begun.ID, append(votes, txn.BranchVote{Branch: 2}), txn.AckDecided)
		if err := w.drained(c); err != nil {
			t.Error(err)
		}
		w.wantTold("b: 1")
	})
}

// TestADelegateThatCannotAnyMore: what the log has left to a resource that keeps no markers now is
// held, with an alarm, and everything else goes on.
func TestADelegateThatCannotAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b, use := delegateWorld(t)
		c := w.open(use)
		begun, votes := w.left(c)
		b.mark(begun.ID, votes)
		w.disk = w.disk.KillClone()
		c.Close()
		c = w.open()
		rest()
		r, err := c.Outcome(t.Context(), begun.ID)
		if r.State != txn.StateInDoubt || err != nil {
			t.Errorf("%+v, %v", r, err)
		}
		id, votes := w.begun(c)
		if r := w.commit(c, id, votes, txn.AckApplied); r.State != txn.StateCommitted {
			t.Errorf("another transaction: %+v", r)
		}
		told := 0
		for _, line := range w.journal.lines(t) {
			because, _ := line["because"].(string)
			if strings.Contains(because, "the resource keeps no markers") {
				told++
			}
		}
		if told != 1 {
			t.Errorf("told %d times", told)
		}
		if err := w.drained(c); err != nil {
			t.Error(err)
		}
		w.wantTold("b: 1")
	})
}

// hiding passes on what a resource must do, and of the rest only who it is.
type hiding struct {
	participant.Resource
	participant.Describer
}

// TestMarkersOfAResourceThatIsNoDelegate: what it lists it cannot remove, and is not told to.
func TestMarkersOfAResourceThatIsNoDelegate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, b, _ := delegateWorld(t)
		c := w.open(func(cfg *Config) { cfg.Resources[1].Manager = hiding{b, b} })
		id, votes := w.begun(c)
		if r := w.commit(c, id, votes, txn.AckApplied); r.State != txn.StateCommitted {
			t.Errorf("%+v", r)
		}
		b.mark(id, votes)
		rest()
		if _, err := c.Outcome(t.Context(), id); err != nil || b.count() != 1 {
			t.Errorf("%d markers, %v", b.count(), err)
		}
	})
}

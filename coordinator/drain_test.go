package coordinator

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// drained is how an operator stops: for an hour at most.
func (w *world) drained(c *Coordinator) error {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Hour)
	defer cancel()
	return c.Drain(ctx)
}

// told are the branches that the journal says a drain has left behind.
func (w *world) told() (branches []string) {
	w.t.Helper()
	for _, line := range w.journal.lines(w.t) {
		if s, ok := line["branches"].(string); ok {
			branches = append(branches, s)
		}
	}
	return branches
}

func (w *world) wantTold(want string) {
	w.t.Helper()
	if got := w.told(); len(got) != 1 || got[0] != want {
		w.t.Errorf("the journal says %q were left, want %q", got, want)
	}
}

// TestDrainLeavesWhatIsDown: branches of a resource that does not answer are left to the log, and
// to the next start.
func TestDrainLeavesWhatIsDown(t *testing.T) {
	for name, dead := range map[string]func(*fakeDB){
		"refusing": func(d *fakeDB) { d.down = true }, "hanging": func(d *fakeDB) { d.hang = true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				c := w.open()
				for range 3 {
					id, votes := w.begun(c)
					w.dbs["b"].set(dead)
					w.commit(c, id, votes, txn.AckDecided)
				}
				if err := w.drained(c); err != nil {
					t.Error(err)
				}
				w.wantTold("b: 3")
				c.Close()
				w.dbs["b"].set(func(d *fakeDB) { d.down, d.hang = false, false })
				w.open()
				w.settled()
				w.want(3, 0)
			})
		})
	}
}

// TestDrainLeavesWhatIsNotConfigured: as above, for a resource that only the log knows.
func TestDrainLeavesWhatIsNotConfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.inDoubt()
		c := w.open(func(cfg *Config) { cfg.Resources = cfg.Resources[:1] })
		if err := w.drained(c); err != nil {
			t.Error(err)
		}
		w.wantTold("b: 1")
	})
}

// TestDrainLeavesWhatAnotherOwns: as above, for an adopted log that has another owner.
func TestDrainLeavesWhatAnotherOwns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c, _, _ := w.adopted(participant.ErrNotResolver)
		if err := w.drained(c); err != nil {
			t.Error(err)
		}
		w.wantTold("a: 1, b: 1")
	})
}

// TestDrainWaitsForTheUndecided: whoever is not decided yet has its time, even if nothing but a
// dead resource is in it: only the coordinator that began it can still commit it.
func TestDrainWaitsForTheUndecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		alone, err := c.Begin(t.Context(), txn.BeginRequest{Resources: []string{"b"},
			Timeout: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		vote := w.dbs["b"].prepare(alone.Branches[0].Name)
		id, votes := w.begun(c)
		w.dbs["b"].set(func(d *fakeDB) { d.down = true })
		w.commit(c, id, votes, txn.AckDecided)
		drained := make(chan error, 1)
		go func() { drained <- w.drained(c) }()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if len(drained) != 0 {
			t.Error("it does not wait for a transaction that could commit")
		}
		r := w.commit(c, alone.ID, []txn.BranchVote{vote}, txn.AckDecided)
		if r.Outcome != txn.OutcomeCommitted {
			t.Errorf("result %+v", r)
		}
		if err := <-drained; err != nil {
			t.Error(err)
		}
		w.wantTold("b: 2")
	})
}

// TestUndecided: a decision on its way to the disk is waited for; one that its only resource makes
// is not ours.
func TestUndecided(t *testing.T) {
	for _, c := range []struct {
		state txn.State
		plan  txn.Plan
		want  bool
	}{
		{txn.StateActive, txn.PlanUnset, true},
		{txn.StatePreparing, txn.PlanUnset, true},
		{txn.StateDeciding, txn.PlanClassic, true},
		{txn.StateDeciding, txn.PlanOnePhase, false},
		{txn.StateInDoubt, txn.PlanOnePhase, false},
		{txn.StateCommitting, txn.PlanClassic, false},
		{txn.StateRollingBack, txn.PlanUnset, false},
	} {
		if got := undecided(txn.Result{State: c.state, Plan: c.plan}); got != c.want {
			t.Errorf("%s by plan %s: %t", c.state, c.plan, got)
		}
	}
}

// TestDrainWaitsForAConnection: what is only a broken connection is waited for.
func TestDrainWaitsForAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		id, votes := w.begun(c)
		drained := make(chan error, 1)
		go func() { drained <- w.drained(c) }()
		time.Sleep(700 * time.Millisecond)
		w.dbs["b"].set(func(d *fakeDB) { d.down = true })
		w.commit(c, id, votes, txn.AckDecided)
		time.Sleep(300 * time.Millisecond)
		w.dbs["b"].set(func(d *fakeDB) { d.down = false })
		if err := <-drained; err != nil {
			t.Error(err)
		}
		w.want(1, 0)
		if told := w.told(); len(told) != 0 {
			t.Errorf("the journal says %q were left", told)
		}
	})
}

// TestDrainHasABound: what holds it up is told as an error when its context ends.
func TestDrainHasABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		w.begun(c)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := c.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}

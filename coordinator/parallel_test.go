package coordinator

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// TestParallelIsToldWhenDecided: the intent is written beside the prepares, and the caller hears of
// the commit; phase two follows.
func TestParallelIsToldWhenDecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		b := w.announced(c)
		r := w.commit(c, b.ID, w.prepareAll(b), txn.AckDecided)
		if r.Outcome != txn.OutcomeCommitted || r.Plan != txn.PlanParallel {
			t.Errorf("result %+v", r)
		}
		w.settled()
		w.want(1, 0)
		// Without an announcement the resources are asked beside the intent.
		id, _ := w.begun(c)
		if r := w.commit(c, id, nil, txn.AckDecided); r.Plan != txn.PlanParallel {
			t.Errorf("result %+v", r)
		}
		w.settled()
		classic := w.open2(c, func(cfg *Config) { cfg.Classic = true })
		b = w.announced(classic)
		if r := w.commit(classic, b.ID, w.prepareAll(b), txn.AckDecided); r.Plan !=
			txn.PlanClassic {
			t.Errorf("result %+v", r)
		}
		w.settled()
		w.want(3, 0)
	})
}

// TestWithoutEvidence: with a resource that cannot prove how a branch ended the plan is the classic
// one, the journal warns of it, and a commit whose answer is lost becomes a hazard.
func TestWithoutEvidence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.dbs["b"]
		b.blind = true
		c := w.open()
		begun := w.announced(c)
		r := w.commit(c, begun.ID, w.prepareAll(begun), txn.AckDecided)
		if r.Outcome != txn.OutcomeCommitted || r.Plan != txn.PlanClassic {
			t.Errorf("result %+v", r)
		}
		w.settled()
		if !slices.ContainsFunc(w.journal.lines(t), func(line map[string]any) bool {
			text, _ := line["msg"].(string)
			return line["resource"] == "b" && strings.Contains(text, "cannot prove")
		}) {
			t.Error("the journal does not warn")
		}
		begun = w.announced(c)
		votes := w.prepareAll(begun)
		b.set(func(d *fakeDB) { d.deaf = true })
		w.commit(c, begun.ID, votes, txn.AckDecided)
		time.Sleep(5 * time.Second)
		b.set(func(d *fakeDB) { d.deaf = false })
		time.Sleep(time.Minute)
		got, err := c.Outcome(t.Context(), begun.ID)
		if err != nil || got.Outcome != txn.OutcomeHeuristicHazard {
			t.Errorf("the answer was lost: %+v, %v", got, err)
		}
	})
}

// open2 opens the log again, after its coordinator c.
func (w *world) open2(c *Coordinator, change func(*Config)) *Coordinator {
	w.t.Helper()
	if err := c.Close(); err != nil {
		w.t.Fatal(err)
	}
	return w.open(change)
}

// announced begins a transaction over a and b, and announces that they are being prepared.
func (w *world) announced(c *Coordinator) txn.Begun {
	w.t.Helper()
	b, err := c.Begin(w.t.Context(), txn.BeginRequest{Resources: []string{"a", "b"}})
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := c.Commit(w.t.Context(), txn.CommitRequest{ID: b.ID, Intent: true})
	if err != nil || r.State != txn.StatePreparing || r.Outcome != txn.OutcomeUnknown {
		w.t.Fatalf("intent: %+v, %v", r, err)
	}
	return b
}

func (w *world) prepareAll(b txn.Begun) (votes []txn.BranchVote) {
	for _, e := range b.Branches {
		votes = append(votes, w.dbs[e.Resource].prepare(e.Name))
	}
	return votes
}

// TestIntentAcrossRestart: the coordinator dies with an intent in its log. What its successor does,
// and what a plan of recovery says that it would do, follows from all branches together.
func TestIntentAcrossRestart(t *testing.T) {
	for name, c := range map[string]struct {
		// prepare and lose name the databases at which the branch is prepared, and then lost.
		prepare, lose []string
		labels        []protocol.Label
		verdict       protocol.Verdict
		outcome       txn.Outcome
		left          int
	}{
		"all prepared": {prepare: []string{"a", "b"}, labels: []protocol.Label{'M', 'M'},
			verdict: protocol.VerdictCommit, outcome: txn.OutcomeCommitted},
		"one never prepared": {prepare: []string{"a"}, labels: []protocol.Label{'M', 'N'},
			verdict: protocol.VerdictRollback, outcome: txn.OutcomeRolledBack},
		"one lost by a failover": {prepare: []string{"a", "b"}, lose: []string{"b"},
			labels: []protocol.Label{'M', 'O'}, verdict: protocol.VerdictLeave,
			outcome: txn.OutcomeHeuristicHazard, left: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				first := w.open()
				b := w.announced(first)
				synctest.Wait()
				// Power is lost before the votes are heard.
				w.disk = w.disk.CrashClone(rand.New(rand.NewPCG(1, 2)))
				first.Close()
				for _, e := range b.Branches {
					db := w.dbs[e.Resource]
					if slices.Contains(c.prepare, e.Resource) {
						db.prepare(e.Name)
					}
					if slices.Contains(c.lose, e.Resource) {
						db.set(func(d *fakeDB) {
							delete(d.prepared, e.Name)
							d.timeline++
						})
					}
				}
				w.planned(b.ID, c.labels, c.verdict)
				second := w.open()
				w.await("an outcome", func() bool {
					r, err := second.Outcome(t.Context(), b.ID)
					return err == nil && r.Outcome != txn.OutcomeUnknown
				})
				if r, _ := second.Outcome(t.Context(), b.ID); r.Outcome != c.outcome {
					t.Errorf("result %+v", r)
				}
				if c.left == 0 {
					w.settled()
				} else if err := second.Settle(t.Context()); err != nil {
					t.Error(err)
				}
				n, _, _ := w.dbs["a"].counts()
				if n != c.left {
					t.Errorf("%d branches of a are left, want %d", n, c.left)
				}
			})
		})
	}
}

// planned checks what a plan of recovery says about the branches of id.
func (w *world) planned(id txn.ID, labels []protocol.Label, verdict protocol.Verdict) {
	w.t.Helper()
	state, info, err := ReadState(w.disk, logDir)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, running := range []bool{false, true} {
		rows, err := Plan(w.t.Context(), PlanRequest{State: state, Running: running,
			Resources: w.config().Resources,
			Fence:     txn.Fence{Log: info.ID, Epoch: info.Epoch}})
		if err != nil || len(rows) != len(labels) {
			w.t.Fatalf("rows %+v, %v", rows, err)
		}
		for i, r := range rows {
			label, want := labels[i], protocol.VerdictLeave
			switch {
			case running:
				// A coordinator that runs may be about to decide.
				label = 'F'
			case label == 'M':
				want = verdict
			}
			if r.Name.ID() != id || r.Label != label || r.Verdict != want {
				w.t.Errorf("running %v: %+v, want %s and %s", running, r, label, want)
			}
		}
	}
}

package explore

import (
	"testing"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// leftWorld is a world in which the decision of transaction 1 is left to its branch 2, durably, and
// its branch 1 is prepared.
func leftWorld(t *testing.T) (*world, *entry) {
	t.Helper()
	sc := Scenario{Resources: append(resources("a", proves), resources("b", marks)...),
		Transactions: delegated("a", "b"),
		Bounds:       Bounds{Crashes: 1, Rollbacks: 1, Losses: 1, Failovers: 1, LostOps: 1}}
	w := newWorld(&sc)
	for _, c := range []choice{{kind: doBegin}, {kind: doPersist}, {kind: doPrepare}} {
		w.take(c)
	}
	e := &w.entries[0]
	if w.broken != nil || !e.asking || e.delegate != 2 || e.unheard || !e.branches[0].prepared {
		t.Fatalf("%+v", e)
	}
	return w, e
}

// TestWrongWhileLeft: what must not be done or said while the decision is left to a branch.
func TestWrongWhileLeft(t *testing.T) {
	for _, c := range []wrong{
		{"a record of nobody's transaction", CommitValidity, func(w *world, _ *entry) {
			w.checkAppend(protocol.DelegateRecord{ID: txn.NewID(logID, 7),
				Branches: []protocol.CommitBranch{{Branch: 1, RM: 1}}})
		}},
		{"told before it is durable", LogBeforeSend, func(w *world, e *entry) {
			w.log = nil
			w.checkTold(e)
		}},
		{"told of fewer branches", ClientTruth, func(w *world, e *entry) {
			w.heard(0, e, &txn.Begun{ID: e.id, Delegate: 2})
		}},
		{"a commit without a marker", CommitValidity, func(w *world, e *entry) {
			w.checkAppend(protocol.CommitRecord{ID: e.id, Plan: txn.PlanDelegate})
		}},
		{"COMMIT without a marker", LogBeforeSend, func(w *world, _ *entry) {
			w.checkMessage(message(protocol.ActCommit, 1, name1(1)))
		}},
		{"COMMIT of the delegate's own branch", LogBeforeSend, func(w *world, _ *entry) {
			w.take(choice{kind: doDecide})
			w.checkMessage(message(protocol.ActCommit, 2, name1(2)))
		}},
		{"a rollback message", PresumedAbort, func(w *world, _ *entry) {
			w.checkMessage(message(protocol.ActRollback, 1, name1(1)))
		}},
		{"told committed", LogBeforeSend, func(w *world, e *entry) {
			w.checkResult(told(e, txn.OutcomeCommitted))
		}},
		{"told rolled back", ClientTruth, func(w *world, e *entry) {
			w.checkResult(told(e, txn.OutcomeRolledBack))
		}},
		{"refused as decided", LogBeforeSend, func(w *world, e *entry) {
			w.checkRefusal(request{event: protocol.Rollback{ID: e.id}},
				refusal(txn.ReasonAlreadyDecided))
		}},
		{"an abort behind the marker's back", ClientTruth, func(w *world, e *entry) {
			w.take(choice{kind: doDecide})
			w.checkAppend(protocol.AbortRecord{ID: e.id})
		}},
		{"an invented loss", NoMaskedHeuristic, func(w *world, e *entry) {
			w.take(choice{kind: doDecide})
			w.checkAppend(protocol.HeuristicRecord{ID: e.id, Branch: 2, RM: 2,
				What: txn.BranchHeuristicHazard})
		}},
		{"a marker removed before the end", Forget, func(w *world, e *entry) {
			w.take(choice{kind: doDecide})
			w.removed(protocol.Removal{RM: 2, IDs: []txn.ID{e.id}})
		}},
		{"a marker that stays for ever", Liveness, func(w *world, e *entry) {
			w.take(choice{kind: doDecide})
			w.checkRest()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, e := leftWorld(t)
			w.sc.Only = c.want
			c.do(w, e)
			if w.broken == nil {
				t.Errorf("%q does not complain", c.want)
			}
		})
	}
}

// TestTheMarkerDecides: whoever writes the marker first has the word, whatever else happens.
func TestTheMarkerDecides(t *testing.T) {
	for _, c := range []struct {
		name  string
		steps []choice
		want  txn.Outcome
	}{
		{"the client is first", []choice{{kind: doDecide}}, txn.OutcomeCommitted},
		{"nobody hears of it", []choice{{kind: doDecideGiveUp}, {kind: doArrive}},
			txn.OutcomeCommitted},
		{"it never arrives", []choice{{kind: doDecideGiveUp}}, txn.OutcomeRolledBack},
		{"the client calls it off", []choice{{kind: doCallOff}, {kind: doCommit}},
			txn.OutcomeRolledBack},
		{"somebody rolls back", []choice{{kind: doRollback}}, txn.OutcomeRolledBack},
		{"somebody rolls back too late", []choice{{kind: doDecide}, {kind: doRollback}},
			txn.OutcomeCommitted},
		{"the marker is lost", []choice{{kind: doDecide}, {kind: doFailover, a: 1, b: 1}},
			txn.OutcomeHeuristicHazard},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, e := leftWorld(t)
			for _, step := range c.steps {
				w.take(step)
			}
			w.take(choice{kind: doCrash})
			w.settle()
			if w.broken != nil || e.told != c.want {
				t.Errorf("%v, told %s", w.broken, e.told)
			}
		})
	}
}

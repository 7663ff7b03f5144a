package explore

import (
	"slices"
	"testing"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// calledWorld is a world in which a call of transaction 1 was carried out twice, each time in a
// part of its own that is prepared, and only the first has been answered.
func calledWorld(t *testing.T) (*world, *entry) {
	t.Helper()
	sc := Scenario{Resources: resources("ab", proves),
		Transactions: calling(ofClient("a"), "b"),
		Bounds:       Bounds{Retries: 1, Losses: 1, Enlists: 1, Crashes: 1}}
	w := newWorld(&sc)
	for _, c := range []choice{{kind: doBegin}, {kind: doPrepare}, {kind: doRun}, {kind: doRun},
		{kind: doPrepare, b: 1}, {kind: doPrepare, b: 2}, {kind: doHome, b: 1}} {
		w.take(c)
	}
	e := &w.entries[0]
	if w.broken != nil || len(e.branches) != 3 || !e.branches[1].heard || e.branches[2].heard {
		t.Fatalf("%+v", e)
	}
	return w, e
}

// TestWrongParts: what must not be done with the parts of a transaction.
func TestWrongParts(t *testing.T) {
	for _, c := range []wrong{
		{"a branch of another part", ExactlyOnce, func(w *world, e *entry) {
			w.begunReply(0, 2, &txn.Begun{ID: e.id, Branches: []txn.Enlisted{{Branch: 2}}})
		}},
		{"a branch of the client", ExactlyOnce, func(w *world, e *entry) {
			w.begunReply(0, 1, &txn.Begun{ID: e.id, Branches: []txn.Enlisted{{Branch: 1}}})
		}},
		{"a commit of what nobody has heard of", CommitValidity, func(w *world, e *entry) {
			w.checkAppend(commitOf(e))
		}},
		{"a commit beside what nobody has heard of", CommitValidity, func(w *world, e *entry) {
			r := commitOf(e)
			r.Branches, e.branches[2].readOnly = r.Branches[:2], true
			w.checkAppend(r)
		}},
		{"one phase, beside what nobody has heard of", CommitValidity, func(w *world, e *entry) {
			w.checkAppend(protocol.OnePhaseRecord{ID: e.id, Branch: commitOf(e).Branches[0]})
		}},
		{"a call that commits twice", ExactlyOnce, func(w *world, e *entry) {
			e.branches[2].heard = true
			w.commitAt(&w.resources[1], name1(2), txn.Evidence{})
			w.commitAt(&w.resources[1], name1(3), txn.Evidence{})
		}},
		{"a part that is refused", AbortValidity, func(w *world, e *entry) {
			w.faulty = false
			w.checkRefusal(request{event: protocol.Begin{Request: txn.BeginRequest{ID: e.id,
				Part: partOf(1)}}}, refusal(txn.ReasonClosed))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, e := calledWorld(t)
			c.do(w, e)
			if w.broken == nil || w.broken.Checker != c.want {
				t.Errorf("%v, want %q", w.broken, c.want)
			}
		})
	}
}

// TestCalls: what a client does commits with the one part of which it has heard, or not at all.
func TestCalls(t *testing.T) {
	for _, c := range []struct {
		name  string
		steps []choice
		want  txn.Outcome
		// committed are the branches that are.
		committed []bool
	}{
		{"made twice", []choice{{kind: doRun}, {kind: doRun}, {kind: doPrepare, b: 1},
			{kind: doHome, b: 1}, {kind: doCommit}}, txn.OutcomeRolledBack,
			[]bool{false, false, false}},
		{"made again too late", []choice{{kind: doRun}, {kind: doPrepare, b: 1},
			{kind: doHome, b: 1}, {kind: doCommit}, {kind: doRun}}, txn.OutcomeCommitted,
			[]bool{true, true}},
		{"answered in vain", []choice{{kind: doRun}, {kind: doPrepare, b: 1},
			{kind: doLost}, {kind: doCommit}}, txn.OutcomeRolledBack, []bool{false, false}},
		{"lost on the way there", []choice{{kind: doLost}, {kind: doCommit}, {kind: doRun}},
			txn.OutcomeCommitted, []bool{true}},
		{"asking again", []choice{{kind: doRun}, {kind: doRunAgain, b: 1},
			{kind: doPrepare, b: 1}, {kind: doHome, b: 1}, {kind: doCommit}},
			txn.OutcomeCommitted, []bool{true, true}},
		{"a crash before Commit", []choice{{kind: doRun}, {kind: doPrepare, b: 1},
			{kind: doHome, b: 1}, {kind: doCrash}, {kind: doCommit}, {kind: doRun}},
			txn.OutcomeRolledBack, []bool{false, false}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sc := Scenario{Resources: resources("ab", proves),
				Transactions: calling(ofClient("a"), "b"),
				Bounds:       Bounds{Retries: 1, Losses: 1, Enlists: 1, Crashes: 1}}
			w := newWorld(&sc)
			for _, step := range append([]choice{{kind: doBegin}, {kind: doPrepare}}, c.steps...) {
				if !slices.Contains(w.choices(nil), step) {
					t.Fatalf("step %d is not possible", step.kind)
				}
				w.take(step)
			}
			w.settle()
			var committed []bool
			for _, b := range w.entries[0].branches {
				committed = append(committed, b.committed)
			}
			if told := w.entries[0].told; w.broken != nil || told != c.want ||
				!slices.Equal(committed, c.committed) {
				t.Errorf("%v, told %s, committed: %v", w.broken, told, committed)
			}
		})
	}
}

// TestClientsWait: Commit is not sent before every call is answered or given up.
func TestClientsWait(t *testing.T) {
	w, _ := calledWorld(t)
	if !slices.Contains(w.choices(nil), choice{kind: doCommit}) {
		t.Error("a client whose call was answered waits for another answer")
	}
	w.clients[0].answered = 0
	for _, c := range w.choices(nil) {
		if c.kind == doCommit {
			t.Error("a client does not wait for an answer")
		}
	}
}

package sim

import (
	"github.com/gavel-tx/gavel/coordinator/core"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// What the driver and the clients do only by a flaw, and what needs more than a line.

// garble makes another heuristic outcome of one that was told before.
func (w *world) garble(r *txn.Result) {
	e := w.book.entry(r.ID)
	if w.opt.flaw != renames || e == nil || !e.told.IsHeuristic() || r.Outcome != e.told {
		return
	}
	r.Outcome = txn.OutcomeHeuristicHazard
	if e.told == r.Outcome {
		r.Outcome = txn.OutcomeHeuristicMixed
	}
}

// guess tells somebody who has no answer that a transaction was rolled back.
func (w *world) guess(id txn.ID) {
	w.say("told without an answer that %d is rolled back", "", uint64(id.Seq()))
	w.checkResult(&txn.Result{ID: id, Outcome: txn.OutcomeRolledBack})
}

// sweepBlind rolls back what a database lists of ours, without a look at what is running.
func (l *life) sweepBlind(d *database, f txn.Fence, listed []participant.Listed) {
	for _, n := range listed {
		t := l.w.book.truth(n.Name)
		if t == nil || t.db != d.no || l.w.book.bySq[n.Name.Seq].committed {
			continue
		}
		q := question{what: core.Rollback, fence: f,
			branches: []participant.Branch{{Name: n.Name, Evidence: n.Evidence}}}
		l.ask(d, q, func(core.Answer) {})
	}
}

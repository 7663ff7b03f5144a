package sim

import (
	"slices"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// checkIntent demands that what an intent leaves out has nothing to commit: a later epoch would
// commit the others without it.
func (w *world) checkIntent(r protocol.IntentRecord) {
	e := w.book.entry(r.ID)
	if e == nil || e.life != w.life || e.toldBack || e.sentBack || e.asking || e.committed {
		w.fail(clientTruth, "the intent of %d comes after its end", r.ID.Seq())
		return
	}
	w.checkDeadline(e)
	listed := uint64(0)
	for _, b := range r.Branches {
		listed |= bit(b.Branch)
	}
	w.checkReaders(e, listed)
}

// checkAbort holds a recorded abort against what was told, against what the resources have, and
// against what they have shown to the later epoch that records it.
func (w *world) checkAbort(r protocol.AbortRecord) {
	e := w.book.entry(r.ID)
	switch {
	case e == nil || !e.asking && e.intending != w.life:
		w.fail(abortValidity, "the abort of %d is recorded for no reason", r.ID.Seq())
	case e.deciding == w.life:
		w.fail(unknownAppend, "%d is aborted while its commit is in flight", e.id.Seq())
	case e.implied && !w.overruled(e):
		w.fail(oneTruth, "%d was told to be committed, and is aborted", e.id.Seq())
	case e.delegate != 0:
		w.checkUnmarked(e)
	case e.life == w.life || e.intent == 0:
	case !e.refuted():
		w.fail(abortValidity, "%d is aborted, and all branches were prepared", e.id.Seq())
	default:
		w.count[foundNever]++
	}
	if e == nil {
		return
	}
	if n, found := w.committedBranch(e); found {
		w.fail(clientTruth, "%d is aborted, and %s is committed", e.id.Seq(), n)
	}
}

// refuted says whether an inquiry has shown that a branch of an intent was not prepared. By now it
// may be: what nobody waits for arrives late.
func (e *entry) refuted() bool {
	return slices.ContainsFunc(e.intended(), func(t truth) bool { return t.absent })
}

// intended are the branches that the intent lists.
func (e *entry) intended() (all []truth) {
	for i, t := range e.branches {
		if e.intent&bit(txn.BranchNo(i+1)) != 0 {
			all = append(all, t)
		}
	}
	return all
}

// checkImplied is about a commit that is told ahead of its record: every branch that its durable
// intent lists is prepared at this moment, as far as its database has not been robbed of it, and
// the others have only read.
func (w *world) checkImplied(e *entry) {
	w.checkReaders(e, e.intent)
	for i := range e.branches {
		t, no := &e.branches[i], txn.BranchNo(i+1)
		n := txn.NameOf(e.id, no)
		there := t.prepared && (t.touched() || w.dbs[t.db].primary.isPrepared(n))
		if e.intent&bit(no) != 0 && !there {
			w.fail(logBeforeSend, "%d is told committed ahead of its record, and %s is not "+
				"prepared", e.id.Seq(), n)
		}
	}
	if !e.implied {
		e.implied = true
		w.count[implied]++
		w.ambush()
	}
}

// checkHazard is about a branch that makes an intent a matter for a person: a person has ended it,
// or its database has failed over since the intent was written.
func (w *world) checkHazard(t *truth, n txn.Name) {
	w.count[foundGone]++
	if !t.touched() && w.dbs[t.db].primary.timeline == t.intended.Timeline {
		w.fail(maskedHeuristic, "%s makes its intent a hazard, and nothing has happened to it", n)
	}
}

// checkLeft is about what is left to a person, in the end: people know.
func (w *world) checkLeft(e *entry) {
	if !e.left() {
		return
	}
	for i := range e.branches {
		if no := txn.BranchNo(i + 1); e.heuristic&bit(no) != 0 && !e.branches[i].alarmed {
			w.fail(maskedHeuristic, "%d is left to a person, and nobody was alarmed about %s",
				e.id.Seq(), txn.NameOf(e.id, no))
		}
	}
}

// left says whether an intent, or what was left to a delegate, is left to a person: it is not
// known, and cannot be, whether it is committed.
func (e *entry) left() bool {
	return e.asking && (e.intent != 0 || e.delegate != 0) && e.heuristic != 0
}

// overruled says whether a person has ended a branch of an intent before its record was durable,
// in a database without a memory of what has ended. That then shows what it shows of a branch that
// was never prepared, and a later epoch aborts what may have been told to be committed.
func (w *world) overruled(e *entry) bool {
	if e.intent == 0 || e.committed {
		return false
	}
	return slices.ContainsFunc(e.intended(), func(t truth) bool {
		return !w.dbs[t.db].spec.kv && (t.humanCommit || t.humanRollback)
	})
}

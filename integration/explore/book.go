package explore

import (
	"slices"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// entry is the true history of one transaction: what nobody in the world knows as a whole, and what
// the checkers compare with everything that is said and done.
type entry struct {
	id     txn.ID
	client int
	// epoch is the one that began it.
	epoch    txn.Epoch
	branches []truth

	// committed: a COMMIT record is durable, and listed says for which branches, by their bits.
	committed bool
	listed    uint64
	// asking: a ONE_PHASE or an INTENT record is durable. Until its resources have answered, no
	// record means nothing.
	asking bool
	// intent says for which branches an INTENT was handed to the log, owned that somebody was
	// proven to own the log after all of them had been prepared.
	intent uint64
	owned  bool
	// delegate is the branch to which the decision was left, on a timeline, and unheard says that
	// its client has not been told. decision is what its marker holds, marked that it was written,
	// and ended that END is durable.
	delegate        txn.BranchNo
	timeline        uint32
	decision        []txn.BranchVote
	unheard, marked bool
	ended           bool
	// meddled: a person has ended a prepared branch before the decision was durable, at a resource
	// that does not remember how its branches ended.
	meddled bool
	// aborted: an ABORT record is durable.
	aborted bool
	// heuristic says for which branches a HEURISTIC record is durable.
	heuristic uint64
	// told is the last final answer that anybody was given.
	told txn.Outcome
	// rolledBack: somebody was told so, or a branch was.
	toldBack, sentBack bool
}

// truth is what has really happened to one branch.
type truth struct {
	resource int
	// run is the run of a call whose part it is of, or zero: the client's own. heard: the client
	// has heard of it.
	run   int
	heard bool
	// reader: it writes nothing. readOnly: it has said so, and ended.
	reader, readOnly bool
	// prepared: it was prepared durably, once, with this evidence.
	prepared bool
	evidence txn.Evidence
	// committed and rolledBack were done by the coordinator's word, ended by the session itself.
	committed, rolledBack, ended bool
	// humanCommit and humanRollback were done by a person, lost by a failover, which may also have
	// returned it to where it was before it ended.
	humanCommit, humanRollback, lost, returned bool
	// proven: the machine was told of the commit, truly.
	proven bool
	// alarmed: people were told of it.
	alarmed bool
}

func bit(no txn.BranchNo) uint64 { return 1 << no }

// touched says whether somebody other than the coordinator has ended the branch.
func (t *truth) touched() bool { return t.humanCommit || t.humanRollback || t.lost }

// done says whether the branch was committed, by whomever.
func (t *truth) done() bool { return t.committed || t.humanCommit }

// isPrepared says whether all of some branches were durably prepared, and none has ended by the
// coordinator's word.
func (e *entry) isPrepared(branches uint64) bool {
	for i := range e.branches {
		t := &e.branches[i]
		if branches&bit(txn.BranchNo(i+1)) != 0 && (!t.prepared || t.committed || t.rolledBack) {
			return false
		}
	}
	return true
}

// untraced says whether a person may have undone what the intent had prepared without a trace: an
// intent does not hold the numbers by which a resource tells how a branch has ended.
func (e *entry) untraced() bool { return e.meddled && e.intent != 0 }

// committedBranch is a branch that is committed by the coordinator's word, now and by what its
// resource has: not by a person, and not one whose commit a failover has taken back.
func (w *world) committedBranch(e *entry) (n txn.Name, found bool) {
	for i := range e.branches {
		t, n := &e.branches[i], txn.NameOf(e.id, txn.BranchNo(i+1))
		s, _ := w.resources[t.resource].standing(n)
		if t.committed && !t.humanCommit && s == txn.StandingCommitted {
			return n, true
		}
	}
	return txn.Name{}, false
}

// readsOnly says whether no branch has written: such a transaction is committed and rolled back at
// once, and either answer is true.
func (e *entry) readsOnly() bool {
	for i := range e.branches {
		if !e.branches[i].readOnly {
			return false
		}
	}
	return true
}

// deciding says whether a record by which it may be committed is in flight.
func (w *world) deciding(id txn.ID) bool {
	return slices.ContainsFunc(w.inflight, func(a protocol.Append) bool {
		switch r := a.Record.(type) {
		case protocol.CommitRecord:
			return r.ID == id
		case protocol.OnePhaseRecord:
			return r.ID == id
		case protocol.IntentRecord:
			return r.ID == id
		}
		return false
	})
}

// ending says whether an ABORT record is in flight.
func (w *world) ending(id txn.ID) bool {
	return slices.ContainsFunc(w.inflight, func(a protocol.Append) bool {
		r, ok := a.Record.(protocol.AbortRecord)
		return ok && r.ID == id
	})
}

// implied says whether a commit may be told ahead of its record: the intent is durable, all of its
// branches are prepared, ownership of the log was proven after that, and nobody aborts it.
func (w *world) implied(e *entry) bool {
	return e.intent != 0 && e.asking && e.owned && e.isPrepared(e.intent) && !w.ending(e.id)
}

// noteDurable keeps what the disk now says.
func (w *world) noteDurable(r protocol.Record) {
	switch r := r.(type) {
	case protocol.CommitRecord:
		e := w.entry(r.ID)
		if e == nil {
			return
		}
		e.committed, e.asking = true, false
		for _, b := range r.Branches {
			e.listed |= bit(b.Branch)
		}
		w.checkKeys(e)
	case protocol.OnePhaseRecord:
		w.entry(r.ID).asking = true
	case protocol.IntentRecord:
		w.entry(r.ID).asking = true
	case protocol.DelegateRecord:
		w.entry(r.ID).asking = true
	case protocol.EndRecord:
		for _, id := range r.IDs {
			if e := w.entry(id); e != nil {
				e.ended = true
			}
		}
	case protocol.AbortRecord:
		e := w.entry(r.ID)
		e.asking, e.aborted = false, true
	case protocol.HeuristicRecord:
		w.entry(r.ID).heuristic |= bit(r.Branch)
	}
}

func (w *world) notePrepared(n txn.Name, ev txn.Evidence) {
	t := w.truth(n)
	if t.prepared {
		w.fail(ExactlyOnce, "%s is prepared twice", describeName(n))
	}
	t.prepared, t.evidence = true, ev
}

func (w *world) noteCommitted(n txn.Name) {
	t := w.truth(n)
	if t == nil {
		return
	}
	t.committed, t.lost = true, false
	e := w.entry(n.ID())
	if e.toldBack || e.aborted {
		w.fail(ClientTruth, "%s commits after its transaction was rolled back", describeName(n))
	}
	if t.run != 0 {
		w.sights.add("commit what a call did")
	}
	w.checkOnce(e, t)
}

func (w *world) noteRolledBack(n txn.Name) {
	t := w.truth(n)
	if t == nil {
		return
	}
	t.rolledBack, t.lost = true, false
	if !t.heard {
		w.sights.add("roll back what nobody has heard of")
	}
}

// noteAnswer keeps whether the machine was told, truly, that a branch is committed: after that
// nobody need ask again.
func (w *world) noteAnswer(c call) {
	t := w.truth(c.msg.Name)
	if t != nil && !w.deposed && c.standing == txn.StandingCommitted && t.done() {
		t.proven = true
	}
}

// noted keeps that people were told of a branch: by an alarm of its own or, after a restart, by the
// outcome of its transaction.
func (w *world) noted(n protocol.Note) {
	if n.Kind == protocol.NoteAlarm && w.sc.calm() {
		w.fail(NeedlessAlarm, "a person is called: %s", n.Reason)
	}
	e := w.entry(n.ID)
	if e == nil {
		return
	}
	heuristic := n.Kind == protocol.NoteDone && n.Result.Outcome.IsHeuristic()
	for i := range e.branches {
		own := n.Kind == protocol.NoteAlarm && int(n.Name.Branch) == i+1
		if own || heuristic {
			e.branches[i].alarmed = true
		}
	}
}

// noteCut keeps what a failover has taken away. A branch whose commit alone was cut off is prepared
// again; one whose preparation was is lost.
func (w *world) noteCut(r *resource, cut []op) {
	for _, o := range cut {
		t := w.truth(o.name)
		if t == nil || o.kind == opNever || o.kind == opUnmark {
			continue
		}
		s, _ := r.standing(o.name)
		t.lost = t.lost || s == txn.StandingUnknown
		t.returned = true
	}
}

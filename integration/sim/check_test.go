package sim

import (
	"errors"
	"fmt"
	"slices"

	"github.com/gavel-tx/gavel/coordinator/core"
	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/integration/explore"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// The checkers have the names, and keep the promises, of package explore. In their sentences
// "committed" and "rolled back" are what really happened, unless they say "told".
const (
	atomicity       = explore.Atomicity
	oneTruth        = explore.OneTruth
	commitValidity  = explore.CommitValidity
	abortValidity   = explore.AbortValidity
	acknowledged    = explore.AcknowledgedDurability
	logBeforeSend   = explore.LogBeforeSend
	presumedAbort   = explore.PresumedAbort
	forget          = explore.Forget
	fencing         = explore.Fencing
	unknownAppend   = explore.UnknownAppend
	exactlyOnce     = explore.ExactlyOnce
	containment     = explore.Containment
	maskedHeuristic = explore.NoMaskedHeuristic
	clientTruth     = explore.ClientTruth
	assertion       = explore.Assertion
	liveness        = explore.Liveness

	// corruptionDetected: a log that was damaged is refused, and one that was not is opened.
	corruptionDetected explore.Checker = "corruption detected"
	// deadline: what was undecided at its deadline is never committed.
	deadline explore.Checker = "deadline"
	// diskFullGrace: a full disk ends nothing, and is noticed to have space again.
	diskFullGrace explore.Checker = "disk-full grace"
)

// checkers lists all of them. Which alarm had no cause is for the explorer to say: so much goes on
// here at once that there is always one.
func checkers() []explore.Checker {
	all := slices.DeleteFunc(explore.Checkers(), func(c explore.Checker) bool {
		return c == explore.NeedlessAlarm
	})
	return append(all, corruptionDetected, deadline, diskFullGrace)
}

// fail notes the first broken promise, which ends the world.
func (w *world) fail(c explore.Checker, format string, args ...any) {
	if w.broken == nil {
		w.broken = &explore.Broken{Checker: c, What: fmt.Sprintf(format, args...)}
		w.say("%s is broken", string(c))
	}
}

func (w *world) checkAppend(r protocol.Record) {
	switch r := r.(type) {
	case protocol.CommitRecord:
		w.checkDecision(r)
	case protocol.OnePhaseRecord:
		w.checkOnePhase(r)
	case protocol.IntentRecord:
		w.checkIntent(r)
	case protocol.AbortRecord:
		w.checkAbort(r)
	case protocol.EndRecord:
		for _, id := range r.IDs {
			w.checkEnd(id)
		}
	case protocol.HeuristicRecord:
		w.checkHeuristic(r)
	case protocol.RangeRecord:
		w.checkRange(r)
	}
}

func (w *world) checkDecision(r protocol.CommitRecord) {
	e := w.book.entry(r.ID)
	if e == nil {
		w.fail(commitValidity, "transaction %d is committed, and nobody has begun it", r.ID.Seq())
		return
	}
	if e.life != w.life && !e.asking {
		w.fail(commitValidity, "%d is decided by an epoch that has not begun it", r.ID.Seq())
	}
	w.checkDeadline(e)
	w.checkHeard(e)
	if e.toldBack || e.sentBack || e.aborted {
		w.fail(clientTruth, "transaction %d is committed after it was rolled back", r.ID.Seq())
	}
	listed := uint64(0)
	for _, b := range r.Branches {
		listed |= bit(b.Branch)
		if int(b.Branch) > len(e.branches) {
			w.fail(commitValidity, "%d has no branch %d", r.ID.Seq(), b.Branch)
			return
		}
		w.checkVote(r.Plan, b, txn.NameOf(r.ID, b.Branch))
	}
	w.checkMarked(e, r.Plan)
	if e.delegate != 0 {
		listed |= bit(e.delegate)
	}
	w.checkReaders(e, listed)
	if e.intent != 0 && e.life != w.life {
		w.count[foundPrepared]++
	}
}

// checkReaders demands of every branch that a decision does not list that it has proven to be a
// reader.
func (w *world) checkReaders(e *entry, listed uint64) {
	for i := range e.branches {
		if no := txn.BranchNo(i + 1); listed&bit(no) == 0 && !e.branches[i].readOnly {
			w.fail(commitValidity, "%d is committed without its branch %d", e.id.Seq(), no)
		}
	}
}

// checkDeadline is about a transaction that its own epoch is about to commit. Until then nothing
// has decided it, unless a record that is durable or in flight may commit it.
func (w *world) checkDeadline(e *entry) {
	if e.life == w.life && !e.asking && e.intending != w.life && w.life.clock() >= e.deadline {
		w.fail(deadline, "%d is committed, and was undecided at its deadline", e.id.Seq())
	}
}

func (w *world) checkVote(p txn.Plan, b protocol.CommitBranch, n txn.Name) {
	t := w.book.truth(n)
	switch {
	case w.life.resource(b.RM) != t.db:
		w.fail(commitValidity, "%s is listed at another resource", n)
	case p == txn.PlanOnePhase:
		if !t.done() {
			w.fail(commitValidity, "%s did not commit in one phase", n)
		}
	case !t.prepared:
		w.fail(commitValidity, "%s is committed, and was never prepared", n)
	case b.Evidence.Identity != w.dbs[t.db].identity:
		w.fail(commitValidity, "%s is committed, and was prepared in another database", n)
	case b.Evidence.Identity != t.evidence.Identity || b.Evidence.XID != t.evidence.XID ||
		before(b.Evidence.Position, t.evidence.Position):
		w.fail(commitValidity, "the evidence of %s is not that of its vote", n)
	}
}

func (w *world) checkOnePhase(r protocol.OnePhaseRecord) {
	e := w.book.entry(r.ID)
	if e == nil || e.toldBack || e.sentBack {
		w.fail(clientTruth, "%d is committed in one phase, and was rolled back", r.ID.Seq())
		return
	}
	w.checkDeadline(e)
	w.checkHeard(e)
	w.checkReaders(e, bit(r.Branch.Branch))
}

// checkEnd looks at every branch that the decision lists. What was proven committed once need not
// be looked at again, though a failover may undo it.
func (w *world) checkEnd(id txn.ID) {
	e := w.book.entry(id)
	if e == nil || !e.committed {
		w.fail(forget, "%d is ended without a durable decision", id.Seq())
		return
	}
	for i := range e.branches {
		t, no := &e.branches[i], txn.BranchNo(i+1)
		switch {
		case e.listed&bit(no) == 0 || t.proven:
		case t.touched() && !t.done():
			w.fail(maskedHeuristic, "%d is ended, and %s is not committed", id.Seq(),
				txn.NameOf(id, no))
		default:
			w.fail(forget, "%d is ended, and nobody has proven that %s is committed", id.Seq(),
				txn.NameOf(id, no))
		}
	}
}

// checkHeuristic holds a recorded contradiction against the branch: it must not be invented.
func (w *world) checkHeuristic(r protocol.HeuristicRecord) {
	n := txn.NameOf(r.ID, r.Branch)
	t := w.book.truth(n)
	if t == nil {
		w.fail(maskedHeuristic, "%s is recorded as %s, and does not exist", n, r.What)
		return
	}
	ok := true
	switch r.What {
	case txn.BranchHeuristicRollback:
		ok = t.humanRollback || t.ended
	case txn.BranchHeuristicCommit:
		ok = t.humanCommit
	case txn.BranchHeuristicHazard:
		// Who has found it gone cannot know of a PREPARE that was still on its way, nor of a
		// failover that nobody has seen.
		ok = t.returned || t.absent || t.misled || !w.dbs[t.db].primary.isPrepared(n)
	}
	if !ok {
		w.fail(maskedHeuristic, "%s is recorded as %s, and is not", n, r.What)
	}
	switch e := w.book.entry(r.ID); {
	case e.asking && e.intent != 0:
		w.checkHazard(t, n)
	case e.asking && n.Branch == e.delegate:
		w.checkLoss(e, n)
	}
}

// checkRange keeps the presumption of abort away from what may still turn up.
func (w *world) checkRange(r protocol.RangeRecord) {
	for _, d := range w.dbs {
		for _, n := range d.primary.prepared {
			if n.Seq < r.Low {
				w.fail(presumedAbort, "outcomes below %d are forgotten, and %s is prepared", r.Low,
					n)
			}
		}
	}
}

// checkOurs keeps calls away from branches that are not ours.
func (w *world) checkOurs(d *database, n txn.Name) {
	if t := w.book.truth(n); t == nil || t.db != d.no {
		w.fail(containment, "%s is asked to finish %s, which is not ours", d.name, n)
	}
}

// checkCall holds a call against what is durable, in the moment in which it is made.
func (w *world) checkCall(d *database, q question) {
	w.checkRemoval(q.ids)
	for _, b := range q.branches {
		w.checkOurs(d, b.Name)
		if w.broken != nil {
			return
		}
		w.checkAct(w.book.bySq[b.Name.Seq], q.what, b)
	}
}

func (w *world) checkAct(e *entry, what core.What, b participant.Branch) {
	switch what {
	case core.Prepare:
		switch {
		case e.life != w.life:
			w.fail(commitValidity, "%s is asked to vote by another epoch", b.Name)
		case e.delegate != 0:
			w.fail(commitValidity, "%s is asked to vote, and its client should have", b.Name)
		}
	case core.Commit:
		listed := e.committed && e.listed&bit(b.Name.Branch) != 0
		if !listed && (!e.marked || b.Name.Branch == e.delegate) {
			w.fail(logBeforeSend, "%s is told to commit without a durable record", b.Name)
		}
	case core.Rollback:
		w.checkRollback(e, b.Name)
	case core.Decide:
		w.checkDecide(e, b.Name)
	case core.OnePhase, core.Inquire:
		if !e.asking && !e.committed && !e.aborted {
			w.fail(logBeforeSend, "%s is asked to decide without a durable record", b.Name)
		}
	}
}

func (w *world) checkRollback(e *entry, n txn.Name) {
	e.sentBack = true
	switch {
	case w.deciding(e):
		w.fail(unknownAppend, "%s is told to roll back while its commit is in flight", n)
	case e.committed || e.asking:
		w.fail(presumedAbort, "%s is told to roll back, and its commit or intent is durable", n)
	case w.runs(e):
		w.fail(presumedAbort, "%s is told to roll back, and its transaction runs", n)
	case w.opt.calm:
		w.fail(abortValidity, "%s is told to roll back for no reason", n)
	}
}

// deciding says whether the running coordinator has a record in flight that decides e, or after
// which a later epoch may find it committed.
func (w *world) deciding(e *entry) bool {
	return w.life != nil && (e.deciding == w.life || e.intending == w.life)
}

// runs says whether the machine itself takes a transaction for one that may commit, by the list
// that it gives of those in memory.
func (w *world) runs(e *entry) bool {
	after := txn.ID{}
	if e.id.Seq() > 1 {
		after = txn.NewID(logID, e.id.Seq()-1)
	}
	page, _ := w.life.driver.machine().List(after, 1)
	return len(page) == 1 && page[0].ID == e.id && page[0].State != txn.StateRollingBack &&
		page[0].State != txn.StateHeuristic
}

// checkAtomicity looks at the branches after something has happened to one of them.
func (w *world) checkAtomicity(e *entry) {
	for i := range e.branches {
		for j := range e.branches {
			a, b := &e.branches[i], &e.branches[j]
			if a.committed && !e.undone(i) && (b.rolledBack || b.ended) {
				w.fail(atomicity, "branch %d of %d is committed, and branch %d is rolled back",
					i+1, e.id.Seq(), j+1)
			}
		}
	}
}

// checkReplay holds what a restart has read against what was durable before.
func (w *world) checkReplay(s *protocol.State) {
	for _, e := range w.book.all {
		if e.id.Seq() < s.Low {
			continue
		}
		d := s.OpenDecision(e.id)
		switch {
		case e.committed && !s.Committed(e.id),
			e.asking && (d == nil || !d.Asking),
			e.told == txn.OutcomeCommitted && !e.readsOnly() && !s.Committed(e.id) &&
				(d == nil || !d.Asking) && !w.overruled(e):
			w.fail(acknowledged, "the commit of %d was durable, and the log has lost it",
				e.id.Seq())
		case e.heuristic != 0 && (d == nil || len(d.Heuristics) == 0):
			w.fail(acknowledged, "the heuristic end of %d was durable, and the log has lost it",
				e.id.Seq())
		}
	}
}

// checkKeys counts the transactions of a key that are committed.
func (w *world) checkKeys(e *entry) {
	if e.key == "" {
		return
	}
	for _, o := range w.book.all {
		known := o.id.Seq() >= w.book.low
		if o != e && known && o.committed && o.key == e.key {
			w.fail(exactlyOnce, "transactions %d and %d of one key are both committed",
				o.id.Seq(), e.id.Seq())
		}
	}
}

// checkResult holds an answer against what has happened, and against the answers before.
func (w *world) checkResult(r *txn.Result) {
	e := w.book.entry(r.ID)
	if e == nil {
		w.fail(clientTruth, "an answer about %d, which nobody has begun", r.ID.Seq())
		return
	}
	if r.Outcome == txn.OutcomeForgotten {
		w.count[forgotten]++
		if w.opt.machine.Retention == 0 {
			w.fail(clientTruth, "%d is forgotten, and is younger than the retention", r.ID.Seq())
		}
	}
	if e.readsOnly() {
		return
	}
	for _, b := range r.Branches {
		t := &e.branches[b.Branch-1]
		if b.State == txn.BranchCommitted && !t.done() && !t.lost {
			w.fail(maskedHeuristic, "%s is told to be committed, and is not", b.Name)
		}
	}
	switch {
	case r.Outcome == txn.OutcomeCommitted:
		w.checkToldCommitted(e)
	case r.Outcome == txn.OutcomeRolledBack:
		w.checkToldBack(e)
	case r.Outcome.IsHeuristic() && e.heuristic == 0:
		w.fail(logBeforeSend, "%d is told %s, and no record says so", e.id.Seq(), r.Outcome)
	}
	w.tell(e, r.Outcome)
}

// checkToldCommitted wants the record to be durable, or an intent from which it follows. That the
// one branch of a one-phase commit has committed is not enough: its database need not remember that
// for ever.
func (w *world) checkToldCommitted(e *entry) {
	switch {
	case e.committed, e.marked:
		return
	case e.asking && e.intent != 0:
		w.checkImplied(e)
		return
	}
	if w.deciding(e) {
		w.fail(unknownAppend, "%d is told committed while its commit is in flight", e.id.Seq())
	}
	w.fail(logBeforeSend, "%d is told committed without a durable record", e.id.Seq())
}

func (w *world) checkToldBack(e *entry) {
	e.toldBack = true
	switch {
	case w.deciding(e):
		w.fail(unknownAppend, "%d is told rolled back while its commit is in flight", e.id.Seq())
	case e.committed || e.asking:
		w.fail(clientTruth, "%d is told rolled back, and its commit or intent is durable",
			e.id.Seq())
	case w.opt.calm:
		w.fail(abortValidity, "%d is rolled back for no reason", e.id.Seq())
	}
	if n, found := w.committedBranch(e); found {
		w.fail(clientTruth, "%d is told rolled back, and %s is committed", e.id.Seq(), n)
	}
}

// committedBranch is a branch that is committed by the coordinator's word, now and by what its
// database has: not by a person, and not one whose commit a failover has taken back.
func (w *world) committedBranch(e *entry) (n txn.Name, found bool) {
	for i := range e.branches {
		t, n := &e.branches[i], txn.NameOf(e.id, txn.BranchNo(i+1))
		kind := w.dbs[t.db].primary.rows[n].kind
		kept := kind == opCommit || kind == opPlain || kind == opMark
		if t.committed && !t.humanCommit && kept {
			return n, true
		}
	}
	return txn.Name{}, false
}

// tell keeps a final answer. A decision may turn out to be contradicted by a branch, which makes it
// a heuristic outcome; nothing else may change but by being forgotten.
func (w *world) tell(e *entry, o txn.Outcome) {
	if o == txn.OutcomeUnknown || o == txn.OutcomeForgotten {
		return
	}
	contradicted := o.IsHeuristic() && !e.told.IsHeuristic()
	overruled := e.told == txn.OutcomeCommitted && o == txn.OutcomeRolledBack && w.overruled(e)
	if e.told != txn.OutcomeUnknown && e.told != o && !contradicted && !overruled &&
		!w.worsened(e, o) {
		w.fail(oneTruth, "%d was told %s, and now %s", e.id.Seq(), e.told, o)
	}
	e.told = o
}

// worsened says whether another branch was contradicted since a heuristic outcome was told.
func (w *world) worsened(e *entry, o txn.Outcome) bool {
	return e.told.IsHeuristic() && o.IsHeuristic() && e.heuristic&(e.heuristic-1) != 0
}

// checkRefusal holds the reason of a refusal against what has happened: some say how the
// transaction ended.
func (w *world) checkRefusal(of protocol.Event, err error) {
	refusal, ok := errors.AsType[*txn.Refusal](err)
	if !ok {
		w.fail(clientTruth, "an error that says nothing of its effect: %v", err)
		return
	}
	if refusal.Reason == txn.ReasonLogFull {
		w.count[refusedFull]++
	}
	e := w.book.entry(subject(of))
	if e == nil {
		return
	}
	switch refusal.Reason {
	case txn.ReasonNotFound, txn.ReasonRegression, txn.ReasonForeign:
		w.fail(clientTruth, "%d was begun, and is refused as %s", e.id.Seq(), refusal.Reason)
	case txn.ReasonRolledBack:
		if e.heuristic == 0 {
			w.checkToldBack(e)
		}
	case txn.ReasonAlreadyDecided:
		if e.heuristic == 0 && !e.readsOnly() {
			w.checkToldCommitted(e)
		}
	}
}

// subject is the transaction that an event is about.
func subject(e protocol.Event) txn.ID {
	switch e := e.(type) {
	case protocol.Begin:
		return e.Request.ID
	case protocol.Commit:
		return e.Request.ID
	case protocol.Rollback:
		return e.ID
	case protocol.Ask:
		return e.ID
	}
	return txn.ID{}
}

package explore

import (
	"errors"
	"fmt"
	"slices"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// Checker names a promise that is held against every step.
type Checker string

// The checkers. In their sentences "committed" and "rolled back" are what really happened, unless
// they say "told".
const (
	// Atomicity: no branch is committed by the coordinator's word while another of its transaction
	// is rolled back by it, or has ended without being prepared.
	Atomicity Checker = "atomicity"
	// OneTruth: final answers never contradict each other, whoever gave and got them, and across
	// restarts.
	OneTruth Checker = "one truth"
	// CommitValidity: a decision to commit names exactly the branches that are durably prepared,
	// with the evidence of their votes, and the others have proven to be readers; where its votes
	// are complete the client has heard of each of them; only the epoch that began a transaction
	// asks for votes.
	CommitValidity Checker = "commit validity"
	// AbortValidity: without any fault, and if nobody wants to roll back, nothing is rolled back.
	AbortValidity Checker = "abort validity"
	// AcknowledgedDurability: what was told committed is committed after every restart and, in the
	// end, at every resource.
	AcknowledgedDurability Checker = "acknowledged durability"
	// LogBeforeSend: whoever is told to commit, or that it was committed, is told so after the
	// record is durable.
	LogBeforeSend Checker = "log before send"
	// PresumedAbort: nothing is told to roll back that runs, is decided, or is not known to be
	// neither.
	PresumedAbort Checker = "presumed abort"
	// Forget: a commit is ended only after every branch is proven finished.
	Forget Checker = "forget"
	// Fencing: after a resource has heard of an epoch it obeys no older one.
	Fencing Checker = "fencing"
	// UnknownAppend: while a decision is on its way to the disk nobody hears of either outcome; but
	// of a commit that follows from a durable intent, prepared branches, and a proof of ownership
	// after that. Once an intent was handed to the log no abort is told, or done, before it is
	// durable.
	UnknownAppend Checker = "unknown append"
	// ExactlyOnce: an id is given out once, a branch to one part, and prepared once; a key is
	// committed once, and so is what a call of another process did, however often it was made.
	ExactlyOnce Checker = "exactly once"
	// Containment: branches that are not ours are never touched.
	Containment Checker = "containment"
	// NoMaskedHeuristic: a branch that ended against the decision, or got lost, is recorded, told
	// to people, and never called committed.
	NoMaskedHeuristic Checker = "no masked heuristic"
	// ClientTruth: what a caller is told of the present is true.
	ClientTruth Checker = "client truth"
	// Assertion: the machine's own assertions hold, and it can read back what it has written.
	Assertion Checker = "assertion"
	// NeedlessAlarm: people are called only where something has happened that nobody else can mend:
	// a person's own act, a failover, a stranger, what is not ours, or a resource that forgets.
	NeedlessAlarm Checker = "needless alarm"
	// Liveness: once faults have ended nothing stays in doubt, prepared or unanswered.
	Liveness Checker = "liveness"
)

// Checkers lists all checkers.
func Checkers() []Checker {
	return []Checker{Atomicity, OneTruth, CommitValidity, AbortValidity, AcknowledgedDurability,
		LogBeforeSend, PresumedAbort, Forget, Fencing, UnknownAppend, ExactlyOnce, Containment,
		NoMaskedHeuristic, ClientTruth, Assertion, NeedlessAlarm, Liveness}
}

// Broken is a promise that was not kept.
type Broken struct {
	Checker Checker
	// What happened, in a sentence.
	What string
}

// fail notes the first broken promise of a history.
func (w *world) fail(c Checker, format string, args ...any) {
	if w.broken == nil && (w.sc.Only == "" || w.sc.Only == c) {
		w.broken = &Broken{c, fmt.Sprintf(format, args...)}
		w.trace.broken(*w.broken)
	}
}

// checkAppend holds a record against what has happened, at the moment at which the machine hands it
// to the log.
func (w *world) checkAppend(r protocol.Record) {
	switch r := r.(type) {
	case protocol.CommitRecord:
		w.checkDecision(r)
	case protocol.OnePhaseRecord:
		w.checkOnePhase(r)
	case protocol.IntentRecord:
		w.checkIntent(r)
	case protocol.DelegateRecord:
		w.leave(r)
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
	e := w.entry(r.ID)
	if e == nil {
		w.fail(CommitValidity, "transaction %d is committed, and nobody has begun it", r.ID.Seq())
		return
	}
	asked := r.Plan == txn.PlanOnePhase ||
		(r.Plan == txn.PlanParallel || r.Plan == txn.PlanDelegate) && e.asking
	if e.epoch != w.epoch && !asked {
		w.fail(CommitValidity, "%d is decided by an epoch that has not begun it", r.ID.Seq())
	}
	if r.Plan == txn.PlanDelegate && !e.marked {
		w.fail(CommitValidity, "%d is committed without a marker", r.ID.Seq())
	}
	if e.toldBack || e.sentBack || e.aborted {
		w.fail(ClientTruth, "transaction %d is committed after it was rolled back", r.ID.Seq())
	}
	w.checkHeard(e)
	listed := map[txn.BranchNo]bool{}
	for _, b := range r.Branches {
		listed[b.Branch] = true
		if int(b.Branch) > len(e.branches) {
			w.fail(CommitValidity, "%d has no branch %d", r.ID.Seq(), b.Branch)
			return
		}
		w.checkVote(r.Plan, b, txn.NameOf(r.ID, b.Branch))
	}
	for i := range e.branches {
		t := &e.branches[i]
		if no := txn.BranchNo(i + 1); !listed[no] && !t.readOnly && no != e.delegate {
			w.fail(CommitValidity, "%d is committed without its branch %d", r.ID.Seq(), no)
		}
	}
}

func (w *world) checkVote(p txn.Plan, b protocol.CommitBranch, n txn.Name) {
	t := w.truth(n)
	switch {
	case int(b.RM) != t.resource+1:
		w.fail(CommitValidity, "%s is listed at another resource", describeName(n))
	case p == txn.PlanOnePhase:
		if !t.done() {
			w.fail(CommitValidity, "%s did not commit in one phase", describeName(n))
		}
	case !t.prepared:
		w.fail(CommitValidity, "%s is committed, and was never prepared", describeName(n))
	case b.Evidence.Identity != t.evidence.Identity || b.Evidence.XID != t.evidence.XID ||
		b.Evidence.LSN < t.evidence.LSN:
		w.fail(CommitValidity, "the evidence of %s is not that of its vote", describeName(n))
	}
}

// checkOnePhase holds a commit without votes against the branches: all others read only, and the
// one that is left has prepared nothing.
func (w *world) checkOnePhase(r protocol.OnePhaseRecord) {
	e := w.entry(r.ID)
	if e == nil || e.toldBack || e.sentBack {
		w.fail(ClientTruth, "%d is committed in one phase, and was rolled back", r.ID.Seq())
		return
	}
	w.checkHeard(e)
	for i := range e.branches {
		if no := txn.BranchNo(i + 1); no != r.Branch.Branch && !e.branches[i].readOnly {
			w.fail(CommitValidity, "%d is committed in one phase without its branch %d",
				r.ID.Seq(), no)
		}
	}
}

// checkIntent holds a list of branches that are being prepared against those that there are. All
// others only read.
func (w *world) checkIntent(r protocol.IntentRecord) {
	e := w.entry(r.ID)
	if e == nil || e.epoch != w.epoch || e.toldBack || e.sentBack {
		w.fail(ClientTruth, "%d is to be committed, and was rolled back or is another epoch's",
			r.ID.Seq())
		return
	}
	for _, b := range r.Branches {
		e.intent |= bit(b.Branch)
	}
	for i := range e.branches {
		if no := txn.BranchNo(i + 1); e.intent&bit(no) == 0 && !e.branches[i].readOnly {
			w.fail(CommitValidity, "the intent of %d does not list its branch %d", r.ID.Seq(), no)
		}
	}
}

// checkAbort holds an abort that is recorded against what was told, and handed over, before, and
// against what the resources have.
func (w *world) checkAbort(r protocol.AbortRecord) {
	e := w.entry(r.ID)
	if e == nil {
		w.fail(ClientTruth, "%d is aborted, and nobody has begun it", r.ID.Seq())
		return
	}
	switch {
	case e.committed:
		w.fail(ClientTruth, "%d is aborted after its commit", r.ID.Seq())
	case e.told == txn.OutcomeCommitted && !e.untraced():
		w.fail(AcknowledgedDurability, "%d was told committed, and is aborted", r.ID.Seq())
	case slices.ContainsFunc(w.inflight, func(a protocol.Append) bool {
		c, ok := a.Record.(protocol.CommitRecord)
		return ok && c.ID == r.ID
	}):
		w.fail(UnknownAppend, "%d is aborted while its commit is in flight", r.ID.Seq())
	}
	if n, found := w.committedBranch(e); found {
		w.fail(ClientTruth, "%d is aborted, and %s is committed", r.ID.Seq(), describeName(n))
	}
}

// checkEnd looks at every branch that the decision lists. What was proven committed once need not
// be looked at again, though a failover may undo it.
func (w *world) checkEnd(id txn.ID) {
	e := w.entry(id)
	if e == nil || !e.committed {
		w.fail(Forget, "%d is ended without a durable decision", id.Seq())
		return
	}
	for i := range e.branches {
		t, no := &e.branches[i], txn.BranchNo(i+1)
		if e.listed&bit(no) == 0 || t.proven {
			continue
		}
		n := txn.NameOf(id, no)
		switch {
		case !t.touched() && !t.done():
			w.fail(Forget, "%d is ended, and %s is not finished", id.Seq(), describeName(n))
		case !t.done():
			w.fail(NoMaskedHeuristic, "%d is ended, and %s is not committed", id.Seq(),
				describeName(n))
		default:
			w.fail(Forget, "%d is ended, and nobody has proven how %s ended", id.Seq(),
				describeName(n))
		}
	}
}

// checkHeuristic holds a recorded contradiction against the branch: it must not be invented.
func (w *world) checkHeuristic(r protocol.HeuristicRecord) {
	n := txn.NameOf(r.ID, r.Branch)
	e, t := w.entry(r.ID), w.truth(n)
	if t == nil {
		w.fail(NoMaskedHeuristic, "%s is recorded as %s, and does not exist", describeName(n),
			r.What)
		return
	}
	ok := true
	switch r.What {
	case txn.BranchHeuristicRollback:
		ok = t.humanRollback || t.ended
	case txn.BranchHeuristicCommit:
		ok = t.humanCommit
	case txn.BranchHeuristicHazard:
		r := &w.resources[t.resource]
		// A history that has moved to another server may have lost what an intent has prepared,
		// and that it did not cannot be known.
		moved := (e.intent != 0 || e.delegate != 0) && len(r.forks) > 0
		ok = t.returned || moved || !r.isPrepared(n) && r.marker(n) == 0
	}
	if !ok {
		w.fail(NoMaskedHeuristic, "%s is recorded as %s, and is not", describeName(n), r.What)
	}
}

// checkRange keeps the presumption of abort away from what may still turn up.
func (w *world) checkRange(r protocol.RangeRecord) {
	for i := range w.resources {
		for _, n := range w.resources[i].prepared() {
			if n.Log == logID && n.Seq < r.Low {
				w.fail(PresumedAbort, "outcomes below %d are forgotten, and %s is prepared",
					r.Low, describeName(n))
			}
		}
	}
}

// checkMessage holds a message against what is durable, in the moment in which the machine sends
// it.
func (w *world) checkMessage(m protocol.Message) {
	t := w.truth(m.Name)
	if t == nil || int(m.RM) != t.resource+1 || m.ID != m.Name.ID() {
		w.fail(Containment, "%s of %s at %s, which is not ours", m.Act, describeName(m.Name),
			w.sc.Resources[m.RM-1].Name)
		return
	}
	e := w.entry(m.ID)
	switch m.Act {
	case protocol.ActPrepare:
		// Who is deposed cannot know that it was told.
		if e.epoch != w.epoch || e.toldBack && !w.deposed {
			w.fail(CommitValidity, "%s is asked to vote again", describeName(m.Name))
		}
	case protocol.ActCommit:
		known := e.committed && e.listed&bit(m.Name.Branch) != 0
		if !known && (!e.marked || m.Name.Branch == e.delegate) {
			w.fail(LogBeforeSend, "%s is told to commit without a durable record",
				describeName(m.Name))
		}
	case protocol.ActRollback:
		w.checkRollback(e, m.Name)
	case protocol.ActOnePhase, protocol.ActInquire, protocol.ActDecide:
		if !e.asking {
			w.fail(LogBeforeSend, "%s is asked to decide without a durable record",
				describeName(m.Name))
		}
	}
}

func (w *world) checkRollback(e *entry, n txn.Name) {
	e.sentBack = true
	switch {
	case w.deciding(e.id):
		w.fail(UnknownAppend, "%s is told to roll back while its commit is in flight",
			describeName(n))
	case e.asking && e.intent != 0:
		w.fail(UnknownAppend, "%s is told to roll back, and no ABORT ends its intent",
			describeName(n))
	case e.committed || e.asking:
		w.fail(PresumedAbort, "%s is told to roll back, and its commit is durable",
			describeName(n))
	case !w.aborting(e.id):
		w.fail(PresumedAbort, "%s is told to roll back, and its transaction runs",
			describeName(n))
	case !w.faulty:
		w.fail(AbortValidity, "%s is told to roll back for no reason", describeName(n))
	}
}

// aborting says whether the machine itself takes the transaction for rolled back, by the answer
// that it would give.
func (w *world) aborting(id txn.ID) bool {
	for _, t := range w.m.Transactions() {
		if t.ID == id {
			return t.State == txn.StateRollingBack || t.State == txn.StateHeuristic
		}
	}
	return true
}

// checkAtomicity looks at the branches after something has happened to one of them.
func (w *world) checkAtomicity(id txn.ID) {
	e := w.entry(id)
	if e == nil {
		return
	}
	for i := range e.branches {
		for j := range e.branches {
			a, b := &e.branches[i], &e.branches[j]
			if a.committed && !w.undone(e, i) && (b.rolledBack || b.ended && !b.readOnly) {
				w.fail(Atomicity, "branch %d of %d is committed, and branch %d is rolled back",
					i+1, id.Seq(), j+1)
			}
		}
	}
}

// checkFence holds a call that a resource has let in against the epochs that it knew before.
func (w *world) checkFence(c call, seen txn.Epoch) {
	if c.epoch < seen {
		w.fail(Fencing, "%s obeys epoch %d after epoch %d", w.sc.Resources[c.msg.RM-1].Name,
			c.epoch, seen)
	}
}

// checkReplay holds what a restart reads against what was told before.
func (w *world) checkReplay(s *protocol.State) {
	for i := range w.entries {
		e := &w.entries[i]
		if e.told != txn.OutcomeCommitted || e.readsOnly() || e.id.Seq() < s.Low || e.untraced() {
			continue
		}
		d := s.OpenDecision(e.id)
		if !s.Committed(e.id) && (d == nil || !d.Asking) {
			w.fail(AcknowledgedDurability, "%d was told committed, and the log has no record of it",
				e.id.Seq())
		}
	}
}

// checkKeys counts the transactions of a key that are committed.
func (w *world) checkKeys(e *entry) {
	key := w.sc.Transactions[e.client].Key
	for i := range w.entries {
		o := &w.entries[i]
		if key != "" && o != e && o.committed && w.sc.Transactions[o.client].Key == key {
			w.fail(ExactlyOnce, "transactions %d and %d of one key are both committed",
				o.id.Seq(), e.id.Seq())
		}
	}
}

// checkResult holds an answer against what has happened, and against the answers before.
func (w *world) checkResult(r *txn.Result) {
	e := w.entry(r.ID)
	if e == nil {
		w.fail(ClientTruth, "an answer about %d, which nobody has begun", r.ID.Seq())
		return
	}
	if e.readsOnly() {
		return
	}
	for _, b := range r.Branches {
		t := &e.branches[b.Branch-1]
		if b.State == txn.BranchCommitted && !t.done() && !t.lost {
			w.fail(NoMaskedHeuristic, "%s is told to be committed, and is not",
				describeName(b.Name))
		}
	}
	switch {
	case r.Outcome == txn.OutcomeCommitted:
		w.checkToldCommitted(e)
	case r.Outcome == txn.OutcomeRolledBack:
		w.checkToldBack(e)
	case r.Outcome.IsHeuristic() && e.heuristic == 0:
		w.fail(LogBeforeSend, "%d is told %s, and no record says so", e.id.Seq(), r.Outcome)
	}
	w.tell(e, r.Outcome)
}

// checkToldCommitted wants the record to be durable. That the one branch of a one-phase commit has
// committed is not enough: its resource need not remember that for ever.
func (w *world) checkToldCommitted(e *entry) {
	switch seq := e.id.Seq(); {
	case e.committed:
		return
	case e.marked:
		w.sights.add("told by a marker")
		return
	case w.implied(e):
		w.sights.add("told ahead of the record")
		if w.deposed {
			w.sights.add("told by a deposed owner")
		}
		return
	case w.deciding(e.id):
		w.fail(UnknownAppend, "%d is told committed while its commit is in flight", seq)
	case e.asking && e.intent != 0:
		w.fail(UnknownAppend, "%d is told committed, which does not follow from its intent", seq)
	}
	w.fail(LogBeforeSend, "%d is told committed without a durable record", e.id.Seq())
}

func (w *world) checkToldBack(e *entry) {
	e.toldBack = true
	switch {
	case w.deciding(e.id):
		w.fail(UnknownAppend, "%d is told rolled back while its commit is in flight", e.id.Seq())
	case e.asking && e.intent != 0:
		w.fail(UnknownAppend, "%d is told rolled back, and no ABORT ends its intent", e.id.Seq())
	case e.committed || e.asking:
		w.fail(ClientTruth, "%d is told rolled back, and its commit is durable", e.id.Seq())
	case !w.faulty:
		w.fail(AbortValidity, "%d is rolled back for no reason", e.id.Seq())
	}
	if n, found := w.committedBranch(e); found {
		w.fail(ClientTruth, "%d is told rolled back, and %s is committed", e.id.Seq(),
			describeName(n))
	}
}

// tell keeps a final answer. A decision may turn out to be contradicted by a branch, which makes it
// a heuristic outcome; nothing else may change but by being forgotten.
func (w *world) tell(e *entry, o txn.Outcome) {
	if o == txn.OutcomeUnknown || o == txn.OutcomeForgotten {
		return
	}
	contradicted := o.IsHeuristic() && !e.told.IsHeuristic()
	if e.told != txn.OutcomeUnknown && e.told != o && !contradicted && !e.untraced() {
		w.fail(OneTruth, "%d was told %s, and now %s", e.id.Seq(), e.told, o)
	}
	e.told = o
}

// checkRefusal holds the reason of a refusal against what has happened: some say how the
// transaction ended.
func (w *world) checkRefusal(r request, err error) {
	id := subject(r.event)
	e := w.entry(id)
	refusal, ok := errors.AsType[*txn.Refusal](err)
	if !ok {
		w.fail(ClientTruth, "an error that says nothing of its effect: %v", err)
		return
	}
	if e == nil {
		return
	}
	switch refusal.Reason {
	case txn.ReasonNotFound, txn.ReasonRegression, txn.ReasonForeign:
		w.fail(ClientTruth, "%d was begun, and is refused as %s", id.Seq(), refusal.Reason)
	case txn.ReasonRolledBack:
		if _, found := w.committedBranch(e); e.committed || found {
			w.fail(ClientTruth, "%d is refused as rolled back, and is committed", id.Seq())
		}
	case txn.ReasonAlreadyDecided:
		// An intent alone is a decision only if it implies one, or if a person has to decide.
		open := e.asking && (e.heuristic != 0 || w.implied(e))
		if !e.committed && !open && !e.marked && !e.readsOnly() {
			w.fail(LogBeforeSend, "%d is refused as decided without a durable record", id.Seq())
		}
	}
	closed := w.clients[r.client].commits > 0 || w.clients[r.client].announced || e.delegate != 0
	if runOf(r.event) != 0 && !w.faulty && !closed {
		w.fail(AbortValidity, "a part of %d is refused for no reason", id.Seq())
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

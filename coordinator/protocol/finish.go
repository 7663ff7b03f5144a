package protocol

import (
	"fmt"
	"strings"

	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// finished takes a resource's answer to a message that is no Prepare.
func (m *Machine) finished(e Finished) {
	t := m.live[e.ID]
	if t == nil {
		m.finishedStray(e)
		return
	}
	b := t.branch(e.Branch)
	switch {
	case b == nil || b.rm == 0:
	case e.Act == ActInquire && t.plan == txn.PlanParallel && t.state == txn.StateInDoubt:
		m.intentFinished(t, b, e)
	case e.Act == ActDecide && t.plan == txn.PlanDelegate && t.state == txn.StateInDoubt:
		m.decideFinished(t, b, e)
	case (e.Act == ActOnePhase || e.Act == ActInquire) && t.plan == txn.PlanOnePhase && t.asking():
		m.onePhaseFinished(t, b, e)
	case e.Act == ActCommit && t.decided():
		m.commitFinished(t, b, e)
	case e.Act == ActRollback && (t.state == txn.StateRollingBack || t.state == txn.StateHeuristic):
		m.rollbackFinished(t, b, e)
	}
}

// finishedStray takes the answer about a branch that a sweep acted upon after its transaction was
// over, or to an inquiry into an intent that another branch has decided meanwhile: that one says
// nothing any more.
func (m *Machine) finishedStray(e Finished) {
	ok := e.Act == ActInquire || e.Act == ActDecide ||
		e.Act == ActCommit && e.Standing == txn.StandingCommitted ||
		e.Act == ActRollback &&
			(e.Standing == txn.StandingRolledBack || e.Standing == txn.StandingGone)
	if !ok && e.Standing != txn.StandingUnknown {
		m.note(Note{Kind: NoteAlarm, ID: e.ID, Name: txn.NameOf(e.ID, e.Branch),
			Reason: fmt.Sprintf("%s of an orphan found it %s: %s", e.Act, e.Standing, e.Reason)})
	}
}

// commitFinished judges what a resource says about a branch whose commit is durable. "It does not
// exist" is not an answer: only proof acknowledges.
func (m *Machine) commitFinished(t *transaction, b *branch, e Finished) {
	if b.state != txn.BranchPrepared || b.forced {
		return
	}
	repeated := b.lastErr == clip(e.Reason)
	b.attempts++
	b.lastErr = clip(e.Reason)
	_, verdict := Judge(Facts{Says: SaysCommit, Standing: e.Standing, Listed: true})
	switch verdict {
	case VerdictAcknowledge:
		b.state, b.lastErr = txn.BranchCommitted, ""
		m.resources[b.rm-1].pending--
		m.settle(t)
	case VerdictHeuristicRollback:
		m.contradiction(t, b, txn.BranchHeuristicRollback, e.Reason)
	case VerdictHazard:
		m.contradiction(t, b, txn.BranchHeuristicHazard, e.Reason)
	default:
		held := e.Standing == txn.StandingHeld || e.Standing == txn.StandingForeign
		if held && !repeated {
			m.note(Note{Kind: NoteAlarm, ID: t.id, Name: txn.NameOf(t.id, b.no), RM: b.rm,
				Reason: fmt.Sprintf("its commit is held: %s", e.Reason)})
		}
	}
}

// rollbackFinished takes what became of a branch of an aborted transaction. Whatever is not proven
// gone is left to the sweep, which needs no memory of the transaction: no record means abort.
func (m *Machine) rollbackFinished(t *transaction, b *branch, e Finished) {
	if b.forced || b.state != txn.BranchEnlisted && b.state != txn.BranchPrepared {
		return
	}
	if e.Standing == txn.StandingCommitted {
		m.contradiction(t, b, txn.BranchHeuristicCommit, e.Reason)
		return
	}
	b.state = txn.BranchRolledBack
	b.lastErr = clip(e.Reason)
	m.settle(t)
}

// contradiction records, durably and before anybody hears of it, that a branch did not follow the
// decision.
func (m *Machine) contradiction(t *transaction, b *branch, what txn.BranchState, reason string) {
	b.forced = true
	m.append(
		HeuristicRecord{ID: t.id, Branch: b.no, RM: b.rm, What: what, Wrote: t.wrote(),
			Reason: clip(reason)},
		true,
	)
}

func (m *Machine) heuristicDurable(r HeuristicRecord) {
	t := m.live[r.ID]
	b := t.branch(r.Branch)
	if b.state == txn.BranchPrepared && t.decided() {
		m.resources[b.rm-1].pending--
	}
	if t.asking() && (t.plan == txn.PlanOnePhase || t.plan == txn.PlanDelegate) {
		m.resources[b.rm-1].pending--
	}
	b.state, b.forced, b.lastErr = r.What, false, r.Reason
	m.note(Note{Kind: NoteAlarm, ID: t.id, Name: txn.NameOf(t.id, b.no), RM: b.rm,
		Reason: strings.TrimSuffix(fmt.Sprintf("%s: %s", r.What, r.Reason), ": ")})
	if t.plan != txn.PlanOnePhase && t.state == txn.StateInDoubt {
		m.leaveToPerson(t)
	}
	m.settle(t)
	// Its key is not free, and those who wait for it are told why.
	waiting := t.keyWaiters
	t.keyWaiters = nil
	for _, e := range waiting {
		m.begin(e)
	}
}

// settle ends the transaction when every branch has reached its end, and tells those who wait what
// may be told. A heuristic branch keeps it in memory, and in the log, until a person has dealt with
// it.
func (m *Machine) settle(t *transaction) {
	over := t.decided() || t.asking() || t.state == txn.StateRollingBack
	if t.plan == txn.PlanDelegate && t.decided() && !t.recorded {
		// Until then no record would mean that it was rolled back.
		over = false
	}
	if (t.settled() || mutant.On(mutant.ForgetEarly)) && over && t.state != txn.StateHeuristic {
		switch {
		case t.heuristic() != txn.OutcomeUnknown:
			t.state = txn.StateHeuristic
		case t.state == txn.StateRollingBack:
			t.state = txn.StateRolledBack
			m.recent.add(*m.result(t))
			delete(m.live, t.id)
		default:
			t.state = txn.StateCommitted
			delete(m.live, t.id)
			if t.plan == txn.PlanNone {
				// Nothing was written and nothing was logged: its outcome is kept for those who ask
				// soon.
				m.readOnly.add(*m.result(t))
			} else {
				m.ended = append(m.ended, t.id)
			}
		}
		m.active--
		m.note(Note{Kind: NoteDone, ID: t.id, Result: m.result(t)})
	}
	m.answer(t)
}

// answer replies to the waiters who can be told now, and keeps the others.
func (m *Machine) answer(t *transaction) {
	deciding := t.state == txn.StateDeciding && !t.asking()
	if t.undecided() || deciding && !t.implied {
		return
	}
	keep := t.waiters[:0]
	for _, w := range t.waiters {
		unapplied := t.shown() == txn.StateCommitting && w.ack == txn.AckApplied
		if (unapplied || t.asking()) && m.now < w.until || deciding && w.ack == txn.AckApplied {
			keep = append(keep, w)
			continue
		}
		if w.rollback && (t.decided() || t.implied) {
			m.reply(Reply{Req: w.req, Err: m.notRunning(t.id, "roll back")})
			continue
		}
		m.reply(Reply{Req: w.req, Result: m.result(t)})
	}
	t.waiters = keep
}

// wait adds a caller who waits for the decision, and for the branches up to its own bound.
func (m *Machine) wait(t *transaction, w waiter) {
	w.until = m.now + w.wait
	t.waiters = append(t.waiters, w)
}

// abort ends an undecided transaction. It is told at once and needs no record; the branches that
// may be prepared are told to roll back, and a sweep finds those that cannot be told.
func (m *Machine) abort(t *transaction, why abortReason) {
	if !t.undecided() && !mutant.On(mutant.AbortWhileAppending) {
		panic(fmt.Sprintf("protocol: abort of %s in state %s", t.id, t.state))
	}
	t.abort, t.closed = why, true
	switch {
	case t.plan == txn.PlanDelegate:
		m.abortDelegate(t)
	case t.plan == txn.PlanParallel && !mutant.On(mutant.AbortUnwritten):
		m.recordAbort(t)
	default:
		m.rollBack(t)
	}
}

// abortDurable releases what an abort that had to be recorded has held back.
func (m *Machine) abortDurable(t *transaction) {
	switch {
	case t == nil || t.state != txn.StateDeciding && t.state != txn.StateInDoubt:
		panic("protocol: an abort became durable that nobody decided")
	case t.plan == txn.PlanOnePhase:
		m.onePhaseAborted(t)
	default:
		m.rollBack(t)
	}
}

// rollBack tells the branches of an aborted transaction, those that may be prepared, and its
// callers.
func (m *Machine) rollBack(t *transaction) {
	t.state, t.aborting = txn.StateRollingBack, false
	for i := range t.branches {
		b := &t.branches[i]
		if b.state == txn.BranchEnlisted || b.state == txn.BranchPrepared {
			m.send(ActRollback, t, b)
		}
	}
	m.settle(t)
	m.releaseKey(t)
}

// rollback is a client's wish. It cannot touch a decision, even one that is not durable yet.
func (m *Machine) rollback(e Rollback) {
	t := m.live[e.ID]
	switch {
	case t == nil:
		r := m.known(e.ID)
		if r != nil && r.Outcome == txn.OutcomeRolledBack {
			m.reply(Reply{Req: e.Req, Result: r})
			return
		}
		m.reply(Reply{Req: e.Req, Err: m.notRunning(e.ID, "roll back")})
	case len(t.waiters) >= m.cfg.MaxWaiters:
		m.reply(Reply{Req: e.Req, Err: txn.Refusef(txn.ReasonOverloaded, "transaction_id",
			"%d callers wait for %s already, and that is the limit", len(t.waiters), t.id)})
	case t.undecided(), mutant.On(mutant.AbortWhileAppending) && t.state == txn.StateDeciding:
		m.wait(t, waiter{req: e.Req, ack: txn.AckDecided, rollback: true,
			wait: Instant(txn.DefaultWait)})
		m.abort(t, abortReason{cause: txn.CauseClient, reason: clip(e.Reason)})
	case t.decided():
		m.reply(Reply{Req: e.Req, Err: m.notRunning(e.ID, "roll back")})
	default:
		m.wait(t, waiter{req: e.Req, ack: txn.AckDecided, rollback: true,
			wait: Instant(txn.DefaultWait)})
		m.answer(t)
		m.arm(t)
	}
}

// ask answers from the state of this moment.
func (m *Machine) ask(e Ask) {
	if t := m.live[e.ID]; t != nil {
		m.reply(Reply{Req: e.Req, Result: m.result(t)})
		return
	}
	m.replyKnown(e.Req, e.ID)
}

func (m *Machine) replyKnown(req ReqID, id txn.ID) {
	if r := m.known(id); r != nil {
		m.reply(Reply{Req: req, Result: r})
		return
	}
	m.reply(Reply{Req: req, Err: m.unknown(id)})
}

// known is what this owner of the log may say about a transaction that does not run: committed if
// there is a record, forgotten below the retained range, and otherwise, for a sequence that was
// handed out, rolled back. It is nil for everything else: there "no record" proves nothing.
func (m *Machine) known(id txn.ID) *txn.Result {
	if t := m.live[id]; t != nil {
		return m.result(t)
	}
	switch {
	case id.Log() != m.state.Log || id.Seq() >= m.reach() || m.state.Lost(id.Seq()):
		return nil
	case id.Seq() < m.state.Low:
		return &txn.Result{ID: id, Outcome: txn.OutcomeForgotten}
	case m.state.Committed(id):
		return &txn.Result{
			ID:      id,
			State:   txn.StateCommitted,
			Outcome: txn.OutcomeCommitted,
			Plan:    txn.PlanClassic,
		}
	}
	for _, past := range []*recent{&m.recent, &m.readOnly} {
		if r, ok := past.byID[id]; ok {
			return &r
		}
	}
	return &txn.Result{ID: id, State: txn.StateRolledBack, Outcome: txn.OutcomeRolledBack,
		Cause: txn.CausePresumed, Reason: "the log holds no decision to commit it"}
}

// unknown explains why known has no answer.
func (m *Machine) unknown(id txn.ID) error {
	switch {
	case id.Log() != m.state.Log:
		return &txn.Refusal{Reason: txn.ReasonForeign, Field: "transaction_id",
			Message: fmt.Sprintf(
				"%s belongs to log %s, and this is log %s",
				id,
				id.Log(),
				m.state.Log,
			),
			Effect: "its outcome is not known here; ask the coordinator that began it"}
	case id.Seq() >= m.state.High || m.state.Lost(id.Seq()) ||
		len(m.holes) > 0 && id.Seq() >= m.reach():
		return &txn.Refusal{Reason: txn.ReasonRegression, Field: "transaction_id",
			Message: fmt.Sprintf("%s lies beyond everything that this log has handed out", id),
			Effect: "its outcome is not known here: this log may be an older copy, " +
				"and nothing was done"}
	}
	return &txn.Refusal{Reason: txn.ReasonNotFound, Field: "transaction_id",
		Message: fmt.Sprintf("%s was never begun", id)}
}

// notRunning explains why nothing can be done to a transaction that is over, or being decided.
func (m *Machine) notRunning(id txn.ID, act string) error {
	r := m.known(id)
	switch {
	case r == nil:
		return m.unknown(id)
	case r.Outcome == txn.OutcomeForgotten:
		return &txn.Refusal{Reason: txn.ReasonForgotten, Field: "transaction_id",
			Message: fmt.Sprintf("cannot %s %s: its outcome is older than the retention", act, id)}
	case r.Outcome == txn.OutcomeRolledBack, r.State == txn.StateActive,
		r.State == txn.StatePreparing:
		return &txn.Refusal{Reason: txn.ReasonRolledBack, Field: "transaction_id",
			Message: fmt.Sprintf("cannot %s %s: it is over or its time is up", act, id),
			Effect:  "it was or is being rolled back, and none of its changes remain"}
	}
	if d := m.state.open[id]; d != nil && d.Asking && len(d.Heuristics) > 0 {
		return &txn.Refusal{Reason: txn.ReasonAlreadyDecided, Field: "transaction_id",
			Message: fmt.Sprintf("cannot %s %s: a branch of it is gone, and nothing proves "+
				"how that ended (%s)", act, id, r.Outcome),
			Effect: "this request changed nothing; a person has to look at the data"}
	}
	if t := m.live[id]; t != nil && t.plan == txn.PlanUnset {
		return &txn.Refusal{Reason: txn.ReasonRolledBack, Field: "transaction_id",
			Message: fmt.Sprintf("cannot %s %s: it was rolled back, and a branch was committed "+
				"all the same (%s)", act, id, r.Outcome),
			Effect: "this request changed nothing; a person has to look at the data"}
	}
	return &txn.Refusal{Reason: txn.ReasonAlreadyDecided, Field: "transaction_id",
		Message: fmt.Sprintf("cannot %s %s: its commit is decided (%s)", act, id, r.State),
		Effect:  "this request changed nothing, and the commit stands"}
}

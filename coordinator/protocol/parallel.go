package protocol

import (
	"fmt"
	"strings"

	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// The parallel plan takes the log off the path of a client that wants to hear the decision. The
// branches are written down while they are being prepared, and the transaction is committed from
// the moment at which that record is durable and all of them are prepared:
//
//	Commit ─┬─▶ INTENT ──────────durable─┐
//	        └─▶ PREPARE ─▶ all Yes ──────┼─▶ tell ─ ─ ─ ─┐
//	                        │  └▶ confirm┘               │
//	                        └─▶ COMMIT ──durable─────────┴─▶ phase two, END
//
// Four rules make it right, and each of them has a history that shows what goes wrong without it:
//
//	R1  No branch is told to commit before COMMIT is durable. So whoever finds an INTENT alone
//	    knows that nothing was committed: a branch that is not prepared was never prepared.
//	R2  Once an intent was handed to the log, an abort is told, and any branch rolled back, only
//	    when ABORT is durable: the intent may be durable and a later epoch find all branches
//	    prepared. That holds for a branch that voted No too: its resource may fail over before a
//	    later epoch asks, and then nobody knows any more that it was never prepared.
//	R3  A branch that only read has nothing prepared that a later epoch could find. With one among
//	    those listed, COMMIT must be durable before anybody is told.
//	R4  Who is deposed must not tell: the new owner may have looked before the last branch was
//	    prepared. So ownership of the log is confirmed at a moment after the last vote.
//
// A later epoch that finds an INTENT alone asks every resource (@M to @P of the table above Judge).
//
// Staging the transaction record beside the writes is the idea of CockroachDB's Parallel Commits
// (Taft et al., SIGMOD 2020, section 4.2), carried over to resources that only know PREPARE.

// intend hands an intent to the log if the parallel plan fits: at least two branches may have work,
// and one of them has not been prepared, so that there is something to run beside. A resource that
// does not answer would hold the transaction in doubt where the classic plan forgets it. One
// without evidence cannot tell a later epoch that a branch was never prepared, and would leave to a
// person what the classic plan aborts. And what room is left on a full disk is for decisions: the
// classic plan writes one record less.
func (m *Machine) intend(t *transaction) {
	if m.cfg.Classic || !m.room || t.state != txn.StatePreparing || t.plan != txn.PlanUnset {
		return
	}
	r := IntentRecord{ID: t.id, Label: t.label, Key: t.key}
	open := false
	for _, b := range t.branches {
		if b.state == txn.BranchReadOnly {
			continue
		}
		res := m.resources[b.rm-1]
		if res.down || res.held || res.refused || !res.evidence {
			return
		}
		open = open || b.state == txn.BranchEnlisted
		r.Branches = append(r.Branches, CommitBranch{Branch: b.no, RM: b.rm,
			Evidence: txn.Evidence{Identity: res.Identity, Position: res.seen}})
	}
	if len(r.Branches) < 2 || !open {
		return
	}
	t.plan, t.intended = txn.PlanParallel, len(r.Branches)
	m.append(r, true)
}

// intentDurable is one half of an implied commit.
func (m *Machine) intentDurable(t *transaction) {
	if t != nil {
		t.written = true
		m.imply(t)
	}
}

// confirm asks for the proof of ownership that an implied commit needs, once the last vote is in
// and somebody waits for no more than the decision.
func (m *Machine) confirm(t *transaction) {
	decided := t.state == txn.StateDeciding && !t.aborting
	if t.plan != txn.PlanParallel || !decided || t.confirming || t.resumed {
		return
	}
	prepared := 0
	for _, b := range t.branches {
		if b.state == txn.BranchPrepared {
			prepared++
		}
	}
	// R3: every branch of the intent, not every branch that wrote.
	if prepared < t.intended && !mutant.On(mutant.ReadOnlyImplied) {
		return
	}
	for _, w := range t.waiters {
		if w.ack == txn.AckDecided && !w.rollback {
			t.confirming = true
		}
	}
	if t.confirming {
		m.unconfirmed = append(m.unconfirmed, t.id)
	}
	if mutant.On(mutant.ImpliedWithoutConfirm) {
		m.imply(t)
	}
}

// round is a question for ownership, and the transactions that wait for its answer.
type round struct {
	no  uint64
	ids []txn.ID
}

// askConfirm puts all transactions that wait for a confirmation into the next round.
func (m *Machine) askConfirm() {
	if len(m.unconfirmed) == 0 {
		return
	}
	m.lastRound++
	m.rounds = append(m.rounds, round{m.lastRound, m.unconfirmed})
	m.unconfirmed = nil
	m.ready.Confirm = m.lastRound
}

// confirmed takes the proof for a round, and for all rounds before it.
func (m *Machine) confirmed(no uint64) {
	for len(m.rounds) > 0 && m.rounds[0].no <= no {
		ids := m.rounds[0].ids
		m.rounds = m.rounds[1:]
		for _, id := range ids {
			if t := m.live[id]; t != nil {
				t.confirmed = true
				m.imply(t)
			}
		}
	}
}

// imply tells the decision when all that it follows from is there, ahead of its own record.
func (m *Machine) imply(t *transaction) {
	written := t.written || mutant.On(mutant.ImpliedUnwritten)
	confirmed := t.confirmed || mutant.On(mutant.ImpliedWithoutConfirm)
	if t.state != txn.StateDeciding || t.aborting || t.votesOpen() || !written || !confirmed {
		return
	}
	t.implied = true
	m.answer(t)
}

// votesOpen says whether a vote is missing.
func (t *transaction) votesOpen() bool {
	for _, b := range t.branches {
		if b.state == txn.BranchEnlisted {
			return true
		}
	}
	return false
}

// recordAbort hands an abort to the log, because an intent was: see R2. Nothing can commit the
// transaction from here on.
func (m *Machine) recordAbort(t *transaction) {
	t.state, t.aborting = txn.StateDeciding, true
	m.append(AbortRecord{ID: t.id}, true)
}

// resumeIntent takes up a transaction of which an earlier epoch has left no more than its intent.
func (m *Machine) resumeIntent(t *transaction) {
	t.state = txn.StateInDoubt
	if !t.key.IsZero() {
		m.keyed[t.key.Hash] = t
	}
	switch {
	case t.heuristic() != txn.OutcomeUnknown:
		m.leaveToPerson(t)
	case t.id.Log() != m.state.Log:
		// The log that it comes from may have recorded a decision that this copy does not hold.
		m.contradiction(t, t.missing(), txn.BranchHeuristicHazard,
			"its log was adopted, and may have recorded a decision after it was copied")
	default:
		m.askOnly(t, ActInquire)
	}
}

// intentFinished takes what a resource of an intent says about its branch. Nothing is done before
// all have answered, or one has shown that its branch was never prepared.
func (m *Machine) intentFinished(t *transaction, b *branch, e Finished) {
	if b.found != 0 || b.forced || t.aborting {
		return
	}
	repeated := b.lastErr == clip(e.Reason)
	b.attempts++
	b.lastErr = clip(e.Reason)
	b.held = e.Standing == txn.StandingHeld || e.Standing == txn.StandingForeign
	label, _ := Judge(Facts{Says: SaysIntent, Standing: e.Standing, Listed: true,
		Never: NeverPrepared(b.evidence, e.Standing, e.Evidence)})
	switch label {
	case 'M':
		b.state, b.evidence, b.lastErr = txn.BranchPrepared, e.Evidence, ""
	case 'N', 'O':
	default:
		if label != 'P' && !repeated {
			m.note(Note{Kind: NoteAlarm, ID: t.id, Name: txn.NameOf(t.id, b.no), RM: b.rm,
				Reason: fmt.Sprintf("its inquiry is held: %s", e.Reason)})
		}
		return
	}
	b.found = label
	m.resources[b.rm-1].pending--
	m.judgeIntent(t)
}

// NeverPrepared says whether an inquiry proves that a branch was never prepared. Intended is what
// the intent says of it, and shown the evidence of the answer. It holds for a branch of which
// nothing was committed yet, as long as its history has not moved to another server, which may have
// lost a prepared branch. An answer that does not say whose it is proves nothing.
func NeverPrepared(intended txn.Evidence, s txn.Standing, shown txn.Evidence) bool {
	if s == txn.StandingGone && mutant.On(mutant.GoneIsNeverPrepared) {
		return true
	}
	return shown.Identity == intended.Identity && shown.Timeline == intended.Timeline &&
		(s == txn.StandingGone || s == txn.StandingRolledBack && shown.XID == 0)
}

// judgeIntent decides what the answers so far add up to.
func (m *Machine) judgeIntent(t *transaction) {
	count := map[Label]int{}
	for i := range t.branches {
		b := &t.branches[i]
		count[b.found]++
		if b.found == 'N' {
			t.abort = abortReason{cause: txn.CausePresumed, resource: m.resources[b.rm-1].Name,
				reason: "its coordinator was restarted, and a branch was never prepared"}
		}
	}
	switch {
	case count['N'] > 0:
		m.forgetAsked(t)
		m.recordAbort(t)
	case count['M']+count['O'] < t.intended:
	case count['O'] > 0:
		for i := range t.branches {
			if b := &t.branches[i]; b.found == 'O' {
				m.contradiction(t, b, txn.BranchHeuristicHazard,
					strings.TrimSuffix(b.found.Because()+"; "+b.lastErr, "; "))
			}
		}
	default:
		t.state = txn.StatePreparing
		m.decide(t)
	}
}

// forgetAsked stops to wait for the inquiries that are still out.
func (m *Machine) forgetAsked(t *transaction) {
	for i := range t.branches {
		if b := &t.branches[i]; b.state == txn.BranchEnlisted && b.found == 0 {
			m.resources[b.rm-1].pending--
		}
	}
}

// leaveToPerson ends an intent that nobody can decide: a branch is gone, and it may have been
// prepared, and its commit told. The others stay as they are.
func (m *Machine) leaveToPerson(t *transaction) {
	t.state = txn.StateHeuristic
	m.active--
	m.note(Note{Kind: NoteDone, ID: t.id, Result: m.result(t)})
	m.answer(t)
}

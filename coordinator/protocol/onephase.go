package protocol

import (
	"fmt"

	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// A one-phase commit leaves the decision to the only resource that has work to do:
//
//	Commit ──▶ ONE_PHASE ──durable──▶ send ONE_PHASE ──▶ COMMITTED ─▶ COMMIT ─durable─▶ tell, END
//	                │                     │        └───▶ ROLLED_BACK ─▶ ABORT ──durable──▶ tell
//	                │ crash               │ crash  └───▶ GONE ─▶ HEURISTIC (hazard)
//	                ▼                     ▼        └───▶ UNKNOWN ─▶ send again
//	            no record             send INQUIRE, under the next epoch
//	            means abort           (no resource answers the older request any more)
//
// ONE_PHASE is forced first because without it a restart would presume abort over a branch that has
// committed. The COMMIT behind it is forced too: a resource need not remember for ever how a branch
// ended, and what was told must never change.

// onePhase starts a one-phase commit if exactly one branch may have work, nobody has prepared it,
// and its resource can do without.
func (m *Machine) onePhase(t *transaction) bool {
	if t.state != txn.StatePreparing || t.plan != txn.PlanUnset {
		return false
	}
	var last *branch
	for i := range t.branches {
		switch b := &t.branches[i]; {
		case b.state == txn.BranchReadOnly:
		case last != nil || b.state != txn.BranchEnlisted || b.asked || b.attempts > 0:
			return false
		default:
			last = b
		}
	}
	if last == nil {
		return false
	}
	// One that does not answer, or is held, would leave its callers without an outcome for as long
	// as that lasts; with a vote to wait for they are rolled back.
	r := m.resources[last.rm-1]
	if !r.onePhase || r.down || r.held || r.refused {
		return false
	}
	last.evidence = txn.Evidence{Identity: r.Identity, Position: r.seen}
	t.state, t.plan = txn.StateDeciding, txn.PlanOnePhase
	if mutant.On(mutant.OnePhaseUnlogged) {
		m.onePhaseDurable(t)
		return true
	}
	m.append(OnePhaseRecord{ID: t.id, Label: t.label, Key: t.key,
		Branch: CommitBranch{Branch: last.no, RM: last.rm, Evidence: last.evidence}}, true)
	return true
}

// onePhaseDurable asks the resource to commit.
func (m *Machine) onePhaseDurable(t *transaction) {
	for i := range t.waiters {
		t.waiters[i].until = m.now + t.waiters[i].wait
	}
	m.askOnly(t, ActOnePhase)
	m.arm(t)
}

// inquire asks the resource of a one-phase commit of an earlier epoch how it ended. Its key stays
// taken until that is known.
func (m *Machine) inquire(t *transaction) {
	m.askOnly(t, ActInquire)
	if !t.key.IsZero() {
		m.keyed[t.key.Hash] = t
	}
}

// askOnly sends a message to the only branch that is not at its end.
func (m *Machine) askOnly(t *transaction, act Act) {
	for i := range t.branches {
		if b := &t.branches[i]; b.state == txn.BranchEnlisted {
			m.resources[b.rm-1].pending++
			m.send(act, t, b)
		}
	}
}

// onePhaseFinished takes the word of the resource that decides. What proves nothing is asked again.
func (m *Machine) onePhaseFinished(t *transaction, b *branch, e Finished) {
	if b.state != txn.BranchEnlisted || b.forced {
		return
	}
	repeated := b.lastErr == clip(e.Reason)
	b.attempts++
	b.lastErr = clip(e.Reason)
	label, verdict := Judge(Facts{Says: SaysOnePhase, Standing: e.Standing, Listed: true})
	if e.Act == ActOnePhase && e.Standing == txn.StandingGone && b.attempts == 1 {
		// The only request that was ever sent has answered, and it did not commit.
		verdict = VerdictRollback
	}
	if mutant.On(mutant.OnePhaseDenied) && e.Act == ActInquire &&
		verdict == VerdictAcknowledge {
		verdict = VerdictRollback
	}
	fenced := e.Act == ActInquire && t.id.Log() == m.state.Log
	if e.Standing == txn.StandingPrepared && !fenced {
		// The request itself may still be on its way to commit it.
		label, verdict = 'T', VerdictLeave
	}
	switch verdict {
	case VerdictAcknowledge:
		b.forced = true
		m.append(CommitRecord{ID: t.id, Plan: t.plan, Label: t.label, Key: t.key,
			Branches: []CommitBranch{{Branch: b.no, RM: b.rm, Evidence: b.evidence}}}, true)
		if mutant.On(mutant.OnePhaseToldEarly) {
			t.implied = true
			for i := range t.waiters {
				t.waiters[i].until = 0
			}
			m.answer(t)
		}
	case VerdictRollback:
		b.forced, b.sqlState = true, e.SQLState
		if e.Standing == txn.StandingPrepared {
			b.state = txn.BranchPrepared
		}
		m.append(AbortRecord{ID: t.id}, true)
	case VerdictHazard:
		m.contradiction(t, b, txn.BranchHeuristicHazard, e.Reason)
	default:
		if label != 'S' && !repeated {
			m.note(Note{Kind: NoteAlarm, ID: t.id, Name: txn.NameOf(t.id, b.no), RM: b.rm,
				Reason: fmt.Sprintf("its one-phase commit is held: %s", e.Reason)})
		}
	}
}

// onePhaseCommitted ends a one-phase commit whose resource has committed it.
func (m *Machine) onePhaseCommitted(t *transaction) {
	t.state = txn.StateCommitting
	for i := range t.branches {
		if b := &t.branches[i]; b.forced {
			b.state, b.forced, b.lastErr = txn.BranchCommitted, false, ""
			m.resources[b.rm-1].pending--
		}
	}
	m.releaseKey(t)
	m.settle(t)
}

// onePhaseAborted ends a one-phase commit that did not happen. A branch that turned out to be
// prepared is told to roll back.
func (m *Machine) onePhaseAborted(t *transaction) {
	t.state = txn.StateRollingBack
	for i := range t.branches {
		b := &t.branches[i]
		if !b.forced {
			continue
		}
		m.resources[b.rm-1].pending--
		b.forced = false
		t.abort = abortReason{txn.CauseVotedNo, b.lastErr, m.resources[b.rm-1].Name, b.sqlState}
		if b.state == txn.BranchPrepared {
			m.send(ActRollback, t, b)
			continue
		}
		b.state = txn.BranchRolledBack
	}
	m.settle(t)
	m.releaseKey(t)
}

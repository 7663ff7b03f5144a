package protocol

import (
	"slices"

	"github.com/gavel-tx/gavel/txn"
)

// transaction is a global transaction that runs, or whose end is not recorded.
type transaction struct {
	id    txn.ID
	label string
	state txn.State
	plan  txn.Plan
	begun Instant

	// deadline ends an undecided transaction; votesBy ends the wait for votes once Commit has come;
	// askAt is when resources that could not tell their vote are asked again. Zero: does not apply.
	deadline, votesBy, askAt Instant
	// timer is the earliest entry of this transaction in the machine's timers.
	timer Instant

	branches []branch
	// closed: Commit has come, and the set of branches is final.
	closed bool
	// intended is how many branches the intent lists, and written says that it is durable;
	// confirming and confirmed are about ownership of the log after the last vote, and implied
	// says that all of it is there: the commit may be told ahead of its record. aborting: ABORT is
	// on its way to the disk.
	intended                                          int
	written, confirming, confirmed, implied, aborting bool
	waiters                                           []waiter

	// delegateNo is the branch to which the decision was left, or zero. beginWaiters wait for its
	// record, of which recording are on their way to the disk; told: somebody has heard of the
	// branches, and may write a marker. recorded: COMMIT is durable too.
	delegateNo     txn.BranchNo
	beginWaiters   []ReqID
	recording      int
	told, recorded bool

	key        Key
	keyWaiters []Begin
	abort      abortReason
	// resumed: the decision was read from the log by a later epoch.
	resumed bool
}

// branch is one branch of a transaction.
type branch struct {
	no txn.BranchNo
	rm RM
	// part is whose branch it is.
	part     string
	state    txn.BranchState
	evidence txn.Evidence
	// asked: a Prepare message is out. forced: a heuristic record is on its way to the disk.
	asked, forced bool
	// held: nothing that its resource says about it may be acted upon.
	held     bool
	attempts int
	lastErr  string
	// found is what an inquiry into an intent has shown, or zero.
	found Label
	// sqlState is why a one-phase commit was refused.
	sqlState string
}

// waiter is a caller of Commit or Rollback.
type waiter struct {
	req ReqID
	ack txn.AckLevel
	// until bounds the wait for branches after the decision.
	until Instant
	wait  Instant
	// rollback: the caller asked for the opposite.
	rollback bool
}

// abortReason is why a transaction was rolled back.
type abortReason struct {
	cause    txn.Cause
	reason   string
	resource string
	sqlState string
}

func (t *transaction) undecided() bool {
	return t.state == txn.StateActive || t.state == txn.StatePreparing
}

// asking says whether resources have the word, that of a one-phase commit or those of an intent
// that an earlier epoch has left: until they have answered, nobody may say how t ends.
func (t *transaction) asking() bool {
	return t.state == txn.StateInDoubt ||
		t.state == txn.StateDeciding && t.plan == txn.PlanOnePhase
}

// decided says whether the decision to commit is durable, in the log or in a marker.
func (t *transaction) decided() bool {
	return t.state == txn.StateCommitting || t.state == txn.StateCommitted ||
		t.state == txn.StateHeuristic
}

func (t *transaction) branch(no txn.BranchNo) *branch {
	if no < 1 || int(no) > len(t.branches) {
		return nil
	}
	return &t.branches[no-1]
}

// wrote has bit n-1 set if branch n is more than a reader.
func (t *transaction) wrote() (bits uint64) {
	for _, b := range t.branches {
		if b.state != txn.BranchReadOnly {
			bits |= 1 << (b.no - 1)
		}
	}
	return bits
}

// settled says whether every branch has reached its end, a heuristic one included.
func (t *transaction) settled() bool {
	return !slices.ContainsFunc(t.branches, func(b branch) bool {
		return b.state == txn.BranchEnlisted || b.state == txn.BranchPrepared
	})
}

// outcome is what may be told about t now. Once a branch has ended against the decision it is a
// heuristic one or, until the others have ended too and it is known which, unknown; but nothing
// that is told is taken back.
func (t *transaction) outcome() txn.Outcome {
	switch h := t.heuristic(); {
	case h != txn.OutcomeUnknown && (t.settled() || h == txn.OutcomeHeuristicHazard):
		return h
	case h != txn.OutcomeUnknown:
		return txn.OutcomeUnknown
	}
	switch {
	case t.implied, t.state == txn.StateCommitting, t.state == txn.StateCommitted:
		return txn.OutcomeCommitted
	case t.state == txn.StateRollingBack, t.state == txn.StateRolledBack:
		return txn.OutcomeRolledBack
	}
	return txn.OutcomeUnknown
}

// heuristic is the heuristic outcome that the branches add up to so far, or OutcomeUnknown if none
// ended against the decision.
func (t *transaction) heuristic() txn.Outcome {
	var lost, undone, done, other int
	for _, b := range t.branches {
		switch b.state {
		case txn.BranchHeuristicHazard:
			lost++
		case txn.BranchHeuristicRollback:
			undone++
		case txn.BranchHeuristicCommit:
			done++
		case txn.BranchCommitted, txn.BranchPrepared, txn.BranchRolledBack, txn.BranchEnlisted:
			other++
		}
	}
	if t.plan == txn.PlanDelegate {
		// The delegate's own branch followed its decision, though COMMIT does not list it.
		other++
	}
	switch {
	case lost > 0:
		return txn.OutcomeHeuristicHazard
	case undone+done == 0:
		return txn.OutcomeUnknown
	case other > 0 || undone*done > 0:
		return txn.OutcomeHeuristicMixed
	case done > 0:
		return txn.OutcomeHeuristicCommit
	}
	return txn.OutcomeHeuristicRollback
}

// shown is the state for callers: a commit that is implied is over for them, though its record is
// on its way, and so is one that a marker has decided when all of its branches are.
func (t *transaction) shown() txn.State {
	switch {
	case t.implied && t.state == txn.StateDeciding:
		return txn.StateCommitting
	case t.plan == txn.PlanDelegate && t.state == txn.StateCommitting && t.settled() &&
		t.heuristic() == txn.OutcomeUnknown:
		return txn.StateCommitted
	}
	return t.state
}

// result is what a caller is told about t now. It shares nothing with t.
func (m *Machine) result(t *transaction) *txn.Result {
	r := &txn.Result{
		ID: t.id, State: t.shown(), Outcome: t.outcome(), Plan: t.plan, Label: t.label,
		Age:   txn.Nanoseconds(int64(m.now - t.begun)),
		Cause: t.abort.cause, Reason: t.abort.reason, Resource: t.abort.resource,
		SQLState: t.abort.sqlState,
	}
	for _, b := range t.branches {
		if b.rm == 0 {
			continue
		}
		r.Branches = append(r.Branches, txn.BranchStatus{
			Branch: b.no, Resource: m.resources[b.rm-1].Name, Name: txn.NameOf(t.id, b.no),
			State:    b.state,
			Attempts: b.attempts, LastError: b.lastErr,
		})
	}
	return r
}

// recent remembers how the last transactions ended that left no record. It is for people: the
// outcome itself needs no memory, because no record means that nothing was changed.
type recent struct {
	byID map[txn.ID]txn.Result
	ring []txn.ID
	at   int
}

// maxRecent bounds recent.
const maxRecent = 4096

func (r *recent) add(res txn.Result) {
	if r.byID == nil {
		r.byID = make(map[txn.ID]txn.Result)
	}
	if len(r.ring) < maxRecent {
		r.ring = append(r.ring, res.ID)
	} else {
		delete(r.byID, r.ring[r.at])
		r.ring[r.at] = res.ID
		r.at = (r.at + 1) % maxRecent
	}
	r.byID[res.ID] = res
}

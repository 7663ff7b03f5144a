package txn

import "fmt"

// Vote is what one branch answers to "can you commit?".
type Vote uint8

const (
	// VoteUnknown: nobody can say whether the branch is prepared (lost connection, timeout,
	// restarted participant, a warning on the reply). It counts neither as Yes nor as a proof of
	// No.
	VoteUnknown Vote = iota
	// VoteYes: the branch is durably prepared; the resource manager itself said so.
	VoteYes
	// VoteNo: the branch has ended without effect, said by the process that ran it and saw it end;
	// or nobody but that process could say Yes, and it never will.
	VoteNo
	// VoteReadOnly: the branch changed nothing and has ended; it needs no phase two.
	VoteReadOnly
	// VoteCommitted: the branch to which the decision was left is durably committed, together with
	// its marker. No other branch votes so.
	VoteCommitted
)

// Identity tells one database from every other, whatever its address. For PostgreSQL: the cluster's
// system identifier and the database's oid. The zero Identity means "not known".
type Identity struct {
	System   uint64
	Database uint32
}

// IsZero says whether the identity is not known.
func (i Identity) IsZero() bool { return i == Identity{} }

// String prints the identity as SYSTEM/DATABASE.
func (i Identity) String() string { return fmt.Sprintf("%d/%d", i.System, i.Database) }

// Position is how far the history of a resource had come: a timeline (it rises with each failover
// or restore) and a durable position on it. A resource that shows a lower position than it once had
// was restored, or is an old primary.
type Position struct {
	Timeline uint32
	LSN      uint64
}

// Before says whether p lies in the past of q: a lower timeline, or a lower position on the same
// one. A primary never goes there by itself; a restored backup and an old primary do.
func (p Position) Before(q Position) bool {
	return p.Timeline < q.Timeline || p.Timeline == q.Timeline && p.LSN < q.LSN
}

// Evidence is taken when a branch is prepared, so that "prepared transaction does not exist" can
// later be told apart: committed already, rolled back by somebody, or lost. It is proof only for a
// branch whose prepare was acknowledged (transaction numbers are handed out again after a crash).
// The zero Evidence means "none".
type Evidence struct {
	Identity
	Position
	// XID is the resource's own number of the branch's transaction (PostgreSQL: xid8). Zero: none.
	XID uint64
}

// IsZero says whether there is no evidence.
func (e Evidence) IsZero() bool { return e == Evidence{} }

// Standing is where a branch stands at its resource, as far as the resource can prove it.
type Standing uint8

const (
	// StandingUnknown: the resource could not be asked, or its answer proves nothing. Ask again.
	StandingUnknown Standing = iota
	// StandingPrepared: the branch is prepared and waits.
	StandingPrepared
	// StandingCommitted: proven, by the reply itself or by evidence.
	StandingCommitted
	// StandingRolledBack: proven, by the reply itself or by evidence.
	StandingRolledBack
	// StandingGone: positively not prepared any more, on the right primary; nothing proves how it
	// ended.
	StandingGone
	// StandingHeld: the resource is not the one that voted, or its history went backwards (another
	// identity, a lower timeline or position). Nothing it says may be acted upon; an operator
	// decides.
	StandingHeld
	// StandingForeign: the branch is there, but this role or database must not finish it.
	StandingForeign
)

// Outcome is how a global transaction ended.
type Outcome uint8

const (
	// OutcomeUnknown is an answer of its own: not known here, or not known yet. Ask again.
	OutcomeUnknown Outcome = iota
	// OutcomeCommitted: decided, durably; every branch commits.
	OutcomeCommitted
	// OutcomeRolledBack: nothing of it remains.
	OutcomeRolledBack
	// OutcomeHeuristicCommit: somebody committed every branch against a decision to abort.
	OutcomeHeuristicCommit
	// OutcomeHeuristicRollback: somebody rolled every branch back against a decision to commit.
	OutcomeHeuristicRollback
	// OutcomeHeuristicMixed: some branches are committed and some were rolled back.
	OutcomeHeuristicMixed
	// OutcomeHeuristicHazard: a branch disappeared and nothing proves how it ended.
	OutcomeHeuristicHazard
	// OutcomeForgotten: the transaction is older than the retention; its outcome is no longer kept.
	OutcomeForgotten
)

// IsHeuristic says whether the outcome needs a person to look at the data.
func (o Outcome) IsHeuristic() bool {
	return o >= OutcomeHeuristicCommit && o <= OutcomeHeuristicHazard
}

// State is how far a global transaction has come.
//
//	ACTIVE ─▶ PREPARING ─▶ DECIDING ─▶ COMMITTING ─▶ COMMITTED
//	   └──────────┴──────▶ ROLLING_BACK ─▶ ROLLED_BACK
//	after a restart, where the log alone cannot say: IN_DOUBT
type State uint8

// The states of a global transaction. From StateDeciding until the commit record is durable nothing
// may abort it, and callers hear that it is pending.
const (
	StateUnknown State = iota
	StateActive
	StatePreparing
	StateDeciding
	StateCommitting
	StateCommitted
	StateRollingBack
	StateRolledBack
	StateInDoubt
	StateHeuristic
)

// BranchState is how far one branch has come, as its coordinator knows it.
type BranchState uint8

// The states of a branch.
const (
	BranchUnknown BranchState = iota
	BranchEnlisted
	BranchPrepared
	BranchReadOnly
	BranchCommitted
	BranchRolledBack
	BranchHeuristicCommit
	BranchHeuristicRollback
	BranchHeuristicHazard
)

// Plan is the way in which a transaction is decided.
type Plan uint8

const (
	// PlanUnset: not chosen yet.
	PlanUnset Plan = iota
	// PlanNone: no branch wrote anything; nothing is logged.
	PlanNone
	// PlanOnePhase: one branch wrote; its own commit is the decision.
	PlanOnePhase
	// PlanClassic: presumed abort; the forced COMMIT record is the decision.
	PlanClassic
	// PlanParallel: the forced INTENT record is written beside the prepares. Together, a durable
	// intent and the Yes of all that it lists are the decision.
	PlanParallel
	// PlanDelegate: the decision is left to one of the branches, which is committed and not
	// prepared. A marker that commits with it is the decision.
	PlanDelegate
)

// AckLevel is when the caller of Commit hears "committed".
type AckLevel uint8

const (
	// AckApplied: every branch is committed, so the caller reads its own writes. The default. A
	// wait bound turns it into "decided, these branches are pending".
	AckApplied AckLevel = iota
	// AckDecided: the decision is durable.
	AckDecided
)

// String is the word for the vote in JSON, journals and tables; INVALID(n) is none of ours.
func (v Vote) String() string {
	return word(int(v), "UNKNOWN", "YES", "NO", "READ_ONLY", "COMMITTED")
}

// String is the word for the standing, as adapters' answers are shown.
func (s Standing) String() string {
	return word(
		int(s),
		"UNKNOWN",
		"PREPARED",
		"COMMITTED",
		"ROLLED_BACK",
		"GONE",
		"HELD",
		"FOREIGN",
	)
}

// String is the word for the outcome that clients and operators read, in JSON too.
func (o Outcome) String() string {
	return word(
		int(o),
		"UNKNOWN",
		"COMMITTED",
		"ROLLED_BACK",
		"HEURISTIC_COMMIT",
		"HEURISTIC_ROLLBACK",
		"HEURISTIC_MIXED",
		"HEURISTIC_HAZARD",
		"OUTCOME_FORGOTTEN",
	)
}

// String is the word for the state that gavel tx and the API show.
func (s State) String() string {
	return word(int(s), "UNKNOWN", "ACTIVE", "PREPARING", "DECIDING", "COMMITTING", "COMMITTED",
		"ROLLING_BACK", "ROLLED_BACK", "IN_DOUBT", "HEURISTIC")
}

// String is the word for the branch's state that gavel tx and the API show.
func (s BranchState) String() string {
	return word(int(s), "UNKNOWN", "ENLISTED", "PREPARED", "READ_ONLY", "COMMITTED", "ROLLED_BACK",
		"HEURISTIC_COMMIT", "HEURISTIC_ROLLBACK", "HEURISTIC_HAZARD")
}

// String is the word for the plan; UNSET before one was chosen.
func (p Plan) String() string {
	return word(int(p), "UNSET", "NONE", "ONE_PHASE", "CLASSIC", "PARALLEL", "DELEGATE")
}

// String is the word for the level, as a request gives it.
func (a AckLevel) String() string { return word(int(a), "APPLIED", "DECIDED") }

func word(i int, words ...string) string {
	if i < len(words) {
		return words[i]
	}
	return fmt.Sprintf("INVALID(%d)", i)
}

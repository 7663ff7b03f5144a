package txn

import (
	"errors"
	"fmt"
	"time"
)

// Limits that hold everywhere. A request beyond one is refused with an error that names field and
// limit, and nothing is changed.
const (
	// MaxBranches bounds the branches of one transaction.
	MaxBranches = 64
	// MaxLabelLen bounds a transaction's label, in bytes.
	MaxLabelLen = 128
	// MaxKeyLen bounds an idempotency key, in bytes.
	MaxKeyLen = 255
	// MaxResourceNameLen bounds the name of a resource, in bytes.
	MaxResourceNameLen = 63
	// MaxPartLen bounds the name of a part of a transaction, in bytes.
	MaxPartLen = 64
	// MaxReasonLen bounds a reason (of a rollback, a refusal, an operator), in bytes; longer ones
	// are cut.
	MaxReasonLen = 512
	// DefaultTimeout is the life of an undecided transaction whose client named none.
	DefaultTimeout = 30 * time.Second
	// DefaultWait bounds how long a Commit with [AckApplied] waits for its branches after the
	// decision.
	DefaultWait = 10 * time.Second
)

// Nanoseconds is n nanoseconds, for the state machine, which has no clock of its own.
func Nanoseconds(n int64) time.Duration { return time.Duration(n) }

// BeginRequest starts a transaction, or, with ID set, enlists further resources in one that runs.
type BeginRequest struct {
	// ID is zero for a new transaction. Otherwise Resources join that one, and Timeout, Label and
	// the key are ignored. A resource that is enlisted already keeps its branch.
	ID ID
	// Part, with ID set, tells apart those who work in one transaction: each part has branches of
	// its own, also at a resource where another part has one. It is empty for the client that began
	// the transaction; any other process that takes part makes up a name that nobody else has, at
	// most MaxPartLen printable bytes. Who uses the same name again gets the same branches.
	Part string
	// Resources are the registered names to enlist at once, one branch each. It may be empty.
	Resources []string
	// Timeout is how long the transaction may stay undecided. Defaults to DefaultTimeout.
	Timeout time.Duration
	// Label is shown to people, at most MaxLabelLen bytes of printable text.
	Label string
	// Key, if not empty, makes the transaction happen once: a second Begin with the same key
	// answers with the first one's transaction. At most MaxKeyLen bytes.
	Key string
	// Delegate, if not empty, names one of Resources to which the decision is to be left, if the
	// coordinator agrees: [Begun] says whether it does. With ID set, where a decision is left to a
	// branch, it must name the resource of that one: only the client that decides may enlist more,
	// because its marker must speak for every branch.
	Delegate string
	// Body is what the key stands for, e.g. the request that the transaction carries out. The same
	// key with another body is refused. Only a hash of it is kept.
	Body []byte
}

// Begun answers a BeginRequest. Nothing of it is durable, and a transaction that was only begun
// leaves no trace, but for one with a Delegate.
type Begun struct {
	ID ID
	// Delegate, if not zero, is the branch to which the decision is left. It is never prepared: its
	// client commits it, with a marker that holds the votes of all others, once each of them is Yes
	// or ReadOnly, and votes Committed for it. That the decision was left there is durable, with
	// the branches so far: until the marker is found, or one was put in its place that says the
	// opposite, nobody can say how the transaction ends.
	Delegate BranchNo
	// Branches are all branches so far of the part that asked, in the order of their numbers. A
	// branch may be prepared only after it stands here.
	Branches []Enlisted
	// Timeout is what remains until an undecided transaction is rolled back.
	Timeout time.Duration
	// Existing is set when the idempotency key had been used: the transaction has this result
	// already, and no work must be done for it again.
	Existing *Result
}

// Enlisted is one branch and the name under which it must be prepared.
type Enlisted struct {
	Branch   BranchNo
	Resource string
	Name     Name
	// At, where the decision is left to a branch, is who the resource was when it was registered,
	// and how far its history had come. The client compares: with a branch that is elsewhere, or on
	// a lower timeline, the transaction must not commit. Otherwise it is zero.
	At Evidence
}

// BranchVote is one branch's vote with its evidence.
type BranchVote struct {
	Branch BranchNo
	Vote   Vote
	// Evidence proves a Yes. With a No it says that the branch is prepared all the same, and is to
	// be rolled back.
	Evidence Evidence
	// Reason says why the vote is not Yes, for people. SQLState is the database's code, if it was
	// one.
	Reason   string
	SQLState string
}

// CommitRequest asks for the decision. It closes the set of branches. A No vote makes it a
// rollback.
type CommitRequest struct {
	ID ID
	// Votes of branches that their client prepared. Branches without a vote are prepared by the
	// coordinator.
	Votes []BranchVote
	// Complete says that Votes holds a vote of every branch, of every part, that is to commit: one
	// without a vote, which a part enlisted that its client has not heard of, makes it a rollback,
	// prepared or not.
	Complete bool
	// Intent announces that the client is preparing the branches at this moment, and will send
	// their votes in a second request. The coordinator writes the intent down meanwhile, which is
	// what the parallel plan gains; it answers at once, with an outcome that is not known yet. An
	// intent that is lost, late or refused does no harm. None is written where other parts have
	// branches.
	Intent bool
	// Plan is PlanClassic to rule the parallel plan out, or PlanUnset to leave the choice to the
	// coordinator.
	Plan Plan
	Ack  AckLevel
	// Wait bounds an AckApplied answer. Defaults to DefaultWait.
	Wait time.Duration
}

// Result is what is known about a transaction. Its Outcome, once final, never changes.
type Result struct {
	ID      ID
	State   State
	Outcome Outcome
	Plan    Plan
	Label   string
	// Age is the time since Begin, as far as this coordinator has seen it.
	Age      time.Duration
	Branches []BranchStatus
	// Reason says why it was rolled back, or what is in the way, for people.
	Reason string
	// Cause tells programs why it was rolled back.
	Cause Cause
	// SQLState is the database's code behind Cause, if there is one.
	SQLState string
	// Resource is the resource behind Cause, if there is one.
	Resource string
}

// Pending lists the resources whose branches have not yet reached the outcome.
func (r Result) Pending() []string {
	var names []string
	for _, b := range r.Branches {
		if b.State == BranchEnlisted || b.State == BranchPrepared || b.State == BranchUnknown {
			names = append(names, b.Resource)
		}
	}
	return names
}

// BranchStatus is one branch of a Result.
type BranchStatus struct {
	Branch   BranchNo
	Resource string
	Name     Name
	State    BranchState
	// Attempts counts the phase-two calls so far; LastError is the last one's.
	Attempts  int
	LastError string
}

// Cause is why a transaction was rolled back. Its text is the reason of the API's errors.
type Cause string

// The causes of a rollback.
const (
	CauseNone         Cause = ""
	CauseVotedNo      Cause = "PARTICIPANT_VOTED_NO"
	CauseVoteUnknown  Cause = "VOTE_UNKNOWN"
	CauseExpired      Cause = "TRANSACTION_EXPIRED"
	CauseClient       Cause = "ROLLED_BACK_BY_CLIENT"
	CauseIdentity     Cause = "RESOURCE_IDENTITY_CHANGED"
	CausePresumed     Cause = "PRESUMED_ABORT"
	CauseShutdown     Cause = "COORDINATOR_SHUTDOWN"
	CauseLogFull      Cause = "LOG_FULL"
	CausePrepareLimit Cause = "PREPARE_TIMEOUT"
)

// Reason is the stable word of a refusal; programs decide by it, never by text.
type Reason string

// The reasons of a refusal. A refused request changed nothing.
const (
	ReasonInvalid        Reason = "INVALID_ARGUMENT"
	ReasonNotFound       Reason = "TRANSACTION_NOT_FOUND"
	ReasonForgotten      Reason = "OUTCOME_FORGOTTEN"
	ReasonForeign        Reason = "FOREIGN_TRANSACTION"
	ReasonRegression     Reason = "LOG_REGRESSION"
	ReasonNoResource     Reason = "RESOURCE_UNKNOWN"
	ReasonNotReady       Reason = "RESOURCE_UNAVAILABLE"
	ReasonNotAllowed     Reason = "SQL_NOT_ALLOWED"
	ReasonTooMany        Reason = "TOO_MANY_BRANCHES"
	ReasonClosed         Reason = "BRANCH_SET_CLOSED"
	ReasonKeyReused      Reason = "IDEMPOTENCY_KEY_REUSED"
	ReasonKeyBusy        Reason = "IDEMPOTENCY_KEY_BUSY"
	ReasonOverloaded     Reason = "OVERLOADED"
	ReasonLogFull        Reason = "LOG_FULL"
	ReasonShutdown       Reason = "SHUTTING_DOWN"
	ReasonFailed         Reason = "LOG_FAILED"
	ReasonFenced         Reason = "FENCED"
	ReasonAlreadyDecided Reason = "ALREADY_COMMITTED"
	ReasonRolledBack     Reason = "ROLLED_BACK"
)

// Refusal is the error of a request that was refused. Whatever it says, the request changed
// nothing, and Effect says so in words for the reader.
type Refusal struct {
	Reason Reason
	// Field names the offending field of the request, if there is one.
	Field string
	// Message says what happened, with the limit where there is one.
	Message string
	// Effect says what it means for the data. Defaults to "nothing was changed".
	Effect string
}

// Error says which field is meant, what happened, and what it means for the data.
func (e *Refusal) Error() string {
	effect := e.Effect
	if effect == "" {
		effect = "nothing was changed"
	}
	if e.Field != "" {
		return fmt.Sprintf("%s: %s; %s", e.Field, e.Message, effect)
	}
	return fmt.Sprintf("%s; %s", e.Message, effect)
}

// Refusef makes a Refusal.
func Refusef(reason Reason, field, format string, args ...any) *Refusal {
	return &Refusal{Reason: reason, Field: field, Message: fmt.Sprintf(format, args...)}
}

// ReasonOf is the reason of the Refusal in err's chain, or "".
func ReasonOf(err error) Reason {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Reason
	}
	return ""
}

// Fence says on whose behalf a participant is called. A participant refuses a fence older than the
// newest it has seen from the same log.
type Fence struct {
	Log   LogID
	Epoch Epoch
	// LSN is how far the coordinator's own log was durable when it made the call.
	LSN uint64
	// Low is the lowest sequence about whose branches the log may still ask: all transactions
	// below it have durably ended, and no resource had a branch of them left when it was last
	// listed. Zero says nothing. It rises, and a resource that keeps proofs of how branches ended
	// may let those below it go.
	Low Seq
}

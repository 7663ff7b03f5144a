package wire

import (
	"google.golang.org/grpc/codes"

	"github.com/gavel-tx/gavel/txn"
)

// Domain is the domain of every ErrorInfo that gavel sends.
const Domain = "gavel.v1"

// Reasons of the wire that are neither the reason of a refusal nor the cause of a rollback.
const (
	// ReasonOutcomeUnknown: the call may or may not have taken effect.
	ReasonOutcomeUnknown = "OUTCOME_UNKNOWN"
	// ReasonHeuristic: a branch ended against the decision, or nobody can prove how it ended.
	ReasonHeuristic = "HEURISTIC_OUTCOME"
	// ReasonNotResolver stands for participant.ErrNotResolver.
	ReasonNotResolver = "NOT_RESOLVER"
	// ReasonNoMarkers stands for participant.ErrNoMarkers.
	ReasonNoMarkers = "NO_MARKERS"
	// ReasonBranchLost: the participant has lost earlier work of an unprepared branch.
	ReasonBranchLost = "BRANCH_LOST"
	// ReasonBelowMinimum: an addition would have led below the minimum that came with it.
	ReasonBelowMinimum = "BELOW_MINIMUM"
	// ReasonStatementFailed: a statement of a branch failed, or was not run. It stands for a
	// *session.Error.
	ReasonStatementFailed = "STATEMENT_FAILED"
	// ReasonNotNumber: an addition met a value that is not a number.
	ReasonNotNumber = "NOT_A_NUMBER"
)

// Explanation is the stable text of a reason: the same in statuses, in the command line and in
// the docs.
type Explanation struct {
	// Code is the gRPC code of every status with this reason.
	Code codes.Code
	// What happened, where the error itself does not say it better.
	What string
	// Data says what it means for the data.
	Data string
	// Do says what the caller can do.
	Do string
}

const (
	unchanged    = "nothing was changed"
	nothingLeft  = "nothing of the transaction remains"
	notKnownHere = "what became of the transaction is not known here"
	failedBranch = "the branch will vote no, and its transaction roll back"
	runAgain     = "Run the whole transaction again."
	repeat       = "Repeat the call."
)

// Explain is the text of a reason: of a [txn.Reason], of a [txn.Cause] or one of this package's.
// A word that is both a reason of refusals and a cause of rollbacks (LOG_FULL) is explained as a
// refusal; [ExplainCause] has the other.
func Explain(reason string) (Explanation, bool) {
	if e, ok := explainRefusal(txn.Reason(reason)); ok {
		return e, true
	}
	if e, ok := explainParticipant(reason); ok {
		return e, true
	}
	return ExplainCause(txn.Cause(reason))
}

// explainRefusal is a table. ABORTED stands for one thing only, a transaction of which nothing
// remains; so FENCED and the like, which do not tell the outcome, have other codes.
func explainRefusal(r txn.Reason) (Explanation, bool) {
	e := Explanation{Data: unchanged}
	switch r {
	case txn.ReasonInvalid:
		e.Code, e.What = codes.InvalidArgument, "the request is not valid"
		e.Do = "Correct the field."
	case txn.ReasonNotFound:
		e.Code, e.What = codes.NotFound, "there is no such transaction in this coordinator's log"
		e.Data = notKnownHere
		e.Do = "Check the id and the coordinator's address."
	case txn.ReasonForgotten:
		e.Code, e.What = codes.NotFound, "the transaction is older than the retention of outcomes"
		e.Data = "it has ended, and how is no longer kept"
		e.Do = "Look at the data itself; raise the retention if such questions come late."
	case txn.ReasonForeign:
		e.Code, e.What = codes.FailedPrecondition, "the transaction belongs to another log"
		e.Data = notKnownHere
		e.Do = "Ask the coordinator of that log."
	case txn.ReasonRegression:
		e.Code, e.What = codes.FailedPrecondition, "the coordinator's log went backwards"
		e.Data = "nothing was changed, and the outcome of newer transactions is not known here"
		e.Do = "Do not go on with this log: find the newest copy of it."
	case txn.ReasonNoResource:
		e.Code, e.What = codes.NotFound, "no resource of this name is registered"
		e.Do = "Register it (--resource NAME=URL) or correct the name."
	case txn.ReasonNotReady:
		e.Code, e.What = codes.Unavailable, "the resource cannot be used at present"
		e.Do = "Repeat the call; see the resource's state with gavel doctor."
	case txn.ReasonTooMany:
		e.Code, e.What = codes.FailedPrecondition, "the transaction has too many branches"
		e.Do = "Split the work into several transactions."
	case txn.ReasonClosed:
		e.Code, e.What = codes.FailedPrecondition, "the branches can no longer change"
		e.Do = "Enlist every resource, and run every statement, before the commit is asked for."
	case txn.ReasonKeyReused:
		e.Code, e.What = codes.AlreadyExists, "the key stands for another request already"
		e.Do = "Use a fresh key for each request; this is a fault of the caller."
	case txn.ReasonKeyBusy:
		e.Code, e.What = codes.Unavailable, "a transaction with this key is not finished yet"
		e.Do = repeat
	case txn.ReasonOverloaded:
		e.Code, e.What = codes.ResourceExhausted, "the coordinator has no room for more work now"
		e.Do = "Repeat the call after a pause."
	case txn.ReasonLogFull:
		e.Code, e.What = codes.ResourceExhausted, "the disk of the transaction log is full"
		e.Do = "Make room on the disk of the log; the service goes on by itself."
	case txn.ReasonShutdown:
		e.Code, e.What = codes.Unavailable, "the coordinator is shutting down"
		e.Do = repeat
	case txn.ReasonFailed:
		e.Code = codes.Unavailable
		e.What = "the transaction log has failed, and must be opened again"
		e.Do = "Restart the coordinator (a supervisor does), then repeat the call."
	case txn.ReasonFenced:
		e.Code = codes.FailedPrecondition
		e.What = "a newer coordinator of the same log has been seen"
		e.Do = "Stop the older coordinator; ask the newer one."
	case txn.ReasonAlreadyDecided:
		e.Code, e.What = codes.FailedPrecondition, "the transaction is committed already"
		e.Data = "it stays committed"
		e.Do = "Undo its effects with another transaction, if they must go."
	case txn.ReasonRolledBack:
		e.Code, e.What = codes.Aborted, "the transaction is rolled back already"
		e.Data, e.Do = nothingLeft, runAgain
	default:
		return explainPermission(r)
	}
	return e, true
}

// explainPermission is about what an operator has not allowed.
func explainPermission(r txn.Reason) (Explanation, bool) {
	if r != txn.ReasonNotAllowed {
		return Explanation{}, false
	}
	return Explanation{Code: codes.PermissionDenied, Data: unchanged,
		What: "the coordinator may not run SQL at this resource",
		Do: "Have its operator allow it (--execute NAME), or run the SQL on a connection of your " +
			"own."}, true
}

func explainParticipant(reason string) (Explanation, bool) {
	e := Explanation{Data: unchanged}
	switch reason {
	case ReasonOutcomeUnknown:
		e.Code, e.What = codes.Unavailable, "it is not known whether the call took effect"
		e.Data = "the outcome is unknown: it may be committed, rolled back, or still open"
		e.Do = "Repeat the call, or ask GetTransaction, until the answer is final."
	case ReasonHeuristic:
		e.Code, e.What = codes.DataLoss, "a branch ended against the decision, or has disappeared"
		e.Data = "the databases may disagree about this transaction"
		e.Do = "Do not repeat it. See gavel tx show for the branches, and repair the data by hand."
	case ReasonNotResolver:
		e.Code = codes.Unavailable
		e.What = "another process finishes the branches of this log here"
		e.Do = repeat
	case ReasonNoMarkers:
		e.Code, e.What = codes.FailedPrecondition, "the resource keeps no markers"
		e.Do = "Set it up for them (gavel markers), or leave decisions to another resource."
	case ReasonBranchLost:
		e.Code, e.What = codes.FailedPrecondition, "the participant no longer has the branch's work"
		e.Data = failedBranch
		e.Do = "Roll the transaction back and run it again."
	case ReasonStatementFailed:
		e.Code, e.What = codes.FailedPrecondition, "a statement of the branch failed"
		e.Data = failedBranch
		e.Do = "Roll the transaction back; see the SQLSTATE for whether to run it again."
	case ReasonBelowMinimum:
		e.Code, e.What = codes.FailedPrecondition, "the sum would be below its minimum"
		e.Data = failedBranch
		e.Do = "Roll the transaction back."
	case ReasonNotNumber:
		e.Code, e.What = codes.FailedPrecondition, "the value is not a whole number of 64 bits"
		e.Data = failedBranch
		e.Do = "Roll the transaction back; put a number there first, or choose another key."
	default:
		return Explanation{}, false
	}
	return e, true
}

// ExplainCause is the text of a rollback's cause. Its code is always ABORTED.
func ExplainCause(c txn.Cause) (Explanation, bool) {
	e := Explanation{Code: codes.Aborted, Data: nothingLeft, Do: runAgain}
	switch c {
	case txn.CauseVotedNo:
		e.What = "a resource could not prepare its branch"
		e.Do = "Run the whole transaction again if the conflict was temporary; see the SQLSTATE."
	case txn.CauseVoteUnknown:
		e.What = "a resource did not say whether its branch is prepared"
	case txn.CauseExpired:
		e.What = "the transaction was not decided before its timeout"
		e.Do = "Run the whole transaction again, with a longer timeout if it needs one."
	case txn.CauseClient:
		e.What = "its client rolled it back"
		e.Do = "Nothing; run it again if it is still wanted."
	case txn.CauseIdentity:
		e.What = "a resource is not the database that was registered under its name"
		e.Do = "Correct the resource's address, or accept the new database with gavel doctor."
	case txn.CausePresumed:
		e.What = "the coordinator restarted before the decision"
	case txn.CauseShutdown:
		e.What = "the coordinator shut down before the decision"
	case txn.CauseLogFull:
		e.What = "the disk of the transaction log was full"
		e.Do = "Make room on the disk of the log, then run the whole transaction again."
	case txn.CausePrepareLimit:
		e.What = "a resource did not prepare its branch in time"
	default:
		return Explanation{}, false
	}
	return e, true
}

// Retryable says whether the same work, done again in a new transaction, may well succeed. It is
// meaningful only for a transaction that was rolled back.
func Retryable(c txn.Cause, sqlState string) bool {
	switch c {
	case txn.CauseVoteUnknown, txn.CausePresumed, txn.CauseShutdown, txn.CausePrepareLimit:
		return true
	case txn.CauseVotedNo:
		// Class 40 is transaction rollback (serialization failure, deadlock), 55P03 a lock not
		// available.
		return len(sqlState) == 5 && sqlState[:2] == "40" || sqlState == "55P03"
	default:
		return false
	}
}

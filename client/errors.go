package client

import (
	"errors"
	"fmt"
	"strings"

	"github.com/gavel-tx/gavel/txn"
)

// ErrNoTransaction is returned where a transaction is needed and the context has none: its
// statement was not sent. Pass the context that the function of [Client.InTx] was given.
var ErrNoTransaction = errors.New("client: no transaction in this context; use the context that " +
	"InTx gives to its function")

// ErrFinished is returned where a transaction is used after its function has returned. Nothing was
// sent.
var ErrFinished = errors.New("client: the transaction is over; its function has returned")

// ErrInDoubt is in the chain of every error that leaves the outcome open: the transaction may have
// committed, or may commit yet. Ask with [Client.Await] before doing the work again.
var ErrInDoubt = errors.New("client: outcome unknown")

// ErrNested is returned by an InTx within another one that asks for something which only the outer
// one can have. Its function was not called, and the outer transaction can only roll back.
var ErrNested = errors.New("client: an inner InTx joins the outer transaction and cannot change it")

// ErrOption is returned by an InTx with an option that is not valid. Its function was not called.
var ErrOption = errors.New("client: invalid option")

// errUnfinished is why a transaction rolls back whose function left a goroutine behind.
var errUnfinished = errors.New("client: a branch was still being opened when the function " +
	"returned; wait for its goroutines first")

// AbortedError says that a transaction was rolled back, with certainty: none of its changes remain.
type AbortedError struct {
	// ID is zero if the coordinator never gave the transaction one.
	ID txn.ID
	// Cause tells programs why. CauseClient: this process rolled back, and Err says why.
	Cause txn.Cause
	// Reason says why in words.
	Reason string
	// Resource is where the reason lies, and SQLState the database's code, if there are any.
	Resource string
	SQLState string
	// Retryable says that the same work may well succeed when it is done again, as after a
	// deadlock.
	Retryable bool
	// Err is the error behind it, for errors.Is and errors.As: the function's own, or the
	// database's.
	Err error
}

// Error says why it was rolled back, where, and that nothing of it remains.
func (e *AbortedError) Error() string {
	var b strings.Builder
	b.WriteString("client: transaction")
	if !e.ID.IsZero() {
		b.WriteString(" " + e.ID.String())
	}
	b.WriteString(" was rolled back")
	if e.Resource != "" {
		b.WriteString(" because of " + e.Resource)
	}
	switch {
	case e.Reason != "":
		b.WriteString(": " + e.Reason)
	case e.Err != nil:
		b.WriteString(": " + e.Err.Error())
	default:
		b.WriteString(": " + string(e.Cause))
	}
	if e.SQLState != "" && !strings.Contains(e.Reason, e.SQLState) {
		b.WriteString(" (SQLSTATE " + e.SQLState + ")")
	}
	b.WriteString("; nothing of it remains")
	return b.String()
}

func (e *AbortedError) Unwrap() error { return e.Err }

// InDoubtError says that the outcome is not known here. It is always [ErrInDoubt] too.
type InDoubtError struct {
	// ID is what to ask the coordinator for, later. It is zero where the coordinator has no part in
	// the decision: then Resource is the one database that knows.
	ID       txn.ID
	Resource string
	// Err is why asking ended.
	Err error
}

// Error says whose outcome is unknown, and that it may have committed.
func (e *InDoubtError) Error() string {
	who := "transaction " + e.ID.String()
	if e.ID.IsZero() {
		who = "the transaction at " + e.Resource
	}
	return fmt.Sprintf("client: the outcome of %s is unknown, it may have committed: %v",
		who, e.Err)
}

// Unwrap makes the error ErrInDoubt, and txn.ErrUnknown for those who know only that.
func (e *InDoubtError) Unwrap() []error { return []error{ErrInDoubt, txn.ErrUnknown, e.Err} }

// HeuristicError says that a transaction was decided, but not every branch follows the decision, or
// nobody can prove that it does: somebody finished a prepared branch by hand, or a database lost
// it. The data must be looked at.
type HeuristicError struct {
	// Result says which branches are concerned.
	Result txn.Result
}

// Error says how the transaction ended, and that a person must look at the data.
func (e *HeuristicError) Error() string {
	return fmt.Sprintf("client: transaction %s ended as %s: %s; a person must look at the data",
		e.Result.ID, e.Result.Outcome, e.Result.Reason)
}

// IDOf is the transaction that an error of this package speaks of, or the zero ID.
func IDOf(err error) txn.ID {
	if e, ok := errors.AsType[*InDoubtError](err); ok {
		return e.ID
	}
	if e, ok := errors.AsType[*HeuristicError](err); ok {
		return e.Result.ID
	}
	if e, ok := errors.AsType[*AbortedError](err); ok {
		return e.ID
	}
	return txn.ID{}
}

// retryableState says whether PostgreSQL rolled back for a reason that passes: a serialization
// failure, a deadlock, a lock that was not free in time. Doing the work again is the answer to
// these.
func retryableState(code string) bool {
	return code == "40001" || code == "40P01" || code == "55P03"
}

// sqlState is the code of the first database error in err's chain. The interface stands for every
// driver's error type, so that this package needs no driver.
func sqlState(err error) string {
	if db, ok := errors.AsType[interface {
		error
		SQLState() string
	}](err); ok {
		return db.SQLState()
	}
	return ""
}

// abortedBy is the rollback of a transaction because of err, which is not nil.
func abortedBy(cause txn.Cause, resource string, err error) *AbortedError {
	code := sqlState(err)
	return &AbortedError{
		Cause: cause, Resource: resource, SQLState: code, Retryable: retryableState(code), Err: err,
	}
}

package grpctx

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/txn"
)

// ErrNoVotes is behind the error of a call that was answered without the votes of the service. What
// it has done is not part of the transaction or cannot be known to be, so that all is rolled back.
var ErrNoVotes = errors.New("grpctx: the answer came without the votes of the service; give its " +
	"server the interceptors of grpctx, or make the call with client.Detach")

// callError is an error of this package as a gRPC status.
type callError struct {
	code codes.Code
	err  error
}

func (e *callError) Error() string { return e.err.Error() }
func (e *callError) Unwrap() error { return e.err }

// GRPCStatus is what a client of this process hears if the error is handed on.
func (e *callError) GRPCStatus() *status.Status { return status.New(e.code, e.err.Error()) }

// unsent is the error of a call that was not made.
func unsent(method string, err error) error {
	return &callError{codeOf(err), fmt.Errorf("grpctx: %s was not called: %w", method, err)}
}

// codeOf says what an error of package client is for a caller:
//
//	INVALID_ARGUMENT     the request makes no sense to the coordinator
//	FAILED_PRECONDITION  the transaction is over, or not known, or takes no more branches
//	UNAVAILABLE          the coordinator does not answer, or not now
//	ABORTED              the transaction can only roll back; the work may be done again
func codeOf(err error) codes.Code {
	switch txn.ReasonOf(err) {
	case "":
	case txn.ReasonInvalid, txn.ReasonNoResource:
		return codes.InvalidArgument
	case txn.ReasonOverloaded, txn.ReasonLogFull, txn.ReasonShutdown, txn.ReasonFailed,
		txn.ReasonFenced, txn.ReasonNotReady:
		return codes.Unavailable
	default:
		return codes.FailedPrecondition
	}
	switch {
	case errors.Is(err, client.ErrFinished):
		return codes.FailedPrecondition
	case errors.Is(err, txn.ErrUnknown):
		return codes.Unavailable
	}
	return codes.Aborted
}

package grpctx

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/txn"
)

func TestCodes(t *testing.T) {
	for err, want := range map[error]codes.Code{
		errors.New("a branch voted No"):                               codes.Aborted,
		client.ErrFinished:                                            codes.FailedPrecondition,
		fmt.Errorf("%w: no answer", txn.ErrUnknown):                   codes.Unavailable,
		txn.Refusef(txn.ReasonInvalid, "part", "too long"):            codes.InvalidArgument,
		txn.Refusef(txn.ReasonNoResource, "", "not configured"):       codes.InvalidArgument,
		txn.Refusef(txn.ReasonOverloaded, "", "too many"):             codes.Unavailable,
		txn.Refusef(txn.ReasonShutdown, "", "shutting down"):          codes.Unavailable,
		txn.Refusef(txn.ReasonClosed, "", "being committed"):          codes.FailedPrecondition,
		txn.Refusef(txn.ReasonRolledBack, "", "rolled back"):          codes.FailedPrecondition,
		txn.Refusef(txn.ReasonAlreadyDecided, "", "committed"):        codes.FailedPrecondition,
		&client.CallError{Err: txn.Refusef(txn.ReasonClosed, "", "")}: codes.FailedPrecondition,
	} {
		got := unsent("/a/B", fmt.Errorf("wrapped: %w", err))
		if status.Code(got) != want || !errors.Is(got, err) {
			t.Errorf("%v is %s, want %s", err, status.Code(got), want)
		}
	}
}

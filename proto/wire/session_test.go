package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/txn"
)

// TestSessionStatus: a call of a session fails with the very status that it would have by itself,
// after a passage over the wire.
func TestSessionStatus(t *testing.T) {
	lost := txn.Result{ID: txn.NewID(0x123456789abcdef, 42), Outcome: txn.OutcomeRolledBack,
		Cause: txn.CauseVotedNo, SQLState: "40001", Resource: "bank_a"}
	for _, err := range []error{
		Status(txn.Refusef(txn.ReasonOverloaded, "resources", "there are too many")),
		Status(&OutcomeError{Result: lost}), Status(txn.ErrUnknown), Status(context.Canceled),
		Status(errors.New("fdatasync: input/output error")),
		status.Error(codes.Unimplemented, "no such method"),
	} {
		b, fault := proto.Marshal(EncodeSessionStatus(err))
		if fault != nil {
			t.Fatal(fault)
		}
		var s gavelv1.SessionStatus
		if err := proto.Unmarshal(b, &s); err != nil {
			t.Fatal(err)
		}
		got := DecodeSessionStatus(&s)
		if diff := cmp.Diff(status.Convert(err).Proto(), status.Convert(got).Proto(),
			protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
		if TransactionError(got).Error() != TransactionError(err).Error() {
			t.Errorf("%v is read as %v", TransactionError(err), TransactionError(got))
		}
	}
}

// TestSessionStatusOfOthers: what is no status gets the code that gRPC gives it, and texts are made
// safe to send.
func TestSessionStatusOfOthers(t *testing.T) {
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{io.ErrUnexpectedEOF, codes.Unknown},
		{fmt.Errorf("asked: %w", context.DeadlineExceeded), codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled},
		{errors.New("latin \xe4"), codes.Unknown},
	} {
		s := EncodeSessionStatus(c.err)
		if codes.Code(s.GetCode()) != c.want || !utf8.ValidString(s.GetMessage()) {
			t.Errorf("%v is sent as %v", c.err, s)
		}
	}
	if EncodeSessionStatus(nil) != nil {
		t.Error("no error has a status")
	}
	for _, s := range []*gavelv1.SessionStatus{nil, {}, {Message: "fine"}} {
		if err := DecodeSessionStatus(s); status.Code(err) != codes.Unknown {
			t.Errorf("%v is read as %v", s, err)
		}
	}
}

// TestSessionRequestFits: the largest message that a client makes is one that servers accept, and
// the largest calls that they accept by themselves are either small enough for it or go alone.
func TestSessionRequestFits(t *testing.T) {
	const accepted = 64 << 10
	m := &gavelv1.SessionRequest{}
	// A session that made a million calls each second would not come to such ids in its life.
	for id := range uint64(MaxSessionCalls) {
		m.Cancels = append(m.Cancels, 1<<28+id)
	}
	label := strings.Repeat("x", MaxSessionRequest/MaxSessionBatch)
	begin := &gavelv1.BeginTransactionRequest{Label: label}
	for id := range uint64(MaxSessionBatch) {
		m.Calls = append(m.Calls, &gavelv1.SessionCall{
			Id: 1<<28 + id, Call: &gavelv1.SessionCall_Begin{Begin: begin},
		})
	}
	if n := proto.Size(m); n <= MaxSessionRequest || n > accepted {
		t.Errorf("a full message has %d bytes", n)
	}
}

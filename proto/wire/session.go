package wire

import (
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
)

// Limits of a session, which both of its ends keep.
const (
	// MaxSessionCalls bounds the calls in flight in one session.
	MaxSessionCalls = 4096
	// MaxSessionBatch bounds the calls, and the answers, in one message.
	MaxSessionBatch = 256
	// MaxSessionRequest bounds the calls in one message of a client, in bytes. A larger call goes
	// by itself. With as many cancels as can come along, it stays below the 64 KiB that a server
	// accepts: a message beyond those would end the session for all others.
	MaxSessionRequest = 24 << 10
	// MaxSessionResponse bounds the answers in one message, in bytes, but for one answer that is
	// larger. A client that accepts the usual 4 MiB accepts it.
	MaxSessionResponse = 1 << 20
)

// EncodeSessionStatus writes the error of a call as gRPC would have sent it: one that is no status
// becomes that of a context's end, or UNKNOWN. A nil error is nil.
func EncodeSessionStatus(err error) *gavelv1.SessionStatus {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		s = status.FromContextError(err)
	}
	p := s.Proto()
	return &gavelv1.SessionStatus{
		Code: p.GetCode(), Message: clean(p.GetMessage()), Details: p.GetDetails(),
	}
}

// DecodeSessionStatus reads the error of a call. It is never nil: a failure that calls itself OK is
// UNKNOWN, since nobody may take it for an answer.
func DecodeSessionStatus(s *gavelv1.SessionStatus) error {
	p := &spb.Status{Code: s.GetCode(), Message: s.GetMessage(), Details: s.GetDetails()}
	if p.Code == int32(codes.OK) {
		p.Code = int32(codes.Unknown)
	}
	return status.FromProto(p).Err()
}

package grpctx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// UnaryClient makes the interceptor of calls with one request and one answer. A call with the
// context of an InTx takes the transaction along, and fails if the service cannot commit; what it
// did is prepared when the call returns. Install it once.
func UnaryClient() grpc.UnaryClientInterceptor {
	return func(
		ctx context.Context, method string, req, reply any, cc *grpc.ClientConn,
		invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
	) error {
		call, err := client.Carry(ctx)
		switch {
		case errors.Is(err, client.ErrNoTransaction):
			return invoke(without(ctx), method, req, reply, cc, opts...)
		case err != nil:
			return unsent(method, err)
		}
		// A panic on the way leaves a call that has never ended, which is what it is.
		var trailer metadata.MD
		err = invoke(outgoing(ctx, call), method, req, reply, cc,
			append(slices.Clip(opts), grpc.Trailer(&trailer))...)
		return done(call, method, trailer, err)
	}
}

// StreamClient makes the interceptor of streams. A stream that is opened with the context of an
// InTx takes the transaction along. Its votes come at its end: until RecvMsg has returned io.EOF,
// or the only answer where there is but one, the transaction cannot commit. If the service cannot,
// that RecvMsg returns why. Install it once.
func StreamClient() grpc.StreamClientInterceptor {
	return func(
		ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string,
		open grpc.Streamer, opts ...grpc.CallOption,
	) (grpc.ClientStream, error) {
		call, err := client.Carry(ctx)
		switch {
		case errors.Is(err, client.ErrNoTransaction):
			return open(without(ctx), desc, cc, method, opts...)
		case err != nil:
			return nil, unsent(method, err)
		}
		inner, err := open(outgoing(ctx, call), desc, cc, method, opts...)
		if err != nil {
			return nil, done(call, method, nil, err)
		}
		return &clientStream{
			ClientStream: inner, call: call, method: method, many: desc.ServerStreams,
		}, nil
	}
}

// clientStream is a stream that brings votes home.
type clientStream struct {
	grpc.ClientStream
	call   *client.Call
	method string
	// many says that there may be several answers.
	many bool
}

// SendMsg is gRPC's. Its io.EOF says that the stream has ended, and RecvMsg how; any other error
// ends it.
func (s *clientStream) SendMsg(m any) error {
	err := s.ClientStream.SendMsg(m)
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return done(s.call, s.method, nil, err)
}

// RecvMsg is gRPC's, and reads the votes at the end.
func (s *clientStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	switch {
	case err == nil && s.many:
		return nil
	case err == nil, errors.Is(err, io.EOF):
		if why := done(s.call, s.method, s.Trailer(), nil); why != nil {
			return why
		}
		return err
	}
	return done(s.call, s.method, s.Trailer(), err)
}

// done ends a call, and returns what the application is to hear.
func done(call *client.Call, method string, trailer metadata.MD, err error) error {
	votes, lost := votesOf(trailer, call.ID())
	if err == nil && lost == nil {
		if err = call.Done(votes, nil); err == nil {
			return nil
		}
		return &callError{codeOf(err), fmt.Errorf("grpctx: %s: %w", method, err)}
	}
	if err != nil {
		return call.Done(votes, err)
	}
	return call.Done(nil, &callError{codes.Aborted, fmt.Errorf("grpctx: %s: %w", method, lost)})
}

// votesOf reads the votes of a trailer. An answer without votes is never taken for one of a service
// that did nothing: that has a trailer with none.
func votesOf(trailer metadata.MD, id txn.ID) ([]txn.BranchVote, error) {
	values := trailer.Get(votesKey)
	if len(values) == 0 && mutant.On(mutant.NoTrailerIsYes) {
		return nil, nil
	}
	if len(values) != 1 {
		return nil, ErrNoVotes
	}
	votes, err := txn.ParseVotes([]byte(values[0]), id)
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrNoVotes, err)
	}
	return votes, nil
}

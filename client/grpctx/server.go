package grpctx

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/txn"
)

// UnaryServer makes the interceptor of handlers with one request and one answer. A call that brings
// a transaction along runs with it in its context; what the handler did is prepared before the
// answer is sent. The Client is the one that the handlers use for an InTx of their own, if they do;
// it must lead to the coordinator of the callers. Install it once, inside of interceptors that turn
// panics into errors.
func UnaryServer(c *client.Client) grpc.UnaryServerInterceptor {
	return func(
		ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler,
	) (answer any, _ error) {
		setTrailer := func(md metadata.MD) error { return grpc.SetTrailer(ctx, md) }
		err := takePart(ctx, c, setTrailer, func(ctx context.Context) (err error) {
			answer, err = handle(ctx, req)
			return err
		})
		return answer, err
	}
}

// StreamServer makes the interceptor of streams; see [UnaryServer]. What the handler did is
// prepared when it has returned. Its messages have been sent before that: the caller knows that
// they hold when its stream has ended without an error.
func StreamServer(c *client.Client) grpc.StreamServerInterceptor {
	return func(
		srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler,
	) error {
		setTrailer := func(md metadata.MD) error {
			stream.SetTrailer(md)
			return nil
		}
		return takePart(stream.Context(), c, setTrailer, func(ctx context.Context) error {
			return handle(srv, &serverStream{stream, ctx})
		})
	}
}

// serverStream is a stream whose context carries a transaction.
type serverStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *serverStream) Context() context.Context { return s.ctx }

// takePart runs a handler, in the transaction that the call brings along if it does, and returns
// what its caller is to hear.
func takePart(
	ctx context.Context, c *client.Client, setTrailer func(metadata.MD) error,
	handle func(context.Context) error,
) error {
	from, err := incoming(ctx)
	switch {
	case err != nil:
		return status.Error(codes.InvalidArgument, "grpctx: "+err.Error())
	case from == nil:
		return handle(ctx)
	}
	// A panic passes through, and leaves an answer without votes, if any: it counts for nothing.
	var own error
	votes, err := c.TakePart(ctx, from.ID, from.Remaining, func(ctx context.Context) error {
		own = handle(ctx)
		return own
	})
	sent := setTrailer(metadata.Pairs(votesKey, string(txn.AppendVotes(nil, from.ID, votes))))
	switch {
	case own != nil:
		return own
	case err == nil && sent != nil:
		err = fmt.Errorf("the votes cannot be sent: %w", sent)
	case err == nil:
		return nil
	}
	return refusal(ctx, err)
}

// refusal is the status of a part that cannot commit. A caller that has gone does not hear it.
func refusal(ctx context.Context, err error) error {
	code := codeOf(err)
	if ended := context.Cause(ctx); ended != nil && errors.Is(err, ended) {
		code = status.FromContextError(ctx.Err()).Code()
	}
	return &callError{code, fmt.Errorf("grpctx: %w", err)}
}

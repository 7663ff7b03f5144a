package remote

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/txn"
)

// Execute runs a whole transaction in one call of the API. It is committed if the error is nil. A
// *wire.OutcomeError tells how else it ended, which is for the most part a rollback; a
// *txn.Refusal, or one that wraps [ErrUnreachable], that nothing was done; and txn.ErrUnknown that
// nobody knows.
//
// With an idempotency key the call is repeated until its outcome is known, or ctx ends. Without
// one it is repeated only while nobody can have heard it.
func (c *Client) Execute(
	ctx context.Context, r *gavelv1.ExecuteTransactionRequest,
) (*gavelv1.ExecuteTransactionResponse, error) {
	a, err := c.execute(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("client/remote: execute: %w", err)
	}
	return a, nil
}

// execute is the loop. open remembers the first attempt that was sent and not answered: from then
// on only an answer that tells the outcome ends the question.
func (c *Client) execute(
	ctx context.Context, r *gavelv1.ExecuteTransactionRequest,
) (*gavelv1.ExecuteTransactionResponse, error) {
	reach, cancel := context.WithTimeoutCause(ctx, c.patience, ErrUnreachable)
	defer cancel()
	pauses := c.newPauses()
	var open error
	for {
		var at peer.Peer
		a, raw := c.calls.service.ExecuteTransaction(ctx, r, grpc.Peer(&at))
		if raw == nil {
			return a, nil
		}
		err := wire.TransactionError(raw)
		if o, ok := errors.AsType[*wire.OutcomeError](err); ok &&
			o.Result.Outcome != txn.OutcomeUnknown {
			return nil, o
		}
		refusal, refused := errors.AsType[*txn.Refusal](err)
		switch {
		case refused && !passing(refusal.Reason):
			return nil, afterSilence(open, refusal)
		case !refused && (judge(raw) == hopeless ||
			at.Addr != nil && r.GetIdempotencyKey() == ""):
			return nil, fmt.Errorf("%w: %w", txn.ErrUnknown, raw)
		case !refused && open == nil && at.Addr != nil:
			open = fmt.Errorf("an earlier attempt was not answered: %w", err)
		}
		bound := reach
		if open != nil {
			bound = ctx
		}
		why := wait(bound, pauses.NextBackOff())
		switch {
		case why != nil && open != nil:
			return nil, fmt.Errorf("%w: %w: %w", txn.ErrUnknown, why, err)
		case why != nil:
			return nil, silence(why, raw)
		}
	}
}

package remote

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/types/known/durationpb"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/txn"
)

// Commit asks for the decision until it is known or ctx ends. The package's doc has the table of
// what it returns. A transaction that is rolled back is a result and no error.
//
// The votes are those of branches that the caller prepared. From the first attempt on the caller
// must not finish such a branch itself, whatever Commit returns: an attempt without an answer may
// have committed the transaction. With a vote of Committed the delegate has done so before the
// call, and then every error wraps txn.ErrUnknown, also that of a call that was not sent.
func (c *Client) Commit(ctx context.Context, r txn.CommitRequest) (txn.Result, error) {
	if ctx.Err() != nil {
		return txn.Result{}, fmt.Errorf("client/remote: commit of %s was not sent: %w",
			r.ID, afterSilence(delegated(r.Votes), context.Cause(ctx)))
	}
	if r.Intent {
		return c.announce(ctx, r)
	}
	result, err := c.decide(ctx, r)
	if err != nil {
		return txn.Result{}, fmt.Errorf("client/remote: commit of %s: %w", r.ID, err)
	}
	return result, nil
}

// announce says once that the branches are being prepared. Whether anybody has heard it does not
// matter: the votes decide.
func (c *Client) announce(ctx context.Context, r txn.CommitRequest) (txn.Result, error) {
	a, err := c.calls.commit(ctx, commitRequest(r))
	result, err := decode(r.ID, a.GetTransaction(), err)
	if err != nil {
		return txn.Result{}, fmt.Errorf("client/remote: intent of %s: %w",
			r.ID, wire.TransactionError(err))
	}
	return result, nil
}

// decide is the loop. open remembers what may have committed the transaction, the delegate or the
// first attempt that was not answered: from then on only an answer that tells the outcome ends the
// question.
func (c *Client) decide(ctx context.Context, r txn.CommitRequest) (txn.Result, error) {
	req := commitRequest(r)
	pauses := c.newPauses()
	open := delegated(r.Votes)
	for {
		result, raw := c.commit(ctx, r.ID, req)
		if raw == nil {
			return result, nil
		}
		err := wire.TransactionError(raw)
		if o, ok := errors.AsType[*wire.OutcomeError](err); ok && settled(r.ID, o.Result) {
			return o.Result, nil
		}
		refusal, refused := errors.AsType[*txn.Refusal](err)
		switch {
		case refused && !passing(refusal.Reason):
			return txn.Result{}, afterSilence(open, refusal)
		case !refused && judge(raw) == hopeless:
			return txn.Result{}, fmt.Errorf("%w: %w", txn.ErrUnknown, raw)
		case !refused && open == nil:
			open = fmt.Errorf("an earlier attempt was not answered: %w", err)
		}
		if why := wait(ctx, pauses.NextBackOff()); why != nil {
			return txn.Result{}, fmt.Errorf("%w: %w: %w", txn.ErrUnknown, why, err)
		}
	}
}

// commit is one attempt. A reply that is not positively "committed" for this very transaction is
// none.
func (c *Client) commit(
	ctx context.Context, id txn.ID, req *gavelv1.CommitTransactionRequest,
) (txn.Result, error) {
	a, err := c.calls.commit(ctx, req)
	result, err := decode(id, a.GetTransaction(), err)
	if err == nil && result.Outcome != txn.OutcomeCommitted {
		err = &nonsense{fmt.Errorf("OK for a transaction that is %s", result.Outcome)}
	}
	return result, err
}

func settled(id txn.ID, r txn.Result) bool {
	return r.ID == id && r.Outcome != txn.OutcomeUnknown
}

// passing are the refusals that say nothing about the transaction but "not now". They are
// repeated: a branch that is prepared already has no better way to its decision.
func passing(r txn.Reason) bool {
	switch r {
	case txn.ReasonOverloaded, txn.ReasonLogFull, txn.ReasonShutdown, txn.ReasonFailed,
		txn.ReasonFenced, txn.ReasonNotReady, txn.ReasonKeyBusy:
		return true
	default:
		return false
	}
}

// errDelegated is why a transaction is open although the coordinator was not asked, or refused.
var errDelegated = errors.New("client/remote: the delegate has committed")

// delegated is errDelegated if the votes say so.
func delegated(votes []txn.BranchVote) error {
	for _, v := range votes {
		if v.Vote == txn.VoteCommitted {
			return errDelegated
		}
	}
	return nil
}

// afterSilence is why a commit failed, as the caller may take it. Alone it means that the commit
// did nothing. Where the transaction is open it means so only if it tells the outcome.
func afterSilence(open, why error) error {
	if open == nil || txn.ReasonOf(why) == txn.ReasonRolledBack {
		return why
	}
	return fmt.Errorf("%w: %w, and then: %w", txn.ErrUnknown, open, why)
}

func commitRequest(r txn.CommitRequest) *gavelv1.CommitTransactionRequest {
	out := &gavelv1.CommitTransactionRequest{
		TransactionId: r.ID.String(),
		Votes:         wire.EncodeBranchVotes(r.Votes),
		AckLevel:      wire.EncodeAckLevel(r.Ack),
		Intent:        r.Intent,
		Plan:          wire.EncodePlan(r.Plan),
		Complete:      r.Complete,
	}
	if r.Wait != 0 {
		out.Wait = durationpb.New(r.Wait)
	}
	return out
}

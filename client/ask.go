package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// settle sends the votes until the outcome is known. A lost answer says nothing, and repeating a
// Commit is harmless; it is also what makes progress if the first one never arrived. The error is
// why asking ended: ctx, the bound of call, or a refusal. It leaves the outcome open.
func (c *Client) settle(
	ctx, call context.Context, r txn.CommitRequest,
) (txn.Result, error) {
	for try := 0; ; try++ {
		result, err := c.decider.Commit(call, r)
		switch {
		case err == nil && final(result.Outcome):
			return result, nil
		case refused(err):
			// These votes will not be taken. What became of the transaction can still be asked.
			return c.ask(ctx, call, r.ID)
		}
		if err := c.goOn(ctx, call, try, result, err); err != nil {
			if mutant.On(mutant.TimeoutMeansAborted) {
				return txn.Result{ID: r.ID, Outcome: txn.OutcomeRolledBack}, nil
			}
			return txn.Result{}, err
		}
	}
}

// ask asks for the outcome until it is known. A refusal to answer is final.
func (c *Client) ask(ctx, call context.Context, id txn.ID) (txn.Result, error) {
	for try := 0; ; try++ {
		result, err := c.decider.Outcome(call, id)
		switch {
		case err == nil && (final(result.Outcome) || result.Outcome == txn.OutcomeForgotten):
			return result, nil
		case refused(err):
			return txn.Result{}, err
		}
		if err := c.goOn(ctx, call, try, result, err); err != nil {
			return txn.Result{}, err
		}
	}
}

// goOn pauses before the next question. It returns why there is none.
func (c *Client) goOn(
	ctx, call context.Context, try int, last txn.Result, err error,
) error {
	if err == nil {
		err = fmt.Errorf("client: the coordinator answered %s", last.State)
	}
	if c.pause(ctx, try) && call.Err() == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

func final(o txn.Outcome) bool {
	return o == txn.OutcomeCommitted || o == txn.OutcomeRolledBack || o.IsHeuristic()
}

// refused says whether a coordinator refused for good. The other refusals pass: a coordinator that
// is overloaded, starting, or about to be replaced by its next epoch.
func refused(err error) bool {
	if errors.Is(err, txn.ErrUnknown) {
		return false
	}
	switch txn.ReasonOf(err) {
	case "", txn.ReasonOverloaded, txn.ReasonNotReady, txn.ReasonLogFull, txn.ReasonShutdown,
		txn.ReasonFailed, txn.ReasonFenced:
		return false
	}
	return true
}

// outcomeError is what InTx returns for a result:
//
//	Committed     nil
//	RolledBack    *AbortedError
//	heuristic     *HeuristicError
//	Forgotten     in doubt: it was known once
//	Unknown       in doubt
func outcomeError(r txn.Result) error {
	switch {
	case r.Outcome == txn.OutcomeCommitted:
		return nil
	case r.Outcome == txn.OutcomeRolledBack:
		return &AbortedError{
			ID: r.ID, Cause: r.Cause, Reason: r.Reason, Resource: r.Resource, SQLState: r.SQLState,
			Retryable: retryableState(r.SQLState),
		}
	case r.Outcome.IsHeuristic():
		return &HeuristicError{Result: r}
	}
	return &InDoubtError{
		ID: r.ID, Err: fmt.Errorf("client: the coordinator answered %s", r.Outcome),
	}
}

package client

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"github.com/gavel-tx/gavel/txn"
)

// TakePart calls fn with a context that carries a transaction which another process has begun and
// ends, and then prepares what fn did with it. The votes are for that other process, which waits
// for them: see [Call.Done]. They are of the branches of fn and of those that it heard of by calls
// of its own. A branch of another part of the transaction is never shared, even at one database:
// the parts are two sessions, that wait for each other's locks and do not see each other's work.
//
// If fn returns an error or panics, ctx ends, or a branch cannot be prepared, the transaction can
// not commit: the sessions are rolled back and the error, fn's own if it had one, says why. The
// votes that come with an error only say so too; the other process must make the transaction roll
// back also if they get lost. Nothing is decided here. What is prepared is durable when TakePart
// returns, and the coordinator's.
//
// Remaining is how long the transaction can still commit; fn's context ends with it. Zero means
// that it is not known. A transaction that does not run any more, whose commit has begun, or that
// the coordinator does not know, takes no branches: then that is the error. An InTx of the same
// Client within fn joins the transaction. Of the Client's defaults Isolation and ReadOnly apply.
func (c *Client) TakePart(
	ctx context.Context, id txn.ID, remaining time.Duration, fn func(context.Context) error,
) ([]txn.BranchVote, error) {
	t := newPart(ctx, c, id, remaining)
	defer t.registrar.close()
	inside, cancel := t.context(ctx)
	defer cancel()
	returned := false
	defer func() {
		// A panic, or runtime.Goexit: it goes on when the sessions are rolled back.
		if !returned {
			open, _ := t.end()
			rollBack(ctx, open)
		}
	}()
	err := fn(inside)
	returned = true
	return t.vote(ctx, context.Cause(inside), err)
}

// newPart is a transaction that the coordinator knows already.
func newPart(
	ctx context.Context, c *Client, id txn.ID, remaining time.Duration,
) *transaction {
	t := &transaction{
		client: c,
		set: settings{
			timeout: remaining, level: c.defaults.level, readOnly: c.defaults.readOnly,
		},
		registrar: newRegistrar(ctx, c.decider, txn.BeginRequest{ID: id, Part: rand.Text()}),
	}
	t.registrar.joins(id, remaining)
	t.mu.registered, t.mu.pinned = true, true
	return t
}

// rollBack ends sessions without effect, on a context that the end of ctx does not shorten.
func rollBack(ctx context.Context, open []*entry) {
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	each(open, func(e *entry) { e.branch.Finish(back, false) })
}

// vote ends a part after its function has returned:
//
//	function     branches            vote
//	error        any                 roll back: No
//	nil          one has failed      roll back: No
//	nil          all can commit      readers commit, writers prepare, all at once
//
// There is no COMMIT by a single writer here: only who began the transaction knows the others.
func (t *transaction) vote(
	ctx context.Context, ended, fnErr error,
) ([]txn.BranchVote, error) {
	open, why := t.end()
	switch {
	case fnErr != nil:
		a := abortedBy(txn.CauseClient, "", fnErr)
		if a.SQLState == "" && ended == nil {
			a.SQLState = codeBehind(ctx, open)
		}
		return t.decline(ctx, open, a), fnErr
	case ended != nil:
		why = fmt.Errorf("client: the context ended before the work was done: %w", ended)
	}
	if why != nil {
		return t.refuse(ctx, open, abortedBy(txn.CauseClient, "", why))
	}
	call, cancel := settling(ctx, t.set.undecided())
	defer cancel()
	all := parts(open)
	if a := reviewAll(call, all); a != nil {
		return t.refuse(ctx, open, a)
	}
	votes, _ := t.foreign()
	begun, err := t.registrar.wait(call)
	if err == nil {
		err = name(all, begun)
	}
	if err == nil {
		err = apart(all, votes)
	}
	if err != nil {
		return t.refuse(ctx, open, t.refused(err))
	}
	each(all, func(p *part) { p.cast(call, begun.ID) })
	votes = slices.Clone(votes)
	for _, p := range all {
		if p.vote.Vote == txn.VoteNo {
			p.vote.Reason = p.resource + ": " + p.vote.Reason
		}
		votes = append(votes, p.vote)
	}
	for _, p := range all {
		if p.vote.Vote == txn.VoteNo {
			return votes, t.partError(aborted("", p.vote.Reason, p.vote.SQLState, p.err))
		}
	}
	return votes, nil
}

// codeBehind is the code of the database behind a function's error, which a handler has often put
// into words for its callers. Theirs may do the work again because of it.
func codeBehind(ctx context.Context, open []*entry) string {
	call, cancel := context.WithTimeout(ctx, courtesy)
	defer cancel()
	if a := reviewAll(call, parts(open)); a != nil {
		return a.SQLState
	}
	return ""
}

// refuse ends a part that cannot commit.
func (t *transaction) refuse(
	ctx context.Context, open []*entry, a *AbortedError,
) ([]txn.BranchVote, error) {
	return t.decline(ctx, open, a), t.partError(a)
}

// decline rolls the sessions back, and votes No for every branch of this part: nothing else could
// ever prepare them.
func (t *transaction) decline(
	ctx context.Context, open []*entry, a *AbortedError,
) []txn.BranchVote {
	rollBack(ctx, open)
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), courtesy)
	defer cancel()
	begun, _ := t.registrar.wait(call)
	votes := make([]txn.BranchVote, len(begun.Branches))
	for i, b := range begun.Branches {
		votes[i] = txn.BranchVote{
			Branch: b.Branch, Vote: txn.VoteNo, Reason: a.words(), SQLState: a.SQLState,
		}
	}
	return votes
}

// partError says that this part cannot commit. That all others are rolled back too is not for this
// process to say.
func (t *transaction) partError(a *AbortedError) error {
	return &CallError{
		Reason: fmt.Sprintf("this part of transaction %s cannot commit: %s",
			t.registrar.known(), a.words()),
		State: a.SQLState, Err: a.Err,
	}
}

// words is why, and where.
func (e *AbortedError) words() string {
	reason := e.Reason
	if reason == "" && e.Err != nil {
		reason = e.Err.Error()
	}
	if e.Resource != "" {
		return e.Resource + ": " + reason
	}
	return reason
}

package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// errUnderWay is why a transaction rolls back whose function left a call behind.
var errUnderWay = errors.New("client: a call of another process was still under way when the " +
	"function returned; wait for its answer, and read a stream to its end")

// CallError is why a transaction can only roll back within which another process was called: the
// call failed, or what the other process did cannot commit.
type CallError struct {
	// Reason says why in words, and State is the code of the other process's database, if either is
	// known.
	Reason string
	State  string
	// Err is the error of the call, if it had one.
	Err error
}

// Error says why the call takes the transaction with it.
func (e *CallError) Error() string {
	reason := e.Reason
	switch {
	case reason == "":
		reason = e.Err.Error()
	case e.Err != nil && !strings.Contains(reason, e.Err.Error()):
		reason += ": " + e.Err.Error()
	}
	return "client: a call within the transaction failed, so that it can only roll back: " + reason
}

func (e *CallError) Unwrap() error { return e.Err }

// SQLState is the code of the other process's database, or empty.
func (e *CallError) SQLState() string { return e.State }

// Call is a call of another process that takes a transaction along. Packages for a way of calling,
// such as client/grpctx, make one for each call; applications never see it. Safe for concurrent
// use.
type Call struct {
	t  *transaction
	id txn.ID
	// until is when the transaction can no longer commit, or zero if that is not known.
	until time.Time
	// done says that the call has ended. The lock of the transaction guards it.
	done bool
}

// Carry begins a call that takes the transaction of ctx to another process, which has part in it by
// [Client.TakePart]. It waits until the coordinator knows the transaction, and from then on the
// coordinator decides it. Until [Call.Done] the transaction cannot commit.
//
// Without a transaction in ctx the error is [ErrNoTransaction], and the call is none of its
// business; after its end [ErrFinished]. With any other error the transaction can only roll back.
// After an error the call must not be sent.
func Carry(ctx context.Context) (*Call, error) {
	t := from(ctx)
	if t == nil {
		return nil, ErrNoTransaction
	}
	c := &Call{t: t}
	if err := t.call(); err != nil {
		return nil, err
	}
	begun, err := t.registrar.wait(ctx)
	if err == nil && begun.Delegate != 0 {
		err = fmt.Errorf("client: the decision of %s is left to one of its databases, so that no "+
			"other process can take part; take the option Delegate away, or call with Detach",
			begun.ID)
	}
	if err != nil {
		return nil, c.Done(nil, err)
	}
	c.id, c.until = begun.ID, t.registrar.until()
	return c, nil
}

// call notes that a call begins, for which the coordinator must know the transaction.
func (t *transaction) call() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.ended {
		return ErrFinished
	}
	t.registrar.undelegate()
	t.mu.pinned, t.mu.called = true, true
	t.mu.calls++
	t.register()
	return nil
}

// ID is the transaction that the other process is to be told.
func (c *Call) ID() txn.ID { return c.id }

// Remaining is how long the transaction can still commit, at least a nanosecond, or zero if that is
// not known.
func (c *Call) Remaining() time.Duration {
	if c.until.IsZero() {
		return 0
	}
	return max(time.Until(c.until), 1)
}

// Done ends the call. If err is nil, votes are those of the whole part that the other process had,
// as it has sent them; otherwise the call has failed, or its votes were lost, and those that are
// known help to say why. The transaction can only roll back if the call has failed or a vote is No,
// whatever the application makes of it.
//
// It returns what the application is to hear: nil, err itself, or why the votes are not taken. Only
// the first Done of a call has an effect. After the end of the transaction it is [ErrFinished].
func (c *Call) Done(votes []txn.BranchVote, err error) error {
	t := c.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.done {
		return err
	}
	c.done = true
	t.mu.calls--
	why := t.judge(votes, err)
	switch {
	case t.mu.ended && err == nil:
		return ErrFinished
	case t.mu.ended:
		return err
	case why == nil:
		t.mu.votes = append(t.mu.votes, votes...)
		return nil
	}
	if t.mu.failure == nil && !mutant.On(mutant.FailedCallForgotten) {
		t.mu.failure = why
	}
	if err != nil {
		return err
	}
	return why
}

// judge says why a call that ended so keeps the transaction from committing, or nil. The caller
// holds the lock.
func (t *transaction) judge(votes []txn.BranchVote, err error) error {
	no := slices.IndexFunc(votes, func(v txn.BranchVote) bool { return v.Vote == txn.VoteNo })
	switch {
	case no >= 0:
		return &CallError{Reason: votes[no].Reason, State: votes[no].SQLState,
			Err: orRefusal(err, votes[no])}
	case err != nil:
		return &CallError{State: sqlState(err), Err: err}
	case len(t.mu.votes)+len(votes) > txn.MaxBranches:
		return &CallError{Err: fmt.Errorf("client: it would be one of more than %d branches, the "+
			"limit", txn.MaxBranches)}
	}
	for _, v := range votes {
		if votedOf(t.mu.votes, v.Branch) {
			return &CallError{Err: fmt.Errorf("client: branch %d votes twice; if the interceptors "+
				"are installed once on each side, the coordinator is too old for calls",
				v.Branch)}
		}
	}
	return nil
}

// orRefusal is err, or that a branch voted No.
func orRefusal(err error, v txn.BranchVote) error {
	if err != nil || v.Reason != "" {
		return err
	}
	return fmt.Errorf("client: branch %d voted No", v.Branch)
}

func votedOf(votes []txn.BranchVote, no txn.BranchNo) bool {
	return slices.ContainsFunc(votes, func(v txn.BranchVote) bool { return v.Branch == no })
}

// learn takes the code of another process's database over from a call that failed: the error of the
// call itself, which the function may have returned, does not carry it.
func (e *AbortedError) learn(failed error) {
	call, ok := errors.AsType[*CallError](failed)
	if ok && e.SQLState == "" {
		e.SQLState, e.Retryable = call.State, retryableState(call.State)
	}
}

// foreign are the votes of other processes, and whether there could be any. The transaction has
// ended for its function.
func (t *transaction) foreign() (votes []txn.BranchVote, called bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.votes, t.mu.called
}

// apart makes sure that no branch is voted for by another process and here. A coordinator from
// before parts gives both one branch, and one prepared name.
func apart(all []*part, votes []txn.BranchVote) error {
	for _, p := range all {
		if votedOf(votes, p.no) {
			return fmt.Errorf("client: the branch at %s was given to a called process too; the "+
				"coordinator is too old for calls within a transaction", p.resource)
		}
	}
	return nil
}

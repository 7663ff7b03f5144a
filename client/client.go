package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/gavel-tx/gavel/txn"
)

// Decider decides transactions. An embedded coordinator.Coordinator is one, and so is the
// connection to a coordinator process that client/remote makes. Its methods are safe for concurrent
// use and return when their context ends. They return an error that wraps [txn.ErrUnknown], or any
// other error but a *txn.Refusal, if the effect of the call is not known; a refused call has
// changed nothing.
type Decider interface {
	// Begin starts a transaction, or enlists more resources if the request has an ID. When it
	// returns, and not before, the branches that it names may be prepared.
	Begin(ctx context.Context, r txn.BeginRequest) (txn.Begun, error)
	// Commit closes the set of branches and returns the decision, once it is durable. Votes that
	// hold a No make it a rollback. It may be repeated.
	Commit(ctx context.Context, r txn.CommitRequest) (txn.Result, error)
	// Outcome returns what is known of the transaction, which may be OutcomeUnknown.
	Outcome(ctx context.Context, id txn.ID) (txn.Result, error)
}

// Rollbacker is implemented by Deciders that can end an undecided transaction at once. Others are
// sent No votes, which a transaction without branches has not got: it stays, with its key, until
// its deadline.
type Rollbacker interface {
	// Rollback ends the transaction, unless its commit is decided.
	Rollback(ctx context.Context, id txn.ID, reason string) (txn.Result, error)
}

// The bounds of what happens after the function has returned.
const (
	// grace is what is left for a clean end once the caller's context has ended.
	grace = 5 * time.Second
	// courtesy bounds telling the coordinator of an end that it has no part in.
	courtesy = time.Second

	defaultAskFor = 30 * time.Second
	firstPause    = 20 * time.Millisecond
	longestPause  = time.Second
)

// Client runs transactions. It is safe for concurrent use, has no state of its own, and needs no
// Close.
type Client struct {
	decider  Decider
	defaults settings
	// random draws from [0, 1): pauses are spread, so that those who met once do not meet again.
	random func() float64
}

// New makes a Client on a Decider, which stays the caller's. The options become the defaults of its
// transactions.
func New(d Decider, defaults ...Option) *Client {
	return &Client{decider: d, defaults: settings{}.with(defaults), random: rand.Float64}
}

// InTx calls fn with a context that carries a transaction, and ends it: if fn returns nil,
// everything that fn did with this context commits as one; if it returns an error or panics, or if
// ctx ends, all of it is rolled back. See the package's description for what the error says, and
// for [Retry]. What is committed is durable when InTx returns.
//
// Within the function of another InTx of the same Client it joins that transaction: fn is called at
// once, and its error also makes the outer one roll back. Options are ignored there, except that a
// key, an isolation level or ReadOnly which the outer transaction does not have is refused with
// [ErrNested].
func (c *Client) InTx(ctx context.Context, fn func(context.Context) error, opts ...Option) error {
	s := c.defaults.with(opts)
	if err := s.validate(); err != nil {
		return err
	}
	if c.defaults.key != "" {
		return fmt.Errorf("%w: an IdempotencyKey belongs to one transaction, not to a Client",
			ErrOption)
	}
	if outer := from(ctx); outer != nil {
		return outer.nested(ctx, c, s, fn)
	}
	for try := 0; ; try++ {
		err := c.once(ctx, s, fn)
		aborted, ok := err.(*AbortedError)
		if !ok || !aborted.Retryable || try == s.retries || !c.pause(ctx, try) {
			return err
		}
	}
}

// once is one attempt.
func (c *Client) once(ctx context.Context, s settings, fn func(context.Context) error) error {
	t := newTransaction(ctx, c, s)
	defer t.registrar.close()
	if s.key != "" {
		if done, err := t.beginKeyed(ctx); done || err != nil {
			return err
		}
	}
	inside, cancel := t.context(ctx)
	defer cancel()
	returned := false
	defer func() {
		// A panic, or runtime.Goexit: it goes on when the sessions are rolled back.
		if !returned {
			branches, _ := t.end()
			t.abandon(ctx, branches)
		}
	}()
	err := fn(inside)
	returned = true
	return t.finish(ctx, context.Cause(inside), err)
}

// Await asks for the outcome of a transaction until it is known, or until ctx or the client's
// [AskFor] ends. It returns what InTx would have returned.
func (c *Client) Await(ctx context.Context, id txn.ID) error {
	call, cancel := settling(ctx, c.defaults.asking())
	defer cancel()
	r, err := c.ask(ctx, call, id)
	if err != nil {
		return &InDoubtError{ID: id, Err: err}
	}
	return outcomeError(r)
}

// pause waits before another try. It is false if ctx ended meanwhile.
func (c *Client) pause(ctx context.Context, try int) bool {
	longest := min(firstPause<<min(try, 16), longestPause)
	// Half of it is certain, so that a first repetition never comes at once.
	wait := longest/2 + time.Duration(c.random()*float64(longest/2))
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// settling is a context for work that must be finished once it was begun: it outlives ctx by a
// grace, because to leave a PREPARE or a Commit unanswered helps nobody, and lasts no longer than
// limit.
func settling(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	settled, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })
	return settled, func() { stop(); cancel() }
}

package session

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// state is where a branch is in its life; see the package's picture.
type state uint8

const (
	stateOpening state = iota
	stateOpen
	stateRunning
	statePreparing
	stateEnding
	stateEnded
)

func (s state) String() string {
	return [...]string{"opening", "open", "running", "preparing", "ending", "ended"}[s]
}

// branch is one branch with a session of the database. Its conn belongs to whoever has brought it
// into the states opening, running, preparing and ending.
type branch struct {
	keeper *Keeper
	name   txn.Name
	// epoch is the newest of the branch's log when it began. 0: none was known.
	epoch txn.Epoch
	conn  Conn
	// ctx ends with the branch's right to run statements.
	ctx    context.Context
	cancel context.CancelCauseFunc
	// over is closed when it has ended, for good and with its vote.
	over chan struct{}

	mu struct {
		sync.Mutex
		state state
		// finished: its client has no more statements.
		finished bool
		// vote is set once the branch can only be rolled back, or has ended.
		vote *participant.Vote
		idle *time.Timer
		life *time.Timer
	}
}

var (
	errEnded = errors.New("session: the branch has ended")
	errPanic = errors.New("a panic in the participant broke it off, which its log tells more of")
)

// stale says whether the branch began under an epoch that is over. Where none was known it counts
// as of the first, which is as old as it can be.
func (b *branch) stale(now txn.Epoch) bool { return max(b.epoch, 1) < now }

// opened says that the connection is ready, or learns that it comes too late.
func (b *branch) opened() error {
	if !b.leave(nil) {
		return b.refusal()
	}
	return nil
}

// Identity implements Branch.
func (b *branch) Identity() txn.Identity { return b.conn.Identity() }

// Execute implements Branch.
func (b *branch) Execute(ctx context.Context, s Statement, sink Sink) (Result, error) {
	if err := s.Validate(); err != nil {
		b.end(participant.Vote{Vote: txn.VoteNo, Reason: "a statement was refused: " + err.Error()})
		return Result{}, err
	}
	if !b.enter() {
		return Result{}, b.refusal()
	}
	defer b.leaveOnPanic()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(b.ctx, func() { cancel(context.Cause(b.ctx)) })()
	r, err := b.conn.Run(ctx, s, forsakable(ctx, sink))
	if err == nil && !mutant.On(mutant.RowsUnchecked) {
		err = count(s, r)
	}
	if !b.leave(err) && err == nil {
		err = b.refusal()
	}
	return r, err
}

// forsakable is a sink that returns at the end of ctx, also while sink itself does not: a client
// that reads nothing must not keep its branch from its end. sink is not called again then, and the
// rows that it was given are its own.
func forsakable(ctx context.Context, sink Sink) Sink {
	if sink == nil {
		return nil
	}
	type taken struct {
		err      error
		panicked any
	}
	return func(columns []string, rows [][]any) error {
		if ctx.Err() != nil {
			return cancelled(ctx)
		}
		done := make(chan taken, 1)
		go func() {
			t := taken{err: errPanic}
			defer func() {
				if p := recover(); p != nil {
					t.panicked = fmt.Sprintf("%v\n%s", p, debug.Stack())
				}
				done <- t
			}()
			t.err = sink(columns, rows)
		}()
		select {
		case t := <-done:
			if t.panicked != nil {
				panic(t.panicked) // where whoever guards the statement sees it
			}
			return t.err
		case <-ctx.Done():
			return cancelled(ctx)
		}
	}
}

func cancelled(ctx context.Context) error {
	cause := context.Cause(ctx)
	return &Error{Err: cause, Reason: fmt.Sprintf("was cancelled: %v", cause)}
}

// enter takes the connection for a statement.
func (b *branch) enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.state != stateOpen || b.mu.finished {
		return false
	}
	b.mu.idle.Stop()
	b.mu.state = stateRunning
	return true
}

// leave gives the connection back after a statement, or after it was made, and says whether the
// branch goes on. One that was told to end meanwhile, or whose statement failed, is rolled back.
func (b *branch) leave(err error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil && b.mu.vote == nil {
		v := failedVote(err)
		b.mu.vote = &v
	}
	if b.mu.state != stateRunning && b.mu.state != stateOpening {
		return false // somebody else has the connection, and concludes
	}
	if b.mu.vote != nil {
		b.toEnding()
		return false
	}
	b.mu.state = stateOpen
	b.mu.idle.Reset(b.keeper.cfg.Idle)
	return true
}

// leaveOnPanic is deferred by whoever brings the connection into use. A panic ends the branch as an
// error does, and goes on.
func (b *branch) leaveOnPanic() {
	if p := recover(); p != nil {
		b.leave(errPanic)
		panic(p)
	}
}

// failedVote is the vote of a branch one of whose statements has failed.
func failedVote(err error) participant.Vote {
	v := participant.Vote{Vote: txn.VoteNo, Reason: err.Error()}
	if e, ok := errors.AsType[*Error](err); ok {
		v.SQLState = e.SQLState
	}
	return v
}

// toEnding has the branch rolled back by a goroutine of its own. The caller holds the lock and owns
// the connection.
func (b *branch) toEnding() {
	b.mu.state = stateEnding
	b.cancel(errEnded)
	go func() {
		if b.conn != nil {
			ctx, cancel := context.WithTimeout(context.Background(), b.keeper.cfg.PrepareLimit)
			b.conn.Rollback(ctx)
			cancel()
		}
		b.mu.Lock()
		v := *b.mu.vote
		b.mu.Unlock()
		b.conclude(v)
	}()
}

// end makes sure that the branch is rolled back, with this vote unless it has one, except where
// it is being prepared, or was. It does not wait for that: see over.
func (b *branch) end(v participant.Vote) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch b.mu.state {
	case statePreparing, stateEnding, stateEnded:
		return
	}
	if b.mu.vote == nil {
		b.mu.vote = &v
		b.cancel(errors.New(v.Reason))
	}
	if b.mu.state == stateOpen {
		b.toEnding()
	}
}

// prepare has the branch vote, once. Its vote is known when over is closed.
func (b *branch) prepare() {
	b.mu.Lock()
	defer b.mu.Unlock()
	ready := b.mu.state == stateOpen ||
		b.mu.state == stateRunning && mutant.On(mutant.PreparedWhileRunning)
	switch {
	case ready:
		b.mu.state = statePreparing
		b.mu.idle.Stop()
		b.mu.life.Stop()
		go b.ask()
	case b.mu.vote == nil && (b.mu.state == stateRunning || b.mu.state == stateOpening):
		b.mu.vote = &participant.Vote{Vote: txn.VoteNo, Reason: "a statement of the branch was " +
			"still running, and was cancelled; wait for the answer to every statement before " +
			"the commit"}
		b.cancel(errors.New(b.mu.vote.Reason))
	}
}

// ask has the database prepare the branch. Its own limit bounds it, and nobody's patience: a
// PREPARE that is cut off may have happened all the same.
func (b *branch) ask() {
	ctx, cancel := context.WithTimeout(context.Background(), b.keeper.cfg.PrepareLimit)
	defer cancel()
	b.conclude(b.conn.Prepare(ctx))
}

// conclude ends the branch, for good.
func (b *branch) conclude(v participant.Vote) {
	b.mu.Lock()
	b.mu.state, b.mu.vote = stateEnded, &v
	b.mu.idle.Stop()
	b.mu.life.Stop()
	b.mu.Unlock()
	b.cancel(errEnded)
	b.keeper.retire(b, v)
	close(b.over)
	b.keeper.join.Done()
}

// leftAlone ends a branch that nobody has used for too long.
func (b *branch) leftAlone() {
	b.mu.Lock()
	idle := b.mu.state == stateOpen
	b.mu.Unlock()
	if idle {
		b.end(b.outlived("was idle for", b.keeper.cfg.Idle))
	}
}

// outlived is the vote of a branch that lasted too long.
func (b *branch) outlived(what string, limit time.Duration) participant.Vote {
	return participant.Vote{Vote: txn.VoteNo, Reason: fmt.Sprintf("its session %s %s, which is "+
		"the limit; commit sooner, or in smaller transactions", what, limit)}
}

// last is the vote with which the branch ended, or will.
func (b *branch) last() participant.Vote {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.vote == nil {
		return participant.Vote{}
	}
	return *b.mu.vote
}

// atWork says whether the branch could still be asked to prepare.
func (b *branch) atWork() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.state < statePreparing && b.mu.vote == nil
}

// await waits until the branch has ended.
func (b *branch) await(ctx context.Context) error {
	select {
	case <-b.over:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("session: wait for the end of %s: %w: %w", b.name, txn.ErrUnknown,
			context.Cause(ctx))
	}
}

// refusal is why no statement is run any more.
func (b *branch) refusal() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch v := b.mu.vote; {
	case v != nil && v.Vote == txn.VoteNo:
		return &Error{Reason: "was not run: the branch was rolled back, because " + v.Reason,
			SQLState: v.SQLState}
	case b.mu.state == stateRunning:
		return &Error{Reason: "was not run: another one is running"}
	}
	return closed()
}

// closed refuses a statement of a branch that may yet be committed, or was.
func closed() error {
	return &txn.Refusal{Reason: txn.ReasonClosed, Field: "statement",
		Message: "it was not run: the branch was finished, or its commit asked for, and takes no " +
			"more statements",
		Effect: "the outcome is the coordinator's: ask GetTransaction"}
}

// Finish implements Branch.
func (b *branch) Finish() error {
	b.mu.Lock()
	b.mu.finished = b.mu.vote == nil || b.mu.vote.Vote != txn.VoteNo
	finished := b.mu.finished
	b.mu.Unlock()
	if !finished {
		return b.refusal()
	}
	return nil
}

// Close implements Branch.
func (b *branch) Close() {
	b.mu.Lock()
	keep := b.mu.finished || mutant.On(mutant.BrokenStreamKept)
	b.mu.Unlock()
	if !keep {
		b.end(participant.Vote{Vote: txn.VoteNo, Reason: "its client left before it had said " +
			"that there are no more statements"})
	}
}

// Done implements Branch.
func (b *branch) Done() <-chan struct{} { return b.over }

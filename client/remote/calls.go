package remote

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
)

// calls makes the calls of a Client: in the one session that it has at a time, or by themselves
// where that cannot be.
type calls struct {
	service gavelv1.TransactionServiceClient
	// slots has a token for each call in a session, so that the coordinator never has to stop
	// reading: then it would not hear of cancels either.
	slots chan struct{}
	// ctx is above those of all streams. stop and join end them, in Close.
	ctx  context.Context
	stop context.CancelFunc
	join sync.WaitGroup

	mu struct {
		sync.Mutex
		// session takes calls, or has ended and is replaced by the next call. It is nil at first.
		session *session
		// single says that no call goes to a session any more: the coordinator has none, the Client
		// does not want any, or it is closed.
		single bool
	}
}

func newCalls(service gavelv1.TransactionServiceClient, single bool) *calls {
	c := &calls{service: service, slots: make(chan struct{}, wire.MaxSessionCalls)}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.mu.single = single
	return c
}

// close ends the session, and its calls with it. Later calls go by themselves, and hear from the
// closed connection what they always heard.
func (c *calls) close() {
	c.goSingle()
	c.stop()
	c.join.Wait()
}

func (c *calls) goSingle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.single = true
}

func (c *calls) begin(
	ctx context.Context, r *gavelv1.BeginTransactionRequest,
) (*gavelv1.BeginTransactionResponse, error) {
	call := &gavelv1.SessionCall{Call: &gavelv1.SessionCall_Begin{Begin: r}}
	return share(ctx, c, call, r, c.service.BeginTransaction, (*gavelv1.SessionAnswer).GetBegin)
}

func (c *calls) enlist(
	ctx context.Context, r *gavelv1.EnlistBranchRequest,
) (*gavelv1.EnlistBranchResponse, error) {
	call := &gavelv1.SessionCall{Call: &gavelv1.SessionCall_Enlist{Enlist: r}}
	return share(ctx, c, call, r, c.service.EnlistBranch, (*gavelv1.SessionAnswer).GetEnlist)
}

func (c *calls) commit(
	ctx context.Context, r *gavelv1.CommitTransactionRequest,
) (*gavelv1.CommitTransactionResponse, error) {
	call := &gavelv1.SessionCall{Call: &gavelv1.SessionCall_Commit{Commit: r}}
	return share(ctx, c, call, r, c.service.CommitTransaction, (*gavelv1.SessionAnswer).GetCommit)
}

func (c *calls) rollback(
	ctx context.Context, r *gavelv1.RollbackTransactionRequest,
) (*gavelv1.RollbackTransactionResponse, error) {
	call := &gavelv1.SessionCall{Call: &gavelv1.SessionCall_Rollback{Rollback: r}}
	return share(ctx, c, call, r, c.service.RollbackTransaction,
		(*gavelv1.SessionAnswer).GetRollback)
}

func (c *calls) get(
	ctx context.Context, r *gavelv1.GetTransactionRequest,
) (*gavelv1.GetTransactionResponse, error) {
	call := &gavelv1.SessionCall{Call: &gavelv1.SessionCall_Get{Get: r}}
	return share(ctx, c, call, r, c.service.GetTransaction, (*gavelv1.SessionAnswer).GetGet)
}

// share makes a call in the session if it can, and else with alone, by itself. Its errors are those
// that the call would have by itself.
func share[Q proto.Message, R any](
	ctx context.Context, c *calls, call *gavelv1.SessionCall, request Q,
	alone func(context.Context, Q, ...grpc.CallOption) (*R, error),
	read func(*gavelv1.SessionAnswer) *R,
) (*R, error) {
	size := proto.Size(call)
	if size > wire.MaxSessionRequest || !encodable(call) {
		return alone(ctx, request)
	}
	answer, err := c.ask(ctx, call, size)
	switch {
	case errors.Is(err, errNoSession):
		return alone(ctx, request)
	case err != nil:
		return nil, err
	case answer.GetStatus() != nil:
		return nil, wire.DecodeSessionStatus(answer.GetStatus())
	}
	if r := read(answer); r != nil {
		return r, nil
	}
	return nil, &nonsense{fmt.Errorf("it answers another method: %T", answer.GetAnswer())}
}

// encodable says whether the strings that callers gave can be sent at all. One that is not UTF-8
// would end the session, and so must meet its fate by itself.
func encodable(call *gavelv1.SessionCall) bool {
	valid := utf8.ValidString
	switch c := call.GetCall().(type) {
	case *gavelv1.SessionCall_Begin:
		b := c.Begin
		return valid(b.GetLabel()) && valid(b.GetIdempotencyKey()) && valid(b.GetDelegate()) &&
			allValid(b.GetResources())
	case *gavelv1.SessionCall_Enlist:
		return valid(c.Enlist.GetTransactionId()) && allValid(c.Enlist.GetResources()) &&
			valid(c.Enlist.GetDelegate()) && valid(c.Enlist.GetPart())
	case *gavelv1.SessionCall_Commit:
		for _, v := range c.Commit.GetVotes() {
			if !valid(v.GetReason()) || !valid(v.GetSqlstate()) {
				return false
			}
		}
		return valid(c.Commit.GetTransactionId())
	case *gavelv1.SessionCall_Rollback:
		return valid(c.Rollback.GetTransactionId()) && valid(c.Rollback.GetReason())
	case *gavelv1.SessionCall_Get:
		return valid(c.Get.GetTransactionId())
	}
	return false
}

func allValid(all []string) bool {
	return !slices.ContainsFunc(all, func(s string) bool { return !utf8.ValidString(s) })
}

// ask makes a call in the session and waits for its answer, or for the end of ctx.
func (c *calls) ask(
	ctx context.Context, call *gavelv1.SessionCall, size int,
) (*gavelv1.SessionAnswer, error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
	}
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	if deadline, ok := ctx.Deadline(); ok {
		call.Timeout = durationpb.New(time.Until(deadline))
	}
	a := &asked{call: call, size: size, done: make(chan reply, 1)}
	s := c.put(a)
	if s == nil {
		return nil, errNoSession
	}
	select {
	case r := <-a.done:
		return r.answer, r.err
	case <-ctx.Done():
		s.cancel(a)
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// put hands a call to the session, or to a new one if there is none that takes it. It returns nil
// if sessions are over.
func (c *calls) put(a *asked) *session {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.single {
		return nil
	}
	if s := c.mu.session; s != nil && s.put(a) {
		return s
	}
	s := newSession(c)
	s.put(a)
	c.mu.session = s
	c.join.Go(s.run)
	return s
}

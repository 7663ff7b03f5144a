package server

import (
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
)

// Session implements the service. It returns when no call of it runs any more.
func (s *Server) Session(stream gavelv1.TransactionService_SessionServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	x := &session{server: s, stream: stream, ctx: ctx,
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1), idle: make(chan struct{})}
	x.mu.cancels = map[uint64]context.CancelFunc{}
	var sender sync.WaitGroup
	sender.Go(x.send)
	err := x.receive()
	if err != nil {
		// Nobody hears the answers, and what waits for a client must not outlive it.
		cancel()
	}
	x.calls.Wait()
	close(x.idle)
	sender.Wait()
	return err
}

// session is one stream. Its receiver starts the calls, its sender sends what they answer.
type session struct {
	server *Server
	stream gavelv1.TransactionService_SessionServer
	// ctx ends with the stream, and is above those of all calls.
	ctx   context.Context
	calls sync.WaitGroup

	// wake tells the sender of answers, room the receiver of answers that were sent. Both hold one
	// token: more would say nothing new.
	wake, room chan struct{}
	// idle is closed when the last call has answered and no other will come.
	idle chan struct{}

	mu struct {
		sync.Mutex
		// cancels has the calls that run, by their ids.
		cancels map[uint64]context.CancelFunc
		// flying counts the calls that run and the answers that are not sent yet: a client that
		// does not read must not make the server hold its answers without bound.
		flying int
		ready  []ready
		ending bool
	}
}

// ready is an answer that waits for its message, and its size in bytes.
type ready struct {
	answer *gavelv1.SessionAnswer
	size   int
}

// receive starts what comes in. It returns nil when the client has closed its side, and else why
// there will be no more of this stream.
func (x *session) receive() error {
	for {
		m, err := x.stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if n := len(m.GetCalls()); n > wire.MaxSessionBatch {
			return status.Errorf(codes.InvalidArgument,
				"a message has %d calls, at most %d are allowed", n, wire.MaxSessionBatch)
		}
		// Cancels come first: they may be what makes room.
		x.cancel(m.GetCancels())
		for _, call := range m.GetCalls() {
			if err := x.start(call); err != nil {
				return err
			}
		}
	}
}

// cancel ends the contexts of calls. Those that have answered meanwhile are not there any more.
func (x *session) cancel(ids []uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, id := range ids {
		if cancel := x.mu.cancels[id]; cancel != nil {
			cancel()
		}
	}
}

// start runs a call beside the others, once there is room for it. Not to read on meanwhile is what
// slows the client down: the window of its stream fills.
func (x *session) start(call *gavelv1.SessionCall) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for x.mu.flying >= wire.MaxSessionCalls {
		x.mu.Unlock()
		err := x.awaitRoom()
		x.mu.Lock()
		if err != nil {
			return err
		}
	}
	id := call.GetId()
	if x.mu.cancels[id] != nil {
		return status.Errorf(codes.InvalidArgument, "two calls in flight have the id %d", id)
	}
	ctx, cancel := x.callContext(call)
	x.mu.cancels[id] = cancel
	x.mu.flying++
	x.calls.Go(func() { x.run(ctx, call) })
	return nil
}

func (x *session) awaitRoom() error {
	select {
	case <-x.room:
		return nil
	case <-x.ctx.Done():
		return status.FromContextError(x.ctx.Err()).Err()
	}
}

// callContext has the deadline that a call by itself would have: it lets the coordinator refuse to
// serve those who have gone.
func (x *session) callContext(
	call *gavelv1.SessionCall,
) (context.Context, context.CancelFunc) {
	if timeout := call.GetTimeout(); timeout != nil {
		return context.WithTimeout(x.ctx, timeout.AsDuration())
	}
	return context.WithCancel(x.ctx)
}

// run makes a call and leaves its answer to the sender.
func (x *session) run(ctx context.Context, call *gavelv1.SessionCall) {
	answer := x.server.answer(ctx, call)
	size := proto.Size(answer)
	x.mu.Lock()
	x.mu.cancels[call.GetId()]()
	delete(x.mu.cancels, call.GetId())
	x.mu.ready = append(x.mu.ready, ready{answer, size})
	x.mu.Unlock()
	signal(x.wake)
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// send sends answers as they become ready, until there will be no more.
func (x *session) send() {
	age := time.NewTimer(x.server.options.SessionAge)
	defer age.Stop()
	draining := x.server.draining
	for more := true; more; {
		select {
		case <-x.wake:
			// Calls that have been answered too, and only wait for a processor, add theirs first
			// and share the message. On an idle machine nobody is before us, and this costs
			// nothing.
			runtime.Gosched()
		case <-age.C:
			x.end()
		case <-draining:
			draining = nil
			x.end()
		case <-x.idle:
			more = false
		}
		x.flush()
	}
}

// end asks the client for its end of the stream, with the next message.
func (x *session) end() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.mu.ending = true
}

// flush sends all that is ready, and what becomes ready meanwhile. While one message is being sent
// the answers for the next gather, so that the more there is to do, the less each answer costs. A
// stream that broke swallows the rest; its receiver hears of it by itself.
func (x *session) flush() {
	for m := x.take(); m != nil; m = x.take() {
		_ = x.stream.Send(m)
		x.mu.Lock()
		x.mu.flying -= len(m.GetAnswers())
		x.mu.Unlock()
		signal(x.room)
	}
}

// take makes a message of what is ready, within the limits of one, or nil.
func (x *session) take() *gavelv1.SessionResponse {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := fitting(x.mu.ready)
	if n == 0 && !x.mu.ending {
		return nil
	}
	m := &gavelv1.SessionResponse{
		Answers: make([]*gavelv1.SessionAnswer, n), Ending: x.mu.ending,
	}
	for i, r := range x.mu.ready[:n] {
		m.Answers[i] = r.answer
	}
	x.mu.ready, x.mu.ending = slices.Delete(x.mu.ready, 0, n), false
	return m
}

// fitting is how many answers, from the first, one message may carry.
func fitting(all []ready) int {
	size := 0
	for i, r := range all[:min(len(all), wire.MaxSessionBatch)] {
		size += r.size
		if i > 0 && size > wire.MaxSessionResponse {
			return i
		}
	}
	return min(len(all), wire.MaxSessionBatch)
}

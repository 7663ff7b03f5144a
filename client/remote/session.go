package remote

import (
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
)

// errNoSession is what a call hears that was not made, because the coordinator has no sessions or
// none is wanted. It is made by itself then.
var errNoSession = errors.New("client/remote: there is no session")

// session is one stream and the calls on it. It opens with its first call:
//
//	OPEN ──the coordinator asks for the end──▶ ENDING ──last answer, half-close──▶ OVER
//	  └──────────────────────────── the stream breaks ───┴────────────────────────▶ OVER
//
// An open session takes calls. One that is ending sends those that it has taken: the coordinator
// reads on until the client closes its side. What still waits when the stream breaks has an unknown
// effect, like a call whose answer was lost.
type session struct {
	calls *calls
	// wake tells the sender of something to send. One token is enough.
	wake chan struct{}
	// over is closed with the stage OVER.
	over chan struct{}

	mu struct {
		sync.Mutex
		stage stage
		// heard says that the coordinator has said something, so that it does have sessions.
		heard bool
		last  uint64
		// waiting are the calls that have no answer yet and whose callers are still there, by id.
		waiting map[uint64]*asked
		// queue are those that were not sent, in their order, and some whose callers have gone.
		queue   []*asked
		cancels []uint64
	}
}

type stage uint8

const (
	stageOpen stage = iota
	stageEnding
	stageOver
)

// asked is a call as its caller sees it.
type asked struct {
	call *gavelv1.SessionCall
	// size is that of the call, in bytes.
	size int
	// done has room for the one reply, so that nobody waits for a caller.
	done chan reply
	// sent says that the call may have been made. Its session's lock guards it.
	sent bool
}

type reply struct {
	answer *gavelv1.SessionAnswer
	err    error
}

func newSession(c *calls) *session {
	s := &session{calls: c, wake: make(chan struct{}, 1), over: make(chan struct{})}
	s.mu.waiting = map[uint64]*asked{}
	return s
}

// put takes a call, unless the session is ending.
func (s *session) put(a *asked) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.stage != stageOpen {
		return false
	}
	s.mu.last++
	a.call.Id = s.mu.last
	s.mu.waiting[a.call.Id] = a
	s.mu.queue = append(s.mu.queue, a)
	s.signal()
	return true
}

func (s *session) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// cancel forgets a call whose caller has gone. The coordinator hears of it if it may have heard of
// the call.
func (s *session) cancel(a *asked) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.waiting[a.call.Id] != a {
		return
	}
	delete(s.mu.waiting, a.call.Id)
	if a.sent {
		s.mu.cancels = append(s.mu.cancels, a.call.Id)
	}
	s.signal()
}

// run owns the stream, from its opening to its end.
func (s *session) run() {
	ctx, cancel := context.WithCancel(s.calls.ctx)
	defer cancel()
	stream, err := s.calls.service.Session(ctx)
	if err != nil {
		s.fail(err)
		return
	}
	var receiver sync.WaitGroup
	receiver.Go(func() { s.fail(s.receive(stream)) })
	if err := s.send(stream); err != nil {
		s.fail(err)
		cancel()
	}
	receiver.Wait()
}

// send sends what there is, until nothing can come any more. While one message is being sent the
// calls for the next gather.
func (s *session) send(stream gavelv1.TransactionService_SessionClient) error {
	for {
		select {
		case <-s.wake:
			// Callers that only wait for a processor add their calls first and share the message.
			// On an idle machine nobody is before us, and a lone call is sent at once.
			runtime.Gosched()
		case <-s.over:
			return nil
		}
		for m := s.take(); m != nil; m = s.take() {
			if err := stream.Send(m); errors.Is(err, io.EOF) {
				return nil // The stream broke. The receiver hears why.
			} else if err != nil {
				return err
			}
		}
		if s.finished() {
			return stream.CloseSend()
		}
	}
}

// finished says whether nobody waits for this session any more, and nobody will.
func (s *session) finished() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.stage == stageEnding && len(s.mu.waiting) == 0 && len(s.mu.cancels) == 0
}

// take makes a message of what is ready, within the limits of one, or nil. The cancels all go
// along: there are no more of them than calls in flight, and they make room for the calls.
func (s *session) take() *gavelv1.SessionRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &gavelv1.SessionRequest{Cancels: s.mu.cancels}
	s.mu.cancels = nil
	n, size := 0, 0
	for _, a := range s.mu.queue {
		if s.mu.waiting[a.call.Id] == a {
			size += a.size
			if len(m.Calls) == wire.MaxSessionBatch || size > wire.MaxSessionRequest {
				break
			}
			a.sent = true
			m.Calls = append(m.Calls, a.call)
		}
		n++
	}
	s.mu.queue = slices.Delete(s.mu.queue, 0, n)
	if len(m.Calls)+len(m.Cancels) == 0 {
		return nil
	}
	return m
}

// receive hands answers to their callers until the stream ends, and says how it did.
func (s *session) receive(stream gavelv1.TransactionService_SessionClient) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		s.deliver(m)
	}
}

// deliver passes over answers to those who have gone.
func (s *session) deliver(m *gavelv1.SessionResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.heard = true
	for _, answer := range m.GetAnswers() {
		if a := s.mu.waiting[answer.GetId()]; a != nil && a.sent {
			delete(s.mu.waiting, answer.GetId())
			a.done <- reply{answer: answer}
		}
	}
	if m.GetEnding() && s.mu.stage == stageOpen {
		s.mu.stage = stageEnding
	}
	if s.mu.stage == stageEnding {
		s.signal()
	}
}

// fail ends the session and tells everybody who waits. Only the first reason counts.
func (s *session) fail(err error) {
	s.mu.Lock()
	if s.mu.stage == stageOver {
		s.mu.Unlock()
		return
	}
	s.mu.stage = stageOver
	why, waiting := s.explain(err), s.mu.waiting
	s.mu.waiting, s.mu.queue = nil, nil
	close(s.over)
	s.mu.Unlock()
	if errors.Is(why, errNoSession) {
		s.calls.goSingle()
	}
	for _, a := range waiting {
		a.done <- reply{err: why}
	}
}

// explain is what the end of the stream means for a call on it:
//
//	the coordinator has no such method      the call was not made
//	it does not let this client in          what the call would hear by itself
//	anything else                           UNAVAILABLE: nobody knows
//
// Codes that speak of the stream, such as a message that was too large, must not reach a call that
// had no part in it.
func (s *session) explain(err error) error {
	switch status.Code(err) {
	case codes.Unimplemented:
		if !s.mu.heard {
			return errNoSession
		}
	case codes.Unauthenticated, codes.PermissionDenied, codes.Unavailable:
		return err
	}
	return status.Errorf(codes.Unavailable, "the session ended: %v", err)
}

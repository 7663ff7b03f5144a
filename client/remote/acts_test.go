package remote

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/txn"
)

type stream = gavelv1.TransactionService_SessionServer

// withSessions gives a service sessions: each call runs its method beside the others.
type withSessions struct {
	gavelv1.TransactionServiceServer
}

func (w withSessions) Session(s stream) error {
	var sending sync.Mutex
	var join sync.WaitGroup
	defer join.Wait()
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, c := range m.GetCalls() {
			join.Go(func() {
				a := w.answer(s.Context(), c)
				sending.Lock()
				defer sending.Unlock()
				_ = s.Send(&gavelv1.SessionResponse{Answers: []*gavelv1.SessionAnswer{a}})
			})
		}
	}
}

func (w withSessions) answer(
	ctx context.Context, call *gavelv1.SessionCall,
) *gavelv1.SessionAnswer {
	a, err := &gavelv1.SessionAnswer{Id: call.GetId()}, error(nil)
	switch c := call.GetCall().(type) {
	case *gavelv1.SessionCall_Begin:
		r, e := w.BeginTransaction(ctx, c.Begin)
		a.Answer, err = &gavelv1.SessionAnswer_Begin{Begin: r}, e
	case *gavelv1.SessionCall_Enlist:
		r, e := w.EnlistBranch(ctx, c.Enlist)
		a.Answer, err = &gavelv1.SessionAnswer_Enlist{Enlist: r}, e
	case *gavelv1.SessionCall_Commit:
		r, e := w.CommitTransaction(ctx, c.Commit)
		a.Answer, err = &gavelv1.SessionAnswer_Commit{Commit: r}, e
	case *gavelv1.SessionCall_Rollback:
		r, e := w.RollbackTransaction(ctx, c.Rollback)
		a.Answer, err = &gavelv1.SessionAnswer_Rollback{Rollback: r}, e
	case *gavelv1.SessionCall_Get:
		r, e := w.GetTransaction(ctx, c.Get)
		a.Answer, err = &gavelv1.SessionAnswer_Get{Get: r}, e
	}
	if err != nil {
		a.Answer = &gavelv1.SessionAnswer_Status{Status: wire.EncodeSessionStatus(err)}
	}
	return a
}

// acts is a coordinator whose n-th session, from 0, does what the test says. Calls by themselves
// are scripted.
type acts struct {
	*scripted
	mu       sync.Mutex
	n        int
	sessions []func(stream) error
}

func (a *acts) Session(s stream) error {
	a.mu.Lock()
	act := a.sessions[min(a.n, len(a.sessions)-1)]
	a.n++
	a.mu.Unlock()
	return act(s)
}

// opened is the number of sessions so far.
func (a *acts) opened() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.n
}

// play lets f talk to a coordinator of these sessions, in virtual time.
func play(
	t *testing.T, lines []line, sessions []func(stream) error,
	f func(*testing.T, *Client, *acts),
) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var n network
		a := &acts{scripted: &scripted{lines: lines}, sessions: sessions}
		defer n.serve(t, a)()
		c := n.client(t)
		defer c.Close()
		f(t, c, a)
	})
}

// answerAll answers every call as one of a committed transaction, until the client ends it.
func answerAll(s stream) error {
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(answers(m, committed())); err != nil {
			return err
		}
	}
}

func answers(m *gavelv1.SessionRequest, r txn.Result) *gavelv1.SessionResponse {
	out := &gavelv1.SessionResponse{}
	for _, c := range m.GetCalls() {
		t := wire.EncodeResult(r)
		a := &gavelv1.SessionAnswer{Id: c.GetId(), Answer: &gavelv1.SessionAnswer_Commit{
			Commit: &gavelv1.CommitTransactionResponse{Transaction: t}}}
		if c.GetGet() != nil {
			a.Answer = &gavelv1.SessionAnswer_Get{
				Get: &gavelv1.GetTransactionResponse{Transaction: t}}
		}
		out.Answers = append(out.Answers, a)
	}
	return out
}

// breaks ends a session with an error once it has read so many messages.
func breaks(after int, code codes.Code) func(stream) error {
	return func(s stream) error {
		for range after {
			if _, err := s.Recv(); err != nil {
				return err
			}
		}
		return status.Error(code, "the stream ends here")
	}
}

// breaksLater answers one message before it ends.
func breaksLater(code codes.Code) func(stream) error {
	return func(s stream) error {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		if err := s.Send(answers(m, committed())); err != nil {
			return err
		}
		if _, err := s.Recv(); err != nil {
			return err
		}
		return status.Error(code, "the stream ends here")
	}
}

func refuses(reason txn.Reason) func(stream) error {
	return func(s stream) error {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		err = wire.Status(refuse(reason))
		return s.Send(&gavelv1.SessionResponse{Answers: []*gavelv1.SessionAnswer{{
			Id: m.GetCalls()[0].GetId(), Answer: &gavelv1.SessionAnswer_Status{
				Status: wire.EncodeSessionStatus(err)}}}})
	}
}

// reads hands every message to the test, and sends what the test says until it says nothing more.
type reads struct {
	in  chan *gavelv1.SessionRequest
	out chan *gavelv1.SessionResponse
}

func newReads() reads {
	return reads{make(chan *gavelv1.SessionRequest, 100), make(chan *gavelv1.SessionResponse)}
}

func (r reads) act(s stream) error {
	var join sync.WaitGroup
	defer join.Wait()
	join.Go(func() {
		for {
			select {
			case m := <-r.out:
				_ = s.Send(m)
			case <-s.Context().Done():
				return
			}
		}
	})
	for {
		m, err := s.Recv()
		if err != nil {
			close(r.in)
			return status.FromContextError(s.Context().Err()).Err()
		}
		r.in <- m
	}
}

// heard is the outcome, "open" for an error that leaves it so, and "refused" for any other.
func heard(r txn.Result, err error) string {
	switch {
	case err == nil:
		return r.Outcome.String()
	case errors.Is(err, txn.ErrUnknown):
		return "open"
	}
	return "refused"
}

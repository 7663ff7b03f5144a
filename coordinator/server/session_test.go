package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/proto/wire/transport"
	"github.com/gavel-tx/gavel/txn"
)

// gate is a coordinator that holds every question until the test lets it pass. It remembers who
// came, and whose context ended meanwhile.
type gate struct {
	fake
	mu            sync.Mutex
	doors         map[txn.Seq]chan struct{}
	arrived, gone []txn.Seq
	deadline      time.Time
}

func (g *gate) door(seq txn.Seq) chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.doors == nil {
		g.doors = map[txn.Seq]chan struct{}{}
	}
	if g.doors[seq] == nil {
		g.doors[seq] = make(chan struct{})
	}
	return g.doors[seq]
}

func (g *gate) Outcome(ctx context.Context, id txn.ID) (txn.Result, error) {
	g.mu.Lock()
	g.arrived = append(g.arrived, id.Seq())
	g.deadline, _ = ctx.Deadline()
	g.mu.Unlock()
	select {
	case <-g.door(id.Seq()):
		return txn.Result{ID: id}, nil
	case <-ctx.Done():
		g.mu.Lock()
		defer g.mu.Unlock()
		g.gone = append(g.gone, id.Seq())
		return txn.Result{}, fmt.Errorf("%w: %w", txn.ErrUnknown, ctx.Err())
	}
}

// seen tells who has arrived and who has gone, once nothing moves any more.
func (g *gate) seen() (arrived, gone []txn.Seq) {
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	slices.Sort(g.arrived)
	slices.Sort(g.gone)
	return slices.Clone(g.arrived), slices.Clone(g.gone)
}

// getCall asks about the transaction whose sequence number is the id of the call.
func getCall(id uint64) *gavelv1.SessionCall {
	of := txn.NewID(testID().Log(), txn.Seq(id)).String()
	return &gavelv1.SessionCall{Id: id, Call: &gavelv1.SessionCall_Get{
		Get: &gavelv1.GetTransactionRequest{TransactionId: of}}}
}

// held is a session with a gate behind it.
type held struct {
	t *testing.T
	*gate
	run    *running
	client gavelv1.TransactionServiceClient
	gavelv1.TransactionService_SessionClient
}

// hold runs a test in virtual time.
func hold(t *testing.T, o Options, test func(*testing.T, *held)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := &held{t: t, gate: &gate{}}
		h.client, h.run = serve(t, h.gate, o)
		h.TransactionService_SessionClient = openSession(t, h.client)
		test(t, h)
	})
}

func (h *held) send(calls ...*gavelv1.SessionCall) {
	h.t.Helper()
	if err := h.Send(&gavelv1.SessionRequest{Calls: calls}); err != nil {
		h.t.Fatal(err)
	}
}

func (h *held) recv() *gavelv1.SessionResponse {
	h.t.Helper()
	m, err := h.Recv()
	if err != nil {
		h.t.Fatal(err)
	}
	return m
}

func (h *held) wantSeen(arrived, gone []txn.Seq) {
	h.t.Helper()
	a, g := h.seen()
	if !slices.Equal(a, arrived) || !slices.Equal(g, gone) {
		h.t.Errorf("%v arrived and %v are gone, want %v and %v", a, g, arrived, gone)
	}
}

// wantEnd reads to the end of the session.
func (h *held) wantEnd(code codes.Code) {
	h.t.Helper()
	var err error
	for err == nil {
		_, err = h.Recv()
	}
	if code == codes.OK && errors.Is(err, io.EOF) {
		return
	}
	if status.Code(err) != code {
		h.t.Errorf("the session ended with %v, want %v", err, code)
	}
}

// TestAnswersInAnyOrder: no call waits for another one.
func TestAnswersInAnyOrder(t *testing.T) {
	hold(t, Options{}, func(t *testing.T, h *held) {
		h.send(getCall(1), getCall(2), getCall(3))
		h.wantSeen([]txn.Seq{1, 2, 3}, nil)
		for _, id := range []uint64{3, 1, 2} {
			close(h.door(txn.Seq(id)))
			a := h.recv().GetAnswers()
			if len(a) != 1 || a[0].GetId() != id ||
				a[0].GetGet().GetTransaction().GetTransactionId() != getCall(id).GetGet().
					GetTransactionId() {
				t.Errorf("after the door of %d: %v", id, a)
			}
		}
	})
}

// TestCancel ends the call that it names and no other, and may come too late.
func TestCancel(t *testing.T) {
	hold(t, Options{}, func(t *testing.T, h *held) {
		h.send(getCall(1), getCall(2))
		h.wantSeen([]txn.Seq{1, 2}, nil)
		if err := h.Send(&gavelv1.SessionRequest{Cancels: []uint64{1, 77}}); err != nil {
			t.Fatal(err)
		}
		a := h.recv().GetAnswers()
		if len(a) != 1 || a[0].GetId() != 1 ||
			wire.ReasonOf(wire.DecodeSessionStatus(a[0].GetStatus())) != wire.ReasonOutcomeUnknown {
			t.Errorf("the cancelled call: %v", a)
		}
		h.wantSeen([]txn.Seq{1, 2}, []txn.Seq{1})
		close(h.door(2))
		if a := h.recv().GetAnswers(); len(a) != 1 || a[0].GetGet() == nil {
			t.Errorf("the other one: %v", a)
		}
	})
}

// TestTimeout: the coordinator hears how long its caller waits, and the call ends by itself.
func TestTimeout(t *testing.T) {
	hold(t, Options{}, func(t *testing.T, h *held) {
		call, start := getCall(1), time.Now()
		call.Timeout = durationpb.New(time.Second)
		h.send(call)
		a := h.recv().GetAnswers()
		if len(a) != 1 || a[0].GetStatus() == nil || !h.deadline.Equal(start.Add(time.Second)) {
			t.Errorf("%v, with the deadline %v", a, h.deadline)
		}
	})
}

// TestEndOfStreamCancels: what waits for a client must not outlive it.
func TestEndOfStreamCancels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{}
		client := alone(t, g, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := client.Session(ctx)
		if err != nil {
			t.Fatal(err)
		}
		calls := []*gavelv1.SessionCall{getCall(1), getCall(2)}
		if err := stream.Send(&gavelv1.SessionRequest{Calls: calls}); err != nil {
			t.Fatal(err)
		}
		if arrived, _ := g.seen(); len(arrived) != 2 {
			t.Errorf("%v arrived", arrived)
		}
		cancel()
		if _, gone := g.seen(); !slices.Equal(gone, []txn.Seq{1, 2}) {
			t.Errorf("%v are gone", gone)
		}
	})
}

// TestHalfClose: a client that will ask nothing more still hears every answer.
func TestHalfClose(t *testing.T) {
	hold(t, Options{}, func(t *testing.T, h *held) {
		h.send(getCall(1))
		if err := h.CloseSend(); err != nil {
			t.Fatal(err)
		}
		h.wantSeen([]txn.Seq{1}, nil)
		close(h.door(1))
		if a := h.recv().GetAnswers(); len(a) != 1 || a[0].GetGet() == nil {
			t.Errorf("%v", a)
		}
		h.wantEnd(codes.OK)
	})
}

// TestRoom: beyond the limit nothing is read, until an answer has been sent.
func TestRoom(t *testing.T) {
	hold(t, Options{}, func(t *testing.T, h *held) {
		const more = 3
		batch := make([]*gavelv1.SessionCall, 0, wire.MaxSessionBatch)
		for id := uint64(1); id <= wire.MaxSessionCalls+more; id++ {
			if batch = append(batch, getCall(id)); len(batch) == cap(batch) {
				h.send(batch...)
				batch = batch[:0]
			}
		}
		h.send(batch...)
		if arrived, _ := h.seen(); len(arrived) != wire.MaxSessionCalls {
			t.Errorf("%d calls are in flight", len(arrived))
		}
		close(h.door(1))
		close(h.door(2))
		answered := 0
		for answered < 2 {
			answered += len(h.recv().GetAnswers())
		}
		if arrived, gone := h.seen(); len(arrived) != wire.MaxSessionCalls+2 || len(gone) != 0 {
			t.Errorf("%d calls were in flight, %d are gone", len(arrived), len(gone))
		}
	})
}

// TestProtocolFaults: a client that does not keep the rules loses its session, and its calls.
func TestProtocolFaults(t *testing.T) {
	many := make([]*gavelv1.SessionCall, wire.MaxSessionBatch+1)
	for i := range many {
		many[i] = getCall(uint64(i + 1))
	}
	for name, calls := range map[string][]*gavelv1.SessionCall{
		"too many calls": many, "one id twice": {getCall(7), getCall(8), getCall(7)},
	} {
		t.Run(name, func(t *testing.T) {
			hold(t, Options{}, func(t *testing.T, h *held) {
				h.send(calls...)
				h.wantEnd(codes.InvalidArgument)
				if arrived, gone := h.seen(); len(arrived) != len(gone) {
					t.Errorf("%v arrived, %v are gone", arrived, gone)
				}
			})
		})
	}
}

// TestIDsMayReturn: the id of an answered call is free.
func TestIDsMayReturn(t *testing.T) {
	hold(t, Options{}, func(t *testing.T, h *held) {
		close(h.door(7))
		for range 2 {
			h.send(getCall(7))
			if a := h.recv().GetAnswers(); len(a) != 1 || a[0].GetGet() == nil {
				t.Errorf("%v", a)
			}
		}
	})
}

// TestUnknownMethod: a newer client hears what it would hear of a method by itself.
func TestUnknownMethod(t *testing.T) {
	hold(t, Options{}, func(t *testing.T, h *held) {
		h.send(&gavelv1.SessionCall{Id: 1})
		a := h.recv().GetAnswers()
		if len(a) != 1 || codes.Code(a[0].GetStatus().GetCode()) != codes.Unimplemented {
			t.Errorf("%v", a)
		}
	})
}

// TestPanicStaysInItsCall: the session, the process and the other calls go on.
func TestPanicStaysInItsCall(t *testing.T) {
	panics := make(chan transport.Panic, 1)
	report := transport.Recovery(func(p transport.Panic) { panics <- p })
	for name, o := range map[string]Options{"reported": {Interceptor: report}, "default": {}} {
		t.Run(name, func(t *testing.T) {
			hold(t, o, func(t *testing.T, h *held) {
				// The fake has no function for this, which is the broken invariant.
				commit := &gavelv1.CommitTransactionRequest{TransactionId: testID().String()}
				h.send(getCall(1), &gavelv1.SessionCall{Id: 2,
					Call: &gavelv1.SessionCall_Commit{Commit: commit}})
				a := h.recv().GetAnswers()
				err := wire.DecodeSessionStatus(a[0].GetStatus())
				if a[0].GetId() != 2 || status.Code(err) != codes.Internal ||
					wire.ReasonOf(err) != wire.ReasonOutcomeUnknown {
					t.Errorf("%v: %v", a, err)
				}
				close(h.door(1))
				if a := h.recv().GetAnswers(); len(a) != 1 || a[0].GetGet() == nil {
					t.Errorf("the other call: %v", a)
				}
			})
		})
	}
	if p := <-panics; p.Value == nil || len(p.Stack) == 0 {
		t.Errorf("reported %v", p.Value)
	}
}

// TestAge: a session asks for its end and goes on reading until it gets it.
func TestAge(t *testing.T) {
	hold(t, Options{SessionAge: time.Minute}, func(t *testing.T, h *held) {
		start := time.Now()
		h.send(getCall(1))
		if m := h.recv(); !m.GetEnding() || len(m.GetAnswers()) != 0 ||
			time.Since(start) != time.Minute { // virtual time
			t.Errorf("after %v: %v", time.Since(start), m)
		}
		h.send(getCall(2))
		h.wantSeen([]txn.Seq{1, 2}, nil)
		close(h.door(1))
		close(h.door(2))
		for answered := 0; answered < 2; {
			m := h.recv()
			if m.GetEnding() {
				t.Error("it asks again")
			}
			answered += len(m.GetAnswers())
		}
		if err := h.CloseSend(); err != nil {
			t.Fatal(err)
		}
		h.wantEnd(codes.OK)
	})
}

// TestDrain: a graceful stop waits for the calls in flight, and for nothing else.
func TestDrain(t *testing.T) {
	hold(t, Options{SessionAge: 2 * day}, func(t *testing.T, h *held) {
		h.send(getCall(1))
		h.wantSeen([]txn.Seq{1}, nil)
		idle := openSession(t, h.client)
		synctest.Wait()
		for range 2 {
			h.run.Drain()
		}
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			h.run.grpc.GracefulStop()
		}()
		for _, s := range []gavelv1.TransactionService_SessionClient{h, idle} {
			if m, err := s.Recv(); err != nil || !m.GetEnding() {
				t.Errorf("%v, %v", m, err)
			}
			if err := s.CloseSend(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := idle.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("the idle one: %v", err)
		}
		synctest.Wait()
		select {
		case <-stopped:
			t.Error("stopped with a call in flight")
		default:
		}
		close(h.door(1))
		if a := h.recv().GetAnswers(); len(a) != 1 || a[0].GetGet() == nil {
			t.Errorf("%v", a)
		}
		h.wantEnd(codes.OK)
		<-stopped
	})
}

// TestDrainedServerStillAnswers: transactions that run must be able to end, and a session that
// opens then is asked to end at once.
func TestDrainedServerStillAnswers(t *testing.T) {
	hold(t, Options{SessionAge: 2 * day}, func(t *testing.T, h *held) {
		h.run.Drain()
		late := openSession(t, h.client)
		close(h.door(1))
		err := late.Send(&gavelv1.SessionRequest{Calls: []*gavelv1.SessionCall{getCall(1)}})
		if err != nil {
			t.Fatal(err)
		}
		var ending, answered bool
		for !ending || !answered {
			m, err := late.Recv()
			if err != nil {
				t.Fatal(err)
			}
			ending = ending || m.GetEnding()
			answered = answered || len(m.GetAnswers()) == 1
		}
	})
}

// TestFitting is the table of how many answers share a message.
func TestFitting(t *testing.T) {
	of := func(n, size int) []ready { return slices.Repeat([]ready{{size: size}}, n) }
	for name, c := range map[string]struct {
		all  []ready
		want int
	}{
		"none":          {nil, 0},
		"one":           {of(1, 10), 1},
		"as many":       {of(wire.MaxSessionBatch, 10), wire.MaxSessionBatch},
		"too many":      {of(wire.MaxSessionBatch+1, 10), wire.MaxSessionBatch},
		"one is large":  {of(1, 2*wire.MaxSessionResponse), 1},
		"two are large": {of(2, 2*wire.MaxSessionResponse), 1},
		"just fitting":  {of(4, wire.MaxSessionResponse/4), 4},
		"too large":     {of(5, wire.MaxSessionResponse/4), 4},
	} {
		if got := fitting(c.all); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// TestAnswersGather: what becomes ready while a message waits to be sent shares the next one.
func TestAnswersGather(t *testing.T) {
	x := &session{}
	for id := range uint64(wire.MaxSessionBatch + 2) {
		x.mu.ready = append(x.mu.ready, ready{&gavelv1.SessionAnswer{Id: id}, 2})
	}
	x.end()
	var got []int
	next := uint64(0)
	for m := x.take(); m != nil; m = x.take() {
		if m.GetEnding() != (len(got) == 0) {
			t.Errorf("message %d: ending is %v", len(got), m.GetEnding())
		}
		for _, a := range m.GetAnswers() {
			if a.GetId() != next {
				t.Fatalf("answer %d comes before %d", a.GetId(), next)
			}
			next++
		}
		got = append(got, len(m.GetAnswers()))
	}
	if !slices.Equal(got, []int{wire.MaxSessionBatch, 2}) {
		t.Errorf("messages of %v answers", got)
	}
}

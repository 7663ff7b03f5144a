package remote

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/txn"
)

// TestBrokenSessions is the table of what a Commit makes of a stream that breaks under it: what it
// would make of a lost answer.
func TestBrokenSessions(t *testing.T) {
	type sessions = []func(stream) error
	cases := []struct {
		name     string
		sessions sessions
		want     string
		opened   int
		single   int
	}{
		{"before the call is read", sessions{breaks(0, codes.Unavailable), answerAll},
			"COMMITTED", 2, 0},
		{"after it", sessions{breaks(1, codes.Unavailable), answerAll}, "COMMITTED", 2, 0},
		{"after it, then not found",
			sessions{breaks(1, codes.Unavailable), refuses(txn.ReasonNotFound)}, "open", 2, 0},
		{"not found", sessions{refuses(txn.ReasonNotFound)}, "refused", 1, 0},
		{"its end without an answer", sessions{breaks(1, codes.OK), answerAll}, "COMMITTED", 2, 0},
		{"a message was too large", sessions{breaks(1, codes.ResourceExhausted), answerAll},
			"COMMITTED", 2, 0},
		{"a rule was broken", sessions{breaks(1, codes.InvalidArgument), answerAll},
			"COMMITTED", 2, 0},
		{"a panic", sessions{breaks(1, codes.Internal), answerAll}, "COMMITTED", 2, 0},
		{"not let in", sessions{breaks(0, codes.PermissionDenied)}, "open", 1, 0},
		{"not known", sessions{breaks(0, codes.Unauthenticated)}, "open", 1, 0},
		{"no sessions", sessions{breaks(0, codes.Unimplemented)}, "COMMITTED", 1, 1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			play(t, []line{{result: committed()}}, c.sessions,
				func(t *testing.T, client *Client, a *acts) {
					r, err := client.Commit(t.Context(), txn.CommitRequest{ID: testID()})
					if got := heard(r, err); got != c.want || a.opened() != c.opened ||
						a.calls != c.single {
						t.Errorf("%s after %d sessions and %d calls (%v), want %s after %d and %d",
							got, a.opened(), a.calls, err, c.want, c.opened, c.single)
					}
				})
		})
	}
}

// TestSessionsThatWorkedAreNotGivenUp: a coordinator that has answered in a session has sessions,
// whatever code its end has.
func TestSessionsThatWorkedAreNotGivenUp(t *testing.T) {
	sessions := []func(stream) error{breaksLater(codes.Unimplemented), answerAll}
	play(t, nil, sessions, func(t *testing.T, c *Client, a *acts) {
		for range 2 {
			r, err := c.Commit(t.Context(), txn.CommitRequest{ID: testID()})
			if err != nil || r.Outcome != txn.OutcomeCommitted {
				t.Errorf("%+v, %v", r, err)
			}
		}
		if a.opened() != 2 || a.calls != 0 {
			t.Errorf("%d sessions, %d calls by themselves", a.opened(), a.calls)
		}
	})
}

// TestNoSessionsForGood: an older coordinator is asked once whether it has them.
func TestNoSessionsForGood(t *testing.T) {
	sessions := []func(stream) error{breaks(0, codes.Unimplemented)}
	play(t, []line{{result: committed()}}, sessions, func(t *testing.T, c *Client, a *acts) {
		for range 3 {
			if _, err := c.Outcome(t.Context(), testID()); err != nil {
				t.Error(err)
			}
		}
		if a.opened() != 1 || a.calls != 3 {
			t.Errorf("%d sessions, %d calls by themselves", a.opened(), a.calls)
		}
	})
}

// TestSingleCalls: who does not want sessions gets none.
func TestSingleCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n network
		a := &acts{scripted: &scripted{lines: []line{{result: committed()}}}}
		defer n.serve(t, a)()
		c := n.client(t, WithSingleCalls())
		defer c.Close()
		if _, err := c.Outcome(t.Context(), testID()); err != nil || a.opened() != 0 {
			t.Errorf("%d sessions, %v", a.opened(), err)
		}
	})
}

// TestCallsShareASession: however many call at once, a client has one session.
func TestCallsShareASession(t *testing.T) {
	const callers, each = 32, 20
	play(t, nil, []func(stream) error{answerAll}, func(t *testing.T, c *Client, a *acts) {
		var join sync.WaitGroup
		for range callers {
			join.Go(func() {
				for range each {
					r, err := c.Outcome(t.Context(), testID())
					if err != nil || r.Outcome != txn.OutcomeCommitted {
						t.Errorf("%+v, %v", r, err)
						return
					}
				}
			})
		}
		join.Wait()
		if a.opened() != 1 || a.calls != 0 {
			t.Errorf("%d sessions, %d calls by themselves", a.opened(), a.calls)
		}
	})
}

// TestACallerThatLeaves returns at once, and the coordinator hears that it has gone.
func TestACallerThatLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n network
		session := newReads()
		a := &acts{scripted: &scripted{}, sessions: []func(stream) error{session.act}}
		defer n.serve(t, a)()
		c := n.client(t)
		defer c.Close()
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error, 1)
		go func() {
			_, err := c.Commit(ctx, txn.CommitRequest{ID: testID()})
			errs <- err
		}()
		m := <-session.in
		cancel()
		if err := <-errs; !errors.Is(err, txn.ErrUnknown) || !errors.Is(err, context.Canceled) {
			t.Errorf("the caller hears %v", err)
		}
		id := m.GetCalls()[0].GetId()
		if m := <-session.in; !slices.Equal(m.GetCancels(), []uint64{id}) {
			t.Errorf("the coordinator hears %v", m)
		}
		// Its answer comes all the same, and one to a question that nobody asked.
		session.out <- &gavelv1.SessionResponse{Answers: []*gavelv1.SessionAnswer{{Id: id},
			{Id: 77}}}
		go func() { session.out <- answers(<-session.in, committed()) }()
		if _, err := c.Outcome(t.Context(), testID()); err != nil {
			t.Error(err)
		}
	})
}

// TestTimeoutTravels: the coordinator hears how long its caller will wait.
func TestTimeoutTravels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n network
		session := newReads()
		a := &acts{scripted: &scripted{}, sessions: []func(stream) error{session.act}}
		defer n.serve(t, a)()
		c := n.client(t)
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		go func() {
			m := <-session.in
			if d := m.GetCalls()[0].GetTimeout().AsDuration(); d != time.Minute { // virtual time
				t.Errorf("the coordinator hears of %v", d)
			}
			session.out <- answers(m, committed())
		}()
		if _, err := c.Commit(ctx, txn.CommitRequest{ID: testID()}); err != nil {
			t.Error(err)
		}
	})
}

// TestEnding: a session that is to end answers what it has, the next call opens another one, and
// the old one is closed when its last call is answered.
func TestEnding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n network
		old := newReads()
		a := &acts{scripted: &scripted{}, sessions: []func(stream) error{old.act, answerAll}}
		defer n.serve(t, a)()
		c := n.client(t)
		defer c.Close()
		errs := make(chan error, 1)
		go func() {
			_, err := c.Commit(t.Context(), txn.CommitRequest{ID: testID()})
			errs <- err
		}()
		m := <-old.in
		old.out <- &gavelv1.SessionResponse{Ending: true}
		synctest.Wait()
		if _, err := c.Outcome(t.Context(), testID()); err != nil || a.opened() != 2 {
			t.Errorf("%v, in session %d", err, a.opened())
		}
		select {
		case m, open := <-old.in:
			t.Errorf("the old session got %v (%v) with a call in flight", m, open)
		default:
		}
		old.out <- answers(m, committed())
		if err := <-errs; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		select {
		case m, open := <-old.in:
			if open {
				t.Errorf("the old session got %v", m)
			}
		default:
			t.Error("the old session is not closed")
		}
	})
}

// TestCloseWithCallsInFlight: they fail, and no goroutine is left.
func TestCloseWithCallsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n network
		session := newReads()
		a := &acts{scripted: &scripted{}, sessions: []func(stream) error{session.act}}
		defer n.serve(t, a)()
		c := n.client(t, WithPatience(time.Second))
		errs := make(chan error, 1)
		go func() {
			_, err := c.Outcome(t.Context(), testID())
			errs <- err
		}()
		<-session.in
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := <-errs; !errors.Is(err, txn.ErrUnknown) {
			t.Error(err)
		}
		if _, err := c.Outcome(t.Context(), testID()); !errors.Is(err, ErrUnreachable) {
			t.Errorf("of a closed client: %v", err)
		}
		if a.opened() != 1 {
			t.Errorf("%d sessions", a.opened())
		}
	})
}

// TestWrongAnswers: what answers another question is no answer.
func TestWrongAnswers(t *testing.T) {
	for name, answer := range map[string]*gavelv1.SessionAnswer{
		"nothing":        {},
		"another method": {Answer: &gavelv1.SessionAnswer_Begin{}},
		"an empty one":   {Answer: &gavelv1.SessionAnswer_Enlist{}},
	} {
		t.Run(name, func(t *testing.T) {
			once := func(s stream) error {
				m, err := s.Recv()
				if err != nil {
					return err
				}
				a := proto.CloneOf(answer)
				a.Id = m.GetCalls()[0].GetId()
				return s.Send(&gavelv1.SessionResponse{Answers: []*gavelv1.SessionAnswer{a}})
			}
			play(t, nil, []func(stream) error{once}, func(t *testing.T, c *Client, a *acts) {
				_, err := c.Commit(t.Context(), txn.CommitRequest{ID: testID()})
				if !errors.Is(err, txn.ErrUnknown) || a.opened() != 1 {
					t.Errorf("%v after %d sessions", err, a.opened())
				}
			})
		})
	}
}

// TestLargeCallsGoAlone: a call that does not fit a session's message is made by itself, and so is
// one whose text cannot be encoded, which would end the session for all others.
func TestLargeCallsGoAlone(t *testing.T) {
	never := func(s stream) error {
		_, err := s.Recv()
		t.Errorf("a session was opened: %v", err)
		return err
	}
	lines := []line{{result: txn.Result{ID: testID()}}}
	play(t, lines, []func(stream) error{never}, func(t *testing.T, c *Client, a *acts) {
		large := txn.BeginRequest{Resources: []string{strings.Repeat("x", wire.MaxSessionRequest)}}
		if _, err := c.Begin(t.Context(), large); err != nil || a.calls != 1 {
			t.Errorf("%v after %d calls by themselves", err, a.calls)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Begin(ctx, txn.BeginRequest{Label: "\xff"}); err == nil {
			t.Error("a text that is not UTF-8 was sent")
		}
	})
}

// TestEncodable sets every string of every call to what cannot be sent, one at a time.
func TestEncodable(t *testing.T) {
	calls := []*gavelv1.SessionCall{
		{Call: &gavelv1.SessionCall_Begin{Begin: &gavelv1.BeginTransactionRequest{}}},
		{Call: &gavelv1.SessionCall_Enlist{Enlist: &gavelv1.EnlistBranchRequest{}}},
		{Call: &gavelv1.SessionCall_Commit{Commit: &gavelv1.CommitTransactionRequest{}}},
		{Call: &gavelv1.SessionCall_Rollback{Rollback: &gavelv1.RollbackTransactionRequest{}}},
		{Call: &gavelv1.SessionCall_Get{Get: &gavelv1.GetTransactionRequest{}}},
	}
	methods := (&gavelv1.SessionCall{}).ProtoReflect().Descriptor().Oneofs().Get(0).Fields()
	if n := methods.Len(); n != len(calls) {
		t.Errorf("%d of %d methods are looked at", len(calls), n)
	}
	found := 0
	for _, call := range calls {
		if !encodable(call) {
			t.Errorf("%v cannot be sent", call)
		}
		m := call.ProtoReflect()
		inner := m.Get(m.WhichOneof(m.Descriptor().Oneofs().Get(0))).Message()
		eachString(inner, func(field string) {
			found++
			if _, err := proto.Marshal(call); err == nil || encodable(call) {
				t.Errorf("%s would be sent, %v", field, err)
			}
		})
	}
	if found < 8 {
		t.Errorf("only %d strings are looked at", found)
	}
}

// eachString puts a text that is not UTF-8 into one string of m after the other, calls f, and
// takes it out again.
func eachString(m protoreflect.Message, f func(string)) {
	bad := protoreflect.ValueOfString("\xff")
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		d := fields.Get(i)
		switch {
		case d.Kind() == protoreflect.StringKind && d.IsList():
			m.Mutable(d).List().Append(bad)
			f(string(d.FullName()))
			m.Clear(d)
		case d.Kind() == protoreflect.StringKind:
			m.Set(d, bad)
			f(string(d.FullName()))
			m.Clear(d)
		case d.Kind() == protoreflect.MessageKind && d.IsList():
			eachString(m.Mutable(d).List().AppendMutable().Message(), f)
			m.Clear(d)
		}
	}
}

// TestMessages is how calls are put into messages: in their order, within the limits, without those
// whose callers have gone, and behind all cancels.
func TestMessages(t *testing.T) {
	var s *session
	put := func(n, size int) (all []*asked) {
		for range n {
			a := &asked{call: &gavelv1.SessionCall{}, size: size, done: make(chan reply, 1)}
			if !s.put(a) {
				t.Fatal("it takes nothing")
			}
			all = append(all, a)
		}
		return all
	}
	messages := func() (sizes []int) {
		for m := s.take(); m != nil; m = s.take() {
			sizes = append(sizes, len(m.GetCalls()))
		}
		return sizes
	}
	want := func(got []int, want ...int) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("messages of %v calls, want %v", got, want)
		}
	}
	s = newSession(nil)
	put(wire.MaxSessionBatch+1, 10)
	want(messages(), wire.MaxSessionBatch, 1)
	put(3, wire.MaxSessionRequest/2)
	want(messages(), 2, 1)
	put(2, wire.MaxSessionRequest)
	want(messages(), 1, 1)

	gone := put(3, 10)
	s.cancel(gone[1])
	want(messages(), 2)
	s.cancel(gone[0])
	s.cancel(gone[0])
	if m := s.take(); m == nil || !slices.Equal(m.GetCancels(), []uint64{gone[0].call.GetId()}) {
		t.Errorf("the cancel of a call that was sent: %v", m)
	}
	s.cancel(put(1, 10)[0])
	want(messages())
}

// TestSlots: however many callers there are, no more calls are in flight than the coordinator
// reads. The others wait, and may leave.
func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n network
		taken, hold := 0, make(chan struct{})
		held := func(s stream) error {
			var all gavelv1.SessionRequest
			for taken < wire.MaxSessionCalls {
				m, err := s.Recv()
				if err != nil {
					return err
				}
				taken += len(m.GetCalls())
				all.Calls = append(all.Calls, m.GetCalls()...)
			}
			<-hold
			for batch := range slices.Chunk(all.GetCalls(), wire.MaxSessionBatch) {
				err := s.Send(answers(&gavelv1.SessionRequest{Calls: batch}, committed()))
				if err != nil {
					return err
				}
			}
			return answerAll(s)
		}
		a := &acts{scripted: &scripted{}, sessions: []func(stream) error{held}}
		defer n.serve(t, a)()
		c := n.client(t, WithPatience(time.Hour))
		defer c.Close()
		var join sync.WaitGroup
		for range wire.MaxSessionCalls + 5 {
			join.Go(func() {
				if _, err := c.Outcome(t.Context(), testID()); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if taken != wire.MaxSessionCalls {
			t.Errorf("%d calls are in flight", taken)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Outcome(ctx, testID()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one that finds no room: %v", err)
		}
		close(hold)
		join.Wait()
	})
}

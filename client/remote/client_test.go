package remote

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/proto/wire/transport"
	"github.com/gavel-tx/gavel/txn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testID() txn.ID { return txn.NewID(0x123456789abcdef, 42) }

// scripted answers the n-th call, from 0, with what the test says; the last line repeats.
type scripted struct {
	gavelv1.UnimplementedTransactionServiceServer
	mu     sync.Mutex
	calls  int
	lines  []line
	commit *gavelv1.CommitTransactionRequest
	begin  *gavelv1.BeginTransactionRequest
	// delegate and at are those of every begin.
	delegate uint32
	at       txn.Evidence
	list     *gavelv1.ListTransactionsRequest
}

// line is one answer: an error, or a result (for Begin: a transaction with its id).
type line struct {
	result txn.Result
	err    error
}

func (s *scripted) next() (*gavelv1.Transaction, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lines[min(s.calls, len(s.lines)-1)]
	s.calls++
	return wire.EncodeResult(l.result), wire.Status(l.err)
}

func (s *scripted) BeginTransaction(
	_ context.Context, r *gavelv1.BeginTransactionRequest,
) (*gavelv1.BeginTransactionResponse, error) {
	s.begin = r
	t, err := s.next()
	if err != nil {
		return nil, err
	}
	return &gavelv1.BeginTransactionResponse{
		TransactionId: t.GetTransactionId(), Branches: s.branches(t), Delegate: s.delegate,
	}, nil
}

func (s *scripted) branches(t *gavelv1.Transaction) []*gavelv1.Branch {
	for _, b := range t.GetBranches() {
		b.At = wire.EncodeEvidence(s.at)
	}
	return t.GetBranches()
}

func (s *scripted) EnlistBranch(
	context.Context, *gavelv1.EnlistBranchRequest,
) (*gavelv1.EnlistBranchResponse, error) {
	t, err := s.next()
	return &gavelv1.EnlistBranchResponse{Branches: s.branches(t), Delegate: s.delegate}, err
}

func (s *scripted) CommitTransaction(
	_ context.Context, r *gavelv1.CommitTransactionRequest,
) (*gavelv1.CommitTransactionResponse, error) {
	s.commit = r
	t, err := s.next()
	return &gavelv1.CommitTransactionResponse{Transaction: t}, err
}

func (s *scripted) RollbackTransaction(
	context.Context, *gavelv1.RollbackTransactionRequest,
) (*gavelv1.RollbackTransactionResponse, error) {
	t, err := s.next()
	return &gavelv1.RollbackTransactionResponse{Transaction: t}, err
}

func (s *scripted) GetTransaction(
	context.Context, *gavelv1.GetTransactionRequest,
) (*gavelv1.GetTransactionResponse, error) {
	t, err := s.next()
	return &gavelv1.GetTransactionResponse{Transaction: t}, err
}

func (s *scripted) ListTransactions(
	_ context.Context, r *gavelv1.ListTransactionsRequest,
) (*gavelv1.ListTransactionsResponse, error) {
	s.list = r
	t, err := s.next()
	return &gavelv1.ListTransactionsResponse{Transactions: []*gavelv1.Transaction{t}}, err
}

// network is an in-memory network with at most one server behind the name.
type network struct {
	lis atomic.Pointer[bufconn.Listener]
}

func (n *network) dial(ctx context.Context, _ string) (net.Conn, error) {
	if lis := n.lis.Load(); lis != nil {
		return lis.DialContext(ctx)
	}
	return nil, errors.New("connection refused")
}

// serve puts s on the network until the returned function is called.
func (n *network) serve(t *testing.T, s gavelv1.TransactionServiceServer) (stop func()) {
	t.Helper()
	g := grpc.NewServer(
		transport.ServerOptions(transport.Limits{}, insecure.NewCredentials(), nil)...)
	gavelv1.RegisterTransactionServiceServer(g, s)
	lis := bufconn.Listen(1 << 20)
	done := make(chan error, 1)
	go func() { done <- g.Serve(lis) }()
	n.lis.Store(lis)
	return func() {
		n.lis.CompareAndSwap(lis, nil)
		g.Stop()
		// One that was stopped before it had begun to serve says so.
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	}
}

func (n *network) client(t *testing.T, opts ...Option) *Client {
	t.Helper()
	opts = append(opts, WithInsecure(), WithDialOptions(grpc.WithContextDialer(n.dial)))
	c, err := Dial("passthrough:///bufconn", opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// run lets f talk to a scripted server, in a bubble of virtual time: to one that has sessions, and
// to an older one.
func run(t *testing.T, lines []line, f func(*testing.T, *Client, *scripted)) {
	t.Helper()
	for name, serves := range servers() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var n network
				s := &scripted{lines: lines}
				defer n.serve(t, serves(s))()
				c := n.client(t)
				defer c.Close()
				f(t, c, s)
			})
		})
	}
}

// servers are the ways in which a coordinator may serve its methods.
func servers() map[string]func(gavelv1.TransactionServiceServer) gavelv1.TransactionServiceServer {
	type service = gavelv1.TransactionServiceServer
	return map[string]func(service) service{
		"session": func(s service) service { return withSessions{s} },
		"alone":   func(s service) service { return s },
	}
}

func committed() txn.Result {
	return txn.Result{ID: testID(), State: txn.StateCommitted, Outcome: txn.OutcomeCommitted}
}

func rolledBack() txn.Result {
	return txn.Result{ID: testID(), State: txn.StateRolledBack, Outcome: txn.OutcomeRolledBack,
		Cause: txn.CauseVotedNo, SQLState: "40001", Resource: "bank_b", Reason: "conflict"}
}

func lost() error { return status.Error(codes.Unavailable, "transport is closing") }

func refuse(r txn.Reason) error { return txn.Refusef(r, "", "because") }

func outcome(r txn.Result) error { return &wire.OutcomeError{Result: r} }

// TestCommitAsksUntilItKnows is the table of what a Commit makes of what it hears. "open" stands
// for an error that wraps txn.ErrUnknown, "refused" for one that does not.
func TestCommitAsksUntilItKnows(t *testing.T) {
	deciding := txn.Result{ID: testID(), State: txn.StateDeciding}
	other := committed()
	other.ID = txn.NewID(testID().Log(), 43)
	hazard := txn.Result{ID: testID(), Outcome: txn.OutcomeHeuristicHazard,
		State: txn.StateHeuristic}
	cases := []struct {
		name  string
		lines []line
		want  string
		calls int
	}{
		{"committed", []line{{result: committed()}}, "COMMITTED", 1},
		{"rolled back", []line{{err: outcome(rolledBack())}}, "ROLLED_BACK", 1},
		{"hazard", []line{{err: outcome(hazard)}}, "HEURISTIC_HAZARD", 1},
		{"lost, then committed", []line{{err: lost()}, {result: committed()}}, "COMMITTED", 2},
		{"lost, then rolled back", []line{{err: lost()}, {err: outcome(rolledBack())}},
			"ROLLED_BACK", 2},
		{"deadline of a proxy, then committed",
			[]line{{err: context.DeadlineExceeded}, {result: committed()}}, "COMMITTED", 2},
		{"panic, then committed", []line{{err: errors.New("panic")}, {result: committed()}},
			"COMMITTED", 2},
		{"deciding, then committed", []line{{err: outcome(deciding)}, {result: committed()}},
			"COMMITTED", 2},
		{"overloaded, then committed",
			[]line{{err: refuse(txn.ReasonOverloaded)}, {result: committed()}}, "COMMITTED", 2},
		{"restart, then rolled back", []line{{err: refuse(txn.ReasonShutdown)}, {err: lost()},
			{err: refuse(txn.ReasonFailed)}, {err: outcome(rolledBack())}}, "ROLLED_BACK", 4},
		{"fenced, then committed", []line{{err: refuse(txn.ReasonFenced)}, {result: committed()}},
			"COMMITTED", 2},
		{"not found", []line{{err: refuse(txn.ReasonNotFound)}}, "refused", 1},
		{"invalid", []line{{err: refuse(txn.ReasonInvalid)}}, "refused", 1},
		{"overloaded, then closed",
			[]line{{err: refuse(txn.ReasonOverloaded)}, {err: refuse(txn.ReasonClosed)}},
			"refused", 2},
		{"lost, then not found", []line{{err: lost()}, {err: refuse(txn.ReasonNotFound)}},
			"open", 2},
		{"lost, then forgotten", []line{{err: lost()}, {err: refuse(txn.ReasonForgotten)}},
			"open", 2},
		{"lost, then refused as rolled back",
			[]line{{err: lost()}, {err: refuse(txn.ReasonRolledBack)}}, "refused", 2},
		{"proxy says aborted", []line{{err: status.Error(codes.Aborted, "")},
			{result: committed()}},
			"COMMITTED", 2},
		{"no such service", []line{{err: status.Error(codes.Unimplemented, "")}}, "open", 1},
		{"not let in", []line{{err: status.Error(codes.PermissionDenied, "")}}, "open", 1},
		{"OK, but rolled back", []line{{result: rolledBack()}}, "open", 1},
		{"OK, but of another", []line{{result: other}}, "open", 1},
		{"OK, but nothing", []line{{}}, "open", 1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			run(t, c.lines, func(t *testing.T, client *Client, s *scripted) {
				result, err := client.Commit(t.Context(), txn.CommitRequest{ID: testID()})
				if got := heard(result, err); got != c.want || s.calls != c.calls {
					t.Errorf("%s after %d calls (%v), want %s after %d",
						got, s.calls, err, c.want, c.calls)
				}
			})
		})
	}
}

func TestCommitSendsItsVotes(t *testing.T) {
	votes := []txn.BranchVote{
		{Branch: 1, Vote: txn.VoteYes, Evidence: txn.Evidence{XID: 7}},
		{Branch: 2, Vote: txn.VoteReadOnly},
	}
	run(t, []line{{result: committed()}}, func(t *testing.T, c *Client, s *scripted) {
		_, err := c.Commit(t.Context(), txn.CommitRequest{
			ID: testID(), Votes: votes, Ack: txn.AckDecided, Wait: 3 * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		got, err := wire.DecodeBranchVotes(s.commit.GetVotes())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(votes, got); diff != "" {
			t.Error(diff)
		}
		if s.commit.GetAckLevel() != gavelv1.AckLevel_ACK_LEVEL_DECIDED ||
			s.commit.GetWait().AsDuration() != 3*time.Second {
			t.Errorf("sent %v", s.commit)
		}
	})
}

// TestIntentIsSentOnce: whether an intent was heard decides nothing, so nobody insists.
func TestIntentIsSentOnce(t *testing.T) {
	begun := txn.Result{ID: testID(), State: txn.StatePreparing, Plan: txn.PlanParallel}
	for name, c := range map[string]struct {
		line line
		ok   bool
	}{
		"heard": {line{result: begun}, true}, "lost": {line{err: lost()}, false},
		"too late": {line{result: committed()}, true},
	} {
		run(t, []line{c.line}, func(t *testing.T, client *Client, s *scripted) {
			result, err := client.Commit(t.Context(), txn.CommitRequest{ID: testID(), Intent: true})
			if (err == nil) != c.ok || s.calls != 1 || !s.commit.GetIntent() {
				t.Errorf("%s: %+v, %v, after %d calls", name, result, err, s.calls)
			}
		})
	}
}

// TestRolledBackCarriesItsCause: what an SDK needs to decide about running the work again.
func TestRolledBackCarriesItsCause(t *testing.T) {
	run(t, []line{{err: outcome(rolledBack())}}, func(t *testing.T, c *Client, _ *scripted) {
		result, err := c.Commit(t.Context(), txn.CommitRequest{ID: testID()})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(rolledBack(), result); diff != "" {
			t.Error(diff)
		}
	})
}

// TestCommitEndsWithItsContext: a timeout is never a rollback, however long the silence.
func TestCommitEndsWithItsContext(t *testing.T) {
	for name, l := range map[string]line{
		"silence":  {err: lost()},
		"deciding": {err: outcome(txn.Result{ID: testID(), State: txn.StateDeciding})},
		"refused":  {err: refuse(txn.ReasonOverloaded)},
	} {
		run(t, []line{l}, func(t *testing.T, c *Client, s *scripted) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			result, err := c.Commit(ctx, txn.CommitRequest{ID: testID()})
			if !errors.Is(err, txn.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) ||
				result.Outcome != txn.OutcomeUnknown {
				t.Errorf("%s: %v, %v", name, result.Outcome, err)
			}
			// Between 1 s and 3 s a wait, once they have grown.
			if s.calls < 1000 || s.calls > 4000 {
				t.Errorf("%s: asked %d times in an hour", name, s.calls)
			}
		})
	}
}

// TestCommitIsNotSent: the only error about a commit that is certain without an answer.
func TestCommitIsNotSent(t *testing.T) {
	run(t, []line{{result: committed()}}, func(t *testing.T, c *Client, s *scripted) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := c.Commit(ctx, txn.CommitRequest{ID: testID()})
		if !errors.Is(err, context.Canceled) || errors.Is(err, txn.ErrUnknown) || s.calls != 0 {
			t.Errorf("%d calls: %v", s.calls, err)
		}
	})
}

// hanging takes a commit and never answers it.
type hanging struct {
	gavelv1.UnimplementedTransactionServiceServer
	arrived chan struct{}
}

func (h *hanging) CommitTransaction(
	ctx context.Context, _ *gavelv1.CommitTransactionRequest,
) (*gavelv1.CommitTransactionResponse, error) {
	close(h.arrived)
	<-ctx.Done()
	return nil, status.FromContextError(ctx.Err()).Err()
}

// TestCoordinatorDiesAndReturns: the connection breaks under a commit, nobody listens for a
// while, and another process at the same address knows the decision.
func TestCoordinatorDiesAndReturns(t *testing.T) {
	for name, serves := range servers() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var n network
				h := &hanging{arrived: make(chan struct{})}
				kill := n.serve(t, serves(h))
				c := n.client(t)
				defer c.Close()
				got := make(chan string, 1)
				go func() {
					got <- heard(c.Commit(t.Context(), txn.CommitRequest{ID: testID()}))
				}()
				<-h.arrived
				kill()
				time.Sleep(time.Minute) // of virtual time: nobody is there
				defer n.serve(t, serves(&scripted{lines: []line{{result: committed()}}}))()
				if a := <-got; a != "COMMITTED" {
					t.Error(a)
				}
			})
		})
	}
}

func TestBegin(t *testing.T) {
	begun := txn.Result{ID: testID(), Branches: []txn.BranchStatus{
		{Branch: 1, Resource: "bank_a", Name: txn.NameOf(testID(), 1)},
	}}
	lines := []line{{err: lost()}, {err: refuse(txn.ReasonKeyBusy)}, {result: begun}}
	run(t, lines, func(t *testing.T, c *Client, s *scripted) {
		got, err := c.Begin(t.Context(), txn.BeginRequest{
			Resources: []string{"bank_a"}, Timeout: time.Second, Label: "l", Key: "k",
			Body: []byte(strings.Repeat("body", 100_000)),
		})
		if err != nil {
			t.Fatal(err)
		}
		want := txn.Begun{ID: testID(), Branches: []txn.Enlisted{
			{Branch: 1, Resource: "bank_a", Name: txn.NameOf(testID(), 1)},
		}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if len(s.begin.GetBody()) != 32 || s.begin.GetTimeout().AsDuration() != time.Second ||
			s.begin.GetIdempotencyKey() != "k" || s.begin.GetLabel() != "l" || s.calls != 3 {
			t.Errorf("sent %v in %d calls", s.begin, s.calls)
		}
	})
}

// TestBeginGivesUp: whoever begins has nothing to lose yet, and hears soon that nobody is there.
// Nothing is open either: what has no id can never be committed.
func TestBeginGivesUp(t *testing.T) {
	cases := map[string]struct {
		err    error
		reason txn.Reason
		silent bool
		after  time.Duration
	}{
		"silence":    {lost(), "", true, 10 * time.Second},
		"key busy":   {refuse(txn.ReasonKeyBusy), txn.ReasonKeyBusy, false, 10 * time.Second},
		"overloaded": {refuse(txn.ReasonOverloaded), txn.ReasonOverloaded, false, 0},
		"no service": {status.Error(codes.Unimplemented, ""), "", false, 0},
	}
	for name, c := range cases {
		run(t, []line{{err: c.err}}, func(t *testing.T, client *Client, _ *scripted) {
			start := time.Now()
			_, err := client.Begin(t.Context(), txn.BeginRequest{})
			if err == nil || txn.ReasonOf(err) != c.reason || errors.Is(err, txn.ErrUnknown) ||
				errors.Is(err, ErrUnreachable) != c.silent {
				t.Errorf("%s: %v", name, err)
			}
			if took := time.Since(start); took != c.after { // virtual time
				t.Errorf("%s: gave up after %v", name, took)
			}
		})
	}
}

func TestEnlist(t *testing.T) {
	begun := txn.Result{ID: testID(), Branches: []txn.BranchStatus{
		{Branch: 1, Resource: "a", Name: txn.NameOf(testID(), 1)},
		{Branch: 2, Resource: "b", Name: txn.NameOf(testID(), 2)},
	}}
	run(t, []line{{err: lost()}, {result: begun}}, func(t *testing.T, c *Client, _ *scripted) {
		got, err := c.Begin(t.Context(), txn.BeginRequest{ID: testID(), Resources: []string{"b"}})
		if err != nil || got.ID != testID() || len(got.Branches) != 2 {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func TestOutcome(t *testing.T) {
	cases := []struct {
		name  string
		lines []line
		want  txn.Outcome
		open  bool
		ok    bool
	}{
		{"known", []line{{err: lost()}, {result: committed()}}, txn.OutcomeCommitted, false, true},
		{"undecided", []line{{result: txn.Result{ID: testID()}}}, txn.OutcomeUnknown, false, true},
		{"silence", []line{{err: lost()}}, txn.OutcomeUnknown, true, false},
		{"not found", []line{{err: refuse(txn.ReasonNotFound)}}, txn.OutcomeUnknown, false, false},
		{"nothing", []line{{}}, txn.OutcomeUnknown, true, false},
	}
	for _, c := range cases {
		run(t, c.lines, func(t *testing.T, client *Client, _ *scripted) {
			result, err := client.Outcome(t.Context(), testID())
			if result.Outcome != c.want || (err == nil) != c.ok ||
				errors.Is(err, txn.ErrUnknown) != c.open {
				t.Errorf("%s: %v, %v", c.name, result.Outcome, err)
			}
		})
	}
}

func TestRollback(t *testing.T) {
	deciding := txn.Result{ID: testID(), State: txn.StateDeciding}
	run(t, []line{{err: lost()}, {result: rolledBack()}},
		func(t *testing.T, c *Client, _ *scripted) {
			result, err := c.Rollback(t.Context(), testID(), strings.Repeat("x", 9999))
			if err != nil || result.Outcome != txn.OutcomeRolledBack {
				t.Errorf("%+v, %v", result, err)
			}
		})
	run(t, []line{{err: refuse(txn.ReasonAlreadyDecided)}},
		func(t *testing.T, c *Client, _ *scripted) {
			_, err := c.Rollback(t.Context(), testID(), "")
			if txn.ReasonOf(err) != txn.ReasonAlreadyDecided {
				t.Error(err)
			}
		})
	run(t, []line{{err: outcome(deciding)}}, func(t *testing.T, c *Client, _ *scripted) {
		result, err := c.Rollback(t.Context(), testID(), "")
		if err != nil || result.Outcome != txn.OutcomeUnknown || result.State != txn.StateDeciding {
			t.Errorf("%+v, %v", result, err)
		}
	})
}

func TestList(t *testing.T) {
	run(t, []line{{err: lost()}, {result: committed()}},
		func(t *testing.T, c *Client, s *scripted) {
			got, err := c.List(t.Context(), txn.ListRequest{
				States: []txn.State{txn.StateInDoubt}, OlderThan: time.Minute, After: testID(),
				Limit: 5,
			})
			if err != nil || len(got) != 1 || got[0].Outcome != txn.OutcomeCommitted {
				t.Errorf("%+v, %v", got, err)
			}
			if s.list.GetPageSize() != 5 || s.list.GetPageToken() != testID().String() ||
				s.list.GetOlderThan().AsDuration() != time.Minute || len(s.list.GetStates()) != 1 {
				t.Errorf("sent %v", s.list)
			}
		})
	run(t, []line{{}}, func(t *testing.T, c *Client, _ *scripted) {
		if _, err := c.List(t.Context(), txn.ListRequest{}); err == nil {
			t.Error("a transaction without an id is listed")
		}
	})
}

func TestDial(t *testing.T) {
	if _, err := Dial("10.0.0.1:7440"); !errors.Is(err, transport.ErrPlaintext) {
		t.Errorf("plaintext over a network: %v", err)
	}
	if _, err := Dial("10.0.0.1:7440", WithTLS(transport.TLS{CA: "/no/such/file"})); err == nil {
		t.Error("dialled without its authority")
	}
	c, err := Dial("localhost:1", WithPatience(time.Second), WithPauses(Pauses{1, 2}))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

package remote

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/gavel-tx/gavel/participant"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire/transport"
	"github.com/gavel-tx/gavel/txn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a resource that answers what the test says and remembers how it was called.
type fake struct {
	mu       sync.Mutex
	calls    []string
	fences   []txn.Fence
	branches []participant.Branch
	removed  [][]txn.ID

	votes    []participant.Vote
	findings []participant.Finding
	listing  participant.Listing
	err      error
}

func (f *fake) called(act string, fence txn.Fence, b []participant.Branch) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, act)
	f.fences = append(f.fences, fence)
	f.branches = b
	return f.err
}

func (f *fake) Hello(_ context.Context, fence txn.Fence) error {
	return f.called("hello", fence, nil)
}

func (f *fake) Prepare(
	_ context.Context, fence txn.Fence, b []participant.Branch,
) ([]participant.Vote, error) {
	return f.votes, f.called("prepare", fence, b)
}

func (f *fake) Commit(
	_ context.Context, fence txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return f.findings, f.called("commit", fence, b)
}

func (f *fake) CommitOnePhase(
	_ context.Context, fence txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return f.findings, f.called("one phase", fence, b)
}

func (f *fake) Rollback(
	_ context.Context, fence txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return f.findings, f.called("rollback", fence, b)
}

func (f *fake) Inquire(
	_ context.Context, fence txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return f.findings, f.called("inquire", fence, b)
}

func (f *fake) List(_ context.Context, fence txn.Fence) (participant.Listing, error) {
	return f.listing, f.called("list", fence, nil)
}

func (f *fake) Describe(context.Context) (participant.Description, error) {
	return participant.Description{Kind: "fake", Version: "1", OnePhase: true, Delegate: true},
		f.called("describe", txn.Fence{}, nil)
}

func (f *fake) Forget(_ context.Context, fence txn.Fence, b []participant.Branch) error {
	return f.called("forget", fence, b)
}

// plain hides all of a resource but its duties.
type plain struct{ participant.Resource }

// boastful describes itself as what it is not.
type boastful struct{ plain }

func (b boastful) Describe(ctx context.Context) (participant.Description, error) {
	return b.Resource.(participant.Describer).Describe(ctx)
}

// serve puts a service on an in-memory network and dials it.
func serve(t *testing.T, s gavelv1.ParticipantServiceServer, opts ...Option) *Client {
	t.Helper()
	creds := insecure.NewCredentials()
	g := grpc.NewServer(transport.ServerOptions(transport.Limits{}, creds, nil)...)
	if whole, ok := s.(*Server); ok {
		whole.Register(g)
	} else {
		gavelv1.RegisterParticipantServiceServer(g, s)
	}
	lis := bufconn.Listen(1 << 20)
	done := make(chan error, 1)
	go func() {
		err := g.Serve(lis)
		if errors.Is(err, grpc.ErrServerStopped) {
			err = nil // the test was over before it began
		}
		done <- err
	}()
	dialer := func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }
	c, err := Dial("passthrough:///bufconn", append(opts, WithInsecure(),
		WithDialOptions(grpc.WithContextDialer(dialer)))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c
}

// over is both ends over a resource, with fences in a file.
func over(t *testing.T, r participant.Resource, opts ...Option) (*Client, *Server) {
	t.Helper()
	s, err := NewServer(Config{
		Name: "bank_a", Resource: r, FenceFile: filepath.Join(t.TempDir(), "fences"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return serve(t, s, opts...), s
}

func branch(no txn.BranchNo) participant.Branch {
	return participant.Branch{
		Name: txn.NameOf(txn.NewID(testLog, 42), no),
		Evidence: txn.Evidence{Identity: txn.Identity{System: 1, Database: 2},
			Position: txn.Position{Timeline: 3, LSN: 4}, XID: 5},
	}
}

// TestCallsPass: arguments and answers come through as they are.
func TestCallsPass(t *testing.T) {
	f := &fake{
		votes: []participant.Vote{{Vote: txn.VoteYes, Evidence: branch(1).Evidence},
			{Vote: txn.VoteNo, Reason: "conflict", SQLState: "40001"}},
		findings: []participant.Finding{{Standing: txn.StandingCommitted},
			{Standing: txn.StandingRolledBack, Reason: "conflict", SQLState: "40001"}},
	}
	c, _ := over(t, f)
	ctx, in := t.Context(), []participant.Branch{branch(1), branch(2)}
	votes, err := c.Prepare(ctx, at(1, 5), in)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(f.votes, votes); diff != "" {
		t.Error(diff)
	}
	type call = func(context.Context, txn.Fence, []participant.Branch) ([]participant.Finding,
		error)
	for i, call := range []call{c.Commit, c.Rollback, c.Inquire, c.CommitOnePhase, c.Decide} {
		findings, err := call(ctx, at(1, uint64(6+i)), in)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(f.findings, findings); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(in, f.branches); diff != "" {
			t.Error(diff)
		}
	}
	if err := c.Forget(ctx, at(1, 11), in); err != nil {
		t.Error(err)
	}
	d, err := c.Describe(ctx)
	if err != nil || d.Kind != "fake" || !d.OnePhase || !d.Delegate {
		t.Errorf("%+v, %v", d, err)
	}
	want := []string{
		"hello", "prepare", "commit", "rollback", "inquire", "one phase", "decide", "forget",
		"describe",
	}
	if diff := cmp.Diff(want, f.calls); diff != "" {
		t.Error(diff)
	}
	if f.fences[1] != at(1, 5) || f.fences[4] != at(1, 8) {
		t.Errorf("fences %v", f.fences)
	}
}

// TestErrorsPass: the sentinels come out as they went in, and everything else is unknown.
func TestErrorsPass(t *testing.T) {
	for _, want := range []error{
		participant.ErrFenced, participant.ErrRegression, participant.ErrNotResolver,
		errors.New("connection refused"),
	} {
		f := &fake{}
		c, _ := over(t, f)
		if _, err := c.Inquire(t.Context(), at(1, 1), nil); err != nil {
			t.Fatal(err)
		}
		f.err = want
		ctx, in := t.Context(), []participant.Branch{branch(1)}
		_, prepare := c.Prepare(ctx, at(1, 1), in)
		_, commit := c.Commit(ctx, at(1, 1), in)
		_, onePhase := c.CommitOnePhase(ctx, at(1, 1), in)
		_, decide := c.Decide(ctx, at(1, 1), in)
		remove := c.RemoveMarkers(ctx, at(1, 1), ids(1))
		_, list := c.List(ctx, at(1, 1))
		_, describe := c.Describe(ctx)
		forget := c.Forget(ctx, at(1, 1), in)
		f.err = want
		_, hello := c.Inquire(ctx, at(2, 1), in)
		for i, err := range []error{
			prepare, commit, onePhase, decide, remove, list, describe, forget, hello,
		} {
			if errors.Is(want, participant.ErrFenced) ||
				errors.Is(want, participant.ErrRegression) ||
				errors.Is(want, participant.ErrNotResolver) {
				if !errors.Is(err, want) {
					t.Errorf("%d: %v came out as %v", i, want, err)
				}
			} else if !errors.Is(err, txn.ErrUnknown) {
				t.Errorf("%d: %v came out as %v", i, want, err)
			}
		}
	}
}

// TestIncompleteAnswers: an adapter that answers for too few or too many branches has not answered.
func TestIncompleteAnswers(t *testing.T) {
	for _, n := range []int{0, 1, 3} {
		f := &fake{votes: make([]participant.Vote, n), findings: make([]participant.Finding, n)}
		c, _ := over(t, f)
		in := []participant.Branch{branch(1), branch(2)}
		if _, err := c.Prepare(t.Context(), at(1, 1), in); !errors.Is(err, txn.ErrUnknown) {
			t.Errorf("%d votes: %v", n, err)
		}
		if _, err := c.Commit(t.Context(), at(1, 1), in); !errors.Is(err, txn.ErrUnknown) {
			t.Errorf("%d findings: %v", n, err)
		}
		if _, err := c.CommitOnePhase(t.Context(), at(1, 1), in); !errors.Is(err,
			txn.ErrUnknown) {
			t.Errorf("%d findings of one phase: %v", n, err)
		}
		if _, err := c.Decide(t.Context(), at(1, 1), in); !errors.Is(err, txn.ErrUnknown) {
			t.Errorf("%d decisions: %v", n, err)
		}
	}
}

func TestListing(t *testing.T) {
	for _, n := range []int{0, 1, listChunk, listChunk + 1, 3*listChunk + 7} {
		f := &fake{listing: participant.Listing{
			Identity: txn.Identity{System: 9, Database: 8},
			Position: txn.Position{Timeline: 1, LSN: 2},
			Unknown:  3, Truncated: true, Used: n + 3, Limit: 5000,
		}}
		for i := range n {
			name := txn.NameOf(txn.NewID(testLog, txn.Seq(i+1)), 1)
			f.listing.Branches = append(f.listing.Branches,
				participant.Listed{Name: name, Ours: true})
		}
		c, _ := over(t, f)
		got, err := c.List(t.Context(), at(1, 1))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(f.listing, got); diff != "" {
			t.Errorf("%d branches: %s", n, diff)
		}
	}
}

// broken is a participant that says Hello properly and lists badly.
type broken struct {
	gavelv1.UnimplementedParticipantServiceServer
	messages []*gavelv1.ListInDoubtResponse
	err      error
}

func (b *broken) Hello(context.Context, *gavelv1.HelloRequest) (*gavelv1.HelloResponse, error) {
	return &gavelv1.HelloResponse{}, nil
}

func (b *broken) ListInDoubt(
	_ *gavelv1.ListInDoubtRequest, stream grpc.ServerStreamingServer[gavelv1.ListInDoubtResponse],
) error {
	for _, m := range b.messages {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return b.err
}

// TestBrokenListings: whatever is less or more than a whole listing is none. Acting upon half of
// a list would take the branches that are missing for gone.
func TestBrokenListings(t *testing.T) {
	header := func(n uint32) *gavelv1.ListingHeader { return &gavelv1.ListingHeader{Count: n} }
	one := []*gavelv1.ListedBranch{{PreparedName: branch(1).Name.String()}}
	foreign := []*gavelv1.ListedBranch{{PreparedName: "order_981"}}
	cases := map[string]*broken{
		"nothing":   {},
		"no header": {messages: []*gavelv1.ListInDoubtResponse{{Branches: one}}},
		"too few": {messages: []*gavelv1.ListInDoubtResponse{{Header: header(2),
			Branches: one}}},
		"too many": {messages: []*gavelv1.ListInDoubtResponse{{Header: header(0),
			Branches: one}}},
		"not a name": {messages: []*gavelv1.ListInDoubtResponse{{Header: header(1),
			Branches: foreign}}},
		"endless": {messages: []*gavelv1.ListInDoubtResponse{
			{Header: header(1 << 31), Branches: one}, {Branches: one}}},
		"broken off": {err: status.Error(codes.Unavailable, "reset"),
			messages: []*gavelv1.ListInDoubtResponse{{Header: header(1), Branches: one}}},
	}
	for name, b := range cases {
		got, err := serve(t, b).List(t.Context(), at(1, 1))
		if !errors.Is(err, txn.ErrUnknown) && name != "nothing" || err == nil ||
			len(got.Branches) != 0 {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// TestFencing goes through the life of a log as a participant sees it.
func TestFencing(t *testing.T) {
	f := &fake{}
	first, s := over(t, f)
	ctx := t.Context()
	use := func(c *Client, fence txn.Fence) error {
		_, err := c.Inquire(ctx, fence, nil)
		return err
	}
	if err := use(first, at(1, 100)); err != nil {
		t.Fatal(err)
	}
	if err := use(first, at(1, 90)); err != nil {
		t.Errorf("overtaken on the wire: %v", err)
	}
	second := serve(t, s)
	if err := use(second, at(2, 99)); !errors.Is(err, participant.ErrRegression) {
		t.Errorf("a newer epoch of a shorter log: %v", err)
	}
	if err := use(second, at(2, 100)); err != nil {
		t.Errorf("the next epoch: %v", err)
	}
	calls := len(f.calls)
	if err := use(first, at(1, 101)); !errors.Is(err, participant.ErrFenced) {
		t.Errorf("the deposed coordinator: %v", err)
	}
	restored := serve(t, s)
	if err := use(restored, at(2, 50)); !errors.Is(err, participant.ErrRegression) {
		t.Errorf("restored to the eve of the same epoch: %v", err)
	}
	if _, err := restored.Commit(ctx, at(2, 51), nil); !errors.Is(err, participant.ErrRegression) {
		t.Errorf("its commit: %v", err)
	}
	if len(f.calls) != calls {
		t.Errorf("refused calls reached the resource: %v", f.calls[calls:])
	}
	other := txn.Fence{Log: 99, Epoch: 1, LSN: 1}
	if err := use(first, other); err != nil {
		t.Errorf("another log: %v", err)
	}
}

// TestDeposedWithinOneProcess: once a client has called with a newer epoch, an older one is not
// sent at all.
func TestDeposedWithinOneProcess(t *testing.T) {
	f := &fake{}
	c, _ := over(t, f)
	for _, fence := range []txn.Fence{at(1, 1), at(2, 2)} {
		if _, err := c.Inquire(t.Context(), fence, nil); err != nil {
			t.Fatal(err)
		}
	}
	calls := len(f.calls)
	_, err := c.Inquire(t.Context(), at(1, 3), nil)
	if !errors.Is(err, participant.ErrFenced) || len(f.calls) != calls {
		t.Errorf("%v, calls %v", err, f.calls[calls:])
	}
}

// TestHelloOnce: many first calls at once say Hello once, with a fence that none of the others
// exceeds by more than its wait, and no call is taken for a log that went backwards.
func TestHelloOnce(t *testing.T) {
	f := &fake{}
	c, _ := over(t, f)
	var wg sync.WaitGroup
	for lsn := range uint64(50) {
		wg.Go(func() {
			if _, err := c.Inquire(t.Context(), at(3, lsn), nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	hellos := 0
	for i, call := range f.calls {
		if call == "hello" {
			hellos++
			if i != 0 {
				t.Errorf("hello is call %d", i)
			}
		}
	}
	if hellos != 1 || len(f.calls) != 51 {
		t.Errorf("%d hellos in %d calls", hellos, len(f.calls))
	}
}

// TestLostHello: a Hello whose answer was lost may have been heard. The next attempt, by a call
// with a lower LSN, must still pass.
func TestLostHello(t *testing.T) {
	f := &fake{err: errors.New("lost")}
	c, _ := over(t, f)
	if _, err := c.Inquire(t.Context(), at(1, 50), nil); err == nil {
		t.Fatal("the lost Hello passed")
	}
	f.err = nil
	if _, err := c.Inquire(t.Context(), at(1, 40), nil); err != nil {
		t.Errorf("the next call: %v", err)
	}
	if !slices.Equal(f.calls, []string{"hello", "hello", "inquire"}) {
		t.Errorf("calls %v", f.calls)
	}
}

// TestHelloWaitsForItsContext: a call does not wait for another call's Hello longer than it may.
func TestHelloWaitsForItsContext(t *testing.T) {
	c, _ := over(t, &fake{})
	c.greeting <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Inquire(ctx, at(1, 1), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	<-c.greeting
}

func TestWrongResource(t *testing.T) {
	f := &fake{}
	c, s := over(t, f, WithResource("bank_b"))
	ctx := t.Context()
	_, inquire := c.Inquire(ctx, at(1, 1), nil)
	_, describe := c.Describe(ctx)
	_, list := c.List(ctx, at(1, 1))
	for _, err := range []error{inquire, describe, list} {
		if txn.ReasonOf(err) != txn.ReasonNoResource {
			t.Errorf("%v", err)
		}
	}
	if len(f.calls) != 0 {
		t.Errorf("calls for another resource got through: %v", f.calls)
	}
	right := serve(t, s, WithResource("bank_a"))
	if _, err := right.Inquire(ctx, at(1, 1), nil); err != nil {
		t.Error(err)
	}
}

// TestBadRequests come from other clients than ours.
func TestBadRequests(t *testing.T) {
	f := &fake{}
	c, _ := over(t, f)
	fence := &gavelv1.Fence{LogId: testLog.String(), Epoch: 1}
	bad := []*gavelv1.CommitRequest{
		{},
		{Fence: &gavelv1.Fence{LogId: testLog.String()}},
		{Fence: fence, Branches: []*gavelv1.BranchRef{{PreparedName: "x"}}},
		{Fence: fence, Branches: make([]*gavelv1.BranchRef, participant.MaxBatch+1)},
	}
	for i, r := range bad {
		if _, err := c.service.Commit(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%d: %v", i, err)
		}
	}
	if len(f.calls) != 0 {
		t.Errorf("bad calls got through: %v", f.calls)
	}
}

// TestPlainResource has none of the optional capabilities.
func TestPlainResource(t *testing.T) {
	c, _ := over(t, plain{&fake{}})
	if _, err := c.Inquire(t.Context(), at(1, 1), nil); err != nil {
		t.Error(err)
	}
	if err := c.Forget(t.Context(), at(1, 1), nil); err != nil {
		t.Error(err)
	}
	if _, err := c.Describe(t.Context()); status.Code(err) != codes.Unimplemented {
		t.Errorf("describe: %v", err)
	}
}

// TestOnePhaseRefused: a resource that is no OnePhaser is not asked to commit anything, whatever
// it says of itself.
func TestOnePhaseRefused(t *testing.T) {
	f := &fake{findings: make([]participant.Finding, 1)}
	c, _ := over(t, boastful{plain{f}})
	if d, err := c.Describe(t.Context()); err != nil || d.OnePhase {
		t.Errorf("%+v, %v", d, err)
	}
	in := []participant.Branch{branch(1)}
	_, err := c.CommitOnePhase(t.Context(), at(1, 1), in)
	r, ok := errors.AsType[*txn.Refusal](err)
	if !ok || r.Reason != txn.ReasonInvalid || r.Field != "one_phase" ||
		errors.Is(err, txn.ErrUnknown) {
		t.Errorf("%v", err)
	}
	if !slices.Equal(f.calls, []string{"describe"}) {
		t.Errorf("calls %v", f.calls)
	}
	if _, err := c.Commit(t.Context(), at(1, 1), in); err != nil {
		t.Errorf("an ordinary commit: %v", err)
	}
}

// TestOnePhaseOfDeposed: the server refuses it as it refuses every call.
func TestOnePhaseOfDeposed(t *testing.T) {
	f := &fake{findings: make([]participant.Finding, 1)}
	old, s := over(t, f)
	in := []participant.Branch{branch(1)}
	if _, err := old.CommitOnePhase(t.Context(), at(1, 1), in); err != nil {
		t.Fatal(err)
	}
	if _, err := serve(t, s).Inquire(t.Context(), at(2, 2), in); err != nil {
		t.Fatal(err)
	}
	calls := len(f.calls)
	_, err := old.CommitOnePhase(t.Context(), at(1, 3), in)
	if !errors.Is(err, participant.ErrFenced) || len(f.calls) != calls {
		t.Errorf("%v, calls %v", err, f.calls[calls:])
	}
}

func TestNewServer(t *testing.T) {
	if _, err := NewServer(Config{}); err == nil {
		t.Error("a server of nothing")
	}
	if _, err := NewServer(Config{Resource: plain{&fake{}}}); err == nil {
		t.Error("a server without fences")
	}
	if _, err := NewServer(Config{Resource: &fake{}, FenceFile: t.TempDir()}); err == nil {
		t.Error("a directory for a fence file")
	}
	s, err := NewServer(Config{Resource: &fake{}})
	if err != nil {
		t.Fatalf("a resource with its own fences: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	g := grpc.NewServer()
	s.Register(g)
	if _, ok := g.GetServiceInfo()[Service]; !ok {
		t.Errorf("registered are %v", g.GetServiceInfo())
	}
}

func TestDial(t *testing.T) {
	if _, err := Dial("10.0.0.1:7450"); !errors.Is(err, transport.ErrPlaintext) {
		t.Errorf("plaintext over a network: %v", err)
	}
	if _, err := Dial("10.0.0.1:7450", WithTLS(transport.TLS{CA: "/no/such/file"})); err == nil {
		t.Error("dialled without its authority")
	}
}

package kv_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/kv"
	"github.com/gavel-tx/gavel/participant/remote"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/proto/wire/transport"
	"github.com/gavel-tx/gavel/txn"
)

// sidecar is a store in a process of its own: both services on one server, and a client of each.
type sidecar struct {
	store *kv.Store
	data  gavelv1.KvServiceClient
	*remote.Client
}

func start(t *testing.T) *sidecar {
	t.Helper()
	store, err := kv.Open(kv.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	server, err := remote.NewServer(remote.Config{Name: "stock", Resource: store})
	if err != nil {
		t.Fatal(err)
	}
	plain := insecure.NewCredentials()
	g := grpc.NewServer(
		transport.ServerOptions(transport.Limits{MaxMessage: kv.MaxMessage}, plain, nil)...)
	server.Register(g)
	store.Register(g)
	lis := bufconn.Listen(1 << 20)
	done := make(chan error, 1)
	go func() { done <- g.Serve(lis) }()
	dialer := grpc.WithContextDialer(
		func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) })
	client, err := remote.Dial("passthrough:///bufconn", remote.WithInsecure(),
		remote.WithResource("stock"), remote.WithDialOptions(dialer))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///bufconn",
		append(transport.DialOptions(plain), dialer)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := errors.Join(conn.Close(), client.Close())
		g.Stop()
		if err := errors.Join(err, <-done, server.Close(), store.Close()); err != nil {
			t.Error(err)
		}
	})
	return &sidecar{store: store, data: gavelv1.NewKvServiceClient(conn), Client: client}
}

func prepared(seq txn.Seq) txn.Name { return txn.NameOf(txn.NewID(77, seq), 1) }

func fence(epoch txn.Epoch, lsn uint64) txn.Fence {
	return txn.Fence{Log: 77, Epoch: epoch, LSN: lsn}
}

func putOp(key, value string) *gavelv1.Operation {
	return &gavelv1.Operation{Kind: &gavelv1.Operation_Put{
		Put: &gavelv1.PutOperation{Key: []byte(key), Value: []byte(value)}}}
}

func addOp(key string, delta int64, minimum *int64) *gavelv1.Operation {
	return &gavelv1.Operation{Kind: &gavelv1.Operation_Add{
		Add: &gavelv1.AddOperation{Key: []byte(key), Delta: delta, Minimum: minimum}}}
}

// TestThroughTheWire is a whole transaction of a client in another language.
func TestThroughTheWire(t *testing.T) {
	s := start(t)
	ctx, zero := t.Context(), int64(0)
	answer, err := s.data.Apply(ctx, &gavelv1.ApplyRequest{
		PreparedName: prepared(1).String(), Sequence: 1, Operations: []*gavelv1.Operation{
			putOp("alice", "100"), addOp("alice", -30, &zero),
			{Kind: &gavelv1.Operation_Read{Read: &gavelv1.ReadOperation{Key: []byte("alice")}}},
			{Kind: &gavelv1.Operation_Delete{Delete: &gavelv1.DeleteOperation{Key: []byte("bob")}}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if e := answer.GetEntries(); len(e) != 4 || string(e[2].GetValue()) != "70" || e[3].GetFound() {
		t.Errorf("answered %v", e)
	}
	in := []participant.Branch{{Name: prepared(1)}}
	votes, err := s.Prepare(ctx, fence(1, 1), in)
	if err != nil || votes[0].Vote != txn.VoteYes {
		t.Fatalf("%+v, %v", votes, err)
	}
	in[0].Evidence = votes[0].Evidence
	if found, err := s.Commit(ctx, fence(1, 2), in); err != nil ||
		found[0].Standing != txn.StandingCommitted {
		t.Fatalf("%+v, %v", found, err)
	}
	got, err := s.data.Get(ctx, &gavelv1.GetRequest{Keys: [][]byte{[]byte("alice"), []byte("bob")}})
	if err != nil || string(got.GetEntries()[0].GetValue()) != "70" ||
		got.GetEntries()[1].GetFound() {
		t.Errorf("%v, %v", got, err)
	}
}

// TestReasons: each way in which a call can fail has its word.
func TestReasons(t *testing.T) {
	s := start(t)
	ten := int64(10)
	call := func(seq txn.Seq, sequence uint64, ops ...*gavelv1.Operation) error {
		_, err := s.data.Apply(t.Context(), &gavelv1.ApplyRequest{
			PreparedName: prepared(seq).String(), Sequence: sequence, Operations: ops,
		})
		return err
	}
	if err := call(1, 1, putOp("text", "abc"), putOp("n", "5")); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		err    error
		code   codes.Code
		reason string
	}{
		{call(2, 7, putOp("k", "v")), codes.FailedPrecondition, wire.ReasonBranchLost},
		{call(3, 1, addOp("n", 1, &ten)), codes.FailedPrecondition, wire.ReasonBelowMinimum},
		{call(1, 2, addOp("text", 1, nil)), codes.FailedPrecondition, wire.ReasonNotNumber},
		{call(4, 0, putOp("k", "v")), codes.InvalidArgument, "INVALID_ARGUMENT"},
		{call(4, 1, &gavelv1.Operation{}), codes.InvalidArgument, "INVALID_ARGUMENT"},
		{call(4, 1, &gavelv1.Operation{Kind: &gavelv1.Operation_Add{}}), codes.InvalidArgument,
			"INVALID_ARGUMENT"},
		{call(4, 1), codes.InvalidArgument, "INVALID_ARGUMENT"},
	}
	for i, c := range cases {
		if status.Code(c.err) != c.code || wire.ReasonOf(c.err) != c.reason {
			t.Errorf("%d: %v", i, c.err)
		}
	}
	_, err := s.data.Apply(t.Context(),
		&gavelv1.ApplyRequest{PreparedName: "order_981", Sequence: 1})
	if wire.ReasonOf(err) != "INVALID_ARGUMENT" || !strings.Contains(err.Error(), "order_981") {
		t.Errorf("a foreign name: %v", err)
	}
	_, err = s.data.Get(t.Context(), &gavelv1.GetRequest{Keys: [][]byte{{}}})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("an empty key: %v", err)
	}
}

// TestFencesThroughTheWire: the store keeps them itself, and the server adds no file.
func TestFencesThroughTheWire(t *testing.T) {
	s := start(t)
	ctx := t.Context()
	if _, err := s.List(ctx, fence(2, 10)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.store.List(ctx, fence(1, 99)); !errors.Is(err, participant.ErrFenced) {
		t.Errorf("the epoch did not reach the store: %v", err)
	}
	if err := s.store.Hello(ctx, fence(3, 10)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.List(ctx, fence(2, 11)); !errors.Is(err, participant.ErrFenced) {
		t.Errorf("a deposed coordinator: %v", err)
	}
	if d, err := s.Describe(ctx); err != nil || d.Kind != "kv" || d.Identity != s.store.Identity() {
		t.Errorf("%+v, %v", d, err)
	}
	if err := s.Forget(ctx, fence(3, 12), []participant.Branch{{Name: prepared(1)}}); err != nil {
		t.Error(err)
	}
}

package grpctx_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/grpctx"
	"github.com/gavel-tx/gavel/client/internal/banks"
	"github.com/gavel-tx/gavel/txn"
)

// byHand makes a call that says to belong to a transaction.
func byHand(t *testing.T, svc testpb.TestServiceClient, entries ...string) (metadata.MD, error) {
	t.Helper()
	var trailer metadata.MD
	_, err := svc.UnaryCall(metadata.AppendToOutgoingContext(t.Context(), entries...),
		&testpb.SimpleRequest{}, grpc.Trailer(&trailer))
	return trailer, err
}

// A call that arrives when its transaction cannot take it any more does nothing.
func TestACallThatArrivesTooLate(t *testing.T) {
	w := newWorld(t)
	b := bankB(t)
	svc := w.plain(credits(b))
	for name, end := range map[string]func(txn.Begun) error{
		"committed": func(begun txn.Begun) error {
			_, err := w.Coord.Commit(t.Context(), txn.CommitRequest{ID: begun.ID,
				Votes: []txn.BranchVote{{Branch: 1, Vote: txn.VoteReadOnly}}})
			return err
		},
		"rolled back": func(begun txn.Begun) error {
			_, err := w.Coord.Rollback(t.Context(), begun.ID, "by a test")
			return err
		},
		"being committed": func(begun txn.Begun) error {
			// Nobody prepares this branch: its vote is waited for.
			go w.Coord.Commit(t.Context(), txn.CommitRequest{ID: begun.ID})
			banks.Eventually(t, "it is being committed", func() bool {
				r, err := w.Coord.Outcome(t.Context(), begun.ID)
				return err == nil && r.State == txn.StatePreparing
			})
			return nil
		},
	} {
		begun, err := w.Coord.Begin(t.Context(), txn.BeginRequest{Resources: []string{"bank_a"}})
		if err == nil {
			err = end(begun)
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, err = byHand(t, svc, "gavel-transaction-id", begun.ID.String())
		if status.Code(err) != codes.FailedPrecondition {
			t.Errorf("%s: %v", name, err)
		}
	}
	unknown := txn.NewID(w.Coord.LogID(), 1<<40)
	if _, err := byHand(t, svc, "gavel-transaction-id", unknown.String()); err == nil {
		t.Error("an id that nobody has given out is taken")
	}
	w.Want(100, 100)
}

// plain is a service that is called without interceptors.
func (w *world) plain(h handler) testpb.TestServiceClient {
	srv := grpc.NewServer(grpc.ChainUnaryInterceptor(grpctx.UnaryServer(client.New(w.Coord))),
		grpc.ChainStreamInterceptor(grpctx.StreamServer(client.New(w.Coord))))
	testpb.RegisterTestServiceServer(srv, &service{handle: h})
	return testpb.NewTestServiceClient(connect(w.T, srv))
}

// A handler hears of the deadline, and its votes are sent whether there is work or not.
func TestTheDeadlineComesAlong(t *testing.T) {
	w := newWorld(t)
	var left time.Duration
	look := func(ctx context.Context) error {
		deadline, ok := ctx.Deadline()
		if left = time.Until(deadline); !ok {
			left = 0
		}
		return nil
	}
	err := w.Client.InTx(t.Context(), w.transfer(w.serve(look, setup{})),
		client.Timeout(20*time.Second))
	if err != nil || left <= 0 || left > 20*time.Second {
		t.Errorf("%v are left: %v", left, err)
	}
	svc := w.plain(look)
	begun, err := w.Coord.Begin(t.Context(), txn.BeginRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for said, most := range map[string]time.Duration{
		"5000": 5 * time.Second, "99999999999999": 1000 * time.Hour,
	} {
		trailer, err := byHand(t, svc, "gavel-transaction-id", begun.ID.String(),
			"gavel-deadline", said)
		if err != nil || left <= most-4*time.Second || left > most {
			t.Errorf("%s: %v are left: %v", said, left, err)
		}
		want := string(txn.AppendVotes(nil, begun.ID, nil))
		if v := trailer.Get("gavel-votes-bin"); !slices.Equal(v, []string{want}) {
			t.Errorf("votes %q", v)
		}
	}
}

// What came with a call and cannot be right is refused before anything is done.
func TestWhatIsNoTransaction(t *testing.T) {
	w := newWorld(t)
	var called atomic.Bool
	svc := w.plain(func(context.Context) error { called.Store(true); return nil })
	id, other := txn.NewID(w.Coord.LogID(), 7).String(), txn.NewID(w.Coord.LogID(), 8).String()
	for name, entries := range map[string][]string{
		"no id":             {"gavel-transaction-id", "x"},
		"an empty id":       {"gavel-transaction-id", ""},
		"a foreign UUID":    {"gavel-transaction-id", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"},
		"two ids":           {"gavel-transaction-id", id, "gavel-transaction-id", other},
		"no number":         {"gavel-transaction-id", id, "gavel-deadline", "soon"},
		"no time":           {"gavel-transaction-id", id, "gavel-deadline", "0"},
		"less than no time": {"gavel-transaction-id", id, "gavel-deadline", "-5"},
		"two times": {"gavel-transaction-id", id,
			"gavel-deadline", "5", "gavel-deadline", "6"},
		"an id with a blank": {"gavel-transaction-id", id + "0"},
	} {
		if _, err := byHand(t, svc, entries...); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if called.Load() {
		t.Error("the service has worked")
	}
}

// What the application sends along stays, and what belongs to another call does not.
func TestMetadataIsAppended(t *testing.T) {
	w := newWorld(t)
	var got metadata.MD
	svc := w.serve(func(ctx context.Context) error {
		got, _ = metadata.FromIncomingContext(ctx)
		return nil
	}, setup{})
	handedOn := metadata.Pairs("x-app", "one", "x-app", "two", "gavel-transaction-id", "stale",
		"gavel-deadline", "stale")
	for _, inTx := range []bool{true, false} {
		var id txn.ID
		var ids []string
		f := func(ctx context.Context) (err error) {
			if inTx {
				id, err = client.IDFrom(ctx)
				ids = []string{id.String()}
			}
			ctx = metadata.AppendToOutgoingContext(
				metadata.NewOutgoingContext(ctx, handedOn.Copy()), "x-app", "three")
			return errors.Join(err, call(ctx, svc))
		}
		err := f(t.Context())
		if inTx {
			err = w.Client.InTx(t.Context(), f)
		}
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Get("x-app"), []string{"one", "two", "three"}) ||
			!slices.Equal(got.Get("gavel-transaction-id"), ids) ||
			len(got.Get("gavel-deadline")) != len(ids) {
			t.Errorf("in a transaction %v: %v", inTx, got)
		}
	}
}

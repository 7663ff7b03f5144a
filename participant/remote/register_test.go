package remote_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/remote"
	"github.com/gavel-tx/gavel/participant/service"
	"github.com/gavel-tx/gavel/participant/service/boltjournal"
	"github.com/gavel-tx/gavel/proto/wire/transport"
	"github.com/gavel-tx/gavel/txn"
)

// lamp is a service of somebody's own. It is on once a branch was committed.
type lamp struct{ on bool }

func (l *lamp) Prepare(context.Context, txn.Name) (participant.Vote, error) {
	return service.Yes(), nil
}

func (l *lamp) Commit(context.Context, txn.Name) error {
	l.on = true
	return nil
}

func (l *lamp) Rollback(context.Context, txn.Name) error { return nil }

// TestRegister: a service with its journal is a participant on the wire, under its name, and keeps
// fences itself.
func TestRegister(t *testing.T) {
	j, err := boltjournal.Open(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	l := &lamp{}
	r, err := service.Open(service.Config{Service: l, Journal: j})
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(
		transport.ServerOptions(transport.Limits{}, insecure.NewCredentials(), nil)...)
	if err := remote.Register(g, "lamp", struct{ participant.Resource }{r}); err == nil {
		t.Error("a resource without fences was registered without a file for them")
	}
	if err := remote.Register(g, "lamp", r); err != nil {
		t.Fatal(err)
	}
	lis, done := bufconn.Listen(1<<20), make(chan error, 1)
	go func() { done <- g.Serve(lis) }()
	c, err := remote.Dial("passthrough:///bufconn", remote.WithInsecure(),
		remote.WithResource("lamp"), remote.WithDialOptions(grpc.WithContextDialer(
			func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) })))
	if err != nil {
		t.Fatal(err)
	}
	commitOverTheWire(t, c, r)
	if !l.on {
		t.Error("the lamp is off")
	}
	err = c.Close()
	g.Stop()
	if err := errors.Join(err, <-done, r.Close()); err != nil {
		t.Error(err)
	}
}

// commitOverTheWire is a transaction of one branch, and a deposed coordinator.
func commitOverTheWire(t *testing.T, c *remote.Client, r *service.Resource) {
	t.Helper()
	f := txn.Fence{Log: 4711, Epoch: 2, LSN: 10}
	b := []participant.Branch{{Name: txn.NameOf(txn.NewID(f.Log, 1), 1)}}
	if _, err := c.List(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	err := r.Work(t.Context(), b[0].Name, 1, func(context.Context) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	votes, err := c.Prepare(t.Context(), f, b)
	if err != nil || votes[0].Vote != txn.VoteYes {
		t.Fatalf("votes %+v, %v", votes, err)
	}
	b[0].Evidence = votes[0].Evidence
	findings, err := c.Commit(t.Context(), f, b)
	if err != nil || findings[0].Standing != txn.StandingCommitted {
		t.Errorf("findings %+v, %v", findings, err)
	}
	f.Epoch--
	if _, err := c.Commit(t.Context(), f, b); !errors.Is(err, participant.ErrFenced) {
		t.Errorf("a deposed coordinator: %v, want ErrFenced", err)
	}
}

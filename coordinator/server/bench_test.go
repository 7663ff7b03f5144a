package server_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	clientremote "github.com/gavel-tx/gavel/client/remote"
	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/coordinator/server"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/proto/wire/transport"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// idle is a resource manager that has nothing to do: the one transaction it is part of only reads.
type idle struct {
	participant.Resource
	identity txn.Identity
}

func newIdle(system uint64) idle {
	return idle{identity: txn.Identity{System: system, Database: 1}}
}

// Rollback has nothing to roll back.
func (idle) Rollback(
	_ context.Context, _ txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	found := make([]participant.Finding, len(b))
	for i := range found {
		found[i].Standing = txn.StandingRolledBack
	}
	return found, nil
}

// List finds nothing prepared.
func (i idle) List(context.Context, txn.Fence) (participant.Listing, error) {
	return participant.Listing{Identity: i.identity,
		Position: txn.Position{Timeline: 1, LSN: 1}}, nil
}

// Describe says who it is.
func (i idle) Describe(context.Context) (participant.Description, error) {
	return participant.Description{Kind: "idle", Evidence: true,
		Identity: i.identity, Position: txn.Position{Timeline: 1, LSN: 1}}, nil
}

// overLoopback serves a coordinator over TCP, as a process would, and connects to it.
func overLoopback(
	b *testing.B, c *coordinator.Coordinator, opts ...clientremote.Option,
) *clientremote.Client {
	b.Helper()
	g := grpc.NewServer(
		transport.ServerOptions(transport.Limits{}, insecure.NewCredentials(), nil)...)
	server.New(c, server.Options{}).Register(g)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- g.Serve(lis) }()
	client, err := clientremote.Dial(lis.Addr().String(), opts...)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := client.Close(); err != nil {
			b.Error(err)
		}
		g.Stop()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	return client
}

// decider is what this benchmark asks of a coordinator, near or far.
type decider interface {
	Begin(ctx context.Context, r txn.BeginRequest) (txn.Begun, error)
	Commit(ctx context.Context, r txn.CommitRequest) (txn.Result, error)
	Rollback(ctx context.Context, id txn.ID, reason string) (txn.Result, error)
}

// BenchmarkRPC is Begin and Commit of a transaction whose branches have only read: nothing is
// written and no resource is asked, so that what the calls cost is what gRPC costs: in one stream,
// or each by itself. The lines without it are the same calls in the process.
func BenchmarkRPC(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "log")
	if _, err := coordinator.Init(vfs.OS(), dir); err != nil {
		b.Fatal(err)
	}
	c, err := coordinator.Open(b.Context(), coordinator.Config{Dir: dir,
		Logger: slog.New(slog.DiscardHandler), Resources: []coordinator.Resource{
			{Name: "a", Kind: "idle", Manager: newIdle(1)},
			{Name: "b", Kind: "idle", Manager: newIdle(2)},
		}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := c.Close(); err != nil {
			b.Error(err)
		}
	})
	ways := []struct {
		name string
		to   decider
	}{
		{"in-process", c}, {"session", overLoopback(b, c)},
		{"single", overLoopback(b, c, clientremote.WithSingleCalls())},
	}
	for _, way := range ways {
		for _, clients := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/clients=%d", way.name, clients), func(b *testing.B) {
				readers(b, way.to, clients)
			})
		}
	}
}

// readers shares b.N transactions among clients.
func readers(b *testing.B, d decider, clients int) {
	for registered := false; !registered; {
		begun, err := d.Begin(b.Context(), txn.BeginRequest{Resources: []string{"a", "b"}})
		if registered = err == nil; registered {
			if _, err := d.Rollback(b.Context(), begun.ID, "it was only a question"); err != nil {
				b.Fatal(err)
			}
		}
	}
	var next atomic.Int64
	var join sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range clients {
		join.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if err := readOnly(b.Context(), d); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	join.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "txns/s")
}

func readOnly(ctx context.Context, d decider) error {
	begun, err := d.Begin(ctx, txn.BeginRequest{Resources: []string{"a", "b"}})
	if err != nil {
		return err
	}
	req := txn.CommitRequest{ID: begun.ID}
	for _, e := range begun.Branches {
		req.Votes = append(req.Votes, txn.BranchVote{Branch: e.Branch, Vote: txn.VoteReadOnly})
	}
	r, err := d.Commit(ctx, req)
	if err == nil && r.Outcome != txn.OutcomeCommitted {
		err = fmt.Errorf("%s: %s", r.Outcome, r.Reason)
	}
	return err
}

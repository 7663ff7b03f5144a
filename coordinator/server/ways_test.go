package server

import (
	"context"
	"sync"
	"testing"

	"google.golang.org/grpc"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
)

// connector serves a coordinator and returns one way to call it.
type connector func(*testing.T, Coordinator, Options) gavelv1.TransactionServiceClient

// eachWay runs a test with calls by themselves, and with the same calls in a session.
func eachWay(t *testing.T, test func(*testing.T, connector)) {
	t.Run("alone", func(t *testing.T) { test(t, alone) })
	t.Run("session", func(t *testing.T) { test(t, shared) })
}

// shared serves c over an in-memory connection, to calls in one session.
func shared(t *testing.T, c Coordinator, o Options) gavelv1.TransactionServiceClient {
	t.Helper()
	client := alone(t, c, o)
	return &oneByOne{TransactionServiceClient: client, stream: openSession(t, client)}
}

func openSession(
	t *testing.T, client gavelv1.TransactionServiceClient,
) gavelv1.TransactionService_SessionClient {
	t.Helper()
	stream, err := client.Session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// oneByOne makes calls in a session, each when the one before is answered.
type oneByOne struct {
	gavelv1.TransactionServiceClient
	stream gavelv1.TransactionService_SessionClient

	mu   sync.Mutex
	last uint64
}

func (o *oneByOne) call(c *gavelv1.SessionCall) (*gavelv1.SessionAnswer, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last++
	c.Id = o.last
	err := o.stream.Send(&gavelv1.SessionRequest{Calls: []*gavelv1.SessionCall{c}})
	if err != nil {
		return nil, err
	}
	m, err := o.stream.Recv()
	if err != nil {
		return nil, err
	}
	a := m.GetAnswers()[0]
	if a.GetStatus() != nil {
		return nil, wire.DecodeSessionStatus(a.GetStatus())
	}
	return a, nil
}

func (o *oneByOne) BeginTransaction(
	_ context.Context, r *gavelv1.BeginTransactionRequest, _ ...grpc.CallOption,
) (*gavelv1.BeginTransactionResponse, error) {
	a, err := o.call(&gavelv1.SessionCall{Call: &gavelv1.SessionCall_Begin{Begin: r}})
	return a.GetBegin(), err
}

func (o *oneByOne) EnlistBranch(
	_ context.Context, r *gavelv1.EnlistBranchRequest, _ ...grpc.CallOption,
) (*gavelv1.EnlistBranchResponse, error) {
	a, err := o.call(&gavelv1.SessionCall{Call: &gavelv1.SessionCall_Enlist{Enlist: r}})
	return a.GetEnlist(), err
}

func (o *oneByOne) CommitTransaction(
	_ context.Context, r *gavelv1.CommitTransactionRequest, _ ...grpc.CallOption,
) (*gavelv1.CommitTransactionResponse, error) {
	a, err := o.call(&gavelv1.SessionCall{Call: &gavelv1.SessionCall_Commit{Commit: r}})
	return a.GetCommit(), err
}

func (o *oneByOne) RollbackTransaction(
	_ context.Context, r *gavelv1.RollbackTransactionRequest, _ ...grpc.CallOption,
) (*gavelv1.RollbackTransactionResponse, error) {
	a, err := o.call(&gavelv1.SessionCall{Call: &gavelv1.SessionCall_Rollback{Rollback: r}})
	return a.GetRollback(), err
}

func (o *oneByOne) GetTransaction(
	_ context.Context, r *gavelv1.GetTransactionRequest, _ ...grpc.CallOption,
) (*gavelv1.GetTransactionResponse, error) {
	a, err := o.call(&gavelv1.SessionCall{Call: &gavelv1.SessionCall_Get{Get: r}})
	return a.GetGet(), err
}

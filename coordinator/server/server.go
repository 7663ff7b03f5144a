// Package server is the gRPC face of a coordinator: TransactionService of proto/gavel/v1.
//
// It checks what comes in against the limits of package txn, naming field and limit, hands it to
// the [Coordinator], and tells the outcome in the way that the service promises:
//
//   - CommitTransaction answers OK for a committed transaction and, but for an intent, which
//     decides nothing, for nothing else. One that is rolled back is the status ABORTED, one whose
//     outcome is not known yet UNAVAILABLE with the reason OUTCOME_UNKNOWN, so that no client can
//     take a reply without looking for a commit.
//   - ExecuteTransaction is Begin, the statements, and CommitTransaction, with the same answers. A
//     statement that fails is the No vote of its branch.
//   - GetTransaction and ListTransactions answer OK and leave the outcome to be read.
//   - A refusal says that nothing was changed, and why. Package wire maps it to its code.
//
// # Sessions
//
// A call by itself costs far more than what it asks for: headers, a stream, a goroutine that grows
// its stack. The calls of a Session share one stream, and a message as often as they meet:
//
//	SessionRequest{calls 1, 2, 3; cancels 7} ──▶ one goroutine a call ──▶ the method itself
//	SessionResponse{answers 2, 1}            ◀── one goroutine that sends what is ready
//
// There is no second way through the server: a call of a session runs the same method as one by
// itself. No timer gathers anything, so that a lone call is answered at once. Beyond
// wire.MaxSessionCalls in flight nothing more is read. A session lives for [Options.SessionAge] and
// then asks its client to open another one, so that it never outlasts its connection; after
// [Server.Drain] it asks at once.
//
// # Usage
//
//	creds, err := transport.Server(files, addr, insecure)
//	g := grpc.NewServer(transport.ServerOptions(transport.Limits{}, creds, report)...)
//	s := server.New(c, server.Options{Interceptor: transport.Recovery(report)})
//	s.Register(g)
//	health := transport.RegisterHealth(g, server.Service)
//	…
//	s.Drain()
//	g.GracefulStop()
//
// The server keeps nothing of its own: a client that loses its connection loses no transaction by
// it.
package server

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	sessions "github.com/gavel-tx/gavel/participant/session"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/proto/wire/transport"
	"github.com/gavel-tx/gavel/txn"
)

// Service is the name of the service in gRPC, also for the health service.
const Service = "gavel.v1.TransactionService"

// Coordinator decides transactions. All its methods are safe for concurrent use and may be
// repeated. A *txn.Refusal promises that the request changed nothing; every other error leaves
// its effect open.
type Coordinator interface {
	// Begin starts a transaction or, with an ID, enlists resources in one.
	Begin(context.Context, txn.BeginRequest) (txn.Begun, error)
	// Commit asks for the decision. A result with a final outcome is durable.
	Commit(context.Context, txn.CommitRequest) (txn.Result, error)
	// Rollback ends an undecided transaction without effect.
	Rollback(ctx context.Context, id txn.ID, reason string) (txn.Result, error)
	// Outcome tells what is known about a transaction now.
	Outcome(context.Context, txn.ID) (txn.Result, error)
	// List selects transactions in the order of their ids.
	List(context.Context, txn.ListRequest) ([]txn.Result, error)
}

// Options are the limits of what a request may ask for. The zero Options are the defaults.
type Options struct {
	// MaxTimeout bounds the timeout of a transaction. Defaults to 24 h; the coordinator may allow
	// less.
	MaxTimeout time.Duration
	// MaxWait bounds how long a commit waits for its branches. Defaults to 24 h.
	MaxWait time.Duration
	// SessionAge is when a session asks its client to open another one. It should be well below
	// what a connection is granted for its calls once it is to close. Defaults to 30 s.
	SessionAge time.Duration
	// Interceptor runs around every call of a session, as those of the gRPC server run around calls
	// by themselves. It must keep a panic within its call. Defaults to transport.Recovery(nil).
	Interceptor grpc.UnaryServerInterceptor
	// SQL has who runs statements for ExecuteTransaction, by the names of the resources where that
	// is allowed. Defaults to none: every ExecuteTransaction is refused.
	SQL map[string]sessions.Runner
	// Epoch is the coordinator's, for the sessions of SQL. Defaults to not telling them.
	Epoch txn.Epoch
}

const day = 24 * time.Hour

func (o Options) withDefaults() Options {
	if o.MaxTimeout == 0 {
		o.MaxTimeout = day
	}
	if o.MaxWait == 0 {
		o.MaxWait = day
	}
	if o.SessionAge == 0 {
		o.SessionAge = 30 * time.Second
	}
	if o.Interceptor == nil {
		o.Interceptor = transport.Recovery(nil)
	}
	return o
}

// Server implements TransactionService. It is safe for concurrent use and has nothing to close: its
// goroutines are those of its sessions, which end with their streams.
type Server struct {
	gavelv1.UnimplementedTransactionServiceServer

	coordinator Coordinator
	options     Options
	// draining is closed by the first Drain.
	draining chan struct{}
	drain    sync.Once
}

// New makes a server in front of c, which stays the caller's.
func New(c Coordinator, o Options) *Server {
	return &Server{
		coordinator: c, options: o.withDefaults(), draining: make(chan struct{}),
	}
}

// Drain asks the clients of all sessions, now and from now on, to end them, and returns at once.
// Every call is still answered. Without it a graceful stop of the gRPC server would wait for
// sessions whose clients know of no reason to end them. It may be called again.
func (s *Server) Drain() { s.drain.Do(func() { close(s.draining) }) }

// Register adds the service to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	gavelv1.RegisterTransactionServiceServer(r, s)
}

// BeginTransaction implements the service.
func (s *Server) BeginTransaction(
	ctx context.Context, r *gavelv1.BeginTransactionRequest,
) (*gavelv1.BeginTransactionResponse, error) {
	req, err := s.beginRequest(r)
	if err != nil {
		return nil, wire.Status(err)
	}
	begun, err := s.coordinator.Begin(ctx, req)
	if err != nil {
		return nil, wire.Status(err)
	}
	answer := &gavelv1.BeginTransactionResponse{
		TransactionId: begun.ID.String(),
		Branches:      wire.EncodeEnlisted(begun.Branches),
		Timeout:       durationpb.New(begun.Timeout),
		Delegate:      uint32(begun.Delegate),
	}
	if begun.Existing != nil {
		answer.Existing = wire.EncodeResult(*begun.Existing)
	}
	return answer, nil
}

// EnlistBranch implements the service.
func (s *Server) EnlistBranch(
	ctx context.Context, r *gavelv1.EnlistBranchRequest,
) (*gavelv1.EnlistBranchResponse, error) {
	req, err := enlistRequest(r)
	if err != nil {
		return nil, wire.Status(err)
	}
	begun, err := s.coordinator.Begin(ctx, req)
	if err != nil {
		return nil, wire.Status(err)
	}
	return &gavelv1.EnlistBranchResponse{
		Branches: wire.EncodeEnlisted(begun.Branches),
		Timeout:  durationpb.New(begun.Timeout),
		Delegate: uint32(begun.Delegate),
	}, nil
}

// CommitTransaction implements the service.
func (s *Server) CommitTransaction(
	ctx context.Context, r *gavelv1.CommitTransactionRequest,
) (*gavelv1.CommitTransactionResponse, error) {
	req, err := s.commitRequest(r)
	if err != nil {
		return nil, wire.Status(err)
	}
	result, err := s.coordinator.Commit(ctx, req)
	if err != nil {
		return nil, wire.Status(err)
	}
	if result.Outcome != txn.OutcomeCommitted && !req.Intent {
		return nil, wire.Status(&wire.OutcomeError{Result: result})
	}
	return &gavelv1.CommitTransactionResponse{
		Transaction:      wire.EncodeResult(result),
		PendingResources: result.Pending(),
	}, nil
}

// RollbackTransaction implements the service.
func (s *Server) RollbackTransaction(
	ctx context.Context, r *gavelv1.RollbackTransactionRequest,
) (*gavelv1.RollbackTransactionResponse, error) {
	id, err := parseID(r.GetTransactionId())
	if err != nil {
		return nil, wire.Status(err)
	}
	// A long reason must not keep anybody from rolling back, so it is cut and not refused.
	reason := wire.Cut(r.GetReason(), txn.MaxReasonLen)
	result, err := s.coordinator.Rollback(ctx, id, reason)
	if err != nil {
		return nil, wire.Status(err)
	}
	switch result.Outcome {
	case txn.OutcomeRolledBack:
		return &gavelv1.RollbackTransactionResponse{Transaction: wire.EncodeResult(result)}, nil
	case txn.OutcomeCommitted:
		return nil, wire.Status(&txn.Refusal{Reason: txn.ReasonAlreadyDecided})
	default:
		return nil, wire.Status(&wire.OutcomeError{Result: result})
	}
}

// GetTransaction implements the service.
func (s *Server) GetTransaction(
	ctx context.Context, r *gavelv1.GetTransactionRequest,
) (*gavelv1.GetTransactionResponse, error) {
	id, err := parseID(r.GetTransactionId())
	if err != nil {
		return nil, wire.Status(err)
	}
	result, err := s.coordinator.Outcome(ctx, id)
	if err != nil {
		return nil, wire.Status(err)
	}
	return &gavelv1.GetTransactionResponse{Transaction: wire.EncodeResult(result)}, nil
}

// ListTransactions implements the service.
func (s *Server) ListTransactions(
	ctx context.Context, r *gavelv1.ListTransactionsRequest,
) (*gavelv1.ListTransactionsResponse, error) {
	req, err := s.listRequest(r)
	if err != nil {
		return nil, wire.Status(err)
	}
	results, err := s.coordinator.List(ctx, req)
	if err != nil {
		return nil, wire.Status(err)
	}
	answer := &gavelv1.ListTransactionsResponse{}
	for _, t := range results {
		answer.Transactions = append(answer.Transactions, wire.EncodeResult(t))
	}
	// A full page may be the last one; then the next is empty, which costs a call and no memory
	// here.
	if n := len(results); n > 0 && n >= req.Limit {
		answer.NextPageToken = results[n-1].ID.String()
	}
	return answer, nil
}

// Package server is the gRPC face of a coordinator: TransactionService of proto/gavel/v1.
//
// It checks what comes in against the limits of package txn, naming field and limit, hands it to
// the [Coordinator], and tells the outcome in the way that the service promises:
//
//   - CommitTransaction answers OK for a committed transaction and, but for an intent, which
//     decides nothing, for nothing else. One that is rolled back is the status ABORTED, one whose
//     outcome is not known yet UNAVAILABLE with the reason OUTCOME_UNKNOWN, so that no client can
//     take a reply without looking for a commit.
//   - GetTransaction and ListTransactions answer OK and leave the outcome to be read.
//   - A refusal says that nothing was changed, and why. Package wire maps it to its code.
//
// # Usage
//
//	creds, err := transport.Server(files, addr, insecure)
//	g := grpc.NewServer(transport.ServerOptions(transport.Limits{}, creds, report)...)
//	server.New(c, server.Options{}).Register(g)
//	health := transport.RegisterHealth(g, server.Service)
//
// The server keeps nothing of its own: a client that loses its connection loses no transaction by
// it.
package server

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
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
}

const day = 24 * time.Hour

// Server implements TransactionService. It is safe for concurrent use and has nothing to close.
type Server struct {
	gavelv1.UnimplementedTransactionServiceServer

	coordinator Coordinator
	options     Options
}

// New makes a server in front of c, which stays the caller's.
func New(c Coordinator, o Options) *Server {
	if o.MaxTimeout == 0 {
		o.MaxTimeout = day
	}
	if o.MaxWait == 0 {
		o.MaxWait = day
	}
	return &Server{coordinator: c, options: o}
}

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

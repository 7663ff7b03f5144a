package server

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
)

// answer makes a call of a session as gRPC makes one by itself: with the interceptor around it, and
// with a status for its error.
func (s *Server) answer(ctx context.Context, call *gavelv1.SessionCall) *gavelv1.SessionAnswer {
	method, request := asked(call)
	info := &grpc.UnaryServerInfo{Server: s, FullMethod: method}
	response, err := s.options.Interceptor(ctx, request, info, s.handle)
	answer := &gavelv1.SessionAnswer{Id: call.GetId()}
	if err != nil {
		answer.Answer = &gavelv1.SessionAnswer_Status{Status: wire.EncodeSessionStatus(err)}
		return answer
	}
	switch r := response.(type) {
	case *gavelv1.BeginTransactionResponse:
		answer.Answer = &gavelv1.SessionAnswer_Begin{Begin: r}
	case *gavelv1.EnlistBranchResponse:
		answer.Answer = &gavelv1.SessionAnswer_Enlist{Enlist: r}
	case *gavelv1.CommitTransactionResponse:
		answer.Answer = &gavelv1.SessionAnswer_Commit{Commit: r}
	case *gavelv1.RollbackTransactionResponse:
		answer.Answer = &gavelv1.SessionAnswer_Rollback{Rollback: r}
	case *gavelv1.GetTransactionResponse:
		answer.Answer = &gavelv1.SessionAnswer_Get{Get: r}
	}
	return answer
}

// asked is the method of a call and its request. One that this version does not know has none.
func asked(call *gavelv1.SessionCall) (method string, request any) {
	switch c := call.GetCall().(type) {
	case *gavelv1.SessionCall_Begin:
		return gavelv1.TransactionService_BeginTransaction_FullMethodName, c.Begin
	case *gavelv1.SessionCall_Enlist:
		return gavelv1.TransactionService_EnlistBranch_FullMethodName, c.Enlist
	case *gavelv1.SessionCall_Commit:
		return gavelv1.TransactionService_CommitTransaction_FullMethodName, c.Commit
	case *gavelv1.SessionCall_Rollback:
		return gavelv1.TransactionService_RollbackTransaction_FullMethodName, c.Rollback
	case *gavelv1.SessionCall_Get:
		return gavelv1.TransactionService_GetTransaction_FullMethodName, c.Get
	}
	return gavelv1.TransactionService_Session_FullMethodName, nil
}

// handle runs the method that a request belongs to.
func (s *Server) handle(ctx context.Context, request any) (any, error) {
	switch r := request.(type) {
	case *gavelv1.BeginTransactionRequest:
		return s.BeginTransaction(ctx, r)
	case *gavelv1.EnlistBranchRequest:
		return s.EnlistBranch(ctx, r)
	case *gavelv1.CommitTransactionRequest:
		return s.CommitTransaction(ctx, r)
	case *gavelv1.RollbackTransactionRequest:
		return s.RollbackTransaction(ctx, r)
	case *gavelv1.GetTransactionRequest:
		return s.GetTransaction(ctx, r)
	}
	return nil, status.Error(codes.Unimplemented, "the call has no method that is known here")
}

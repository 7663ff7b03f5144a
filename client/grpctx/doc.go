// Package grpctx takes transactions along on gRPC calls: what the called service does with its
// databases commits or rolls back with the caller's transaction.
//
//	conn, err := grpc.NewClient(addr,                                            // the caller
//		grpc.WithChainUnaryInterceptor(grpctx.UnaryClient()),
//		grpc.WithChainStreamInterceptor(grpctx.StreamClient()))
//
//	srv := grpc.NewServer(                                                       // the service
//		grpc.ChainUnaryInterceptor(grpctx.UnaryServer(c)),                      // a client.Client
//		grpc.ChainStreamInterceptor(grpctx.StreamServer(c)))
//
// The service has no code about transactions. Its handlers use the database objects of a branch
// package, such as client/pgxtx, with the context that they are given:
//
//	func (s *bank) Credit(ctx context.Context, r *CreditRequest) (*CreditReply, error) {
//		_, err := s.db.Exec(ctx, `UPDATE acct SET bal = bal + $1 WHERE id = $2`, r.Amount, r.To)
//		return &CreditReply{}, err
//	}
//
// A call whose context carries the transaction of an InTx takes it along, in two entries that are
// appended to the call's metadata:
//
//	gavel-transaction-id  its id, 36 characters
//	gavel-deadline        for how many milliseconds it can still commit
//
// When the handler has returned, the service prepares what it did, and its votes go home in the
// trailer gavel-votes-bin, as txn.AppendVotes writes them. The one Commit of the caller carries the
// votes of all services. A service may call others in its turn: their votes go home by way of its
// own. Both sides use the same coordinator, which must know the resources of both. A call without a
// transaction passes through untouched, but for the two entries of another call, which are taken
// out of its metadata: who hands on all metadata of an incoming call must not hand on these.
//
// # What makes the transaction roll back
//
//	happens                      effect
//	a call fails                 the caller's transaction can only roll back, whether the error is
//	                             returned or ignored
//	the handler ignores an       the branch votes No, and the call fails with ABORTED
//	error of its database
//	the handler fails, panics    the service rolls back at once, and votes No if it can answer
//	the trailer is missing, or   the call fails with ABORTED: the service has no interceptor, or
//	is no votes                  something on the way lost it. What it has prepared is rolled back
//	                             by the coordinator; what it committed by itself stays
//	a call has not ended when    the transaction rolls back. A stream has ended when its RecvMsg
//	the function of InTx does    has returned io.EOF, or another error; one with a single answer,
//	                             when it has returned that
//	a call after the function    it is not sent: FAILED_PRECONDITION, client.ErrFinished
//	of InTx has returned
//	a call that arrives after    the coordinator takes no branches: what the handler did is rolled
//	the commit began             back, and the call fails with FAILED_PRECONDITION
//	a call is made twice, as by  the work of an attempt that was not answered never commits: if it
//	a retry policy               had branches, all is rolled back
//	the service dies             after PREPARE too: no vote comes home, and all is rolled back
//
// [client.Detach] takes a call out of the transaction.
//
// # What to know of several services at one database
//
// Each call is a session of its own, even where two of them, or caller and service, use the same
// database. They do not see each other's work, and a row that one has written is locked for the
// others until the transaction ends: a call that needs it waits until the deadline, and then all is
// rolled back. So write a row by one call. The coordinator gives each call branches of its own; one
// from before such calls gives the same branch twice, which is noticed, and rolls back.
//
// The options of InTx, as Isolation or Delegate, are about the caller's own branches. A transaction
// that makes a call is never decided by a delegate: where that was agreed upon before, the call
// fails. A service decides nothing. But whoever has the id of a transaction may ask the coordinator
// for its end, a commit too, and hold locks until its deadline: so call services that you trust
// with that.
package grpctx

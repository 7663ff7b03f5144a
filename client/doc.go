// Package client runs a function of yours as one transaction over several databases: all of what it
// did remains, or nothing does, whatever crashes.
//
//	bankA, bankB := pgxtx.New("bank_a", poolA), pgxtx.New("bank_b", poolB)   // your own pools
//	c := client.New(decider)                                                // see Decider
//
//	err := c.InTx(ctx, func(ctx context.Context) error {
//		_, err := bankA.Exec(ctx, `UPDATE acct SET bal = bal - 30 WHERE id = 'alice'`)
//		if err != nil {
//			return err
//		}
//		_, err = bankB.Exec(ctx, `UPDATE acct SET bal = bal + 30 WHERE id = 'bob'`)
//		return err
//	})
//
// The transaction travels in the context. A database object of a branch package (client/pgxtx) that
// is used with it opens one session of its database on first use, its branch, and keeps to that
// session.
//
// # What InTx returns
//
//	nil               committed. If a wait bound ran out, some branches may follow: see Report
//	*AbortedError     rolled back: nothing of it remains. It wraps the function's own error
//	ErrInDoubt        the outcome is not known here; the transaction may have committed. IDOf(err)
//	                  names it, and Client.Await asks for it again
//	*HeuristicError   decided, but somebody interfered at a database: a person must look
//
// A timeout is never told as a rollback. "Rolled back" is said only where it is proven: the request
// to commit, and a marker, never left this process, a branch is known to have ended without effect,
// or the coordinator said so.
//
// # How a transaction ends
//
//	function      branches      then
//	error, panic  any           every session is rolled back; the coordinator is told, if it knew
//	nil           none          nothing is sent
//	nil           one           its plain COMMIT decides; the coordinator is never called
//	nil           several       those that only read just commit; then
//	                no writer   that was all
//	                one writer  its plain COMMIT decides
//	                writers     PREPARE on all of them at once, then one Commit with all votes
//	nil, with a     any         PREPARE on all writers but that one at once; then its COMMIT, with
//	Delegate that               a marker, decides, and one Commit with all votes tells the
//	is agreed upon              coordinator
//
// A context that has ended when the function returns counts as an error.
//
// One writer among several branches commits in one phase although the coordinator has given the
// transaction an id by then: nothing is prepared and the id has not left this process, so that
// nobody can ask for it and hear "rolled back". A transaction with an idempotency key, or whose id
// was handed out by [IDFrom], always ends at the coordinator.
//
// From the moment at which a Commit with votes may have left the process, prepared branches belong
// to the coordinator: this package neither commits nor rolls back a prepared branch, ever. From the
// moment at which a marker may have left, "rolled back" is said only if its database has refused
// it. The application may die at any moment.
//
// # Other processes
//
// A call of another process takes the transaction along by a package such as client/grpctx. The
// called process prepares what it did and hands its votes back with the answer; they go into the
// one Commit of InTx. Such a transaction always ends at the coordinator, by the classic plan. It
// rolls back if a call fails, has not ended when the function returns, or its votes are lost. Each
// call is a part with branches of its own, so that no branch is prepared by two; and no branch
// commits whose vote did not come home, so that a call which was made twice does not act twice. See
// [Carry] and [Client.TakePart].
//
// # Failures inside the function
//
//	happens                      effect
//	a statement fails            the transaction can only roll back, whether the error is returned
//	                             or ignored, unless a savepoint from before it is rolled back to
//	panic, runtime.Goexit        rolled back; the panic goes on
//	the context ends             rolled back, on a context of its own, in at most five seconds
//	InTx within InTx             joins the transaction; its error makes the outer one roll back
//	use after the end            ErrFinished; nothing is sent
//	goroutines of the function   welcome, on different resources; they must end before it returns
//	SQLSTATE 40001, 40P01, 55P03 AbortedError.Retryable; repeated where Retry allows it
//
// The presumed-abort protocol behind it is that of Mohan, Lindsay and Obermarck, "Transaction
// Management in the R* Distributed Database Management System" (TODS 1986), section 3; its
// read-only and one-phase endings are section 3.1 there. The marker is the LogOnce of Guo et al.,
// "Cornus: Atomic Commit for a Cloud DBMS with Storage Disaggregation" (PVLDB 16, 2022).
package client

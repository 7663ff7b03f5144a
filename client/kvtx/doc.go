// Package kvtx is the key-value store of participant/kv in transactions of package client: the
// branch is opened at the first operation, and commits with all others.
//
//	stock := kvtx.New("stock", store)
//	err := c.InTx(ctx, func(ctx context.Context) error {
//		_, err := stock.Add(ctx, "apples", -1, kvtx.AtLeast(0))
//		return err
//	})
//
// The store keeps the work of a branch, under the name that the coordinator gave it, so that the
// coordinator asks the store for the vote, and not this process. That is why every transaction with
// such a branch goes through the coordinator, also if it is the only one.
//
// # Isolation
//
// Transactions are serializable. A branch notes what it read; if that has changed when it is
// prepared, or is being changed by another transaction, the store votes no with SQLSTATE 40001, and
// the client.AbortedError is Retryable.
package kvtx

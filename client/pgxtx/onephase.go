package pgxtx

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/internal/onpg"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

// commit ends the branch by the database's own COMMIT, the one decision about it:
//
//	(not sent)     the session failed before: rolled back
//	(committed)    tag COMMIT
//	(swallowed)    tag ROLLBACK: the transaction had failed before: rolled back
//	(refused)      an ERROR, as of a deferred constraint: rolled back
//	(lost)         no answer: the database is asked by the number of the transaction, if it wrote
//
// The number is read before COMMIT is sent, with the first statement if that writes: after a lost
// connection nobody could. Every error that
// is not the server's own counts as lost, also one that pgconn.SafeToRetry calls unsent: when the
// answer to a simple query is cut off, pgx 5.12 reports "conn closed", as if the connection had
// been closed before.
func (b *branch) commit(ctx context.Context) client.Ending {
	mark := b.mark
	if mark.XID == 0 && b.wrote() {
		var err error
		if mark, err = pgbranch.MarkTransaction(ctx, b.pg(), b.manner.ready); err != nil {
			if pgbranch.SQLState(err) == unknownStatement {
				b.forgetConnection(ctx)
			}
			b.rollBack(ctx)
			return onpg.RolledBack(err, "the session failed before COMMIT was sent") // (not sent)
		}
	}
	err := b.pgxTx().Commit(ctx)
	_, fromServer := errors.AsType[*pgconn.PgError](err)
	switch {
	case err == nil:
		b.release()
		return client.Ending{Standing: txn.StandingCommitted} // (committed)
	case errors.Is(err, pgx.ErrTxCommitRollback):
		b.release()
		return b.explain(errSwallowed) // (swallowed)
	case fromServer && pgbranch.Classify(err) != pgbranch.ClassUnknown:
		b.rollBack(ctx)
		return onpg.RolledBack(err, "") // (refused)
	}
	b.release()
	return b.db.askFor(ctx, mark, err) // (lost)
}

// askFor asks the database what became of a transaction whose COMMIT was not answered.
func (db *DB) askFor(ctx context.Context, mark pgbranch.Mark, lost error) client.Ending {
	return onpg.AskFor(ctx, func(ctx context.Context, f func(*pgconn.PgConn) error) error {
		conn, err := db.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		return f(conn.Conn().PgConn())
	}, mark, lost)
}

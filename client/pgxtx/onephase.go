package pgxtx

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

// The questions about a lost COMMIT: they go on, with pauses that double up to the longest, until
// the context ends, or the database has given so many answers that prove nothing.
const (
	maxAnswers   = 8
	firstPause   = 20 * time.Millisecond
	longestPause = time.Second
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
			return rolledBack(err, "the session failed before COMMIT was sent") // (not sent)
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
		return rolledBack(err, "") // (refused)
	}
	b.release()
	return b.db.askFor(ctx, mark, err) // (lost)
}

func rolledBack(err error, reason string) client.Ending {
	return client.Ending{
		Standing: txn.StandingRolledBack, Reason: reason,
		SQLState: pgbranch.SQLState(err), Err: err,
	}
}

// askFor asks the database what became of a transaction whose COMMIT was not answered. The broken
// connection is back at the pool by now, so that even a pool of one can ask.
func (db *DB) askFor(ctx context.Context, mark pgbranch.Mark, lost error) client.Ending {
	e := client.Ending{Err: lost, Reason: "the answer to COMMIT was lost"}
	if mark.XID == 0 {
		return e
	}
	pause, answers := firstPause, 0
	for {
		a, err := db.askOnce(ctx, mark)
		if err == nil {
			answers++
			e.Standing, e.Reason = a.Standing, "the answer to COMMIT was lost: "+a.Reason
		}
		if e.Standing != txn.StandingUnknown || answers == maxAnswers || !wait(ctx, pause) {
			return e
		}
		pause = min(2*pause, longestPause)
	}
}

func (db *DB) askOnce(ctx context.Context, mark pgbranch.Mark) (pgbranch.Answer, error) {
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		return pgbranch.Answer{}, err
	}
	defer conn.Release()
	return pgbranch.OneFinished(ctx, conn.Conn().PgConn(), mark)
}

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

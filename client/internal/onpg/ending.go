package onpg

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

// Ending is how a branch ended by a PREPARE, or by a COMMIT with a marker.
func Ending(v pgbranch.Verdict) client.Ending {
	e := client.Ending{Evidence: v.Evidence, Reason: v.Reason, SQLState: v.SQLState, Err: v.Err}
	switch v.Vote {
	case txn.VoteYes:
		e.Standing = txn.StandingPrepared
	case txn.VoteCommitted:
		e.Standing = txn.StandingCommitted
	case txn.VoteNo:
		e.Standing = txn.StandingRolledBack
	}
	return e
}

// RolledBack is the ending of a branch that certainly had no effect, because of err.
func RolledBack(err error, reason string) client.Ending {
	return client.Ending{
		Standing: txn.StandingRolledBack, Reason: reason,
		SQLState: pgbranch.SQLState(err), Err: err,
	}
}

// The questions about a lost COMMIT: they go on, with pauses that double up to the longest, until
// the context ends, or the database has given so many answers that prove nothing.
const (
	maxAnswers   = 8
	firstPause   = 20 * time.Millisecond
	longestPause = time.Second
)

// Lend calls f with a connection of a pool, idle outside of any transaction, or fails.
type Lend func(ctx context.Context, f func(*pgconn.PgConn) error) error

// AskFor asks the database what became of a transaction whose COMMIT was not answered, on another
// connection. The broken one is back at its pool by now, so that even a pool of one can ask. Of one
// without a mark nobody knows.
func AskFor(ctx context.Context, lend Lend, mark pgbranch.Mark, lost error) client.Ending {
	e := client.Ending{Err: lost, Reason: "the answer to COMMIT was lost"}
	if mark.XID == 0 {
		return e
	}
	pause, answers := firstPause, 0
	for {
		a, err := askOnce(ctx, lend, mark)
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

func askOnce(ctx context.Context, lend Lend, mark pgbranch.Mark) (a pgbranch.Answer, err error) {
	err = lend(ctx, func(conn *pgconn.PgConn) (err error) {
		a, err = pgbranch.OneFinished(ctx, conn, mark)
		return err
	})
	return a, err
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

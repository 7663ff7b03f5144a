package pgbranch

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// callsOutKey is where a connection remembers the answer of CallsOut, for its life.
const callsOutKey = "github.com/gavel-tx/gavel/participant/postgres/pgbranch.callsOut"

// Reader asks whether the branch that is open on a connection wrote nothing, here or by way of this
// database elsewhere. It is for one that has sent nothing that is known to write.
func Reader(ctx context.Context, conn *pgconn.PgConn) (bool, error) {
	callsOut, known := conn.CustomData()[callsOutKey].(bool)
	if !known {
		var err error
		if callsOut, err = CallsOut(ctx, conn); err != nil {
			return false, err
		}
		conn.CustomData()[callsOutKey] = callsOut
	}
	if callsOut && !mutant.On(mutant.XIDNullIsReadOnly) {
		return false, nil
	}
	return ReadOnly(ctx, conn)
}

// CommitReader ends a branch of which [Reader] is true by a COMMIT, which is how the database
// says that what was read still holds together, and votes:
//
//	(read)      tag COMMIT: ReadOnly
//	(swallowed) another tag: the transaction had failed: No
//	(refused)   an ERROR, such as a serialization failure: No
//	(unsent)    the connection was closed before: No
//	(lost)      anything else: Unknown
//
// When it returns the connection is idle, or closed.
func CommitReader(ctx context.Context, conn *pgconn.PgConn) Verdict {
	replies, err := exchange(ctx, conn, tagCommit)
	switch {
	case err != nil && len(replies) == 0:
		return unsent(err, whileCommitting)
	case err != nil:
		return lost(err, whileCommitting)
	case replies[0].err != nil:
		rollBack(ctx, conn)
		e := replies[0].err
		return Verdict{Vote: txn.VoteNo, SQLState: e.Code, Err: e, Reason: e.Message}
	case len(replies[0].results) != 1:
		_ = conn.Close(context.Background())
		return lost(fmt.Errorf("%w: %d answers to COMMIT", ErrProtocol, len(replies[0].results)),
			whileCommitting)
	case replies[0].results[0].tag != tagCommit:
		return Verdict{Vote: txn.VoteNo, Reason: swallowed}
	}
	return Verdict{Vote: txn.VoteReadOnly}
}

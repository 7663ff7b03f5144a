package onpg

import (
	"context"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// callsOutKey is where a connection remembers the answer of pgbranch.CallsOut, for its life.
const callsOutKey = "github.com/gavel-tx/gavel/client/internal/onpg.callsOut"

// Reader asks whether the branch that is open on a connection wrote nothing, here or by way of this
// database elsewhere. It is for one that has sent nothing that is known to write.
func Reader(ctx context.Context, conn *pgconn.PgConn) (bool, error) {
	callsOut, known := conn.CustomData()[callsOutKey].(bool)
	if !known {
		var err error
		if callsOut, err = pgbranch.CallsOut(ctx, conn); err != nil {
			return false, err
		}
		conn.CustomData()[callsOutKey] = callsOut
	}
	if callsOut && !mutant.On(mutant.XIDNullIsReadOnly) {
		return false, nil
	}
	return pgbranch.ReadOnly(ctx, conn)
}

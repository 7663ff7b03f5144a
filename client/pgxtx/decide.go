package pgxtx

import (
	"context"
	"errors"
	"fmt"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/internal/onpg"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

var _ client.DelegateBranch = (*branch)(nil)

// Decide implements client.DelegateBranch. The database that the coordinator will ask for the
// marker is the one that it registered; in any other one the marker would be no decision, so that
// the branch must not commit there, whatever the application expects.
func (b *branch) Decide(
	ctx context.Context, id txn.ID, at txn.Evidence, decision []byte,
) client.Ending {
	if expect := b.db.prepare.Expect; !expect.IsZero() && expect != at.Identity {
		b.Finish(ctx, false)
		return onpg.RolledBack(fmt.Errorf("pgxtx: %w: %s is registered as %s, and the application "+
			"expects %s", pgbranch.ErrIdentity, b.db.resource, at.Identity, expect), "")
	}
	return b.vote(ctx, func(how pgbranch.PrepareOptions) pgbranch.Verdict {
		how.Expect, how.Timeline = at.Identity, at.Timeline
		v := pgbranch.Decide(ctx, b.pg(), id, decision, how)
		if errors.Is(v.Err, pgbranch.ErrDecided) {
			// The key that is there already is the marker's: nobody must take it for one of the
			// application's own.
			v.Err, v.SQLState = pgbranch.ErrDecided, ""
		}
		return v
	})
}

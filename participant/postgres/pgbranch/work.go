package pgbranch

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/txn/mutant"
)

// Work is one statement of a branch that waits to be sent with others.
type Work struct {
	// Statement is its name on the connection, where it is prepared.
	Statement string
	// Parameters are encoded, in Formats; a nil one is NULL. They stay the caller's, and must not
	// change until the call that takes them returns.
	Parameters [][]byte
	Formats    []int16
	// Exactly, if not negative, is how many rows it must affect.
	Exactly int64
}

// ErrRows is wrapped by the error about a statement that affected another number of rows than it
// must.
var ErrRows = errors.New("pgbranch: a statement affected another number of rows than it must")

// Do sends work in one round trip, within the transaction that is open on conn. After an error of
// the server the transaction has failed; after a number of rows that is wrong, which is an error
// too, it has not, and must be rolled back.
func Do(ctx context.Context, conn *pgconn.PgConn, work []Work) error {
	replies, err := send(ctx, conn, together(workStatements(work)...))
	switch {
	case err != nil:
		return err
	case replies[0].err != nil:
		return replies[0].err
	case len(replies[0].results) != len(work):
		return fmt.Errorf("%w: %d answers to %d statements", ErrProtocol,
			len(replies[0].results), len(work))
	}
	return miscounted(replies[0].results, work)
}

func workStatements(work []Work) []statement {
	all := make([]statement, len(work))
	for i, w := range work {
		all[i] = statement{prepared: w.Statement, encoded: w.Parameters, formats: w.Formats}
	}
	return all
}

// miscounted is about the first statement whose number of rows is wrong, or nil.
func miscounted(results []result, work []Work) error {
	for i, w := range work {
		if err := Count(pgconn.NewCommandTag(results[i].tag), w.Exactly); err != nil {
			return err
		}
	}
	return nil
}

// Count compares the rows that a statement affected with those that it must, as [Work] has them. An
// error wraps [ErrRows].
func Count(tag pgconn.CommandTag, exactly int64) error {
	if exactly < 0 || tag.RowsAffected() == exactly || mutant.On(mutant.RowsUnchecked) {
		return nil
	}
	return fmt.Errorf("%w: %s, and it must be %d", ErrRows, tag, exactly)
}

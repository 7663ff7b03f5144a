package bench

import (
	"errors"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/client"
)

// undone is the error of a transfer made by hand of which certainly nothing remains.
type undone struct{ err error }

func (u *undone) Error() string { return "rolled back: " + u.err.Error() }
func (u *undone) Unwrap() error { return u.err }

// aborted says that an attempt has certainly changed nothing, for a reason that comes from other
// attempts beside it, so that it is worth another.
func aborted(err error) bool {
	if a, ok := errors.AsType[*client.AbortedError](err); ok {
		return passing(a.SQLState)
	}
	u, ok := errors.AsType[*undone](err)
	if !ok {
		return false
	}
	pg, ok := errors.AsType[*pgconn.PgError](u.err)
	return ok && passing(pg.Code)
}

// passing says that a SQLSTATE goes by: serialization_failure, deadlock_detected,
// lock_not_available, and out_of_memory, which is what PostgreSQL says when all slots for prepared
// transactions are taken.
func passing(code string) bool {
	return slices.Contains([]string{"40001", "40P01", "55P03", "53200"}, code)
}

package pgxtx

import (
	"errors"
	"fmt"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
)

// ErrBusy is returned when a transaction is asked to do two things at once at one database: while
// rows or batch results are open, or from two goroutines. The second statement was not sent
// anywhere, and the transaction rolls back unless a savepoint is rolled back to. Read rows to their
// end first, for example by pgx.CollectRows.
var ErrBusy = errors.New("pgxtx: the transaction's connection is busy with another statement or " +
	"with rows that are still open; the statement was not sent")

// ErrOwned is returned by Commit and Rollback of a branch: only InTx ends it. After Rollback the
// transaction rolls back whatever its function returns.
var ErrOwned = errors.New("pgxtx: the transaction belongs to InTx; return from its function to " +
	"end it")

// ErrControl is returned for SQL that would begin, end or prepare a transaction. It was not sent.
var ErrControl = errors.New("pgxtx: a transaction is begun and ended by InTx, not by SQL")

// ErrEnded is returned once SQL has ended the branch's transaction all the same, as the second
// statement of a text may: what the branch did before stays or is gone, as that SQL decided.
// Nothing is sent any more, and all other branches roll back.
var ErrEnded = errors.New("pgxtx: SQL has ended the transaction from within")

// The reasons for which a branch can only roll back, beside a statement that failed.
var (
	errStraggler = errors.New("pgxtx: a statement was still running when the function of InTx " +
		"returned")
	errOpenRows = errors.New("pgxtx: rows or batch results were still open when the function of " +
		"InTx returned; close them")
	errSwallowed = errors.New("pgxtx: a statement failed and its error was ignored")
	errSession   = errors.New("pgxtx: the session was lost")
	errPanic     = errors.New("pgxtx: a panic broke off the use of the connection")
	errAbandoned = errors.New("pgxtx: Rollback was called on the branch")
)

// inTransaction says whether a failed Join had a transaction.
func inTransaction(err error) bool { return !errors.Is(err, client.ErrNoTransaction) }

// checkText refuses SQL that controls a transaction.
func checkText(sql string) error {
	if word := pgbranch.Controls(sql); word != "" {
		return fmt.Errorf("%w: %s was not sent", ErrControl, word)
	}
	return nil
}

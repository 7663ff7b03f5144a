package xabranch

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"

	"github.com/go-sql-driver/mysql"
)

// Error numbers that decisions depend upon.
const (
	numDuplicate     = 1062 // a row of this name exists: the name was prepared before
	numNotAllowed    = 1142 // no privilege on a table
	numNoTable       = 1146
	numNoDatabase    = 1049
	numDenied        = 1044 // no privilege on a database
	numOption        = 1290 // --read-only
	numLockTimeout   = 1205
	numDeadlock      = 1213
	numTooMany       = 1637 // no undo slot is free
	numReadOnly      = 1792 // the transaction is read-only
	numDiskFull      = 1021
	numMemory        = 1041
	numTableFull     = 1114
	numTooManyLocks  = 1206
	numNoTA          = 1397 // unknown XID
	numInvalid       = 1398
	numInTransaction = 1568 // a transaction is open
	numWrongState    = 1399 // not in this state of the branch
	numOutside       = 1400 // work is done outside of a branch
	numRollback      = 1402 // the branch was rolled back
	numRollbackTime  = 1613
	numRollbackDead  = 1614
	numDuplicateXID  = 1440
	numInterrupted   = 1317
	numKilled        = 1927
	numShutdown      = 1053
	numNoThread      = 1094
)

// ErrNoSetup is returned where the tables of [Schema] are missing, or not open to the account.
// Nothing was done.
var ErrNoSetup = errors.New("xabranch: the tables of the database gavel are missing, or this " +
	"account may not use them: run the statements of the set-up, and its grants")

// ErrReadOnly is returned while a server takes no writes, as a replica does. Nothing was done.
var ErrReadOnly = errors.New("xabranch: the server is read-only, as a replica is")

// ErrMySQL is returned for a server that is no MariaDB, unless it was asked for: the rules of this
// package are tested with MariaDB alone.
var ErrMySQL = errors.New("xabranch: the server is no MariaDB, and MySQL is experimental: " +
	"say so explicitly to use it")

// ErrTaken is returned by Begin for a name that another session has begun or prepared.
var ErrTaken = errors.New("xabranch: another session runs, or has prepared, a branch of this name")

// ErrOpen is returned by Begin on a connection with an open transaction.
var ErrOpen = errors.New("xabranch: the connection is in a transaction already")

// ErrIdentity is in the verdict of a Prepare that met another server or database than the expected
// one. Nothing was prepared.
var ErrIdentity = errors.New("xabranch: this is not the registered database")

// ErrMoved is in the verdict of a Prepare, or returned by a Rollback, in another database than the
// branch began in. Nothing was prepared.
var ErrMoved = errors.New("xabranch: the current database has changed within the branch")

// ErrPooled is returned for a connection whose statements reach different sessions, which a pooler
// has shared out among them. What the branch did elsewhere has committed by itself.
var ErrPooled = errors.New("xabranch: a pooler in between has changed the session behind the " +
	"connection: connect to the server directly, or have the pooler keep one session for each " +
	"connection")

// ErrCommits is in the chain of the error of a statement that MariaDB refuses within a branch,
// because it would commit by itself. It was not run.
var ErrCommits = errors.New("xabranch: what commits by itself (CREATE, ALTER, DROP, TRUNCATE, " +
	"LOCK TABLES, BEGIN, COMMIT and the like) cannot run in a branch: run it before or after the " +
	"transaction")

// ErrProtocol is returned when a server's answer does not have the form that MariaDB gives it.
var ErrProtocol = errors.New("xabranch: unexpected answer from the server")

// Number is the number of the server's error in err's chain, or 0.
func Number(err error) uint16 {
	if e, ok := errors.AsType[*mysql.MySQLError](err); ok {
		return e.Number
	}
	return 0
}

// passing are errors of work that may succeed when it is done again.
var passing = []uint16{numRollbackDead, numDeadlock, numRollbackTime, numLockTimeout}

// SQLState is the SQLSTATE of the server's error in err's chain, or "". What passes when the work
// is done again, a deadlock or a lock that was not to be had in time, is 40001, although the server
// has no state of its own for some of it.
func SQLState(err error) string {
	e, ok := errors.AsType[*mysql.MySQLError](err)
	switch {
	case !ok:
		return ""
	case slices.Contains(passing, e.Number):
		return "40001"
	case e.SQLState == [5]byte{}:
		return ""
	}
	return string(e.SQLState[:])
}

// Broken says whether err leaves its connection in a state that nobody knows: everything that is
// not an answer of the server, and the answers by which it says that it ends the session. What was
// asked may or may not have had its effect, except where [Unsent] says so.
func Broken(err error) bool {
	switch Number(err) {
	case 0:
		return err != nil && !errors.Is(err, sql.ErrNoRows) && !errors.Is(err, ErrProtocol)
	case numKilled, numShutdown, numInterrupted:
		return true
	}
	return false
}

// Unsent says whether err promises that nothing has reached the server.
func Unsent(err error) bool {
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone)
}

// setupError turns the server's words for missing tables and privileges into ErrNoSetup.
func setupError(err error) error {
	switch Number(err) {
	case numNoTable, numNoDatabase, numNotAllowed, numDenied:
		return fmt.Errorf("%w (%w)", ErrNoSetup, err)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNoSetup
	}
	return err
}

// StatementError is what the server said to a statement of a branch.
type StatementError struct{ err error }

func (e *StatementError) Error() string { return e.err.Error() }

func (e *StatementError) Unwrap() error { return e.err }

// SQLState is that of the function SQLState: the way in which the errors of other databases tell
// theirs.
func (e *StatementError) SQLState() string { return SQLState(e.err) }

// Explain makes what the server said to a statement of a branch a StatementError, with what to do
// about it where the server's own words do not tell. Other errors stay as they are.
func Explain(err error) error {
	if _, done := errors.AsType[*StatementError](err); done {
		return err
	}
	switch Number(err) {
	case 0:
		return err
	case numWrongState:
		err = fmt.Errorf("%w (%w)", ErrCommits, err)
	}
	return &StatementError{err}
}

// reasonOfFailed says why a branch of which a statement has failed is not prepared.
func reasonOfFailed(err error) string {
	switch Number(err) {
	case numRollbackDead, numDeadlock, numRollbackTime, numLockTimeout, numTooMany, numDiskFull,
		numTableFull, numMemory, numTooManyLocks:
		return reasonOf(err)
	case numWrongState:
		return Explain(err).Error()
	}
	return "a statement of the branch had failed and its error was ignored, so the branch was " +
		"rolled back; check every statement's error: " + err.Error()
}

// reasonOf says in one sentence what an error in a branch means and what to do about it.
func reasonOf(err error) string {
	switch Number(err) {
	case numDuplicate:
		return "a branch of this name was prepared before, so this one was rolled back; a branch " +
			"can be prepared only once"
	case numNoTable, numNoDatabase, numNotAllowed, numDenied:
		return "the tables of the database gavel are missing, or this account may not use them, " +
			"so the branch was rolled back; run the statements of the set-up, and its grants"
	case numOption:
		return "the server is read-only, as a replica is; point the address at the primary"
	case numTooMany:
		return "the server has no room for another transaction; finish old ones and try again"
	case numReadOnly:
		return "the branch was begun as one that only reads, and cannot be prepared"
	case numDiskFull, numTableFull:
		return "the server has no room on its disk, so the branch was rolled back; make room, " +
			"then try again"
	case numMemory, numTooManyLocks:
		return "the server has no memory left for the branch, which was rolled back; make it " +
			"smaller, or give the server more"
	case numRollbackDead, numDeadlock:
		return "a deadlock has rolled the branch back; try again"
	case numRollbackTime, numLockTimeout:
		return "a lock was not to be had in time, so the branch was rolled back; try again"
	case numRollback:
		return "the server has rolled the branch back; look for the error of an earlier statement"
	case numWrongState:
		return "the session's branch is not in a state to be prepared; leave XA statements to " +
			"this package"
	}
	return err.Error()
}

// Discard closes a connection for good instead of giving it back to its pool.
func Discard(conn *sql.Conn) {
	// The error is the one that was asked for: it makes the pool close the connection.
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
	_ = conn.Close()
}

// exec runs a statement without an answer.
func exec(ctx context.Context, conn *sql.Conn, statement string) error {
	_, err := conn.ExecContext(ctx, statement)
	return err
}

package pgbranch

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATEs that decisions depend upon.
const (
	codeUndefinedObject  = "42704" // no prepared transaction of this name
	codeDuplicateObject  = "42710" // the name is taken
	codeNotInState       = "55000" // busy, or prepared transactions are switched off
	codeNoPrivilege      = "42501" // not the owner
	codeNotSupported     = "0A000" // another database's, or a transaction that cannot be prepared
	codeOutOfMemory      = "53200" // no prepared slot is free
	codeInvalidParameter = "22023" // a transaction number from the future
	codeInvalidText      = "22P02" // our identity guard
	codeFailedTx         = "25P02"
	codeUniqueViolation  = "23505" // there is a marker already
	codeDivisionByZero   = "22012" // our timeline guard
	codeUndefinedTable   = "42P01" // no markers are set up
	codeInvalidSchema    = "3F000" // as before
	codeNoStatement      = "26000" // the server has forgotten a prepared statement
	codeLockTimeout      = "55P03" // somebody is just writing the marker
	codeDeadlock         = "40P01"
)

// ErrBusy is returned when the connection is in the middle of another query, for example of rows
// that were not closed. Nothing was sent.
var ErrBusy = errors.New("pgbranch: the connection is still busy with another query")

// ErrNoTransaction is in the verdict of a Prepare on a connection without an open transaction.
var ErrNoTransaction = errors.New("pgbranch: no transaction is open on the connection")

// ErrIdentity is in the verdict of a Prepare that met another database than the expected one.
// Nothing was prepared.
var ErrIdentity = errors.New("pgbranch: this is not the registered database")

// ErrNotReplicated is returned when a server took something back that it had promised about its
// synchronous standby: the work is durable here, and a failover may lose it.
var ErrNotReplicated = errors.New(
	"pgbranch: durable here, but perhaps not at the synchronous standby",
)

// ErrProtocol is returned when a server's answer does not have the form that PostgreSQL gives it.
var ErrProtocol = errors.New("pgbranch: unexpected answer from the server")

// ErrNoMarkers is returned where a marker cannot be read or written, because none are set up in the
// database, or not for the session's role. `gavel markers` prints what sets them up. Nothing was
// done.
var ErrNoMarkers = errors.New("pgbranch: no markers are set up in this database for this role " +
	"(see gavel markers)")

// ErrTimeline is in the verdict of a Decide on a server whose timeline is not the expected one.
var ErrTimeline = errors.New("pgbranch: the server is on another timeline than expected")

// ErrDecided is in the verdict of a Decide that met a marker: the transaction was decided before,
// and not by this session. It has ended without effect.
var ErrDecided = errors.New("pgbranch: the transaction was decided before")

var errClosed = errors.New("the connection is closed")

// TransportError says that a connection could not be used to its end. The connection is closed,
// except where nothing was sent.
type TransportError struct {
	// Sent says whether anything may have reached the server. If so, its effect is unknown.
	Sent bool
	Err  error
}

// Error says whether the statement can have had an effect.
func (e *TransportError) Error() string {
	if !e.Sent {
		return fmt.Sprintf("pgbranch: nothing was sent: %v", e.Err)
	}
	return fmt.Sprintf("pgbranch: the connection was lost, effect unknown: %v", e.Err)
}

func (e *TransportError) Unwrap() error { return e.Err }

// Class is what an error means for the statement that it answers.
type Class uint8

const (
	// ClassUnknown: the statement may or may not have had its effect. Ask the database.
	ClassUnknown Class = iota
	// ClassRetryable: it had no effect, and the same work may succeed when it is done again.
	ClassRetryable
	// ClassFinal: it had no effect, and will not have one before something is changed.
	ClassFinal
)

// String is the word for the class in messages.
func (c Class) String() string { return [...]string{"unknown", "retryable", "final"}[c] }

// Classify tells what err, from a statement at PostgreSQL, means for its effect. The order of the
// questions matters: severity FATAL and broken connections come first, because a server that is
// shutting down or was told to end a session uses many codes for it, new versions add more, and
// each of them may hit a session whose work was done already.
func Classify(err error) Class {
	if lost, ok := errors.AsType[*TransportError](err); ok {
		if lost.Sent {
			return ClassUnknown
		}
		return ClassRetryable
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		if fatal(pg) {
			return ClassUnknown
		}
		return classOf(pg.Code)
	}
	// pgconn.SafeToRetry is not asked: pgx 5.12 calls a query unsent whose answer was cut off.
	if _, refused := errors.AsType[*pgconn.ConnectError](err); refused || errors.Is(err, ErrBusy) {
		return ClassRetryable
	}
	return ClassUnknown
}

// fatal goes by the unlocalised severity: the other one is in the server's language.
func fatal(e *pgconn.PgError) bool {
	return e.SeverityUnlocalized == "FATAL" || e.SeverityUnlocalized == "PANIC"
}

// classOf classifies an ERROR, which always means that the statement had no effect.
func classOf(code string) Class {
	switch code {
	case "40001", codeDeadlock, // serialization failure, deadlock
		codeLockTimeout,
		codeNotInState, // the prepared transaction is busy
		"57014":        // cancelled
		return ClassRetryable
	}
	if len(code) == 5 && code[:2] == "53" { // out of disk, memory, connections, prepared slots
		return ClassRetryable
	}
	return ClassFinal
}

// SQLState is the code of the PostgreSQL error in err's chain, or "".
func SQLState(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}

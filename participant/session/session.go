package session

import (
	"context"
	"fmt"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// Limits of what a client may ask for.
const (
	// MaxSQLLen bounds a statement, in bytes.
	MaxSQLLen = 64 << 10
	// MaxArgs bounds the parameters of a statement.
	MaxArgs = 256
	// MaxRowLen bounds one row of a result, in bytes. A statement that returns a longer one fails.
	MaxRowLen = 1 << 20
	// BatchRows and BatchLen are when a [Sink] gets what has gathered: so many rows, or bytes.
	BatchRows, BatchLen = 128, 32 << 10
)

// Isolation is what a session sees of others.
type Isolation uint8

// The isolation levels.
const (
	DefaultIsolation Isolation = iota
	ReadCommitted
	RepeatableRead
	Serializable
)

// Options say how a branch begins.
type Options struct {
	Isolation Isolation
	// ReadOnly makes the database refuse writes.
	ReadOnly bool
}

// Attachment begins a branch.
type Attachment struct {
	// Name is the branch's prepared name, as its coordinator gave it.
	Name txn.Name
	// Epoch is the coordinator's, if the caller knows it. Of an older one than is known here the
	// branch is not prepared.
	Epoch txn.Epoch
	Options
}

// Statement is one statement. Its parameters are nil, bool, int64, float64, string or []byte.
type Statement struct {
	SQL  string
	Args []any
	// Expect, if not nil, is how many rows it must affect, or return.
	Expect *int64
}

// Validate names the limit that a statement is beyond. Nothing was sent then.
func (s Statement) Validate() error {
	switch {
	case len(s.SQL) > MaxSQLLen:
		return txn.Refusef(txn.ReasonInvalid, "sql", "it has %d bytes, at most %d are allowed",
			len(s.SQL), MaxSQLLen)
	case len(s.Args) > MaxArgs:
		return txn.Refusef(txn.ReasonInvalid, "args",
			"it has %d parameters, at most %d are allowed", len(s.Args), MaxArgs)
	case s.Expect != nil && *s.Expect < 0:
		return txn.Refusef(txn.ReasonInvalid, "expect_rows", "%d rows are expected", *s.Expect)
	}
	return nil
}

// Result is what a statement did.
type Result struct {
	// Rows is how many rows it changed or, if Read, returned.
	Rows int64
	// Read says that it changes none by its nature.
	Read bool
}

// Sink takes rows of the running statement, whose values are of the kinds of [Statement]. columns
// are set in the first call, which also comes for a statement that returns no rows but could. The
// slices are the Sink's. While it does not return nothing more is read from the database. Its error
// fails the statement.
type Sink func(columns []string, rows [][]any) error

// Error is a statement that failed. Its branch is rolled back.
type Error struct {
	// Reason says what happened, as the rest of a sentence: "the statement …".
	Reason string
	// SQLState is the database's code, if it gave one.
	SQLState string
	Err      error
}

func (e *Error) Error() string { return "the statement " + e.Reason }

// Unwrap is the cause, where there is one.
func (e *Error) Unwrap() error { return e.Err }

// Failed makes the error about a statement from that of the database.
func Failed(err error, reason, sqlState string) *Error {
	return &Error{Reason: "failed: " + reason, SQLState: sqlState, Err: err}
}

// Runner attaches branches: a [Keeper] of this process, or the client of a participant.
type Runner interface {
	// Attach begins a session for a branch, which the caller must end with Close. The context
	// bounds the attachment alone. A *txn.Refusal says why not.
	Attach(ctx context.Context, a Attachment) (Branch, error)
}

// Branch is one attached branch. It serves one goroutine at a time.
type Branch interface {
	// Identity is that of the database.
	Identity() txn.Identity
	// Execute runs a statement. sink may be nil, and rows are dropped then. After an error, which
	// is an *Error where the statement is to blame, the branch is rolled back. The end of the
	// context is such an error. A *txn.Refusal with txn.ReasonClosed is none: the branch was
	// finished, or is prepared, and its outcome is the coordinator's. Execute does not wait for a
	// sink once the branch has to end, or the context has ended.
	Execute(ctx context.Context, s Statement, sink Sink) (Result, error)
	// Finish says that there are no more statements: the branch waits for its coordinator. An error
	// says that it was rolled back meanwhile, and why. Once Done is closed it may be called while
	// another call is under way.
	Finish() error
	// Done is closed when the branch has ended here: it was prepared, or rolled back.
	Done() <-chan struct{}
	// Close lets go of the branch. One that is not finished is rolled back, unless it has been
	// prepared. It does not wait, and may be called again.
	Close()
}

// Database opens sessions.
type Database interface {
	// Open begins a branch under name. An error says that nothing has begun.
	Open(ctx context.Context, name txn.Name, o Options) (Conn, error)
	// Checks are findings about whether sessions could be opened and prepared.
	Checks(ctx context.Context) []participant.Check
	// Close waits until the connections are gone. No Conn is in use any more.
	Close() error
}

// Conn is a session with a branch open in it. It is used by one goroutine at a time, and belongs to
// the Database again after Prepare or Rollback, either of which is called once.
type Conn interface {
	// Identity is that of the database.
	Identity() txn.Identity
	// Run runs one statement, and nothing that ends the transaction. After an error, an *Error
	// where the statement is to blame, or a panic, only Rollback is called. The end of ctx ends the
	// statement, and makes a sink that still takes rows return.
	Run(ctx context.Context, s Statement, sink Sink) (Result, error)
	// Prepare votes as participant.Resource says. An Unknown means that the branch may be prepared.
	Prepare(ctx context.Context) participant.Vote
	// Rollback ends the branch without effect. When it returns the branch certainly has none, and
	// never will.
	Rollback(ctx context.Context)
}

// count holds a result against the rows that are expected.
func count(s Statement, r Result) error {
	if s.Expect == nil || r.Rows == *s.Expect {
		return nil
	}
	did := "changed"
	if r.Read {
		did = "returned"
	}
	return &Error{Reason: fmt.Sprintf("%s %d rows, expected %d", did, r.Rows, *s.Expect)}
}

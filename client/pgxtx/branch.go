package pgxtx

import (
	"context"
	"errors"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/internal/onpg"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

// branch is one transaction's part at one database. A connection of pgx serves one goroutine at a
// time and does not check that, so that every use goes through enter and leave:
//
//	idle ── enter ──▶ inside ── leave ──▶ idle
//	                    │ ▲
//	              pause │ │ resume          rows and batch results: open, between two calls of
//	                    ▼ │                 the application
//	                   open
//
// and close takes the connection away from the application, at any moment: it belongs to Prepare
// and Finish from then on, or, if a call is inside, to the one who leaves last.
type branch struct {
	db   *DB
	conn *pgxpool.Conn
	// begin is how it begins.
	begin  pgbranch.BeginOptions
	manner manner
	// queue waits for the next statement, or for the end. exactly: one of it must affect a certain
	// number of rows. They belong to whoever is inside, or has closed the branch.
	queue       []pgbranch.Work
	queuedBytes int
	exactly     bool
	// mark is known, and not zero, if the branch began with a write. It belongs to the same.
	mark pgbranch.Mark

	mu struct {
		sync.Mutex
		// tx is set when the branch has begun.
		tx           pgx.Tx
		inside, open bool
		// closed: the application has no say any more. orphaned: a call was inside at that moment.
		closed, orphaned bool
		// depth counts the savepoints that are open by way of Tx.
		depth int
		// wrote: something other than SELECT and SHOW was seen, or may have been.
		wrote bool
		// failure is why the branch can only roll back although the server does not know it.
		failure *failure
		// last is the last error that the server gave, but for its complaints about an earlier one.
		// It is told if the branch turns out to have failed.
		last *pgconn.PgError
	}
}

// failure is a statement that failed on this side of the wire, at a depth of savepoints. A rollback
// to a savepoint from before it undoes it, as it would undo an error of the server.
type failure struct {
	err   error
	depth int
}

// unknownStatement is the SQLSTATE of a prepared statement that the server has forgotten: somebody
// has said DEALLOCATE ALL or DISCARD ALL, and pgx does not know.
const unknownStatement = "26000"

// forgetConnection closes the connection, so that the pool makes another.
func (b *branch) forgetConnection(ctx context.Context) { _ = b.conn.Conn().Close(ctx) }

// failedTransaction is the SQLSTATE of a statement in a transaction that had failed before.
const failedTransaction = "25P02"

// unhealable is the depth of a failure that no savepoint undoes.
const unhealable = -1

func (b *branch) pg() *pgconn.PgConn { return b.conn.Conn().PgConn() }

// enter takes the connection for a statement. What is refused here was not sent, and counts as a
// statement that failed: half of the work of a function must not commit because the other half met
// a busy connection.
func (b *branch) enter(texts ...string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.closed {
		return client.ErrFinished
	}
	if b.mu.inside || b.mu.open {
		b.fail(ErrBusy)
		return ErrBusy
	}
	if f := b.mu.failure; f != nil && (f.err == ErrEnded || errors.Is(f.err, errNotBegun)) {
		// The session is outside of any transaction: the statement would commit by itself.
		return f.err
	}
	for _, sql := range texts {
		if err := checkText(sql); err != nil {
			b.fail(err)
			return err
		}
		if pgbranch.Several(sql) {
			// It may end the transaction and begin another, whose number is not the mark's.
			b.mu.wrote, b.mark = true, pgbranch.Mark{}
		}
	}
	b.mu.inside = true
	return nil
}

// use runs f, which works with the connection that enter or resume took. Code of the application
// may run within f, a Scan or the source of a copy, and panic: the connection is then of no use any
// more.
func (b *branch) use(f func()) {
	returned := false
	defer func() {
		if !returned {
			b.mu.Lock()
			b.mu.failure = &failure{errPanic, unhealable}
			b.mu.Unlock()
			b.letGo(true)
		}
	}()
	f()
	returned = true
}

// resume takes the connection for a call on open rows or batch results.
func (b *branch) resume() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.mu.closed:
		return client.ErrFinished
	case b.mu.inside:
		b.fail(ErrBusy)
		return ErrBusy
	}
	b.mu.inside = true
	return nil
}

// pause gives the connection up while rows or batch results stay open.
func (b *branch) pause() { b.letGo(true) }

// leave gives the connection up after a statement.
func (b *branch) leave(tag pgconn.CommandTag, err error) {
	b.note(tag, err)
	b.letGo(false)
}

func (b *branch) letGo(open bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.inside, b.mu.open = false, open
	if b.mu.orphaned {
		b.discard()
	}
}

// note remembers what a statement answered. The caller is inside.
func (b *branch) note(tag pgconn.CommandTag, err error) {
	status := b.pg().TxStatus()
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil || !(tag.Select() || tag.String() == "SHOW") {
		b.mu.wrote = true
	}
	pg, fromServer := errors.AsType[*pgconn.PgError](err)
	if fromServer && (b.mu.last == nil || pg.Code != failedTransaction) {
		b.mu.last = pg
	}
	switch {
	case b.pg().IsClosed(), b.mu.failure != nil && errors.Is(b.mu.failure.err, errNotBegun):
	case status == 'I' && !b.pg().IsBusy():
		// In the middle of a batch the status is that of before.
		b.mu.failure = &failure{ErrEnded, unhealable}
	case err != nil && (status == 'T' || status == 'I' && !fromServer):
		// The server knows of no error: the statement did not reach it.
		b.fail(err)
	}
}

// fail notes the first failure. The caller holds the lock.
func (b *branch) fail(err error) {
	if b.mu.failure == nil {
		b.mu.failure = &failure{err, b.mu.depth}
	}
}

// saved follows the savepoints: one more was made, at the depth that it returns.
func (b *branch) saved() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.depth++
	return b.mu.depth
}

// unsaved follows the end of the savepoint at level. What failed within it is undone by its
// rollback, and becomes part of its surroundings by its release.
func (b *branch) unsaved(level int, undone bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.depth = min(b.mu.depth, level-1)
	switch f := b.mu.failure; {
	case f == nil || f.depth < level:
	case undone:
		b.mu.failure = nil
	default:
		f.depth = level - 1
	}
}

// close takes the connection away from the application, and returns why the branch can only roll
// back. A call that is still inside keeps the connection until it returns, which it does soon,
// because its socket is closed under it; then it closes the connection.
func (b *branch) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	first := !b.mu.closed
	b.mu.closed = true
	switch {
	case b.mu.inside && first:
		b.mu.orphaned = true
		_ = b.pg().Conn().Close()
		return errStraggler
	case b.mu.orphaned:
		return errStraggler
	case b.pg().IsClosed():
		return errSession
	case b.mu.open:
		return errOpenRows
	case b.mu.failure != nil:
		return b.mu.failure.err
	case b.mu.tx == nil:
		return nil
	case b.pg().TxStatus() != 'T':
		return errSwallowed
	}
	return nil
}

// discard closes a connection whose state is not worth a round trip. The caller holds the lock.
func (b *branch) discard() {
	if b.conn != nil {
		_ = b.pg().Conn().Close()
		b.conn.Release()
		b.conn = nil
	}
}

// release gives the connection back. The pool keeps it only if it is idle outside of any
// transaction, and otherwise closes it.
func (b *branch) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn != nil && !b.mu.orphaned {
		b.conn.Release()
		b.conn = nil
	}
}

// Review implements client.Branch.
func (b *branch) Review(ctx context.Context) client.Review {
	if err := b.close(); err != nil {
		e := b.explain(err)
		return client.Review{
			Finding: client.FoundFailed, Reason: e.Reason, SQLState: e.SQLState, Err: e.Err,
		}
	}
	if b.wrote() {
		return client.Review{Finding: client.FoundWriter, Unsure: b.exactly}
	}
	if b.pgxTx() == nil {
		return client.Review{Finding: client.FoundReader}
	}
	reader, err := pgbranch.Reader(ctx, b.pg())
	switch {
	case err != nil:
		return client.Review{
			Finding: client.FoundFailed, SQLState: pgbranch.SQLState(err), Err: err,
			Reason: "the session was lost while it was asked whether it wrote",
		}
	case reader:
		return client.Review{Finding: client.FoundReader}
	}
	return client.Review{Finding: client.FoundWriter}
}

func (b *branch) wrote() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.wrote
}

// explain is the ending of a branch that can only roll back because of err, with the error of the
// server that the application ignored, if it was one.
func (b *branch) explain(err error) client.Ending {
	e := client.Ending{Standing: txn.StandingRolledBack, Err: err, Reason: err.Error()}
	b.mu.Lock()
	last := b.mu.last
	b.mu.Unlock()
	if last != nil && (errors.Is(err, errSwallowed) || errors.Is(err, errSession)) {
		e.Err, e.SQLState = errors.Join(err, last), last.Code
		e.Reason += ": " + last.Message
	}
	if e.SQLState == "" {
		e.SQLState = pgbranch.SQLState(err)
	}
	return e
}

// Prepare implements client.Branch.
func (b *branch) Prepare(ctx context.Context, name txn.Name) client.Ending {
	return b.vote(ctx, func(how pgbranch.PrepareOptions) pgbranch.Verdict {
		return pgbranch.Prepare(ctx, b.pg(), name, how)
	})
}

// vote ends the branch by one message that also has it do what is queued, and lets go of the
// connection.
func (b *branch) vote(
	ctx context.Context, send func(pgbranch.PrepareOptions) pgbranch.Verdict,
) client.Ending {
	if err := b.close(); err != nil {
		b.rollBack(ctx)
		return b.explain(err)
	}
	how := b.db.prepare
	how.Ready, how.Work = b.manner.ready, b.queue
	if b.pgxTx() == nil {
		how.Begin = &b.begin
	}
	v := send(how)
	lost, ok := errors.AsType[*pgbranch.TransportError](v.Err)
	if v.Vote == txn.VoteUnknown && ok && !lost.Sent {
		// Nothing was sent, so that nothing is prepared or committed, and ends here without effect.
		v.Vote = txn.VoteNo
		b.rollBack(ctx)
	}
	if v.SQLState == unknownStatement || len(b.queue) > 0 && stale(v.SQLState) {
		b.forgetConnection(ctx)
	}
	b.release()
	return onpg.Ending(v)
}

// Finish implements client.Branch.
func (b *branch) Finish(ctx context.Context, commit bool) client.Ending {
	err := b.close()
	switch {
	case err == nil && commit && b.pgxTx() == nil && len(b.queue) == 0:
		// Nothing was ever sent.
		b.release()
		return client.Ending{Standing: txn.StandingCommitted}
	case err == nil && commit:
		if err = b.flush(ctx); err == nil {
			return b.commit(ctx)
		}
	}
	b.rollBack(ctx)
	if err != nil {
		return b.explain(err)
	}
	return client.Ending{Standing: txn.StandingRolledBack}
}

// rollBack ends the branch without effect, and lets go of the connection. One that cannot be used
// for a ROLLBACK is closed, and its server does the same on its own.
func (b *branch) rollBack(ctx context.Context) {
	b.mu.Lock()
	tx, conn, usable := b.mu.tx, b.conn, b.conn != nil && !b.mu.orphaned && !b.mu.open
	b.mu.Unlock()
	running := usable && !conn.Conn().IsClosed() && conn.Conn().PgConn().TxStatus() != 'I'
	if running && tx != nil {
		_ = tx.Rollback(ctx)
	}
	b.mu.Lock()
	// A BEGIN that took effect only in part has left a transaction that pgx knows nothing of.
	if (b.mu.open || running && tx == nil) && !b.mu.orphaned {
		b.discard()
	}
	b.mu.Unlock()
	b.release()
}

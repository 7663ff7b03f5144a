package sqltx

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

// branch is one transaction's part at one database: a connection that is taken out of the pool for
// it. Statements go through run, one at a time; close takes the connection away from the
// application, at any moment, and it belongs to Prepare and Finish from then on, or, if a statement
// is inside, to that until it returns.
type branch struct {
	db      *DB
	conn    *sql.Conn
	session session

	mu struct {
		sync.Mutex
		inside bool
		// closed: the application has no say any more. orphaned: a statement was inside then.
		// openRows: rows were open. lost: a panic broke off a query.
		closed, orphaned, openRows, lost bool
		// ends end the contexts of the queries, and with them their rows. shared are those of them
		// whose context may be asked for again.
		ends   []context.CancelFunc
		shared map[context.Context]context.Context
		// wrote: something other than SELECT and its like was sent.
		wrote bool
		// failure is why the branch can only roll back although the session does not know it.
		failure error
	}
}

// The reasons for which a branch can only roll back, beside a statement that failed.
var (
	errStraggler = errors.New("sqltx: a statement was still running when the function of InTx " +
		"returned")
	errOpenRows = errors.New("sqltx: rows were still open when the function of InTx returned; " +
		"close them")
	errSwallowed = errors.New("sqltx: a statement failed and its error was ignored")
	errSession   = errors.New("sqltx: the session was lost")
	errPanic     = errors.New("sqltx: a panic broke off the use of the connection")
)

// open takes a connection of the pool and begins a branch on it.
func (db *DB) open(ctx context.Context, o client.OpenOptions) (client.Branch, error) {
	asked := opening{OpenOptions: o}
	var err error
	if db.dialect.named() {
		asked.name, err = client.NameFrom(ctx, db.resource)
	}
	if err != nil {
		return nil, fmt.Errorf("sqltx: %s: begin a branch: %w", db.resource, err)
	}
	b := &branch{db: db}
	if b.conn, err = db.pool.Conn(ctx); err != nil {
		return nil, fmt.Errorf("sqltx: %s: get a connection: %w", db.resource, err)
	}
	if b.session, err = db.dialect.begin(ctx, db, b.conn, asked); err != nil {
		b.discard()
		return nil, fmt.Errorf("sqltx: %s: %w", db.resource, err)
	}
	return b, nil
}

// within is ctx until the branch is released. database/sql closes rows when their context ends, and
// lets nobody have their connection before.
func (b *branch) within(ctx context.Context) context.Context {
	b.mu.Lock()
	defer b.mu.Unlock()
	comparable := reflect.ValueOf(ctx).Comparable()
	if comparable && b.mu.shared[ctx] != nil {
		return b.mu.shared[ctx]
	}
	inner, end := context.WithCancel(ctx)
	b.mu.ends = append(b.mu.ends, end)
	if comparable {
		if b.mu.shared == nil {
			b.mu.shared = map[context.Context]context.Context{}
		}
		b.mu.shared[ctx] = inner
	}
	return inner
}

// patience is how long a branch waits for a read of rows, by a goroutine that its function forgot.
const patience = time.Second

// run does one statement. What is refused here was not sent, and counts as a statement that failed:
// half of the work of a function must not commit because the other half met a busy connection.
func (b *branch) run(text string, rows bool, send func() error) (err error) {
	if err := b.enter(text); err != nil {
		return err
	}
	returned := false
	defer func() {
		if !returned {
			// The application's own code may run within a statement, as its driver.Valuer does.
			err = errPanic
			b.note(errPanic)
			b.mu.Lock()
			b.mu.lost = b.mu.lost || rows
			b.mu.Unlock()
		}
		b.leave()
	}()
	err = send()
	returned = true
	b.note(err)
	return err
}

func (b *branch) enter(text string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.mu.closed:
		return client.ErrFinished
	case b.mu.failure == ErrEnded:
		// The session is outside of any transaction: the statement would commit by itself.
		return ErrEnded
	case b.mu.inside, b.session.look().busy:
		b.fail(ErrBusy)
		return ErrBusy
	}
	if word := b.db.dialect.controls(text); word != "" {
		err := fmt.Errorf("%w: %s was not sent", ErrControl, word)
		b.fail(err)
		return err
	}
	b.mu.wrote = b.mu.wrote || !reads(text)
	b.mu.inside = true
	return nil
}

// reads says whether a text is one statement of a kind that can leave its branch a reader.
func reads(text string) bool {
	switch first, _ := pgbranch.FirstWord(text); first {
	case "SELECT", "SHOW", "VALUES", "TABLE", "WITH":
		return !pgbranch.Several(text)
	}
	return false
}

// note remembers how a statement went. The caller is inside.
func (b *branch) note(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.session.note(err)
	switch s := b.session.look(); {
	case s.closed:
	case s.tx == txIdle && !s.busy:
		b.mu.failure = ErrEnded
	case err != nil && (s.tx == txOpen || err == errPanic):
		// The session knows of no error: the statement did not reach the server.
		b.fail(err)
	}
}

func (b *branch) leave() {
	b.mu.Lock()
	b.mu.inside = false
	orphaned := b.mu.orphaned
	b.mu.Unlock()
	if orphaned {
		b.release()
	}
}

// fail notes the first failure. The caller holds the lock.
func (b *branch) fail(err error) {
	if b.mu.failure == nil {
		b.mu.failure = err
	}
}

// close takes the connection away from the application, and returns why the branch can only roll
// back. A statement that is still inside keeps the connection until it returns, which it does soon,
// because its connection is cut under it.
func (b *branch) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	first := !b.mu.closed
	b.mu.closed = true
	switch {
	case b.mu.inside && first:
		b.mu.orphaned = true
		b.session.cut()
		return errStraggler
	case b.mu.orphaned:
		return errStraggler
	case b.mu.openRows:
		return errOpenRows
	}
	switch s := b.session.look(); {
	case s.closed:
		return errSession
	case s.busy:
		b.mu.openRows = true
		return errOpenRows
	case b.mu.failure != nil:
		return b.mu.failure
	case s.tx != txOpen:
		return errSwallowed
	}
	return nil
}

// release gives the connection back, once it is known how the branch ended. The pool keeps it only
// if it is idle outside of any transaction.
//
// With rows open, even such as have nothing more to read, database/sql waits for them: they are
// closed by the end of their context. It would wait for ever where a panic has broken off a query:
// its own lock stays locked then, and the pool has lost a connection.
func (b *branch) release() {
	b.mu.Lock()
	ends, cut, gone := b.mu.ends, b.mu.openRows || b.mu.orphaned, b.mu.lost
	b.mu.ends, b.mu.shared = nil, nil
	b.mu.Unlock()
	defer b.session.free()
	giveBack := b.discard
	if cut || gone {
		b.session.cut()
	} else if s := b.session.look(); !s.closed && s.tx == txIdle {
		giveBack = func() { _ = b.conn.Close() }
	}
	for _, end := range ends {
		end()
	}
	switch {
	case gone:
		return
	case len(ends) == 0:
		giveBack()
		return
	}
	given := make(chan struct{})
	go func() {
		defer close(given)
		giveBack()
	}()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-given:
	case <-late.C:
		// Somebody is at the rows at this moment, and finds them closed when he comes back.
		b.session.cut()
	}
}

// discard closes the connection instead of giving it back to its pool.
func (b *branch) discard() {
	// The error is the one that was asked for: it makes the pool close the connection.
	_ = b.conn.Raw(func(any) error { return driver.ErrBadConn })
	_ = b.conn.Close()
}

// Review implements client.Branch.
func (b *branch) Review(ctx context.Context) client.Review {
	if err := b.close(); err != nil {
		e := b.explain(err)
		return client.Review{
			Finding: client.FoundFailed, Reason: e.Reason, SQLState: e.SQLState, Err: e.Err,
		}
	}
	reader, err := b.session.reader(ctx, b.wrote())
	switch {
	case err != nil:
		e := b.explain(err)
		return client.Review{
			Finding: client.FoundFailed, SQLState: e.SQLState, Err: err,
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

// explain is the ending of a branch that can only roll back because of err.
func (b *branch) explain(err error) client.Ending {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.session.explain(err)
}

// Prepare implements client.Branch.
func (b *branch) Prepare(ctx context.Context, name txn.Name) client.Ending {
	if err := b.close(); err != nil {
		b.rollBack(ctx)
		return b.explain(err)
	}
	e := b.session.prepare(ctx, name)
	b.release()
	return e
}

// Finish implements client.Branch.
func (b *branch) Finish(ctx context.Context, commit bool) client.Ending {
	err := b.close()
	if err == nil && commit {
		e := b.session.commit(ctx, b.wrote())
		b.release()
		if e.Standing == txn.StandingUnknown {
			e = b.session.ask(ctx, e)
		}
		return e
	}
	b.rollBack(ctx)
	if err != nil {
		return b.explain(err)
	}
	return client.Ending{Standing: txn.StandingRolledBack}
}

// rollBack ends the branch without effect, and lets go of the connection.
func (b *branch) rollBack(ctx context.Context) {
	b.mu.Lock()
	orphaned, openRows := b.mu.orphaned, b.mu.openRows
	b.mu.Unlock()
	if orphaned {
		// Whoever is inside lets go of it.
		return
	}
	if !openRows {
		b.session.rollBack(ctx)
	}
	b.release()
}

package sqltx

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"reflect"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/internal/onpg"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

// branch is one transaction's part at one database: a connection that is taken out of the pool for
// it. Statements go through run, one at a time; close takes the connection away from the
// application, at any moment, and it belongs to Prepare and Finish from then on, or, if a statement
// is inside, to that until it returns.
type branch struct {
	db   *DB
	conn *sql.Conn
	// socket may be closed under whoever uses the connection.
	socket net.Conn

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
		// failure is why the branch can only roll back although the server does not know it.
		failure error
		// last is the last error that the server gave, but for its complaints about an earlier one.
		last *pgconn.PgError
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
	errDriver    = errors.New("sqltx: the pool's driver is not github.com/jackc/pgx/v5/stdlib, " +
		"whose sessions alone can be prepared")
)

// failedTransaction is the SQLSTATE of a statement in a transaction that had failed before.
const failedTransaction = "25P02"

// open takes a connection of the pool and begins a branch on it.
func (db *DB) open(ctx context.Context, o client.OpenOptions) (client.Branch, error) {
	conn, err := db.pool.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("sqltx: %s: get a connection: %w", db.resource, err)
	}
	b := &branch{db: db, conn: conn}
	err = lend(conn, func(pg *pgconn.PgConn) error {
		b.socket = pg.Conn()
		return pgbranch.Begin(ctx, pg, pgbranch.BeginOptions{
			Isolation: pgbranch.Isolation(o.Level), ReadOnly: o.ReadOnly,
			IdleTimeout: o.IdleTimeout, ID: o.ID,
		})
	})
	if err != nil {
		b.release()
		return nil, fmt.Errorf("sqltx: %s: %w", db.resource, err)
	}
	return b, nil
}

// lend calls f with the connection below a *sql.Conn.
func lend(conn *sql.Conn, f func(*pgconn.PgConn) error) error {
	return conn.Raw(func(driverConn any) error {
		c, ok := driverConn.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("%w: it is %T", errDriver, driverConn)
		}
		return f(c.Conn().PgConn())
	})
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

// state is how the session stands.
type state struct {
	closed, busy bool
	// tx is 'I' outside of a transaction, 'T' within, and 'E' within a failed one.
	tx byte
}

// look waits for whoever reads rows at this moment, but not for ever: then it closes the socket.
func (b *branch) look() state {
	late := time.AfterFunc(patience, func() { _ = b.socket.Close() })
	defer late.Stop()
	s := state{closed: true}
	_ = lend(b.conn, func(pg *pgconn.PgConn) error {
		s = state{pg.IsClosed(), pg.IsBusy(), pg.TxStatus()}
		return nil
	})
	return s
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
	case b.mu.inside, b.look().busy:
		b.fail(ErrBusy)
		return ErrBusy
	}
	if word := onpg.Controls(text); word != "" {
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
	switch first, _ := onpg.FirstWord(text); first {
	case "SELECT", "SHOW", "VALUES", "TABLE", "WITH":
		return !onpg.Several(text)
	}
	return false
}

// note remembers how a statement went. The caller is inside.
func (b *branch) note(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	pg, fromServer := errors.AsType[*pgconn.PgError](err)
	if fromServer && (b.mu.last == nil || pg.Code != failedTransaction) {
		b.mu.last = pg
	}
	switch s := b.look(); {
	case s.closed:
	case s.tx == 'I' && !s.busy:
		b.mu.failure = ErrEnded
	case err != nil && (s.tx == 'T' || err == errPanic):
		// The server knows of no error: the statement did not reach it.
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
// because its socket is closed under it.
func (b *branch) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	first := !b.mu.closed
	b.mu.closed = true
	switch {
	case b.mu.inside && first:
		b.mu.orphaned = true
		_ = b.socket.Close()
		return errStraggler
	case b.mu.orphaned:
		return errStraggler
	case b.mu.openRows:
		return errOpenRows
	}
	switch s := b.look(); {
	case s.closed:
		return errSession
	case s.busy:
		b.mu.openRows = true
		return errOpenRows
	case b.mu.failure != nil:
		return b.mu.failure
	case s.tx != 'T':
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
	if cut || gone {
		_ = b.socket.Close()
	} else {
		_ = b.conn.Raw(func(driverConn any) error {
			c, ok := driverConn.(*stdlib.Conn)
			if ok && c.Conn().PgConn().TxStatus() == 'I' {
				return nil
			}
			return driver.ErrBadConn
		})
	}
	for _, end := range ends {
		end()
	}
	switch {
	case gone:
		return
	case len(ends) == 0:
		_ = b.conn.Close()
		return
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_ = b.conn.Close()
	}()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-closed:
	case <-late.C:
		// Somebody is at the rows at this moment, and finds them closed when he comes back.
		_ = b.socket.Close()
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
		return client.Review{Finding: client.FoundWriter}
	}
	reader := false
	err := lend(b.conn, func(pg *pgconn.PgConn) (err error) {
		reader, err = onpg.Reader(ctx, pg)
		return err
	})
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
	b.mu.Lock()
	last := b.mu.last
	b.mu.Unlock()
	e := onpg.RolledBack(err, err.Error())
	if last != nil && (errors.Is(err, errSwallowed) || errors.Is(err, errSession)) {
		e.Err, e.SQLState = errors.Join(err, last), last.Code
		e.Reason += ": " + last.Message
	}
	return e
}

// Prepare implements client.Branch.
func (b *branch) Prepare(ctx context.Context, name txn.Name) client.Ending {
	if err := b.close(); err != nil {
		b.rollBack(ctx)
		return b.explain(err)
	}
	var v pgbranch.Verdict
	err := lend(b.conn, func(pg *pgconn.PgConn) error {
		v = pgbranch.Prepare(ctx, pg, name, b.db.prepare)
		return nil
	})
	if err != nil {
		// Nothing was sent.
		b.rollBack(ctx)
		return onpg.RolledBack(err, "the session was lost before it was prepared")
	}
	lost, ok := errors.AsType[*pgbranch.TransportError](v.Err)
	if v.Vote == txn.VoteUnknown && ok && !lost.Sent {
		// Nothing was sent, so that nothing is prepared, and ends here without effect.
		v.Vote = txn.VoteNo
		b.rollBack(ctx)
		return onpg.Ending(v)
	}
	b.release()
	return onpg.Ending(v)
}

// Finish implements client.Branch.
func (b *branch) Finish(ctx context.Context, commit bool) client.Ending {
	err := b.close()
	if err == nil && commit {
		return b.commit(ctx)
	}
	b.rollBack(ctx)
	if err != nil {
		return b.explain(err)
	}
	return client.Ending{Standing: txn.StandingRolledBack}
}

// commit ends the branch by the database's own COMMIT, the one decision about it, in the manner of
// pgxtx: the number of a transaction that wrote is read before, because after a lost connection
// nobody could.
func (b *branch) commit(ctx context.Context) client.Ending {
	var mark pgbranch.Mark
	if b.wrote() {
		err := lend(b.conn, func(pg *pgconn.PgConn) (err error) {
			mark, err = pgbranch.MarkTransaction(ctx, pg, false)
			return err
		})
		if err != nil {
			b.rollBack(ctx)
			return onpg.RolledBack(err, "the session failed before COMMIT was sent")
		}
	}
	var tags []*pgconn.Result
	err := lend(b.conn, func(pg *pgconn.PgConn) (err error) {
		tags, err = pg.Exec(ctx, "commit").ReadAll()
		return err
	})
	_, fromServer := errors.AsType[*pgconn.PgError](err)
	switch {
	case err == nil && len(tags) == 1 && tags[0].CommandTag.String() == "COMMIT":
		b.release()
		return client.Ending{Standing: txn.StandingCommitted}
	case err == nil && len(tags) == 1 && tags[0].CommandTag.String() == "ROLLBACK":
		b.release()
		return b.explain(errSwallowed)
	case fromServer && pgbranch.Classify(err) != pgbranch.ClassUnknown:
		b.rollBack(ctx)
		return onpg.RolledBack(err, "")
	}
	b.release()
	return onpg.AskFor(ctx, b.db.lend, mark, err)
}

// lend calls f with a connection of the pool.
func (db *DB) lend(ctx context.Context, f func(*pgconn.PgConn) error) error {
	conn, err := db.pool.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return lend(conn, f)
}

// rollBack ends the branch without effect, and lets go of the connection. One that cannot be used
// for a ROLLBACK is closed, and its server does the same on its own.
func (b *branch) rollBack(ctx context.Context) {
	b.mu.Lock()
	orphaned, openRows := b.mu.orphaned, b.mu.openRows
	b.mu.Unlock()
	if orphaned {
		// Whoever is inside lets go of it.
		return
	}
	if !openRows {
		err := lend(b.conn, func(pg *pgconn.PgConn) (err error) {
			if !pg.IsClosed() && pg.TxStatus() != 'I' {
				_, err = pg.Exec(ctx, "rollback").ReadAll()
			}
			return err
		})
		if err != nil {
			_ = b.socket.Close()
		}
	}
	b.release()
}

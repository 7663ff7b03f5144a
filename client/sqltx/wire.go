package sqltx

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
)

// wire is a driver's connection that stands between database/sql and the connection of a branch,
// and hears all that goes over it: that rows are open, and what goes wrong while they are read or
// closed, of which an application need not tell.
//
// Every use of the connection below is one call of sql.Conn.Raw, so that rows which nobody closes
// do not keep it from its pool.
type wire struct {
	conn *sql.Conn
	// ctx ends what runs and the rows that are open.
	ctx  context.Context
	stop context.CancelFunc

	mu struct {
		sync.Mutex
		// open says that rows are, and failed is the first error of any.
		open   bool
		failed error
	}
}

func newWire(conn *sql.Conn) *wire {
	w := &wire{conn: conn}
	w.ctx, w.stop = context.WithCancel(context.Background())
	return w
}

// driverConn is what go-sql-driver's connection can do.
type driverConn interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.NamedValueChecker
	driver.Validator
}

// driverRows is what its rows can do.
type driverRows interface {
	driver.Rows
	driver.RowsNextResultSet
	driver.RowsColumnTypeDatabaseTypeName
	driver.RowsColumnTypeNullable
	driver.RowsColumnTypePrecisionScale
	driver.RowsColumnTypeScanType
}

// driverStmt is what its statements can do.
type driverStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
	driver.NamedValueChecker
}

// below calls f with the connection below. The errors of the server tell their SQLSTATE.
func (w *wire) below(f func(driverConn) error) error {
	return xabranch.Explain(w.conn.Raw(func(c any) error {
		conn, ok := c.(driverConn)
		if !ok {
			return fmt.Errorf("%w: its connection is %T", errNotMySQL, c)
		}
		return f(conn)
	}))
}

// standing says whether rows are open, and the first error that any had.
func (w *wire) standing() (open bool, failed error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.open, w.mu.failed
}

// alive says whether the connection has not been closed, as far as this side knows.
func (w *wire) alive() (alive bool) {
	_ = w.below(func(c driverConn) error {
		alive = c.IsValid()
		return nil
	})
	return alive
}

func (w *wire) setOpen(open bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.open = open
}

// hear notes an error of rows, and returns it.
func (w *wire) hear(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.failed == nil {
		w.mu.failed = err
	}
	return err
}

// until is ctx, until the wire is stopped. End must be called.
func (w *wire) until(ctx context.Context) (inner context.Context, end func()) {
	inner, cancel := context.WithCancel(ctx)
	forget := context.AfterFunc(w.ctx, cancel)
	return inner, func() {
		forget()
		cancel()
	}
}

// Close does nothing: the connection is the branch's.
func (w *wire) Close() error { return nil }

// Begin is refused: the branch's transaction is the one there is.
func (w *wire) Begin() (driver.Tx, error) { return nil, ErrControl }

// Prepare is that of PrepareContext.
func (w *wire) Prepare(query string) (driver.Stmt, error) {
	return w.PrepareContext(context.Background(), query)
}

// CheckNamedValue is the driver's.
func (w *wire) CheckNamedValue(v *driver.NamedValue) error {
	return w.below(func(c driverConn) error { return c.CheckNamedValue(v) })
}

// ExecContext is the driver's.
func (w *wire) ExecContext(
	ctx context.Context, query string, args []driver.NamedValue,
) (r driver.Result, err error) {
	ctx, end := w.until(ctx)
	defer end()
	err = w.below(func(c driverConn) (err error) {
		r, err = c.ExecContext(ctx, query, args)
		return err
	})
	return r, err
}

// QueryContext is the driver's.
func (w *wire) QueryContext(
	ctx context.Context, query string, args []driver.NamedValue,
) (driver.Rows, error) {
	return w.query(ctx, func(ctx context.Context, c driverConn) (driver.Rows, error) {
		return c.QueryContext(ctx, query, args)
	})
}

// PrepareContext is the driver's. database/sql calls it for a statement with arguments.
func (w *wire) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	ctx, end := w.until(ctx)
	defer end()
	var s driverStmt
	err := w.below(func(c driverConn) error {
		stmt, err := c.PrepareContext(ctx, query)
		if err != nil {
			return err
		}
		var ok bool
		if s, ok = stmt.(driverStmt); !ok {
			return errors.Join(fmt.Errorf("%w: its statement is %T", errNotMySQL, stmt),
				stmt.Close())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &wireStmt{driverStmt: s, wire: w}, nil
}

// wireStmt is a statement with arguments, for one use.
type wireStmt struct {
	driverStmt
	wire *wire
}

// CheckNamedValue is the driver's. It runs code of the application, whose panic ends the connection
// like this, and with it the branch.
func (s *wireStmt) CheckNamedValue(v *driver.NamedValue) error {
	return s.wire.below(func(driverConn) error { return s.driverStmt.CheckNamedValue(v) })
}

// Close is the driver's.
func (s *wireStmt) Close() error {
	return s.wire.below(func(driverConn) error { return s.driverStmt.Close() })
}

// ExecContext is the driver's.
func (s *wireStmt) ExecContext(
	ctx context.Context, args []driver.NamedValue,
) (r driver.Result, err error) {
	ctx, end := s.wire.until(ctx)
	defer end()
	err = s.wire.below(func(driverConn) (err error) {
		r, err = s.driverStmt.ExecContext(ctx, args)
		return err
	})
	return r, err
}

// QueryContext is the driver's.
func (s *wireStmt) QueryContext(
	ctx context.Context, args []driver.NamedValue,
) (driver.Rows, error) {
	return s.wire.query(ctx, func(ctx context.Context, _ driverConn) (driver.Rows, error) {
		return s.driverStmt.QueryContext(ctx, args)
	})
}

// query asks, and reads the first row: most errors come with it.
func (w *wire) query(
	ctx context.Context, ask func(context.Context, driverConn) (driver.Rows, error),
) (driver.Rows, error) {
	ctx, end := w.until(ctx)
	var rows driverRows
	err := w.below(func(c driverConn) error {
		r, err := ask(ctx, c)
		if err != nil {
			return err
		}
		var ok bool
		if rows, ok = r.(driverRows); !ok {
			return errors.Join(fmt.Errorf("%w: its rows are %T", errNotMySQL, r), r.Close())
		}
		return nil
	})
	if err != nil {
		end()
		return nil, err
	}
	w.setOpen(true)
	r := &wireRows{driverRows: rows, wire: w, ctx: ctx, end: end}
	if err := r.begin(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// wireRows are rows on their way to the application.
type wireRows struct {
	driverRows
	wire *wire
	// ctx is that of the query, and end lets go of it.
	ctx context.Context
	end func()
	// first is the first row, until it is asked for.
	first  []driver.Value
	closed bool
}

// begin reads the first row. Rows that have none, and no further result, are closed.
func (r *wireRows) begin() error {
	first := make([]driver.Value, len(r.Columns()))
	switch err := r.next(first); {
	case err == nil:
		r.first = first
	case err != io.EOF:
		return err
	case !r.driverRows.HasNextResultSet():
		return r.Close()
	}
	return nil
}

// Next is the driver's.
func (r *wireRows) Next(dest []driver.Value) error {
	if r.first != nil {
		copy(dest, r.first)
		r.first = nil
		return nil
	}
	if r.closed {
		return io.EOF
	}
	return r.next(dest)
}

func (r *wireRows) next(dest []driver.Value) error {
	return r.wire.hear(r.wire.below(func(driverConn) error { return r.driverRows.Next(dest) }))
}

// HasNextResultSet is the driver's.
func (r *wireRows) HasNextResultSet() bool { return !r.closed && r.driverRows.HasNextResultSet() }

// NextResultSet is the driver's.
func (r *wireRows) NextResultSet() error {
	if r.closed {
		return io.EOF
	}
	r.first = nil
	return r.wire.hear(r.wire.below(func(driverConn) error {
		return r.driverRows.NextResultSet()
	}))
}

// Close reads what is left, of which the server may still say that it failed. Where their context
// has ended nobody waits for that, and the connection is closed.
func (r *wireRows) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	err := r.wire.below(func(driverConn) error {
		if r.ctx.Err() != nil {
			return driver.ErrBadConn
		}
		return r.driverRows.Close()
	})
	r.end()
	r.wire.setOpen(false)
	return r.wire.hear(err)
}

package pgxtx

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// rows are pgx's rows that hold their branch's connection, each call for its own time, so that the
// end of the transaction can take it from a goroutine that was left behind.
type rows struct {
	pgx.Rows
	b *branch
	// inBatch: their end leaves the batch results open.
	inBatch bool
	// tail, if not nil, reads what comes behind them.
	tail  func()
	ended bool
	// err is ours; pgx's own stays in Rows.
	err error
}

// touch runs f while the rows hold the connection.
func (r *rows) touch(f func()) bool {
	if r.ended {
		return false
	}
	if err := r.b.resume(); err != nil {
		r.err = err
		return false
	}
	r.b.use(f)
	if r.ended && r.tail != nil {
		r.b.use(r.tail)
	}
	if r.ended {
		r.finish()
	} else {
		r.b.pause()
	}
	return true
}

func (r *rows) finish() {
	// An error of the server shows in its session, and is remembered for the report. An error of
	// Scan is not a statement that failed.
	_, fromServer := errors.AsType[*pgconn.PgError](r.Rows.Err())
	var err error
	if fromServer {
		err = r.Rows.Err()
	}
	if r.inBatch {
		r.b.note(r.Rows.CommandTag(), err)
		r.b.pause()
		return
	}
	r.b.leave(r.Rows.CommandTag(), err)
}

// Next is pgx's. Its false ends the rows.
func (r *rows) Next() bool {
	more := false
	r.touch(func() {
		more = r.Rows.Next()
		r.ended = !more
	})
	return more
}

// Scan is pgx's. An error ends the rows.
func (r *rows) Scan(dest ...any) error {
	var err error
	if !r.touch(func() {
		err = r.Rows.Scan(dest...)
		r.ended = err != nil
	}) {
		return r.unusable()
	}
	return err
}

// Values is pgx's. An error ends the rows.
func (r *rows) Values() (values []any, err error) {
	if !r.touch(func() {
		values, err = r.Rows.Values()
		r.ended = err != nil
	}) {
		return nil, r.unusable()
	}
	return values, err
}

// RawValues is pgx's. The bytes are valid until the next call, and not after the end of the
// transaction.
func (r *rows) RawValues() (values [][]byte) {
	r.touch(func() { values = r.Rows.RawValues() })
	return values
}

// Close is pgx's.
func (r *rows) Close() {
	r.touch(func() {
		r.Rows.Close()
		r.ended = true
	})
}

// Err is pgx's, or why the rows could not be read.
func (r *rows) Err() error {
	if r.err != nil {
		return r.err
	}
	return r.Rows.Err()
}

func (r *rows) unusable() error {
	if err := r.Err(); err != nil {
		return err
	}
	return errors.New("pgxtx: the rows are closed")
}

// row is the one row of a QueryRow.
type row struct{ pgx.Rows }

// Scan is pgx's.
func (r row) Scan(dest ...any) error {
	if err := r.Err(); err != nil {
		return err
	}
	defer r.Close()
	for _, d := range dest {
		if _, ok := d.(*pgtype.DriverBytes); ok {
			return fmt.Errorf("pgxtx: DriverBytes are gone when the Scan of QueryRow returns")
		}
	}
	if !r.Next() {
		if err := r.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.Rows.Scan(dest...); err != nil {
		return err
	}
	r.Close()
	return r.Err()
}

// noRows is the answer to a query that was not sent.
type noRows struct{ err error }

func (noRows) Close()                                       {}
func (r noRows) Err() error                                 { return r.err }
func (noRows) CommandTag() pgconn.CommandTag                { return pgconn.CommandTag{} }
func (noRows) FieldDescriptions() []pgconn.FieldDescription { return nil }
func (noRows) Next() bool                                   { return false }
func (r noRows) Scan(...any) error                          { return r.err }
func (r noRows) Values() ([]any, error)                     { return nil, r.err }
func (noRows) RawValues() [][]byte                          { return nil }
func (noRows) Conn() *pgx.Conn                              { return nil }
func (noRows) TypeMap() *pgtype.Map                         { return nil }

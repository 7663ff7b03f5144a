package pgxtx

import (
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// batch are pgx's batch results that hold their branch's connection.
type batch struct {
	pgx.BatchResults
	b     *branch
	ended bool
}

// Exec is pgx's.
func (r *batch) Exec() (tag pgconn.CommandTag, err error) {
	if err = r.b.resume(); err != nil {
		return tag, err
	}
	r.b.use(func() { tag, err = r.BatchResults.Exec() })
	r.b.note(tag, err)
	r.b.pause()
	return tag, err
}

// Query is pgx's.
func (r *batch) Query() (pgx.Rows, error) {
	if err := r.b.resume(); err != nil {
		return noRows{err}, err
	}
	var inner pgx.Rows
	var err error
	r.b.use(func() { inner, err = r.BatchResults.Query() })
	if err != nil {
		r.b.note(pgconn.CommandTag{}, err)
	}
	r.b.pause()
	if err != nil {
		return inner, err
	}
	return &rows{Rows: inner, b: r.b, inBatch: true}, nil
}

// QueryRow is pgx's.
func (r *batch) QueryRow() pgx.Row {
	inner, _ := r.Query()
	return row{inner}
}

// Close is pgx's. It must be called.
func (r *batch) Close() error {
	if r.ended {
		return r.BatchResults.Close()
	}
	if err := r.b.resume(); err != nil {
		return err
	}
	var err error
	r.b.use(func() { err = r.BatchResults.Close() })
	r.ended = true
	r.b.leave(pgconn.CommandTag{}, err)
	return err
}

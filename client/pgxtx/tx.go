package pgxtx

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// tx is a branch, or a savepoint in it, as a pgx.Tx. The embedded Tx is pgx's own for the same; it
// is nil for a branch that had not begun when its handle was made, which only the package has.
type tx struct {
	pgx.Tx
	b *branch
	// level is 0 for the branch. A savepoint has the depth at which it was made, whatever handle of
	// the branch made it: PostgreSQL knows one stack of them.
	level int
}

// Begin makes a savepoint.
func (t *tx) Begin(ctx context.Context) (pgx.Tx, error) {
	if err := t.b.enter(); err != nil {
		return nil, err
	}
	var inner pgx.Tx
	var err error
	t.b.use(func() {
		if err = t.b.flush(ctx); err == nil {
			inner, err = t.Tx.Begin(ctx)
		}
	})
	level := 0
	if err == nil {
		level = t.b.saved()
	}
	t.b.leave(harmless(), err)
	if err != nil {
		return nil, err
	}
	return &tx{Tx: inner, b: t.b, level: level}, nil
}

// harmless is the tag of statements that say nothing about writing.
func harmless() pgconn.CommandTag { return pgconn.NewCommandTag("SELECT") }

// Commit releases a savepoint. For the branch it returns ErrOwned.
func (t *tx) Commit(ctx context.Context) error {
	if t.level == 0 {
		return ErrOwned
	}
	return t.endSavepoint(ctx, func() error { return t.Tx.Commit(ctx) }, false)
}

// Rollback undoes what happened since the savepoint was made. For the branch it returns ErrOwned,
// and the transaction rolls back in the end.
func (t *tx) Rollback(ctx context.Context) error {
	if t.level > 0 {
		return t.endSavepoint(ctx, func() error { return t.Tx.Rollback(ctx) }, true)
	}
	t.b.mu.Lock()
	defer t.b.mu.Unlock()
	if !t.b.mu.closed {
		t.b.mu.failure = &failure{errAbandoned, unhealable}
	}
	return ErrOwned
}

func (t *tx) endSavepoint(
	ctx context.Context, end func() error, undo bool,
) error {
	if err := t.b.enter(); err != nil {
		return err
	}
	var err error
	t.b.use(func() {
		if !undo {
			err = t.b.flush(ctx)
		}
		if err == nil {
			err = end()
		}
		if undo && err == nil {
			// Whatever is queued came after the savepoint, which has had the rest run.
			t.b.unqueue()
		}
	})
	if errors.Is(err, pgx.ErrTxClosed) {
		// A deferred Rollback after a Commit is usual, sends nothing, and is no failure.
		t.b.letGo(false)
		return err
	}
	if err == nil {
		t.b.unsaved(t.level, undo)
	}
	t.b.leave(harmless(), err)
	return err
}

// Exec is pgx's.
func (t *tx) Exec(
	ctx context.Context, sql string, args ...any,
) (tag pgconn.CommandTag, err error) {
	if err = t.b.enter(sql); err != nil {
		return tag, err
	}
	t.b.use(func() { tag, err = t.run(ctx, sql, args) })
	t.b.leave(tag, err)
	return tag, err
}

// run runs a statement behind those that are queued. The caller is inside.
func (t *tx) run(ctx context.Context, sql string, args []any) (pgconn.CommandTag, error) {
	if err := t.b.flush(ctx); err != nil {
		return pgconn.CommandTag{}, err
	}
	if t.pgx() == nil && len(args) > 0 && t.b.mayStart(sql, args) {
		return t.b.startExec(ctx, sql, args)
	}
	if err := t.b.start(ctx); err != nil {
		return pgconn.CommandTag{}, err
	}
	return t.pgx().Exec(ctx, sql, args...)
}

// Query is pgx's.
func (t *tx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if err := t.b.enter(sql); err != nil {
		return noRows{err}, err
	}
	var inner pgx.Rows
	var tail func()
	var err error
	t.b.use(func() {
		if err = t.b.flush(ctx); err != nil {
			inner = noRows{err}
			return
		}
		if t.pgx() == nil && t.b.mayStart(sql, args) {
			inner, tail, err = t.b.startQuery(ctx, sql, args)
		} else if err = t.b.start(ctx); err == nil {
			inner, err = t.pgx().Query(ctx, sql, args...)
		} else {
			inner = noRows{err}
		}
	})
	if err != nil {
		t.b.leave(pgconn.CommandTag{}, err)
		return inner, err
	}
	t.b.pause()
	return &rows{Rows: inner, b: t.b, tail: tail}, nil
}

// pgx is pgx's own transaction or savepoint, or nil before the branch has begun.
func (t *tx) pgx() pgx.Tx {
	if t.Tx != nil {
		return t.Tx
	}
	return t.b.pgxTx()
}

// QueryRow is pgx's.
func (t *tx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	r, _ := t.Query(ctx, sql, args...)
	return row{r}
}

// SendBatch is pgx's.
func (t *tx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	texts := make([]string, len(b.QueuedQueries))
	for i, q := range b.QueuedQueries {
		texts[i] = q.SQL
	}
	if err := t.b.enter(texts...); err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	var inner pgx.BatchResults
	var err error
	t.b.use(func() {
		if err = t.b.flush(ctx); err != nil {
			return
		}
		if t.pgx() == nil && t.b.mayStartBatch(b) {
			inner, err = t.b.startWith(ctx, b.QueuedQueries)
		} else if err = t.b.start(ctx); err == nil {
			inner = t.pgx().SendBatch(ctx, b)
		}
	})
	if err != nil {
		t.b.leave(pgconn.CommandTag{}, err)
		return pgx.FailedBatchResults(b, err)
	}
	t.b.pause()
	return &batch{BatchResults: inner, b: t.b}
}

// CopyFrom is pgx's.
func (t *tx) CopyFrom(
	ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource,
) (n int64, err error) {
	if err = t.b.enter(); err != nil {
		return 0, err
	}
	t.b.use(func() {
		if err = t.b.flush(ctx); err == nil {
			err = t.b.start(ctx)
		}
		if err == nil {
			n, err = t.pgx().CopyFrom(ctx, table, columns, src)
		}
	})
	t.b.leave(pgconn.NewCommandTag("COPY"), err)
	return n, err
}

// Prepare is pgx's: it prepares a statement, not the transaction.
func (t *tx) Prepare(
	ctx context.Context, name, sql string,
) (d *pgconn.StatementDescription, err error) {
	if err = t.b.enter(sql); err != nil {
		return nil, err
	}
	t.b.use(func() { d, err = t.Tx.Prepare(ctx, name, sql) })
	t.b.leave(harmless(), err)
	return d, err
}

// LargeObjects is pgx's. It counts as a write.
func (t *tx) LargeObjects() pgx.LargeObjects {
	t.b.mu.Lock()
	defer t.b.mu.Unlock()
	t.b.mu.wrote = true
	return t.Tx.LargeObjects()
}

package pgxtx

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
)

// A branch begins with its first statement: BEGIN and what belongs to it travel in the same packet,
// which saves every branch a round trip. Only where that would change what the application sees is
// BEGIN sent by itself: before a COPY, a savepoint, a statement with options or rewriters, or text
// that may be none or several statements, and where the application traces its queries one by one
// or wants the simple protocol. An error of such a first statement is wrapped by pgx as one of a
// batch.

// errNotBegun is why a branch can only roll back whose BEGIN did not take effect: nothing else may
// be sent, because it would commit by itself.
var errNotBegun = errors.New("pgxtx: the branch could not be begun with its first statement")

// pgxTx is pgx's transaction, or nil before the branch has begun.
func (b *branch) pgxTx() pgx.Tx {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.tx
}

// start begins the branch by itself. The caller is inside.
func (b *branch) start(ctx context.Context) error {
	if b.pgxTx() != nil {
		return nil
	}
	tx, err := b.conn.BeginTx(ctx, pgx.TxOptions{BeginQuery: pgbranch.BeginSQL(b.begin)})
	if err != nil {
		err = fmt.Errorf("%w: %w", errNotBegun, err)
		b.mu.Lock()
		b.mu.failure = &failure{err, unhealable}
		b.mu.Unlock()
		return err
	}
	b.begun(tx)
	return nil
}

func (b *branch) begun(tx pgx.Tx) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.tx = tx
}

// mayStart says whether a statement may travel with BEGIN.
func (b *branch) mayStart(sql string, args []any) bool {
	if first, _ := pgbranch.FirstWord(sql); b.manner.alone || first == "" || pgbranch.Several(sql) {
		return false
	}
	for _, a := range args {
		switch a.(type) {
		case pgx.QueryExecMode, pgx.QueryResultFormats, pgx.QueryResultFormatsByOID,
			pgx.QueryRewriter:
			return false
		}
	}
	return true
}

// mayStartBatch says so of all statements of a batch. One that begins a transaction of its own is
// for pgx to refuse.
func (b *branch) mayStartBatch(batch *pgx.Batch) bool {
	for _, q := range batch.QueuedQueries {
		if !b.mayStart(q.SQL, q.Arguments) {
			return false
		}
	}
	return pgx.FailedBatchResults(batch, errNotBegun).Tx() == nil
}

// startWith begins the branch together with queries. On success the results are those of the
// queries, and must be closed; on an error nothing is open. The caller is inside.
func (b *branch) startWith(
	ctx context.Context, queries []*pgx.QueuedQuery,
) (pgx.BatchResults, error) {
	mark := len(queries) > 0 && mayWait(queries[0].SQL)
	steps := pgbranch.BeginSteps(b.pg(), b.begin, mark)
	all := &pgx.Batch{}
	all.BeginTx(pgx.TxOptions{BeginQuery: steps[0].SQL})
	for _, s := range steps[1:] {
		all.Queue(s.SQL, s.Args...)
	}
	all.QueuedQueries = append(all.QueuedQueries, queries...)
	results := b.conn.SendBatch(ctx, all)
	b.begun(results.Tx())
	_, err := results.Exec()
	if err == nil && len(steps) > 1 {
		err = b.head(results, mark)
	}
	if err != nil {
		return nil, b.notBegun(results, err)
	}
	return results, nil
}

// head reads what the statement behind BEGIN answered.
func (b *branch) head(results pgx.BatchResults, mark bool) error {
	rows, err := results.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	if rows.Next() && mark {
		if b.mark, err = pgbranch.ReadMark(b.pg(), rows.RawValues()); err != nil {
			return err
		}
	}
	rows.Close()
	return rows.Err()
}

// notBegun closes the results of a BEGIN that failed.
func (b *branch) notBegun(results pgx.BatchResults, err error) error {
	if closing := results.Close(); errors.Is(err, pgx.ErrTxClosed) {
		err = closing
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.failure = &failure{fmt.Errorf("%w: %w", errNotBegun, err), unhealable}
	return err
}

// startExec begins the branch with a statement.
func (b *branch) startExec(
	ctx context.Context, sql string, args []any,
) (tag pgconn.CommandTag, err error) {
	results, err := b.startWith(ctx, queued(sql, args))
	if err != nil {
		return tag, err
	}
	tag, err = results.Exec()
	if closing := results.Close(); err == nil {
		err = closing
	}
	return tag, err
}

// startQuery begins the branch with a query. What it returns beside the rows is to be called when
// they have ended.
func (b *branch) startQuery(
	ctx context.Context, sql string, args []any,
) (pgx.Rows, func(), error) {
	results, err := b.startWith(ctx, queued(sql, args))
	if err != nil {
		return noRows{err}, nil, err
	}
	rows, err := results.Query()
	if err != nil {
		_ = results.Close() // the error of the query is the one to tell
		return rows, nil, err
	}
	return rows, func() { _ = results.Close() }, nil
}

func queued(sql string, args []any) []*pgx.QueuedQuery {
	var b pgx.Batch
	b.Queue(sql, args...)
	return b.QueuedQueries
}

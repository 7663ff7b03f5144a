package pgxtx

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
)

// anyRows is for a statement that may affect any number of rows.
const anyRows = -1

// The bounds of what waits at one branch, and of the texts that one connection keeps prepared for
// it. Beyond them a statement is run at once. What waits is written in one piece, before the first
// answer is read: it must fit into the buffers of a connection, whatever the server has to say
// meanwhile, or both sides would wait for each other.
const (
	maxQueued      = 64
	maxQueuedBytes = 32 << 10
	maxTexts       = 256
)

// Queue has a statement run at the end of the transaction of ctx, whose result nobody needs to see.
// It travels with those queued before it in the packet that prepares the branch, which saves a
// round trip; if all statements of the branch are queued, the branch is a single round trip. An
// error of it makes the transaction roll back, and is what InTx returns then.
//
// INSERT, UPDATE, DELETE and MERGE without RETURNING wait; any other statement is run at once, and
// so is one beyond 64 statements or 32 KiB of arguments at a branch, or where a connection cannot
// keep prepared statements, or keeps enough of them. The first time that a connection sees a text
// it is checked by the server, at once, which is a round trip.
//
// The statements of a branch run in the order in which they were given, queued or not: what comes
// by another way than Queue has the queued ones run first, but for LargeObjects and Conn of a
// pgx.Tx. The arguments are encoded when Queue returns.
func (db *DB) Queue(ctx context.Context, sql string, args ...any) error {
	return db.queue(ctx, anyRows, sql, args)
}

// QueueExactly is [DB.Queue] for a statement that must affect so many rows: with any other number
// the transaction rolls back, and the error that InTx returns wraps [ErrRows].
func (db *DB) QueueExactly(ctx context.Context, rows int64, sql string, args ...any) error {
	if rows < 0 {
		err := fmt.Errorf("pgxtx: %s: a statement cannot affect %d rows", db.resource, rows)
		client.Fail(ctx, err)
		return err
	}
	return db.queue(ctx, rows, sql, args)
}

// ErrRows is behind the error of a transaction that rolled back because a statement of QueueExactly
// affected another number of rows.
var ErrRows = pgbranch.ErrRows

// ErrQueued is behind the error of a statement that was not run because one queued before it has
// failed, whose error it wraps too.
var ErrQueued = errors.New("pgxtx: a statement that was queued before has failed")

func (db *DB) queue(ctx context.Context, rows int64, sql string, args []any) error {
	b, err := db.branch(ctx)
	if err != nil {
		return err
	}
	if err := b.enter(sql); err != nil {
		return err
	}
	done, unsent := false, false
	var tag pgconn.CommandTag
	b.use(func() {
		if done, err = b.later(ctx, rows, sql, args); done || err != nil {
			unsent = b.pgxTx() == nil
			return
		}
		// Within the same use, so that the branch does not end before the rows are counted.
		if tag, err = (&tx{b: b}).run(ctx, sql, args); err == nil {
			err = pgbranch.Count(tag, rows)
		}
	})
	switch {
	case done:
		b.letGo(false)
	case unsent:
		b.refuse(err)
	default:
		b.leave(tag, err)
	}
	return err
}

// refuse notes a statement that could not be queued before the branch has begun. The caller is
// inside.
func (b *branch) refuse(err error) {
	b.mu.Lock()
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		b.mu.last = pg
	}
	b.fail(err)
	b.mu.Unlock()
	b.letGo(false)
}

// later queues a statement, unless that cannot be. The caller is inside.
func (b *branch) later(ctx context.Context, rows int64, sql string, args []any) (bool, error) {
	if !b.manner.ready || !b.mayStart(sql, args) || !mayWait(sql) || len(b.queue) == maxQueued {
		return false, nil
	}
	d, err := b.described(ctx, sql)
	if d == nil || err != nil {
		return false, err
	}
	var q pgx.ExtendedQueryBuilder
	if err := q.Build(b.conn.Conn().TypeMap(), d, args); err != nil {
		return false, fmt.Errorf("pgxtx: %s: queue a statement: %w", b.db.resource, err)
	}
	bytes := b.queuedBytes
	for _, p := range q.ParamValues {
		bytes += len(p)
	}
	if bytes > maxQueuedBytes {
		return false, nil
	}
	b.queuedBytes = bytes
	b.queue = append(b.queue, pgbranch.Work{Statement: d.Name, Parameters: q.ParamValues,
		Formats: q.ParamFormats, Exactly: rows})
	b.exactly = b.exactly || rows != anyRows
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.wrote = true
	return true, nil
}

// mayWait says whether a statement is of those that neither change how later ones are understood
// nor speak another protocol.
func mayWait(sql string) bool {
	switch first, _ := pgbranch.FirstWord(sql); first {
	case "INSERT", "UPDATE", "DELETE", "MERGE":
		return true
	}
	return false
}

// textsKey is where a connection keeps the descriptions of the texts that it has prepared for
// Queue. pgx does not know of them: it would go on to use one whose result a change of the table
// has made impossible.
const textsKey = "github.com/gavel-tx/gavel/client/pgxtx.texts"

// described prepares a text on the connection, once. It is nil for a statement that returns rows,
// which would have to be read while others are sent, and if there are enough of them.
func (b *branch) described(
	ctx context.Context, sql string,
) (*pgconn.StatementDescription, error) {
	texts, _ := b.pg().CustomData()[textsKey].(map[string]*pgconn.StatementDescription)
	if texts == nil {
		texts = map[string]*pgconn.StatementDescription{}
		b.pg().CustomData()[textsKey] = texts
	}
	d, known := texts[sql]
	if !known {
		if len(texts) == maxTexts {
			return nil, nil
		}
		var err error
		name := "gavel_queued_" + strconv.Itoa(len(texts))
		if d, err = b.pg().Prepare(ctx, name, sql, nil); err != nil {
			return nil, err
		}
		texts[sql] = d
	}
	if len(d.Fields) > 0 {
		return nil, nil
	}
	return d, nil
}

// flush runs what is queued. The caller is inside, and has checked that the branch may go on.
func (b *branch) flush(ctx context.Context) error {
	if len(b.queue) == 0 {
		return nil
	}
	work := b.queue
	b.unqueue()
	if err := b.start(ctx); err != nil {
		return err
	}
	err := pgbranch.Do(ctx, b.pg(), work)
	if stale(pgbranch.SQLState(err)) {
		b.forgetConnection(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrQueued, err)
	}
	return nil
}

// stale says whether an error may come from a statement that was prepared before its table was
// changed, or that the server has forgotten. It would come again on the same connection.
func stale(code string) bool {
	return code == unknownStatement || code == "0A000" || strings.HasPrefix(code, "42")
}

func (b *branch) unqueue() { b.queue, b.queuedBytes, b.exactly = nil, 0, false }

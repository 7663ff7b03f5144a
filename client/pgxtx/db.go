package pgxtx

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

// DB is a resource of transactions: one database behind a pool. It is safe for concurrent use,
// except that one transaction does one thing at a time there.
type DB struct {
	resource   string
	pool       *pgxpool.Pool
	prepare    pgbranch.PrepareOptions
	autocommit bool
}

// Option refines a DB.
type Option func(*DB)

// OwnerRole makes this role the owner of what is prepared. PostgreSQL lets only the owner, or a
// superuser, finish it, so that the coordinator's role and the application's are both made members
// of one NOLOGIN role. Defaults to none: the application's own role owns it.
func OwnerRole(role string) Option { return func(db *DB) { db.prepare.OwnerRole = role } }

// Expect refuses to prepare in any other database than this one, whatever the pool's address leads
// to. Defaults to none; the coordinator checks every vote all the same.
func Expect(id txn.Identity) Option { return func(db *DB) { db.prepare.Expect = id } }

// AllowAutocommit lets calls without a transaction in their context go straight to the pool, where
// each statement commits by itself. Defaults to client.ErrNoTransaction.
func AllowAutocommit() Option { return func(db *DB) { db.autocommit = true } }

// New makes a DB of a pool, which stays the caller's, and the name under which its database is
// registered at the coordinator. The pool needs one free connection for each transaction that uses
// it.
func New(resource string, pool *pgxpool.Pool, opts ...Option) *DB {
	db := &DB{resource: resource, pool: pool}
	for _, o := range opts {
		o(db)
	}
	return db
}

// Resource is the name under which the database is registered.
func (db *DB) Resource() string { return db.resource }

// statements is what a pool, and a branch as a whole or within a savepoint, have in common.
type statements interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
	CopyFrom(
		ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource,
	) (int64, error)
}

// at finds where the statements of ctx belong.
func (db *DB) at(ctx context.Context) (statements, error) {
	b, err := db.branch(ctx)
	if err == nil {
		return &tx{b: b}, nil
	}
	if db.autocommit && !inTransaction(err) {
		return db.pool, nil
	}
	return nil, err
}

// Exec is pgx's, in the transaction of ctx.
func (db *DB) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	on, err := db.at(ctx)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	return on.Exec(ctx, sql, args...)
}

// Query is pgx's, in the transaction of ctx. Until its rows are closed, or read to their end, the
// transaction can do nothing else at this database.
func (db *DB) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	on, err := db.at(ctx)
	if err != nil {
		return noRows{err}, err
	}
	return on.Query(ctx, sql, args...)
}

// QueryRow is pgx's, in the transaction of ctx. Until its Scan the transaction can do nothing else
// at this database.
func (db *DB) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	on, err := db.at(ctx)
	if err != nil {
		return noRows{err}
	}
	return on.QueryRow(ctx, sql, args...)
}

// SendBatch is pgx's, in the transaction of ctx. Its results must be closed. pgx.Batch.BeginTx is
// refused.
func (db *DB) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	on, err := db.at(ctx)
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	return on.SendBatch(ctx, b)
}

// CopyFrom is pgx's, in the transaction of ctx. The source of the rows must not use the transaction
// at this database.
func (db *DB) CopyFrom(
	ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource,
) (int64, error) {
	on, err := db.at(ctx)
	if err != nil {
		return 0, err
	}
	return on.CopyFrom(ctx, table, columns, rows)
}

// Tx is the branch of ctx's transaction at this database as a pgx.Tx, for savepoints and for code
// that wants one. Begin makes a savepoint. Commit and Rollback return [ErrOwned], because only InTx
// ends the transaction; Rollback also makes sure that it rolls back.
//
// Conn and LargeObjects lead around the bookkeeping: what they return must not be used beside other
// calls nor after the function of InTx has returned.
func (db *DB) Tx(ctx context.Context) (pgx.Tx, error) {
	b, err := db.branch(ctx)
	if err != nil {
		return nil, err
	}
	if b.pgxTx() == nil {
		if err := b.enter(); err != nil {
			return nil, err
		}
		b.use(func() {
			if err = b.flush(ctx); err == nil {
				err = b.start(ctx)
			}
		})
		b.leave(harmless(), err)
		if err != nil {
			return nil, err
		}
	}
	return &tx{b: b, Tx: b.pgxTx()}, nil
}

// branch is that of ctx's transaction at this database.
func (db *DB) branch(ctx context.Context) (*branch, error) {
	joined, err := client.Join(ctx, db.resource, db.open)
	if err != nil {
		return nil, err
	}
	b, ok := joined.(*branch)
	if !ok {
		err := fmt.Errorf("pgxtx: %s is used by another kind of database object in this "+
			"transaction", db.resource)
		client.Fail(ctx, err)
		return nil, err
	}
	return b, nil
}

// open takes a connection of the pool for a branch. Nothing is sent on it before the branch's first
// statement.
func (db *DB) open(ctx context.Context, o client.OpenOptions) (client.Branch, error) {
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("pgxtx: %s: get a connection: %w", db.resource, err)
	}
	m, err := mannerOf(ctx, conn.Conn())
	if err != nil {
		conn.Release()
		return nil, fmt.Errorf("pgxtx: %s: begin a branch: prepare its statements: %w",
			db.resource, err)
	}
	return &branch{db: db, conn: conn, manner: m, begin: pgbranch.BeginOptions{
		Isolation: pgbranch.Isolation(o.Level), ReadOnly: o.ReadOnly,
		IdleTimeout: o.IdleTimeout, ID: o.ID,
	}}, nil
}

// manner is how a connection is to be used.
type manner struct {
	// ready: the statements of pgbranch are prepared on it.
	ready bool
	// alone: a first statement goes by itself. The application traces its queries one by one, or
	// wants the simple protocol, where a text may be several statements.
	alone bool
}

// mannerKey is where a connection keeps its manner.
const mannerKey = "github.com/gavel-tx/gavel/client/pgxtx.manner"

// mannerOf looks at a connection, and prepares what a branch is prepared with, once for each. Where
// the pool was told not to keep statements, there may be a pooler between that cannot.
func mannerOf(ctx context.Context, conn *pgx.Conn) (manner, error) {
	m, known := conn.PgConn().CustomData()[mannerKey].(manner)
	if !known {
		config := conn.Config()
		m.ready = config.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement
		m.alone = config.Tracer != nil ||
			config.DefaultQueryExecMode == pgx.QueryExecModeSimpleProtocol
		conn.PgConn().CustomData()[mannerKey] = m
	}
	if !m.ready {
		return m, nil
	}
	for _, s := range pgbranch.Statements() {
		// pgx sends nothing for one that it has prepared already.
		if _, err := conn.Prepare(ctx, s.Name, s.SQL); err != nil {
			return m, err
		}
	}
	return m, nil
}

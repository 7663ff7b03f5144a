package sqltx

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/txn"
)

// Dialect is which database is behind a *sql.DB.
type Dialect uint8

const (
	// PostgreSQL is the dialect of the driver github.com/jackc/pgx/v5/stdlib. With another driver
	// no branch can be opened: only this one lets a session be prepared.
	PostgreSQL Dialect = 1
	// MariaDB is the dialect of the driver github.com/go-sql-driver/mysql, and no other. See also
	// [ExperimentalMySQL].
	MariaDB Dialect = 2
)

// DB is a resource of transactions: one database behind a *sql.DB. It is safe for concurrent use,
// except that one transaction does one thing at a time there.
type DB struct {
	resource     string
	pool         *sql.DB
	dialect      Dialect
	owner        string
	expect       txn.Identity
	autocommit   bool
	experimental bool
}

// Option refines a DB.
type Option func(*DB)

// OwnerRole makes this role the owner of what is prepared. PostgreSQL lets only the owner, or a
// superuser, finish it, so that the coordinator's role and the application's are both made members
// of one NOLOGIN role. Defaults to none: the application's own role owns it. At MariaDB, where
// anybody may finish what is prepared, it means nothing.
func OwnerRole(role string) Option { return func(db *DB) { db.owner = role } }

// Expect refuses to prepare in any other database than this one, whatever the pool's address leads
// to. Defaults to none; the coordinator checks every vote all the same.
func Expect(id txn.Identity) Option { return func(db *DB) { db.expect = id } }

// AllowAutocommit lets calls without a transaction in their context go straight to the pool, where
// each statement commits by itself. Defaults to client.ErrNoTransaction.
func AllowAutocommit() Option { return func(db *DB) { db.autocommit = true } }

// ExperimentalMySQL lets branches be prepared at a server that is no MariaDB, with the dialect of
// that. No test has seen a MySQL. Defaults to a refusal when the transaction commits.
func ExperimentalMySQL() Option { return func(db *DB) { db.experimental = true } }

// New makes a DB of a pool, which stays the caller's, and the name under which its database is
// registered at the coordinator. The pool needs one free connection for each transaction that uses
// it.
func New(resource string, pool *sql.DB, d Dialect, opts ...Option) *DB {
	db := &DB{resource: resource, pool: pool, dialect: d}
	for _, o := range opts {
		o(db)
	}
	return db
}

// Resource is the name under which the database is registered.
func (db *DB) Resource() string { return db.resource }

// ErrBusy is returned when a transaction is asked to do two things at once at one database: while
// rows are open, or from two goroutines. The second statement was not sent anywhere, and the
// transaction rolls back.
var ErrBusy = errors.New("sqltx: the transaction's connection is busy with another statement or " +
	"with rows that are still open; the statement was not sent")

// ErrControl is returned for SQL that would begin, end or prepare a transaction. It was not sent.
var ErrControl = errors.New("sqltx: a transaction is begun and ended by InTx, not by SQL")

// ErrEnded is returned once SQL has ended the branch's transaction all the same, as the second
// statement of a text may: what the branch did before stays or is gone, as that SQL decided.
// Nothing is sent any more, and all other branches roll back.
var ErrEnded = errors.New("sqltx: SQL has ended the transaction from within")

// ErrPrepare is returned by PrepareContext within a transaction, which goes on.
var ErrPrepare = errors.New("sqltx: a statement cannot be prepared within a transaction: run it " +
	"by ExecContext or QueryContext")

// ExecContext is that of database/sql, in the transaction of ctx.
func (db *DB) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	b, err := db.branch(ctx)
	switch {
	case db.alone(err):
		return db.pool.ExecContext(ctx, query, args...)
	case err != nil:
		return nil, err
	}
	var result sql.Result
	err = b.run(query, false, func() (err error) {
		result, err = b.session.ExecContext(ctx, query, args...)
		return err
	})
	return result, err
}

// QueryContext is that of database/sql, in the transaction of ctx. Until its rows are closed, or
// read to their end, the transaction can do nothing else at this database.
func (db *DB) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	b, err := db.branch(ctx)
	switch {
	case db.alone(err):
		return db.pool.QueryContext(ctx, query, args...)
	case err != nil:
		return nil, err
	}
	var rows *sql.Rows
	err = b.run(query, true, func() (err error) {
		rows, err = b.session.QueryContext(b.within(ctx), query, args...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return rows, rows.Err()
}

// QueryRowContext is that of database/sql, in the transaction of ctx. Until its Scan the
// transaction can do nothing else at this database.
func (db *DB) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	b, err := db.branch(ctx)
	switch {
	case db.alone(err):
		return db.pool.QueryRowContext(ctx, query, args...)
	case err != nil:
		return failedRow(ctx, err)
	}
	var row *sql.Row
	err = b.run(query, true, func() error {
		row = b.session.QueryRowContext(b.within(ctx), query, args...)
		return row.Err()
	})
	if row == nil {
		return failedRow(ctx, err)
	}
	return row
}

// PrepareContext is for a DB without a transaction in ctx, if it allows autocommit. Within one it
// returns ErrPrepare.
func (db *DB) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	_, err := db.branch(ctx)
	switch {
	case db.alone(err):
		return db.pool.PrepareContext(ctx, query)
	case err != nil:
		return nil, err
	}
	return nil, ErrPrepare
}

// alone says whether a call without a transaction may go to the pool.
func (db *DB) alone(err error) bool {
	return db.autocommit && errors.Is(err, client.ErrNoTransaction)
}

// failedRow is a row whose Scan returns err. Only database/sql makes one: it is that of a pool that
// cannot connect.
func failedRow(ctx context.Context, err error) *sql.Row {
	none := sql.OpenDB(connector{err: err})
	defer none.Close()
	return none.QueryRowContext(context.WithoutCancel(ctx), "")
}

// connector makes a pool of one connection, or of an error.
type connector struct {
	conn driver.Conn
	err  error
}

func (c connector) Connect(context.Context) (driver.Conn, error) { return c.conn, c.err }

func (c connector) Driver() driver.Driver { return nil }

// branch is that of ctx's transaction at this database.
func (db *DB) branch(ctx context.Context) (*branch, error) {
	joined, err := client.Join(ctx, db.resource, db.open)
	if err != nil {
		return nil, err
	}
	b, ok := joined.(*branch)
	if !ok {
		err := fmt.Errorf("sqltx: %s is used by another kind of database object in this "+
			"transaction", db.resource)
		client.Fail(ctx, err)
		return nil, err
	}
	return b, nil
}

// Package pgjournal keeps the journal of a service in a table of the service's own PostgreSQL
// database, so that what a method of the service changes and the entry that says so are one
// transaction: exactly once, whatever crashes.
//
//	journal, err := pgjournal.Open(ctx, pool, "gavel_journal")
//	r, err := service.Open(service.Config{Service: seats, Journal: journal})
//
//	func (s *Seats) Commit(ctx context.Context, branch txn.Name) error {
//		_, err := pgjournal.Tx(ctx).Exec(ctx, `UPDATE seats SET sold = true WHERE …`, …)
//		return err
//	}
//
// The table has one owner: the process that opened the journal last. It holds an advisory lock, so
// that a second one is refused while the first one lives; and because a session may end while its
// process goes on, each transaction also locks the row with the owner's token, and compares it.
// Transactions of one journal therefore follow each other.
//
// The pool must lead to sessions, not to a pooler that hands each transaction to another backend.
// What PostgreSQL itself loses, by a failover to a standby that lags, the journal loses too: it
// answers Held then, until it has come as far again.
package pgjournal

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/participant/service"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// ErrInUse is returned by Open while another process has the journal open.
var ErrInUse = errors.New("pgjournal: another process has the journal open")

// ErrTaken is returned by a journal that another process has opened since. It stays so.
var ErrTaken = errors.New("pgjournal: another process has taken the journal over")

const (
	// lockWait is how long Open waits for another process to end.
	lockWait = time.Second
	// lockClass is the first half of the advisory lock's key; the second one is the table's oid.
	lockClass = 0x676a6e6c
	// closeWait bounds the orderly end of the lock's session.
	closeWait = 5 * time.Second
	// maxPage bounds the entries that are read at once.
	maxPage = 1000
)

// Journal is a service.Journal in a table.
type Journal struct {
	pool  *pgxpool.Pool
	table string
	token []byte
	// lock is the session that holds the advisory lock. Nothing else is done on it.
	lock *pgx.Conn
	// turn holds a token while a transaction runs: those that wait for it need no connection.
	turn chan struct{}
	once sync.Once
	quit chan struct{}
}

var _ service.Journal = (*Journal)(nil)

// Schema is the statement that makes the table.
func Schema(table string) string {
	return "CREATE TABLE IF NOT EXISTS " + quote(table) +
		" (key bytea PRIMARY KEY, value bytea NOT NULL)"
}

func quote(table string) string { return pgx.Identifier(strings.Split(table, ".")).Sanitize() }

var tableName = regexp.MustCompile(`^([a-z_][a-z0-9_]{0,62}\.)?[a-z_][a-z0-9_]{0,62}$`)

// Open opens the journal in a table, "name" or "schema.name", and makes the table if there is none.
// The pool stays the caller's, and must be closed after the journal.
func Open(ctx context.Context, pool *pgxpool.Pool, table string) (*Journal, error) {
	if !tableName.MatchString(table) {
		return nil, fmt.Errorf("pgjournal: %.64q is not the name of a table in lower case", table)
	}
	j := &Journal{pool: pool, table: quote(table), token: make([]byte, 16),
		turn: make(chan struct{}, 1), quit: make(chan struct{})}
	if _, err := rand.Read(j.token); err != nil {
		return nil, fmt.Errorf("pgjournal: draw a token: %w", err)
	}
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("pgjournal: connect: %w", err)
	}
	j.lock = conn.Hijack()
	if err := j.take(ctx, table); err != nil {
		j.unlock()
		return nil, fmt.Errorf("pgjournal: open %s: %w", table, err)
	}
	return j, nil
}

// take makes the table this journal's: first the lock, then the token.
func (j *Journal) take(ctx context.Context, table string) error {
	var there bool
	err := j.lock.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", j.table).Scan(&there)
	if err == nil && !there {
		_, err = j.lock.Exec(ctx, Schema(table))
	}
	if err == nil {
		_, err = j.lock.Exec(ctx, "SELECT set_config('lock_timeout', $1, false)",
			fmt.Sprintf("%dms", lockWait.Milliseconds()))
	}
	if err == nil {
		_, err = j.lock.Exec(ctx, "SELECT pg_advisory_lock($1, $2::regclass::oid::int)",
			lockClass, j.table)
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "55P03" {
		return ErrInUse
	}
	if err != nil {
		return err
	}
	_, err = j.lock.Exec(ctx, "INSERT INTO "+j.table+" VALUES ('w', $1) "+
		"ON CONFLICT (key) DO UPDATE SET value = excluded.value", j.token)
	return err
}

// unlock ends the session of the lock. Whatever is said about it, it is no more afterwards.
func (j *Journal) unlock() {
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	_ = j.lock.Close(ctx)
}

// Close lets go of the journal, after the transaction under way.
func (j *Journal) Close() error {
	j.once.Do(func() {
		j.turn <- struct{}{}
		close(j.quit)
		<-j.turn
		j.unlock()
	})
	return nil
}

// Joins implements service.Journal.
func (j *Journal) Joins() bool { return true }

type key struct{}

// Tx is the transaction in which a method of the service is called. Without one it is nil. It must
// neither be committed nor rolled back; an error of the method rolls it back.
func Tx(ctx context.Context) pgx.Tx {
	tx, _ := ctx.Value(key{}).(pgx.Tx)
	return tx
}

// begin waits for the turn.
func (j *Journal) begin(ctx context.Context) (end func(), err error) {
	select {
	case j.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("pgjournal: not begun: %w", context.Cause(ctx))
	}
	end = func() { <-j.turn }
	select {
	case <-j.quit:
		end()
		return nil, service.ErrClosed
	default:
		return end, nil
	}
}

// Update implements service.Journal. The row of the owner is locked first and until the end, so
// that a process that was taken over waits for its successor and finds out; and a commit that is
// asynchronous by the session's settings is made an ordinary one.
func (j *Journal) Update(
	ctx context.Context, f func(context.Context, service.Tx) error,
) error {
	end, err := j.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	const owner = `SELECT value, CASE WHEN current_setting('synchronous_commit') = 'off'
		THEN set_config('synchronous_commit', 'on', true) END FROM %s WHERE key = 'w' FOR UPDATE`
	return j.transact(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, owner,
		func(e entries) error { return f(context.WithValue(ctx, key{}, e.tx), e) })
}

// View implements service.Journal.
func (j *Journal) View(ctx context.Context, f func(service.Tx) error) error {
	select {
	case <-j.quit:
		return service.ErrClosed
	default:
	}
	const owner = `SELECT value, NULL::text FROM %s WHERE key = 'w'`
	return j.transact(ctx,
		pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, owner,
		func(e entries) error { return f(e) })
}

// transact runs f in a transaction, if this journal still owns the table.
func (j *Journal) transact(
	ctx context.Context, opts pgx.TxOptions, owner string, f func(entries) error,
) error {
	// What f returns comes back as it is; all else is about the database.
	var refused error
	err := pgx.BeginTxFunc(ctx, j.pool, opts, func(tx pgx.Tx) error {
		var token []byte
		var set *string
		err := tx.QueryRow(ctx, fmt.Sprintf(owner, j.table)).Scan(&token, &set)
		mine := bytes.Equal(token, j.token) || mutant.On(mutant.OwnerIgnored)
		if errors.Is(err, pgx.ErrNoRows) || err == nil && !mine {
			err = ErrTaken
		}
		if err != nil {
			return err
		}
		refused = f(entries{ctx, tx, j.table})
		return refused
	})
	if refused != nil || err == nil {
		return refused
	}
	return fmt.Errorf("pgjournal: %w", err)
}

// entries is the journal within one transaction.
type entries struct {
	ctx   context.Context
	tx    pgx.Tx
	table string
}

func (e entries) Get(key []byte) (value []byte, err error) {
	err = e.tx.QueryRow(e.ctx, "SELECT value FROM "+e.table+" WHERE key = $1", key).Scan(&value)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return value, err
}

func (e entries) Put(key, value []byte) error {
	if value == nil {
		_, err := e.tx.Exec(e.ctx, "DELETE FROM "+e.table+" WHERE key = $1", key)
		return err
	}
	_, err := e.tx.Exec(e.ctx, "INSERT INTO "+e.table+" VALUES ($1, $2) "+
		"ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, value)
	return err
}

type entry struct{ Key, Value []byte }

// Scan reads a page at a time, and of the first page one entry: who wants no more pays for no more.
func (e entries) Scan(prefix []byte, f func(key, value []byte) (bool, error)) error {
	for from, page := prefix, 1; ; page = maxPage {
		rows, err := e.tx.Query(e.ctx, "SELECT key, value FROM "+e.table+
			" WHERE key >= $1 AND key < $2 ORDER BY key LIMIT $3", from, after(prefix), page)
		if err != nil {
			return err
		}
		got, err := pgx.CollectRows(rows, pgx.RowToStructByPos[entry])
		if err != nil {
			return err
		}
		for _, g := range got {
			if more, err := f(g.Key, g.Value); err != nil || !more {
				return err
			}
		}
		if len(got) < page {
			return nil
		}
		// A key with a zero behind it is the next one that there can be.
		from = append(got[len(got)-1].Key, 0)
	}
}

// after is the first key behind all that begin with prefix, which is not made of 0xff alone.
func after(prefix []byte) []byte {
	next := bytes.TrimRight(bytes.Clone(prefix), "\xff")
	next[len(next)-1]++
	return next
}

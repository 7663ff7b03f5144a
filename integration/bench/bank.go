package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/client/pgxtx"
)

// bank is one database as the clients see it.
type bank struct {
	Resource
	pool *pgxpool.Pool
	db   *pgxtx.DB
	// made says that the table is ours to drop.
	made bool
	// What the server is and allows.
	identity, version     string
	maxPrepared, maxConns int
	settings              map[string]string
}

const (
	table = "gavel_bench_account"
	// opening is the balance of every account at the beginning.
	opening = 1_000_000
	// The clearing away of old row versions at its own time would hit some lines and spare others:
	// it is done between the rounds. Half-empty pages take a new version beside the old one.
	createSQL = `CREATE TABLE ` + table + ` (id int PRIMARY KEY, balance bigint NOT NULL)
		WITH (fillfactor = 50, autovacuum_enabled = off)`
	fillSQL = `INSERT INTO ` + table + ` SELECT i, $1 FROM generate_series(0, $2::int - 1) AS i`
	addSQL  = `UPDATE ` + table + ` SET balance = balance + $1 WHERE id = $2`
	// addStatement is the name of addSQL as a prepared statement.
	addStatement = "gavel_bench_add"

	duplicateTable = "42P07"
	// spareConns are for ourselves and for coordinators.
	spareConns = 20
	// lockTimeout ends a deadlock over two databases, which neither of them can see.
	lockTimeout    = 2 * time.Second
	connectTimeout = 10 * time.Second
)

// ErrUnreachable is wrapped by the error of a run whose databases or coordinator do not answer.
var ErrUnreachable = errors.New("bench: no answer")

// ErrTable is wrapped by the error of a run whose table is there already.
var ErrTable = errors.New("bench: the table " + table + " exists already")

// openBank connects and looks at the server; it changes nothing.
func openBank(ctx context.Context, r Resource, clients int) (*bank, error) {
	cfg, err := pgxpool.ParseConfig(r.DSN)
	if err != nil {
		return nil, fmt.Errorf("%w: resource %s: %w", ErrConfig, r.Name, err)
	}
	cfg.MaxConns = int32(clients + 2)
	// Connections that a quiet line does not use must still be there for the next one.
	cfg.MaxConnIdleTime, cfg.MaxConnLifetime = time.Hour, time.Hour
	cfg.ConnConfig.ConnectTimeout = connectTimeout
	cfg.ConnConfig.RuntimeParams["application_name"] = "gavel bench"
	cfg.ConnConfig.RuntimeParams["lock_timeout"] =
		strconv.FormatInt(lockTimeout.Milliseconds(), 10)
	b := &bank{Resource: r}
	if b.pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return nil, fmt.Errorf("%w: resource %s: %w", ErrConfig, r.Name, err)
	}
	var opts []pgxtx.Option
	if r.OwnerRole != "" {
		opts = append(opts, pgxtx.OwnerRole(r.OwnerRole))
	}
	b.db = pgxtx.New(r.Name, b.pool, opts...)
	if err := b.look(ctx); err != nil {
		b.pool.Close()
		return nil, fmt.Errorf("%w: resource %s: %w", ErrUnreachable, r.Name, err)
	}
	return b, nil
}

// shown are the settings that figures depend on.
const shown = `SELECT name, current_setting(name) FROM pg_settings WHERE name IN
	('fsync', 'synchronous_commit', 'full_page_writes', 'wal_sync_method', 'shared_buffers',
	'max_connections', 'max_prepared_transactions', 'max_wal_size', 'commit_delay')`

// look reads what the server is and allows.
func (b *bank) look(ctx context.Context) error {
	err := b.pool.QueryRow(ctx, `SELECT system_identifier::text, current_setting('server_version'),
		current_setting('max_prepared_transactions')::int, current_setting('max_connections')::int
		FROM pg_control_system()`).Scan(&b.identity, &b.version, &b.maxPrepared, &b.maxConns)
	if err != nil {
		return err
	}
	rows, err := b.pool.Query(ctx, shown)
	if err != nil {
		return err
	}
	b.settings = map[string]string{}
	var name, value string
	_, err = pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		b.settings[name] = value
		return nil
	})
	return err
}

// ErrRoom is wrapped by the error of a run for which a server allows too little.
var ErrRoom = errors.New("bench: a server allows too little")

// checkRoom refuses servers that would run out of slots or connections in the middle of it.
// Databases of one server share both.
func checkRoom(banks []*bank, cfg Config) error {
	prepared, connections := map[string]int{}, map[string]int{}
	for i, b := range banks {
		prepared[b.identity] += cfg.maxClients(i)
		connections[b.identity] += cfg.maxClients(i) + spareConns
	}
	var errs []error
	for _, b := range banks {
		if need := prepared[b.identity]; b.maxPrepared < need {
			errs = append(errs, fmt.Errorf("%w: resource %s: max_prepared_transactions is %d, and "+
				"this run needs %d", ErrRoom, b.Name, b.maxPrepared, need))
		}
		if need := connections[b.identity]; b.maxConns < need {
			errs = append(errs, fmt.Errorf("%w: resource %s: max_connections is %d, and this run "+
				"needs %d", ErrRoom, b.Name, b.maxConns, need))
		}
	}
	return errors.Join(errs...)
}

// fill makes the table.
func (b *bank) fill(ctx context.Context, accounts int) error {
	_, err := b.pool.Exec(ctx, createSQL)
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == duplicateTable {
		return fmt.Errorf("%w at resource %s", ErrTable, b.Name)
	}
	b.made = err == nil
	if err == nil {
		_, err = b.pool.Exec(ctx, fillSQL, opening, accounts)
	}
	if err != nil {
		return fmt.Errorf("bench: make the table at resource %s: %w", b.Name, err)
	}
	return nil
}

// vacuum clears away what a round has left.
func (b *bank) vacuum(ctx context.Context) error {
	if _, err := b.pool.Exec(ctx, "VACUUM ANALYZE "+table); err != nil {
		return fmt.Errorf("bench: vacuum at resource %s: %w", b.Name, err)
	}
	return nil
}

// sum is what all balances add up to.
func (b *bank) sum(ctx context.Context) (int64, error) {
	var sum int64
	err := b.pool.QueryRow(ctx, "SELECT sum(balance)::bigint FROM "+table).Scan(&sum)
	if err != nil {
		return 0, fmt.Errorf("bench: add up the balances at resource %s: %w", b.Name, err)
	}
	return sum, nil
}

// prepared are the prepared transactions of this database whose names begin with one of these.
func (b *bank) prepared(ctx context.Context, prefixes []string) ([]string, error) {
	rows, err := b.pool.Query(ctx, `SELECT gid FROM pg_prepared_xacts
		WHERE database = current_database() AND gid ^@ ANY ($1::text[])`, prefixes)
	if err != nil {
		return nil, fmt.Errorf("bench: list what is prepared at resource %s: %w", b.Name, err)
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// settle waits until nothing with these names is prepared. What it has seen counts, also if time is
// over in the middle of the next look.
func (b *bank) settle(ctx context.Context, prefixes []string) error {
	var seen []string
	for {
		left, err := b.prepared(ctx, prefixes)
		if err == nil {
			seen = left
		}
		switch {
		case err != nil && (ctx.Err() == nil || len(seen) == 0):
			return err
		case len(seen) == 0:
			return nil
		case until(ctx, time.Now().Add(readyEvery)) != nil:
			return fmt.Errorf("%w: %d branches stay prepared at resource %s, for example %s",
				ErrAudit, len(seen), b.Name, seen[0])
		}
	}
}

// clear rolls back what lines that were cut off have left prepared by hand. Half of such a transfer
// may be committed; the table is about to go.
func (b *bank) clear(ctx context.Context, own []string) error {
	left, err := b.prepared(ctx, own)
	for _, name := range left {
		_, e := b.pool.Exec(ctx, "ROLLBACK PREPARED '"+name+"'")
		err = errors.Join(err, e)
	}
	return err
}

// close drops the table and disconnects.
func (b *bank) close(ctx context.Context) error {
	defer b.pool.Close()
	if !b.made {
		return nil
	}
	if _, err := b.pool.Exec(ctx, "DROP TABLE "+table); err != nil {
		return fmt.Errorf("bench: drop the table at resource %s: %w", b.Name, err)
	}
	return nil
}

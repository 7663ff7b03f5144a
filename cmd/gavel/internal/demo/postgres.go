package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
	"github.com/gavel-tx/gavel/txn"
)

// postgresBanks are two PostgreSQL servers. Clients reach them by pools of their own, as an
// application would.
type postgresBanks struct {
	inst    pghost.Installation
	servers [2]*pghost.Server
	pools   [2]*pgxpool.Pool
	dbs     [2]*pgxtx.DB
}

const database = "bank"

var bankNames = [2]string{"bank_a", "bank_b"}

// schema is a bank: accounts, and a ledger of what was done to them.
const schema = `
CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
CREATE TABLE ledger (key text PRIMARY KEY, account int NOT NULL, amount bigint NOT NULL);
INSERT INTO account SELECT i, %d FROM generate_series(0, %d) AS i;`

// openPostgres starts both servers at the same time.
func (s *story) openPostgres(ctx context.Context, inst pghost.Installation) (_ banks, err error) {
	b := &postgresBanks{inst: inst}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.stop(context.WithoutCancel(ctx)))
		}
	}()
	var errs [2]error
	done := make(chan struct{})
	go func() { defer close(done); errs[1] = b.open(ctx, 1, s.o) }()
	errs[0] = b.open(ctx, 0, s.o)
	<-done
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("demo: start PostgreSQL: %w", err)
	}
	return b, nil
}

func (b *postgresBanks) open(ctx context.Context, i int, o options) (err error) {
	b.servers[i], err = b.inst.Start(ctx, pghost.Config{Name: bankNames[i], KeepDir: o.keep})
	if err != nil {
		return err
	}
	if err := b.servers[i].CreateDatabase(ctx, database); err != nil {
		return err
	}
	sql := fmt.Sprintf(schema, opening, accounts-1)
	if err := b.servers[i].Exec(ctx, database, sql); err != nil {
		return err
	}
	cfg, err := pgxpool.ParseConfig(b.servers[i].DSN(database))
	if err != nil {
		return err
	}
	cfg.MaxConns = int32(o.clients) + 2
	if b.pools[i], err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return err
	}
	b.dbs[i] = pgxtx.New(bankNames[i], b.pools[i])
	return nil
}

func (b *postgresBanks) urls() [2]string {
	return [2]string{b.servers[0].DSN(database), b.servers[1].DSN(database)}
}

func (b *postgresBanks) describe() []string {
	version, _, _ := strings.Cut(b.inst.Version, " ")
	var out []string
	for i, srv := range b.servers {
		out = append(out, fmt.Sprintf("%s  PostgreSQL %s of its own, process %d, fsync on",
			bankNames[i], version, srv.PID()))
	}
	return out
}

// move is what an application does: SQL on its own connections, and InTx around it.
func (b *postgresBanks) move(
	ctx context.Context, c decider, t transfer,
) (answer, txn.ID, error) {
	err := client.New(c).InTx(ctx, func(ctx context.Context) error {
		for i, db := range b.dbs {
			if err := book(ctx, db, t, i); err != nil {
				return err
			}
		}
		return nil
	}, client.Name(t.key))
	return readAnswer(err)
}

func book(ctx context.Context, db *pgxtx.DB, t transfer, bank int) error {
	_, err := db.Exec(ctx, `UPDATE account SET balance = balance + $1 WHERE id = $2`,
		t.change(bank), t.accountIDs[bank])
	if err != nil {
		return err
	}
	_, err = db.Exec(ctx, `INSERT INTO ledger VALUES ($1, $2, $3)`, t.key, t.accountIDs[bank],
		t.change(bank))
	return err
}

// readAnswer takes InTx at its word. Any error that it does not promise is a fault of gavel's.
func readAnswer(err error) (answer, txn.ID, error) {
	if err == nil {
		return committed, txn.ID{}, nil
	}
	if errors.Is(err, client.ErrInDoubt) {
		return unknown, client.IDOf(err), nil
	}
	if _, ok := errors.AsType[*client.AbortedError](err); ok {
		return rolledBack, client.IDOf(err), nil
	}
	return unknown, client.IDOf(err), fmt.Errorf("an answer that was not promised: %w", err)
}

func (b *postgresBanks) prepared(
	ctx context.Context, _ txn.Fence,
) (found [2]map[txn.Name]bool, err error) {
	for i, pool := range b.pools {
		found[i] = map[txn.Name]bool{}
		rows, err := pool.Query(ctx, `SELECT gid FROM pg_prepared_xacts`)
		if err != nil {
			return found, err
		}
		gids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return found, err
		}
		for _, gid := range gids {
			if !strings.HasPrefix(gid, txn.NamePrefix) {
				// A coordinator that starts tries out whether PREPARE works, under another name.
				continue
			}
			name, err := txn.ParseName(gid)
			if err != nil {
				return found, err
			}
			found[i][name] = true
		}
	}
	return found, nil
}

// left leaves out the empty transaction by which a coordinator that was killed at its very start
// may have been trying out PREPARE: it has no effects, and a later start removes it.
func (b *postgresBanks) left(ctx context.Context, _ txn.Fence) (int, error) {
	const sql = `SELECT count(*) FROM pg_prepared_xacts WHERE gid NOT LIKE 'gavelprobe.%'`
	all := 0
	for _, pool := range b.pools {
		var n int
		if err := pool.QueryRow(ctx, sql).Scan(&n); err != nil {
			return 0, err
		}
		all += n
	}
	return all, nil
}

func (b *postgresBanks) books(ctx context.Context) (books, error) {
	var all books
	for i, pool := range b.pools {
		var sum int64
		row := pool.QueryRow(ctx, `SELECT sum(balance)::bigint FROM account`)
		if err := row.Scan(&sum); err != nil {
			return all, err
		}
		all.sum += sum
		all.ledgers[i] = map[string]int64{}
		rows, err := pool.Query(ctx, `SELECT key, amount FROM ledger`)
		if err != nil {
			return all, err
		}
		var key string
		var amount int64
		_, err = pgx.ForEachRow(rows, []any{&key, &amount}, func() error {
			all.ledgers[i][key] = amount
			return nil
		})
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

func (b *postgresBanks) has(ctx context.Context, key string) (found [2]bool, err error) {
	for i, pool := range b.pools {
		row := pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM ledger WHERE key = $1)`, key)
		if err := row.Scan(&found[i]); err != nil {
			return found, err
		}
	}
	return found, nil
}

func (b *postgresBanks) stop(ctx context.Context) error {
	var errs []error
	for i := range b.servers {
		if b.pools[i] != nil {
			b.pools[i].Close()
		}
		if b.servers[i] != nil {
			errs = append(errs, b.servers[i].Stop(ctx))
		}
	}
	return errors.Join(errs...)
}

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/kvtx"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/client/sqltx"
	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/participant/kv"
	"github.com/gavel-tx/gavel/txn"
)

// counter is one place of the ring, as a client works there. Both methods are part of the
// transaction of ctx.
type counter interface {
	// move changes balances and leaves the row of transfer n.
	move(ctx context.Context, n, amount int64, legs []crash.Leg) error
	// read looks at an account.
	read(ctx context.Context, account int) error
}

// ring is the client of all four places.
type ring struct {
	counters [crash.Places]counter
	client   *client.Client
	now      func() time.Duration
	shut     []func()
}

func openRing(ctx context.Context, getenv func(string) string) (_ *ring, err error) {
	r := &ring{now: crash.Now}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	pool, err := pgxpool.New(ctx, getenv(crash.EnvPostgres))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", crash.EnvPostgres, err)
	}
	r.shut = append(r.shut, pool.Close)
	maria, err := sql.Open("mysql", getenv(crash.EnvMariaDB))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", crash.EnvMariaDB, err)
	}
	r.shut = append(r.shut, func() { maria.Close() })
	store, err := dialStore(getenv(crash.EnvKV))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", crash.EnvKV, err)
	}
	r.shut = append(r.shut, store.close)
	decider, err := dialDecider(getenv(crash.EnvCoordinator))
	if err != nil {
		return nil, err
	}
	r.shut = append(r.shut, func() { decider.Close() })
	r.client = client.New(decider, client.Timeout(undecided))
	r.counters = [crash.Places]counter{
		crash.PostgreSQL: atPostgres{pgxtx.New(crash.PostgreSQL.String(), pool)},
		crash.MariaDB:    atMariaDB{sqltx.New(crash.MariaDB.String(), maria, sqltx.MariaDB)},
		crash.KV:         atKV{kvtx.New(crash.KV.String(), store)},
		crash.Service:    atService{"http://" + getenv(crash.EnvService)},
	}
	return r, nil
}

func (r *ring) close() {
	for _, shut := range r.shut {
		shut()
	}
}

// transfer takes the course of transfer n, in one transaction. It says the transaction's id, where
// there is one, before the commit is asked for, and then what came of it.
func (r *ring) transfer(ctx context.Context, n int64, say func(crash.Line)) {
	course := crash.CourseOf(n)
	err := r.client.InTx(ctx, func(ctx context.Context) error {
		for p, share := range course.Shares {
			err := r.visit(ctx, crash.Place(p), n, share)
			// An application overlooks errors. The branch must not.
			if err != nil && !course.Refused() {
				return err
			}
		}
		asked := crash.Line{N: n}
		if !course.Plain() {
			id, err := client.IDFrom(ctx)
			if err != nil {
				return err
			}
			asked.ID = id
		}
		asked.At = r.now()
		say(asked)
		return nil
	}, client.Name(fmt.Sprintf("%s %d", course.Traffic, n)), client.Ack(ackOf(n)),
		client.Plan(planOf(n)))
	heard := answer(n, err)
	heard.At = r.now()
	say(heard)
	if err != nil {
		pause(ctx, sorry)
	}
}

func (r *ring) visit(ctx context.Context, p crash.Place, n int64, share crash.Share) error {
	a := rand.IntN(crash.Accounts)
	switch share.Role {
	case crash.Moves:
		legs := share.Legs(a, (a+1)%crash.Accounts)
		return r.counters[p].move(ctx, n, share.Amount, legs)
	case crash.Reads:
		return r.counters[p].read(ctx, a)
	}
	return nil
}

// atPostgres refuses an overdrawn account when it prepares.
type atPostgres struct{ db *pgxtx.DB }

func (c atPostgres) move(ctx context.Context, n, amount int64, legs []crash.Leg) error {
	for _, l := range legs {
		if _, err := c.db.Exec(ctx, crash.BalanceSQL, l.Account, l.Amount); err != nil {
			return err
		}
	}
	_, err := c.db.Exec(ctx, crash.LedgerSQL, n, amount)
	return err
}

func (c atPostgres) read(ctx context.Context, account int) error {
	var balance int64
	return c.db.QueryRow(ctx, crash.ReadSQL, account).Scan(&balance)
}

// atMariaDB refuses an overdrawn account at once.
type atMariaDB struct{ db *sqltx.DB }

func (c atMariaDB) move(ctx context.Context, n, amount int64, legs []crash.Leg) error {
	for _, l := range legs {
		_, err := c.db.ExecContext(ctx, crash.MariaBalanceSQL, l.Amount, l.Account)
		if err != nil {
			return err
		}
	}
	_, err := c.db.ExecContext(ctx, crash.MariaLedgerSQL, n, amount)
	return err
}

func (c atMariaDB) read(ctx context.Context, account int) error {
	var balance int64
	return c.db.QueryRowContext(ctx, crash.MariaReadSQL, account).Scan(&balance)
}

// atKV refuses an overdrawn account at once.
type atKV struct{ db *kvtx.DB }

func (c atKV) move(ctx context.Context, n, amount int64, legs []crash.Leg) error {
	least := int64(-crash.Balance)
	var ops []kv.Op
	for _, l := range legs {
		ops = append(ops, kv.Op{Kind: kv.OpAdd, Key: []byte(crash.KVBalance(l.Account)),
			Delta: l.Amount, Minimum: &least})
	}
	ops = append(ops,
		kv.Op{Kind: kv.OpPut, Key: []byte(crash.KVRow(n)), Value: fmt.Append(nil, amount)},
		kv.Op{Kind: kv.OpAdd, Key: []byte(crash.KVTimes(n)), Delta: 1})
	_, err := c.db.Apply(ctx, ops...)
	return err
}

func (c atKV) read(ctx context.Context, account int) error {
	_, _, err := c.db.Get(ctx, crash.KVBalance(account))
	return err
}

// atService refuses an overdrawn account when it is asked to prepare.
type atService struct{ url string }

func (c atService) move(ctx context.Context, n, amount int64, legs []crash.Leg) error {
	return c.work(ctx, crash.Job{N: n, Amount: amount, Legs: legs})
}

func (c atService) read(ctx context.Context, _ int) error { return c.work(ctx, crash.Job{}) }

// work is the one call that a transfer makes of the service, under the name of its branch.
func (c atService) work(ctx context.Context, job crash.Job) error {
	joined, err := client.Join(ctx, crash.Service.String(),
		func(ctx context.Context, _ client.OpenOptions) (client.Branch, error) {
			name, err := client.NameFrom(ctx, crash.Service.String())
			return &errand{branch: name.String()}, err
		})
	if err != nil {
		return err
	}
	e, ok := joined.(*errand)
	if !ok {
		return errors.New("teller: the service is used by somebody else in this transaction")
	}
	job.Branch, job.Call = e.branch, 1
	e.failed = post(ctx, c.url+"/work", job)
	return e.failed
}

// errand is the branch at the service, which keeps its work: the coordinator asks there.
type errand struct {
	branch string
	failed error
}

var _ client.Branch = (*errand)(nil)

// Review implements client.Branch.
func (e *errand) Review(context.Context) client.Review {
	if e.failed != nil {
		return client.Review{Finding: client.FoundFailed, Reason: e.failed.Error(), Err: e.failed}
	}
	return client.Review{Finding: client.FoundWriter, Elsewhere: true}
}

// Prepare implements client.Branch.
func (e *errand) Prepare(context.Context, txn.Name) client.Ending { return client.Ending{} }

// Finish implements client.Branch.
func (e *errand) Finish(context.Context, bool) client.Ending { return client.Ending{} }

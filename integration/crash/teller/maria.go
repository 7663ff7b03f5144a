package main

import (
	"context"
	"database/sql"
	"errors"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/txn"
)

// atMariaDB: a stand-in.
type atMariaDB struct{ db *sql.DB }

func newAtMariaDB(db *sql.DB) atMariaDB { return atMariaDB{db} }

func (c atMariaDB) join(ctx context.Context) (*xa, error) {
	joined, err := client.Join(ctx, crash.MariaDB.String(),
		func(ctx context.Context, _ client.OpenOptions) (client.Branch, error) {
			name, err := client.NameFrom(ctx, crash.MariaDB.String())
			if err != nil {
				return nil, err
			}
			conn, err := c.db.Conn(ctx)
			if err != nil {
				return nil, err
			}
			b, err := xabranch.Begin(ctx, conn, name)
			if err != nil {
				xabranch.Discard(conn)
				conn.Close()
				return nil, err
			}
			return &xa{conn, b}, nil
		})
	if err != nil {
		return nil, err
	}
	return joined.(*xa), nil
}

func (c atMariaDB) move(ctx context.Context, n, amount int64, legs []crash.Leg) error {
	x, err := c.join(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range legs {
		_, err := x.b.Exec(ctx, crash.MariaBalanceSQL, l.Amount, l.Account)
		errs = append(errs, err)
	}
	_, err = x.b.Exec(ctx, crash.MariaLedgerSQL, n, amount)
	return errors.Join(append(errs, err)...)
}

func (c atMariaDB) read(ctx context.Context, account int) error {
	x, err := c.join(ctx)
	if err != nil {
		return err
	}
	rows, err := x.b.Query(ctx, crash.MariaReadSQL, account)
	if err != nil {
		return err
	}
	return rows.Close()
}

type xa struct {
	conn *sql.Conn
	b    *xabranch.Branch
}

func (x *xa) Review(context.Context) client.Review {
	return client.Review{Finding: client.FoundWriter}
}

func (x *xa) Prepare(ctx context.Context, _ txn.Name) client.Ending {
	v := x.b.Prepare(ctx, xabranch.PrepareOptions{})
	x.conn.Close()
	e := client.Ending{Evidence: v.Evidence, Reason: v.Reason, SQLState: v.SQLState, Err: v.Err}
	switch v.Vote {
	case txn.VoteYes:
		e.Standing = txn.StandingPrepared
	case txn.VoteNo:
		e.Standing = txn.StandingRolledBack
	}
	return e
}

func (x *xa) Finish(ctx context.Context, _ bool) client.Ending {
	err := x.b.Rollback(ctx)
	x.conn.Close()
	return client.Ending{Standing: txn.StandingRolledBack, Err: err}
}

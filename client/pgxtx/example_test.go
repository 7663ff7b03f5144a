package pgxtx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/txn"
)

// exampleBank opens what the examples need: two pools, and a coordinator within this process.
func exampleBank() (poolA, poolB *pgxpool.Pool, c *client.Client, done func()) {
	ctx := context.Background()
	var closers []io.Closer
	dir, err := os.MkdirTemp("", "gavel-example-")
	if err != nil {
		panic(err)
	}
	coord, err := openCoordinator(ctx, dir, func(c io.Closer) { closers = append(closers, c) })
	if err != nil {
		panic(err)
	}
	for _, db := range []struct {
		dsn string
		to  **pgxpool.Pool
	}{{srvA.DSN("postgres"), &poolA}, {srvB.DSN("postgres"), &poolB}} {
		if *db.to, err = pgxpool.New(ctx, db.dsn); err != nil {
			panic(err)
		}
		_, err := (*db.to).Exec(ctx, `TRUNCATE acct;
			INSERT INTO acct VALUES ('alice', 100), ('bob', 100)`)
		if err != nil {
			panic(err)
		}
	}
	c = client.New(coord)
	awaitRegistration(c)
	return poolA, poolB, c, func() {
		poolA.Close()
		poolB.Close()
		for _, x := range slices.Backward(closers) {
			x.Close()
		}
		os.RemoveAll(dir)
	}
}

// awaitRegistration waits until the coordinator has met its databases.
func awaitRegistration(c *client.Client) {
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for {
		err := c.InTx(context.Background(), func(ctx context.Context) error {
			a := pgxtx.New("bank_a", nil)
			_, _ = client.Join(ctx, a.Resource(), stranger)
			_, _ = client.Join(ctx, "bank_b", stranger)
			_, err := client.IDFrom(ctx)
			return errors.Join(err, errPoor)
		})
		if txn.ReasonOf(err) == "" {
			return
		}
		<-again.C
	}
}

// A transfer between two databases: both sides, or none.
func ExampleNew() {
	poolA, poolB, c, done := exampleBank()
	defer done()
	bankA, bankB := pgxtx.New("bank_a", poolA), pgxtx.New("bank_b", poolB)
	transfer := func(ctx context.Context, amount int) error {
		return c.InTx(ctx, func(ctx context.Context) error {
			_, err := bankA.Exec(ctx, `UPDATE acct SET bal = bal - $1 WHERE id = 'alice'`, amount)
			if err != nil {
				return err
			}
			_, err = bankB.Exec(ctx, `UPDATE acct SET bal = bal + $1 WHERE id = 'bob'`, amount)
			return err
		}, client.Name("transfer"), client.Retry(3))
	}
	ctx := context.Background()
	for _, amount := range []int{30, 1000} {
		err := transfer(ctx, amount)
		aborted, rolledBack := errors.AsType[*client.AbortedError](err)
		switch {
		case err == nil:
			fmt.Println(amount, "moved")
		case errors.Is(err, client.ErrInDoubt):
			fmt.Println(amount, "unknown: ask again with Await", client.IDOf(err))
		case rolledBack:
			fmt.Println(amount, "not moved, SQLSTATE", aborted.SQLState)
		}
	}
	var alice, bob int
	_ = poolA.QueryRow(ctx, `SELECT bal FROM acct WHERE id = 'alice'`).Scan(&alice)
	_ = poolB.QueryRow(ctx, `SELECT bal FROM acct WHERE id = 'bob'`).Scan(&bob)
	fmt.Println(alice, bob)
	// Output:
	// 30 moved
	// 1000 not moved, SQLSTATE 23514
	// 70 130
}

// A savepoint undoes a part of the work at one database, errors included.
func ExampleDB_Tx() {
	poolA, _, c, done := exampleBank()
	defer done()
	bankA := pgxtx.New("bank_a", poolA)
	ctx := context.Background()
	err := c.InTx(ctx, func(ctx context.Context) error {
		branch, err := bankA.Tx(ctx)
		if err != nil {
			return err
		}
		// pgx rolls back to the savepoint if the function returns an error.
		_ = pgx.BeginFunc(ctx, branch, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `INSERT INTO acct VALUES ('alice', 0)`) // a duplicate
			return err
		})
		_, err = bankA.Exec(ctx, `UPDATE acct SET bal = bal + 1 WHERE id = 'alice'`)
		return err
	})
	var alice int
	_ = poolA.QueryRow(ctx, `SELECT bal FROM acct WHERE id = 'alice'`).Scan(&alice)
	fmt.Println(err, alice)
	// Output:
	// <nil> 101
}

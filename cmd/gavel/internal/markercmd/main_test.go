package markercmd_test

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
const pure = "^TestCommandLine.*$"

// srv is the server of the tests with a database.
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
	if srv, err = inst.Start(ctx, pghost.Config{Name: "markers"}); err != nil {
		return err
	}
	return srv.Exec(ctx, "postgres", `CREATE ROLE gavel LOGIN; CREATE ROLE "the app" LOGIN;
		CREATE ROLE keeper LOGIN`)
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

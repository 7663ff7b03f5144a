package schemacmd_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/participant/mysql/mariahost"
)

// pure are the tests that need no database. -short leaves all others out.
const pure = "^TestCommandLine.*$"

// srv is the server of the tests with a database.
var srv *mariahost.Server

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
	inst, err := mariahost.Find()
	if err != nil {
		return err
	}
	if srv, err = inst.Start(ctx, mariahost.Config{Name: "schema"}); err != nil {
		return err
	}
	return srv.Exec(ctx, "CREATE DATABASE my_stock", "CREATE USER gavel@localhost",
		"CREATE USER `the app`@localhost", "CREATE USER guest@localhost",
		"GRANT ALL ON my_stock.* TO `the app`@localhost")
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

package pghost_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/participant/postgres/pghost"
)

// childEnv makes the test binary play a program that starts a server and then hangs, to be killed.
const childEnv = "PGHOST_TEST_CHILD"

// srv is shared by the tests that only look at a server.
var srv *pghost.Server

// TestMain starts a server. Under -short there is none, and only what starts none is run.
func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx := context.Background()
	if testing.Short() {
		flag.Set("test.run", "^(TestFind|TestMajor|TestSettings|TestInstall|TestForbid)")
	} else if err := startServer(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if os.Getenv(childEnv) != "" {
		fmt.Println(srv.DSN("postgres"))
		_, _ = io.Copy(io.Discard, os.Stdin)
		return 1
	}
	code := m.Run()
	if srv != nil {
		if err := srv.Stop(ctx); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func startServer(ctx context.Context) error {
	inst, err := pghost.Ensure(ctx, os.Stderr)
	if err != nil {
		return err
	}
	srv, err = inst.Start(ctx, pghost.Config{Name: "pghost test"})
	return err
}

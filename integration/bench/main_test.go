package bench

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/participant/postgres/pghost"
)

// databaseTests are the tests that need databases. -short leaves them out.
const databaseTests = "^TestDatabases"

// srv has the two databases of those tests.
var srv *pghost.Server

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	if testing.Short() {
		if err := flag.Set("test.skip", databaseTests); err != nil {
			return fail(err)
		}
	} else {
		if err := start(context.Background()); err != nil {
			return fail(err)
		}
		defer stop()
	}
	code := m.Run()
	stop()
	if err := goleak.Find(); err != nil && code == 0 {
		return fail(err)
	}
	return code
}

func start(ctx context.Context) (err error) {
	inst, err := pghost.Ensure(ctx, os.Stderr)
	if err != nil {
		return err
	}
	srv, err = inst.Start(ctx, pghost.Config{Name: "bench"})
	if err != nil {
		return err
	}
	for _, name := range []string{"bank_a", "bank_b"} {
		if err := srv.CreateDatabase(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// stop may be called twice.
func stop() {
	if srv == nil {
		return
	}
	if err := srv.Stop(context.Background()); err != nil {
		fail(err)
	}
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

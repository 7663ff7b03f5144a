package sqltx_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/participant/postgres/pghost"
)

// The two databases of all tests.
var srvs [2]*pghost.Server

// With -short what needs a database is left out.
func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	ctx := context.Background()
	if testing.Short() {
		if err := flag.Set("test.run", "^$"); err != nil {
			return fail(err)
		}
	} else {
		err := start(ctx)
		defer stop(ctx)
		if err != nil {
			return fail(err)
		}
	}
	code := m.Run()
	stop(ctx)
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
	for i, name := range []string{"bank_a", "bank_b"} {
		if srvs[i], err = inst.Start(ctx, pghost.Config{Name: name}); err != nil {
			return err
		}
		if err = srvs[i].Exec(ctx, "postgres", `
			CREATE TABLE acct (id text PRIMARY KEY, bal bigint NOT NULL CHECK (bal >= 0));
			CREATE TABLE once (id int UNIQUE DEFERRABLE INITIALLY DEFERRED);
			CREATE ROLE gavel_owner NOLOGIN`); err != nil {
			return err
		}
	}
	return nil
}

// stop may be called twice.
func stop(ctx context.Context) {
	for _, s := range srvs {
		if s == nil {
			continue
		}
		if err := s.Stop(ctx); err != nil {
			fail(err)
		}
	}
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

package banks

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/participant/postgres/pghost"
)

// A and B are the servers of the two databases while [Main] runs tests.
var A, B *pghost.Server

// Main starts the servers, runs the tests, and returns the code to exit with: not zero too if a
// goroutine is left. Pure is the pattern of the tests that need no database, which are all that
// -short runs. After, if not nil, is called before it looks for goroutines.
func Main(m *testing.M, pure string, after func()) int {
	flag.Parse()
	ctx := context.Background()
	if testing.Short() {
		if err := flag.Set("test.run", pure); err != nil {
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
	if after != nil {
		after()
	}
	// Connections that a test broke on purpose end in the background, within pgconn's own bound.
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
	for _, s := range []struct {
		name string
		at   **pghost.Server
	}{{"bank_a", &A}, {"bank_b", &B}} {
		if *s.at, err = inst.Start(ctx, pghost.Config{Name: s.name}); err != nil {
			return err
		}
		err = (*s.at).Exec(ctx, "postgres", `
			CREATE TABLE acct (id text PRIMARY KEY, bal bigint NOT NULL CHECK (bal >= 0));
			CREATE TABLE notes (note text)`)
		if err != nil {
			return err
		}
	}
	return nil
}

// stop may be called twice.
func stop(ctx context.Context) {
	for _, s := range []*pghost.Server{A, B} {
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

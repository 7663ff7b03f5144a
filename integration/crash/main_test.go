package crash_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/participant/postgres/pghost"
)

// Two servers and two binaries, for the whole package.
var shared struct {
	servers [2]*pghost.Server
	gavel   string
	teller  string
	// databases numbers the worlds' databases.
	databases atomic.Int64
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	dir, err := os.MkdirTemp("", "gavel-crash-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	ctx, code := context.Background(), 1
	if testing.Short() {
		// What remains needs no processes: the checker, the table, the lines, the post.
		err = flag.Set("test.skip", "^Test(KillTable|CheckerComplains|Binary)")
	} else {
		err = errors.Join(build(ctx, dir), startServers(ctx))
	}
	if err == nil {
		code = m.Run()
	}
	if err = errors.Join(err, stopServers(ctx), goleak.Find()); err != nil {
		return fail(err)
	}
	return code
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// build makes the binaries that report their steps.
func build(ctx context.Context, dir string) error {
	overlay, err := shrink(dir)
	if err != nil {
		return err
	}
	shared.gavel, shared.teller = filepath.Join(dir, "gavel"), filepath.Join(dir, "teller")
	return goBuild(ctx, "-tags", "failpoints", "-overlay", overlay, "-o", dir+"/",
		"./cmd/gavel", "./integration/crash/teller")
}

func startServers(ctx context.Context) error {
	inst, err := pghost.Ensure(ctx, os.Stderr)
	if err != nil {
		return err
	}
	settings := map[string]string{
		// A backend that is killed makes the server recover. To sync every file of the cluster one
		// by one before that protects from power cuts, and there are none here.
		"recovery_init_sync_method": "syncfs",
		"autovacuum":                "off",
	}
	for i, name := range []string{"bank a", "bank b"} {
		conf := pghost.Config{Name: name, Settings: settings}
		if shared.servers[i], err = inst.Start(ctx, conf); err != nil {
			return err
		}
	}
	return nil
}

func stopServers(ctx context.Context) error {
	var errs []error
	for _, s := range shared.servers {
		if s != nil {
			errs = append(errs, s.Stop(ctx))
		}
	}
	return errors.Join(errs...)
}

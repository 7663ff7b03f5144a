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

	driver "github.com/go-sql-driver/mysql"
	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
)

// Two servers and three binaries, for the whole package.
var shared struct {
	servers [2]*pghost.Server
	gavel   string
	teller  string
	purse   string
	// databases numbers the worlds' databases.
	databases atomic.Int64
	faults    crash.Faults
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	// The driver writes a line for each connection that a killed server has cut.
	if err := driver.SetLogger(&driver.NopLogger{}); err != nil {
		return fail(err)
	}
	dir, err := os.MkdirTemp("", "gavel-crash-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	ctx, code := context.Background(), 1
	if testing.Short() {
		// What remains needs no processes: the checker, the table, the lines, the post.
		err = flag.Set("test.skip", "^Test(KillTable|CheckerComplains|Binary|Real)")
	} else {
		err = errors.Join(compile(ctx, dir), startServers(ctx))
	}
	if err == nil {
		code = m.Run()
		err = tellFaults()
	}
	if err = errors.Join(err, stopServers(ctx), goleak.Find()); err != nil {
		return fail(err)
	}
	return code
}

// tellFaults prints what was done. In a run of all tests nothing may be missing: a fault that never
// happened has proven nothing.
func tellFaults() error {
	fmt.Println("crash:", shared.faults.String())
	for _, name := range []string{"test.run", "test.skip", "test.list"} {
		if flag.Lookup(name).Value.String() != "" {
			return nil
		}
	}
	if missing := shared.faults.Missing(); len(missing) > 0 {
		return fmt.Errorf("crash: these faults never happened: %v", missing)
	}
	return nil
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// compile makes the binaries that report their steps.
func compile(ctx context.Context, dir string) error {
	overlay, err := shrink(dir)
	if err != nil {
		return err
	}
	shared.gavel, shared.teller = filepath.Join(dir, "gavel"), filepath.Join(dir, "teller")
	shared.purse = filepath.Join(dir, "purse")
	return goBuild(ctx, "-tags", "failpoints", "-overlay", overlay, "-o", dir+"/",
		"./cmd/gavel", "./integration/crash/teller", "./integration/crash/purse")
}

func startServers(ctx context.Context) error {
	inst, err := pghost.Ensure(ctx, os.Stderr)
	if err != nil {
		return err
	}
	for i, name := range []string{"bank a", "bank b"} {
		conf := pghost.Config{Name: name, Settings: quick()}
		if shared.servers[i], err = inst.Start(ctx, conf); err != nil {
			return err
		}
	}
	return nil
}

// quick are the settings of servers that recover often.
func quick() map[string]string {
	return map[string]string{
		// A backend that is killed makes the server recover. To sync every file of the cluster one
		// by one before that protects from power cuts, and there are none here.
		"recovery_init_sync_method": "syncfs",
		"autovacuum":                "off",
	}
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

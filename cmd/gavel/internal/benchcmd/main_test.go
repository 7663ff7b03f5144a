package benchcmd_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/cli"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
)

// pure are the tests that need no database. -short leaves all others out.
const pure = "^(TestUsage|TestUnreachable|TestNotPostgres|TestExplain|TestPublish|" +
	"TestCoordinator.*|TestServerSettings)$"

// TestMain also plays the part of the binary: the benchmark starts its own program as
// coordinator, and here that is the test's.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "coordinator" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		os.Exit(int(cli.Run(ctx, ui.Process(), os.Args[1:])))
	}
	flag.Parse()
	if testing.Short() {
		if err := flag.Set("test.run", pure); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}

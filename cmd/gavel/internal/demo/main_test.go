package demo_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/cli"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
)

// pure are the tests that start no process. -short leaves all others out.
const pure = "^(TestAudit.*|TestTally|TestTransfer|TestAnswers|TestUsage|TestAWitness)$"

// TestMain also plays the part of the binary: the demo starts its own program as coordinator and as
// participant, and here that is the test's.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && slices.Contains([]string{"coordinator", "participant"}, os.Args[1]) {
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

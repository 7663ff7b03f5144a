// Command gavel is the one binary: coordinator, participant, and the tools around them.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/cli"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal ends in order. From then on signals act as they do by nature, so that the
	// second one ends at once, which is no worse than a crash.
	context.AfterFunc(ctx, stop)
	os.Exit(int(cli.Run(ctx, ui.Process(), os.Args[1:])))
}

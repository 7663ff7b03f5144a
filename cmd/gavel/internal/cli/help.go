package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/build"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
)

func writeVersion(io ui.IO, info build.Info) error {
	commit := info.Revision
	if info.Modified {
		commit += " with changes"
	}
	_, err := fmt.Fprintf(io.Out, "gavel       %s\ncommit      %s %s\nbuilt with  %s for %s\n"+
		"log format  %d\nAPI         %s\n", info.Version, commit, info.Time, info.Go, info.Platform,
		info.LogFormat, info.API)
	return err
}

// exitCodes is a help topic.
func exitCodes() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		Long: `What the exit codes mean, for scripts:

  0    done, and the answer is yes
  1    the answer is no: unhealthy, not found, damaged, or something is left to do
  2    the command line or the configuration is wrong
  3    a coordinator or a resource cannot be reached
  4    refused: going on would endanger data, or somebody else is in charge
  5    the outcome of a transaction is unknown, or not decided yet
  6    a transaction is rolled back: nothing of it remains
  70   the log failed; start the coordinator again, it finishes what is in doubt
  130  interrupted`,
		Example: "  gavel help exit-codes",
	}
}

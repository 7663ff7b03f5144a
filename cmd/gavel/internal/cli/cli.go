// Package cli is the command tree of gavel, and what holds for all of it: a typo, a group without
// its command, an unknown flag and a missing argument all exit with 2 and say what may have been
// meant; every other error goes through the one table of package exit.
package cli

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/benchcmd"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/build"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/coordinatorcmd"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/demo"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/execcmd"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/guess"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/kvcmd"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/logcmd"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/markercmd"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/participantcmd"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/recovercmd"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/schemacmd"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/txcmd"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
)

// Run runs one command line, without the program's name, and returns its exit code.
func Run(ctx context.Context, io ui.IO, args []string) exit.Code {
	started := false
	root := Tree(io)
	eachCommand(root, func(c *cobra.Command) {
		if inner := c.RunE; inner != nil {
			c.RunE = func(c *cobra.Command, args []string) error {
				started = true
				return inner(c, args)
			}
		}
	})
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if _, ok := errors.AsType[*exit.Error](err); err != nil && !ok && !started {
		// Whatever cobra refuses before a command starts is about the command line.
		err = exit.Usagef("See gavel help.", "%v", err)
	}
	return exit.Print(io.Err, err)
}

func eachCommand(c *cobra.Command, do func(*cobra.Command)) {
	do(c)
	for _, sub := range c.Commands() {
		eachCommand(sub, do)
	}
}

// Tree is the whole command tree.
func Tree(io ui.IO) *cobra.Command {
	root := &cobra.Command{
		Use:   "gavel",
		Short: "Atomic commits across databases and services",
		Long: `Atomic commits across databases and services: one transaction over several of them,
all of it or none of it, whatever crashes.`,
		Example: `  gavel demo
  gavel log init /var/lib/gavel
  gavel coordinator --data /var/lib/gavel --resource bank_a=env:BANK_A --resource bank_b=env:BANK_B
  gavel tx ls`,
		Version:           build.Read().Version,
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
	}
	root.SetOut(io.Out)
	root.SetErr(io.Err)
	root.AddGroup(
		&cobra.Group{ID: "start", Title: "Start:"},
		&cobra.Group{ID: "use", Title: "Use:"},
		&cobra.Group{ID: "repair", Title: "Repair:"},
		&cobra.Group{ID: "measure", Title: "Measure:"},
	)
	add(root, "start", demo.Command(io), coordinatorcmd.Command(io), participantcmd.Command(io),
		schemacmd.Command(io), markercmd.Command(io))
	add(root, "use", txcmd.Command(io), execcmd.Command(io))
	add(root, "repair", recovercmd.Command(io), logcmd.Command(io), kvcmd.Command(io))
	add(root, "measure", benchcmd.Command(io))
	root.AddCommand(versionCommand(io), exitCodes())
	root.SetFlagErrorFunc(flagError)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	eachCommand(root, strict)
	return root
}

func add(root *cobra.Command, group string, cmds ...*cobra.Command) {
	for _, c := range cmds {
		c.GroupID = group
		root.AddCommand(c)
	}
}

// strict makes a group refuse what it does not know. Cobra prints the help of a group and exits
// with 0 when its command is misspelt.
func strict(c *cobra.Command) {
	c.Flags().SortFlags = false
	if c.Runnable() && c.HasSubCommands() || !c.HasSubCommands() {
		return
	}
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(c *cobra.Command, args []string) error {
		names := subcommands(c)
		if len(args) == 0 && c == c.Root() {
			// Somebody who only types the name wants to know what there is.
			return errors.Join(exit.Silent(exit.Usage), c.Usage())
		}
		if len(args) == 0 {
			return exit.Usagef("See "+c.CommandPath()+" --help.", "%s needs a command: %s",
				c.CommandPath(), strings.Join(names, ", "))
		}
		do := guess.DidYouMean(args[0], names)
		if do == "" {
			do = "See " + c.CommandPath() + " --help."
		}
		return exit.Usagef(do, "unknown command %q for %q", args[0], c.CommandPath())
	}
}

func subcommands(c *cobra.Command) []string {
	var names []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() || sub.Name() == "help" {
			names = append(names, sub.Name())
		}
	}
	return names
}

// flagError guesses which flag was meant.
func flagError(c *cobra.Command, err error) error {
	do := "See " + c.CommandPath() + " --help."
	if missing, ok := errors.AsType[*pflag.NotExistError](err); ok {
		var names []string
		c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if g := guess.Closest(missing.GetSpecifiedName(), names); g != "" {
			do = "Did you mean --" + g + "?"
		}
	}
	return exit.Usagef(do, "%v", err)
}

func versionCommand(io ui.IO) *cobra.Command {
	format := ui.Table
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the build, the log format and the API version",
		Example: "  gavel version\n  gavel version -o json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			info := build.Read()
			if format == ui.JSON {
				return ui.WriteJSON(io.Out, info)
			}
			return writeVersion(io, info)
		},
	}
	cmd.Flags().VarP(&format, "output", "o", "format of the answer")
	return cmd
}

// Package logcmd is `gavel log`: making a log, and looking into one.
//
// verify, dump and stat take no lock and change nothing; they work beside a running coordinator
// and on copies. init and adopt are the only ways in which a log comes to be: a lost directory
// never becomes a fresh log by itself, because amnesia and presumed abort together would roll back
// committed work.
package logcmd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txlog/vfs"
)

// Command is `gavel log` with its commands.
func Command(io ui.IO) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Make, check and read transaction logs",
		Example: `  gavel log init /var/lib/gavel
  gavel log verify /var/lib/gavel
  gavel log dump /var/lib/gavel --tx 01a2048d-9cda-8b9f-8000-000000000007`,
	}
	cmd.AddCommand(initCommand(io), verifyCommand(io), dumpCommand(io), statCommand(io),
		adoptCommand(io))
	return cmd
}

// output adds -o.
func output(cmd *cobra.Command, format *ui.Format) *cobra.Command {
	cmd.Flags().VarP(format, "output", "o", "format of the answer")
	return cmd
}

const initLong = `Make a new, empty log with an identity of its own. Do this once, when a
coordinator is set up. It refuses a directory that holds anything of a log.`

func initCommand(io ui.IO) *cobra.Command {
	format := ui.Table
	var ifMissing bool
	cmd := &cobra.Command{
		Use:     "init DIR",
		Short:   "Make a new, empty log",
		Long:    initLong,
		Example: "  gavel log init /var/lib/gavel\n  gavel log init --if-missing /var/lib/gavel",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return runInit(io, args[0], ifMissing, format)
		},
	}
	cmd.Flags().BoolVar(&ifMissing, "if-missing", false,
		"leave a log that is there as it is, and exit 0")
	return output(cmd, &format)
}

// made is the answer of init.
type made struct {
	Dir  string `json:"dir"`
	Log  string `json:"log_id"`
	Made bool   `json:"made"`
}

func runInit(io ui.IO, dir string, ifMissing bool, format ui.Format) error {
	if err := makeParents(vfs.OS(), filepath.Clean(dir)); err != nil {
		return &exit.Error{Code: exit.Refused, What: err.Error(), Err: err}
	}
	id, err := coordinator.Init(vfs.OS(), dir)
	answer := made{Dir: dir, Log: id.String(), Made: true}
	if ifMissing && errors.Is(err, txlog.ErrExists) {
		// Only a log that can be read counts as being there.
		info, statErr := txlog.Stat(vfs.OS(), dir)
		if statErr != nil {
			return exit.Log(dir, statErr)
		}
		answer, err = made{Dir: dir, Log: info.ID.String()}, nil
	}
	if err != nil {
		return exit.Log(dir, err)
	}
	if format == ui.JSON {
		return ui.WriteJSON(io.Out, answer)
	}
	if answer.Made {
		_, err = fmt.Fprintf(io.Out, "made log %s in %s\n", answer.Log, dir)
	} else {
		_, err = fmt.Fprintf(io.Out, "log %s is in %s already\n", answer.Log, dir)
	}
	return err
}

// makeParents makes what is missing above dir, durably: a log whose directory can vanish in a power
// failure is not there. The log makes dir itself.
func makeParents(fsys vfs.FS, dir string) error {
	parent := filepath.Dir(dir)
	if _, err := fsys.Stat(parent); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeParents(fsys, parent); err != nil {
		return err
	}
	if err := fsys.Mkdir(parent); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(parent))
}

const adoptLong = `Turn a copy of a log (a restored backup, a moved directory) into a log with
an identity of its own. Its unfinished decisions come along and will be finished. Branches
without a decision in the copy stay prepared, for an operator: the lost original may have
decided them.

Do this only if the original is gone for good.`

func adoptCommand(io ui.IO) *cobra.Command {
	format := ui.Table
	cmd := &cobra.Command{
		Use:     "adopt DIR",
		Short:   "Turn a copy of a log into a log of its own",
		Long:    adoptLong,
		Example: "  gavel log adopt /var/lib/gavel-restored",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return runAdopt(io, args[0], format)
		},
	}
	return output(cmd, &format)
}

// adopted is the answer of adopt.
type adopted struct {
	Dir       string `json:"dir"`
	Old       string `json:"old_log_id"`
	New       string `json:"new_log_id"`
	Aside     string `json:"old_files"`
	Decisions int    `json:"unfinished_decisions"`
}

func runAdopt(io ui.IO, dir string, format ui.Format) error {
	a, err := coordinator.Adopt(vfs.OS(), dir)
	if err != nil {
		return exit.Log(dir, err)
	}
	if format == ui.JSON {
		return ui.WriteJSON(io.Out,
			adopted{dir, a.Old.String(), a.New.String(), a.Aside, a.Decisions})
	}
	_, err = fmt.Fprintf(io.Out, "%s is now log %s, with %d unfinished decisions of log %s\n"+
		"the old files are in %s\n", dir, a.New, a.Decisions, a.Old, a.Aside)
	return err
}

// isDir refuses what is no directory with a log, before a progress bar is drawn for nothing.
func isDir(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return exit.Log(dir, fmt.Errorf("%w: %s does not exist", txlog.ErrNotALog, dir))
	}
	return nil
}

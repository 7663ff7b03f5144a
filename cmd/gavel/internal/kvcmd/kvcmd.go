// Package kvcmd is `gavel kv`: what is done to a key-value store while nobody has it open.
package kvcmd

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/resource"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/participant/kv"
)

// lockWait is how long a store's process is waited for.
const lockWait = time.Second

// Command is `gavel kv` with its commands.
func Command(io ui.IO) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "kv",
		Short:   "Look after key-value stores",
		Example: "  gavel kv compact /var/lib/stock",
	}
	cmd.AddCommand(compactCommand(io))
	return cmd
}

const compactLong = `Write the file of a key-value store anew, without the room that deleted entries
have left. The store uses such room again, and never gives it back to the disk.

No process may have the store open, and the disk needs room for a second copy of what is in
use. A crash in the middle leaves the store as it was.`

func compactCommand(io ui.IO) *cobra.Command {
	format := ui.Table
	cmd := &cobra.Command{
		Use:     "compact DIR",
		Short:   "Give free room in a store's file back to the disk",
		Long:    compactLong,
		Example: "  gavel kv compact /var/lib/stock",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return runCompact(io, args[0], format)
		},
	}
	cmd.Flags().VarP(&format, "output", "o", "format of the answer")
	return cmd
}

// compacted is the answer of compact.
type compacted struct {
	Dir    string `json:"dir"`
	Before int64  `json:"bytes_before"`
	After  int64  `json:"bytes_after"`
}

func runCompact(io ui.IO, dir string, format ui.Format) error {
	c, err := kv.Compact(dir, lockWait)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &exit.Error{Code: exit.Refused, Err: err, Data: "Nothing was changed.",
			What: fmt.Sprintf("there is no store in %s", dir),
			Do:   "Name the directory that --kv or kv: names, in which the file kv.db is."}
	case err != nil:
		return refused(resource.InUse(dir, err, "Stop that process, and try again."))
	case format == ui.JSON:
		return ui.WriteJSON(io.Out, compacted{dir, c.Before, c.After})
	}
	_, err = fmt.Fprintf(io.Out, "the file of %s had %s, and has %s\n", dir, ui.SizeText(c.Before),
		ui.SizeText(c.After))
	return err
}

// refused says what it means that a compaction failed.
func refused(err error) error {
	if _, ok := errors.AsType[*exit.Error](err); ok {
		return err
	}
	return &exit.Error{Code: exit.Refused, Err: err, What: err.Error(),
		Data: "The store holds what it held.",
		Do: "See that the disk has room for a second copy, and that the file is a store of this " +
			"version; then try again."}
}

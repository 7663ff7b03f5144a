package logcmd

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txlog/vfs"
)

const verifyLong = `Read every byte of a log and report everything that no crash explains, with
file and offset. It changes nothing and may run beside a coordinator. It exits 1 if the log is
damaged; the end of the log that a crash cut off is no damage.`

func verifyCommand(io ui.IO) *cobra.Command {
	format := ui.Table
	cmd := &cobra.Command{
		Use:     "verify DIR",
		Short:   "Read every byte of a log and report damage",
		Long:    verifyLong,
		Example: "  gavel log verify /var/lib/gavel\n  gavel log verify /var/lib/gavel -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return runVerify(io, args[0], format)
		},
	}
	return output(cmd, &format)
}

// statistics describe a log. The JSON is part of the contract.
type statistics struct {
	Log       string    `json:"log_id"`
	Created   time.Time `json:"created"`
	Epoch     uint32    `json:"epoch"`
	Copy      bool      `json:"copy"`
	Clean     bool      `json:"closed_in_order"`
	Tail      uint64    `json:"tail_lsn"`
	Durable   uint64    `json:"durable_lsn"`
	Torn      int64     `json:"torn_bytes"`
	Snapshot  uint64    `json:"snapshot_lsn"`
	Segments  int       `json:"segments"`
	Snapshots int       `json:"snapshots"`
	Bytes     int64     `json:"bytes"`
	Frames    uint64    `json:"frames"`
	Records   uint64    `json:"records"`
}

func describe(i txlog.Info) statistics {
	return statistics{Log: i.ID.String(), Created: i.Created, Epoch: uint32(i.Epoch), Copy: i.Copy,
		Clean: i.Clean, Tail: i.Tail, Durable: i.Durable, Torn: i.TornBytes, Snapshot: i.Snapshot,
		Segments: i.Segments, Snapshots: i.Snapshots, Bytes: i.Bytes, Frames: i.Frames,
		Records: i.Records}
}

// verdict is the answer of verify.
type verdict struct {
	statistics
	Checked int64   `json:"checked_bytes"`
	OK      bool    `json:"ok"`
	Faults  []fault `json:"faults"`
}

type fault struct {
	File   string `json:"file"`
	Offset int64  `json:"offset"`
	LSN    uint64 `json:"lsn,omitempty"`
	What   string `json:"what"`
}

func runVerify(io ui.IO, dir string, format ui.Format) error {
	if err := isDir(dir); err != nil {
		return err
	}
	bar := io.Bar("Reading log", ui.Bytes, 0)
	rep, err := txlog.Verify(vfs.OS(), dir, bar.Set)
	bar.Done()
	if err != nil {
		return exit.Log(dir, err)
	}
	v := verdict{statistics: describe(rep.Info), Checked: rep.Checked, OK: len(rep.Faults) == 0,
		Faults: []fault{}}
	for _, f := range rep.Faults {
		v.Faults = append(v.Faults, fault{f.File, f.Offset, f.LSN, f.Err.Error()})
	}
	if format == ui.JSON {
		if err := ui.WriteJSON(io.Out, v); err != nil {
			return err
		}
	} else {
		v.print(io)
	}
	if !v.OK {
		return exit.Silent(exit.No)
	}
	return nil
}

func (v verdict) print(io ui.IO) {
	if v.OK {
		fmt.Fprintf(io.Out, "ok: log %s, %d records in %d frames, %s checked\n", v.Log, v.Records,
			v.Frames, ui.SizeText(v.Checked))
		if v.Torn > 0 {
			fmt.Fprintf(io.Out,
				"the last write was cut off (%d bytes); the next start discards it\n", v.Torn)
		}
		if v.Copy {
			fmt.Fprintln(io.Out, "this directory is a copy of a log")
		}
		return
	}
	rows := make([][]string, len(v.Faults))
	for i, f := range v.Faults {
		rows[i] = []string{f.File, fmt.Sprint(f.Offset), f.What}
	}
	ui.Rows(io.Out, []string{"file", "offset", "damage"}, rows)
	fmt.Fprintln(io.Out, "damaged: no coordinator will open this log. Nothing without a record in "+
		"it may be presumed aborted.")
}

func statCommand(io ui.IO) *cobra.Command {
	format := ui.Table
	cmd := &cobra.Command{
		Use:     "stat DIR",
		Short:   "Describe a log: identity, epoch, size, how it ended",
		Example: "  gavel log stat /var/lib/gavel\n  gavel log stat /var/lib/gavel -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			info, err := txlog.Stat(vfs.OS(), args[0])
			if err != nil {
				return exit.Log(args[0], err)
			}
			if format == ui.JSON {
				return ui.WriteJSON(io.Out, describe(info))
			}
			describe(info).print(io)
			return nil
		},
	}
	return output(cmd, &format)
}

func (s statistics) print(io ui.IO) {
	ended := "still open, or ended by a crash"
	if s.Clean {
		ended = "closed in order"
	}
	if s.Copy {
		ended += "; this directory is a COPY"
	}
	for _, row := range [][2]string{
		{"log id", s.Log}, {"created", s.Created.Format(time.RFC3339)},
		{"epoch", fmt.Sprint(s.Epoch)}, {"state", ended},
		{"tail", fmt.Sprintf("LSN %d, known durable to %d, torn bytes %d", s.Tail, s.Durable,
			s.Torn)},
		{"snapshot", fmt.Sprintf("LSN %d, %d on disk", s.Snapshot, s.Snapshots)},
		{"size", fmt.Sprintf("%s in %d segments", ui.SizeText(s.Bytes), s.Segments)},
		{"content", fmt.Sprintf("%d records in %d frames since the snapshot", s.Records, s.Frames)},
	} {
		fmt.Fprintf(io.Out, "%-9s %s\n", row[0], row[1])
	}
}

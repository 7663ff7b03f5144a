package logcmd

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/coordinator/record"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

const dumpLong = `Print the records of a log, in their order: a line each, or with -o json an
object on a line each. It changes nothing and may run beside a coordinator, whose newest
records it may miss.`

func dumpCommand(cio ui.IO) *cobra.Command {
	format := ui.Table
	var id string
	cmd := &cobra.Command{
		Use:   "dump DIR",
		Short: "Print the records of a log",
		Long:  dumpLong,
		Example: `  gavel log dump /var/lib/gavel
  gavel log dump /var/lib/gavel --tx 01a2048d-9cda-8b9f-8000-000000000007 -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var only txn.ID
			if id != "" {
				var err error
				if only, err = txn.ParseID(id); err != nil {
					return exit.Usagef("", "--tx: %v", err)
				}
			}
			return runDump(cio.Out, args[0], only, format)
		},
	}
	cmd.Flags().StringVar(&id, "tx", "", "only the records of the transaction `ID`")
	return output(cmd, &format)
}

// line is one record. The JSON is part of the contract; fields that a type does not have are left
// out.
type line struct {
	LSN      uint64    `json:"lsn"`
	Snapshot bool      `json:"from_snapshot,omitempty"`
	Epoch    uint32    `json:"epoch,omitempty"`
	Time     time.Time `json:"time,omitzero"`
	Type     string    `json:"type"`
	IDs      []txn.ID  `json:"transactions,omitempty"`
	Details  string    `json:"details"`
}

// dumper writes lines as they are read: a log may be larger than memory.
type dumper struct {
	out    *bufio.Writer
	json   bool
	only   txn.ID
	frame  txlog.FrameInfo
	names  map[protocol.RM]string
	titled bool
}

func runDump(w io.Writer, dir string, only txn.ID, format ui.Format) error {
	d := &dumper{out: bufio.NewWriter(w), json: format == ui.JSON, only: only,
		names: map[protocol.RM]string{}}
	_, err := txlog.Dump(vfs.OS(), dir, txlog.Visitor{
		Frame: func(f txlog.FrameInfo) error { d.frame = f; return nil },
		Entry: d.entry,
	})
	// What could be read is shown, also of a damaged log.
	if flushErr := d.out.Flush(); err == nil && flushErr != nil {
		return flushErr
	}
	return exit.Log(dir, err)
}

func (d *dumper) entry(e txlog.Entry) error {
	l := line{LSN: e.LSN, Snapshot: e.FromSnapshot, Type: record.Name(e.Record.Type)}
	if !e.FromSnapshot {
		l.Epoch, l.Time = uint32(d.frame.Epoch), d.frame.Time
	}
	r, err := record.Decode(e.Record)
	if err != nil {
		l.Details = fmt.Sprintf("%d bytes that cannot be read: %v", len(e.Record.Data), err)
		return d.write(l)
	}
	d.describe(&l, r)
	if d.only.IsZero() || contains(l.IDs, d.only) {
		return d.write(l)
	}
	return nil
}

func contains(ids []txn.ID, id txn.ID) bool {
	for _, i := range ids {
		if i == id {
			return true
		}
	}
	return false
}

// describe fills in what a record says. Resources are shown by the names that earlier records gave
// to their numbers.
func (d *dumper) describe(l *line, r protocol.Record) {
	switch r := r.(type) {
	case protocol.OpenRecord:
		l.Details = fmt.Sprintf("epoch %d, process %d on %s, version %s", r.Epoch, r.PID, r.Host,
			r.Version)
	case protocol.RangeRecord:
		l.Details = fmt.Sprintf("sequences [%d, %d)", r.Low, r.High)
	case protocol.ResourceRecord:
		d.names[r.RM] = r.Name
		l.Details = fmt.Sprintf("%s is %s %s, at timeline %d LSN %X", r.Name, r.Kind, r.Identity,
			r.Position.Timeline, r.Position.LSN)
	case protocol.CommitRecord:
		l.IDs, l.Details = []txn.ID{r.ID}, d.commit(r)
	case protocol.OnePhaseRecord:
		l.IDs = []txn.ID{r.ID}
		l.Details = d.commit(protocol.CommitRecord{ID: r.ID, Label: r.Label,
			Branches: []protocol.CommitBranch{r.Branch}})
	case protocol.AbortRecord:
		l.IDs, l.Details = []txn.ID{r.ID}, "its only branch did not commit"
	case protocol.HoleRecord:
		l.Details = fmt.Sprintf("sequences [%d, %d) were handed out by an epoch that is lost",
			r.From, r.To)
	case protocol.AdoptedRecord:
		l.Details = fmt.Sprintf("the decisions of log %s, up to its epoch %d", r.Log, r.Epoch)
	case protocol.MarkRecord:
		l.Details = fmt.Sprintf("sequences had come to %d after running for %s", r.Next,
			txn.Nanoseconds(int64(r.Uptime)).Round(time.Second))
	case protocol.EndRecord:
		l.IDs, l.Details = r.IDs, fmt.Sprintf("every branch of %d committed", len(r.IDs))
	case protocol.HeuristicRecord:
		l.IDs = []txn.ID{r.ID}
		l.Details = fmt.Sprintf("branch %d at %s is %s: %s", r.Branch, d.name(r.RM), r.What,
			r.Reason)
	case protocol.OutcomesRecord:
		l.Details = fmt.Sprintf("outcomes of sequences [%d, %d)", r.First,
			r.First+txn.Seq(len(r.Bits))*8)
	case protocol.KeyRecord:
		l.IDs, l.Details = []txn.ID{r.ID}, "an idempotency key"
	}
}

func (d *dumper) commit(r protocol.CommitRecord) string {
	var parts []string
	for _, b := range r.Branches {
		parts = append(parts, fmt.Sprintf("%s at %s (xid %d)", txn.NameOf(r.ID, b.Branch),
			d.name(b.RM), b.Evidence.XID))
	}
	text := strings.Join(parts, ", ")
	if r.Label != "" {
		text = fmt.Sprintf("%q: %s", r.Label, text)
	}
	return text
}

func (d *dumper) name(rm protocol.RM) string {
	if n := d.names[rm]; n != "" {
		return n
	}
	return fmt.Sprintf("resource %d", rm)
}

func (d *dumper) write(l line) error {
	if d.json {
		return json.NewEncoder(d.out).Encode(l)
	}
	if !d.titled {
		d.titled = true
		fmt.Fprintf(d.out, "%10s  %5s  %-23s  %-9s  %-36s  %s\n", "LSN", "EPOCH", "TIME", "TYPE",
			"TRANSACTION", "DETAILS")
	}
	when, epoch := "snapshot", "-"
	if !l.Snapshot {
		when, epoch = l.Time.UTC().Format("2006-01-02 15:04:05.000"), fmt.Sprint(l.Epoch)
	}
	id := "-"
	if len(l.IDs) > 0 {
		id = l.IDs[0].String()
	}
	_, err := fmt.Fprintf(d.out, "%10d  %5s  %-23s  %-9s  %-36s  %s\n", l.LSN, epoch, when,
		l.Type, id, l.Details)
	for _, more := range l.IDs[min(1, len(l.IDs)):] {
		fmt.Fprintf(d.out, "%55s%s\n", "", more)
	}
	return err
}

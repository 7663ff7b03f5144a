package benchcmd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/integration/bench"
)

// publish prints the essence and writes the reports.
func (o *options) publish(io ui.IO, r *bench.Report) error {
	header, rows := throughput(r)
	fmt.Fprintf(io.Out, "\nTransfers per second, and how that compares with the floor:\n\n")
	ui.Rows(io.Out, header, rows)
	fmt.Fprintf(io.Out, "\nSum of balances %d before, %d after: kept. %d transfers, nothing in "+
		"doubt.\n", r.Audit.Sum, r.Audit.Sum, r.Audit.Transfers)
	var errs []error
	for _, file := range o.reports {
		err := write(file, r)
		if err == nil {
			fmt.Fprintf(io.Out, "report: %s\n", file)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// throughput is a table with a row for each line and a column for each number of clients.
func throughput(r *bench.Report) (header []string, rows [][]string) {
	clients := r.Settings.Clients
	header = []string{"line"}
	for _, n := range clients {
		header = append(header, fmt.Sprintf("clients %d", n))
	}
	for _, s := range r.Select(bench.Closed) {
		if len(rows) == 0 || rows[len(rows)-1][0] != s.Line {
			rows = append(rows, make([]string, 1+len(clients)))
			rows[len(rows)-1][0] = s.Line
		}
		text := fmt.Sprintf("%.0f", s.PerSecond.Median)
		if s.Ratio != nil {
			text += fmt.Sprintf(" (%.0f %%)", 100*s.Ratio.Median)
		}
		rows[len(rows)-1][1+slices.Index(clients, s.Clients)] = text
	}
	return header, rows
}

// write puts a report into a file, in the form that the file's name asks for.
func write(file string, r *bench.Report) error {
	form := r.WriteMarkdown
	if filepath.Ext(file) == ".json" {
		form = r.WriteJSON
	}
	var b bytes.Buffer
	err := form(&b)
	if err == nil {
		err = os.WriteFile(file, b.Bytes(), 0o644)
	}
	if err != nil {
		return fmt.Errorf("bench: write the report: %w", err)
	}
	return nil
}

package recovercmd

import (
	"fmt"
	"time"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// report is the answer. Its JSON is part of the contract.
type report struct {
	Log     string `json:"log_id"`
	Running bool   `json:"coordinator_running"`
	Copy    bool   `json:"copy"`
	Applied bool   `json:"applied"`
	// Rows are what is prepared, or open, now; Done is what --apply has finished.
	Rows []row `json:"branches"`
	Done []row `json:"done"`
	// Unreachable are the resources that could not be asked, with the reason.
	Unreachable []string `json:"unreachable"`
	// Heuristic are transactions that need a person.
	Heuristic []string `json:"heuristic"`
	// Unlisted are resources with unfinished decisions that no --resource names.
	Unlisted []string `json:"not_named"`
}

type row struct {
	Resource    string `json:"resource"`
	Transaction string `json:"transaction_id"`
	Name        string `json:"prepared_name"`
	Verdict     string `json:"verdict"`
	Label       string `json:"label"`
	Because     string `json:"because"`
	Alarming    bool   `json:"needs_a_person"`
	Age         string `json:"age,omitempty"`
	Owner       string `json:"owner,omitempty"`

	acts bool
}

func newReport(log txn.LogID, rows []coordinator.PlanRow, err error) report {
	r := report{Log: log.String(), Rows: []row{}, Done: []row{}, Unreachable: []string{},
		Heuristic: []string{}, Unlisted: []string{}}
	for _, p := range rows {
		r.Rows = append(r.Rows, newRow(p))
	}
	r.Unreachable = append(r.Unreachable, parts(err)...)
	return r
}

// parts takes a joined error apart: one for each resource.
func parts(err error) []string {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var out []string
		for _, e := range joined.Unwrap() {
			out = append(out, e.Error())
		}
		return out
	}
	return []string{err.Error()}
}

func newRow(p coordinator.PlanRow) row {
	r := row{Resource: p.Resource, Transaction: p.Name.ID().String(), Name: p.Name.String(),
		Verdict: p.Verdict.String(), Label: p.Label.String(), Because: p.Because,
		Alarming: p.Label.Alarming(), Owner: p.Owner, acts: acts(p.Verdict)}
	if p.Age > 0 {
		r.Age = p.Age.Round(time.Millisecond).String()
	}
	return r
}

// unlisted finds decisions that wait for a resource which was not named.
func (r *report) unlisted(state *protocol.State, refs map[string]string) {
	seen := map[protocol.RM]bool{}
	for _, d := range state.OpenDecisions() {
		for _, b := range d.Commit.Branches {
			seen[b.RM] = true
		}
	}
	for _, known := range state.Resources() {
		if _, named := refs[known.Name]; seen[known.RM] && !named {
			r.Unlisted = append(r.Unlisted, known.Name)
		}
	}
}

// left says whether there is something to do, for recovery or for a person.
func (r report) left() bool {
	if len(r.Heuristic) > 0 || len(r.Unlisted) > 0 {
		return true
	}
	for _, row := range r.Rows {
		if row.acts || row.Alarming {
			return true
		}
	}
	return false
}

func (r report) table(io ui.IO) {
	if len(r.Rows) == 0 {
		return
	}
	rows := make([][]string, len(r.Rows))
	for i, b := range r.Rows {
		because := b.Because
		if r.Copy && b.Label == protocol.Label('F').String() {
			because = "no decision in this copy, which proves nothing"
		}
		rows[i] = []string{b.Resource, b.Name, b.Verdict, b.Label + " " + because}
	}
	ui.Rows(io.Out, []string{"resource", "xid", "verdict", "because"}, rows)
}

func (r report) print(io ui.IO) {
	r.table(io)
	out := io.Out
	for _, b := range r.Done {
		fmt.Fprintf(out, "done       %s  %s  %s\n", b.Resource, b.Name, b.Verdict)
	}
	for _, name := range r.Unlisted {
		fmt.Fprintf(out, "not named  %s has unfinished decisions; give --resource %s=URL\n", name,
			name)
	}
	for _, h := range r.Heuristic {
		fmt.Fprintf(out, "a person is needed  %s\n", h)
	}
	switch {
	case r.Applied:
		fmt.Fprintf(out, "%d finished, %d branches remain.\n", len(r.Done), len(r.Rows))
	case len(r.Rows) == 0 && len(r.Unreachable) == 0 && len(r.Unlisted) == 0:
		fmt.Fprintln(out, "Nothing is in doubt.")
	case r.Running:
		fmt.Fprintln(out, "A coordinator holds this log and does all of this by itself.")
	case r.Copy:
		fmt.Fprintln(out, "This is a copy of a log: for looking only.")
	case r.left():
		fmt.Fprintln(out, "Plan only. Run again with --apply to do it.")
	}
}

package txcmd

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gavel-tx/gavel/client/remote"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/txn"
)

func showCommand(io ui.IO, o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show one transaction: its branches, why it waits, what to do",
		Long: `Show one transaction: its branches, why it waits, and what to do.

The exit code tells the outcome: 0 committed, 6 rolled back, 5 not known or not decided yet, 1 not
found, or a person has to look.`,
		Example: `  gavel tx show 01a2048d-9cda-8b9f-8000-000000000007
  gavel tx show 01a2048d-9cda-8b9f-8000-000000000007 -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := txn.ParseID(args[0])
			if err != nil {
				return exit.Usagef("Ids are listed by gavel tx ls.", "%v", err)
			}
			return o.call(cmd.Context(), func(ctx context.Context, c *remote.Client) error {
				r, err := c.Outcome(ctx, id)
				if err != nil {
					return err
				}
				return o.show(io, r)
			})
		},
	}
}

func (o *options) show(io ui.IO, r txn.Result) error {
	if o.format == ui.JSON {
		answer := &gavelv1.GetTransactionResponse{Transaction: wire.EncodeResult(r)}
		if err := ui.WriteProto(io.Out, answer); err != nil {
			return err
		}
	} else {
		page(io, r)
	}
	return exit.Silent(exit.ForOutcome(r.Outcome))
}

// page is one transaction for people: what is known, then why, what it means for the data, and
// what to do.
func page(io ui.IO, r txn.Result) {
	title := r.ID.String()
	if r.Label != "" {
		title = r.Label + "  " + title
	}
	fmt.Fprintf(io.Out, "%s\n  state    %s\n  outcome  %s\n", title, r.State, r.Outcome)
	if r.Plan != txn.PlanUnset {
		fmt.Fprintf(io.Out, "  plan     %s\n", r.Plan)
	}
	if r.Age > 0 {
		fmt.Fprintf(io.Out, "  age      %s\n", age(r.Age))
	}
	if len(r.Branches) > 0 {
		rows := make([][]string, len(r.Branches))
		for i, b := range r.Branches {
			rows[i] = []string{b.Resource, b.State.String(), fmt.Sprint(b.Attempts),
				b.Name.String()}
		}
		ui.Rows(io.Out, []string{"resource", "branch", "attempts", "prepared name"}, rows)
	}
	why, data, do := diagnose(r)
	for _, line := range [][2]string{{"why", why}, {"data", data}, {"do", do}} {
		if line[1] != "" {
			fmt.Fprintf(io.Out, "%-5s %s\n", line[0], line[1])
		}
	}
}

// diagnose explains a transaction that is not simply committed.
func diagnose(r txn.Result) (why, data, do string) {
	switch {
	case r.Outcome.IsHeuristic():
		e, _ := wire.Explain(wire.ReasonHeuristic)
		return r.Reason, e.Data, "Compare the databases for the branches marked HEURISTIC, and " +
			"repair the data by hand."
	case r.Outcome == txn.OutcomeRolledBack:
		return rolledBack(r)
	case r.Outcome == txn.OutcomeForgotten:
		e, _ := wire.Explain(string(txn.ReasonForgotten))
		return e.What, e.Data, e.Do
	case r.Outcome == txn.OutcomeCommitted && len(r.Pending()) > 0:
		return stuck(r), "The decision is durable. The branches at " +
				strings.Join(r.Pending(), ", ") +
				" are prepared, hold their locks, and will commit.",
			"Nothing is needed once the resource answers again."
	case r.Outcome == txn.OutcomeUnknown:
		return stuck(r), "Nothing is decided, or it is not known here yet.",
			"Wait: it ends by its client, by its timeout, or when the resources have been asked."
	}
	return "", "", ""
}

func rolledBack(r txn.Result) (why, data, do string) {
	why = r.Reason
	e, ok := wire.ExplainCause(r.Cause)
	if !ok {
		return why, "nothing of the transaction remains", ""
	}
	if why == "" {
		why = e.What
	}
	if r.Resource != "" {
		why = r.Resource + ": " + why
	}
	if r.SQLState != "" {
		why += " (SQLSTATE " + r.SQLState + ")"
	}
	return why, e.Data, e.Do
}

// stuck is what each branch met last.
func stuck(r txn.Result) string {
	var lines []string
	for _, b := range r.Branches {
		if b.LastError != "" {
			lines = append(lines, fmt.Sprintf("%s: %s, after %d attempts", b.Resource, b.LastError,
				b.Attempts))
		}
	}
	if len(lines) == 0 {
		return waitingFor(r)
	}
	return strings.Join(lines, "; ")
}

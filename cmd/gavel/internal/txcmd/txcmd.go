// Package txcmd is `gavel tx`: looking at the transactions of a running coordinator.
//
// Its JSON is that of the API's messages, so that a script sees the same from here, from gRPC and
// from any other client.
package txcmd

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gavel-tx/gavel/client/remote"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/guess"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/settings"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/txn"
)

// options are what every command of the group needs to reach its coordinator.
type options struct {
	coordinator string
	timeout     time.Duration
	secure      settings.Secure
	format      ui.Format
}

// Command is `gavel tx` with its commands.
func Command(io ui.IO) *cobra.Command {
	o := &options{format: ui.Table}
	cmd := &cobra.Command{
		Use:     "tx",
		Short:   "Look at transactions: what runs, what waits, and why",
		Example: "  gavel tx ls\n  gavel tx show 01a2048d-9cda-8b9f-8000-000000000007",
	}
	fs := cmd.PersistentFlags()
	fs.StringVar(&o.coordinator, "coordinator", "127.0.0.1:7440", "`ADDR` of the coordinator")
	fs.DurationVar(&o.timeout, "timeout", 5*time.Second, "how long to wait for an answer")
	fs.VarP(&o.format, "output", "o", "format of the answer; json is the message of the API")
	o.secure.Flags(fs)
	cmd.AddCommand(listCommand(io, o), showCommand(io, o))
	return cmd
}

// call dials, asks, and hangs up.
func (o *options) call(
	ctx context.Context, ask func(context.Context, *remote.Client) error,
) (err error) {
	opts := []remote.Option{remote.WithTLS(o.secure.TLS()), remote.WithPatience(o.timeout)}
	if o.secure.Insecure {
		opts = append(opts, remote.WithInsecure())
	}
	c, err := remote.Dial(o.coordinator, opts...)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := c.Close(); err == nil {
			err = closeErr
		}
	}()
	if err := ask(ctx, c); err != nil {
		e := *exit.Of(err)
		if e.Code == exit.Unreachable {
			e.What = fmt.Sprintf("the coordinator at %s does not answer: %s", o.coordinator, e.What)
		}
		return &e
	}
	return nil
}

func listCommand(io ui.IO, o *options) *cobra.Command {
	var states []string
	var older time.Duration
	var limit int
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List transactions that run, wait, or need a person",
		Example: `  gavel tx ls
  gavel tx ls --state COMMITTING --older-than 1m
  gavel tx ls -o json | jq '.transactions[].transactionId'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := listRequest(states, older, limit)
			if err != nil {
				return err
			}
			return o.call(cmd.Context(), func(ctx context.Context, c *remote.Client) error {
				found, err := c.List(ctx, req)
				if err != nil {
					return err
				}
				return o.showList(io, found, limit)
			})
		},
	}
	cmd.Flags().StringSliceVar(&states, "state", nil, "only these `STATE`s, e.g. COMMITTING")
	cmd.Flags().DurationVar(&older, "older-than", 0, "only transactions at least this old")
	cmd.Flags().IntVar(&limit, "limit", txn.DefaultListLimit, "at most this many")
	return cmd
}

func listRequest(names []string, older time.Duration, limit int) (txn.ListRequest, error) {
	if limit < 1 || limit > txn.MaxListLimit {
		return txn.ListRequest{}, exit.Usagef("", "--limit %d is not within 1 and %d", limit,
			txn.MaxListLimit)
	}
	if older < 0 {
		return txn.ListRequest{}, exit.Usagef("", "--older-than %v is negative", older)
	}
	r := txn.ListRequest{OlderThan: older, Limit: limit}
	for _, name := range names {
		s, err := stateNamed(name)
		if err != nil {
			return r, err
		}
		r.States = append(r.States, s)
	}
	return r, nil
}

func stateNamed(name string) (txn.State, error) {
	var names []string
	for s := txn.StateActive; s <= txn.StateHeuristic; s++ {
		if strings.EqualFold(name, s.String()) {
			return s, nil
		}
		names = append(names, s.String())
	}
	do := guess.DidYouMean(strings.ToUpper(name), names)
	return 0, exit.Usagef(do, "%q is not a state; they are %s", name, strings.Join(names, ", "))
}

func (o *options) showList(io ui.IO, found []txn.Result, limit int) error {
	if o.format == ui.JSON {
		answer := &gavelv1.ListTransactionsResponse{}
		for _, r := range found {
			answer.Transactions = append(answer.Transactions, wire.EncodeResult(r))
		}
		if len(found) == limit {
			answer.NextPageToken = found[len(found)-1].ID.String()
		}
		return ui.WriteProto(io.Out, answer)
	}
	if len(found) == 0 {
		fmt.Fprintln(io.Err, "no transaction runs, waits or needs a person")
		return nil
	}
	rows := make([][]string, len(found))
	for i, r := range found {
		rows[i] = []string{r.ID.String(), r.Label, r.State.String(), age(r.Age), branches(r),
			waitingFor(r)}
	}
	ui.Rows(io.Out, []string{"id", "name", "state", "age", "resources", "waiting for"}, rows)
	if len(found) == limit {
		fmt.Fprintf(io.Err, "the first %d; there may be more (--limit)\n", limit)
	}
	return nil
}

// age is rounded for people.
func age(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// branches shows each resource with a mark: ✓ at its end, … not yet, ! needs a person.
func branches(r txn.Result) string {
	var out []string
	for _, b := range r.Branches {
		out = append(out, b.Resource+mark(b.State))
	}
	return strings.Join(out, " ")
}

func mark(s txn.BranchState) string {
	switch s {
	case txn.BranchCommitted, txn.BranchRolledBack, txn.BranchReadOnly:
		return "✓"
	case txn.BranchHeuristicCommit, txn.BranchHeuristicRollback, txn.BranchHeuristicHazard:
		return "!"
	}
	return "…"
}

// waitingFor is the first thing that keeps a transaction from its end.
func waitingFor(r txn.Result) string {
	switch r.State {
	case txn.StateActive:
		return "its client"
	case txn.StatePreparing:
		return "votes"
	case txn.StateDeciding:
		return "the log"
	case txn.StateHeuristic:
		return "a person: " + r.Reason
	}
	for _, b := range r.Branches {
		if b.LastError != "" {
			return fmt.Sprintf("%s: %s (attempt %d)", b.Resource, b.LastError, b.Attempts)
		}
	}
	if pending := r.Pending(); len(pending) > 0 {
		return strings.Join(pending, ", ")
	}
	return ""
}

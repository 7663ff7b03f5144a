// Package execcmd is `gavel exec`: statements at several databases, as one transaction, from the
// command line. The coordinator and its participants run them; this process needs no database.
//
// Its JSON is that of the API's message.
package execcmd

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gavel-tx/gavel/client/remote"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/resource"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/settings"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
)

// options are what the command can be told.
type options struct {
	coordinator string
	timeout     time.Duration
	key, label  string
	expect      []int64
	secure      settings.Secure
	format      ui.Format
}

const long = `Run statements at several databases as one transaction: all of them, or none.

The coordinator runs them, at resources where its --execute allows that. An --expect is the number
of rows that a statement must change, or return; if it is another one, nothing is done.

The exit code tells the outcome: 0 committed, 6 rolled back, 5 not known, 4 not allowed. The
command may be repeated with the same --key, and happens once all the same; without one it makes
one up for itself.`

// reachWithin bounds the search for a coordinator that does not answer.
const reachWithin = 5 * time.Second

// decideWithin is what a transaction may take beyond its timeout: for its decision, and for its
// branches to be finished.
const decideWithin = 30 * time.Second

// Command is `gavel exec`.
func Command(io ui.IO) *cobra.Command {
	o := &options{format: ui.Table}
	cmd := &cobra.Command{
		Use:   "exec RESOURCE SQL [RESOURCE SQL ...]",
		Short: "Run statements at several databases as one transaction",
		Long:  long,
		Example: `  gavel exec bank_a 'update acct set bal=bal-1' bank_b 'update acct set bal=bal+1'
  gavel exec --expect 1,1 --key order-42 bank_a 'delete …' bank_b 'insert …'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := o.request(args)
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), io, r)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&o.coordinator, "coordinator", "127.0.0.1:7440", "`ADDR` of the coordinator")
	fs.StringVar(&o.key, "key", "", "idempotency `KEY`: the same one does it once")
	fs.Int64SliceVar(&o.expect, "expect", nil, "`ROWS` that each statement must change or return, "+
		"in their order; -1 for any")
	fs.StringVar(&o.label, "label", "", "`TEXT` by which gavel tx shows the transaction")
	fs.DurationVar(&o.timeout, "timeout", 30*time.Second, "when it is rolled back, if not decided")
	fs.VarP(&o.format, "output", "o", "format of the answer; json is the message of the API")
	o.secure.Flags(fs)
	return cmd
}

// request is what is asked of the coordinator.
func (o *options) request(args []string) (*gavelv1.ExecuteTransactionRequest, error) {
	n := len(args) / 2
	switch {
	case n == 0 || len(args)%2 != 0:
		return nil, exit.Usagef("For example: gavel exec bank_a 'select 1'.",
			"statements are given as RESOURCE SQL, and there are %d words", len(args))
	case len(o.expect) > n:
		return nil, exit.Usagef("", "--expect has %d numbers for %d statements", len(o.expect), n)
	case o.timeout <= 0:
		return nil, exit.Usagef("", "--timeout %v is not above zero", o.timeout)
	}
	r := &gavelv1.ExecuteTransactionRequest{IdempotencyKey: o.key, Label: o.label,
		Timeout: durationpb.New(o.timeout)}
	if r.IdempotencyKey == "" {
		// A lost answer must neither do it twice nor leave open whether it was done.
		r.IdempotencyKey = "gavel exec " + uuid.NewString()
	}
	for i := range n {
		s := &gavelv1.TransactionStatement{Resource: args[2*i], Sql: args[2*i+1]}
		if err := resource.CheckName(s.Resource); err != nil {
			return nil, err
		}
		if i < len(o.expect) && o.expect[i] != -1 {
			s.ExpectRows = &o.expect[i]
		}
		r.Statements = append(r.Statements, s)
	}
	return r, nil
}

func (o *options) run(
	ctx context.Context, io ui.IO, r *gavelv1.ExecuteTransactionRequest,
) (err error) {
	opts := []remote.Option{remote.WithTLS(o.secure.TLS()),
		remote.WithPatience(min(o.timeout, reachWithin))}
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
	ctx, cancel := context.WithTimeout(ctx, o.timeout+decideWithin)
	defer cancel()
	a, err := c.Execute(ctx, r)
	if err != nil {
		return o.explain(err, r.GetIdempotencyKey())
	}
	if o.format == ui.JSON {
		return ui.WriteProto(io.Out, a)
	}
	return show(io, r, a)
}

// explain adds what only this command knows.
func (o *options) explain(err error, key string) error {
	e := *exit.Of(err)
	switch {
	case e.Code == exit.Unreachable:
		e.What = fmt.Sprintf("the coordinator at %s does not answer: %s", o.coordinator, e.What)
	case e.Code == exit.Unknown:
		e.Do = fmt.Sprintf("Repeat the command with --key '%s': it is done once, and tells its "+
			"outcome.", key)
	}
	return &e
}

// show prints the rows of each statement, what it did, and the outcome.
func show(
	io ui.IO, r *gavelv1.ExecuteTransactionRequest, a *gavelv1.ExecuteTransactionResponse,
) error {
	var done [][]string
	for i, s := range a.GetResults()[:min(len(a.GetResults()), len(r.GetStatements()))] {
		if len(s.GetColumns()) > 0 {
			var rows [][]string
			for _, row := range wire.DecodeRows(s.GetRows()) {
				rows = append(rows, cells(row))
			}
			ui.Rows(io.Out, names(s.GetColumns()), rows)
			fmt.Fprintln(io.Out)
		}
		done = append(done, []string{fmt.Sprint(i + 1), r.GetStatements()[i].GetResource(),
			fmt.Sprint(s.GetRowsAffected())})
	}
	if len(done) > 0 {
		ui.Rows(io.Out, []string{"statement", "resource", "rows"}, done)
	} else {
		fmt.Fprintln(io.Err, "done before, with the same --key: its rows are not kept")
	}
	fmt.Fprintf(io.Out, "COMMITTED  %s\n", a.GetTransaction().GetTransactionId())
	if p := a.GetPendingResources(); len(p) > 0 {
		fmt.Fprintf(io.Err, "still to be finished, without anybody's help: %s\n",
			strings.Join(p, ", "))
	}
	return nil
}

// names are those of columns as a terminal may show them.
func names(columns []string) []string {
	out := make([]string, len(columns))
	for i, c := range columns {
		out[i] = strings.Map(printable, c)
	}
	return out
}

// cells are values as a terminal may show them.
func cells(row []any) []string {
	out := make([]string, len(row))
	for i, v := range row {
		switch v := v.(type) {
		case nil:
			out[i] = "NULL"
		case []byte:
			out[i] = fmt.Sprintf("\\x%x", v)
		default:
			out[i] = strings.Map(printable, fmt.Sprint(v))
		}
	}
	return out
}

// printable keeps the data from steering the terminal.
func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return unicode.ReplacementChar
}

// Package recovercmd is `gavel recover`: what recovery would do, and, with --apply, doing it, with
// no coordinator left to do it by itself.
//
// Without --apply it reads: the log without its lock, and the resources' lists. With --apply it
// is a coordinator that takes no new transactions: it takes the log's lock and a new epoch, so that
// whoever held them before can do nothing more, waits until all that needs no person is done, and
// goes. There is no second copy of the rules: both use the judgement of package
// coordinator/protocol.
package recovercmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/build"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/resource"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/settings"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// options are what the command can be told.
type options struct {
	dir            string
	refs           map[string]string
	apply          bool
	timeout        time.Duration
	acceptForeign  []string
	acceptIdentity []string
	experimental   bool
	format         ui.Format
	secure         settings.Secure
	log            settings.Log
}

const long = `Show every prepared branch of the resources, what the log says about it, and what
recovery would do. Without --apply nothing is changed, and it may run beside a coordinator or
on a copy.

With --apply it finishes what needs no person. It takes the log's lock and a new epoch for
that, and refuses (exit 4) while a coordinator holds the log, and on a copy.

Exit codes: 0 nothing is left to do, 1 something is, 3 a resource cannot be asked.`

// Command is `gavel recover`.
func Command(io ui.IO) *cobra.Command {
	o := options{refs: map[string]string{}, format: ui.Table,
		log: settings.Log{Format: "auto", Level: "info"}}
	cmd := &cobra.Command{
		Use:   "recover --log DIR --resource NAME=URL ... [--apply]",
		Short: "Show what is in doubt and why; with --apply finish it",
		Long:  long,
		Example: `  gavel recover --log DIR --resource a=env:BANK_A --resource b=env:BANK_B
  gavel recover --log /var/lib/gavel --resource bank_a=env:BANK_A --apply --timeout 2m`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), io) },
	}
	fs := cmd.Flags()
	fs.StringVar(&o.dir, "log", "", "`DIR` of the log")
	settings.AddResources(fs, o.refs)
	fs.BoolVar(&o.apply, "apply", false, "finish what needs no person")
	fs.DurationVar(&o.timeout, "timeout", time.Minute, "how long to try")
	fs.StringSliceVar(&o.acceptForeign, "accept-foreign", nil,
		"with --apply: resource `NAME` to take over although another log has branches in it")
	fs.StringSliceVar(&o.acceptIdentity, "accept-identity", nil,
		"with --apply: resource `NAME` whose database was replaced on purpose")
	settings.AddExperimental(fs, &o.experimental)
	fs.VarP(&o.format, "output", "o", "format of the answer")
	o.secure.Flags(fs)
	o.log.Flags(fs)
	return cmd
}

func (o options) validate() error {
	switch {
	case o.dir == "":
		return exit.Usagef("Give --log DIR.", "no log is named")
	case len(o.refs) == 0:
		return exit.Usagef("Give --resource NAME=URL for every resource of the log.",
			"no resource is named")
	case o.timeout <= 0:
		return exit.Usagef("", "--timeout %v must be above zero", o.timeout)
	}
	return settings.Check(o.refs)
}

func (o options) run(ctx context.Context, io ui.IO) (err error) {
	if err := o.validate(); err != nil {
		return err
	}
	log, err := o.log.Logger(io)
	if err != nil {
		return err
	}
	opened, err := resource.OpenAll(ctx, resource.Source{Getenv: io.Getenv}, o.refs,
		resource.Options{TLS: o.secure.TLS(), Insecure: o.secure.Insecure,
			ExperimentalMySQL: o.experimental, Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resource.CloseAll(opened)) }()
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	if o.apply {
		return o.finish(ctx, io, log, o.resources(opened))
	}
	rep, err := o.look(ctx, io, o.resources(opened))
	if err != nil {
		return err
	}
	return o.answer(io, rep)
}

func (o options) resources(opened []resource.Opened) []coordinator.Resource {
	var out []coordinator.Resource
	for _, r := range opened {
		out = append(out, coordinator.Resource{Name: r.Name, Kind: r.Kind, Manager: r.Manager,
			AcceptForeign:  slices.Contains(o.acceptForeign, r.Name),
			AcceptIdentity: slices.Contains(o.acceptIdentity, r.Name)})
	}
	return out
}

// lookTries bounds how often a log that moves on is read again.
const lookTries = 5

// look makes the plan from outside. A participant that has heard of more of the log than was read
// says so; with a coordinator at work that is ordinary, and the log is read again.
func (o options) look(
	ctx context.Context, io ui.IO, resources []coordinator.Resource,
) (report, error) {
	for try := 1; ; try++ {
		rep, err := o.lookOnce(ctx, io, resources)
		if !errors.Is(err, participant.ErrRegression) || !rep.Running || try == lookTries {
			return rep, onlyLog(err)
		}
	}
}

// planError is what resources could not be asked for. It is part of the report.
type planError struct{ error }

func (e planError) Unwrap() error { return e.error }

func onlyLog(err error) error {
	if _, ok := errors.AsType[planError](err); ok {
		return nil
	}
	return err
}

func (o options) lookOnce(
	ctx context.Context, io ui.IO, resources []coordinator.Resource,
) (report, error) {
	state, info, err := coordinator.ReadState(vfs.OS(), o.dir)
	if err == nil {
		err = settle(vfs.OS(), o.dir)
	}
	if err != nil {
		return report{}, exit.Log(o.dir, err)
	}
	running, err := held(o.dir)
	if err != nil {
		return report{}, err
	}
	bar := io.Bar("Asking resources", ui.Things, int64(len(resources)))
	rows, err := coordinator.Plan(ctx, coordinator.PlanRequest{
		State: state,
		// What a copy does not know may have been decided in the original, as with a log that
		// somebody writes at this moment: no record proves nothing.
		Running:   running || info.Copy,
		Fence:     txn.Fence{Log: info.ID, Epoch: info.Epoch, LSN: info.Tail},
		Resources: resources,
		Progress:  func(done, total int, _ string) { bar.Set(int64(done), int64(total)) },
	})
	bar.Done()
	rep := newReport(info.ID, rows, err)
	rep.Running, rep.Copy = running, info.Copy
	rep.unlisted(state, o.refs)
	if err != nil {
		return rep, planError{err}
	}
	return rep, nil
}

// settle makes durable what was read of the log. Participants remember, for good, how far a log
// had come when somebody asked in its name; to tell them of a tail that a power failure could still
// take away would make them refuse the log's own next epoch. Nothing of the log changes by it.
func settle(fsys vfs.FS, dir string) error {
	names, err := fsys.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		info, err := fsys.Stat(path)
		if err != nil || info.Dir {
			// A segment that was freed meanwhile is not part of the tail.
			continue
		}
		f, err := fsys.Open(path, vfs.ReadOnly)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("recover: make %s durable: %w", name, err)
		}
	}
	return nil
}

// finish is --apply.
func (o options) finish(
	ctx context.Context, io ui.IO, log *slog.Logger, resources []coordinator.Resource,
) (err error) {
	c, err := coordinator.Open(ctx, coordinator.Config{Dir: o.dir, Resources: resources,
		Grace: grace, SweepEvery: sweepEvery, Logger: log, Version: build.Read().Version})
	if err != nil {
		return exit.Log(o.dir, err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	before, planErr := o.plan(ctx, io, c, "Asking resources")
	rep := newReport(c.LogID(), before, planErr)
	if o.format == ui.Table {
		rep.table(io)
	}
	settled := c.Settle(ctx)
	if failed := c.Err(); failed != nil {
		return failed
	}
	// What remains is looked at even if the time is over.
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterTimeout)
	defer cancel()
	remaining, planErr := o.plan(after, io, c, "Looking again")
	rest := newReport(c.LogID(), remaining, planErr)
	rest.Applied, rest.Done = true, done(before, remaining)
	if settled != nil && !errors.Is(settled, context.DeadlineExceeded) {
		return settled
	}
	if rest.Heuristic, err = heuristics(after, c); err != nil {
		return err
	}
	state, _, err := coordinator.ReadState(vfs.OS(), o.dir)
	if err != nil {
		return err
	}
	rest.unlisted(state, o.refs)
	return o.answer(io, rest)
}

// A person waits for this command, and no other process decides under this log any more: orphans
// are given less time than a coordinator gives them. It is politeness in either case, never safety.
const (
	grace      = 400 * time.Millisecond
	sweepEvery = 200 * time.Millisecond
)

// afterTimeout bounds the last look.
const afterTimeout = 10 * time.Second

func (o options) plan(
	ctx context.Context, io ui.IO, c *coordinator.Coordinator, title string,
) ([]coordinator.PlanRow, error) {
	bar := io.Bar(title, ui.Things, int64(len(o.refs)))
	defer bar.Done()
	return c.Plan(ctx, func(done, total int, _ string) { bar.Set(int64(done), int64(total)) })
}

// heuristics lists the transactions that need a person.
func heuristics(ctx context.Context, c *coordinator.Coordinator) ([]string, error) {
	found, err := c.List(ctx, txn.ListRequest{States: []txn.State{txn.StateHeuristic},
		Limit: txn.MaxListLimit})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, r := range found {
		out = append(out, fmt.Sprintf("%s: %s", r.ID, r.Reason))
	}
	return out, nil
}

// done are the rows that are not there any more. One that only remains to be acknowledged, because
// other branches of its transaction are not finished, is done as well.
func done(before, after []coordinator.PlanRow) []row {
	type key struct {
		resource string
		name     txn.Name
	}
	left := map[key]protocol.Verdict{}
	for _, r := range after {
		left[key{r.Resource, r.Name}] = r.Verdict
	}
	out := []row{}
	for _, r := range before {
		now, there := left[key{r.Resource, r.Name}]
		if acts(r.Verdict) && (!there || now != r.Verdict && now == protocol.VerdictAcknowledge) {
			out = append(out, newRow(r))
		}
	}
	return out
}

// acts says whether a verdict is something that recovery does.
func acts(v protocol.Verdict) bool { return v != protocol.VerdictLeave }

func (o options) answer(io ui.IO, rep report) error {
	if o.format == ui.JSON {
		if err := ui.WriteJSON(io.Out, rep); err != nil {
			return err
		}
	} else {
		rep.print(io)
	}
	if len(rep.Unreachable) > 0 {
		return &exit.Error{Code: exit.Unreachable, What: strings.Join(rep.Unreachable, "\n"),
			Data: "What is prepared there stays prepared, and holds its locks.",
			Do:   "Bring the resource back, or correct its URL, and run this again."}
	}
	if rep.left() {
		return exit.Silent(exit.No)
	}
	return nil
}

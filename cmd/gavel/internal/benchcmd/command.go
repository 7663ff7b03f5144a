// Package benchcmd is `gavel bench`: what an atomic commit costs on this machine, with gavel and by
// hand, and the proof that no money was lost on the way.
//
// The measuring is package integration/bench's. This package brings what is measured together: two
// PostgreSQL servers of its own, or databases that it is given, and a coordinator, the production
// binary as a process of its own; and it hands out what was found.
package benchcmd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/build"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/settings"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/integration/bench"
)

// options are what the benchmark can be told.
type options struct {
	resources  map[string]string
	clients    []int
	duration   time.Duration
	rounds     int
	rate       float64
	lines      []string
	reports    []string
	seed       uint64
	noProgress bool
	// binary is the program that is started as coordinator.
	binary string
}

const long = `Measure what an atomic commit over two databases costs: transfers of money by
gavel, and by hand as tight as it gets, in the same run and in a fresh order each round. At the
end, and after every single measurement, all money must be there.

Without --resource it uses two PostgreSQL servers of its own, which it removes at the end.
With --resource it uses these databases: it makes a table gavel_bench_account in each and drops
it at the end. Each server must allow as many prepared transactions as there are clients.

It exits 0 if the money is all there, 1 if not, 2 for a wrong command line, 3 if a database does
not answer, and 4 if a server allows too little.

Lines:
`

// linesText lists the lines, a few to a line of text.
func linesText() string {
	var b strings.Builder
	for names := range slices.Chunk(bench.Names(), 3) {
		b.WriteString("  " + strings.Join(names, ", ") + "\n")
	}
	return strings.TrimRight(b.String(), "\n")
}

// Command is `gavel bench`.
func Command(io ui.IO) *cobra.Command {
	o := options{resources: map[string]string{}}
	cmd := &cobra.Command{
		Use:   "bench [--resource A=URL --resource B=URL]",
		Short: "Measure what an atomic commit costs here, against the same by hand",
		Long:  long + linesText(),
		Example: `  gavel bench --rounds 1
  gavel bench --clients 16 --duration 5s --report report.md --report report.json
  gavel bench --lines server-classic-applied --resource a=env:BANK_A --resource b=env:BANK_B`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.binary, err = os.Executable(); err != nil {
				return fmt.Errorf("bench: find the own binary: %w", err)
			}
			return o.run(cmd.Context(), io)
		},
	}
	o.flags(cmd.Flags())
	return cmd
}

func (o *options) flags(fs *pflag.FlagSet) {
	settings.AddResources(fs, o.resources)
	fs.IntSliceVar(&o.clients, "clients", []int{1, 8, 32, 64}, "numbers of clients")
	fs.DurationVar(&o.duration, "duration", 1500*time.Millisecond,
		"of one measurement; a fifth of it comes before, as a warm-up")
	fs.IntVar(&o.rounds, "rounds", 5, "how often everything is measured")
	fs.Float64Var(&o.rate, "rate", 0.25, "arrival rate for latencies, as a share of the best "+
		"throughput of 2pc; 0 leaves them out")
	fs.StringSliceVar(&o.lines, "lines", nil, "lines to measure, with their floors (default all)")
	fs.StringSliceVar(&o.reports, "report", nil, "write the report to this `FILE`, .json or .md "+
		"(repeat the flag for both)")
	fs.Uint64Var(&o.seed, "seed", 0, "seed of order, accounts and amounts; 0 draws one")
	fs.BoolVar(&o.noProgress, "no-progress", false, "show no progress")
}

// validate refuses, before anything is started, what would fail after all the work.
func (o *options) validate() error {
	if err := settings.Check(o.resources); err != nil {
		return err
	}
	if len(o.resources) == 1 {
		return exit.Usagef("Give a second --resource, or none.", "a transfer needs two databases")
	}
	for _, file := range o.reports {
		if ext := filepath.Ext(file); ext != ".json" && ext != ".md" {
			return exit.Usagef("", "--report %s ends in neither .json nor .md", file)
		}
		if info, err := os.Stat(filepath.Dir(file)); err != nil || !info.IsDir() {
			return exit.Usagef("Make it first.", "--report %s: there is no such directory", file)
		}
	}
	if len(o.clients) == 0 {
		return exit.Usagef("", "--clients is empty")
	}
	if o.duration == 0 || o.rounds == 0 {
		return exit.Usagef("", "--duration and --rounds must be above zero")
	}
	// Two stand in for databases that do not exist yet.
	err := o.config(&databases{resources: []bench.Resource{{}, {}}, markers: true}).Validate()
	if err != nil {
		return exit.Usagef("See gavel bench --help.", "%v", err)
	}
	return nil
}

func (o *options) config(dbs *databases) bench.Config {
	clients := slices.Compact(slices.Sorted(slices.Values(o.clients)))
	return bench.Config{Resources: dbs.resources, Markers: dbs.markers, Clients: clients,
		Duration: o.duration, Rounds: o.rounds, Rate: o.rate, Lines: o.lines, Seed: o.seed,
		Version: build.Read().Version}
}

// run is the whole benchmark, with its cleaning up, also after an interruption.
func (o *options) run(ctx context.Context, io ui.IO) (err error) {
	if err := o.validate(); err != nil {
		return err
	}
	if o.seed == 0 {
		o.seed = rand.Uint64N(1_000_000) + 1
	}
	dir, err := os.MkdirTemp("", "gavel-bench-")
	if err != nil {
		return fmt.Errorf("bench: make a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	dbs, err := o.openDatabases(ctx, io)
	if err != nil {
		return explain(err)
	}
	// Cleaning up must not depend on a context that may be why it is needed.
	defer func() { err = errors.Join(err, dbs.stop(context.WithoutCancel(ctx))) }()
	report, err := o.measure(ctx, io, dir, dbs)
	if err != nil {
		return explain(err)
	}
	return o.publish(io, report)
}

// measure starts the coordinator process and lets the bench run beside it.
func (o *options) measure(
	ctx context.Context, io ui.IO, dir string, dbs *databases,
) (_ *bench.Report, err error) {
	c, err := startCoordinator(ctx, o.binary, dir, dbs)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.stop(context.WithoutCancel(ctx))) }()
	cfg := o.config(dbs)
	cfg.Dir, cfg.Coordinator = dir, c.grpc
	fmt.Fprintf(io.Out, "gavel bench: transfers between %s (seed %d)\n", dbs.about, o.seed)
	if !o.noProgress {
		// The bar is drawn by a goroutine of its own, so its title says nothing that changes.
		bar := io.Bar("measurements", ui.Things, 0)
		defer bar.Done()
		cfg.Progress = func(done, total int) { bar.Set(int64(done), int64(total)) }
	}
	return bench.Run(ctx, cfg)
}

// explain gives an error of the bench its exit code, and its meaning for the data.
func explain(err error) error {
	const dropped = "The benchmark's own tables are dropped; nothing else was touched."
	e := &exit.Error{What: err.Error(), Err: err, Data: dropped}
	switch {
	case errors.Is(err, bench.ErrAudit):
		e.Code = exit.No
		e.Do = "Do not believe any figure of this run. Run it again with its seed, and report it."
	case errors.Is(err, bench.ErrConfig):
		e.Code, e.Data = exit.Usage, ""
	case errors.Is(err, bench.ErrUnreachable):
		e.Code, e.Do = exit.Unreachable, "Check the address, and that the server runs."
	case errors.Is(err, bench.ErrRoom):
		e.Code = exit.Refused
		e.Do = "Raise the setting and restart the server, or measure with fewer --clients."
	case errors.Is(err, bench.ErrTable):
		e.Code, e.Data = exit.Refused, "Nothing was changed there."
		e.Do = "Another benchmark is running there, or one was killed: then drop the table."
	default:
		return err
	}
	return e
}

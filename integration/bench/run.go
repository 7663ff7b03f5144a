package bench

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Mode says how transfers are asked for.
type Mode string

// The modes.
const (
	// Closed: each client makes one transfer after the other.
	Closed Mode = "closed"
	// Open: transfers are due at a constant rate.
	Open Mode = "open"
	// Growth is Closed, over more and more databases.
	Growth Mode = "growth"
)

// Cell is what is measured in every round: a line under a load.
type Cell struct {
	Mode      Mode   `json:"mode"`
	Line      string `json:"line"`
	Clients   int    `json:"clients"`
	Databases int    `json:"databases"`
}

// String says what the cell measures.
func (c Cell) String() string {
	return fmt.Sprintf("%s of %s, %d clients, %d databases", c.Mode, c.Line, c.Clients, c.Databases)
}

// floor is the cell that this one is compared with.
func (c Cell) floor(rows []Row) (Cell, bool) {
	for _, r := range rows {
		if r.Name == c.Line && r.Floor != "" {
			c.Line = r.Floor
			return c, true
		}
	}
	return c, false
}

// groups are the cells of one round. Within a group everything but the line is the same, so that
// lines which are compared are measured close to each other. The last group is the open loop, whose
// rate comes from the others.
func groups(cfg Config, rows []Row) (all [][]Cell, paced []Cell) {
	for _, clients := range cfg.Clients {
		var g []Cell
		for _, r := range rows {
			g = append(g, Cell{Closed, r.Name, clients, 2})
			if r.Paced && cfg.Rate > 0 && clients == slices.Max(cfg.Clients) {
				paced = append(paced, Cell{Open, r.Name, clients, 2})
			}
		}
		all = append(all, g)
	}
	for _, n := range cfg.Branches {
		var g []Cell
		for _, r := range rows {
			if r.Growing {
				g = append(g, Cell{Growth, r.Name, growthClients, n})
			}
		}
		all = append(all, g)
	}
	if !slices.ContainsFunc(rows, func(r Row) bool { return r.Name == twoPhaseName }) {
		paced = nil
	}
	return all, paced
}

// shuffled puts the groups, and the cells of each, into an order of this round's own.
func shuffled(all [][]Cell, random *rand.Rand) [][]Cell {
	all = slices.Clone(all)
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for i := range all {
		all[i] = slices.Clone(all[i])
		g := all[i]
		random.Shuffle(len(g), func(i, j int) { g[i], g[j] = g[j], g[i] })
	}
	return all
}

// runner is a run under way.
type runner struct {
	*world
	rows  []Row
	total int
	// report grows; latencies are those of all rounds, by cell.
	report    *Report
	latencies map[Cell]*hdrhistogram.Histogram
}

// Run measures everything that cfg asks for. The tables that it makes are dropped when it returns.
// The report of a run that failed is nil. Errors wrap ErrConfig, ErrUnreachable, ErrRoom or
// ErrTable where nothing was measured, and ErrAudit where money was lost or a branch stayed
// prepared.
func Run(ctx context.Context, cfg Config) (_ *Report, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	w, err := openWorld(ctx, cfg)
	if err != nil {
		return nil, err
	}
	// Clearing away must not depend on a context that may be why it is needed.
	defer func() { err = errors.Join(err, w.close(context.WithoutCancel(ctx))) }()
	r := &runner{world: w, rows: choose(cfg.Lines, cfg.Markers),
		latencies: map[Cell]*hdrhistogram.Histogram{}}
	if r.report, err = newReport(w, r.rows); err != nil {
		return nil, err
	}
	if err := r.rounds(ctx); err != nil {
		return nil, err
	}
	r.report.summarize(r.rows, r.latencies)
	return r.report, nil
}

func (r *runner) rounds(ctx context.Context) error {
	all, paced := groups(r.cfg, r.rows)
	r.total = r.cfg.Rounds * (len(slices.Concat(all...)) + len(paced))
	for round := range r.cfg.Rounds {
		random := rand.New(rand.NewPCG(r.cfg.Seed, uint64(round)))
		for _, b := range r.banks {
			if err := b.vacuum(ctx); err != nil {
				return err
			}
		}
		for _, g := range shuffled(all, random) {
			if err := r.group(ctx, round, g, 0); err != nil {
				return err
			}
		}
		for _, g := range shuffled([][]Cell{paced}, random) {
			rate := r.cfg.Rate * r.report.best(round, twoPhaseName)
			if err := r.group(ctx, round, g, rate); err != nil {
				return err
			}
		}
	}
	return nil
}

// group measures cells one after the other.
func (r *runner) group(ctx context.Context, round int, cells []Cell, rate float64) error {
	for _, c := range cells {
		if err := r.cell(ctx, round, c, rate); err != nil {
			return fmt.Errorf("%w (round %d, %s)", err, round+1, c)
		}
		r.cfg.Progress(len(r.report.Figures), r.total)
	}
	return nil
}

// cell measures one cell: warm-up, measurement, and when everything has come to rest the audit.
func (r *runner) cell(ctx context.Context, round int, c Cell, rate float64) error {
	seen, err := r.measure(ctx, round, c, rate)
	if err != nil {
		return err
	}
	if err := errors.Join(r.settle(ctx), r.audit(ctx)); err != nil {
		return err
	}
	r.report.Figures = append(r.report.Figures, r.figure(round, c, rate, seen))
	return nil
}

func (r *runner) measure(ctx context.Context, round int, c Cell, rate float64) (tally, error) {
	row := r.rows[slices.IndexFunc(r.rows, func(row Row) bool { return row.Name == c.Line })]
	line, err := row.open(ctx, r.world, c.Clients, c.Databases)
	if err != nil {
		return tally{}, err
	}
	defer line.Close()
	l := load{line: line, clients: c.Clients, databases: c.Databases, accounts: r.cfg.Accounts,
		seed: [2]uint64{r.cfg.Seed, c.seed(round)}}
	if _, err := l.closed(ctx, r.cfg.Duration/5); err != nil {
		return tally{}, err
	}
	if c.Mode == Open {
		return l.paced(ctx, r.cfg.Duration, rate)
	}
	return l.closed(ctx, r.cfg.Duration)
}

// seed gives each cell of each round clients of its own.
func (c Cell) seed(round int) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %s", round, c)
	return h.Sum64()
}

// figure is what was seen, in numbers.
func (r *runner) figure(round int, c Cell, rate float64, seen tally) Figure {
	h := newHistogram()
	for _, d := range seen.latencies {
		// What is longer than the histogram can tell counts as the longest that it can.
		_ = h.RecordValue(min(int64(d), h.HighestTrackableValue()))
	}
	if r.latencies[c] == nil {
		r.latencies[c] = newHistogram()
	}
	r.latencies[c].Merge(h)
	return Figure{Cell: c, Round: round + 1, Rate: rate, Transfers: int64(len(seen.latencies)),
		Aborted: seen.aborted, Unstarted: seen.unstarted, Seconds: seen.elapsed.Seconds(),
		PerSecond: seen.perSecond(), Latency: latencyOf(h), Phases: seen.phases()}
}

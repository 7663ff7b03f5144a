package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// ReportFormat is the number of the format of a Report as JSON. It rises with every change that a
// reader of an older one would misunderstand.
const ReportFormat = 1

// Report is everything that a run found out.
type Report struct {
	Format   int      `json:"format"`
	Machine  Machine  `json:"machine"`
	Servers  []Server `json:"servers"`
	Settings Settings `json:"settings"`
	Lines    []LineOf `json:"lines"`
	Audit    Audit    `json:"audit"`
	// Figures are the measurements, in the order in which they were made.
	Figures []Figure `json:"figures"`
	// Summaries are made of the figures: one for each cell.
	Summaries []Summary `json:"summaries"`
}

// Settings are those of the run that figures depend on.
type Settings struct {
	Version         string  `json:"version"`
	Seed            uint64  `json:"seed"`
	Clients         []int   `json:"clients"`
	Rounds          int     `json:"rounds"`
	DurationSeconds float64 `json:"duration_seconds"`
	Rate            float64 `json:"rate"`
	Accounts        int     `json:"accounts"`
}

// LineOf is a line in a report.
type LineOf struct {
	Name  string `json:"name"`
	Floor string `json:"floor,omitempty"`
	About string `json:"about"`
}

// Audit is what the books said after every single measurement.
type Audit struct {
	// Sum of all balances, before and after.
	Sum int64 `json:"sum"`
	// Times is how often it was added up.
	Times int `json:"times"`
	// Transfers that were made in all, warm-ups not counted.
	Transfers int64 `json:"transfers"`
}

// Figure is one measurement.
type Figure struct {
	Cell
	Round int `json:"round"`
	// Rate of arrivals in an open loop, per second.
	Rate      float64 `json:"rate,omitempty"`
	Transfers int64   `json:"transfers"`
	// Aborted attempts were made again. Unstarted transfers were due, and never begun.
	Aborted   int64   `json:"aborted"`
	Unstarted int64   `json:"unstarted,omitempty"`
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"per_second"`
	Latency   Latency `json:"latency_ms"`
	// Phases in milliseconds: SQL, begin, prepare, decide, commit.
	Phases Phases `json:"phases_ms"`
}

// Latency is a distribution, in milliseconds.
type Latency struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99.9"`
	Max  float64 `json:"max"`
}

// Spread is a median over rounds, and how far the rounds lie apart.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// Summary is a cell over all rounds.
type Summary struct {
	Cell
	PerSecond Spread `json:"per_second"`
	// Ratio of the throughput to that of the floor in the same round; nil for a floor, and in the
	// open loop, where the throughput is given.
	Ratio *Spread `json:"ratio,omitempty"`
	// Rate of arrivals, in the open loop.
	Rate      float64 `json:"rate,omitempty"`
	Aborted   int64   `json:"aborted"`
	Unstarted int64   `json:"unstarted,omitempty"`
	// Latency of all transfers of all rounds.
	Latency Latency `json:"latency_ms"`
	// Curve is the same distribution, point by point, in the open loop.
	Curve []Point `json:"curve,omitempty"`
	// Phases are medians over the rounds.
	Phases Phases `json:"phases_ms"`
}

// Point says that this share of all transfers took no longer than so many milliseconds.
type Point struct {
	Share  float64 `json:"share"`
	Millis float64 `json:"ms"`
}

// newHistogram has three significant digits, from a nanosecond to two minutes.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, int64(2*time.Minute), 3)
}

func latencyOf(h *hdrhistogram.Histogram) Latency {
	at := func(percent float64) float64 {
		return millis(time.Duration(h.ValueAtQuantile(percent)))
	}
	return Latency{Mean: h.Mean() / float64(time.Millisecond), P50: at(50), P90: at(90),
		P99: at(99), P999: at(99.9), Max: millis(time.Duration(h.Max()))}
}

// curveOf has points close to each other where the tail is.
func curveOf(h *hdrhistogram.Histogram) []Point {
	shares := []float64{0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925,
		0.95, 0.975, 0.98, 0.99, 0.995, 0.9975, 0.999, 0.9995, 0.9999}
	var curve []Point
	for _, s := range shares {
		// A share that is finer than one transfer would only repeat the maximum. They are not exact
		// in binary.
		if (1-s)*float64(h.TotalCount()) < 0.999 {
			break
		}
		at := time.Duration(h.ValueAtQuantile(100 * s))
		curve = append(curve, Point{Share: s, Millis: millis(at)})
	}
	return curve
}

// spreadOf needs at least one value.
func spreadOf(values []float64) Spread {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return Spread{Median: (sorted[(n-1)/2] + sorted[n/2]) / 2, Min: sorted[0], Max: sorted[n-1]}
}

func newReport(w *world, rows []Row) (*Report, error) {
	cfg := w.cfg
	r := &Report{Format: ReportFormat, Settings: Settings{Version: cfg.Version, Seed: cfg.Seed,
		Clients: cfg.Clients, Rounds: cfg.Rounds, DurationSeconds: cfg.Duration.Seconds(),
		Rate: cfg.Rate, Accounts: cfg.Accounts}, Audit: Audit{Sum: w.total()}}
	var err error
	if r.Machine, err = lookAtMachine(w.decisions); err != nil {
		return nil, err
	}
	r.Servers = serversOf(w.banks)
	for _, row := range rows {
		r.Lines = append(r.Lines, LineOf{Name: row.Name, Floor: row.Floor, About: row.About})
	}
	return r, nil
}

// best is the highest throughput of a line in a round, with whatever number of clients.
func (r *Report) best(round int, line string) float64 {
	best := 0.0
	for _, f := range r.Figures {
		if f.Round == round+1 && f.Mode == Closed && f.Line == line {
			best = max(best, f.PerSecond)
		}
	}
	return best
}

// summarize makes the summaries, in the order of the lines.
func (r *Report) summarize(rows []Row, latencies map[Cell]*hdrhistogram.Histogram) {
	byCell := map[Cell][]Figure{}
	var cells []Cell
	for _, f := range r.Figures {
		if byCell[f.Cell] == nil {
			cells = append(cells, f.Cell)
		}
		byCell[f.Cell] = append(byCell[f.Cell], f)
		r.Audit.Times++
		r.Audit.Transfers += f.Transfers
	}
	slices.SortFunc(cells, func(a, b Cell) int { return r.compare(a, b) })
	for _, c := range cells {
		s := summaryOf(c, byCell[c])
		if floor, ok := c.floor(rows); ok && c.Mode != Open {
			s.Ratio = ratioOf(byCell[c], byCell[floor])
		}
		h := latencies[c]
		s.Latency = latencyOf(h)
		if c.Mode == Open {
			s.Curve = curveOf(h)
		}
		r.Summaries = append(r.Summaries, s)
	}
}

// compare orders cells as the tables have them.
func (r *Report) compare(a, b Cell) int {
	rank := func(c Cell) []int {
		return []int{slices.Index([]Mode{Closed, Growth, Open}, c.Mode),
			slices.IndexFunc(r.Lines, func(l LineOf) bool { return l.Name == c.Line }),
			c.Clients, c.Databases}
	}
	return slices.Compare(rank(a), rank(b))
}

// summaryOf is a cell's figures without what is compared or merged.
func summaryOf(c Cell, figures []Figure) Summary {
	s := Summary{Cell: c}
	var speeds, rates []float64
	for _, f := range figures {
		speeds = append(speeds, f.PerSecond)
		rates = append(rates, f.Rate)
		s.Aborted += f.Aborted
		s.Unstarted += f.Unstarted
	}
	s.PerSecond, s.Rate = spreadOf(speeds), spreadOf(rates).Median
	for p := range s.Phases {
		var values []float64
		for _, f := range figures {
			values = append(values, f.Phases[p])
		}
		s.Phases[p] = spreadOf(values).Median
	}
	return s
}

// ratioOf compares round by round.
func ratioOf(figures, floors []Figure) *Spread {
	var ratios []float64
	for _, f := range figures {
		for _, floor := range floors {
			if floor.Round == f.Round {
				ratios = append(ratios, f.PerSecond/floor.PerSecond)
			}
		}
	}
	if len(ratios) == 0 {
		return nil
	}
	s := spreadOf(ratios)
	return &s
}

// Select are the summaries of a mode, in the order of the lines.
func (r *Report) Select(mode Mode) []Summary {
	var found []Summary
	for _, s := range r.Summaries {
		if s.Mode == mode {
			found = append(found, s)
		}
	}
	return found
}

// Middle is the number of clients at which the phases are shown: growthClients, or the next that
// was measured.
func (r *Report) Middle() int {
	best := r.Settings.Clients[0]
	for _, n := range r.Settings.Clients {
		if abs(n-growthClients) < abs(best-growthClients) {
			best = n
		}
	}
	return best
}

func abs(n int) int { return max(n, -n) }

// WriteJSON writes all of it.
func (r *Report) WriteJSON(w io.Writer) error {
	body, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("bench: encode the report: %w", err)
	}
	_, err = w.Write(append(body, '\n'))
	return err
}

// ReadJSON reads what WriteJSON has written.
func ReadJSON(in io.Reader) (*Report, error) {
	var r Report
	if err := json.NewDecoder(in).Decode(&r); err != nil {
		return nil, fmt.Errorf("bench: read a report: %w", err)
	}
	if r.Format != ReportFormat {
		return nil, fmt.Errorf("bench: the report has format %d, and this program reads %d",
			r.Format, ReportFormat)
	}
	return &r, nil
}

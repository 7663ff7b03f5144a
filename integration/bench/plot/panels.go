package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/gavel-tx/gavel/integration/bench"
)

// panel is one of the plots, with its height.
type panel struct {
	plot   *plot.Plot
	height vg.Length
}

// legendRoom is the share of a plot's width that is left to the legend.
const legendRoom = 0.34

// Where legends begin, as shares of the picture's width, counted from the vertical axis.
const legendAt, phasesAt = 0.65, 0.68

// panels are those that the report has figures for.
func panels(r *bench.Report) ([]panel, error) {
	makers := []struct {
		draw   func(*bench.Report) (*plot.Plot, error)
		height vg.Length
	}{{throughput, 300}, {latency, 320}, {phases, 300}, {growth, 220}}
	var all []panel
	for _, m := range makers {
		p, err := m.draw(r)
		if err != nil {
			return nil, err
		}
		if p != nil {
			all = append(all, panel{p, m.height})
		}
	}
	return all, nil
}

// family are the lines that are compared with the first floor, and it: those that do the same work.
// Others would stretch the axes.
func family(r *bench.Report) []string {
	var names []string
	for _, l := range r.Lines {
		if l.Name == r.Lines[0].Name || l.Floor == r.Lines[0].Name {
			names = append(names, l.Name)
		}
	}
	return names
}

// of keeps the summaries of one line.
func of(all []bench.Summary, line string) []bench.Summary {
	all = slices.Clone(all)
	return slices.DeleteFunc(all, func(s bench.Summary) bool { return s.Line != line })
}

// newPlot has a quiet grid and room for a legend at the right.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.TextStyle.Font.Size = 14
	p.Title.Padding = 8
	// Texts that begin at a place stay there, whatever font the reader has; texts that end at one
	// would not.
	p.Legend.Top, p.Legend.Left, p.Legend.XOffs = true, true, width*legendAt
	p.Legend.TextStyle.Font.Size = 10
	p.Legend.ThumbnailWidth = 24
	p.Legend.Padding = 2
	grid := plotter.NewGrid()
	grid.Vertical.Color = nil
	grid.Horizontal.Color = gray(225)
	p.Add(grid)
	return p
}

// throughput has a place for each number of clients.
func throughput(r *bench.Report) (*plot.Plot, error) {
	p := newPlot("Throughput", "clients", "transfers per second")
	var places []int
	for _, s := range r.Select(bench.Closed) {
		if !slices.Contains(places, s.Clients) {
			places = append(places, s.Clients)
		}
	}
	slices.Sort(places)
	all := r.Select(bench.Closed)
	err := ranges(p, family(r), places, func(line string) []bench.Summary {
		return of(all, line)
	}, func(s bench.Summary) int { return s.Clients })
	return p, err
}

// growth has a place for each number of branches.
func growth(r *bench.Report) (*plot.Plot, error) {
	all := r.Select(bench.Growth)
	if len(all) == 0 {
		return nil, nil
	}
	p := newPlot(fmt.Sprintf("More branches, %d clients", all[0].Clients), "branches",
		"transfers per second")
	var places []int
	for _, s := range all {
		if !slices.Contains(places, s.Databases) {
			places = append(places, s.Databases)
		}
	}
	slices.Sort(places)
	err := ranges(p, family(r), places, func(line string) []bench.Summary {
		return of(all, line)
	}, func(s bench.Summary) int { return s.Databases })
	return p, err
}

// ranges draws a line for each name: medians, with bars from the lowest round to the highest.
func ranges(
	p *plot.Plot, names []string, places []int, find func(string) []bench.Summary,
	place func(bench.Summary) int,
) error {
	for i, name := range names {
		var points rounds
		for _, s := range find(name) {
			x := float64(slices.Index(places, place(s)))
			points = append(points, round{x, s.PerSecond})
		}
		if len(points) == 0 {
			continue
		}
		style := styleOf(i, name)
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return err
		}
		bars, err := plotter.NewYErrorBars(points)
		if err != nil {
			return err
		}
		line.LineStyle, bars.LineStyle = style, style
		bars.Width, bars.Dashes, bars.CapWidth = 1, nil, 5
		dots.Shape, dots.Color, dots.Radius = draw.CircleGlyph{}, style.Color, 2.5
		p.Add(line, bars, dots)
		p.Legend.Add(name, line)
	}
	labels := make([]string, len(places))
	for i, n := range places {
		labels[i] = strconv.Itoa(n)
	}
	p.NominalX(labels...)
	p.Y.Min = 0
	last := float64(len(places) - 1)
	p.X.Min, p.X.Max = -0.2, last+0.2+(last+0.4)*legendRoom/(1-legendRoom)
	return nil
}

// round is a median with its spread.
type round struct {
	x float64
	bench.Spread
}

// rounds are points for gonum.
type rounds []round

// Len is the number of points.
func (r rounds) Len() int { return len(r) }

// XY is the i-th point.
func (r rounds) XY(i int) (x, y float64) { return r[i].x, r[i].Median }

// YError is how far the rounds lie below and above it.
func (r rounds) YError(i int) (low, high float64) {
	return r[i].Median - r[i].Min, r[i].Max - r[i].Median
}

// latency shows the tail as wide as the rest: the axis is the logarithm of how rare it is.
func latency(r *bench.Report) (*plot.Plot, error) {
	all := r.Select(bench.Open)
	if len(all) == 0 {
		return nil, nil
	}
	p := newPlot(fmt.Sprintf("Latency at %.0f transfers per second", all[0].Rate),
		"share of transfers that took no longer", "milliseconds")
	rarest := 10.0
	for i, name := range family(r) {
		for _, s := range of(all, name) {
			var points plotter.XYs
			for _, at := range s.Curve {
				x := 1 / (1 - at.Share)
				rarest = max(rarest, x)
				points = append(points, plotter.XY{X: x, Y: max(at.Millis, 0.001)})
			}
			line, err := plotter.NewLine(points)
			if err != nil {
				return nil, err
			}
			line.LineStyle = styleOf(i, name)
			p.Add(line)
			p.Legend.Add(name, line)
		}
	}
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker = shares{}
	p.Y.Tick.Marker = decades{}
	p.X.Min, p.X.Max = 1, math.Pow(rarest, 1/(1-legendRoom))
	return p, nil
}

// phases stacks the phases of each line, at one number of clients.
func phases(r *bench.Report) (*plot.Plot, error) {
	p := newPlot(fmt.Sprintf("Where a commit's time goes, %d clients", r.Middle()),
		"milliseconds (average)", "")
	names := family(r)
	slices.Reverse(names) // the axis runs upwards
	values := make([]plotter.Values, len(bench.Phases{}))
	longest := 0.0
	for _, name := range names {
		var total float64
		for _, s := range of(r.Select(bench.Closed), name) {
			if s.Clients != r.Middle() {
				continue
			}
			for i, ms := range s.Phases {
				values[i] = append(values[i], ms)
				total += ms
			}
		}
		longest = max(longest, total)
	}
	var below *plotter.BarChart
	for i, v := range values {
		bars, err := plotter.NewBarChart(v, 14)
		if err != nil {
			return nil, err
		}
		bars.Horizontal, bars.Color, bars.LineStyle.Width = true, phaseColor(i), 0
		if below != nil {
			bars.StackOn(below)
		}
		below = bars
		p.Add(bars)
		p.Legend.Add(bench.Phase(i).String(), bars)
	}
	p.NominalY(names...)
	p.Y.Padding = 14
	p.X.Min, p.X.Max = 0, longest*1.25
	p.Legend.XOffs = width * phasesAt
	return p, nil
}

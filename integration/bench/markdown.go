package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// WriteMarkdown writes the tables, for people.
func (r *Report) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	r.head(&b)
	r.throughput(&b)
	r.growth(&b)
	r.paced(&b)
	r.phases(&b)
	r.glossary(&b)
	r.conditions(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

// markdown writes a table whose first column is words and whose others are numbers.
func markdown(b *strings.Builder, header []string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(b, "| %s |\n|---|%s\n", strings.Join(header, " | "),
		strings.Repeat("---:|", len(header)-1))
	for _, row := range rows {
		fmt.Fprintf(b, "| %s |\n", strings.Join(row, " | "))
	}
	b.WriteString("\n")
}

func (r *Report) head(b *strings.Builder) {
	fmt.Fprintf(b, "# What an atomic commit costs\n\n"+
		"Transfers between real PostgreSQL databases, by gavel and by hand in the same run. Each "+
		"figure is the\nmedian over %d rounds, %g s each; in brackets how far the rounds lie "+
		"apart. Percentages compare a line with its\nfloor in the same round.\n\n"+
		"Money: %s before, %s after, added up %s times; %s transfers; nothing stayed prepared.\n\n",
		r.Settings.Rounds, r.Settings.DurationSeconds, number(float64(r.Audit.Sum)),
		number(float64(r.Audit.Sum)), number(float64(r.Audit.Times)),
		number(float64(r.Audit.Transfers)))
}

// byLine lays summaries out with a row for each line and a column for each value of what varies.
func (r *Report) byLine(all []Summary, varies func(Summary) int) (columns []int, rows [][]string) {
	for _, s := range all {
		if n := varies(s); !slices.Contains(columns, n) {
			columns = append(columns, n)
		}
	}
	slices.Sort(columns)
	for _, l := range r.Lines {
		row := make([]string, len(columns)+1)
		row[0] = l.Name
		found := false
		for _, s := range all {
			if s.Line == l.Name {
				row[1+slices.Index(columns, varies(s))] = speed(s)
				found = true
			}
		}
		if found {
			rows = append(rows, row)
		}
	}
	return columns, rows
}

// speed is a throughput with its ratio, or, for a floor, with its spread.
func speed(s Summary) string {
	text := number(s.PerSecond.Median)
	if s.Ratio == nil {
		return fmt.Sprintf("%s (%s–%s)", text, number(s.PerSecond.Min), number(s.PerSecond.Max))
	}
	return fmt.Sprintf("%s · **%.0f %%** (%.0f–%.0f)", text, 100*s.Ratio.Median, 100*s.Ratio.Min,
		100*s.Ratio.Max)
}

// titles puts the header of a table together, with what is counted in the singular.
func titles(columns []int, one, many string) []string {
	header := []string{"line"}
	for _, n := range columns {
		what := many
		if n == 1 {
			what = one
		}
		header = append(header, fmt.Sprintf("%d %s", n, what))
	}
	return header
}

func (r *Report) throughput(b *strings.Builder) {
	columns, rows := r.byLine(r.Select(Closed), func(s Summary) int { return s.Clients })
	fmt.Fprintf(b, "## Throughput, transfers per second\n\n")
	markdown(b, titles(columns, "client", "clients"), rows)
	r.aborts(b)
}

// aborts tells which lines had to make transfers again. Most have none.
func (r *Report) aborts(b *strings.Builder) {
	var words []string
	for _, l := range r.Lines {
		n := int64(0)
		for _, s := range r.Summaries {
			if s.Line == l.Name {
				n += s.Aborted
			}
		}
		if n > 0 {
			words = append(words, fmt.Sprintf("%s %s", l.Name, number(float64(n))))
		}
	}
	if len(words) > 0 {
		fmt.Fprintf(b, "Attempts that were aborted and made again, in the whole run: %s.\n\n",
			strings.Join(words, ", "))
	}
}

func (r *Report) growth(b *strings.Builder) {
	columns, rows := r.byLine(r.Select(Growth), func(s Summary) int { return s.Databases })
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(b, "## More branches, transfers per second at %d clients\n\n", growthClients)
	markdown(b, titles(columns, "branch", "branches"), rows)
}

func (r *Report) paced(b *strings.Builder) {
	all := r.Select(Open)
	if len(all) == 0 {
		return
	}
	fmt.Fprintf(b, "## Latency at a constant rate of %s transfers per second, milliseconds\n\n"+
		"The rate is %.0f %% of the best throughput of %s in the same round. A transfer counts "+
		"from when it was due.\n\n", number(all[0].Rate), 100*r.Settings.Rate, twoPhaseName)
	var rows [][]string
	late := false
	for _, s := range all {
		l := s.Latency
		row := []string{s.Line}
		for _, ms := range []float64{l.Mean, l.P50, l.P90, l.P99, l.P999, l.Max} {
			row = append(row, fmt.Sprintf("%.2f", ms))
		}
		if s.Unstarted > 0 {
			row[0] += " †"
			late = true
		}
		rows = append(rows, row)
	}
	markdown(b, []string{"line", "mean", "p50", "p90", "p99", "p99.9", "max"}, rows)
	if late {
		b.WriteString("† could not keep up with the rate: some transfers were never begun.\n\n")
	}
}

func (r *Report) phases(b *strings.Builder) {
	fmt.Fprintf(b, "## Where a commit's time goes at %d clients, milliseconds\n\n"+
		"The average of a round, as the client sees it. *begin* is what is left of the wait for "+
		"the coordinator when SQL is\ndone; *prepare* is over at the slowest branch; *commit* is "+
		"all that follows: with gavel the Commit call, which is\nthe decision on disk and, where "+
		"the answer waits for it, phase two.\n\n", r.Middle())
	var rows [][]string
	for _, s := range r.Select(Closed) {
		if s.Clients != r.Middle() {
			continue
		}
		row, sum := []string{s.Line}, 0.0
		for _, ms := range s.Phases {
			row = append(row, fmt.Sprintf("%.2f", ms))
			sum += ms
		}
		rows = append(rows, append(row, fmt.Sprintf("%.2f", sum)))
	}
	header := []string{"line"}
	for p := range phases {
		header = append(header, p.String())
	}
	markdown(b, append(header, "all"), rows)
}

func (r *Report) glossary(b *strings.Builder) {
	b.WriteString("## The lines\n\n")
	for _, l := range r.Lines {
		floor := ""
		if l.Floor != "" {
			floor = " (compared with " + l.Floor + ")"
		}
		fmt.Fprintf(b, "- **%s**%s: %s.\n", l.Name, floor, l.About)
	}
	b.WriteString("\n")
}

func (r *Report) conditions(b *strings.Builder) {
	m := r.Machine
	fmt.Fprintf(b, "## Conditions\n\nEverything ran on one machine: clients, coordinators and "+
		"databases.\n\n")
	line := func(what, format string, args ...any) {
		fmt.Fprintf(b, "- %s: %s\n", what, fmt.Sprintf(format, args...))
	}
	line("machine", "%d × %s, %s, %s/%s, kernel %s", m.CPUs, orUnknown(m.CPU), orUnknown(m.Memory),
		m.OS, m.Arch, orUnknown(m.Kernel))
	line("disk", "64 bytes written and forced in %.2f ms (median)", m.SyncMillis)
	line("program", "gavel %s, %s", r.Settings.Version, m.Go)
	for _, s := range r.Servers {
		var words []string
		for _, name := range slices.Sorted(maps.Keys(s.Settings)) {
			words = append(words, name+" "+s.Settings[name])
		}
		line(strings.Join(s.Resources, ", "), "PostgreSQL %s (%s)", s.Version,
			strings.Join(words, ", "))
	}
	line("run", "%s, seed %d, %s accounts in each database, lines in a fresh order in each round",
		m.When.Format("2006-01-02 15:04 MST"), r.Settings.Seed,
		number(float64(r.Settings.Accounts)))
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// number is a whole number with a comma after each three digits.
func number(v float64) string {
	digits := strconv.FormatFloat(v, 'f', 0, 64)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

package bench

import (
	"bytes"
	"flag"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/go-cmp/cmp"
)

// update writes the golden files anew.
var update = flag.Bool("update", false, "write the files in testdata anew")

// TestSpread: the median is between the two in the middle of an even number.
func TestSpread(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   Spread
	}{
		{[]float64{3}, Spread{3, 3, 3}},
		{[]float64{4, 1}, Spread{2.5, 1, 4}},
		{[]float64{9, 1, 2}, Spread{2, 1, 9}},
		{[]float64{1, 100, 2, 3}, Spread{2.5, 1, 100}},
	} {
		if got := spreadOf(c.values); got != c.want {
			t.Errorf("%v: %+v, want %+v", c.values, got, c.want)
		}
	}
}

// TestRatio is taken round by round: a machine that was slow for a while was slow for both.
func TestRatio(t *testing.T) {
	figures := func(speeds ...float64) (all []Figure) {
		for i, s := range speeds {
			all = append(all, Figure{Round: i + 1, PerSecond: s})
		}
		return all
	}
	line, floor := figures(50, 500, 60), figures(100, 1000, 100)
	slices.Reverse(floor) // the order of the cells of a round is random
	if got := ratioOf(line, floor); *got != (Spread{0.5, 0.5, 0.6}) {
		t.Errorf("%+v", got)
	}
	if got := ratioOf(line, nil); got != nil {
		t.Errorf("%+v without a floor", got)
	}
}

// TestLatency: percentiles in milliseconds, and no point of the curve that one transfer alone made.
func TestLatency(t *testing.T) {
	h := newHistogram()
	for i := range 1000 {
		if err := h.RecordValue(int64(i+1) * int64(time.Millisecond)); err != nil {
			t.Fatal(err)
		}
	}
	l := latencyOf(h)
	for name, c := range map[string][2]float64{"mean": {l.Mean, 500.5}, "p50": {l.P50, 500},
		"p90": {l.P90, 900}, "p99": {l.P99, 990}, "p99.9": {l.P999, 999}, "max": {l.Max, 1000}} {
		if math.Abs(c[0]-c[1]) > c[1]/1000 {
			t.Errorf("%s: %v, want %v", name, c[0], c[1])
		}
	}
	curve := curveOf(h)
	if last := curve[len(curve)-1]; last.Share != 0.999 || curve[0].Share != 0 {
		t.Errorf("%+v", curve)
	}
	for i := 1; i < len(curve); i++ {
		if curve[i].Millis < curve[i-1].Millis {
			t.Errorf("point %d is lower than the one before: %+v", i, curve)
		}
	}
}

// TestGroups: within a group only the line differs, everything is measured once, and the order is
// the seed's.
func TestGroups(t *testing.T) {
	cfg := Config{Resources: make([]Resource, 4), Clients: []int{1, 8}, Rate: 0.5}.withDefaults()
	all, paced := groups(cfg, Rows())
	if len(all) != 4 || len(all[0]) != len(Rows()) || len(all[2]) != 4 || len(paced) != 15 {
		t.Fatalf("%d groups, %d in the first, %d paced", len(all), len(all[0]), len(paced))
	}
	if paced[0].Clients != 8 || paced[0].Mode != Open {
		t.Errorf("%v", paced[0])
	}
	seen := map[Cell]bool{}
	for _, g := range append(shuffled(all, rand.New(rand.NewPCG(1, 2))), paced) {
		for _, c := range g {
			like := g[0]
			if like.Line = c.Line; like != c || seen[c] {
				t.Errorf("%v beside %v", c, g[0])
			}
			seen[c] = true
		}
	}
	order := func(seed uint64) [][]Cell {
		return shuffled(all, rand.New(rand.NewPCG(seed, 0)))
	}
	if !cmp.Equal(order(7), order(7)) || cmp.Equal(order(7), order(8)) {
		t.Error("the order is not the seed's")
	}
	if again, _ := groups(cfg, Rows()); !cmp.Equal(all, again) {
		t.Error("shuffling has changed what it was given")
	}
	if _, paced := groups(cfg, choose([]string{"empty-rpc"}, true)); len(paced) != 0 {
		t.Errorf("%v is paced without a floor to take the rate from", paced)
	}
	cfg.Rate = 0
	if _, paced := groups(cfg, Rows()); len(paced) != 0 {
		t.Errorf("%v is paced at no rate", paced)
	}
}

// TestSeed: each cell of each round has clients of its own.
func TestSeed(t *testing.T) {
	c := Cell{Closed, "2pc", 8, 2}
	other := Cell{Closed, "2pc", 9, 2}
	if same := c; same.seed(0) != c.seed(0) || c.seed(0) == c.seed(1) ||
		c.seed(0) == other.seed(0) {
		t.Error("seeds are not the cells'")
	}
}

// fixture is a report of figures that nobody has measured.
func fixture() *Report {
	rows := choose([]string{"2pc-pipelined", "server-classic-applied", "one-resource"}, true)
	r := &Report{Format: ReportFormat, Servers: []Server{{Resources: []string{"a", "b"},
		Version: "15.1", Settings: map[string]string{"fsync": "on", "commit_delay": "0"}}},
		Machine: Machine{OS: "linux", Arch: "amd64", CPU: "Imagined", CPUs: 2, Memory: "8 GB",
			Go: "go1.26", SyncMillis: 0.25, When: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
		Settings: Settings{Version: "v0", Seed: 7, Clients: []int{1, 8}, Rounds: 3,
			DurationSeconds: 1.5, Rate: 0.5, Accounts: 10_000},
		Audit: Audit{Sum: 20_000_000_000}}
	for _, row := range rows {
		r.Lines = append(r.Lines, LineOf{row.Name, row.Floor, row.About})
	}
	latencies := map[Cell]*hdrhistogram.Histogram{}
	random := rand.New(rand.NewPCG(1, 1))
	cfg := Config{Resources: make([]Resource, 4), Clients: []int{1, 8}, Rate: 0.5}.withDefaults()
	all, paced := groups(cfg, rows)
	for round := range 3 {
		for _, c := range append(slices.Concat(all...), paced...) {
			r.Figures = append(r.Figures, imagined(c, round+1, random, latencies))
		}
	}
	r.summarize(rows, latencies)
	return r
}

// imagined is a figure. Lines get slower down the table, and faster with clients and rounds.
func imagined(
	c Cell, round int, random *rand.Rand, latencies map[Cell]*hdrhistogram.Histogram,
) Figure {
	base := float64(slices.Index(Names(), c.Line) + 1)
	f := Figure{Cell: c, Round: round, Seconds: 1.5}
	if c.Line == "2pc-pipelined" {
		f.Aborted = 1
	}
	f.PerSecond = 1000 * float64(c.Clients) / base / float64(c.Databases) * (1 + float64(round)/10)
	f.Transfers = int64(f.PerSecond * f.Seconds)
	if c.Mode == Open {
		f.Rate, f.PerSecond = 500, 500
	}
	if c.Mode == Open && c.Line == "server-classic-applied" {
		f.Unstarted = 3
	}
	h := newHistogram()
	for range 500 {
		_ = h.RecordValue(int64(1e6 * base * (1 + random.ExpFloat64())))
	}
	if latencies[c] == nil {
		latencies[c] = newHistogram()
	}
	latencies[c].Merge(h)
	f.Latency = latencyOf(h)
	f.Phases = Phases{PhaseSQL: base, PhasePrepare: 2 * base, PhaseCommit: base / 2}
	return f
}

// golden compares with a file in testdata, or writes it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := "testdata/" + name
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := func(text []byte) []string { return strings.Split(string(text), "\n") }
	if diff := cmp.Diff(lines(want), lines(got)); diff != "" {
		t.Errorf("%s: -want +got:\n%s", path, diff)
	}
}

// TestMarkdown is the table as people see it.
func TestMarkdown(t *testing.T) {
	var b bytes.Buffer
	if err := fixture().WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.md", b.Bytes())
}

// TestJSON: what is written can be read, and is the same again.
func TestJSON(t *testing.T) {
	want := fixture()
	var b bytes.Buffer
	if err := want.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.json", b.Bytes())
	got, err := ReadJSON(&b)
	if err != nil || !cmp.Equal(want, got) {
		t.Errorf("%v\n%s", err, cmp.Diff(want, got))
	}
	for _, bad := range []string{"", "{", `{"format": 99}`} {
		if _, err := ReadJSON(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is a report", bad)
		}
	}
}

// TestSummaries: what the tables say follows from the figures.
func TestSummaries(t *testing.T) {
	r := fixture()
	find := func(c Cell) Summary {
		i := slices.IndexFunc(r.Summaries, func(s Summary) bool { return s.Cell == c })
		if i < 0 {
			t.Fatalf("no summary of %v", c)
		}
		return r.Summaries[i]
	}
	s := find(Cell{Closed, "2pc-pipelined", 8, 2})
	if s.PerSecond != (Spread{2400, 2200, 2600}) || *s.Ratio != (Spread{0.5, 0.5, 0.5}) ||
		s.Aborted != 3 || s.Curve != nil || s.Phases[PhasePrepare] != 4 {
		t.Errorf("%+v", s)
	}
	if s := find(Cell{Open, "2pc", 8, 2}); s.Ratio != nil || s.Rate != 500 || len(s.Curve) == 0 {
		t.Errorf("%+v", s)
	}
	if s := find(Cell{Growth, "server-classic-applied", 8, 4}); s.Ratio == nil {
		t.Errorf("%+v", s)
	}
	if r.Audit.Times != len(r.Figures) || r.Audit.Transfers == 0 {
		t.Errorf("%+v", r.Audit)
	}
	if got := r.best(1, "2pc"); got != 4800 {
		t.Errorf("the best of the second round is %v", got)
	}
}

// TestMiddle is the number of clients next to that of growth.
func TestMiddle(t *testing.T) {
	for want, clients := range map[int][]int{8: {1, 8, 32}, 10: {1, 10, 32}, 2: {1, 2}, 64: {64}} {
		r := Report{Settings: Settings{Clients: clients}}
		if got := r.Middle(); got != want {
			t.Errorf("%v: %d", clients, got)
		}
	}
}

// TestNumber has a comma after each three digits.
func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 999: "999", 1000: "1,000",
		1234567.8: "1,234,568"} {
		if got := number(v); got != want {
			t.Errorf("%v: %s", v, got)
		}
	}
}

// TestMachine: what can be found out is found out, and the rest is left out.
func TestMachine(t *testing.T) {
	file := t.TempDir() + "/info"
	if err := os.WriteFile(file, []byte("a b\t: first\na b: second\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := fieldOf(file, "a b"); got != "first" {
		t.Errorf("%q", got)
	}
	if got := fieldOf(file, "c") + fieldOf(file+"x", "a b"); got != "" {
		t.Errorf("%q", got)
	}
	all := serversOf([]*bank{{Resource: Resource{Name: "a"}, identity: "1"},
		{Resource: Resource{Name: "b"}, identity: "2"},
		{Resource: Resource{Name: "c"}, identity: "1"}})
	if len(all) != 2 || !slices.Equal(all[0].Resources, []string{"a", "c"}) {
		t.Errorf("%+v", all)
	}
}

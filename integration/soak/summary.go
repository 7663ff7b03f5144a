package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// summary adds up the lines in which the layers of the tests say what they did.
type summary struct {
	// last is the newest line of a layer that says all in one.
	last map[string]string
	// worlds counts simulated worlds by their kind, kills processes by theirs, faults what happened
	// beside.
	worlds, kills, faults map[string]int
	rounds                int
}

var (
	layer  = regexp.MustCompile(`^(?:\s+\S+\.go:\d+: )?((explore|log|sim|crash): .*)`)
	played = regexp.MustCompile(`^sim: (\d+) (\w+) worlds`)
	count  = regexp.MustCompile(`([\w /-]+)=(\d+)`)
)

// take reads one line of a test's output.
func (s *summary) take(line string) {
	m := layer.FindStringSubmatch(line)
	if m == nil {
		return
	}
	if s.last == nil {
		s.last, s.worlds = map[string]string{}, map[string]int{}
		s.kills, s.faults = map[string]int{}, map[string]int{}
	}
	switch m[2] {
	case "sim":
		if w := played.FindStringSubmatch(m[1]); w != nil {
			n, _ := strconv.Atoi(w[1])
			s.worlds[w[2]] += n
		}
	case "crash":
		s.rounds++
		s.crash(strings.TrimPrefix(m[1], "crash: "))
	default:
		s.last[m[2]] = m[1]
	}
}

// crash reads "kills coordinator=9 sidecar=5; stops backend=1 sidecar=2; request lost=6".
func (s *summary) crash(text string) {
	for part := range strings.SplitSeq(text, "; ") {
		part, kills := strings.CutPrefix(part, "kills ")
		part, stops := strings.CutPrefix(part, "stops ")
		for _, c := range count.FindAllStringSubmatch(part, -1) {
			n, _ := strconv.Atoi(c[2])
			switch name := strings.TrimSpace(c[1]); {
			case kills:
				s.kills[name] += n
			case stops:
				s.faults["stopped "+name] += n
			default:
				s.faults[name] += n
			}
		}
	}
}

// Half an hour has at least so many worlds and kills.
const (
	worldsPerHalfHour = 1_000_000
	killsPerHalfHour  = 500
)

func total(counts map[string]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}

// enough says what is missing for a run of that time to mean something. It wants some fault beside
// the kills, of whichever kind: that every kind has happened is for the tests to say, which know
// them all.
func (s *summary) enough(d time.Duration) error {
	share := d.Minutes() / 30
	for _, want := range []struct {
		what string
		n    int
		min  float64
	}{
		{"simulated worlds", total(s.worlds), share * worldsPerHalfHour},
		{"kills of processes", total(s.kills), share * killsPerHalfHour},
		{"kinds of faults beside", len(s.faults), 1},
		{"layers", len(s.last), 2},
	} {
		if float64(want.n) < want.min {
			return fmt.Errorf("%d %s are too few: want %.0f", want.n, want.what, want.min)
		}
	}
	return nil
}

// report is for people, and for docs/TESTING.md.
func (s *summary) report(took time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "soak of %s\n", took.Round(time.Second))
	for _, name := range slices.Sorted(maps.Keys(s.last)) {
		fmt.Fprintln(&b, s.last[name])
	}
	fmt.Fprintf(&b, "sim: %d worlds: %s\n", total(s.worlds), listed(s.worlds))
	fmt.Fprintf(&b, "crash: %d rounds, %d kills: %s\n", s.rounds, total(s.kills), listed(s.kills))
	fmt.Fprintf(&b, "crash: %s\n", listed(s.faults))
	return b.String()
}

func listed(counts map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, counts[name]))
	}
	return strings.Join(parts, ", ")
}

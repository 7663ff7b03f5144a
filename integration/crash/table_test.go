package crash_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/integration/crash"
)

func TestCellsOfAMode(t *testing.T) {
	steps := []string{"x", "y"}
	for mode, want := range map[crash.Mode]int{
		crash.InProcess: 6, crash.Sidecars: 8, crash.Ring: 12,
	} {
		cells := crash.Cells(mode, steps)
		if len(cells) != want {
			t.Errorf("%s: %d cells, want %d", mode, len(cells), want)
		}
		sidecar := slices.ContainsFunc(cells, func(c crash.Cell) bool {
			return c.Victim == crash.Sidecar
		})
		if sidecar != (mode == crash.Sidecars) {
			t.Errorf("%s: kills a sidecar: %v", mode, sidecar)
		}
	}
	if got := chosen(crash.Cells(crash.Sidecars, steps), "/y/"); len(got) != 4 {
		t.Errorf("chosen: %v", got)
	}
}

func TestScheduleHitsEveryCellAsOften(t *testing.T) {
	cells := crash.Cells(crash.Sidecars, []string{"x", "y", "z"})
	order := func(seed uint64) []crash.Cell {
		return crash.Schedule(cells, 3, rand.New(rand.NewPCG(seed, 0)))
	}
	tally := crash.Tally{}
	for _, c := range order(1) {
		tally[c]++
	}
	for _, c := range cells {
		if tally[c] != 3 {
			t.Errorf("%s comes %d times", c, tally[c])
		}
	}
	if !slices.Equal(order(1), order(1)) || slices.Equal(order(1), order(2)) {
		t.Error("the seed does not decide the order")
	}
}

func TestTallyShowsWhatIsMissing(t *testing.T) {
	steps := []string{"x", "y"}
	cells := crash.Cells(crash.InProcess, steps)
	tally := crash.Tally{}
	for _, c := range cells {
		tally[c] = 3
	}
	if short := tally.Short(cells, 3); len(short) != 0 || tally.Kills() != 18 {
		t.Errorf("short %v, %d kills", short, tally.Kills())
	}
	if tally.Least(cells) != 3 || tally.Least(nil) != 0 {
		t.Errorf("least %d, of none %d", tally.Least(cells), tally.Least(nil))
	}
	tally[cells[4]] = 2
	delete(tally, cells[0])
	if short := tally.Short(cells, 3); !slices.Equal(short, []crash.Cell{cells[0], cells[4]}) {
		t.Errorf("short: %v", short)
	}
	if n := tally.Least(cells); n != 0 {
		t.Errorf("least %d", n)
	}
	text := tally.Render(crash.InProcess, steps)
	if strings.Count(text, "\n") != 2 || !strings.Contains(text, "database") {
		t.Errorf("the table is\n%s", text)
	}
}

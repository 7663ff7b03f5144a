package crash_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/integration/crash"
)

// How often each cell is hit. The modes have different numbers of cells, and about the same number
// of kills this way.
const (
	leastHits     = 3
	leastKills    = 200
	inProcessHits = 4
	sidecarsHits  = 3
)

// TestKillTable kills every victim at every step, in both modes, and after each kill everything
// must be as if nothing had happened.
func TestKillTable(t *testing.T) {
	seed, steps, tally := seed(t), steps(t), crash.Tally{}
	t.Logf("seed %d (GAVEL_SEED overrides; GAVEL_CELL=mode/step/victim, or a part, chooses)", seed)
	only := os.Getenv("GAVEL_CELL")
	var cells []crash.Cell
	for mode, times := range []int{crash.InProcess: inProcessHits, crash.Sidecars: sidecarsHits} {
		mode := crash.Mode(mode)
		chosen := chosen(crash.Cells(mode, steps), only)
		cells = append(cells, chosen...)
		t.Run(mode.String(), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, uint64(mode)))
			w := newWorld(t, mode, rng)
			for _, c := range crash.Schedule(chosen, times, rng) {
				w.begun = fmt.Sprintf("seed %d, kill %d: %s", seed, w.round+1, c)
				w.killRound(c)
				tally[c]++
				shared.faults.Add(killOf(c.Victim))
			}
			w.checkWhole()
		})
	}
	for _, m := range []crash.Mode{crash.InProcess, crash.Sidecars} {
		t.Logf("kills\n%s", tally.Render(m, steps))
	}
	if short := tally.Short(cells, leastHits); len(short) > 0 {
		t.Errorf("hit less than %d times: %v", leastHits, short)
	}
	if n := tally.Kills(); n < leastKills && only == "" {
		t.Errorf("%d kills, fewer than %d", n, leastKills)
	}
	t.Logf("kill table: %d kills, %d cells, all ≥ %d, no alarm", tally.Kills(), len(cells),
		tally.Least(cells))
}

// killOf is how the killing of a victim is counted.
func killOf(v crash.Victim) crash.Fault {
	return [...]crash.Fault{crash.KillCoordinator, crash.KillSidecar, crash.KillBackend,
		crash.KillClient, crash.KillMaria, crash.KillStore, crash.KillOwn}[v]
}

// chosen are the cells whose name contains a part, to look at one again and again.
func chosen(cells []crash.Cell, part string) []crash.Cell {
	return slices.DeleteFunc(cells, func(c crash.Cell) bool {
		return !strings.Contains(c.String(), part)
	})
}

// killRound is one kill, and everything that must hold after it.
func (w *world) killRound(c crash.Cell) {
	w.t.Helper()
	w.open()
	h := w.reach(c.Step)
	revive := w.strike(c.Victim)
	h.release()
	revive()
	w.gate()
}

// reach waits until a process stands at a step.
func (w *world) reach(step string) held {
	w.t.Helper()
	return w.rig.reach(step, func() { w.strike(crash.Coordinator)() })
}

// strike kills a victim, which is gone when it returns. The function that it returns starts the
// victim again.
func (w *world) strike(v crash.Victim) (revive func()) {
	w.t.Helper()
	switch v {
	case crash.Coordinator:
		w.kill(w.coordinator)
		return func() { w.coordinator = w.startCoordinator() }
	case crash.Sidecar:
		i := w.rng.IntN(len(w.sidecars))
		w.kill(w.sidecars[i])
		return func() { w.sidecars[i] = w.startSidecar(i) }
	case crash.Client:
		w.kill(w.teller)
		return func() { w.teller = w.startTeller() }
	case crash.Database:
		ctx, cancel := w.context()
		defer cancel()
		_, err := w.sides[w.rng.IntN(len(w.sides))].killBackend(ctx, w.rng)
		w.must(err)
		// PostgreSQL recovers by itself.
		return func() {}
	}
	panic(fmt.Sprintf("nobody knows how to kill a %v", v))
}

// checkWhole looks at the whole ledger once more: the balances are exactly what its rows say.
func (w *world) checkWhole() {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	whole := map[int64]int64{}
	for i, s := range w.sides {
		rows, err := s.rows(ctx, 0)
		w.must(err)
		sum, err := s.sum(ctx)
		w.must(err)
		moved := int64(0)
		for _, r := range rows {
			moved += r.Amount
			whole[r.N] += r.Amount
		}
		if moved != sum-crash.Accounts*crash.Balance {
			w.fatal(fmt.Sprintf("the rows at side %d say %d, the balances %d", i, moved, sum))
		}
	}
	for n, rest := range whole {
		if rest != 0 {
			w.fatal(fmt.Sprintf("transfer %d leaves %d", n, rest))
		}
	}
	w.t.Logf("%d transfers committed", len(whole))
}

package crash_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/gavel-tx/gavel/integration/crash"
)

// TestRealRing is the kill table of the ring: every victim dies while somebody stands at each step.
// One transaction spans PostgreSQL, MariaDB, a kv store and a service of one's own; after each kill
// all four ledgers say the same about it, and what anybody was told was true. Every cell is hit
// once, and several times where all of it is wanted.
func TestRealRing(t *testing.T) {
	rng, steps, tally := dice(t, 40), steps(t), crash.Tally{}
	only, times := os.Getenv("GAVEL_CELL"), 1
	if full() {
		times = leastHits
	}
	cells := chosen(crash.Cells(crash.Ring, steps), only)
	w := newRing(t, purse{}, rng)
	for _, c := range crash.Schedule(cells, times, rng) {
		w.begun = fmt.Sprintf("seed %d, kill %d: %s", seed(t), w.round+1, c)
		w.killRound(c)
		tally[c]++
		shared.faults.Add(killOf(c.Victim))
	}
	t.Logf("kills\n%s", tally.Render(crash.Ring, steps))
	if short := tally.Short(cells, times); len(short) > 0 {
		t.Errorf("hit less than %d times: %v", times, short)
	}
	if only == "" {
		w.checkTraffic()
	}
	t.Logf("ring: %d kills, %d cells, all ≥ %d, no alarm; MariaDB hid a branch %d times",
		tally.Kills(), len(cells), tally.Least(cells), w.hidden)
}

// killRound is one kill, and everything that must hold after it.
func (w *ring) killRound(c crash.Cell) {
	w.t.Helper()
	w.open()
	h := w.reach(c.Step, func() { w.strike(crash.Coordinator)() })
	revive := w.strike(c.Victim)
	h.release()
	revive()
	w.gate()
}

// ringKills is how many processes the storm over the ring kills; GAVEL_KILLS overrides.
const ringKills = 20

// TestRealRingStorm kills whatever it likes, whenever it likes, also while the last victim is still
// getting up, with the journal of the service in its own file. What anybody was told meanwhile must
// have been true too.
func TestRealRingStorm(t *testing.T) {
	rng := dice(t, 41)
	kills := ringKills
	if full() {
		kills *= 10
	}
	kills = int(number(t, "GAVEL_KILLS", uint64(kills)))
	w := newRing(t, purse{join: true}, rng)
	var d deck
	for left := kills; left > 0; left -= burst {
		w.stormRound(&d, min(burst, left))
	}
	t.Logf("ring: %d kills; MariaDB hid a branch %d times", kills, w.hidden)
}

// stormRound is one burst, and the gate behind it.
func (w *ring) stormRound(d *deck, kills int) {
	w.t.Helper()
	w.begun = fmt.Sprintf("storm, round %d", w.round+1)
	w.open()
	reader := w.startReader()
	var fallen []crash.Fault
	for n := range kills {
		w.passSteps(w.rng.IntN(maxGap))
		f := d.draw(w.rng, w.stormVictims())
		w.fell(f, n+1)
		shared.faults.Add(f)
		fallen = append(fallen, f)
	}
	// Whoever got up again works again.
	w.awaitCommits(3)
	w.closeRound()
	book := w.observe()
	reader.end()
	w.report(book)
	w.checkHistory(reader, book.Transfers)
	w.t.Logf("%s: %v; %d transfers, %d reads", w.begun, fallen, len(book.Transfers),
		len(reader.history))
}

func (w *ring) stormVictims() []crash.Fault {
	all := []crash.Fault{crash.KillPostmaster}
	for _, v := range crash.Ring.Victims() {
		all = append(all, killOf(v))
	}
	return all
}

// fell kills a victim and starts it again at once.
func (w *ring) fell(f crash.Fault, n int) {
	w.t.Helper()
	if f == crash.KillPostmaster {
		w.postgres.server.Kill()
		ctx, cancel := w.context()
		defer cancel()
		w.must(w.postgres.server.Restart(ctx))
		return
	}
	for _, v := range crash.Ring.Victims() {
		if killOf(v) == f {
			w.strike(v)()
		}
	}
	if f == crash.KillClient {
		// The new one has numbers of its own.
		w.teller.order(fmt.Sprintf("go %d", w.from()+int64(n)*10_000))
	}
}

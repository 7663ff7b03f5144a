package crash_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/gavel-tx/gavel/integration/crash"
)

const (
	// stormKills is how many processes a storm kills in all; GAVEL_KILLS overrides.
	stormKills = 26
	// burst is how many of them without a pause between them.
	burst = 5
	// maxGap bounds how many steps of all processes lie between two kills.
	maxGap = 120
)

// TestRealStorm kills whatever it likes, whenever it likes, also while the last victim is still
// getting up. Foreign branches are prepared before it, and clients ask for outcomes all the time.
// After each burst everything must be as if nothing had happened, both databases must agree on the
// order of all transfers that counted, and every answer that anybody got must have been true.
func TestRealStorm(t *testing.T) {
	rng := dice(t, 27)
	kills := int(number(t, "GAVEL_KILLS", stormKills))
	if full() {
		kills = int(number(t, "GAVEL_KILLS", 10*stormKills))
	}
	for i, mode := range modes(rng) {
		w := build(t, layout{mode: mode, storm: true}, rng)
		w.plant()
		// Each mode has half of the kills.
		var d deck
		for left := (kills + i) / 2; left > 0; left -= burst {
			w.stormRound(&d, min(burst, left))
		}
		w.checkDecoys()
		w.checkWhole()
		w.end()
	}
}

// stormRound is one burst, and the gate behind it.
func (w *world) stormRound(d *deck, kills int) {
	w.t.Helper()
	w.begun = fmt.Sprintf("storm, round %d", w.round+1)
	w.open()
	reader := w.startReader()
	var fallen []crash.Fault
	for n := range kills {
		w.passSteps(w.rng.IntN(maxGap))
		v := d.draw(w.rng, w.stormVictims())
		w.fell(v, n+1)
		shared.faults.Add(v)
		fallen = append(fallen, v)
	}
	// Whoever got up again works again.
	w.awaitCommits(3)
	w.closeRound()
	book := w.observe()
	reader.end()
	w.report(book)
	w.checkHistory(reader, book.Transfers)
	w.t.Logf("%s %s: %v; %d transfers, %d counted, %d reads", w.mode, w.begun, fallen,
		len(book.Transfers), len(book.Trails[0].Marks), len(reader.history))
}

// deck is a pile of victims, from which each comes before any comes again.
type deck []crash.Fault

func (d *deck) draw(rng *rand.Rand, victims []crash.Fault) crash.Fault {
	if len(*d) == 0 {
		*d = victims
		rng.Shuffle(len(*d), func(i, j int) { (*d)[i], (*d)[j] = (*d)[j], (*d)[i] })
	}
	v := (*d)[0]
	*d = (*d)[1:]
	return v
}

func (w *world) stormVictims() []crash.Fault {
	all := []crash.Fault{crash.KillCoordinator, crash.KillPostmaster, crash.KillBackend,
		crash.KillClient}
	if w.mode == crash.Sidecars {
		all = append(all, crash.KillSidecar)
	}
	return all
}

// fell kills a victim and starts it again at once.
func (w *world) fell(v crash.Fault, n int) {
	w.t.Helper()
	switch v {
	case crash.KillCoordinator:
		w.strike(crash.Coordinator)()
	case crash.KillSidecar:
		w.strike(crash.Sidecar)()
	case crash.KillBackend:
		w.strike(crash.Database)()
	case crash.KillClient:
		w.strike(crash.Client)()
		// The new one has numbers of its own.
		w.teller.order(fmt.Sprintf("go %d", w.from()+int64(n)*10_000))
	case crash.KillPostmaster:
		s := w.sides[w.rng.IntN(len(w.sides))]
		s.server.Kill()
		ctx, cancel := w.context()
		defer cancel()
		w.must(s.server.Restart(ctx))
	default:
		w.fatal("nobody knows how to kill for " + string(v))
	}
}

package crash_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/gavel-tx/gavel/integration/crash"
)

// TestRealCallerLeaves has a caller go away when its transaction is decided and nobody knows. It is
// told that the outcome is open, which is all that its process can know; and its process must not
// touch the branches, which are the coordinator's.
func TestRealCallerLeaves(t *testing.T) {
	rng := dice(t, 30)
	for _, mode := range modes(rng) {
		w := newWorld(t, mode, rng)
		for _, kill := range sample(rng, []bool{true, false}, 1) {
			w.begun = fmt.Sprintf("a caller leaves; the coordinator is killed: %v", kill)
			w.leaveRound(kill)
		}
		w.end()
	}
}

func (w *world) leaveRound(kill bool) {
	w.t.Helper()
	id, h := w.catchDecided()
	w.teller.order("leave")
	w.await("the caller to be told something", func(context.Context) bool {
		all := w.slips.all()
		return len(all) == 1 && all[0].Answer != crash.NoAnswer
	})
	if x := w.slips.all()[0]; x.ID != id || x.Answer != crash.InDoubt {
		w.fatal("the outcome is open, and the caller was told: " + x.String())
	}
	if kill {
		w.kill(w.coordinator)
	}
	h.release()
	if kill {
		w.coordinator = w.startCoordinator()
	}
	shared.faults.Add(crash.CallerLeaves)
	w.gate()
	w.t.Log(w.mode, w.begun)
}

package crash_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/integration/proxy"
)

// TestRealLostMessages loses, or delays, the one message that matters: the request or the reply of
// each statement that prepares or ends a branch. PREPARE is the application's, the other two are
// the coordinator's or the sidecar's.
func TestRealLostMessages(t *testing.T) {
	rng := dice(t, 20)
	for _, mode := range modes(rng) {
		w := build(t, layout{mode: mode, proxied: true,
			flags: []string{"--call-timeout", impatient.String()}}, rng)
		faults := slices.Concat(lostFaults(proxy.LoseRequest, proxy.LoseReply),
			sample(rng, lostFaults(proxy.HoldRequest), 2),
			sample(rng, lostFaults(proxy.HoldReply), 1))
		for _, f := range faults {
			sides := []int{0, 1}
			if f.Statement == proxy.RollbackPrepared {
				// Where decisions are left to the first one, it has nothing prepared.
				sides = sides[1:]
			}
			for _, side := range sample(rng, sides, 1) {
				w.begun = fmt.Sprintf("round %d: %s at %s", w.round+1, f, w.sides[side].name)
				w.loseOne(side, f)
			}
		}
		w.checkWhole()
		w.end()
	}
}

// lostFaults are all statements with each of some acts.
func lostFaults(acts ...proxy.Act) (all []proxy.Fault) {
	for _, a := range acts {
		for s := proxy.Prepare; s <= proxy.RollbackPrepared; s++ {
			all = append(all, proxy.Fault{Statement: s, Act: a})
		}
	}
	return all
}

// loseOne is one round: the message is lost while the teller works, and the teller goes on for a
// while. What is held is let go only when other transfers have committed meanwhile, or when nobody
// can wait for it any more.
func (w *world) loseOne(side int, f proxy.Fault) {
	w.t.Helper()
	w.open()
	if f.Statement != proxy.RollbackPrepared {
		f.Skip = w.rng.IntN(4)
	}
	traps := []*proxy.Trap{w.sides[side].proxy.Arm(f)}
	if f.Statement == proxy.RollbackPrepared {
		// Rollbacks happen to branches whose neighbour did not vote.
		traps = append(traps, w.sides[1-side].proxy.Arm(
			proxy.Fault{Statement: proxy.Prepare, Act: proxy.LoseRequest}))
		shared.faults.Add(crash.RequestLost)
	}
	for _, trap := range traps {
		w.await(f.String(), func(context.Context) bool { return closed(trap.Caught()) })
	}
	if f.Act == proxy.HoldRequest || f.Act == proxy.HoldReply {
		w.last(longer)
	}
	for _, trap := range traps {
		trap.Release()
	}
	shared.faults.Add(lossOf(f.Act))
	w.gate()
	w.t.Log(w.mode, w.begun)
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// lossOf is how a lost message is counted.
func lossOf(a proxy.Act) crash.Fault {
	return [...]crash.Fault{crash.RequestLost, crash.ReplyLost, crash.RequestLate,
		crash.ReplyLate}[a]
}

package bench

import (
	"context"
	"sync/atomic"
	"time"
)

// Phase is a part of a transfer as its client sees it.
type Phase uint8

// The phases. Each lasts until the last branch has come through it. A line that does two of them at
// once has only the later one.
const (
	// PhaseSQL: BEGIN and the statements.
	PhaseSQL Phase = iota
	// PhaseBegin: what is left of the wait for the coordinator's answer to Begin, which is asked
	// for while SQL runs.
	PhaseBegin
	// PhasePrepare: PREPARE, at the slowest branch.
	PhasePrepare
	// PhaseDecide: the decision is forced to disk, where the client does that itself.
	PhaseDecide
	// PhaseCommit: whatever is left until the client has its answer. With gavel that is the Commit
	// call: the decision, and phase two where the answer waits for it.
	PhaseCommit

	phases
)

// String is the heading of the phase in the report.
func (p Phase) String() string {
	return [...]string{"SQL", "begin", "prepare", "decide", "commit"}[p]
}

// Phases are the average durations of the phases, in milliseconds.
type Phases [phases]float64

// watch takes the time of one transfer. Branches may reach the end of a phase at the same time.
type watch struct {
	start time.Time
	at    [phases]atomic.Int64
}

// watchKey is where a context holds its watch.
type watchKey struct{}

func withWatch(ctx context.Context, w *watch) context.Context {
	return context.WithValue(ctx, watchKey{}, w)
}

// reached notes that a branch, or the whole transfer, has come to the end of a phase. The last
// branch counts.
func reached(ctx context.Context, p Phase) {
	w, ok := ctx.Value(watchKey{}).(*watch)
	if !ok {
		return
	}
	now := int64(time.Since(w.start))
	for {
		was := w.at[p].Load()
		if now <= was || w.at[p].CompareAndSwap(was, now) {
			return
		}
	}
}

// begin starts the watch for another attempt.
func (w *watch) begin(now time.Time) {
	w.start = now
	for p := range w.at {
		w.at[p].Store(0)
	}
}

// add adds the durations of a transfer that took so long to sums. What no mark explains belongs to
// the last phase.
func (w *watch) add(took time.Duration, sums *[phases]time.Duration) {
	var before time.Duration
	for p := range PhaseCommit {
		at := time.Duration(w.at[p].Load())
		if at > before {
			sums[p] += at - before
			before = at
		}
	}
	sums[PhaseCommit] += max(0, took-before)
}

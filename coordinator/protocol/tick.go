package protocol

import (
	"container/heap"

	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// timers orders what a Tick must look at. An entry is a hint: what is due is read from the
// transaction.
type timers []timerEntry

type timerEntry struct {
	at Instant
	id txn.ID
}

func (h timers) Len() int           { return len(h) }
func (h timers) Less(i, j int) bool { return h[i].at < h[j].at }
func (h timers) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *timers) Push(x any)        { *h = append(*h, x.(timerEntry)) }
func (h *timers) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// arm makes sure that a Tick looks at t when its next time is up.
func (m *Machine) arm(t *transaction) {
	next := Instant(0)
	soonest := func(at Instant) {
		if at != 0 && (next == 0 || at < next) {
			next = at
		}
	}
	if t.undecided() {
		soonest(t.deadline)
	}
	if t.state == txn.StatePreparing {
		soonest(t.votesBy)
		soonest(t.askAt)
	}
	if t.state == txn.StateCommitting || t.asking() {
		for _, w := range t.waiters {
			soonest(w.until)
		}
	}
	if next == 0 || t.timer != 0 && t.timer <= next {
		return
	}
	t.timer = next
	heap.Push(&m.timers, timerEntry{next, t.id})
	if len(m.timers) > 2*len(m.live)+1024 {
		m.compactTimers()
	}
}

// compactTimers drops the entries of transactions that are over, so that a long deadline costs
// nothing once its transaction has ended.
func (m *Machine) compactTimers() {
	keep := m.timers[:0]
	for _, e := range m.timers {
		if t := m.live[e.id]; t != nil && t.timer == e.at {
			keep = append(keep, e)
		}
	}
	m.timers = keep
	heap.Init(&m.timers)
}

// NextTimer is when a Tick has something to do, or zero.
func (m *Machine) NextTimer() Instant {
	if len(m.timers) == 0 {
		return 0
	}
	return m.timers[0].at
}

func (m *Machine) tick(now Instant) {
	if now < m.now {
		panic("protocol: the clock went backwards")
	}
	m.now = now
	for len(m.timers) > 0 && m.timers[0].at <= now {
		e := heap.Pop(&m.timers).(timerEntry)
		if t := m.live[e.id]; t != nil && t.timer == e.at {
			t.timer = 0
			m.due(t)
			m.arm(t)
		}
	}
	m.retain()
}

// due does what the clock demands of t. A decision under way knows no deadline.
func (m *Machine) due(t *transaction) {
	switch {
	case t.undecided() && m.expired(t):
		m.expire(t)
	case t.state == txn.StatePreparing && t.votesBy != 0 && m.now >= t.votesBy:
		b := t.missing()
		m.abort(t, abortReason{txn.CausePrepareLimit, "no vote in time: " + b.lastErr,
			m.resources[b.rm-1].Name, ""})
	case t.state == txn.StatePreparing && t.askAt != 0 && m.now >= t.askAt:
		m.askVotes(t)
	case t.state == txn.StateCommitting || t.asking():
		m.answer(t)
		if mutant.On(mutant.HeuristicTimeout) {
			m.send(ActRollback, t, &t.branches[0])
		}
	}
}

// missing is the first branch that has not voted.
func (t *transaction) missing() *branch {
	for i := range t.branches {
		if t.branches[i].state == txn.BranchEnlisted {
			return &t.branches[i]
		}
	}
	panic("protocol: waiting for votes, and none is missing")
}

func (m *Machine) expired(t *transaction) bool { return m.now >= t.deadline }

func (m *Machine) expire(t *transaction) {
	m.abort(t, abortReason{cause: txn.CauseExpired, reason: "it was undecided at its deadline"})
}

// retain forgets outcomes that are older than the retention: but never one whose branch might still
// turn up at a resource, because the presumption of abort must not reach below what is known. The
// retention counts from Begin, in the time for which the log was run.
func (m *Machine) retain() {
	if m.now < m.retainAt {
		return
	}
	m.retainAt = m.now + second
	up := m.mark()
	low := m.state.Low
	for len(m.marks) > 0 && up-m.marks[0].Uptime >= m.cfg.Retention {
		low = max(low, m.marks[0].Next)
		m.marks = m.marks[1:]
	}
	m.forgetBelow = max(m.forgetBelow, low)
	low = min(m.forgetBelow, m.next)
	for _, r := range m.resources {
		low = min(low, r.cleanBelow)
	}
	if low > m.state.Low && m.reserving == 0 {
		low = min(low, m.oldestLive())
		if low > m.state.Low {
			// Ends first: a snapshot between the two must not hold an open commit below Low.
			m.end()
			m.append(RangeRecord{Low: low, High: max(m.state.High, m.next)}, false)
			m.reserving = max(m.state.High, m.next)
		}
	}
}

// markEvery is how often it is noted, at most, how far sequences have come.
const markEvery = 60 * second

// mark notes how far sequences have come, now and then, and says for how long the log has been run.
// The note is lazy and survives a restart: a coordinator that is restarted every day would never
// forget anything otherwise. Losing the last one makes outcomes live longer, never shorter.
func (m *Machine) mark() Instant {
	up := m.uptime + m.now - m.started
	n := len(m.marks)
	if n == 0 || up-m.marks[n-1].Uptime >= min(markEvery, m.cfg.Retention/64) {
		r := MarkRecord{Uptime: up, Next: m.next}
		m.marks = append(m.marks, r)
		m.append(r, false)
	}
	return up
}

// oldestLive is the lowest sequence in memory, or that of the next transaction.
func (m *Machine) oldestLive() txn.Seq {
	low := m.next
	for id := range m.live {
		if id.Log() == m.state.Log {
			low = min(low, id.Seq())
		}
	}
	return low
}

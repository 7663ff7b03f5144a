package protocol

import (
	"slices"

	"github.com/gavel-tx/gavel/txn"
)

// cancel forgets who asked. A Commit or Rollback stays asked for; a Begin that waits has done
// nothing yet, and nobody would ever commit what it began.
func (m *Machine) cancel(of Event) {
	switch e := of.(type) {
	case Begin:
		if len(m.parked) > 0 {
			if m.left == nil {
				m.left = map[ReqID]bool{}
			}
			m.left[e.Req] = true
		}
		same := func(b Begin) bool { return b.Req == e.Req }
		if t := m.keyed[keyOf(e.Request).Hash]; t != nil {
			t.keyWaiters = slices.DeleteFunc(t.keyWaiters, same)
		}
		m.leaveBegun(e)
	case Commit:
		m.leave(e.Request.ID, e.Req)
	case Rollback:
		m.leave(e.ID, e.Req)
	}
}

func (m *Machine) leave(id txn.ID, req ReqID) {
	if t := m.live[id]; t != nil {
		t.waiters = slices.DeleteFunc(t.waiters, func(w waiter) bool { return w.req == req })
	}
}

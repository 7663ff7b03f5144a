package protocol

import (
	"fmt"

	"github.com/gavel-tx/gavel/txn"
)

// swept judges every branch of a listing. The order of things is that of Citus' recovery: first the
// list, then one look at what runs and what is decided, then the act; so a branch that was prepared
// before its transaction was decided is never taken for an orphan.
func (m *Machine) swept(e Swept) {
	if e.RM < 1 || int(e.RM) > len(m.resources) {
		return
	}
	r := m.resources[e.RM-1]
	if e.Identity != r.Identity || before(e.Position, e.Floor) {
		if r.held {
			return
		}
		r.held = true
		m.note(Note{Kind: NoteAlarm, RM: r.RM, Label: 'T', Reason: fmt.Sprintf(
			"%s shows identity %s at timeline %d position %X, "+
				"and was %s at timeline %d position %X: "+
				"its branches are held",
			r.Name,
			e.Identity,
			e.Position.Timeline,
			e.Position.LSN,
			r.Identity,
			e.Floor.Timeline,
			e.Floor.LSN,
		)})
		return
	}
	r.held, r.todo = false, 0
	r.swept++
	r.seen = later(r.seen, e.Position)
	suspects := map[txn.Name]suspect{}
	clean := m.next
	for _, n := range e.Names {
		if n.Name.Log == m.state.Log {
			clean = min(clean, n.Name.Seq)
		}
		m.sweepOne(r, n, suspects)
	}
	r.suspects = suspects
	if !e.Partial {
		r.cleanBelow = max(r.cleanBelow, clean)
	}
}

func (m *Machine) sweepOne(r *resource, n SweptName, suspects map[txn.Name]suspect) {
	f := m.facts(n)
	label, verdict := Judge(f)
	first, known := r.suspects[n.Name]
	if known = known && first.label == label; !known {
		first = suspect{label, m.now}
	}
	if verdict == VerdictLeave {
		if label.Alarming() {
			suspects[n.Name] = first
			if !known {
				m.noteSwept(NoteAlarm, r, n.Name, label)
			}
		}
		return
	}
	suspects[n.Name] = first
	r.todo++
	if !known || m.now-first.since < m.cfg.Grace {
		return
	}
	switch {
	case label.Alarming():
		m.noteSwept(NoteAlarm, r, n.Name, label)
	case verdict == VerdictRollback:
		m.noteSwept(NoteSwept, r, n.Name, label)
	}
	delete(suspects, n.Name)
	m.sendSwept(r, n.Name, verdict)
}

func (m *Machine) noteSwept(kind NoteKind, r *resource, n txn.Name, l Label) {
	m.note(Note{Kind: kind, ID: n.ID(), Name: n, RM: r.RM, Label: l, Reason: l.Because()})
}

// sendSwept acts on an orphan, with the evidence of its vote where its transaction is still known.
func (m *Machine) sendSwept(r *resource, n txn.Name, v Verdict) {
	msg := Message{Act: ActRollback, RM: r.RM, ID: n.ID(), Name: n}
	if v == VerdictCommit {
		msg.Act = ActCommit
		if t := m.live[n.ID()]; t != nil {
			msg.Evidence = t.branch(n.Branch).evidence
		}
	}
	m.ready.Messages = append(m.ready.Messages, msg)
}

// facts gathers both sides of a listed name at this moment.
func (m *Machine) facts(n SweptName) Facts {
	f := Facts{Standing: txn.StandingPrepared, Older: n.Name.Seq < m.first}
	if !n.Ours {
		f.Standing = txn.StandingForeign
	}
	id := n.Name.ID()
	if t := m.live[id]; t != nil && !t.decided() {
		f.Says = SaysLive
		if t.state == txn.StateRollingBack {
			f.Says = SaysAborting
		}
		return f
	}
	f.Says, f.Listed = m.state.Says(n.Name, m.next)
	if f.Says == SaysCommit && f.Listed && m.live[id] == nil {
		// Every branch has been proven committed; only the END is not durable yet.
		f.Says = SaysEnded
	}
	return f
}

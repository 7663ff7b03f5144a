package protocol

import (
	"fmt"

	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// swept judges every branch of a listing. The order of things is that of Citus' recovery: first the
// list, then one look at what runs and what is decided, then the act; so a branch that was prepared
// before its transaction was decided is never taken for an orphan.
func (m *Machine) swept(e Swept) {
	if e.RM < 1 || int(e.RM) > len(m.resources) || mutant.On(mutant.NoSweep) {
		return
	}
	r := m.resources[e.RM-1]
	if e.Identity != r.Identity || e.Position.Before(e.Floor) {
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
	m.recordPosition(r)
	suspects := map[txn.Name]suspect{}
	clean := m.next
	m.regressed(e.Names, e.Markers)
	for _, n := range e.Names {
		if n.Name.Log == m.state.Log {
			clean = min(clean, n.Name.Seq)
		}
		m.sweepOne(r, n, suspects)
	}
	m.marked(r, e.Markers)
	r.suspects = suspects
	if !e.Partial {
		// Only a list that was taken after the retention proves that nothing older turns up any
		// more.
		r.cleanBelow = max(r.cleanBelow, min(clean, m.forgetBelow))
	}
}

// positionEvery is how often the position of a resource is written down while it moves.
const positionEvery = 60 * second

// recordPosition keeps the log's idea of how far a resource has come near the truth, so that a
// restart notices one that was restored to an earlier moment. It is lazy: losing it loses a minute.
func (m *Machine) recordPosition(r *resource) {
	moved := r.seen.Timeline != r.Position.Timeline ||
		r.seen != r.Position && m.now-r.recordedAt >= positionEvery
	if moved && r.durable {
		rec := r.ResourceRecord
		rec.Position = r.seen
		m.record(r, rec, false)
	}
}

func (m *Machine) sweepOne(r *resource, n SweptName, suspects map[txn.Name]suspect) {
	f := m.facts(r, n)
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

// holeReach bounds how far ahead a name may lie and still be taken for one of a lost epoch: some
// hundred epochs. What lies beyond is left alone like every name that was never handed out, but no
// sequences are given up for it: it is forged, or of a log that was set back by months.
const holeReach = 1 << 44

// regressed notes, durably, that this log has handed out names of a listing, or decided what a
// marker says, and has forgotten it: somebody set it back. No record means nothing up to the last
// of them, now and after every restart, and none of these sequences is handed out again.
func (m *Machine) regressed(names []SweptName, markers []txn.ID) {
	last := txn.Seq(0)
	for _, id := range markers {
		if id.Log() == m.state.Log && id.Seq() >= m.next && id.Seq()-m.next < holeReach {
			last = max(last, id.Seq())
		}
	}
	for _, n := range names {
		seq := n.Name.Seq
		if n.Ours && n.Name.Log == m.state.Log && n.Name.Decider == 0 && seq >= m.next &&
			seq-m.next < holeReach {
			last = max(last, seq)
		}
	}
	if last != 0 {
		m.hole(last + m.cfg.Block)
	}
}

// hole leaves out the sequences up to to. It is false if there are not enough left for that.
func (m *Machine) hole(to txn.Seq) bool {
	if to > lastHole {
		return false
	}
	h := HoleRecord{From: m.next, To: to}
	m.next = h.To
	m.holes = append(m.holes, h)
	m.append(h, true)
	return true
}

// reach is the first sequence of which no record proves nothing: the next one to be handed out, or
// where a hole begins that has been noticed, be it durable or not.
func (m *Machine) reach() txn.Seq {
	if len(m.holes) > 0 && !mutant.On(mutant.HoleUnnoticed) {
		return m.holes[0].From
	}
	return m.next
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
func (m *Machine) facts(r *resource, n SweptName) Facts {
	f := Facts{Standing: txn.StandingPrepared, Older: n.Name.Seq < m.first}
	if !n.Ours {
		f.Standing = txn.StandingForeign
	}
	id := n.Name.ID()
	t := m.live[id]
	// What resources could not tell the end of is for a person: no decision is in the log, so that
	// what a sweep finds of it is nobody's to finish.
	d := m.state.open[id]
	asked := d != nil && d.Asking
	if t != nil && (!t.decided() || asked) && !mutant.On(mutant.SweepInFlight) {
		f.Says = SaysLive
		if t.state == txn.StateRollingBack {
			f.Says = SaysAborting
		}
		return f
	}
	f.Says, f.Listed = m.state.Says(n.Name, r.Identity, m.reach())
	if f.Says == SaysCommit && f.Listed && m.live[id] == nil {
		// Every branch has been proven committed; only the END is not durable yet.
		f.Says = SaysEnded
	}
	return f
}

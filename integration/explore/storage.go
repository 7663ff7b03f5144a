package explore

import (
	"fmt"
	"slices"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/coordinator/record"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txn"
)

// persist makes the oldest append in flight durable and tells the machine. That several become
// durable at once is the same as one after the other without anything in between.
func (w *world) persist() {
	if w.deposed {
		w.durable--
		a := w.inflight[0]
		w.inflight = slices.Delete(w.inflight, 0, 1)
		w.step(protocol.Persisted{Index: a.Index})
		return
	}
	if w.sc.Flaw == ToldBeforeDurable && w.applied < len(w.inflight) {
		w.applied++
		w.step(protocol.Persisted{Index: w.inflight[w.applied-1].Index})
		return
	}
	a := w.inflight[0]
	w.inflight = slices.Delete(w.inflight, 0, 1)
	w.write(a.Record)
	if w.applied > 0 {
		w.applied--
		return
	}
	w.step(protocol.Persisted{Index: a.Index})
}

// write puts a record on the disk.
func (w *world) write(r protocol.Record) {
	w.log = append(w.log, stores(record.Encode(nil, r)))
	w.noteDurable(r)
}

// crash ends the coordinator, with the oldest keep appends in flight on the disk, and starts its
// next epoch. What was on its way to resources may still arrive. There is no step between the end
// and the start: a coordinator that nobody has heard from yet is like none.
func (w *world) crash(keep int) {
	w.trace.crash(keep, len(w.inflight))
	for _, a := range w.inflight[:keep] {
		w.write(a.Record)
	}
	w.answerOnCrash()
	w.former = nil
	w.strand(func(call) bool { return true })
	w.succeed()
	w.drain()
}

// succeed puts the next epoch in the place of the last, with what is durable.
func (w *world) succeed() {
	clear(w.listings)
	w.office = office{now: start, epoch: w.epoch + 1}
	state := w.replay()
	w.checkReplay(state)
	w.m = protocol.New(state, w.sc.machine(), w.now)
	for i := range w.resources {
		// What a resource was found to be able to do is not in the log.
		w.resources[i].registered = false
		w.resources[i].down = false
	}
}

// replay makes a state of the durable log, through the bytes of every record.
func (w *world) replay() *protocol.State {
	state := protocol.NewState(logID)
	for _, s := range w.survivors() {
		r, err := record.Decode(txlog.Record{Type: s.kind, Data: []byte(s.body)})
		if err == nil {
			err = state.Apply(r)
		}
		if err != nil {
			panic(fmt.Sprintf("explore: the log cannot be read back: %v", err))
		}
	}
	state.Epoch = w.epoch
	return state
}

// survivors is what a restart finds of the durable log: all of it, unless the scenario's flaw is a
// log that loses something.
func (w *world) survivors() []stored {
	lost := uint8(0)
	switch w.sc.Flaw {
	case LogLosesCommit:
		lost = record.TypeCommit
	case LogLosesRange:
		lost = record.TypeRange
	default:
		return w.log
	}
	// Without its first ranges the log would contradict itself; losing the last is what hurts.
	at := -1
	for i, s := range w.log {
		if s.kind == lost {
			at = i
		}
	}
	if at < 0 {
		return w.log
	}
	return slices.Delete(slices.Clone(w.log), at, at+1)
}

// register tells the machine who a resource is.
func (w *world) register(i int) {
	r := &w.resources[i]
	r.registered = true
	w.step(protocol.Register{Name: w.sc.Resources[i].Name, Kind: "explore",
		Identity: r.identity, Position: r.position(), OnePhase: w.sc.Resources[i].OnePhase,
		Delegate: w.sc.Resources[i].Marks, Evidence: true,
		Floor: w.m.Seen(w.m.RM(w.sc.Resources[i].Name))})
}

// reached tells the machine whether a resource answers.
func (w *world) reached(i int, up bool) {
	w.resources[i].down = !up
	if !up && w.m.Active() > 0 {
		w.sights.add("out of reach in the midst of a transaction")
	}
	w.step(protocol.Reached{Name: w.sc.Resources[i].Name, Up: up})
}

// rm is the machine's number of a resource, which is its place from one.
func rm(i int) protocol.RM { return protocol.RM(i + 1) }

// list asks a resource for its prepared branches. The floor is what the coordinator has seen of it
// before.
func (w *world) list(i int) {
	r := &w.resources[i]
	if !r.admit(w.epoch, w.sc.Flaw == FenceIgnored) {
		panic("explore: a resource refuses the newest epoch")
	}
	w.fenceSessions(i)
	l := &w.listings[i]
	l.taken = true
	l.swept = protocol.Swept{RM: rm(i), Identity: r.identity, Position: r.position(),
		Floor: w.m.Seen(rm(i)), Names: r.listed(w.sc.Flaw == ForeignTaken),
		Markers: r.markers()}
	if w.trace != nil {
		w.trace.say("%s is listed: %s", r.name, describeNames(l.swept.Names))
	}
}

// sweep brings a listing to the machine.
func (w *world) sweep(i int) {
	l := w.listings[i]
	w.listings[i] = listing{}
	if w.sc.Flaw == SweepBlind {
		w.sweepBlindly(l.swept)
		return
	}
	w.step(l.swept)
}

// sweepBlindly judges a listing by the durable log alone, which knows nothing of what is running.
func (w *world) sweepBlindly(s protocol.Swept) {
	w.trace.event(w, s)
	for _, n := range s.Names {
		says, listed := w.m.State().Says(n.Name, s.Identity, w.m.Next())
		_, verdict := protocol.Judge(protocol.Facts{Says: says, Listed: listed,
			Standing: txn.StandingPrepared})
		if verdict == protocol.VerdictRollback {
			m := protocol.Message{Act: protocol.ActRollback, RM: s.RM, ID: n.Name.ID(),
				Name: n.Name}
			w.trace.sent(w, m)
			w.checkMessage(m)
			w.send(m)
		}
	}
}

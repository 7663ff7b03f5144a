package explore

import (
	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

const (
	// maxRounds bounds the rounds in which a healthy world must come to rest. Each is a second
	// listing and a grace time; what a round leaves is finished by the next.
	maxRounds = 12
	// maxCalls bounds the calls of one round.
	maxCalls = 200
	// maxRest bounds the time in which it must do so: a few deadlines of a scenario's transactions.
	maxRest = 60 * second
)

// settle lets a world without faults go on by fair steps until nothing is left to do: every append
// becomes durable, every call arrives and is answered, every resource is listed, time passes.
// Clients do nothing more. Then nothing may be in doubt, and what was told must be true.
func (w *world) settle() {
	w.trace.say("faults end here")
	w.left = Bounds{}
	w.dismiss()
	w.dropStale()
	end := w.now + maxRest
	for range maxRounds {
		w.round()
		if w.broken != nil || w.quiet() {
			break
		}
		// A client that has not asked for the decision by now never will.
		w.faulty = true
		next := w.now + w.sc.machine().Grace
		if timer := w.m.NextTimer(); timer <= end {
			next = max(next, timer)
		}
		w.tick(next)
	}
	w.checkRest()
	for i := range w.entries {
		if w.broken == nil {
			w.checkEnding(&w.entries[i])
		}
	}
}

// dropStale loses the calls that nobody waits for: that they arrive is a step of its own.
func (w *world) dropStale() {
	var live []call
	for _, c := range w.calls {
		if !c.stale {
			live = append(live, c)
		}
	}
	w.calls = live
}

// round does everything that can be done at this moment.
func (w *world) round() {
	for i := range w.resources {
		if w.sc.registers() && !w.resources[i].registered {
			w.register(i)
		}
		if w.resources[i].down {
			w.reached(i, true)
		}
	}
	w.flow()
	for i := range w.resources {
		if w.broken != nil {
			return
		}
		if w.shows(i) && !w.listings[i].taken {
			w.list(i)
		}
		if w.listings[i].taken {
			w.sweep(i)
		}
		w.flow()
	}
}

// flow moves appends and calls until none is left.
func (w *world) flow() {
	for range maxCalls {
		switch {
		case w.broken != nil:
			return
		case len(w.inflight) > 0:
			w.persist()
		case len(w.calls) == 0:
			return
		case w.calls[0].done:
			w.answer(0)
		default:
			w.arrive(0, false)
		}
	}
	w.fail(Liveness, "calls are repeated without an end: %s", describeCall(w, w.calls[0]))
}

// quiet says whether there is nothing left to wait for.
func (w *world) quiet() bool {
	_, marked := w.lingering()
	return len(w.requests) == 0 && w.m.Active() == 0 && len(w.inDoubt()) == 0 && !marked
}

// inDoubt lists the branches that are prepared and ours to finish. What an intent has prepared is
// left to a person if another branch of it is lost: nobody knows whether its commit was told.
func (w *world) inDoubt() []txn.Name {
	var names []txn.Name
	for i := range w.resources {
		for _, n := range w.resources[i].prepared() {
			e := w.entry(n.ID())
			if e == nil || e.intent == 0 && e.delegate == 0 || !e.asking || e.heuristic == 0 {
				names = append(names, n)
			}
		}
	}
	return names
}

func (w *world) checkRest() {
	if w.broken != nil {
		return
	}
	for _, n := range w.inDoubt() {
		w.fail(Liveness, "%s stays prepared", describeName(n))
	}
	if id, found := w.lingering(); found {
		w.fail(Liveness, "the marker of %d is never removed", id.Seq())
	}
	for _, r := range w.requests {
		w.fail(Liveness, "#%d is never answered", r.req)
	}
	if n := w.m.Active(); n > 0 {
		w.fail(Liveness, "%d transactions are never over", n)
	}
}

// checkEnding holds the end of one transaction against what was decided and told.
func (w *world) checkEnding(e *entry) {
	for i := range e.branches {
		t, no := &e.branches[i], txn.BranchNo(i+1)
		if !e.committed || e.listed&bit(no) == 0 || t.done() && !t.lost || t.proven {
			continue
		}
		n := describeName(txn.NameOf(e.id, no))
		if !t.touched() {
			w.fail(AcknowledgedDurability, "%d is committed, and %s is not", e.id.Seq(), n)
			continue
		}
		if e.heuristic&bit(no) == 0 {
			w.fail(NoMaskedHeuristic, "%s ended against the decision, and no record says so", n)
		}
		if !t.alarmed {
			w.fail(NoMaskedHeuristic, "%s ended against the decision, and nobody was alarmed", n)
		}
	}
	if w.broken != nil {
		return
	}
	w.step(protocol.Ask{Req: w.waitFor(e), ID: e.id})
	if e.told == txn.OutcomeUnknown && !e.readsOnly() && e.id.Seq() >= w.m.State().Low {
		w.fail(Liveness, "nobody can say how %d ended", e.id.Seq())
	}
}

// waitFor is a last caller who asks for a transaction's end.
func (w *world) waitFor(e *entry) protocol.ReqID {
	req := w.newReq()
	w.requests = append(w.requests, request{req, e.client, protocol.Ask{Req: req, ID: e.id}})
	return req
}

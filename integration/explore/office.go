package explore

import (
	"slices"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// office is one coordinator: its machine, what it has handed to the log, and who waits for it.
type office struct {
	now protocol.Instant
	m   *protocol.Machine
	// epoch is the one that it runs.
	epoch txn.Epoch
	// inflight is handed to the log and may get lost by a crash.
	inflight []protocol.Append
	// applied counts the appends in flight that the machine was told are durable. It is zero unless
	// the scenario's flaw is to tell too early.
	applied  int
	requests []request
	// confirms are the rounds in which it asked whether it still owns the log, oldest first.
	confirms []confirm

	// deposed: somebody else owns the log. Nothing that it appends becomes durable any more, but
	// durable of the appends in flight are so, and it has not heard of it.
	deposed bool
	durable int
}

// confirm is one question for ownership. It is proven at one moment, and told at a later one.
type confirm struct {
	round  uint64
	proven bool
}

// depose lets a new epoch start on what is durable while the old one goes on: it is cut off from
// its log, and neither its clients nor its resources know. The oldest keep appends in flight are
// durable. Proven says that all rounds were proven at the last moment: proofs still are true, and
// may come later. One that was deposed before is never heard of again.
func (w *world) depose(keep int, proven bool) {
	w.trace.say("a new epoch begins, and the old owner goes on")
	w.dismiss()
	if proven {
		w.prove()
	}
	for _, a := range w.inflight[:keep] {
		w.write(a.Record)
	}
	old := w.office
	old.deposed, old.durable = true, keep
	w.succeed()
	w.former = &old
	w.drain()
}

// prove is the moment at which it is certain that nobody else owns the log: for everything that has
// been prepared by now.
func (w *world) prove() {
	for i := range w.confirms {
		w.confirms[i].proven = true
	}
	for i := range w.entries {
		if e := &w.entries[i]; e.intent != 0 && e.isPrepared(e.intent) {
			e.owned = true
		}
	}
}

// confirmed answers a round, and with it those before.
func (w *world) confirmed(at int) {
	if !w.deposed {
		w.prove()
	}
	c := w.confirms[at]
	w.confirms = slices.Delete(w.confirms, 0, at+1)
	w.step(protocol.Confirmed{Round: c.round})
}

// asFormer does something in the place of the deposed owner.
func (w *world) asFormer(do func()) {
	reigning := w.office
	w.office = *w.former
	do()
	*w.former = w.office
	w.office = reigning
}

// linger is one step of the deposed owner. After the last it is never heard of again.
func (w *world) linger(c choice) {
	w.left.Lingers--
	w.asFormer(func() {
		w.trace.say("the deposed owner goes on")
		w.take(c)
	})
	if w.left.Lingers == 0 {
		w.dismiss()
	}
}

// dismiss ends the deposed owner. What it has sent is under way.
func (w *world) dismiss() {
	if w.former != nil {
		epoch := w.former.epoch
		w.former = nil
		w.strand(func(c call) bool { return c.epoch == epoch && !c.client })
	}
}

// formerChoices are the steps of the deposed owner: callers and answers reach it as before. Of what
// it asks its log for, only what had happened before is answered.
func (w *world) formerChoices(all []choice) []choice {
	if w.former == nil {
		return all
	}
	first := len(all)
	w.asFormer(func() {
		for i := range w.clients {
			if e := w.entryOf(i); e != nil && e.epoch == w.epoch {
				all = w.requestChoices(all, i)
			}
		}
		all = some(all, w.durable > 0, doPersist, 0, 0)
		for i, c := range w.confirms {
			all = some(all, c.proven, doConfirm, i, 0)
		}
		all = w.tickChoices(all)
		for i, c := range w.calls {
			all = some(all, c.done && c.epoch == w.epoch, doAnswer, i, 0)
		}
	})
	for i := range all[first:] {
		all[first+i].former = true
	}
	return all
}

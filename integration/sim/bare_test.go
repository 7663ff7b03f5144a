package sim

import (
	"fmt"

	"github.com/gavel-tx/gavel/coordinator/core"
	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/coordinator/record"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txn"
)

// bare is protocol.Machine over a list of records, with the least of a driver that can do what a
// driver owes: appends in order, messages in calls of one branch each, what lasts repeated.
type bare struct {
	l *life
	w *world
	m *protocol.Machine

	lastReq protocol.ReqID
	// inflight is handed to the disk. news is the highest index that is durable, and heard that
	// which the machine knows of.
	inflight []inflight
	heard    uint64
	news     uint64
	syncing  bool
	// known are the messages that are under way or will be sent again.
	known map[message]bool
	// registering are the databases whose registration waits for its reply, by its number, and
	// registered those that have one.
	registering map[protocol.ReqID]*database
	registered  []bool
}

type inflight struct {
	index uint64
	rec   txlog.Record
	r     protocol.Record
}

type message struct {
	act  protocol.Act
	name txn.Name
}

// openBare starts a machine from the records of the world.
func (w *world) openBare() *life {
	l := newLife(w, w.epoch+1)
	w.epoch++
	state := protocol.NewState(logID)
	for _, rec := range w.records {
		r, err := record.Decode(rec)
		if err == nil {
			err = state.Apply(r)
		}
		if err != nil {
			w.fail(corruptionDetected, "a log that was not damaged is refused: %v", err)
			return nil
		}
		w.book.durable(r)
	}
	state.Epoch = l.epoch
	w.checkReplay(state)
	b := &bare{l: l, w: w, known: map[message]bool{}, registered: make([]bool, len(w.dbs)),
		registering: map[protocol.ReqID]*database{}, m: protocol.New(state, w.opt.machine, 0)}
	l.driver = b
	b.m.Opened(protocol.OpenRecord{Epoch: l.epoch, Host: "sim", Version: "sim"})
	for _, d := range w.dbs {
		b.round(d)
	}
	return l
}

func (b *bare) machine() *protocol.Machine { return b.m }
func (b *bare) next() protocol.Instant     { return b.m.NextTimer() }
func (b *bare) tick(now protocol.Instant)  { b.m.Step(protocol.Tick{Now: now}) }

func (b *bare) cancel(of protocol.Event) { b.m.Step(protocol.Cancel{Of: of}) }

func (b *bare) request(e protocol.Event) protocol.Event {
	b.lastReq++
	switch x := e.(type) {
	case protocol.Begin:
		x.Req = b.lastReq
		e = x
	case protocol.Commit:
		x.Req = b.lastReq
		e = x
	case protocol.Rollback:
		x.Req = b.lastReq
		e = x
	case protocol.Ask:
		x.Req = b.lastReq
		e = x
	default:
		panic(fmt.Sprintf("sim: nobody waits for %T", e))
	}
	b.m.Step(e)
	return e
}

func (b *bare) hear() bool {
	if b.news == b.heard {
		return false
	}
	b.heard = b.news
	b.m.Step(protocol.Persisted{Index: b.news})
	return true
}

func (b *bare) work() {
	for {
		r := b.m.Ready()
		if len(r.Appends)+len(r.Messages)+len(r.Replies)+len(r.Notes)+len(r.Removals) == 0 &&
			r.Confirm == 0 {
			break
		}
		for _, a := range r.Appends {
			b.append(a)
		}
		// A transaction may begin and expire in one turn: the book has to know it first.
		for _, rep := range r.Replies {
			b.reply(rep)
		}
		for _, m := range r.Messages {
			b.send(m)
		}
		for _, n := range r.Notes {
			b.l.noted(n)
		}
		for _, x := range r.Removals {
			b.remove(x)
		}
		b.prove(r.Confirm)
	}
	b.sync()
}

// prove answers a question for ownership of the log: that this life goes on is the proof. Where it
// takes its time it may never come.
func (b *bare) prove(round uint64) {
	confirm := func() { b.m.Step(protocol.Confirmed{Round: round}) }
	switch {
	case round == 0:
	case !b.w.opt.late:
		confirm()
	case b.w.healed || !b.w.some(b.w.opt.lose):
		b.l.after(b.w.spread(b.w.opt.latency), func() { b.l.take(confirm) })
	}
}

func (b *bare) append(a protocol.Append) {
	rec := record.Encode(nil, a.Record)
	b.w.say("append %s", record.Name(rec.Type))
	b.w.book.appended(b.l, a.Record)
	b.inflight = append(b.inflight, inflight{a.Index, rec, a.Record})
	if b.w.opt.flaw == tellsEarly {
		b.news = a.Index
		b.l.wake()
	}
}

// sync makes durable, after a while, what is in flight now. What is appended meanwhile is the next
// group.
func (b *bare) sync() {
	n := len(b.inflight)
	if n == 0 || b.syncing {
		return
	}
	b.syncing = true
	b.l.after(b.w.spread(b.w.opt.diskLatency), func() {
		b.syncing = false
		b.keep(n)
		b.l.wake()
		b.sync()
	})
}

// keep makes the oldest appends in flight durable.
func (b *bare) keep(n int) {
	for _, f := range b.inflight[:n] {
		b.w.records = append(b.w.records, f.rec)
		b.w.book.durable(f.r)
		b.news = max(b.news, f.index)
	}
	b.inflight = b.inflight[n:]
}

func (b *bare) reply(rep protocol.Reply) {
	d := b.registering[rep.Req]
	if d == nil {
		b.l.replied(rep)
		return
	}
	delete(b.registering, rep.Req)
	b.registered[d.no] = rep.Err == nil
	b.later(d)
}

func (b *bare) fence() txn.Fence {
	return txn.Fence{Log: logID, Epoch: b.l.epoch, LSN: uint64(len(b.w.records))}
}

// send makes a call of a message, unless the same one is under way.
func (b *bare) send(m protocol.Message) {
	key := message{m.Act, m.Name}
	if b.known[key] {
		return
	}
	b.known[key] = true
	b.try(m, 10*millisecond)
}

// remove has markers removed, once: a later listing shows those that are left.
func (b *bare) remove(r protocol.Removal) {
	q := question{what: core.RemoveMarkers, fence: b.fence(), ids: r.IDs}
	b.l.ask(b.w.dbs[b.l.resource(r.RM)], q, func(core.Answer) {})
}

// try asks, and asks again what lasts until its end is proven, each time a little later.
func (b *bare) try(m protocol.Message, pause instant) {
	d := b.w.dbs[b.l.resource(m.RM)]
	b.w.say("%s is asked: %d of %d.%d", d.name, uint64(m.Act), uint64(m.Name.Seq),
		uint64(m.Name.Branch))
	q := question{what: core.What(m.Act), fence: b.fence(),
		branches: []participant.Branch{{Name: m.Name, Evidence: m.Evidence}}}
	b.l.ask(d, q, func(a core.Answer) {
		if m.Act.Lasting() && !proves(m.Act, a) {
			if a.Err == nil || b.w.opt.flaw != givesUp {
				b.l.after(pause, func() { b.try(m, min(2*pause, 2*second)) })
			}
		} else {
			delete(b.known, message{m.Act, m.Name})
		}
		b.m.Step(result(m, a))
	})
}

// proves says whether an answer ends the question.
func proves(act protocol.Act, a core.Answer) bool {
	if a.Err != nil {
		return false
	}
	switch a.Findings[0].Standing {
	case txn.StandingCommitted, txn.StandingRolledBack:
		return true
	case txn.StandingGone:
		return act != protocol.ActDecide
	case txn.StandingPrepared:
		return act == protocol.ActInquire
	}
	return false
}

// result is the event for an answer.
func result(m protocol.Message, a core.Answer) protocol.Event {
	if m.Act == protocol.ActPrepare {
		v := txn.BranchVote{Branch: m.Name.Branch}
		if a.Err == nil {
			x := a.Votes[0]
			v.Vote, v.Evidence, v.Reason, v.SQLState = x.Vote, x.Evidence, x.Reason, x.SQLState
		}
		return protocol.Voted{ID: m.ID, Vote: v}
	}
	f := protocol.Finished{ID: m.ID, Branch: m.Name.Branch, Act: m.Act}
	if a.Err == nil {
		x := a.Findings[0]
		f.Standing, f.Reason, f.Evidence, f.Votes = x.Standing, x.Reason, x.Evidence, x.Votes
	}
	return f
}

// round learns who a database is, and from then on lists it.
func (b *bare) round(d *database) {
	floor := b.m.Seen(b.m.RM(d.name))
	if b.registered[d.no] {
		b.l.ask(d, question{what: core.List, fence: b.fence()}, func(a core.Answer) {
			b.swept(d, floor, a)
		})
		return
	}
	b.l.ask(d, question{what: core.Describe}, func(a core.Answer) {
		if a.Err != nil {
			b.later(d)
			return
		}
		b.lastReq++
		b.registering[b.lastReq] = d
		x := a.Description
		b.m.Step(protocol.Register{Req: b.lastReq, Name: d.name, Kind: x.Kind, Identity: x.Identity,
			Position: x.Position, Floor: floor, OnePhase: x.OnePhase, Delegate: x.Delegate,
			Evidence: x.Evidence})
	})
}

func (b *bare) later(d *database) { b.l.after(b.w.opt.sweepEvery, func() { b.round(d) }) }

func (b *bare) swept(d *database, floor txn.Position, a core.Answer) {
	if x := a.Listing; a.Err == nil {
		names := make([]protocol.SweptName, len(x.Branches))
		for i, n := range x.Branches {
			names[i] = protocol.SweptName{Name: n.Name, Ours: n.Ours}
		}
		b.m.Step(protocol.Swept{RM: b.m.RM(d.name), Identity: x.Identity, Position: x.Position,
			Floor: floor, Names: names, Markers: x.Markers})
	}
	b.later(d)
}

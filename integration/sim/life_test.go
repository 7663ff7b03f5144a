package sim

import (
	"github.com/gavel-tx/gavel/coordinator/core"
	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// life is one epoch of the coordinator: a process. What belongs to it ends with it. It does what
// the loop of package coordinator does: hear what has become durable, tick before it takes what has
// come, tick again, carry out what is wanted, wait.
type life struct {
	w      *world
	epoch  txn.Epoch
	driver driver
	// born is the zero of its clock, and skew how far that has jumped.
	born, skew instant
	dead       bool
	// held: the process does nothing until then.
	held instant

	inbox  []func()
	waking bool
	// timer is when it wakes by itself, or zero.
	timer   instant
	waiting map[protocol.ReqID]*request
	// noRoom: the coordinator knows that the disk is full.
	noRoom bool
	// full: the log has no memory left, and everything waits for the disk.
	full bool
	// astray are the databases by whose name another one, or an older state of it, has answered,
	// since the right one did, and alarmed those of which people were told so.
	astray, alarmed [3]bool
}

// driver is the coordinator inside a life: core.Core over a log of files, or protocol.Machine
// alone.
type driver interface {
	// request puts a number on an event that somebody waits for, and takes it.
	request(protocol.Event) protocol.Event
	cancel(of protocol.Event)
	// hear takes what the disk has said. It is false if it has said nothing new.
	hear() bool
	tick(protocol.Instant)
	// work carries out what is wanted, and plans what the disk has to do.
	work()
	// next is when to tick again, or zero.
	next() protocol.Instant
	machine() *protocol.Machine
}

func newLife(w *world, epoch txn.Epoch) *life {
	return &life{w: w, epoch: epoch, born: w.now, waiting: map[protocol.ReqID]*request{}}
}

// clock is this moment on the coordinator's clock.
func (l *life) clock() protocol.Instant { return protocol.Instant(l.w.now - l.born + l.skew) }

// at plans something that this process does. It is late if the process is held, and never if the
// process is dead.
func (l *life) at(t instant, do func()) {
	l.w.at(t, func() {
		switch {
		case l.dead:
		case l.w.now < l.held:
			l.at(l.held, do)
		default:
			do()
		}
	})
}

func (l *life) after(d instant, do func()) { l.at(l.w.now+d, do) }

// take puts something into the inbox. What comes while the loop is busy is taken together.
func (l *life) take(do func()) {
	if l.dead {
		return
	}
	l.inbox = append(l.inbox, do)
	l.wake()
}

func (l *life) wake() {
	if !l.waking {
		l.waking = true
		l.after(microsecond<<l.w.rng.IntN(8), l.run)
	}
}

// run is one turn of the loop.
func (l *life) run() {
	l.waking = false
	if heard := l.driver.hear(); l.full && !heard {
		return
	}
	if !l.full {
		l.empty()
	}
	l.full = false
	l.driver.tick(l.instant())
	l.driver.work()
	if l.dead || l.w.broken != nil {
		return
	}
	for i, astray := range l.astray {
		if astray && !l.alarmed[i] {
			l.w.fail(containment, "another database, or an older one, answers as %s, and "+
				"nobody is alarmed", l.w.dbs[i].name)
		}
	}
	if len(l.inbox) > 0 {
		l.wake()
	}
	l.rest()
}

// empty takes what has come. The process may have been stopped for long: what has expired meanwhile
// must not be decided on the time of the last tick.
func (l *life) empty() {
	if len(l.inbox) > 0 && l.w.opt.flaw != ticksLate {
		l.driver.tick(l.instant())
	}
	inbox := l.inbox
	l.inbox = nil
	for _, do := range inbox {
		do()
	}
}

// instant is what the loop reads from its clock.
func (l *life) instant() protocol.Instant {
	if l.w.opt.flaw == runsBack && l.w.some(10) {
		return l.clock() - protocol.Instant(second)
	}
	return l.clock()
}

// rest plans the next turn that comes by itself.
func (l *life) rest() {
	wait := l.w.opt.idle
	if next := l.driver.next(); next != 0 {
		wait = max(microsecond, min(wait, instant(next-l.clock())))
	}
	at := l.w.now + wait
	if l.timer != 0 && l.timer <= at {
		return
	}
	l.timer = at
	l.at(at, func() {
		if l.timer == at {
			l.timer = 0
			l.run()
		}
	})
}

// resource is the number of the database that the machine knows as rm.
func (l *life) resource(rm protocol.RM) int { return int(l.driver.machine().Name(rm)[0] - 'a') }

// replied takes a reply of the machine: it is checked when it is spoken, whoever may hear it.
func (l *life) replied(rep protocol.Reply) {
	r := l.waiting[rep.Req]
	if r == nil {
		return
	}
	delete(l.waiting, rep.Req)
	w := l.w
	switch {
	case rep.Err != nil:
		w.say("%s: request %d is refused", string(txn.ReasonOf(rep.Err)), uint64(rep.Req))
		w.checkRefusal(r.event, rep.Err)
	case rep.Begun != nil && rep.Begun.Existing != nil:
		w.count[keyAgain]++
		w.say("a key is that of %d", "", uint64(rep.Begun.ID.Seq()))
		w.checkResult(rep.Begun.Existing)
	case rep.Begun != nil:
		if b := r.event.(protocol.Begin).Request; r.noRoom && b.ID.IsZero() && b.Key == "" {
			w.fail(diskFullGrace, "%d is begun on a full disk", rep.Begun.ID.Seq())
		}
		w.say("%d has %d branches", "", uint64(rep.Begun.ID.Seq()), uint64(len(rep.Begun.Branches)))
		w.book.begun(l, r.event.(protocol.Begin).Request, rep.Begun)
	case rep.Result != nil:
		w.garble(rep.Result)
		w.say("told %s: %d", rep.Result.Outcome.String(), uint64(rep.Result.ID.Seq()))
		w.checkResult(rep.Result)
	}
	w.travel(front, back, func() { r.finish(rep, true) })
}

// noted takes a note of the machine.
func (l *life) noted(n protocol.Note) {
	switch {
	case n.Kind == protocol.NoteAlarm:
		if n.Label == 'T' && n.RM != 0 {
			l.alarmed[l.resource(n.RM)] = true
		}
		l.w.say("alarm %q about %d.%d", n.Label.String(), uint64(n.Name.Seq), uint64(n.Name.Branch))
	case n.Kind == protocol.NoteDone:
		l.done(n.Result)
	}
	l.w.book.noted(n)
}

func (l *life) done(r *txn.Result) {
	c := &l.w.count
	switch {
	case r.Outcome == txn.OutcomeCommitted && r.Plan == txn.PlanOnePhase:
		c[onePhase]++
	case r.Outcome == txn.OutcomeCommitted:
		c[committed]++
	case r.Outcome == txn.OutcomeRolledBack:
		c[rolledBack]++
	default:
		c[heuristic]++
	}
}

// answered keeps which branches a coordinator has been told, truly, to be committed.
func (l *life) answered(d *database, q question, a *core.Answer) {
	if q.what == core.List && a.Err == nil {
		l.astray[d.no] = a.Listing.Identity != d.identity ||
			before(a.Listing.Position, q.floor)
		l.alarmed[d.no] = l.alarmed[d.no] && l.astray[d.no]
	}
	for i := range a.Findings {
		if a.Findings[i].Standing != txn.StandingCommitted || i >= len(q.branches) {
			continue
		}
		if t := l.w.book.truth(q.branches[i].Name); t != nil && t.done() {
			t.proven = true
		}
	}
	if q.what == core.List && l.w.opt.flaw == sweepsBlind {
		l.sweepBlind(d, q.fence, a.Listing.Branches)
	}
	if a.Err == participant.ErrFenced || a.Err == participant.ErrRegression {
		l.w.fail(fencing, "the only owner of the log is refused: %v", a.Err)
	}
}

// trip is a call on its way to a database and back.
type trip struct {
	l        *life
	d        *database
	q        question
	done     func(core.Answer)
	deadline instant
	over     bool
}

// ask makes a call, with a time limit. What the database does when nobody waits any more, it does
// all the same.
func (l *life) ask(d *database, q question, done func(core.Answer)) {
	l.w.checkCall(d, q)
	m := l.driver.machine()
	q.floor = m.Seen(m.RM(d.name))
	t := &trip{l: l, d: d, q: q, done: done, deadline: l.w.now + l.w.opt.callTimeout}
	t.limit(l.w.travel(behind(d.no), there, t.serve))
}

// limit plans the end of the wait, if the message comes too late or never.
func (t *trip) limit(at instant, ok bool) {
	if w := t.l.w; (!ok || at > t.deadline) && w.now <= t.deadline {
		t.l.at(t.deadline, t.expire)
	}
}

func (t *trip) serve() {
	// An answer is large, and is handed on more than once.
	a := new(core.Answer)
	*a = t.d.serve(t.q)
	t.limit(t.l.w.travel(behind(t.d.no), back, func() { t.finish(a) }))
}

func (t *trip) expire() {
	if !t.over && !t.l.dead {
		t.l.w.count[timeout]++
		t.l.w.say("%s has not answered in time", t.d.name)
		t.finish(&core.Answer{Err: errTimeout})
	}
}

func (t *trip) finish(a *core.Answer) {
	if t.over || t.l.dead {
		return
	}
	t.over = true
	t.l.take(func() {
		t.l.answered(t.d, t.q, a)
		t.done(*a)
	})
}

// request is a question of a client to the coordinator.
type request struct {
	w     *world
	event protocol.Event
	done  func(rep protocol.Reply, ok bool)
	over  bool
	// until is when its client goes away. by took it last, under a number.
	until instant
	by    *life
	asked protocol.Event
	// noRoom: the coordinator knew, when it took it, that the disk was full.
	noRoom bool
}

// request sends an event to whatever life there is, and waits as long as the clients do.
func (w *world) request(e protocol.Event, done func(protocol.Reply, bool)) {
	r := &request{w: w, event: e, done: done, until: w.now + w.opt.patience}
	w.travel(front, there, r.arrive)
	w.at(r.until, r.giveUp)
}

func (r *request) arrive() {
	l := r.w.life
	if l == nil {
		return
	}
	l.take(func() {
		e := r.event
		if b, ok := e.(protocol.Begin); ok {
			b.Until = l.clock() + protocol.Instant(r.until-r.w.now)
			e = b
		}
		r.by, r.noRoom = l, l.noRoom
		r.asked = l.driver.request(e)
		l.waiting[core.ReqOf(r.asked)] = r
	})
}

func (r *request) finish(rep protocol.Reply, ok bool) {
	if !r.over {
		r.over = true
		r.done(rep, ok)
	}
}

// giveUp ends the wait of a client. The coordinator notices that some callers have gone away.
func (r *request) giveUp() {
	if r.over {
		return
	}
	r.w.count[timeout]++
	if l := r.by; l != nil && r.w.rng.IntN(2) == 0 {
		l.take(func() { l.forget(r) })
	}
	if c, ok := r.event.(protocol.Commit); ok && r.w.opt.flaw == guesses && r.w.life != nil {
		r.w.guess(c.Request.ID)
	}
	r.finish(protocol.Reply{}, false)
}

// forget drops a caller that has gone away. A reply that is on its way is checked all the same: it
// may be the only sign of a transaction that was begun for nobody.
func (l *life) forget(r *request) {
	if l.waiting[core.ReqOf(r.asked)] == r {
		l.w.count[goneAway]++
		l.driver.cancel(r.asked)
	}
}

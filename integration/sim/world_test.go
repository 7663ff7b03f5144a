package sim

import (
	"fmt"
	"math/rand/v2"
	"runtime/debug"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/integration/explore"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// world is everything. It is used by one goroutine, and shares nothing with other worlds.
type world struct {
	agenda
	seed  uint64
	opt   options
	rng   *rand.Rand
	trace trace
	count tally
	book  book
	net   network
	dbs   []*database
	// lurking are faults that wait for an occasion.
	lurking []func()
	// under counts the messages that are under way.
	under   int
	clients []*client
	life    *life

	// disk is that of a full world; records and epoch are the log of a bare one.
	disk    *disk
	records []txlog.Record
	epoch   txn.Epoch

	// healed: the second phase has begun. encore: the power was cut once more when all was at rest.
	// over: it has ended.
	healed, encore, over bool
	// calm is when the last trouble was over: a fault, or a transaction that its client may have
	// abandoned and that lives until its deadline. rest is how long it took from then.
	calm, rest instant
	broken     *explore.Broken
}

// settling bounds the time from the last trouble until nothing is in doubt any more, in virtual
// time, and maxHappenings a world as a whole.
const (
	settling      = 10 * second
	maxHappenings = 200_000
)

// newWorld draws a world and plans all that will happen to it from outside.
func newWorld(seed uint64, opt options, blank *vfs.Mem) *world {
	w := &world{seed: seed, opt: opt, rng: rand.New(rand.NewPCG(seed, 2))}
	w.book = book{w: w, bySq: map[txn.Seq]*entry{}}
	for i := range opt.databases {
		w.dbs = append(w.dbs, newDatabase(w, i))
	}
	if opt.full {
		w.disk = &disk{w: w, mem: blank.KillClone(), tears: opt.plan[tornWrite]}
	}
	w.at(0, w.boot)
	for i := range opt.clients {
		c := &client{w: w, no: i, left: opt.perClient}
		w.clients = append(w.clients, c)
		w.after(100*millisecond, func() { c.think(c.start) })
	}
	w.misfortunes()
	w.at(opt.horizon, w.heal)
	return w
}

// run lets everything happen.
func (w *world) run() {
	defer w.recover()
	for n := 0; w.broken == nil && !w.over; n++ {
		do := w.next()
		if do == nil || n == maxHappenings {
			w.fail(liveness, "after %d happenings there is no end", n)
			return
		}
		do()
	}
}

// recover makes a broken assertion of the coordinator a broken promise.
func (w *world) recover() {
	if r := recover(); r != nil {
		w.fail(assertion, "%v\n%s", r, debug.Stack())
	}
}

// boot starts a coordinator on what the disk holds.
func (w *world) boot() {
	if w.life != nil {
		return
	}
	var l *life
	if w.opt.full {
		w.decay()
		l = w.openFull()
	} else {
		l = w.openBare()
	}
	if w.broken != nil {
		return
	}
	if l == nil {
		w.after(w.spread(second), w.boot)
		return
	}
	w.life = l
	if w.encore {
		w.trouble(w.now)
	}
	w.say("epoch %d begins", "", uint64(l.epoch))
	l.wake()
}

// die ends the life, and starts another one on what is left of its disk.
func (w *world) die(left *vfs.Mem) {
	w.life.dead = true
	w.life = nil
	if w.opt.full {
		w.disk.mem = left
		w.disk.bad = 0
	}
	w.after(w.spread(3*second), w.boot)
}

// cutPower ends the machine of the coordinator, kill only its process.
// An orderly end writes what waits.
func (w *world) cutPower()   { w.stop(powerCut) }
func (w *world) kill()       { w.stop(killed) }
func (w *world) endOrderly() { w.stop(orderly) }

func (w *world) stop(how kind) {
	if w.life == nil {
		return
	}
	w.count[how]++
	w.say("%s of the coordinator", how.String())
	if !w.opt.full {
		b := w.life.driver.(*bare)
		n := len(b.inflight)
		if how != orderly {
			n = w.rng.IntN(n + 1)
		}
		b.keep(n)
		w.die(nil)
		return
	}
	switch how {
	case powerCut:
		w.die(w.disk.mem.CrashClone(w.rng))
	case orderly:
		w.disk.close(w.life.driver.(*full))
	default:
		w.die(w.disk.mem.KillClone())
	}
}

// plan takes one of the faults of a kind that are left to happen at an occasion.
func (w *world) plan(k kind) bool {
	if w.healed || w.opt.plan[k] == 0 || !w.some(400) {
		return false
	}
	w.opt.plan[k]--
	return true
}

// misfortunes plans the faults that come at any moment.
func (w *world) misfortunes() {
	random := func() *database { return w.dbs[w.rng.IntN(len(w.dbs))] }
	fails := func(do func(*database)) func() {
		return func() {
			if d := random(); !d.spec.kv && d.at == d.primary && d.up {
				do(d)
			}
		}
	}
	for _, m := range []struct {
		kind
		do func()
	}{
		{powerCut, w.cutPower}, {killed, w.kill}, {orderly, w.endOrderly},
		{pause, w.pause}, {clockJump, w.jump},
		{partition, w.partition},
		{databaseCrash, func() { random().crash() }},
		{asyncFailover, fails(func(d *database) { d.lose(asyncFailover, 4) })},
		{syncFailover, fails(func(d *database) { d.lose(syncFailover, 0) })},
		{restore, fails((*database).restored)},
		{stranger, fails((*database).strangerAnswers)},
		{humanCommit, func() { random().meddle(true) }},
		{humanRollback, func() { random().meddle(false) }},
		{notResolver, func() { random().taken() }},
		{fullDisk, w.onDisk((*disk).fill)},
		{ioError, w.onDisk(func(d *disk) { d.bad = 1 + w.rng.IntN(20) })},
		{slowDisk, w.onDisk((*disk).slowDown)},
	} {
		for range w.opt.plan[m.kind] {
			do := func() {
				if !w.healed {
					m.do()
				}
			}
			if w.rng.IntN(2) == 0 {
				w.at(instant(w.rng.Int64N(int64(w.opt.horizon))), do)
			} else {
				w.lurking = append(w.lurking, do)
			}
		}
	}
	w.background(random)
}

// ambush lets a fault that lurks strike now or a moment later, because something has just happened
// that a fault might spoil. Faults at random moments seldom meet anybody.
func (w *world) ambush() {
	n := len(w.lurking)
	if n == 0 || !w.some(150) {
		return
	}
	i := w.rng.IntN(n)
	do := w.lurking[i]
	w.lurking[i] = w.lurking[n-1]
	w.lurking = w.lurking[:n-1]
	w.after(w.spread(w.opt.latency), do)
}

// background is what others do: work in the databases, and questions to the coordinator.
func (w *world) background(random func() *database) {
	for range w.rng.IntN(8) {
		w.at(instant(w.rng.Int64N(int64(w.opt.horizon))), func() { random().primary.other() })
		w.at(instant(w.rng.Int64N(int64(w.opt.horizon))), w.wonder)
	}
}

// wonder is somebody who asks what became of a transaction that is not his.
func (w *world) wonder() {
	if n := len(w.book.all); n > 0 {
		e := w.book.all[n-1-w.rng.IntN(min(n, 4))]
		w.request(protocol.Ask{ID: e.id}, func(protocol.Reply, bool) {})
	}
}

func (w *world) onDisk(do func(*disk)) func() {
	return func() {
		if w.disk != nil {
			do(w.disk)
		}
	}
}

func (d *disk) slowDown() {
	d.w.count[slowDisk]++
	d.slow = d.w.now + d.w.spread(3*second)
}

// lose is a failover to a standby that lacks up to so many operations. One that should lose some,
// and finds none, has not happened.
func (d *database) lose(k kind, most int) {
	n := 0
	if most > 0 {
		n = min(1+d.w.rng.IntN(most), len(d.primary.wal))
	}
	if n > 0 || most == 0 {
		d.w.count[k]++
	}
	d.failover(n)
	if d.w.plan(oldPrimary) {
		d.w.after(d.w.spread(second), d.oldAnswers)
	}
}

// taken lets somebody else have the right to finish branches for a while.
func (d *database) taken() {
	d.elsewhere = true
	d.w.after(d.w.spread(2*second), func() { d.elsewhere = false })
}

// pause holds the process of the coordinator, clocks and all, and lets it go on.
func (w *world) pause() {
	if w.life == nil {
		return
	}
	w.count[pause]++
	w.life.held = max(w.life.held, w.now+w.spread(8*second))
	w.say("the coordinator is held", "")
}

func (w *world) jump() {
	if w.life == nil {
		return
	}
	w.count[clockJump]++
	w.life.skew += w.spread(3600 * second)
	w.say("the clock of the coordinator jumps", "")
}

// heal ends all faults, and begins the second phase.
func (w *world) heal() {
	w.say("faults end here", "")
	w.healed = true
	w.trouble(w.now)
	if w.life != nil {
		w.trouble(w.life.held)
	}
	w.net.cut = [maxLinks][2]bool{}
	for _, d := range w.dbs {
		d.back()
		d.up, d.elsewhere = true, false
		d.spec.slots = 64
	}
	if w.disk != nil {
		w.disk.clean()
		w.disk.bad, w.disk.cutAt, w.disk.tears = 0, 0, 0
	}
	w.after(betweenLooks, w.look)
}

// trouble says that something may go wrong until at.
func (w *world) trouble(at instant) { w.calm = max(w.calm, at) }

// betweenLooks shares no rhythm with the sweeps: a look that always comes a moment after a listing
// was sent finds a message under way for ever.
const betweenLooks = 97 * millisecond

// look sees whether there is anything left to wait for.
func (w *world) look() {
	why := w.unrest()
	switch {
	case why == "" && !w.encore && !w.opt.calm:
		// What was told must be in the log, and not only in the memory of the one who told it.
		w.encore, w.rest = true, max(0, w.now-w.calm)
		w.cutPower()
		w.trouble(w.now)
		w.after(betweenLooks, w.look)
	case why == "":
		w.over = true
		w.rest = max(w.rest, w.now-w.calm)
		w.finish()
	case w.now > w.calm+settling:
		w.fail(liveness, "%s", why)
	default:
		w.after(betweenLooks, w.look)
	}
}

// unrest says what there is to wait for, if anything.
func (w *world) unrest() string {
	for _, c := range w.clients {
		if c.open != nil && !c.dead && !c.open.over {
			return fmt.Sprintf("client %d has no answer about %d", c.no, c.open.id[15])
		}
	}
	for _, d := range w.dbs {
		for _, n := range d.primary.prepared {
			// Of an intent that is left to a person nobody else ends any branch.
			if e := w.book.bySq[n.Seq]; !e.left() {
				return fmt.Sprintf("%s stays prepared at %s", n, d.name)
			}
		}
	}
	id, marked := w.lingering()
	switch {
	case marked:
		return fmt.Sprintf("the marker of %d is never removed", id.Seq())
	case w.life == nil:
		return "there is no coordinator"
	case w.life.driver.machine().Active() > 0:
		return fmt.Sprintf("%d transactions are never over", w.life.driver.machine().Active())
	case w.under > 0:
		return "messages travel for ever"
	}
	return ""
}

// finish asks, at the end, how every transaction ended, and holds that against what has happened.
func (w *world) finish() {
	l := w.life
	for _, e := range w.book.all {
		r := &request{w: w, event: protocol.Ask{ID: e.id}, done: func(protocol.Reply, bool) {}}
		r.asked = l.driver.request(r.event)
		l.waiting[reqOf(r.asked)] = r
	}
	l.driver.work()
	for _, e := range w.book.all {
		w.checkEnding(e)
	}
	for _, d := range w.dbs {
		w.say("%s ends on timeline %d at %d, with number %d", d.name, uint64(d.primary.timeline),
			d.primary.lsn, d.primary.nextXID)
	}
}

func reqOf(e protocol.Event) protocol.ReqID { return e.(protocol.Ask).Req }

// checkEnding holds the end of one transaction against what was decided and told.
func (w *world) checkEnding(e *entry) {
	for i := range e.branches {
		t, no := &e.branches[i], txn.BranchNo(i+1)
		if !e.committed || e.listed&bit(no) == 0 || t.done() && !t.lost || t.proven {
			continue
		}
		n := txn.NameOf(e.id, no)
		switch {
		case !t.touched():
			w.fail(acknowledged, "%d is committed, and %s is not", e.id.Seq(), n)
		case e.heuristic&bit(no) == 0:
			w.fail(maskedHeuristic, "%s ended against the decision, and no record says so", n)
		case !t.alarmed:
			w.fail(maskedHeuristic, "%s ended against the decision, and nobody was alarmed", n)
		}
	}
	w.checkLeft(e)
	if low := w.life.driver.machine().State().Low; e.told == txn.OutcomeUnknown &&
		!e.readsOnly() && e.id.Seq() >= low {
		w.fail(liveness, "nobody can say how %d ended", e.id.Seq())
	}
}

package explore

import (
	"crypto/sha256"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txn"
)

// logID is the log of every world. Decoys carry another.
const (
	logID      txn.LogID = 0xabc
	foreignLog txn.LogID = 0x77
)

// start is the first instant of every epoch's clock: not zero, which stands for "never".
const start protocol.Instant = 1

// world is everything at one moment: the coordinator, its log, what is under way, the resources,
// the clients, and what has really happened so far. It is copied as a whole, and two worlds with
// the same digest have the same future.
type world struct {
	sc     *Scenario
	deep   *deep
	trace  *trace
	sights sights

	left Bounds
	// The coordinator that owns the log, and one that was deposed and has not noticed yet, or nil.
	office
	former *office
	// log is durable.
	log []stored

	resources []resource
	calls     []call
	listings  []listing
	clients   []client
	entries   []entry

	// faulty: something has happened that may spoil a commit.
	faulty bool
	broken *Broken
}

// stored is a durable record, in the bytes of the log.
type stored struct {
	kind uint8
	body string
}

// request is a caller that waits for a reply.
type request struct {
	req    protocol.ReqID
	client int
	event  protocol.Event
}

// listing is a list of prepared branches on its way to the machine. There is one place for each
// resource.
type listing struct {
	taken bool
	swept protocol.Swept
}

// rules names the fields that are not copied or told apart like the others. Whatever is skipped is
// for people alone, is only counted up, or is compared with nothing but itself. Of what is counted
// up to be compared with one, it is enough to know none, one and more.
func (s *Scenario) rules() map[string]rule {
	rules := map[string]rule{
		"explore.world.sc": shared, "explore.world.deep": shared, "explore.world.trace": shared,
		"explore.world.sights": shared,
		"explore.world.broken": skipped,
		"protocol.Machine.cfg": skipped, "protocol.Machine.now": skipped,
		// Rounds are compared with those that were asked for, which stand in the same order.
		"protocol.Machine.lastRound": skipped, "protocol.round.no": skipped,
		"explore.confirm.round": skipped,
		// Only their order and their distance count, and appends in flight are without a gap.
		"protocol.Machine.index": skipped, "protocol.Append.Index": skipped,
		// For people.
		"protocol.transaction.begun": skipped,
		"protocol.resource.swept":    skipped, "protocol.resource.todo": skipped,
		"txn.Result.Age": skipped, "txn.BranchStatus.Attempts": skipped,
		"protocol.transaction.abort": skipped,
		"protocol.Machine.recent":    skipped,
		"protocol.waiter.wait":       raw,
		// Whether the answer to a one-phase request is the first one decides what it proves.
		"protocol.branch.attempts": few,
	}
	if !s.Retained {
		rules["protocol.Machine.marks"] = skipped
		rules["protocol.Machine.retainAt"] = skipped
		rules["protocol.Machine.started"] = skipped
		rules["protocol.resource.recordedAt"] = skipped
	}
	return rules
}

// newWorld is the scenario's world before anything has happened: the coordinator runs, its
// resources are registered, and all of that is durable.
func newWorld(sc *Scenario) *world {
	w := &world{sc: sc, deep: newDeep(sc.rules()), sights: sights{}, left: sc.Bounds,
		office:   office{now: start, epoch: 1},
		listings: make([]listing, len(sc.Resources))}
	for i := range sc.Resources {
		w.resources = append(w.resources, newResource(sc, i))
	}
	for range sc.Transactions {
		w.clients = append(w.clients, client{entry: -1})
	}
	w.m = protocol.New(protocol.NewState(logID), sc.machine(), w.now)
	for i := range w.resources {
		w.register(i)
	}
	w.tick(start + second/1000)
	for len(w.inflight) > 0 {
		w.persist()
	}
	return w
}

func (w *world) copy() *world { return clone(w.deep, w) }

// digest tells worlds apart. Sixteen bytes of SHA-256 do not collide by accident.
func (w *world) digest(buf []byte) ([16]byte, []byte) {
	buf = dump(w.deep, buf[:0], w, w.now)
	sum := sha256.Sum256(buf)
	return [16]byte(sum[:16]), buf
}

// step gives the machine one event and carries out all that it wants.
func (w *world) step(e protocol.Event) {
	w.trace.event(w, e)
	w.m.Step(e)
	w.drain()
}

// drain carries out what the machine wants, in the order that a driver owes it: appends first.
func (w *world) drain() {
	for {
		r := w.m.Ready()
		if len(r.Appends)+len(r.Messages)+len(r.Replies)+len(r.Notes)+len(r.Removals) == 0 &&
			r.Confirm == 0 {
			return
		}
		for _, a := range r.Appends {
			w.handOver(a)
		}
		for _, m := range r.Messages {
			w.trace.sent(w, m)
			w.sights.add("send ", m.Act.String())
			w.checkMessage(m)
			w.send(m)
		}
		for _, rep := range r.Replies {
			w.trace.replied(rep)
			w.sights.reply(rep)
			w.replied(rep)
		}
		for _, n := range r.Notes {
			w.trace.noted(n)
			w.sights.note(n)
			w.noted(n)
		}
		for _, rem := range r.Removals {
			w.removed(rem)
		}
		if r.Confirm != 0 {
			w.trace.line("confirm")
			w.confirms = append(w.confirms, confirm{round: r.Confirm})
		}
	}
}

// handOver takes a record to the log. That of a deposed owner never gets there, so that it is no
// concern of the other checkers.
func (w *world) handOver(a protocol.Append) {
	w.trace.appended(a)
	w.sights.record(a.Record)
	if !w.deposed {
		w.checkAppend(a.Record)
	}
	w.inflight = append(w.inflight, a)
}

// entry is where the history of a transaction is kept, or nil if nobody has begun it.
func (w *world) entry(id txn.ID) *entry {
	for i := range w.entries {
		if w.entries[i].id == id {
			return &w.entries[i]
		}
	}
	return nil
}

// truth is what has really happened to a branch, or nil if there is no such branch.
func (w *world) truth(n txn.Name) *truth {
	if n.Log != logID || n.Seq == 0 {
		return nil
	}
	e := w.entry(n.ID())
	if e == nil || n.Branch < 1 || int(n.Branch) > len(e.branches) {
		return nil
	}
	return &e.branches[n.Branch-1]
}

// maxClock bounds an epoch's clock where nothing is to be forgotten. Up to there the machine writes
// no further mark for the retention.
const maxClock = start + 60*second

const second = protocol.Instant(1e9)

// tick moves the clock. No session, and no call, is older than the retention of outcomes, which is
// much longer than every timeout.
func (w *world) tick(to protocol.Instant) {
	if to-w.now >= w.sc.machine().Retention {
		w.dropStale()
		clear(w.listings)
		for i := range w.resources {
			for _, s := range w.resources[i].sessions {
				w.endSession(s.name)
			}
			w.resources[i].sessions = nil
		}
	}
	w.now = to
	w.step(protocol.Tick{Now: to})
}

// stores puts a record into the durable log.
func stores(r txlog.Record) stored { return stored{r.Type, string(r.Data)} }

package core

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
	"github.com/gavel-tx/gavel/txn/point"
)

// Config describes a Core.
type Config struct {
	Machine protocol.Config
	// Resources that transactions may name, each name once.
	Resources []Resource
	// Workers is how many calls of one resource may run at once, a listing not counted.
	Workers int
	// SweepEvery is the time from one listing of a resource to the next.
	SweepEvery protocol.Instant
	// SnapshotEvery is the log volume after which a snapshot is written, in bytes.
	SnapshotEvery int64
	// Rand spreads retries.
	Rand *rand.Rand
}

// Resource names a resource manager, and what an operator has said about it.
type Resource struct {
	Name, Kind string
	// AcceptIdentity takes whatever database answers as the resource from now on.
	AcceptIdentity bool
	// AcceptForeign registers the resource although branches of another log are prepared in it.
	AcceptForeign bool
}

// Log is what a Core needs of an open transaction log. No method waits for the disk.
type Log interface {
	ID() txn.LogID
	Epoch() txn.Epoch
	// LSN is the end of the durable log.
	LSN() uint64
	Room() bool
	BytesSinceSnapshot() int64
	// MaxAppend is the most that the records of one Append may take, with 5 bytes more for each.
	MaxAppend() int
	Append(recs []txlog.Record, forced bool) (index uint64, err error)
}

// Core is one epoch of a coordinator. It is not safe for concurrent use: one driver owns it.
type Core struct {
	cfg Config
	log Log
	m   *protocol.Machine
	now protocol.Instant
	out Work

	lanes   []*lane
	byName  map[string]*lane
	keepers []*keeper
	// registering are the registrations that wait for their reply.
	registering map[protocol.ReqID]*keeper
	lastReq     protocol.ReqID
	lastCall    uint64
	// adopted are logs whose decisions came along.
	adopted []protocol.AdoptedRecord

	appender appender
	room     bool
	snapshot snapshots
	failed   bool
}

// Work is what a Core wants done. The driver owns it.
type Work struct {
	// Calls to resources. Each is answered once, by Answered.
	Calls []*Call
	// Replies to requests.
	Replies []protocol.Reply
	Notes   []Note
	Lines   []Line
	// Snapshot, if not nil, is to be written, off the path of everything else, and reported by
	// Snapshotted.
	Snapshot *Snapshot
	// Failed, if not nil, says that this epoch is over: a newer one was seen. The driver must stop,
	// and must not roll anything back.
	Failed error
}

// Note is a note of the machine, with the name of its resource.
type Note struct {
	protocol.Note
	Resource string
}

// Line is a line of the journal.
type Line struct {
	Level   slog.Level
	Message string
	// Attrs are pairs, as slog takes them.
	Attrs []any
}

// New makes the core of an epoch from what the log says.
func New(state *protocol.State, log Log, cfg Config, now protocol.Instant) *Core {
	c := &Core{
		cfg: cfg, log: log, now: now, byName: map[string]*lane{}, room: true,
		registering: map[protocol.ReqID]*keeper{}, adopted: slices.Clone(state.Adopted()),
	}
	c.cfg.Machine = cfg.Machine.WithDefaults()
	c.m = protocol.New(state, c.cfg.Machine, now)
	for _, r := range cfg.Resources {
		l := newLane(c, r)
		c.lanes = append(c.lanes, l)
		c.byName[r.Name] = l
		c.keepers = append(c.keepers, newKeeper(c, r, l))
		l.keeper = c.keepers[len(c.keepers)-1]
	}
	return c
}

// Opened notes, in the log, who runs this epoch.
func (c *Core) Opened(r protocol.OpenRecord) { c.m.Opened(r) }

// Machine is the protocol's machine, to look at. The caller must not step it.
func (c *Core) Machine() *protocol.Machine { return c.m }

// Tick moves the clock to now, which must not go backwards.
func (c *Core) Tick(now protocol.Instant) {
	c.now = now
	c.m.Step(protocol.Tick{Now: now})
	if room := c.log.Room(); room != c.room {
		c.room = room
		c.m.Step(protocol.Room{Available: room})
		c.line(slog.LevelWarn, "the room of the log's disk changed",
			"room for new transactions", room)
	}
}

// Next is the instant of the next Tick that has something to do, or zero. The disk's room and the
// retention are looked at by every Tick, so that a driver should tick now and then all the same.
func (c *Core) Next() protocol.Instant {
	next := c.m.NextTimer()
	soonest := func(at protocol.Instant) {
		if at != 0 && (next == 0 || at < next) {
			next = at
		}
	}
	for i, l := range c.lanes {
		soonest(l.due)
		soonest(c.keepers[i].due())
	}
	return next
}

// Request takes an event that somebody waits for, and puts a number on it. The reply with this
// number is in some later work.
func (c *Core) Request(e protocol.Event) protocol.Event {
	c.lastReq++
	e = withReq(e, c.lastReq)
	c.m.Step(e)
	return e
}

// Cancel says that nobody waits for the reply to a request any more. Of is what Request returned.
func (c *Core) Cancel(of protocol.Event) { c.m.Step(protocol.Cancel{Of: of}) }

// Drain refuses new transactions from now on.
func (c *Core) Drain() { c.m.Step(protocol.Drain{}) }

// ReqOf is the number that Request has put on an event.
func ReqOf(e protocol.Event) protocol.ReqID {
	switch e := e.(type) {
	case protocol.Begin:
		return e.Req
	case protocol.Commit:
		return e.Req
	case protocol.Rollback:
		return e.Req
	case protocol.Ask:
		return e.Req
	}
	return 0
}

// withReq puts a number on a request.
func withReq(e protocol.Event, req protocol.ReqID) protocol.Event {
	switch e := e.(type) {
	case protocol.Begin:
		e.Req = req
		return e
	case protocol.Commit:
		e.Req = req
		return e
	case protocol.Rollback:
		e.Req = req
		return e
	case protocol.Ask:
		e.Req = req
		return e
	}
	panic("core: nobody replies to this event")
}

// Work takes what has gathered. Records go to the log first. If the log's memory is full, the error
// is txlog.ErrBacklog: the work behind the records that found no room is held back, and the driver
// calls again when the log has made something durable. Any other error is a failure of the log, and
// the epoch is over.
func (c *Core) Work() (Work, error) {
	err := c.carry()
	if err == nil && !c.failed {
		for i := range c.lanes {
			c.lanes[i].dispatch()
			c.keepers[i].start()
		}
		// A listing or a registration may have been refused at once.
		err = c.carry()
	}
	w := c.out
	c.out = Work{}
	return w, err
}

// carry takes from the machine until it wants nothing more.
func (c *Core) carry() error {
	for !c.failed {
		if err := c.appender.flush(c.log, c.now); err != nil {
			return err
		}
		r := c.appender.ready
		c.appender.ready = protocol.Ready{}
		for _, m := range r.Messages {
			c.send(m)
		}
		for _, rep := range r.Replies {
			c.reply(rep)
		}
		for _, n := range r.Notes {
			note := Note{Note: n}
			if n.RM != 0 {
				note.Resource = c.m.Name(n.RM)
			}
			c.out.Notes = append(c.out.Notes, note)
		}
		for _, rm := range r.Removals {
			c.remove(rm)
		}
		if r.Confirm != 0 {
			// The lock on the log's directory lasts for as long as this process does: that we run
			// is the proof.
			c.m.Step(protocol.Confirmed{Round: r.Confirm})
		}
		c.appender.ready = c.m.Ready()
		if c.appender.empty() {
			return nil
		}
	}
	return nil
}

func (c *Core) reply(rep protocol.Reply) {
	if k := c.registering[rep.Req]; k != nil {
		delete(c.registering, rep.Req)
		k.registered(rep.Err)
		return
	}
	c.out.Replies = append(c.out.Replies, rep)
}

// send hands a message to the lane of its resource. One that is not configured any more gets
// nothing, and its branches stay as they are.
func (c *Core) send(m protocol.Message) {
	l := c.byName[c.m.Name(m.RM)]
	switch {
	case l == nil:
		c.m.Step(answerUnknown(m, "the resource is not configured"))
	case !l.q.add(m):
		c.m.Step(answerUnknown(m, "too many messages wait for this resource"))
	}
}

// remove has markers removed, unless that is under way at their resource: a later listing shows
// those that are left.
func (c *Core) remove(r protocol.Removal) {
	if l := c.byName[c.m.Name(r.RM)]; l != nil && !l.keeper.removing {
		l.keeper.removing = true
		c.ask(l.name, RemoveMarkers).IDs = r.IDs
	}
}

// Unsynced is for how long the log has owed the sync of the oldest record that it has taken, or
// zero. Longer than some seconds, its disk has stalled: nothing can be decided, and nobody knows
// whether what was written is durable.
func (c *Core) Unsynced() protocol.Instant {
	if len(c.appender.sent) == 0 || mutant.On(mutant.StallUnnoticed) {
		return 0
	}
	return c.now - c.appender.sent[0].at
}

// Persisted says how far the log is durable.
func (c *Core) Persisted(p txlog.Persisted) {
	index, steps := c.appender.persisted(p.Index)
	if index == 0 {
		return
	}
	for _, s := range steps {
		point.Hit(s.step, s.id)
	}
	c.m.Step(protocol.Persisted{Index: index})
	c.maybeSnapshot(p.LSN)
}

func (c *Core) line(level slog.Level, message string, attrs ...any) {
	c.out.Lines = append(c.out.Lines, Line{level, message, attrs})
}

func (c *Core) fail(err error) {
	if !c.failed {
		c.failed, c.out.Failed = true, err
	}
}

// deposed says that an error means that somebody else owns the log, or that it was set back.
func deposed(err error) bool {
	return errors.Is(err, participant.ErrFenced) || errors.Is(err, participant.ErrRegression)
}

// fence says on whose behalf resources are called. The state is that of what is durable, so that no
// restart asks below its low end again.
func (c *Core) fence() txn.Fence {
	return txn.Fence{Log: c.log.ID(), Epoch: c.log.Epoch(), LSN: c.log.LSN(),
		Low: c.m.State().Low}
}

// fenceFor is the fence for branches of log: ours, or that of a log whose decisions we took over,
// at its last known epoch. Should that log be alive after all, it keeps its right, and we wait.
func (c *Core) fenceFor(log txn.LogID) txn.Fence {
	for _, a := range c.adopted {
		if a.Log == log {
			return txn.Fence{Log: a.Log, Epoch: a.Epoch, LSN: a.LSN}
		}
	}
	return c.fence()
}

// Fence says on whose behalf resources are called at this moment.
func (c *Core) Fence() txn.Fence { return c.fence() }

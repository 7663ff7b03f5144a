package core

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// ErrNoDescriber is the answer to Describe of a resource that has no such method.
var ErrNoDescriber = errors.New(
	"it cannot say who it is, and an unknown resource cannot be trusted with a branch",
)

// keeper looks after one resource: it learns who the resource is and registers it, and then lists
// its prepared branches every now and then, and at once when it answers again after a failure.
//
//	             describe ─▶ (first time: look for foreign branches) ─▶ register ─┐
//	idle ──due──▶                                                                 ▼
//	   ▲  └─────────────────── registered ────────────────────────────────────▶ list
//	   └──────────────────────────────────────────────────────────────────────────┘
type keeper struct {
	c    *Core
	res  Resource
	lane *lane

	status ResourceStatus
	// busy: a round is under way. next is when the next one begins; soon brings it forward.
	busy, soon bool
	next       protocol.Instant
	// anew: it is to be asked again who it is.
	anew bool
	// unfit is the check that failed in this round. What is prepared is swept all the same.
	unfit error
	// removing: markers are being removed.
	removing bool
	// looking: the listing under way is the look for foreign branches.
	looking bool
	// floor is how far the resource had been seen to come when the round began. It is read before
	// the resource is asked anything: votes that arrive meanwhile may show a later position.
	floor txn.Position
}

// ResourceStatus is what is known about a resource, for people and metrics.
type ResourceStatus struct {
	Name, Kind string
	// Registered says that transactions may name it.
	Registered bool
	// Up says that its last listing succeeded. Err is why it did not, or why it is not registered.
	Up  bool
	Err error
	// Description is its own, from registration.
	Description participant.Description
	// InDoubt counts prepared branches of this log, Oldest is the age of the oldest, by the
	// resource's clock.
	InDoubt int
	Oldest  time.Duration
	// Foreign counts prepared branches of other logs, Unknown those that are not gavel's.
	Foreign, Unknown int
	// Used and Limit are its prepared slots.
	Used, Limit int
	// Pending counts branches that wait for phase two.
	Pending int
}

func newKeeper(c *Core, r Resource, l *lane) *keeper {
	return &keeper{c: c, res: r, lane: l, soon: true,
		status: ResourceStatus{Name: r.Name, Kind: r.Kind}}
}

// Resources tells what is known about each configured resource, in their order.
func (c *Core) Resources() []ResourceStatus {
	all := make([]ResourceStatus, len(c.keepers))
	for i, k := range c.keepers {
		all[i] = k.status
		if rm := c.m.RM(k.res.Name); rm != 0 {
			all[i].Pending = c.m.Pending(rm)
		}
	}
	return all
}

// due is when the next round begins, or zero while one is under way.
func (k *keeper) due() protocol.Instant {
	switch {
	case k.busy:
		return 0
	case k.soon:
		return k.c.now
	}
	return k.next
}

// start begins a round if one is due.
func (k *keeper) start() {
	if k.busy || !k.soon && k.c.now < k.next {
		return
	}
	k.busy, k.soon, k.unfit = true, false, nil
	k.next = k.c.now + k.c.cfg.SweepEvery
	k.floor = k.c.m.Seen(k.c.m.RM(k.res.Name))
	if k.status.Registered && !k.anew {
		k.list()
		return
	}
	k.c.ask(k.res.Name, Describe)
}

// list asks for what is prepared.
func (k *keeper) list() {
	k.floor = k.c.m.Seen(k.c.m.RM(k.res.Name))
	k.c.ask(k.res.Name, List).floor = k.floor
}

func (k *keeper) answered(call *Call, a Answer) {
	switch {
	case call.What == RemoveMarkers:
		k.removing = false
	case call.What == Describe && a.Err != nil:
		k.end(fmt.Errorf("describe: %w", a.Err))
	case call.What == Describe:
		k.described(a.Description)
	case a.Err != nil:
		k.looking = false
		k.end(fmt.Errorf("list: %w", a.Err))
	case k.looking:
		k.looking = false
		k.looked(a.Listing)
	default:
		k.swept(call, a.Listing)
	}
}

// described has learnt who the resource is.
func (k *keeper) described(d participant.Description) {
	k.checks(d)
	k.status.Description = d
	for _, check := range d.Checks {
		if check.Level == participant.LevelFail {
			k.failed(fmt.Errorf("%s (fix: %s)", check.What, check.Fix))
			return
		}
	}
	if k.c.m.Registered(k.res.Name) || k.res.AcceptForeign {
		k.register()
		return
	}
	k.looking = true
	k.c.ask(k.res.Name, List)
}

// failed is what a failed check means: nobody is registered by it. But if the log knows the
// resource, its branches are finished all the same. They may be the very reason: orphans that hold
// every slot make each try to prepare fail, and would hold them for ever.
func (k *keeper) failed(err error) {
	if !k.c.m.Registered(k.res.Name) {
		k.end(err)
		return
	}
	k.unfit = err
	k.list()
}

// checks writes what was found about the set-up, once.
func (k *keeper) checks(d participant.Description) {
	if k.status.Description.Kind != "" {
		return
	}
	for _, check := range d.Findings() {
		if check.Level != participant.LevelOK {
			k.c.line(slog.LevelWarn, check.What, "resource", k.res.Name,
				"level", check.Level.String(), "fix", check.Fix)
		}
	}
}

// looked keeps a log from taking over a resource in which another log still has branches: if that
// other log was lost, and this one is its careless replacement, the branches need an operator
// first.
func (k *keeper) looked(l participant.Listing) {
	for _, b := range l.Branches {
		if b.Name.Log != k.c.log.ID() {
			k.end(fmt.Errorf("log %s has prepared branches in it (%s), and this is log %s; "+
				"nothing was changed; if both logs are in use on purpose, accept foreign branches",
				b.Name.Log, b.Name, k.c.log.ID()))
			return
		}
	}
	k.register()
}

// register makes the machine record who the resource is.
func (k *keeper) register() {
	d := k.status.Description
	k.c.lastReq++
	k.c.registering[k.c.lastReq] = k
	k.c.m.Step(protocol.Register{Req: k.c.lastReq, Name: k.res.Name, Kind: d.Kind,
		Identity: d.Identity, Position: d.Position, Floor: k.floor,
		Accept: k.res.AcceptIdentity, OnePhase: d.OnePhase, Delegate: d.Delegate,
		Evidence: d.Evidence})
}

func (k *keeper) registered(err error) {
	if err != nil {
		k.end(err)
		return
	}
	k.status.Registered, k.anew = true, false
	if k.status.Kind == "" {
		k.status.Kind = k.status.Description.Kind
	}
	k.list()
}

// swept lets the machine judge a listing.
func (k *keeper) swept(call *Call, l participant.Listing) {
	names := make([]protocol.SweptName, len(l.Branches))
	for i, b := range l.Branches {
		names[i] = protocol.SweptName{Name: b.Name, Ours: b.Ours}
	}
	k.c.m.Step(protocol.Swept{RM: k.c.m.RM(k.res.Name), Identity: l.Identity,
		Position: l.Position, Floor: call.floor, Names: names, Partial: l.Truncated,
		Markers: l.Markers})
	k.count(l)
	k.end(k.unfit)
}

func (k *keeper) count(l participant.Listing) {
	s := &k.status
	s.InDoubt, s.Foreign, s.Oldest = 0, 0, 0
	for _, b := range l.Branches {
		if b.Name.Log != k.c.log.ID() {
			s.Foreign++
			continue
		}
		s.InDoubt++
		s.Oldest = max(s.Oldest, b.Age)
	}
	s.Unknown, s.Used, s.Limit = l.Unknown, l.Used, l.Limit
}

// end ends a round, keeps its error, and writes a line when it changes.
func (k *keeper) end(err error) {
	before := k.status.Err
	k.busy, k.status.Up, k.status.Err = false, err == nil, err
	switch {
	case err == nil && before != nil:
		k.c.line(slog.LevelInfo, "resource is up", "resource", k.res.Name)
	case err != nil && (before == nil || before.Error() != err.Error()):
		k.c.line(slog.LevelWarn, "resource is not usable; trying again until it is",
			"resource", k.res.Name, "err", err)
	}
	if err != nil && deposed(err) {
		k.c.fail(fmt.Errorf("resource %s: %w", k.res.Name, err))
	}
}

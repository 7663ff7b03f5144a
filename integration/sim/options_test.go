package sim

import (
	"math/rand/v2"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// options are what a seed has drawn for its world. Rates are in 1,000.
type options struct {
	full bool
	flaw flaw
	// calm: nothing goes wrong, and nobody wants to roll back, so that everything must commit.
	calm bool
	// horizon is when all faults end.
	horizon instant

	databases          []databaseOptions
	clients, perClient int
	// think is the longest pause of a client between two steps.
	think instant

	// The network: rates of messages lost, doubled and slowed down; the longest ordinary delay,
	// and that of a slow message.
	lose, double, slow  int
	latency, slowness   instant
	callTimeout         instant
	patience            instant
	diskLatency         instant
	plan                [kinds]int
	refuse, read, abort int
	die, twins, keys    int
	self, cut, stuck    int
	// announce and classic are how many clients write an intent down while they prepare, and how
	// many ask for the plan without one. late: that the log is still ours is proven a little later.
	announce, classic int
	late              bool
	// regret is how many branches are counted after their PREPARE; half of those are regretted.
	regret int
	// leave is how many clients ask for leaving the decision to one of their databases.
	leave int
	// call is how many clients call other processes, and again how many such calls are made again
	// before they are given up.
	call, again int

	machine       protocol.Config
	workers       int
	sweepEvery    instant
	snapshotEvery int64
	maxPending    int
	idle          instant
}

// databaseOptions describe one resource.
type databaseOptions struct {
	// kv can commit in one phase, runs the sessions of its clients, and never fails over.
	kv bool
	// hosted: the sessions are those of its sidecar, which prepares them when it is asked.
	hosted bool
	decoys bool
	slots  int
	// marks: the decision can be left to it.
	marks bool
}

// swarm draws options. A fault that is drawn is left out of most worlds: those that have it have it
// more often, and together with other company each time.
type swarm struct{ *rand.Rand }

// some is true in rate of 1,000 cases.
func (s swarm) some(rate int) bool { return s.IntN(1000) < rate }

// between is from lo to hi, both included.
func (s swarm) between(lo, hi int) int { return lo + s.IntN(hi-lo+1) }

// maybe is zero mostly, else from 1 to most.
func (s swarm) maybe(rate, most int) int {
	if !s.some(rate) {
		return 0
	}
	return s.between(1, most)
}

// upTo is a time of at least 1 µs, with short ones as likely as long ones.
func (s swarm) upTo(longest instant) instant {
	return max(longest>>s.IntN(8), microsecond)
}

// draw makes the options of a seed.
func draw(seed uint64, full bool, f flaw) options {
	s := swarm{rand.New(rand.NewPCG(seed, 1))}
	o := options{full: full, flaw: f, calm: f == noFlaw && s.some(40)}
	o.clients, o.perClient = s.between(2, 4), s.between(1, 3)
	o.horizon = instant(s.between(4, 16)) * second / 4
	if full {
		o.clients += s.IntN(6)
		o.perClient += s.IntN(6)
		o.horizon += o.horizon
	}
	o.think = s.upTo(o.horizon / 8)
	o.latency = s.upTo(100 * millisecond)
	o.diskLatency = s.upTo(20 * millisecond)
	o.callTimeout = instant(s.between(2, 20)) * 100 * millisecond
	o.patience = instant(s.between(3, 30)) * 100 * millisecond
	o.slowness = 2 * second
	o.self, o.read, o.keys, o.twins = s.IntN(500), s.IntN(300), s.maybe(500, 600), s.IntN(300)
	o.announce, o.classic, o.late = s.maybe(700, 1000), s.maybe(300, 500), s.some(500)
	s.coordinator(&o)
	s.databases(&o)
	if o.calm {
		o.machine.VoteTimeout, o.machine.DefaultTimeout = 60e9, 60e9
		// Two of the longest ways are just in time: a client that has no answer from a branch may
		// call its delegate off.
		o.callTimeout += millisecond
	} else {
		s.faults(&o)
		if s.some(500) {
			o.machine.Leap = txn.Seq(s.between(1, 1<<20))
		}
		o.regret = s.maybe(300, 300)
	}
	s.delegates(&o)
	if o.call = s.maybe(400, 1000); !o.calm {
		o.again = s.maybe(500, 1000)
	}
	return o
}

// delegates draws how many decisions are left to databases, and which of them can keep a marker.
func (s swarm) delegates(o *options) {
	o.leave = s.maybe(400, 1000)
	for i := range o.databases {
		d := &o.databases[i]
		d.marks = s.some(700) && !d.kv
	}
}

// coordinator draws its limits: small ones, because what happens only at a limit would never be
// seen otherwise.
func (s swarm) coordinator(o *options) {
	o.machine = protocol.Config{
		DefaultTimeout: protocol.Instant(s.between(1, 5)) * 1e9, MaxTimeout: 60e9,
		VoteTimeout: protocol.Instant(s.between(3, 30)) * 1e8,
		VoteRetry:   protocol.Instant(s.between(1, 4)) * 5e7,
		MaxActive:   s.between(o.clients, 64), MaxPending: s.between(8, 64),
		Block: txn.Seq(s.between(1, 64)), Grace: protocol.Instant(s.between(1, 20)) * 1e8,
	}
	o.machine.Classic = s.some(50)
	o.sweepEvery = instant(s.between(2, 10)) * 100 * millisecond
	if !o.full {
		// Most listings show nothing, and there are many more worlds.
		o.sweepEvery += o.sweepEvery
	}
	o.workers = s.between(1, 4)
	o.snapshotEvery = int64(s.between(2, 32)) << 10
	o.maxPending = s.between(1, 8) << 13
	o.idle = instant(s.between(1, 10)) * 100 * millisecond
	if s.some(50) {
		// Longer than every session and every message lives.
		o.machine.Retention, o.horizon = 12e9, 25*second
	}
}

func (s swarm) databases(o *options) {
	n := s.between(2, 3)
	for range n {
		d := databaseOptions{kv: s.some(250), decoys: s.some(300), slots: 64}
		d.hosted = d.kv || s.some(300)
		if !o.calm && s.some(100) {
			d.slots = s.between(1, 3)
		}
		o.databases = append(o.databases, d)
	}
}

// faults draws what will go wrong, and how often.
func (s swarm) faults(o *options) {
	o.lose, o.double, o.slow = s.maybe(500, 150), s.maybe(400, 100), s.maybe(400, 100)
	o.refuse, o.abort = s.maybe(300, 200), s.maybe(400, 200)
	o.die, o.cut, o.stuck = s.maybe(300, 150), s.maybe(300, 100), s.maybe(300, 200)
	for _, p := range []struct {
		kind
		rate, most int
	}{
		{powerCut, 450, 4}, {killed, 350, 4}, {orderly, 250, 2}, {pause, 250, 3},
		{clockJump, 150, 2},
		{tornWrite, 350, 3}, {cutInRecovery, 250, 3}, {fullDisk, 200, 2}, {ioError, 200, 2},
		{slowDisk, 200, 2}, {rot, 200, 2}, {partition, 300, 4}, {databaseCrash, 350, 3},
		{asyncFailover, 250, 2}, {syncFailover, 200, 2}, {restore, 150, 2}, {oldPrimary, 400, 2},
		{stranger, 100, 2},
		{humanCommit, 200, 2}, {humanRollback, 200, 2}, {notResolver, 150, 2},
	} {
		o.plan[p.kind] = s.maybe(p.rate, p.most)
	}
	if o.machine.Retention != 0 {
		// A jump over the retention would outdate sessions that live, and a standby that far behind
		// would bring back branches that nobody remembers: they are left, for an operator.
		o.plan[clockJump], o.plan[asyncFailover], o.plan[restore] = 0, 0, 0
	}
}

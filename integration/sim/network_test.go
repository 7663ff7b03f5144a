package sim

// link is a way between two places, and way its direction.
type (
	link int
	way  int
)

const (
	there way = iota
	back
)

// front leads from the clients to the coordinator.
const front link = 0

// behind leads from the coordinator to a database, beside from the clients to it.
func behind(db int) link { return link(1 + 2*db) }
func beside(db int) link { return link(2 + 2*db) }

// between leads from the clients to the processes that they call.
const between link = 7

const maxLinks = 8

// network carries messages. It looks into none.
type network struct {
	cut [maxLinks][2]bool
	// arrived is when the message was sent that arrived last.
	arrived [maxLinks][2]instant
}

// fate is how long a message takes, and whether it arrives at all.
func (w *world) fate(l link, d way) (delay instant, ok bool) {
	o := &w.opt
	switch {
	case w.healed:
		return w.spread(millisecond), true
	case w.net.cut[l][d]:
		w.count[lost]++
		return 0, false
	case o.lose > 0 && w.some(o.lose):
		w.count[lost]++
		return 0, false
	case o.slow > 0 && w.some(o.slow):
		w.count[delayed]++
		return w.spread(o.slowness), true
	}
	return w.spread(o.latency), true
}

// spread is a time up to longest, short ones as likely as long ones.
func (w *world) spread(longest instant) instant { return swarm{w.rng}.upTo(longest) }

func (w *world) some(rate int) bool { return w.rng.IntN(1000) < rate }

// travel carries a message, perhaps twice, or loses it. It says when it arrives first.
func (w *world) travel(l link, d way, do func()) (at instant, ok bool) {
	delay, ok := w.fate(l, d)
	if !ok {
		w.say("a message on link %d is lost", "", uint64(l))
		return 0, false
	}
	w.deliver(l, d, w.now+delay, do)
	if !w.healed && w.opt.double > 0 && w.some(w.opt.double) {
		w.count[duplicated]++
		w.deliver(l, d, w.now+delay+w.spread(w.opt.slowness), do)
	}
	return w.now + delay, true
}

func (w *world) deliver(l link, d way, at instant, do func()) {
	sent := w.now
	w.under++
	w.at(at, func() {
		w.under--
		if last := &w.net.arrived[l][d]; sent < *last {
			w.count[reordered]++
		} else {
			*last = sent
		}
		do()
	})
}

// partitioned cuts a link, in one direction or both, for a while.
func (w *world) partition() {
	l := link(w.rng.IntN(1 + 2*len(w.dbs)))
	dirs := [][]way{{there}, {back}, {there, back}}[w.rng.IntN(3)]
	w.count[partition]++
	w.say("link %d is cut in %d directions", "", uint64(l), uint64(len(dirs)))
	for _, d := range dirs {
		w.net.cut[l][d] = true
	}
	w.after(w.spread(4*second), func() {
		for _, d := range dirs {
			w.net.cut[l][d] = false
		}
	})
}

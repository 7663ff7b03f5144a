package core

import (
	"container/heap"
	"container/list"
	"math/rand/v2"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// queue holds the messages of one resource. It is pure: the clock is passed in, the randomness
// injected, and one lane drives it under its own lock.
//
// What is queued at once is spread over the calls that may run, so that no branch waits for the end
// of another one; beyond that it shares calls, and batches form by themselves. A message that must
// be repeated waits out its own back-off; when a whole call failed, the resource is taken for down,
// and a single message probes it until it answers. What must be repeated until its end is proven is
// bounded by the machine's own limit; what else comes when the queue is full is turned away, and
// the machine, or a sweep, asks again.
type queue struct {
	rng     *rand.Rand
	limit   int
	ready   [protocol.Acts]list.List // of *item, by act, first in first out
	delayed delayed
	// known are the items that are ready, delayed, or in a call that runs.
	known map[itemKey]*item
	// down is the number of calls that failed since one succeeded; notBefore is when the next probe
	// may go.
	down      int
	notBefore protocol.Instant
	probing   bool
	// turn counts the batches.
	turn int
}

type itemKey struct {
	act  protocol.Act
	name txn.Name
}

type item struct {
	msg      protocol.Message
	attempts int
	at       protocol.Instant
	// place is where it stands in ready. It is nil for an item that is delayed or in a call.
	place *list.Element
}

// delayed orders items by the time at which they may go again.
type delayed []*item

func (d delayed) Len() int           { return len(d) }
func (d delayed) Less(i, j int) bool { return d[i].at < d[j].at }
func (d delayed) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *delayed) Push(x any)        { *d = append(*d, x.(*item)) }
func (d *delayed) Pop() any {
	old := *d
	x := old[len(old)-1]
	*d = old[:len(old)-1]
	return x
}

const (
	minBackoff = protocol.Instant(10e6)
	maxBackoff = protocol.Instant(5e9)
)

func newQueue(limit int, rng *rand.Rand) *queue {
	return &queue{rng: rng, limit: limit, known: map[itemKey]*item{}}
}

// add takes a message. It is false if the queue is full, and for messages that may be dropped only.
// A ROLLBACK takes the place of a PREPARE of the same branch that has not left yet: nobody wants
// that vote any more, and a resource that is asked for it late would prepare what is over.
func (q *queue) add(m protocol.Message) bool {
	if m.Act == protocol.ActRollback {
		q.withdraw(itemKey{protocol.ActPrepare, m.Name})
	}
	key := itemKey{m.Act, m.Name}
	if q.known[key] != nil {
		return true
	}
	if !m.Act.Lasting() && len(q.known) >= q.limit {
		return false
	}
	it := &item{msg: m}
	q.known[key] = it
	q.enqueue(it)
	return true
}

// enqueue makes an item ready.
func (q *queue) enqueue(it *item) { it.place = q.ready[it.msg.Act].PushBack(it) }

// dequeue takes an item out of ready.
func (q *queue) dequeue(it *item) {
	q.ready[it.msg.Act].Remove(it.place)
	it.place = nil
}

// withdraw forgets an item that is ready. One in a call stays: it may have taken effect.
func (q *queue) withdraw(key itemKey) {
	if it := q.known[key]; it != nil && it.place != nil {
		q.dequeue(it)
		q.done(it)
	}
}

// next takes a batch of one act that may go now: a fair share of what is ready, where so many calls
// are free. When there is none, at says when to look again; zero means after the next add or
// answer.
func (q *queue) next(now protocol.Instant, calls int) (batch []*item, at protocol.Instant) {
	if q.down > 0 && q.probing {
		return nil, 0
	}
	if q.down > 0 && now < q.notBefore {
		return nil, q.notBefore
	}
	for len(q.delayed) > 0 && q.delayed[0].at <= now {
		q.enqueue(heap.Pop(&q.delayed).(*item))
	}
	q.turn++
	first := 0
	if q.turn%patience == 0 {
		first = q.turn / patience
	}
	for i := range urgency {
		act := urgency[(first+i)%len(urgency)]
		size := min((q.ready[act].Len()+calls-1)/calls, participant.MaxBatch)
		if q.down > 0 {
			size = 1
		}
		if batch := q.take(act, size); len(batch) > 0 {
			q.probing = q.down > 0
			return batch, 0
		}
	}
	if len(q.delayed) > 0 {
		return nil, q.delayed[0].at
	}
	return nil, 0
}

// take takes up to size ready items of an act, oldest first.
func (q *queue) take(act protocol.Act, size int) []*item {
	ready := &q.ready[act]
	batch := make([]*item, 0, min(size, ready.Len()))
	for len(batch) < cap(batch) {
		it := ready.Front().Value.(*item)
		q.dequeue(it)
		batch = append(batch, it)
	}
	return batch
}

// urgency is the order of acts. Decisions come first: they hold locks at every other resource of
// their transaction too.
var urgency = [protocol.Acts]protocol.Act{
	protocol.ActCommit, protocol.ActOnePhase, protocol.ActDecide, protocol.ActInquire,
	protocol.ActPrepare, protocol.ActRollback,
}

// patience is how many batches there are for one that begins elsewhere in that order, each time one
// further, so that a flood of decisions starves nobody.
const patience = 4

// failed puts back a batch whose call failed as a whole. Only what is Lasting is worth repeating
// for ever; the rest is given up, and may be added anew.
func (q *queue) failed(batch []*item, now protocol.Instant) {
	q.probing = false
	if now >= q.notBefore {
		// What fails together with it says nothing new.
		q.down++
		q.notBefore = now + q.backoff(q.down)
	}
	for _, it := range batch {
		if !it.msg.Act.Lasting() {
			q.done(it)
			continue
		}
		it.attempts++
		it.at = q.notBefore
		if it.attempts > q.down {
			// It has failed while the resource answered others: it waits for itself.
			it.at = max(it.at, now+q.backoff(it.attempts))
		}
		heap.Push(&q.delayed, it)
	}
}

// succeeded notes that the resource answered.
func (q *queue) succeeded() (wasDown bool) {
	wasDown = q.down > 0
	q.down, q.probing, q.notBefore = 0, false, 0
	return wasDown
}

// again keeps one item of an answered call that has to be repeated.
func (q *queue) again(it *item, now protocol.Instant) {
	it.attempts++
	it.at = now + q.backoff(it.attempts)
	heap.Push(&q.delayed, it)
}

// done forgets an item.
func (q *queue) done(it *item) { delete(q.known, itemKey{it.msg.Act, it.msg.Name}) }

// backoff doubles from 10 ms to 5 s, with full jitter above half, so that many lanes do not knock
// together.
func (q *queue) backoff(attempts int) protocol.Instant {
	d := maxBackoff
	if attempts < 10 {
		d = min(minBackoff<<attempts, maxBackoff)
	}
	return d/2 + protocol.Instant(q.rng.Int64N(int64(d/2)))
}

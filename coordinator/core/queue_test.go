package core

import (
	"math/rand/v2"
	"testing"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

func message(act protocol.Act, seq txn.Seq) protocol.Message {
	id := txn.NewID(1, seq)
	return protocol.Message{Act: act, RM: 1, ID: id, Name: txn.NameOf(id, 1)}
}

func testQueue(limit int) *queue { return newQueue(limit, rand.New(rand.NewPCG(1, 2))) }

// TestQueueBatches: what is queued at once shares a call, decisions first, each act by itself.
func TestQueueBatches(t *testing.T) {
	q, now := testQueue(10_000), protocol.Instant(1000e9)
	for seq := txn.Seq(1); seq <= 3; seq++ {
		q.add(message(protocol.ActRollback, seq))
		q.add(message(protocol.ActCommit, seq+10))
		q.add(message(protocol.ActCommit, seq+10))
	}
	batch, _ := q.next(now, 1)
	if len(batch) != 3 || batch[0].msg.Act != protocol.ActCommit || batch[0].msg.ID.Seq() != 11 {
		t.Fatalf("first %d of %s", len(batch), batch[0].msg.Act)
	}
	batch, _ = q.next(now, 1)
	if len(batch) != 3 || batch[0].msg.Act != protocol.ActRollback {
		t.Fatalf("then %d of %s", len(batch), batch[0].msg.Act)
	}
	if batch, wait := q.next(now, 1); batch != nil || wait != 0 {
		t.Fatalf("then %d, wait %v", len(batch), wait)
	}
	for seq := range txn.Seq(participant.MaxBatch + 10) {
		q.add(message(protocol.ActCommit, seq+100))
	}
	if batch, _ := q.next(now, 1); len(batch) != participant.MaxBatch {
		t.Fatalf("a batch of %d", len(batch))
	}
}

// TestQueueSpreads: what is ready is spread over the calls that are free, and none of it is left.
func TestQueueSpreads(t *testing.T) {
	for _, ready := range []int{1, 3, 4, 10, 160} {
		q, now := testQueue(10_000), protocol.Instant(1000e9)
		for seq := range ready {
			q.add(message(protocol.ActCommit, txn.Seq(seq+1)))
		}
		most, left := 0, ready
		for free := 4; free > 0; free-- {
			batch, _ := q.next(now, free)
			most, left = max(most, len(batch)), left-len(batch)
		}
		if most != (ready+3)/4 || left != 0 {
			t.Errorf("%d: the largest batch has %d, and %d are left", ready, most, left)
		}
	}
}

// TestQueueStarvesNobody: a flood of decisions and rollbacks lets other acts through now and then.
func TestQueueStarvesNobody(t *testing.T) {
	q, now := testQueue(10_000), protocol.Instant(1000e9)
	for i, act := range urgency {
		q.add(message(act, txn.Seq(i+1)))
	}
	seen := map[protocol.Act]bool{}
	for seq := range txn.Seq(patience * len(urgency)) {
		q.add(message(protocol.ActCommit, 10+seq))
		q.add(message(protocol.ActRollback, 10+seq))
		batch, _ := q.next(now, 1)
		seen[batch[0].msg.Act] = true
	}
	if len(seen) != len(urgency) {
		t.Errorf("acts %v", seen)
	}
}

// TestOneOutageIsOneFailure: calls that fail together count as one.
func TestOneOutageIsOneFailure(t *testing.T) {
	q, now := testQueue(10_000), protocol.Instant(1000e9)
	var calls [][]*item
	for seq := range txn.Seq(8) {
		q.add(message(protocol.ActCommit, seq+1))
		batch, _ := q.next(now, 1)
		calls = append(calls, batch)
	}
	for _, batch := range calls {
		q.failed(batch, now)
	}
	if wait := q.notBefore - now; q.down != 1 || wait > 2*minBackoff {
		t.Errorf("%d failures, the next call after %v", q.down, wait)
	}
	q.succeeded()
	if q.down != 0 || q.notBefore != 0 {
		t.Errorf("it answers, and is down %d until %v", q.down, q.notBefore)
	}
}

// TestWhatAlwaysFails waits longer and longer, though the resource answers for others.
func TestWhatAlwaysFails(t *testing.T) {
	q, now := testQueue(100), protocol.Instant(1000e9)
	q.add(message(protocol.ActDecide, 1))
	var waited protocol.Instant
	for range 12 {
		batch, _ := q.next(now, 1)
		if len(batch) != 1 {
			t.Fatal("it is not asked for again")
		}
		q.failed(batch, now)
		q.succeeded() // by the answer to somebody else
		waited, now = q.delayed[0].at-now, q.delayed[0].at
	}
	if waited < maxBackoff/2 {
		t.Errorf("after twelve failures it waits %v", waited)
	}
}

// TestQueueLimit: decisions are always taken; what may be lost is turned away when the queue is
// full.
func TestQueueLimit(t *testing.T) {
	q := testQueue(2)
	for seq := txn.Seq(1); seq <= 3; seq++ {
		if !q.add(message(protocol.ActCommit, seq)) {
			t.Errorf("decision %d is turned away", seq)
		}
	}
	for _, act := range []protocol.Act{protocol.ActPrepare, protocol.ActRollback} {
		if q.add(message(act, 9)) {
			t.Errorf("a %s finds room in a full queue", act)
		}
	}
	if !q.add(message(protocol.ActCommit, 1)) {
		t.Error("what is queued already is turned away")
	}
}

// TestQueueDown: after a failed call one message probes, at growing intervals; decisions are kept
// and the rest is given up.
func TestQueueDown(t *testing.T) {
	q, now := testQueue(100), protocol.Instant(1000e9)
	for seq := txn.Seq(1); seq <= 5; seq++ {
		q.add(message(protocol.ActCommit, seq))
	}
	q.add(message(protocol.ActRollback, 1))
	commits, _ := q.next(now, 1)
	rollbacks, _ := q.next(now, 1)
	q.failed(commits, now)
	q.failed(rollbacks, now)
	if len(q.known) != 5 {
		t.Errorf("%d messages are kept of 5 decisions and a rollback", len(q.known))
	}
	var last protocol.Instant
	for range 12 {
		batch, at := q.next(now, 1)
		wait := at - now
		if batch != nil || wait <= 0 || wait > maxBackoff {
			t.Fatalf("%d messages, wait %v", len(batch), wait)
		}
		last = wait
		now = at
		if batch, _ = q.next(now, 1); len(batch) != 1 {
			t.Fatalf("a probe of %d", len(batch))
		}
		if more, wait := q.next(now, 1); more != nil || wait != 0 {
			t.Fatalf("a second probe beside the first: %d, %v", len(more), wait)
		}
		q.failed(batch, now)
	}
	if last < maxBackoff/2 {
		t.Errorf("after twelve failures it knocks every %v", last)
	}
	now += maxBackoff
	probe, _ := q.next(now, 1)
	if !q.succeeded() || q.succeeded() {
		t.Error("it does not know that it was down")
	}
	q.done(probe[0])
	if batch, _ := q.next(now, 1); len(batch) != 4 {
		t.Errorf("%d of 4 decisions are left", len(batch))
	}
}

// TestQueueAgain: one branch that must be asked for again holds up no other.
func TestQueueAgain(t *testing.T) {
	q, now := testQueue(100), protocol.Instant(1000e9)
	q.add(message(protocol.ActCommit, 1))
	q.add(message(protocol.ActCommit, 2))
	batch, _ := q.next(now, 1)
	q.succeeded()
	q.again(batch[0], now)
	q.done(batch[1])
	if batch, wait := q.next(now, 1); batch != nil || wait <= 0 {
		t.Fatalf("%d at once, wait %v", len(batch), wait)
	}
	q.add(message(protocol.ActCommit, 3))
	if batch, _ := q.next(now, 1); len(batch) != 1 || batch[0].msg.ID.Seq() != 3 {
		t.Fatal("the newcomer waits for the other's back-off")
	}
	if batch, _ := q.next(now+maxBackoff, 1); len(batch) != 1 || batch[0].msg.ID.Seq() != 1 {
		t.Fatal("it is not asked for again")
	}
}

// TestQueueWithdraws: a PREPARE that has not left gives way to the ROLLBACK of its branch, and to
// no other; one that has left is on its own.
func TestQueueWithdraws(t *testing.T) {
	q, now := testQueue(100), protocol.Instant(1000e9)
	for seq := txn.Seq(1); seq <= 3; seq++ {
		q.add(message(protocol.ActPrepare, seq))
	}
	q.add(message(protocol.ActRollback, 2))
	batch, _ := q.next(now, 1)
	if len(batch) != 2 || batch[0].msg.ID.Seq() != 1 || batch[1].msg.ID.Seq() != 3 {
		t.Fatalf("a batch of %d, and the first is %s", len(batch), batch[0].msg.ID)
	}
	q.add(message(protocol.ActRollback, 3))
	if !q.add(message(protocol.ActPrepare, 3)) || q.ready[protocol.ActPrepare].Len() != 0 {
		t.Error("a PREPARE in a call is queued beside itself")
	}
	rollbacks, _ := q.next(now, 1)
	if len(rollbacks) != 2 || rollbacks[0].msg.Act != protocol.ActRollback {
		t.Fatalf("then %d of %s", len(rollbacks), rollbacks[0].msg.Act)
	}
	for _, it := range append(batch, rollbacks...) {
		q.done(it)
	}
	if len(q.known) != 0 {
		t.Errorf("%d messages are left", len(q.known))
	}
}

// TestQueueWithdrawsWhenFull: the PREPARE goes even if there is no room for the ROLLBACK, and what
// was withdrawn takes no memory, however long the resource is down.
func TestQueueWithdrawsWhenFull(t *testing.T) {
	q, now := testQueue(2), protocol.Instant(1000e9)
	q.add(message(protocol.ActCommit, 1))
	probe, _ := q.next(now, 1)
	q.failed(probe, now)
	for seq := txn.Seq(2); seq < 1000; seq++ {
		if !q.add(message(protocol.ActPrepare, seq)) || !q.add(message(protocol.ActRollback, seq)) {
			t.Fatalf("no room for transaction %d", seq)
		}
		q.withdraw(itemKey{protocol.ActRollback, message(protocol.ActRollback, seq).Name})
	}
	if n := q.ready[protocol.ActPrepare].Len() + q.ready[protocol.ActRollback].Len(); n != 0 {
		t.Errorf("%d messages stay in the queue", n)
	}
	q.add(message(protocol.ActPrepare, 1000))
	q.add(message(protocol.ActCommit, 1001))
	if q.add(message(protocol.ActRollback, 1000)) {
		t.Error("a ROLLBACK finds room in a full queue")
	}
	if q.ready[protocol.ActPrepare].Len() != 0 {
		t.Error("the PREPARE of a transaction that is over is still queued")
	}
}

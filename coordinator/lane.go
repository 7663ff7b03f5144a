package coordinator

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/point"
)

// lane carries messages to one resource, and its answers back to the loop. Each resource has its
// own workers and its own bounded queue, so a dead one holds up nobody else.
type lane struct {
	c    *Coordinator
	name string
	r    participant.Resource

	mu struct {
		sync.Mutex
		*queue
		// since is when the first of the calls failed for which the queue is down.
		since time.Time
		// refused are the adopted logs on whose behalf the resource does not let us act.
		refused map[txn.LogID]bool
	}
	// wake has room for one token: there may be something to do.
	wake chan struct{}
}

func newLane(c *Coordinator, r Resource) *lane {
	l := &lane{c: c, name: r.Name, r: r.Manager, wake: make(chan struct{}, 1)}
	l.mu.queue = newQueue(c.laneLimit(), rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())))
	l.mu.refused = map[txn.LogID]bool{}
	return l
}

// laneLimit is twice what the machine allows to be pending, so that rollbacks and votes find room
// beside a full load of decisions.
func (c *Coordinator) laneLimit() int {
	return 2*c.machineConfig.MaxPending + participant.MaxBatch
}

// send queues a message. It never blocks. A message that finds no room is answered at once as
// unknown.
func (l *lane) send(m protocol.Message) {
	l.mu.Lock()
	ok := l.mu.add(m)
	l.mu.Unlock()
	if !ok {
		l.c.post(answerUnknown(m, "too many messages wait for this resource"))
		return
	}
	l.signal()
}

func (l *lane) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// work is one worker: it takes a batch, calls, and hands the answers to the loop, until ctx ends.
func (l *lane) work(ctx context.Context) {
	for ctx.Err() == nil {
		l.mu.Lock()
		batch, wait := l.mu.next(time.Now())
		l.mu.Unlock()
		if batch == nil {
			l.sleep(ctx, wait)
			continue
		}
		// There may be more than this batch: let another worker look.
		l.signal()
		for _, group := range byLog(batch) {
			l.call(ctx, group)
		}
	}
}

// byLog splits a batch by the log of its names: branches of an adopted log are finished on its
// behalf. All but a log that has adopted another get their batch back.
func byLog(batch []*item) [][]*item {
	var groups [][]*item
	for _, it := range batch {
		i := slices.IndexFunc(groups, func(g []*item) bool {
			return g[0].msg.Name.Log == it.msg.Name.Log
		})
		if i < 0 {
			i = len(groups)
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], it)
	}
	return groups
}

func (l *lane) sleep(ctx context.Context, wait time.Duration) {
	var due <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		due = t.C
	}
	select {
	case <-ctx.Done():
	case <-l.wake:
	case <-due:
	}
}

func (l *lane) call(ctx context.Context, batch []*item) {
	callCtx, cancel := context.WithTimeout(ctx, l.c.cfg.CallTimeout)
	defer cancel()
	branches := make([]participant.Branch, len(batch))
	for i, it := range batch {
		branches[i] = participant.Branch{Name: it.msg.Name, Evidence: it.msg.Evidence}
	}
	fence := l.c.fenceFor(batch[0].msg.Name.Log)
	var err error
	switch batch[0].msg.Act {
	case protocol.ActPrepare:
		var votes []participant.Vote
		votes, err = l.r.Prepare(callCtx, fence, branches)
		if err = complete(err, len(votes), len(batch)); err == nil {
			l.voted(batch, votes)
		}
	case protocol.ActCommit:
		var found []participant.Finding
		point.Hit(point.BeforeSend, batch[0].msg.ID)
		found, err = l.r.Commit(callCtx, fence, branches)
		if err = complete(err, len(found), len(batch)); err == nil {
			point.Hit(point.AfterSend, batch[0].msg.ID)
			l.finished(batch, found)
		}
	case protocol.ActRollback:
		var found []participant.Finding
		found, err = l.r.Rollback(callCtx, fence, branches)
		if err = complete(err, len(found), len(batch)); err == nil {
			l.finished(batch, found)
		}
	}
	if err != nil {
		l.failed(ctx, batch, err)
	}
}

// complete is the error of a call that answers for less, or more, than it was asked about: then
// nobody knows which answer is whose.
func complete(err error, answers, asked int) error {
	if err == nil && answers != asked {
		return fmt.Errorf("the resource gave %d answers to %d questions", answers, asked)
	}
	return err
}

func (l *lane) voted(batch []*item, votes []participant.Vote) {
	l.answered(batch, func(int) bool { return false })
	events := make([]protocol.Event, len(batch))
	for i, it := range batch {
		v := votes[i]
		events[i] = protocol.Voted{ID: it.msg.ID, Vote: txn.BranchVote{Branch: it.msg.Name.Branch,
			Vote: v.Vote, Evidence: v.Evidence, Reason: v.Reason, SQLState: v.SQLState}}
	}
	l.c.post(events...)
}

func (l *lane) finished(batch []*item, found []participant.Finding) {
	// A decision is repeated until its end is proven. A rollback is tried once: the sweep finds the
	// rest.
	l.answered(batch, func(i int) bool {
		switch found[i].Standing {
		case txn.StandingCommitted, txn.StandingRolledBack, txn.StandingGone:
			return false
		}
		return batch[i].msg.Act.Lasting()
	})
	events := make([]protocol.Event, len(batch))
	for i, it := range batch {
		events[i] = protocol.Finished{ID: it.msg.ID, Branch: it.msg.Name.Branch, Act: it.msg.Act,
			Standing: found[i].Standing, Reason: found[i].Reason}
	}
	l.c.post(events...)
}

// answered settles the batch of a call that came back, and notes that the resource lets us act for
// the log of its names.
func (l *lane) answered(batch []*item, again func(int) bool) {
	l.mu.Lock()
	delete(l.mu.refused, batch[0].msg.Name.Log)
	l.mu.Unlock()
	l.settle(batch, again)
}

// settle forgets the items of a call that came back, or keeps them on their own back-off, before
// its answers reach the loop: the loop may send the same message again at once.
func (l *lane) settle(batch []*item, again func(int) bool) {
	l.mu.Lock()
	wasDown := l.mu.succeeded()
	now := time.Now()
	for i, it := range batch {
		if again(i) {
			l.mu.again(it, now)
		} else {
			l.mu.done(it)
		}
	}
	l.mu.Unlock()
	if wasDown {
		l.c.cfg.Logger.Info("resource answers again", "resource", l.name)
		l.c.keepers[l.name].signal()
	}
	l.signal()
}

// failed takes a call without answers. Three things may be behind it: this coordinator was deposed,
// and stops; an adopted log turned out to have another owner, which is none of our own branches'
// business; or the resource did not answer.
func (l *lane) failed(ctx context.Context, batch []*item, err error) {
	if ctx.Err() != nil {
		return
	}
	ours := batch[0].msg.Name.Log == l.c.log.ID()
	deposed := errors.Is(err, participant.ErrFenced) || errors.Is(err, participant.ErrRegression)
	switch {
	case ours && deposed:
		l.c.fail(fmt.Errorf("resource %s: %w", l.name, err))
	case !ours && (deposed || errors.Is(err, participant.ErrNotResolver)):
		l.refused(batch, err)
	default:
		l.unanswered(batch, err)
	}
}

// refused settles a group of an adopted log which the resource knows to belong to somebody else.
// The resource did answer, so nobody else waits for it; the group waits out its own back-off,
// because the other owner may go away.
func (l *lane) refused(batch []*item, err error) {
	log := batch[0].msg.Name.Log
	l.mu.Lock()
	first := !l.mu.refused[log]
	l.mu.refused[log] = true
	l.mu.Unlock()
	if first {
		l.c.cfg.Logger.Warn("resource does not let us finish the branches of an adopted log; "+
			"trying again until it does", "resource", l.name, "log", log.String(), "err", err)
	}
	l.settle(batch, func(i int) bool { return batch[i].msg.Act.Lasting() })
	l.c.post(unknown(batch, err)...)
}

// unanswered takes a call that tells nothing about any of its branches.
func (l *lane) unanswered(batch []*item, err error) {
	l.mu.Lock()
	first, now := l.mu.down == 0, time.Now()
	if first {
		l.mu.since = now
	}
	l.mu.queue.failed(batch, now)
	l.mu.Unlock()
	if first {
		l.c.cfg.Logger.Warn("resource does not answer; trying again until it does",
			"resource", l.name, "err", err)
	}
	l.c.post(unknown(batch, err)...)
	l.signal()
}

// stuck says whether branches of log have no way through for now: the resource has not answered for
// some time, or refuses us on behalf of that log.
func (l *lane) stuck(log txn.LogID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.refused[log] || l.mu.down > 0 && time.Since(l.mu.since) >= stuckAfter
}

// stuckAfter is how long a resource has been silent before nobody waits for it at a shutdown: a
// connection that broke is back sooner.
const stuckAfter = time.Second

// unknown are the events for a batch whose results are not known.
func unknown(batch []*item, err error) []protocol.Event {
	events := make([]protocol.Event, len(batch))
	for i, it := range batch {
		events[i] = answerUnknown(it.msg, err.Error())
	}
	return events
}

// answerUnknown is the event for a message whose result is not known.
func answerUnknown(m protocol.Message, why string) protocol.Event {
	if m.Act == protocol.ActPrepare {
		return protocol.Voted{ID: m.ID, Vote: txn.BranchVote{Branch: m.Name.Branch, Reason: why}}
	}
	return protocol.Finished{ID: m.ID, Branch: m.Name.Branch, Act: m.Act, Reason: why}
}

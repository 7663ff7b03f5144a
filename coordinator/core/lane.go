package core

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
	"github.com/gavel-tx/gavel/txn/point"
)

// Call is one question to a resource.
type Call struct {
	// ID is unique within an epoch.
	ID       uint64
	Resource string
	What     What
	// Fence is on whose behalf the question is asked. Describe has none.
	Fence txn.Fence
	// Branches of the acts; the other questions have none.
	Branches []participant.Branch
	// IDs are those whose markers RemoveMarkers removes.
	IDs []txn.ID

	batch []*item
	floor txn.Position
}

// What says which method of a resource a Call means.
type What uint8

// The questions. The first ones are the acts of the machine's messages, in their order.
const (
	Prepare = What(iota)
	Commit
	Rollback
	OnePhase
	Inquire
	Decide
	List
	Describe
	RemoveMarkers
)

// String is the name of the act, or of the question, in messages.
func (w What) String() string {
	if w < protocol.Acts {
		return protocol.Act(w).String()
	}
	return [...]string{"LIST", "DESCRIBE", "REMOVE_MARKERS"}[w-protocol.Acts]
}

// Answer is what came back. Exactly one of the fields belongs to the question, unless Err says that
// nothing is known.
type Answer struct {
	Votes       []participant.Vote
	Findings    []participant.Finding
	Listing     participant.Listing
	Description participant.Description
	Err         error
}

// lane carries messages to one resource, and its answers back to the machine. Each resource has its
// own bounded queue and its own calls, so a dead one holds up nobody else.
type lane struct {
	c      *Core
	name   string
	q      *queue
	keeper *keeper
	// calls counts those that run.
	calls int
	// due is when to look at the queue again, or zero.
	due protocol.Instant
	// since is when the first of the calls failed for which the queue is down.
	since protocol.Instant
	// refused are the adopted logs on whose behalf the resource does not let us act.
	refused map[txn.LogID]bool
}

// newLane makes a lane with room for twice what the machine allows to be pending, so that rollbacks
// and votes find room beside a full load of decisions.
func newLane(c *Core, r Resource) *lane {
	limit := 2*c.cfg.Machine.MaxPending + participant.MaxBatch
	return &lane{c: c, name: r.Name, q: newQueue(limit, c.cfg.Rand), refused: map[txn.LogID]bool{}}
}

// dispatch makes calls of what is queued, as many as may run.
func (l *lane) dispatch() {
	l.due = 0
	if mutant.On(mutant.DownForAll) && slices.ContainsFunc(l.c.lanes, (*lane).down) {
		return
	}
	for l.calls < l.c.cfg.Workers {
		batch, at := l.q.next(l.c.now, l.c.cfg.Workers-l.calls)
		if batch == nil {
			l.due = at
			return
		}
		for _, group := range byLog(batch) {
			l.call(group)
		}
	}
}

// down says whether the resource is taken for down.
func (l *lane) down() bool { return l.q.down > 0 }

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

func (l *lane) call(batch []*item) {
	branches := make([]participant.Branch, len(batch))
	for i, it := range batch {
		branches[i] = participant.Branch{Name: it.msg.Name, Evidence: it.msg.Evidence}
	}
	l.calls++
	call := l.c.ask(l.name, What(batch[0].msg.Act))
	call.Fence = l.c.fenceFor(batch[0].msg.Name.Log)
	call.Branches, call.batch = branches, batch
}

// ask puts a question into the work.
func (c *Core) ask(resource string, what What) *Call {
	c.lastCall++
	call := &Call{ID: c.lastCall, Resource: resource, What: what, Fence: c.fence()}
	c.out.Calls = append(c.out.Calls, call)
	return call
}

// Answered takes what came back from a call.
func (c *Core) Answered(call *Call, a Answer) {
	if c.failed {
		return
	}
	l := c.byName[call.Resource]
	if call.What >= List {
		l.keeper.answered(call, a)
		return
	}
	l.calls--
	asked := len(call.batch)
	err := a.Err
	switch {
	case err != nil:
	case call.What == Prepare:
		if err = complete(len(a.Votes), asked); err == nil {
			l.voted(call.batch, a.Votes)
		}
	default:
		if err = complete(len(a.Findings), asked); err == nil {
			l.finished(call.batch, a.Findings)
		}
	}
	if err != nil {
		l.failed(call.batch, err)
	}
}

// complete is the error of a call that answers for less, or more, than it was asked about: then
// nobody knows which answer is whose.
func complete(answers, asked int) error {
	if answers != asked {
		return fmt.Errorf("the resource gave %d answers to %d questions", answers, asked)
	}
	return nil
}

func (l *lane) voted(batch []*item, votes []participant.Vote) {
	l.answered(batch, func(int) bool { return false })
	for i, it := range batch {
		v := votes[i]
		l.c.m.Step(protocol.Voted{ID: it.msg.ID, Vote: txn.BranchVote{Branch: it.msg.Name.Branch,
			Vote: v.Vote, Evidence: v.Evidence, Reason: v.Reason, SQLState: v.SQLState}})
	}
}

// finished takes findings. What is lasting is repeated until its end is proven. A rollback is tried
// once: the sweep finds the rest.
func (l *lane) finished(batch []*item, found []participant.Finding) {
	l.answered(batch, func(i int) bool {
		act := batch[i].msg.Act
		return act.Lasting() && !proves(act, found[i].Standing) && !mutant.On(mutant.GivesUp)
	})
	for i, it := range batch {
		l.c.m.Step(protocol.Finished{ID: it.msg.ID, Branch: it.msg.Name.Branch, Act: it.msg.Act,
			Standing: found[i].Standing, Reason: found[i].Reason, SQLState: found[i].SQLState,
			Evidence: found[i].Evidence, Votes: found[i].Votes})
		point.Hit(point.AfterAck, it.msg.ID)
	}
}

// proves says whether a standing ends the question.
func proves(act protocol.Act, s txn.Standing) bool {
	switch s {
	case txn.StandingCommitted, txn.StandingRolledBack:
		return true
	case txn.StandingGone:
		return act != protocol.ActDecide
	case txn.StandingPrepared:
		return act == protocol.ActInquire
	}
	return false
}

// answered settles the batch of a call that came back, and notes that the resource lets us act for
// the log of its names.
func (l *lane) answered(batch []*item, again func(int) bool) {
	delete(l.refused, batch[0].msg.Name.Log)
	l.settle(batch, again)
}

// settle forgets the items of a call that came back, or keeps them on their own back-off, before
// its answers reach the machine: the machine may send the same message again at once.
func (l *lane) settle(batch []*item, again func(int) bool) {
	if l.q.succeeded() {
		l.c.line(slog.LevelInfo, "resource answers again", "resource", l.name)
		l.c.m.Step(protocol.Reached{Name: l.name, Up: true})
		// It may be another one, or able to do less.
		l.keeper.soon, l.keeper.anew = true, true
	}
	for i, it := range batch {
		if again(i) {
			l.q.again(it, l.c.now)
		} else {
			l.q.done(it)
		}
	}
}

// failed takes a call without answers. Three things may be behind it: this epoch is over; an
// adopted log turned out to have another owner, which is none of our own branches' business; or the
// resource did not answer.
func (l *lane) failed(batch []*item, err error) {
	log := batch[0].msg.Name.Log
	switch ours := log == l.c.log.ID(); {
	case ours && deposed(err):
		l.c.fail(fmt.Errorf("resource %s: %w", l.name, err))
		return
	case !ours && (deposed(err) || errors.Is(err, participant.ErrNotResolver)):
		l.refuse(batch, log, err)
	default:
		if !l.down() {
			l.since = l.c.now
			l.c.m.Step(protocol.Reached{Name: l.name})
			l.c.line(slog.LevelWarn, "resource does not answer; trying again until it does",
				"resource", l.name, "err", err)
		}
		l.q.failed(batch, l.c.now)
	}
	for _, it := range batch {
		l.c.m.Step(answerUnknown(it.msg, err.Error()))
	}
}

// refuse settles a group of an adopted log which the resource knows to belong to somebody else. The
// resource did answer, so nobody else waits for it; the group waits out its own back-off, because
// the other owner may go away.
func (l *lane) refuse(batch []*item, log txn.LogID, err error) {
	if !l.refused[log] {
		l.refused[log] = true
		l.c.line(slog.LevelWarn, "resource does not let us finish the branches of an adopted log; "+
			"trying again until it does", "resource", l.name, "log", log.String(), "err", err)
	}
	l.settle(batch, func(i int) bool { return batch[i].msg.Act.Lasting() })
}

// stuckAfter is how long a resource has been silent before nobody waits for it at a shutdown: a
// connection that broke is back sooner.
const stuckAfter = protocol.Instant(1e9)

// Stuck says whether branches of log have no way through to a resource for now: it is not
// configured, it has not answered for some time, or it refuses us on behalf of that log.
func (c *Core) Stuck(resource string, log txn.LogID) bool {
	l := c.byName[resource]
	return l == nil || l.refused[log] || l.down() && c.now-l.since >= stuckAfter
}

// answerUnknown is the event for a message whose result is not known.
func answerUnknown(m protocol.Message, why string) protocol.Event {
	if m.Act == protocol.ActPrepare {
		return protocol.Voted{ID: m.ID, Vote: txn.BranchVote{Branch: m.Name.Branch, Reason: why}}
	}
	return protocol.Finished{ID: m.ID, Branch: m.Name.Branch, Act: m.Act, Reason: why}
}

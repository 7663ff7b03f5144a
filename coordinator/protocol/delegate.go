package protocol

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// The delegate plan leaves the decision to one of the databases. The client prepares every branch
// but one, the delegate's, and commits that with a marker, which holds the votes of the others:
//
//	Begin ─▶ DELEGATE ─durable─▶ told ─▶ PREPARE the others ─▶ all Yes ─▶ the delegate commits
//	                                          │                             with its marker
//	                                          ▼ a No, and the delegate           │
//	                                   ABORT ─durable─▶ tell    was rolled back  ▼
//	                                                             Commit ─┬─▶ tell "decided"
//	                                                                     ├─▶ phase two, END
//	                                                                     └─▶ COMMIT
//
// A marker exists once. Whoever writes it first decides, and so the rules are short:
//
//	M1  No client hears of its branches before DELEGATE is durable. So no record means abort, here
//	    as everywhere: without one there is no marker, and never will be.
//	M2  From then on only the marker decides. Whoever does not know of one, at the end of a
//	    deadline or after a crash, has one written that says never, and takes the one that is
//	    there. To look is not enough: a commit may be under way. The word of the client that it
//	    has ended the delegate's branch without a marker is as good: nobody else could write one.
//	M3  The delegate is committed after every other branch has voted. The votes are in the marker,
//	    with their evidence, so that a later epoch needs no more to finish them, and misses a
//	    branch that a failover has lost.
//	M4  A marker is removed only when END is durable.
//
// What was decided by a marker needs no record before it is told, nor before phase two, and no
// proof of ownership: a deposed owner and its successor read the same marker. COMMIT rides along
// with what else is written, for END's sake.
//
// A failover of the delegate to a server that lacks its last commits may have lost a marker. Within
// the epoch that began the transaction that is a rollback, since nobody has acted upon the marker
// or told of it. A later epoch does not know, so that it is a hazard there.
//
// The last resource that commits in one phase is old practice; the marker makes it sound. It is the
// LogOnce of Cornus (Guo et al., PVLDB 16, 2022), kept by a database that is written anyway.

// delegate leaves the decision to a branch if that can be done: it hands the record to the log,
// which Begin is answered upon. The delegate must be able to keep a marker, and somebody else must
// have work; and as for the other plans, who does not answer is not waited for. A disk that is
// nearly full is for decisions: the classic plan writes less.
func (m *Machine) delegate(t *transaction, name string) bool {
	if name == "" || m.cfg.Classic || !m.room || len(t.branches) < 2 {
		return false
	}
	r := m.byName[name]
	if r == nil || !r.delegate || r.down || r.held || r.refused || !t.has(r.RM, "") {
		return false
	}
	t.plan = txn.PlanDelegate
	for _, b := range t.branches {
		if b.rm == r.RM {
			t.delegateNo = b.no
		}
	}
	m.recordDelegate(t)
	return true
}

// recordDelegate writes down who decides, and the branches so far, the delegate's first.
func (m *Machine) recordDelegate(t *transaction) {
	r := DelegateRecord{ID: t.id, Label: t.label, Key: t.key}
	for i := range t.branches {
		b := &t.branches[i]
		res := m.resources[b.rm-1]
		if b.evidence.IsZero() {
			b.evidence = txn.Evidence{Identity: res.Identity, Position: res.seen}
		}
		c := CommitBranch{Branch: b.no, RM: b.rm, Evidence: b.evidence}
		if b.no == t.delegateNo {
			r.Branches = slices.Insert(r.Branches, 0, c)
		} else {
			r.Branches = append(r.Branches, c)
		}
	}
	t.intended = len(r.Branches)
	t.recording++
	m.append(r, true)
}

// delegateDurable answers those who have begun the transaction or enlisted in it.
func (m *Machine) delegateDurable(t *transaction) {
	if t.recording--; t.recording > 0 {
		return
	}
	waiting := t.beginWaiters
	t.beginWaiters = nil
	for _, req := range waiting {
		delete(m.beginning, req)
		m.replyBegun(t, req)
	}
}

// replyBegun tells the branches, unless the transaction has ended meanwhile. Whoever enlists may
// come too late for a transaction that others have heard of, and that may yet be committed.
func (m *Machine) replyBegun(t *transaction, req ReqID) {
	switch {
	case t.state != txn.StateActive && t.told:
		m.reply(Reply{Req: req, Err: txn.Refusef(txn.ReasonClosed, "transaction_id",
			"%s is being decided, and its set of branches is closed", t.id)})
		return
	case t.state != txn.StateActive:
		m.reply(Reply{Req: req, Err: txn.Refusef(txn.ReasonRolledBack, "transaction_id",
			"%s was called off before it had begun: %s", t.id, t.abort.reason)})
		return
	}
	t.told = true
	m.reply(Reply{Req: req, Begun: m.begun(t, "")})
}

// refuseStranger keeps everybody but the client that decides from adding branches: its marker would
// not speak for them. Each makes another record, for which a disk that is nearly full has no room.
func (m *Machine) refuseStranger(t *transaction, r txn.BeginRequest) error {
	if t.plan != txn.PlanDelegate {
		return nil
	}
	name := m.resources[t.branch(t.delegateNo).rm-1].Name
	if r.Part != "" {
		return txn.Refusef(txn.ReasonClosed, "part", "the decision of %s is left to %q, and only "+
			"the client that decides may have branches", t.id, name)
	}
	for _, res := range r.Resources {
		switch isNew := !t.has(m.byName[res].RM, r.Part); {
		case isNew && !m.room:
			return txn.Refusef(txn.ReasonLogFull, "resources",
				"the disk of the log is full; what is left is kept for decisions under way")
		case isNew && r.Delegate != name:
			return txn.Refusef(txn.ReasonClosed, "resources", "the decision of %s is left to %q, "+
				"and only the client that decides may enlist %q", t.id, name, res)
		}
	}
	return nil
}

// waitBegun has a Begin answered when the branches are on the disk.
func (m *Machine) waitBegun(t *transaction, req ReqID) {
	if mutant.On(mutant.DelegateUnwritten) {
		m.replyBegun(t, req)
		return
	}
	t.beginWaiters = append(t.beginWaiters, req)
	m.beginning[req] = t
}

// leaveBegun forgets who waits for a Begin. If it was the first one, nobody will ever know the
// transaction.
func (m *Machine) leaveBegun(e Begin) {
	t := m.beginning[e.Req]
	if t == nil {
		return
	}
	delete(m.beginning, e.Req)
	t.beginWaiters = slices.DeleteFunc(t.beginWaiters, func(r ReqID) bool { return r == e.Req })
	if e.Request.ID.IsZero() && t.undecided() {
		m.abort(t, abortReason{cause: txn.CauseClient, reason: "its client went away"})
	}
}

// refuseDelegateVotes names what is wrong with votes where the decision is left to a branch. The
// delegate's is never prepared, and nobody else's commits by itself.
func refuseDelegateVotes(t *transaction, votes []txn.BranchVote) error {
	committed, no := false, txn.BranchNo(0)
	for _, v := range votes {
		isDelegate := t.plan == txn.PlanDelegate && v.Branch == t.delegateNo
		switch {
		case v.Vote == txn.VoteCommitted && !isDelegate:
			return invalid("votes", "branch %d is not the one that decides, and must not vote %s",
				v.Branch, v.Vote)
		case isDelegate && (v.Vote == txn.VoteYes || v.Vote == txn.VoteReadOnly):
			return invalid("votes", "branch %d decides, and must not vote %s", v.Branch, v.Vote)
		case v.Vote == txn.VoteCommitted:
			committed = true
		case v.Vote == txn.VoteNo && !isDelegate:
			no = v.Branch
		}
	}
	if committed && no != 0 {
		return invalid("votes", "branch %d votes NO, and the delegate has committed", no)
	}
	return nil
}

// takeDelegateVotes takes the votes of a transaction whose decision was left to a branch. That the
// delegate has committed counts with the votes of all others, which its marker holds; that it never
// will, by itself. Otherwise its resource is asked: what the marker says is true in any case.
func (m *Machine) takeDelegateVotes(t *transaction, votes []txn.BranchVote) {
	m.close(t)
	d := t.branch(t.delegateNo)
	r := m.resources[d.rm-1]
	why := abortReason{txn.CauseVoteUnknown, "its delegate's client did not say how it ended",
		r.Name, ""}
	committed := false
	for _, v := range votes {
		switch {
		case v.Vote == txn.VoteCommitted:
			// Elsewhere it would be no proof.
			committed = v.Evidence.Identity == r.Identity &&
				v.Evidence.Timeline >= r.seen.Timeline && t.speaksForAll(votes)
		case v.Vote != txn.VoteNo:
		case v.Branch != d.no || why.cause != txn.CauseVotedNo:
			why = abortReason{txn.CauseVotedNo, clip(v.Reason),
				m.resources[t.branch(v.Branch).rm-1].Name, v.SQLState}
		}
		if v.Vote == txn.VoteNo && v.Branch == d.no {
			d.state = txn.BranchRolledBack
		}
	}
	t.noteVotes(votes)
	if committed {
		m.delegated(t)
		return
	}
	m.abort(t, why)
}

// speaksForAll says whether votes leave no branch open but the delegate's.
func (t *transaction) speaksForAll(votes []txn.BranchVote) bool {
	n := 0
	for _, v := range votes {
		if v.Vote == txn.VoteReadOnly || v.Vote == txn.VoteYes && !v.Evidence.IsZero() {
			n++
		}
	}
	return n == len(t.branches)-1
}

// noteVotes takes what the branches beside the delegate's have voted. Where votes contradict
// earlier ones they are those of the marker, and true.
func (t *transaction) noteVotes(votes []txn.BranchVote) {
	for _, v := range votes {
		b := t.branch(v.Branch)
		if b == nil || b.no == t.delegateNo {
			continue
		}
		switch {
		case v.Vote == txn.VoteReadOnly:
			b.state = txn.BranchReadOnly
		case v.Vote == txn.VoteNo && v.Evidence.IsZero():
			b.state = txn.BranchRolledBack
		case v.Vote == txn.VoteYes || !v.Evidence.IsZero():
			b.state = txn.BranchPrepared
			if !v.Evidence.IsZero() {
				b.evidence = v.Evidence
			}
		}
	}
}

// delegated is the commit point as this process sees it: the delegate has committed. A branch for
// which its marker does not speak was enlisted in vain: nobody was told of it.
func (m *Machine) delegated(t *transaction) {
	t.state = txn.StateCommitting
	c := CommitRecord{ID: t.id, Plan: t.plan, Label: t.label, Key: t.key}
	for i := range t.branches {
		b := &t.branches[i]
		if b.no == t.delegateNo {
			b.state, b.lastErr = txn.BranchCommitted, ""
			continue
		}
		if b.state == txn.BranchEnlisted {
			b.state = txn.BranchRolledBack
			m.send(ActRollback, t, b)
		}
		if b.state == txn.BranchPrepared {
			c.Branches = append(c.Branches,
				CommitBranch{Branch: b.no, RM: b.rm, Evidence: b.evidence})
		}
	}
	// Nobody waits for it: until it is durable the marker says the same.
	m.append(c, false)
	m.phaseTwo(t)
	for i := range t.waiters {
		t.waiters[i].until = m.now + t.waiters[i].wait
	}
	m.settle(t)
	m.arm(t)
}

// delegateRecorded lets the transaction end: from here on the log answers for it.
func (m *Machine) delegateRecorded(t *transaction) {
	if t == nil || t.plan != txn.PlanDelegate || t.state != txn.StateCommitting &&
		t.state != txn.StateHeuristic {
		panic("protocol: a commit became durable that no delegate decided")
	}
	t.recorded = true
	m.releaseKey(t)
	m.settle(t)
}

// abortDelegate calls a transaction off whose decision was left to a branch: at once if no marker
// can exist, and otherwise if the delegate's resource says so.
func (m *Machine) abortDelegate(t *transaction) {
	d := t.branch(t.delegateNo)
	if d.state == txn.BranchRolledBack || !t.told || mutant.On(mutant.DelegatePresumed) {
		m.recordAbort(t)
		return
	}
	m.askMarker(t)
}

// askMarker has the delegate's resource say how the transaction ends, and make it so.
func (m *Machine) askMarker(t *transaction) {
	d := t.branch(t.delegateNo)
	t.state = txn.StateInDoubt
	m.resources[d.rm-1].pending++
	m.send(ActDecide, t, d)
	m.arm(t)
}

// resumeDelegate takes up a transaction of which an earlier epoch has left no more than who
// decides. What is to be said of its branches is in the marker.
func (m *Machine) resumeDelegate(t *transaction, first CommitBranch) {
	t.delegateNo, t.told = first.Branch, true
	if !t.key.IsZero() {
		m.keyed[t.key.Hash] = t
	}
	if t.heuristic() != txn.OutcomeUnknown {
		t.state = txn.StateInDoubt
		m.leaveToPerson(t)
		return
	}
	m.askMarker(t)
}

// decideFinished takes what the delegate's resource says. It is the decision, unless the one that
// was there may be gone.
func (m *Machine) decideFinished(t *transaction, b *branch, e Finished) {
	if b.state != txn.BranchEnlisted || b.forced {
		return
	}
	repeated := b.lastErr == clip(e.Reason)
	b.attempts++
	b.lastErr = clip(e.Reason)
	b.held = e.Standing == txn.StandingHeld || e.Standing == txn.StandingForeign
	switch gone := m.markerGone(t, b, e.Evidence); {
	case e.Standing == txn.StandingCommitted:
		m.resources[b.rm-1].pending--
		t.abort = abortReason{}
		t.noteVotes(e.Votes)
		m.delegated(t)
	case e.Standing == txn.StandingRolledBack && gone != "":
		m.contradiction(t, b, txn.BranchHeuristicHazard,
			strings.TrimSuffix(gone+"; "+b.lastErr, "; "))
	case e.Standing == txn.StandingRolledBack:
		m.resources[b.rm-1].pending--
		b.state = txn.BranchRolledBack
		if t.resumed {
			t.abort = abortReason{cause: txn.CausePresumed, resource: m.resources[b.rm-1].Name,
				reason: "its coordinator was restarted, and its delegate never committed"}
		}
		m.recordAbort(t)
	case e.Standing != txn.StandingUnknown && !repeated:
		m.note(Note{Kind: NoteAlarm, ID: t.id, Name: txn.NameOf(t.id, b.no), RM: b.rm,
			Reason: fmt.Sprintf("its decision is held: %s: %s", e.Standing, e.Reason)})
	}
}

// markerGone says why a marker that said "committed" may have been there before, or nothing.
func (m *Machine) markerGone(t *transaction, b *branch, shown txn.Evidence) string {
	moved := shown.Identity != b.evidence.Identity || shown.Timeline != b.evidence.Timeline
	switch {
	case t.id.Log() != m.state.Log:
		return "its log was adopted, and may have ended it, and removed its marker, after it was " +
			"copied"
	case t.resumed && moved && !mutant.On(mutant.MarkerLossUnnoticed):
		return "its marker may have been lost by a failover"
	}
	return ""
}

// Asked are the resources whose word a transaction that is in doubt waits for. Those that are held
// have answered, that nothing they say may be acted upon: somebody has to see to them.
func (m *Machine) Asked(id txn.ID) (waiting, held []string) {
	t := m.live[id]
	if t == nil || t.state != txn.StateInDoubt {
		return nil, nil
	}
	for i := range t.branches {
		b := &t.branches[i]
		name := m.resources[b.rm-1].Name
		switch {
		case b.state != txn.BranchEnlisted, b.found != 0,
			t.plan == txn.PlanDelegate && b.no != t.delegateNo:
		case b.held:
			held = append(held, name)
		default:
			waiting = append(waiting, name)
		}
	}
	return waiting, held
}

// marked looks at the markers of a listing: those that nobody needs any more are removed. One that
// the log denies is for a person. When its sequence is forgotten it goes too, unless this epoch has
// told of it.
func (m *Machine) marked(r *resource, ids []txn.ID) {
	var over []txn.ID
	for _, id := range ids {
		early := mutant.On(mutant.MarkerRemovedEarly)
		switch {
		case id.Log() != m.state.Log || !early && (m.live[id] != nil || m.state.open[id] != nil):
		case id.Seq() >= m.reach() || m.state.Lost(id.Seq()):
			// What the log has forgotten may have been decided by this marker.
			m.deny(r, id, 'I')
		case m.state.Committed(id), id.Seq() < m.state.Low && !r.denied[id], early:
			over = append(over, id)
		default:
			m.deny(r, id, 'R')
		}
	}
	if len(over) > 0 && r.delegate {
		// Else whoever lists them cannot remove them, as a wrapper that hides what it wraps.
		m.ready.Removals = append(m.ready.Removals, Removal{RM: r.RM, IDs: over})
	}
}

// maxDenied bounds the markers at one resource of which people need not be told again.
const maxDenied = 10_000

// deny tells people, once, of a marker that contradicts the log.
func (m *Machine) deny(r *resource, id txn.ID, label Label) {
	if r.denied[id] {
		return
	}
	reason := "a marker says that it committed, and the log says that it did not"
	if label == 'I' {
		reason = "a marker says that it committed: " + label.Because()
	}
	m.note(Note{Kind: NoteAlarm, ID: id, RM: r.RM, Label: label, Reason: reason,
		Name: txn.Name{Log: id.Log(), Seq: id.Seq()}})
	if len(r.denied) < maxDenied {
		r.denied[id] = true
	}
}

// commitDelegate is Commit where the decision was left to a branch.
func (m *Machine) commitDelegate(t *transaction, e Commit) {
	r := e.Request
	if r.Intent {
		m.reply(Reply{Req: e.Req, Result: m.result(t)})
		return
	}
	m.wait(t, waiter{req: e.Req, ack: r.Ack, wait: waitBound(r)})
	if t.undecided() {
		// Whatever the time is: it has been decided already, or is to be asked for.
		m.takeDelegateVotes(t, r.Votes)
	}
	m.answer(t)
	m.arm(t)
}

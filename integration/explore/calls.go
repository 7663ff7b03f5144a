package explore

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// call is a message on its way to a resource, or its answer on the way back.
type call struct {
	msg   protocol.Message
	epoch txn.Epoch
	// stale: its caller is gone or has given up. It may still arrive, once, and nobody hears the
	// answer.
	stale bool
	// client: a client's own PREPARE, on its own session, which knows no epochs.
	client bool
	// done: the resource has acted, and the answer is vote or standing.
	done     bool
	vote     txn.BranchVote
	standing txn.Standing
	// found is the evidence of an inquiry.
	found txn.Evidence
}

// send queues a message. As in a lane, one that waits already is not queued twice.
func (w *world) send(m protocol.Message) {
	if slices.ContainsFunc(w.calls, func(c call) bool {
		return !c.stale && !c.done && c.epoch == w.epoch && c.msg.Act == m.Act &&
			c.msg.Name == m.Name
	}) {
		return
	}
	w.addCall(call{msg: m, epoch: w.epoch})
}

// addCall keeps calls in one order, whatever the order in which they came: they travel apart. Two
// stale ones that are the same are one, because nobody counts on a stale call.
func (w *world) addCall(c call) {
	if c.stale && slices.Contains(w.calls, c) {
		return
	}
	w.calls = append(w.calls, c)
	slices.SortStableFunc(w.calls, compareCalls)
}

func compareCalls(a, b call) int {
	return cmp.Or(cmp.Compare(a.msg.RM, b.msg.RM), cmp.Compare(a.msg.Name.Seq, b.msg.Name.Seq),
		cmp.Compare(a.msg.Name.Branch, b.msg.Name.Branch), cmp.Compare(a.msg.Act, b.msg.Act),
		cmp.Compare(a.epoch, b.epoch), compareBool(a.stale, b.stale),
		compareBool(a.client, b.client), compareBool(a.done, b.done),
		cmp.Compare(a.vote.Vote, b.vote.Vote), cmp.Compare(a.standing, b.standing))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func (w *world) removeCall(i int) call {
	c := w.calls[i]
	w.calls = slices.Delete(w.calls, i, i+1)
	return c
}

// strand makes every such call that has not arrived a stale one, and forgets the answers: the
// process that waited for them is gone.
func (w *world) strand(such func(call) bool) {
	old := w.calls
	w.calls = nil
	for _, c := range old {
		if such(c) {
			if c.done {
				continue
			}
			c.stale = true
		}
		w.addCall(c)
	}
}

// giveUp is a caller that waits no longer. The machine hears that nothing is known; what must be
// done is sent again.
func (w *world) giveUp(i int) {
	c := w.removeCall(i)
	late := c
	late.stale = true
	w.addCall(late)
	w.trace.arrived(w, c, "no answer")
	w.again(c)
	w.step(unknown(c.msg))
}

// again repeats what is decided until its end is proven. The others are asked for by the machine.
func (w *world) again(c call) {
	if c.msg.Act.Lasting() && w.sc.Flaw != SentOnce {
		w.addCall(call{msg: c.msg, epoch: c.epoch})
	}
}

// unknown is the event for a message whose result is not known.
func unknown(m protocol.Message) protocol.Event {
	if m.Act == protocol.ActPrepare {
		return protocol.Voted{ID: m.ID, Vote: txn.BranchVote{Branch: m.Name.Branch}}
	}
	return protocol.Finished{ID: m.ID, Branch: m.Name.Branch, Act: m.Act}
}

// answer brings the answer of a call to the machine.
func (w *world) answer(i int) {
	c := w.removeCall(i)
	if c.msg.Act == protocol.ActPrepare {
		w.step(protocol.Voted{ID: c.msg.ID, Vote: c.vote})
		return
	}
	if !proven(c.msg.Act, c.standing) {
		w.again(c)
	}
	w.sights.add(c.msg.Act.String(), " answered ", c.standing.String())
	w.noteAnswer(c)
	f := protocol.Finished{ID: c.msg.ID, Branch: c.msg.Name.Branch, Act: c.msg.Act,
		Standing: c.standing, Reason: c.standing.String(), Evidence: c.found}
	if c.msg.Act == protocol.ActDecide && c.standing == txn.StandingCommitted {
		f.Votes = slices.Clone(w.entry(c.msg.ID).decision)
	}
	w.step(f)
}

// proven says whether an answer ends the repetition of a lasting message.
func proven(act protocol.Act, s txn.Standing) bool {
	switch s {
	case txn.StandingCommitted, txn.StandingRolledBack, txn.StandingGone:
		return true
	}
	return act == protocol.ActInquire && s == txn.StandingPrepared
}

// arrive lets a call act at its resource. A refusal by the resource is only for PREPARE and
// ONE_PHASE.
func (w *world) arrive(i int, refuse bool) {
	c := w.removeCall(i)
	at := int(c.msg.RM) - 1
	r := &w.resources[at]
	if !c.client {
		seen := r.fence
		if !r.admit(c.epoch, w.sc.Flaw == FenceIgnored) {
			w.trace.arrived(w, c, "fenced")
			return
		}
		w.checkFence(c, seen)
		w.fenceSessions(at)
	}
	w.act(&c, r, refuse)
	w.trace.arrived(w, c, "")
	if !c.stale {
		c.done = true
		w.addCall(c)
	}
	w.checkAtomicity(c.msg.ID)
}

func (w *world) act(c *call, r *resource, refuse bool) {
	n := c.msg.Name
	switch c.msg.Act {
	case protocol.ActPrepare:
		if c.client {
			w.prepareLate(r, n)
			return
		}
		c.vote = w.prepare(r, n, refuse)
	case protocol.ActCommit:
		c.standing = w.commitAt(r, n, c.msg.Evidence)
	case protocol.ActRollback:
		c.standing = w.rollbackAt(r, n, c.msg.Evidence)
	case protocol.ActOnePhase:
		c.standing = w.onePhaseAt(r, n, c.msg.Evidence, refuse)
	case protocol.ActInquire:
		c.standing, c.found = w.inquireAt(r, n, c.msg.Evidence)
	case protocol.ActDecide:
		if c.client {
			w.mark(r, n)
			return
		}
		c.standing, c.found = w.decideAt(r, n)
	default:
		panic(fmt.Sprintf("explore: act %s", c.msg.Act))
	}
}

// prepare is a resource's vote. A branch of a client is judged by the list alone; that of a session
// here is prepared now. Repeating it gives the same vote.
func (w *world) prepare(r *resource, n txn.Name, refuse bool) txn.BranchVote {
	v := txn.BranchVote{Branch: n.Branch}
	if s, o := r.standing(n); s == txn.StandingPrepared {
		v.Vote, v.Evidence = txn.VoteYes, r.evidenceOf(o)
		return v
	}
	b := w.truth(n)
	s := r.session(n)
	switch {
	case s == nil || b == nil:
		// Not listed, and nobody here has seen it end: it may be prepared the next moment.
	case s.ended && b.readOnly:
		v.Vote = txn.VoteReadOnly
	case s.ended:
		v.Vote = txn.VoteNo
	case w.byClient(n):
	case refuse:
		s.ended, b.ended = true, true
		v.Vote = txn.VoteNo
	case b.reader:
		s.ended, b.readOnly = true, true
		v.Vote = txn.VoteReadOnly
	default:
		v.Vote, v.Evidence = txn.VoteYes, w.prepareNow(r, n)
	}
	return v
}

// prepareNow makes an active session a prepared branch, durably.
func (w *world) prepareNow(r *resource, n txn.Name) txn.Evidence {
	if w.sc.Flaw == VoteBeforeDurable {
		return txn.Evidence{Identity: r.identity, Position: r.position(), XID: r.nextXID()}
	}
	o := r.write(opPrepare, n)
	r.drop(n)
	ev := r.evidenceOf(o)
	w.notePrepared(n, ev)
	return ev
}

func (w *world) commitAt(r *resource, n txn.Name, ev txn.Evidence) txn.Standing {
	if w.sc.Flaw == AnswerBeforeDone {
		return txn.StandingCommitted
	}
	if r.isPrepared(n) {
		r.write(opCommit, n)
		w.noteCommitted(n)
		if w.sc.Flaw == SaysGone {
			return txn.StandingGone
		}
		return txn.StandingCommitted
	}
	if w.sc.Flaw == MissingIsCommitted {
		return txn.StandingCommitted
	}
	return r.judge(ev)
}

func (w *world) rollbackAt(r *resource, n txn.Name, ev txn.Evidence) txn.Standing {
	if r.isPrepared(n) {
		r.write(opRollback, n)
		w.noteRolledBack(n)
		return txn.StandingRolledBack
	}
	return r.judge(ev)
}

// prepareLate is a client's PREPARE that its client has given up: the session was busy with it, and
// prepares now, unless it has ended.
func (w *world) prepareLate(r *resource, n txn.Name) {
	if r.active(n) {
		w.prepareNow(r, n)
	}
}

// onePhaseAt commits a session as it is. The resource remembers every commit, and who ended.
func (w *world) onePhaseAt(
	r *resource, n txn.Name, ev txn.Evidence, refuse bool,
) txn.Standing {
	s, _ := r.standing(n)
	switch {
	case s == txn.StandingCommitted || s == txn.StandingRolledBack:
		return s
	case r.isPrepared(n):
		r.write(opCommit, n)
		w.noteCommitted(n)
		return txn.StandingCommitted
	case !r.active(n):
		return r.absent(ev)
	case refuse:
		r.session(n).ended = true
		w.truth(n).ended = true
		return txn.StandingRolledBack
	}
	r.write(opPlain, n)
	r.drop(n)
	w.noteCommitted(n)
	return txn.StandingCommitted
}

// inquireAt tells where a branch stands, and by what. The call has fenced older ones, and with them
// every session of their time that the resource itself runs. One that commits plainly remembers how
// branches ended; another finds what is prepared, and has the evidence of the question otherwise.
func (w *world) inquireAt(
	r *resource, n txn.Name, ev txn.Evidence,
) (txn.Standing, txn.Evidence) {
	s, o := r.standing(n)
	found := txn.Evidence{Identity: r.identity, Position: r.position(), XID: ev.XID}
	switch {
	case s == txn.StandingPrepared:
		return s, r.evidenceOf(o)
	case !w.sc.Resources[w.sc.resource(r.name)].OnePhase:
		return r.judge(ev), found
	case s == txn.StandingUnknown && !r.active(n):
		return r.absent(ev), found
	}
	if r.wasPrepared(n) {
		found.XID = o.xid
	}
	return s, found
}

// fenceSessions ends the sessions of older epochs that the resource itself runs.
func (w *world) fenceSessions(at int) {
	r := &w.resources[at]
	if w.sc.Flaw == FenceIgnored {
		return
	}
	for i := range r.sessions {
		s := &r.sessions[i]
		e := w.entry(s.name.ID())
		if e != nil && e.epoch < r.fence && !w.byClient(s.name) && !s.ended {
			s.ended = true
			w.truth(s.name).ended = true
		}
	}
}

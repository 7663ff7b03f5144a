package sim

import (
	"slices"

	"github.com/gavel-tx/gavel/coordinator/core"
	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// Decisions that are left to one of the databases, the delegate: what it does, what the clients do,
// what the book keeps of it, and what is checked.

// decide is the adapter's answer to the question how a transaction ends: its marker, or a new one
// that says never.
func (d *database) decide(b participant.Branch) participant.Finding {
	ev := b.Evidence
	if !ev.Identity.IsZero() && ev.Identity != d.at.identity ||
		before(d.at.position(), ev.Position) {
		return participant.Finding{Standing: txn.StandingHeld, Reason: "it is elsewhere"}
	}
	if s := d.at.session(b.Name); s != nil && s.marking {
		return participant.Finding{Reason: "its client is just committing it"}
	}
	decision, found := d.at.markers[b.Name.ID()]
	if !found && d.w.opt.flaw != looksOnly {
		d.at.add(op{kind: opNever, name: b.Name, xid: d.at.take()})
		d.w.count[decidedNever]++
	}
	f := participant.Finding{Standing: txn.StandingRolledBack, Reason: "it says never",
		Evidence: txn.Evidence{Identity: d.at.identity, Position: d.at.position()}}
	if decision == never {
		return f
	}
	votes, err := txn.ParseDecision([]byte(decision))
	if err != nil {
		d.w.fail(assertion, "the marker of %d cannot be read: %v", b.Name.Seq, err)
	}
	d.w.count[markerFound]++
	f.Standing, f.Reason, f.Votes = txn.StandingCommitted, "", votes
	return f
}

// unmark removes markers of commits.
func (d *database) unmark(ids []txn.ID, held bool) core.Answer {
	if held {
		return core.Answer{Err: errHeld}
	}
	for _, id := range ids {
		if d.at.markers[id] == never {
			continue
		}
		d.at.add(op{kind: opUnmark, name: txn.NameOf(id, 0), xid: d.at.take()})
		d.w.count[markerRemoved]++
		d.w.say("%s removes the marker of %d", d.name, uint64(id.Seq()))
	}
	return core.Answer{}
}

// commitMarked commits a session with a marker. That fails if there is one, and in a database that
// is another one than was registered. It must not be further either: who has not seen the failover
// may ask the old primary for the marker, and one that says never may have been lost on the way.
func (d *database) commitMarked(b *branch, decision string) (txn.Vote, txn.Evidence) {
	s, x := b.server, b.session
	_, decided := s.markers[b.name.ID()]
	if decided {
		d.w.count[markedLate]++
		d.w.say("%s has a marker of %d already", d.name, uint64(b.name.Seq))
	}
	s.drop(x)
	there := s.identity == b.at.Identity && s.timeline == b.at.Timeline
	if decided || x.ended || !there || d.w.some(d.w.opt.refuse) {
		d.end(x)
		return txn.VoteNo, txn.Evidence{}
	}
	s.add(op{kind: opMark, name: b.name, xid: x.xid, decision: decision})
	d.w.say("%s commits %d.%d with a marker", d.name, uint64(b.name.Seq), uint64(b.name.Branch))
	d.w.book.marked(b.name, s != d.primary)
	return txn.VoteCommitted,
		txn.Evidence{Identity: s.identity, Position: s.position(), XID: x.xid}
}

// hostedVote is what a sidecar answers the client whose session it runs.
func (d *database) hostedVote(n txn.Name) participant.Vote {
	d.leaveCopy()
	if !d.up || d.behind() {
		return participant.Vote{}
	}
	return d.vote(n)
}

// serves says whether what runs a session can commit it now. A sidecar looks where it is.
func (d *database) serves(b *branch) bool {
	if d.spec.hosted {
		d.leaveCopy()
	}
	return d.up && (!d.spec.hosted || b.server == d.at && !d.behind())
}

// leave asks for leaving the decision to one of the first resources. With one alone there is
// nothing to leave.
func (k *work) leave(r *txn.BeginRequest) {
	if k.leaves {
		r.Resources = k.names[:max(len(r.Resources), min(2, len(k.names)))]
		r.Delegate = r.Resources[k.c.w.rng.IntN(len(r.Resources))]
	}
}

// others are the votes of all branches but the delegate's that a marker can hold. It is complete if
// each of them is ready, and where it was registered.
func (k *work) others() (votes []txn.BranchVote, complete bool) {
	for _, v := range k.votes {
		at := k.branches[v.Branch-1].at
		there := v.Evidence.Identity == at.Identity && v.Evidence.Timeline >= at.Timeline
		if v.Vote == txn.VoteReadOnly || v.Vote == txn.VoteYes && there {
			votes = append(votes, v)
		}
	}
	return votes, len(votes) == len(k.branches)-1
}

// decide commits the delegate's branch once all others are ready, or calls it off.
func (k *work) decide() {
	w, b := k.c.w, k.branches[k.delegate-1]
	votes, complete := k.others()
	switch {
	case b.asked:
		// It was decided too early, by a flaw.
		if b.voted {
			k.commit()
		}
	case b.session == nil || b.session.gone:
		// Its session is over, and nobody else could write a marker.
		w.book.truth(b.name).ended = true
		k.vote(b, txn.VoteNo, txn.Evidence{})
		k.c.think(k.commit)
	case (!complete || w.some(w.opt.abort)) && w.opt.flaw != decidesFirst:
		k.endSession(b)
		k.vote(b, txn.VoteNo, txn.Evidence{})
		k.c.think(k.commit)
	default:
		k.sendMarker(b, string(txn.AppendDecision(nil, votes)))
	}
}

// sendMarker sends the commit with a marker, and waits for the answer, but not for ever.
func (k *work) sendMarker(b *branch, decision string) {
	w := k.c.w
	b.asked = true
	answer := func(v txn.Vote, ev txn.Evidence) {
		if b.voted {
			return
		}
		b.voted = true
		k.vote(b, v, ev)
		if k.waiting == 0 {
			k.c.think(k.commit)
		}
	}
	w.travel(beside(b.d.no), there, func() { k.arriveMarker(b, decision, answer) })
	w.after(w.opt.callTimeout, func() { answer(txn.VoteUnknown, txn.Evidence{}) })
}

// arriveMarker is the server's part. It may be stuck before the marker is written or behind it.
func (k *work) arriveMarker(b *branch, decision string, answer func(txn.Vote, txn.Evidence)) {
	w := k.c.w
	run := func() {
		switch {
		case b.session.gone:
			return
		case !b.d.serves(b):
			k.endSession(b)
			return
		}
		v, ev := b.d.commitMarked(b, decision)
		w.travel(beside(b.d.no), back, func() { answer(v, ev) })
	}
	if w.healed || w.opt.stuck == 0 || !w.some(w.opt.stuck) {
		run()
		return
	}
	_, decided := b.server.markers[b.name.ID()]
	b.session.marking = !decided && w.rng.IntN(2) == 0
	w.under++
	w.after(w.spread(4*second), func() { w.under--; run() })
}

// leaving keeps, in the moment in which it is handed to the log, that a decision is left to a
// branch. Nobody has heard of the transaction by then, and perhaps nobody ever will.
func (b *book) leaving(l *life, r protocol.DelegateRecord) {
	e := b.entry(r.ID)
	switch {
	case e == nil:
		e = &entry{id: r.ID, life: l, unheard: true, delegate: r.Branches[0].Branch}
		b.add(e, l.w.opt.machine.WithDefaults().DefaultTimeout)
	case e.life != l || e.delegate != r.Branches[0].Branch:
		b.w.fail(exactlyOnce, "%d is left to a branch, and was begun before", r.ID.Seq())
		return
	}
	e.intending = l
	for range r.Branches[len(e.branches):] {
		e.branches = append(e.branches, truth{heard: true})
	}
	for _, x := range r.Branches {
		e.branches[x.Branch-1].db = l.resource(x.RM)
	}
}

// leftTo keeps that it is durable to whom a decision is left, and for which branches.
func (b *book) leftTo(r protocol.DelegateRecord) {
	e := b.entry(r.ID)
	if e == nil || e.committed || e.aborted {
		return
	}
	if !e.asking {
		b.w.count[left]++
		b.w.say("the decision of %d is left to branch %d", "", uint64(e.id.Seq()),
			uint64(e.delegate))
	}
	e.asking, e.intending = true, nil
	e.leftAt = r.Branches[0].Evidence
	for _, x := range r.Branches {
		e.covered |= bit(x.Branch)
	}
}

// marked keeps that a delegate's branch was committed with its marker. On a server that nobody
// counts as the primary any more it is lost at once.
func (b *book) marked(n txn.Name, astray bool) {
	e, t := b.bySq[n.Seq], b.truth(n)
	b.w.count[marked]++
	e.marked = true
	t.committed, t.lost = true, astray
	if astray {
		b.w.count[strayPrepare]++
		return
	}
	if e.toldBack || e.aborted {
		b.w.fail(clientTruth, "%s commits with a marker after its transaction was rolled back", n)
	}
	b.w.checkAtomicity(e)
	b.w.ambush()
}

// undone says whether a failover has taken back the commit of a delegate's branch, and its marker
// with it: as long as nobody has acted upon that, the whole transaction may be rolled back.
func (e *entry) undone(i int) bool {
	return int(e.delegate) == i+1 && e.branches[i].lost
}

// checkBegun wants it to be durable who decides before a client hears of its branches.
func (w *world) checkBegun(e *entry, x *txn.Begun) {
	switch {
	case x.Delegate != e.delegate:
		w.fail(clientTruth, "%d is told to be left to branch %d, and the log says %d", e.id.Seq(),
			x.Delegate, e.delegate)
	case e.delegate == 0:
	case slices.ContainsFunc(x.Branches, func(b txn.Enlisted) bool {
		return e.covered&bit(b.Branch) == 0
	}):
		w.fail(logBeforeSend, "%d is told, and it is not on the disk who decides", e.id.Seq())
	}
}

// checkMarked is about a commit that a marker has decided, when its record is handed to the log.
func (w *world) checkMarked(e *entry, p txn.Plan) {
	switch {
	case (e.delegate != 0) != (p == txn.PlanDelegate):
		w.fail(commitValidity, "%d is committed by the plan %s", e.id.Seq(), p)
	case e.delegate != 0 && !e.marked:
		w.fail(commitValidity, "%d is committed without a marker", e.id.Seq())
	}
}

// checkUnmarked is about an abort of what was left to a delegate. A failover that has lost the
// marker makes no abort of it in a later epoch: nobody there knows who has acted upon the marker.
// One that was written astray has never been a decision to those who ask the right server.
func (w *world) checkUnmarked(e *entry) {
	t := e.branches[e.delegate-1]
	if e.marked && e.life != w.life && t.returned {
		w.fail(abortValidity, "%d is aborted by a later epoch, and its marker was lost",
			e.id.Seq())
	}
}

// checkLoss is about a decision that is recorded as perhaps lost: its database has failed over
// since it was left there.
func (w *world) checkLoss(e *entry, n txn.Name) {
	if w.dbs[e.branches[n.Branch-1].db].primary.timeline == e.leftAt.Timeline {
		w.fail(maskedHeuristic, "the marker of %d is recorded as lost, and its database is where "+
			"it was", e.id.Seq())
	}
}

// checkDecide is about a question for a marker.
func (w *world) checkDecide(e *entry, n txn.Name) {
	switch {
	case n.Branch != e.delegate:
		w.fail(commitValidity, "%s is asked to decide, and is not the delegate", n)
	case e.covered == 0:
		w.fail(logBeforeSend, "%s is asked to decide without a durable record", n)
	}
}

// checkRemoval keeps markers until nobody needs them.
func (w *world) checkRemoval(ids []txn.ID) {
	for _, id := range ids {
		e := w.book.entry(id)
		switch {
		case e == nil:
			w.fail(containment, "the marker of %s is removed, which is not ours", id)
		case !e.ended:
			w.fail(forget, "the marker of %d is removed, and its end is not durable", id.Seq())
		}
	}
}

// lingering is a marker that nobody removes, though its transaction is over.
func (w *world) lingering() (id txn.ID, found bool) {
	for _, d := range w.dbs {
		for _, id := range d.primary.marked() {
			if e := w.book.entry(id); e.heuristic == 0 {
				return id, true
			}
		}
	}
	return txn.ID{}, false
}

package explore

import (
	"slices"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/coordinator/record"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txn"
)

// delegate are worlds about the plan whose decision is a marker at one of the resources, b.
func delegate() []Scenario {
	ab := append(resources("a", proves), resources("b", marks)...)
	aQuiet := append(resources("a", quietly), resources("b", marks)...)
	bQuiet := append(resources("a", proves), resources("b", marksQuietly)...)
	return []Scenario{
		{Name: "delegate, crash and loss", Resources: ab, Transactions: delegated("a", "b"),
			Bounds: Bounds{Crashes: 1, Losses: 1}},
		{Name: "delegate, a refusal and a rollback", Resources: ab,
			Transactions: delegated("a", "b"), Bounds: Bounds{Noes: 1, Rollbacks: 1, Losses: 1}},
		{Name: "delegate, late marker, deadline, sweeps", Resources: bQuiet,
			Transactions: delegated("a", "b"), Bounds: Bounds{Ticks: 2, Sweeps: 2}},
		{Name: "delegate, a marker that is late", Resources: aQuiet,
			Transactions: delegated("a", "b"),
			Bounds:       Bounds{Losses: 1, Ticks: 1, Repeats: 1, Asks: 1}},
		{Name: "delegate, a reader among them", Resources: append(ab, resources("c", proves)...),
			Transactions: reading("c", delegated("a", "b", "c")), Bounds: Bounds{Crashes: 1}},
		{Name: "delegate, a client of few words", Resources: ab,
			Transactions: terse(delegated("a", "b")), Bounds: Bounds{Noes: 1, Losses: 1}},
		{Name: "delegate, failover of the delegate", Resources: aQuiet,
			Transactions: delegated("a", "b"),
			Bounds:       Bounds{Failovers: 1, LostOps: 1, Crashes: 1}},
		{Name: "delegate, failover of another", Resources: bQuiet,
			Transactions: delegated("a", "b"),
			Bounds:       Bounds{Failovers: 1, LostOps: 1}},
		{Name: "delegate, a deposed owner goes on", Resources: ab,
			Transactions: delegated("a", "b"), Bounds: Bounds{Depositions: 1, Lingers: 3}},
		{Name: "delegate, sessions and callers that go away", Resources: ab,
			Transactions: delegated("a", "b"),
			Bounds:       Bounds{SessionLosses: 1, Cancels: 1, Enlists: 1}},
		{Name: "delegate, out of reach", Resources: ab, Transactions: delegated("a", "b"),
			Bounds: Bounds{Outages: 1, Noes: 1}},
	}
}

// delegateDeeper are such worlds for a long run.
func delegateDeeper() []Scenario {
	ab := append(resources("a", proves), resources("b", marks)...)
	aQuiet := append(resources("a", quietly), resources("b", marks)...)
	bQuiet := append(resources("a", proves), resources("b", marksQuietly)...)
	return []Scenario{
		{Name: "deep: delegate, two crashes and a loss", Resources: ab,
			Transactions: delegated("a", "b"), Bounds: Bounds{Crashes: 2, Losses: 1}},
		{Name: "deep: delegate, failover of another and a crash", Resources: bQuiet,
			Transactions: delegated("a", "b"),
			Bounds:       Bounds{Failovers: 1, LostOps: 2, Crashes: 1}},
		{Name: "deep: delegate, out of reach and a crash", Resources: ab,
			Transactions: delegated("a", "b"), Bounds: Bounds{Outages: 1, Crashes: 1}},
		{Name: "deep: delegate, a crash, sweeps and a deadline", Resources: bQuiet,
			Transactions: delegated("a", "b"), Bounds: Bounds{Crashes: 1, Ticks: 2, Sweeps: 2}},
		{Name: "deep: delegate, two failovers and a crash", Resources: aQuiet,
			Transactions: delegated("a", "b"),
			Bounds:       Bounds{Failovers: 2, LostOps: 2, Crashes: 1, Losses: 1}},
		{Name: "deep: delegate, one key, a crash", Resources: ab,
			Transactions: keyed("k", append(delegated("a", "b"), ofCoordinator("a")...)),
			Bounds:       Bounds{Crashes: 1}},
		{Name: "deep: delegate, a person and a crash", Resources: bQuiet,
			Transactions: delegated("a", "b"), Bounds: Bounds{Interventions: 1, Crashes: 1}},
		{Name: "deep: delegate, a deposed owner, rollback and deadline", Resources: ab,
			Transactions: delegated("a", "b"),
			Bounds:       Bounds{Depositions: 1, Lingers: 3, Rollbacks: 1, Ticks: 1}},
	}
}

// marks is a resource that can keep markers.
func marks(r *Resource)        { r.Evidence, r.Marks = true, true }
func marksQuietly(r *Resource) { r.Evidence, r.Marks, r.Quiet = true, true, true }

// delegated is a transaction whose client prepares all branches but that at b, which decides.
func delegated(names ...string) []Transaction {
	all := decided(ofClient(names...))
	for i := range all {
		all[i].Delegate = "b"
	}
	return all
}

// terse has clients say no more than how the delegate ended.
func terse(ts []Transaction) []Transaction {
	for i := range ts {
		ts[i].Terse = true
	}
	return ts
}

// leave notes who decides, in the moment in which that is handed to the log: a client hears of the
// transaction later, or never.
func (w *world) leave(r protocol.DelegateRecord) {
	if w.entry(r.ID) != nil {
		return
	}
	at := slices.IndexFunc(w.requests, func(q request) bool {
		b, ok := q.event.(protocol.Begin)
		return ok && b.Request.Delegate != "" && w.clients[q.client].entry < 0
	})
	if at < 0 {
		w.fail(CommitValidity, "%d is left to a branch, and nobody has begun it", r.ID.Seq())
		return
	}
	e := entry{id: r.ID, client: w.requests[at].client, epoch: w.epoch, unheard: true,
		delegate: r.Branches[0].Branch, timeline: r.Branches[0].Evidence.Timeline,
		branches: make([]truth, len(r.Branches))}
	spec := w.sc.Transactions[e.client]
	for _, b := range r.Branches {
		res := int(b.RM) - 1
		e.branches[b.Branch-1] = truth{resource: res, heard: true,
			reader: slices.Contains(spec.Readers, w.sc.Resources[res].Name)}
	}
	w.entries = append(w.entries, e)
}

// checkTold wants it to be durable who decides, before the client hears of its branches.
func (w *world) checkTold(e *entry) {
	durable := slices.ContainsFunc(w.log, func(s stored) bool {
		r, err := record.Decode(txlog.Record{Type: s.kind, Data: []byte(s.body)})
		d, ok := r.(protocol.DelegateRecord)
		return err == nil && ok && d.ID == e.id
	})
	if !durable {
		w.fail(LogBeforeSend, "%d is told, and its delegate is not on the disk", e.id.Seq())
	}
}

// deciderChoices are the steps of a client that is to decide: to commit with a marker once all
// others are ready, and otherwise to call it off.
func (w *world) deciderChoices(all []choice, i int) []choice {
	c, e := &w.clients[i], w.entryOf(i)
	if e.delegate == 0 || c.voted(e.delegate) {
		return all
	}
	ready := len(w.unvoted(i)) == 0
	for _, v := range c.votes {
		ready = ready && (v.Vote == txn.VoteYes || v.Vote == txn.VoteReadOnly)
	}
	refused := slices.ContainsFunc(c.votes, func(v txn.BranchVote) bool {
		return v.Vote != txn.VoteYes && v.Vote != txn.VoteReadOnly
	})
	may := ready || w.sc.Flaw == DecidesFirst
	all = some(all, may, doDecide, i, 0)
	all = some(all, may && w.left.Losses > 0 && w.givesUp(i, int(e.delegate)-1), doDecideGiveUp,
		i, 0)
	all = some(all, ready && w.left.Noes > 0, doDecideNo, i, 0)
	return some(all, refused, doCallOff, i, 0)
}

// takeDecision does one of these steps.
func (w *world) takeDecision(i int, k kind) {
	switch k {
	case doDecide:
		w.decide(i)
	case doDecideGiveUp:
		w.giveUpDecide(i)
	default:
		w.callOff(i)
	}
}

func (c *client) voted(no txn.BranchNo) bool { return votedOf(c.votes, no) }

// decide commits the delegate's branch with its marker, and takes the answer for its vote.
func (w *world) decide(i int) {
	e := w.entryOf(i)
	e.decision = slices.Clone(w.clients[i].votes)
	n := txn.NameOf(e.id, e.delegate)
	v := w.mark(&w.resources[e.branches[e.delegate-1].resource], n)
	w.vote(i, v)
	w.trace.say("the client commits %s with its marker: %s", describeName(n), describeVote(v))
	w.checkAtomicity(e.id)
}

// mark is the commit of a session with a marker, which fails if there is one.
func (w *world) mark(r *resource, n txn.Name) txn.BranchVote {
	e, t := w.entry(n.ID()), w.truth(n)
	v := txn.BranchVote{Branch: n.Branch, Vote: txn.VoteNo}
	if !r.active(n) || r.marker(n) != 0 || r.timeline != e.timeline {
		t.ended = t.ended || !t.committed
		r.drop(n)
		return v
	}
	o := r.write(opMark, n)
	r.drop(n)
	e.marked = true
	w.noteCommitted(n)
	v.Vote, v.Evidence = txn.VoteCommitted, r.evidenceOf(o)
	return v
}

// giveUpDecide is a client whose commit with a marker does not answer. It may still succeed.
func (w *world) giveUpDecide(i int) {
	e := w.entryOf(i)
	e.decision = slices.Clone(w.clients[i].votes)
	n := txn.NameOf(e.id, e.delegate)
	w.addCall(call{stale: true, client: true, msg: protocol.Message{Act: protocol.ActDecide,
		RM: rm(e.branches[e.delegate-1].resource), ID: e.id, Name: n}})
	w.vote(i, txn.BranchVote{Branch: n.Branch})
	w.trace.say("the commit of %s with its marker does not answer", describeName(n))
}

// callOff ends the delegate's session without a marker.
func (w *world) callOff(i int) {
	e := w.entryOf(i)
	n := txn.NameOf(e.id, e.delegate)
	e.branches[e.delegate-1].ended = true
	w.resources[e.branches[e.delegate-1].resource].drop(n)
	w.vote(i, txn.BranchVote{Branch: n.Branch, Vote: txn.VoteNo})
	w.trace.say("the client rolls %s back", describeName(n))
	w.checkAtomicity(e.id)
}

// decideAt is the resource's answer to the coordinator: the marker, or a new one that says never.
func (w *world) decideAt(r *resource, n txn.Name) (txn.Standing, txn.Evidence) {
	found := txn.Evidence{Identity: r.identity, Position: r.position()}
	switch r.marker(n) {
	case opMark:
		return txn.StandingCommitted, found
	case opNever:
		return txn.StandingRolledBack, found
	}
	if w.sc.Flaw != LooksOnly {
		r.write(opNever, n)
	}
	return txn.StandingRolledBack, found
}

// removed takes markers away.
func (w *world) removed(rem protocol.Removal) {
	r := &w.resources[rem.RM-1]
	for _, id := range rem.IDs {
		e := w.entry(id)
		w.trace.say("the marker of %d at %s is removed", id.Seq(), r.name)
		if e == nil || !e.ended {
			w.fail(Forget, "the marker of %d is removed, and its end is not durable", id.Seq())
			return
		}
		r.wal = append(r.wal, op{kind: opUnmark, name: txn.NameOf(id, e.delegate)})
	}
}

// marker is opMark or opNever, or zero if there is none.
func (r *resource) marker(n txn.Name) opKind {
	for _, o := range slices.Backward(r.wal) {
		switch {
		case o.name != n:
		case o.kind == opUnmark:
			return 0
		case o.kind == opMark, o.kind == opNever:
			return o.kind
		}
	}
	return 0
}

// markers lists the transactions that have a marker of their commit here.
func (r *resource) markers() []txn.ID {
	var all []txn.ID
	for _, o := range r.wal {
		if o.kind == opMark && r.marker(o.name) == opMark && !slices.Contains(all, o.name.ID()) {
			all = append(all, o.name.ID())
		}
	}
	return all
}

// lingering is a transaction whose marker nobody has removed, though nobody needs it.
func (w *world) lingering() (txn.ID, bool) {
	for i := range w.resources {
		for _, id := range w.resources[i].markers() {
			if e := w.entry(id); e != nil && e.heuristic == 0 {
				return id, true
			}
		}
	}
	return txn.ID{}, false
}

// undone says whether a failover has taken the commit of a delegate's branch back, and its marker
// with it: as long as nobody has acted upon that, the whole transaction may be rolled back.
func (w *world) undone(e *entry, i int) bool {
	return int(e.delegate) == i+1 && e.branches[i].lost
}

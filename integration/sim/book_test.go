package sim

import (
	"slices"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// book is what has really happened: what nobody in the world knows as a whole, and what the
// checkers compare with everything that is said and done.
type book struct {
	w    *world
	all  []*entry
	bySq map[txn.Seq]*entry
	// low is the low-water mark that is durable: outcomes and keys below it are forgotten.
	low txn.Seq
}

// entry is the true history of one transaction.
type entry struct {
	id txn.ID
	// life is the one that began it.
	life     *life
	key      string
	branches []truth
	// deadline is by the clock of that life.
	deadline protocol.Instant

	// deciding is the life that has a record in flight which decides it, or leaves it to a
	// resource.
	deciding *life
	// committed: a COMMIT record is durable, and listed says for which branches, by their bits.
	committed bool
	listed    uint64
	// asking: a ONE_PHASE or an INTENT record is durable, and no record says how it ended. aborted:
	// an ABORT record is durable.
	asking, aborted bool
	// intending is the life that has an INTENT record in flight, and intent what a durable one
	// lists, by their bits: then asking is true until a COMMIT or an ABORT is durable too.
	intending *life
	intent    uint64
	// delegate is the branch to which the decision was left, covered what the durable record of
	// that lists, by their bits, and leftAt where its database was by then; intending and asking
	// are as for an intent. unheard: no client was told of the transaction. marked: the branch was
	// committed with its marker. ended: END is durable.
	delegate               txn.BranchNo
	covered                uint64
	leftAt                 txn.Evidence
	unheard, marked, ended bool
	// implied: somebody was told of the commit ahead of its record.
	implied bool
	// heuristic says for which branches a HEURISTIC record is durable.
	heuristic uint64
	// told is the last final answer that was given, to whomever.
	told txn.Outcome
	// toldBack: somebody was told that it is rolled back. sentBack: a branch was told to.
	toldBack, sentBack bool
	// complete: its client has called others, and says of which branches it has heard. callOf is
	// the call that is the cause of a part.
	complete bool
	callOf   map[string]*call
}

// truth is what has really happened to one branch.
type truth struct {
	db int
	// part is whose branch it is, and heard says that its client has heard of it.
	part  string
	heard bool
	// reader: it writes nothing. readOnly: it has said so, and ended.
	reader, readOnly bool
	// prepared: it was prepared durably, once, with this evidence.
	prepared bool
	evidence txn.Evidence
	// committed and rolledBack were done by the coordinator's word, ended by the session itself.
	committed, rolledBack, ended bool
	// humanCommit and humanRollback were done by a person; lost by a failover, which may also have
	// returned it to where it was before it ended.
	humanCommit, humanRollback, lost, returned bool
	// proven: a coordinator was told of the commit, truly. alarmed: people were told of the branch.
	proven, alarmed bool
	// intended is what an INTENT record says of the database. absent: an inquiry has come before
	// the branch was prepared, or where no failover can have taken it away.
	intended txn.Evidence
	absent   bool
	// misled: an old primary has answered an inquiry, before anybody had seen the failover.
	misled bool
}

func bit(no txn.BranchNo) uint64 { return 1 << no }

// touched says whether somebody other than the coordinator has ended the branch.
func (t *truth) touched() bool { return t.humanCommit || t.humanRollback || t.lost }

// done says whether the branch was committed, by whomever.
func (t *truth) done() bool { return t.committed || t.humanCommit }

// readsOnly says whether no branch has written: either answer about such a transaction is true.
func (e *entry) readsOnly() bool {
	return !slices.ContainsFunc(e.branches, func(t truth) bool { return !t.readOnly })
}

func (b *book) entry(id txn.ID) *entry {
	if id.Log() != logID {
		return nil
	}
	return b.bySq[id.Seq()]
}

// truth is that of a branch, or nil if there is no such branch.
func (b *book) truth(n txn.Name) *truth {
	if n.Log != logID {
		return nil
	}
	e := b.bySq[n.Seq]
	if e == nil || n.Branch < 1 || int(n.Branch) > len(e.branches) {
		return nil
	}
	return &e.branches[n.Branch-1]
}

// begun takes what a coordinator says about a transaction that was begun, or got more branches.
func (b *book) begun(l *life, r txn.BeginRequest, x *txn.Begun) {
	e := b.entry(x.ID)
	if r.ID.IsZero() {
		switch {
		case e == nil:
			e = &entry{id: x.ID, life: l}
			b.add(e, protocol.Instant(x.Timeout))
		case !e.unheard:
			b.w.fail(exactlyOnce, "the id of transaction %d is given out twice", x.ID.Seq())
			return
		}
		e.key, e.deadline, e.unheard = r.Key, l.clock()+protocol.Instant(x.Timeout), false
	}
	b.w.checkBegun(e, x)
	for _, n := range x.Branches {
		b.enlisted(e, r.Part, n)
	}
}

// enlisted takes a branch of which a part is told.
func (b *book) enlisted(e *entry, part string, n txn.Enlisted) {
	switch no := int(n.Branch); {
	case no <= len(e.branches) && e.branches[no-1].part != part:
		b.w.fail(exactlyOnce, "branch %d of %d is given to two parts", no, e.id.Seq())
	case no == len(e.branches)+1:
		e.branches = append(e.branches, truth{db: int(n.Resource[0] - 'a'), part: part,
			heard: part == ""})
	case no > len(e.branches):
		b.w.fail(clientTruth, "branch %d of %d is told, and none before it", no, e.id.Seq())
	}
}

// add enters a transaction that lives for so long, should its client go away.
func (b *book) add(e *entry, timeout protocol.Instant) {
	b.all = append(b.all, e)
	b.bySq[e.id.Seq()] = e
	if !b.w.opt.calm {
		b.w.trouble(b.w.now + instant(timeout))
	}
}

// appended holds a record against what has happened, at the moment at which it is handed to the
// log.
func (b *book) appended(l *life, r protocol.Record) {
	b.w.checkAppend(r)
	switch r := r.(type) {
	case protocol.CommitRecord:
		b.decides(l, r.ID)
		if b.w.opt.flaw == failsAppends && b.w.some(100) {
			b.w.guess(r.ID)
		}
	case protocol.OnePhaseRecord:
		b.decides(l, r.ID)
	case protocol.IntentRecord:
		if e := b.entry(r.ID); e != nil {
			e.intending = l
		}
	case protocol.DelegateRecord:
		b.leaving(l, r)
	}
	b.w.ambush()
}

func (b *book) decides(l *life, id txn.ID) {
	if e := b.entry(id); e != nil {
		e.deciding = l
	}
}

// durable keeps what the disk now says. A record may be reported, and then found by a restart, and
// then found in a snapshot.
func (b *book) durable(r protocol.Record) {
	switch r := r.(type) {
	case protocol.ResourceRecord:
		b.w.dbs[r.Name[0]-'a'].registered = true
	case protocol.RangeRecord:
		b.low = max(b.low, r.Low)
	case protocol.CommitRecord:
		if e := b.entry(r.ID); e != nil {
			b.decided(e, r)
		}
	case protocol.OnePhaseRecord:
		if e := b.entry(r.ID); e != nil && !e.committed && !e.aborted {
			e.asking, e.deciding = true, nil
		}
	case protocol.IntentRecord:
		b.intended(r)
	case protocol.DelegateRecord:
		b.leftTo(r)
	case protocol.EndRecord:
		for _, id := range r.IDs {
			if e := b.entry(id); e != nil {
				e.ended = true
			}
		}
	case protocol.AbortRecord:
		b.aborted(b.entry(r.ID))
	case protocol.HeuristicRecord:
		b.entry(r.ID).heuristic |= bit(r.Branch)
	}
}

func (b *book) intended(r protocol.IntentRecord) {
	e := b.entry(r.ID)
	if e == nil || e.intent != 0 {
		return
	}
	b.w.count[intents]++
	b.w.say("the intent of %d is durable", "", uint64(e.id.Seq()))
	e.asking, e.intending = true, nil
	for _, x := range r.Branches {
		e.intent |= bit(x.Branch)
		e.branches[x.Branch-1].intended = x.Evidence
	}
}

func (b *book) aborted(e *entry) {
	if e.intent != 0 && !e.aborted {
		b.w.count[abortsRecorded]++
	}
	e.asking, e.aborted = false, true
}

func (b *book) decided(e *entry, r protocol.CommitRecord) {
	if e.committed {
		return
	}
	b.w.say("the commit of %d is durable", "", uint64(e.id.Seq()))
	e.committed, e.asking, e.deciding = true, false, nil
	for _, x := range r.Branches {
		e.listed |= bit(x.Branch)
	}
	b.w.checkKeys(e)
}

func (b *book) reader(n txn.Name) bool { return b.truth(n).reader }

func (b *book) readOnly(n txn.Name) {
	b.w.count[voteReadOnly]++
	b.truth(n).readOnly = true
}

// prepared keeps that a branch was prepared durably.
func (b *book) prepared(n txn.Name, ev txn.Evidence) {
	e, t := b.bySq[n.Seq], b.truth(n)
	if t.prepared {
		b.w.fail(exactlyOnce, "%s is prepared twice", n)
	}
	if e.toldBack || e.committed || e.life != b.w.life {
		b.w.count[zombie]++
	}
	t.prepared, t.evidence = true, ev
	b.w.ambush()
}

// inquired keeps that an inquiry was answered by a server that does not list the branch. One with a
// memory of what has ended knows better.
func (b *book) inquired(n txn.Name, timeline uint32, old bool) {
	t := b.truth(n)
	t.misled = t.misled || old
	forgetful := !b.w.dbs[t.db].spec.kv && (b.meddled(n) || t.intended.Timeline == timeline)
	if !t.prepared || forgetful {
		t.absent = true
	}
}

// ended keeps that a session that wrote is over, and was not prepared.
func (b *book) ended(n txn.Name) {
	if t := b.truth(n); !t.readOnly {
		t.ended = true
		b.w.checkAtomicity(b.bySq[n.Seq])
	}
}

func (b *book) committed(n txn.Name) {
	e, t := b.bySq[n.Seq], b.truth(n)
	t.committed, t.lost = true, false
	b.w.checkAtomicity(e)
	if e.toldBack || e.aborted {
		b.w.fail(clientTruth, "%s commits after its transaction was rolled back", n)
	}
	b.w.checkOnce(e, t)
}

func (b *book) rolledBack(n txn.Name) {
	t := b.truth(n)
	t.rolledBack, t.lost = true, false
	if !t.heard {
		b.w.count[unheardOf]++
	}
	b.w.checkAtomicity(b.bySq[n.Seq])
}

func (b *book) byHand(n txn.Name, commit bool) {
	t := b.truth(n)
	if t.lost = false; commit {
		t.humanCommit = true
	} else {
		t.humanRollback = true
	}
}

// meddled says whether a person has ended a branch.
func (b *book) meddled(n txn.Name) bool {
	t := b.truth(n)
	return t.humanCommit || t.humanRollback
}

// cut keeps what a failover has taken away. A branch whose end alone was cut off is prepared again;
// one whose preparation was is lost.
func (b *book) cut(s *server, ops []op) {
	for _, o := range ops {
		t := b.truth(o.name)
		if o.kind == opMark {
			b.w.count[markerLost]++
		}
		if t != nil && o.kind != opNever {
			t.lost = t.lost || s.rows[o.name].kind == 0
			t.returned = true
		}
	}
}

// noted keeps that people were told of a branch: by an alarm of its own or, after a restart, by the
// outcome of its transaction.
func (b *book) noted(n protocol.Note) {
	e := b.entry(n.ID)
	if e == nil {
		return
	}
	over := n.Kind == protocol.NoteDone && n.Result.Outcome.IsHeuristic()
	for i := range e.branches {
		if over || n.Kind == protocol.NoteAlarm && int(n.Name.Branch) == i+1 {
			e.branches[i].alarmed = true
		}
	}
}

package sim

import (
	"errors"
	"slices"

	"github.com/gavel-tx/gavel/coordinator/core"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// database is a resource: servers, of which the address leads to one, and the adapter in front of
// them, which remembers fences and how far the history had come.
type database struct {
	w        *world
	no       int
	name     string
	spec     databaseOptions
	identity txn.Identity

	// primary has the truth. old is one that was deposed and may answer again. at is where the
	// address leads.
	primary, old, at *server
	// copy is a backup that was restored beside the primary, and kept how many operations it has
	// of it. held: it has answered, and was found to be behind.
	copy *server
	kept int
	held bool
	up   bool
	// forgetful: the adapter has just been started, and takes what it finds for the truth when it
	// lists or describes.
	forgetful bool
	// registered: the log says, durably, who it is.
	registered bool
	// elsewhere: somebody else has the right to finish the branches of our log.
	elsewhere bool

	// fence and seen are the adapter's, and durable.
	fence  txn.Fence
	seen   txn.Position
	decoys []participant.Listed
}

var (
	errDown    = errors.New("sim: the database does not answer")
	errCut     = errors.New("sim: the connection broke on the way")
	errHeld    = errors.New("sim: the history went backwards")
	errTimeout = errors.New("sim: no answer in time")
)

func newDatabase(w *world, no int) *database {
	d := &database{w: w, no: no, name: string(rune('a' + no)), spec: w.opt.databases[no],
		identity: txn.Identity{System: uint64(no + 1), Database: 7}, up: true}
	d.primary = newServer(d.identity)
	d.at = d.primary
	if d.spec.decoys {
		w.count[decoy] += 3
		// One of another log, one of our log that another role owns, and one that was forged: its
		// number lies centuries ahead.
		d.decoys = []participant.Listed{
			{Name: txn.Name{Log: foreignLog, Seq: 1, Branch: 1}, Ours: true},
			{Name: txn.Name{Log: logID, Seq: 1, Branch: 40}},
			{Name: txn.Name{Log: logID, Seq: 1 << 50, Branch: 1}, Ours: true},
		}
	}
	return d
}

// question is a call of a resource.
type question struct {
	what     core.What
	fence    txn.Fence
	branches []participant.Branch
	// ids are those whose markers are to be removed.
	ids []txn.ID
	// floor is how far the coordinator had seen the history come when it asked.
	floor txn.Position
}

// serve is the adapter. Whatever it does is done at this instant, and durable.
func (d *database) serve(q question) core.Answer {
	d.leaveCopy()
	if !d.up {
		return core.Answer{Err: errDown}
	}
	forgets := d.forgetful && (q.what == core.List || q.what == core.Describe)
	if q.what != core.Describe {
		if err := d.admit(q.fence); err != nil {
			d.w.count[fenced]++
			d.w.say("%s refuses epoch %d", d.name, uint64(q.fence.Epoch))
			return core.Answer{Err: err}
		}
		if q.fence.Epoch < d.fence.Epoch {
			d.w.fail(fencing, "%s obeys epoch %d after epoch %d", d.name, q.fence.Epoch,
				d.fence.Epoch)
		}
	}
	held := !forgets && d.behind()
	if held && d.at == d.copy && !d.held {
		d.held = true
		d.w.count[restore]++
	}
	if !held && d.at.identity == d.identity && before(d.seen, d.at.position()) {
		d.seen = d.at.position()
	}
	switch q.what {
	case core.Describe, core.List:
		if held {
			return core.Answer{Err: errHeld}
		}
		if q.what == core.List {
			return core.Answer{Listing: d.list()}
		}
		return core.Answer{Description: participant.Description{Kind: "sim",
			Identity: d.at.identity, Position: d.at.position(), Evidence: true,
			OnePhase: d.spec.kv, Delegate: d.spec.marks}}
	case core.Prepare:
		return d.votes(q, held)
	case core.Inquire:
	default:
		if d.elsewhere {
			d.w.count[notResolver]++
			return core.Answer{Err: participant.ErrNotResolver}
		}
	}
	if q.what == core.RemoveMarkers {
		return d.unmark(q.ids, held)
	}
	return d.findings(q, held)
}

// behind says whether the address leads to another database than ours, or to an older state of it
// than was seen.
func (d *database) behind() bool {
	return d.at.identity != d.identity || before(d.at.position(), d.seen)
}

// leaveCopy ends the rule of a backup that nothing could tell from the primary: the operators have
// to be faster than that.
func (d *database) leaveCopy() {
	if d.at == d.copy && !before(d.at.position(), d.seen) {
		d.back()
	}
}

// admit judges a fence as participants do. A fence is durable before the call acts.
func (d *database) admit(f txn.Fence) error {
	switch {
	case f.Epoch < d.fence.Epoch && d.w.opt.flaw == obeysAll:
		return nil
	case f.Epoch < d.fence.Epoch:
		return participant.ErrFenced
	case f.Epoch > d.fence.Epoch && f.LSN < d.fence.LSN:
		return participant.ErrRegression
	}
	if f.Epoch > d.fence.Epoch {
		d.endOld(f.Epoch)
	}
	d.fence = txn.Fence{Log: f.Log, Epoch: f.Epoch, LSN: max(f.LSN, d.fence.LSN)}
	return nil
}

// endOld rolls back the sessions of older epochs that run here and are not prepared.
func (d *database) endOld(e txn.Epoch) {
	if !d.spec.hosted {
		return
	}
	for _, s := range d.at.sessions {
		if s.epoch < e && !s.ended {
			d.end(s)
		}
	}
}

// end ends a session that wrote something, with somebody watching.
func (d *database) end(s *session) {
	s.ended = true
	d.w.book.ended(s.name)
}

func (d *database) list() participant.Listing {
	l := participant.Listing{Identity: d.at.identity, Position: d.at.position(),
		Limit: d.spec.slots, Used: len(d.at.prepared), Markers: d.at.marked()}
	for _, n := range d.at.prepared {
		l.Branches = append(l.Branches, participant.Listed{Name: n, Ours: true,
			Evidence: d.evidence(n)})
	}
	l.Branches = append(l.Branches, d.decoys...)
	if d.w.opt.flaw == takesForeign {
		for i := range l.Branches {
			l.Branches[i].Ours, l.Branches[i].Name.Log = true, logID
		}
	}
	return l
}

// evidence is what a vote carries now.
func (d *database) evidence(n txn.Name) txn.Evidence {
	return txn.Evidence{Identity: d.at.identity, Position: d.at.position(), XID: d.at.rows[n].xid}
}

func (d *database) votes(q question, held bool) core.Answer {
	var a core.Answer
	for _, b := range q.branches {
		v := participant.Vote{Reason: "held"}
		if !held {
			v = d.vote(b.Name)
		}
		d.w.say("%s votes %d on %d.%d", d.name, uint64(v.Vote), uint64(b.Name.Seq),
			uint64(b.Name.Branch))
		a.Votes = append(a.Votes, v)
	}
	return a
}

// vote is the vote of one branch. What is listed is a Yes. A session that runs here is prepared
// now, and one that was seen to end votes as it ended. Of all others nobody can say anything.
func (d *database) vote(n txn.Name) participant.Vote {
	if d.at.isPrepared(n) {
		return participant.Vote{Vote: txn.VoteYes, Evidence: d.evidence(n)}
	}
	s := d.at.session(n)
	switch {
	case s == nil || !d.spec.hosted:
		return participant.Vote{Reason: "it is not listed"}
	case s.ended && s.readOnly:
		return participant.Vote{Vote: txn.VoteReadOnly}
	case s.ended:
		return participant.Vote{Vote: txn.VoteNo, Reason: "it has ended", SQLState: "40001"}
	case d.w.book.reader(n):
		s.ended, s.readOnly = true, true
		d.w.book.readOnly(n)
		return participant.Vote{Vote: txn.VoteReadOnly}
	case d.w.some(d.w.opt.refuse) || d.full():
		d.end(s)
		d.w.count[voteNo]++
		return participant.Vote{Vote: txn.VoteNo, Reason: "a conflict", SQLState: "40001"}
	}
	return participant.Vote{Vote: txn.VoteYes, Evidence: d.prepare(s)}
}

// full says whether no slot is left for another prepared branch.
func (d *database) full() bool {
	if len(d.at.prepared) < d.spec.slots {
		return false
	}
	d.w.count[slotsFull]++
	return true
}

// prepare makes a session a prepared branch.
func (d *database) prepare(s *session) txn.Evidence {
	d.at.drop(s)
	if d.w.opt.flaw == votesEarly && d.w.some(100) {
		// It says so, and has not done it.
		d.w.book.ended(s.name)
		return txn.Evidence{Identity: d.identity, Position: d.at.position(), XID: s.xid}
	}
	d.at.write(opPrepare, s.name, s.xid)
	ev := d.evidence(s.name)
	d.w.say("%s prepares %d.%d", d.name, uint64(s.name.Seq), uint64(s.name.Branch))
	d.w.book.prepared(s.name, ev)
	if d.w.opt.flaw == unilateral {
		d.w.after(d.w.spread(second), func() { d.impatient(s.name) })
	}
	if d.at != d.primary {
		d.w.count[strayPrepare]++
		d.w.book.truth(s.name).lost = true
	}
	return ev
}

// impatient is the flaw of a database that rolls back by itself what was prepared long ago.
func (d *database) impatient(n txn.Name) {
	if d.at.isPrepared(n) {
		d.w.say("%s rolls %d.%d back by itself", d.name, uint64(n.Seq), uint64(n.Branch))
		d.at.finish(n, false)
		d.w.book.rolledBack(n)
	}
}

// findings answers the calls that finish branches. The connection may break after some of them.
func (d *database) findings(q question, held bool) core.Answer {
	var a core.Answer
	for i, b := range q.branches {
		if i > 0 && !d.w.healed && d.w.opt.cut > 0 && d.w.some(d.w.opt.cut) {
			d.w.count[cutBatch]++
			d.w.say("%s breaks the connection after %d branches", d.name, uint64(i))
			return core.Answer{Err: errCut}
		}
		f := participant.Finding{Standing: txn.StandingHeld, Reason: "held"}
		if !held {
			f = d.finding(q.what, b)
		}
		d.w.say("%s: act %d on %d.%d finds standing %d", d.name, uint64(q.what),
			uint64(b.Name.Seq), uint64(b.Name.Branch), uint64(f.Standing))
		a.Findings = append(a.Findings, f)
	}
	return a
}

func (d *database) finding(what core.What, b participant.Branch) participant.Finding {
	d.w.checkOurs(d, b.Name)
	if what == core.Decide {
		return d.decide(b)
	}
	var s txn.Standing
	switch what {
	case core.Commit:
		s = d.commit(b)
	case core.Rollback:
		s = d.rollback(b)
	case core.OnePhase:
		s = d.onePhase(b)
	case core.Inquire:
		s = d.inquire(b)
	}
	f := participant.Finding{Standing: s}
	if what == core.Inquire {
		f.Evidence = d.shown(b, s)
	}
	if s != txn.StandingCommitted {
		f.Reason = s.String()
	}
	return f
}

func (d *database) commit(b participant.Branch) txn.Standing {
	if d.w.opt.flaw == acksEarly && d.w.some(100) {
		return txn.StandingCommitted
	}
	if d.at.isPrepared(b.Name) {
		d.at.finish(b.Name, true)
		d.w.book.committed(b.Name)
		return txn.StandingCommitted
	}
	return d.judge(b)
}

func (d *database) rollback(b participant.Branch) txn.Standing {
	if d.at.isPrepared(b.Name) {
		d.at.finish(b.Name, false)
		d.w.book.rolledBack(b.Name)
		return txn.StandingRolledBack
	}
	if s := d.at.session(b.Name); s != nil && d.spec.hosted && !s.ended {
		d.end(s)
	}
	if _, known := d.at.rows[b.Name]; d.spec.kv && !known {
		// No work of this branch is taken any more.
		d.at.write(opRollback, b.Name, 0)
	}
	return d.judge(b)
}

// judge proves how a branch ended that is not prepared. Of a transaction's number nothing follows
// before the server is known to have the vote in its history.
func (d *database) judge(b participant.Branch) txn.Standing {
	ev, s := b.Evidence, d.at
	switch {
	case d.w.opt.flaw == knowsBetter,
		d.w.opt.flaw == silent && d.w.book.meddled(b.Name):
		return txn.StandingCommitted
	case !ev.Identity.IsZero() && ev.Identity != s.identity:
		return txn.StandingHeld
	case before(s.position(), ev.Position):
		return txn.StandingHeld
	case ev.XID == 0:
		return txn.StandingGone
	case s.timeline > ev.Timeline && !s.contains(ev.Position):
		return txn.StandingGone
	}
	return s.status(ev.XID)
}

// onePhase commits a session as it is, in one durable step with the memory of it.
func (d *database) onePhase(b participant.Branch) txn.Standing {
	if s, known := d.decided(b.Name); known {
		return s
	}
	s := d.at.session(b.Name)
	switch {
	case s == nil || s.ended && !s.readOnly:
		return d.ruleOut(b.Name)
	case !s.ended && d.w.some(d.w.opt.refuse):
		d.end(s)
		return d.ruleOut(b.Name)
	}
	d.at.drop(s)
	d.at.write(opPlain, b.Name, s.xid)
	d.w.book.committed(b.Name)
	return txn.StandingCommitted
}

func (d *database) inquire(b participant.Branch) txn.Standing {
	prepared := d.at.isPrepared(b.Name)
	if !prepared {
		d.w.book.inquired(b.Name, d.at.timeline, d.at != d.primary)
	}
	switch {
	case prepared && (d.w.opt.flaw != denies || !d.w.some(200)):
		return txn.StandingPrepared
	case prepared:
		return txn.StandingGone
	case !d.spec.kv:
		return d.judge(b)
	}
	if s, known := d.decided(b.Name); known {
		return s
	}
	return d.ruleOut(b.Name)
}

// shown is the evidence of an inquiry. A database that keeps no memory of what has ended knows the
// number of a branch only while that is prepared, or from the vote.
func (d *database) shown(b participant.Branch, s txn.Standing) txn.Evidence {
	ev := d.evidence(b.Name)
	if s != txn.StandingPrepared && !d.spec.kv {
		ev.XID = b.Evidence.XID
	}
	if s != txn.StandingPrepared && d.w.opt.flaw == misdates {
		ev.Timeline++
	}
	return ev
}

// decided is how a branch ended that is remembered. One that is prepared is committed by whoever
// asks for one phase.
func (d *database) decided(n txn.Name) (s txn.Standing, known bool) {
	switch d.at.rows[n].kind {
	case opPrepare:
		d.at.finish(n, true)
		d.w.book.committed(n)
		return txn.StandingCommitted, true
	case opCommit, opPlain:
		return txn.StandingCommitted, true
	case opRollback:
		return txn.StandingRolledBack, true
	}
	return 0, false
}

// ruleOut promises that a branch never commits. Every commit is remembered, so that its absence is
// a proof.
func (d *database) ruleOut(n txn.Name) txn.Standing {
	d.at.write(opRollback, n, 0)
	return txn.StandingRolledBack
}

// crash ends all sessions, and nobody is left who saw them end.
func (d *database) crash() {
	d.w.count[databaseCrash]++
	d.w.say("%s crashes", d.name)
	d.up = false
	d.at.other()
	d.forget(d.at.crash())
	d.w.after(d.w.spread(2*second), func() { d.up = true })
}

func (d *database) forget(lost []*session) {
	for _, s := range lost {
		if !s.ended {
			d.w.book.ended(s.name)
		}
	}
}

// failover promotes a standby that lacks the last operations. The old primary stays as it is, for
// those who still have its address.
func (d *database) failover(lacks int) {
	lacks = min(lacks, len(d.primary.wal))
	d.w.say("%s fails over, and loses %d operations", d.name, uint64(lacks))
	cut := slices.Clone(d.primary.wal[len(d.primary.wal)-lacks:])
	d.old, d.primary = d.primary, d.primary.fork(lacks)
	d.at = d.primary
	d.forget(d.old.crash())
	d.w.book.cut(d.primary, cut)
	d.primary.other()
}

// oldAnswers lets the address lead to the deposed primary for a while.
func (d *database) oldAnswers() {
	if d.w.healed || d.at != d.primary {
		return
	}
	d.w.count[oldPrimary]++
	d.w.say("the address of %s leads to the old primary", d.name)
	d.astray(d.old)
}

// strangerAnswers lets it lead to a database that is none of ours. Before the first registration
// nobody could tell.
func (d *database) strangerAnswers() {
	if !d.registered {
		return
	}
	d.w.count[stranger]++
	d.w.say("the address of %s leads to another database", d.name)
	d.astray(newServer(txn.Identity{System: 99, Database: 7}))
}

// restored lets the address lead to a backup of the database that was restored beside it. That has
// the same identity and timeline, lacks the last operations, and gives their numbers out again. In
// the end the operators turn the address back, or give the primary up for the backup, which then
// begins a new timeline.
func (d *database) restored() {
	lacks := min(1+d.w.rng.IntN(40), len(d.primary.wal))
	if lacks == 0 {
		return
	}
	d.w.say("the address of %s leads to a backup that lacks %d operations", d.name, uint64(lacks))
	d.copy, d.kept, d.held = d.primary.backup(lacks), len(d.primary.wal)-lacks, false
	d.astray(d.copy)
	if d.w.some(500) {
		d.w.after(d.w.spread(3*second), d.giveUp)
	}
}

// giveUp makes the backup the primary, if the address still leads to it.
func (d *database) giveUp() {
	if d.at == d.copy && !d.w.healed {
		d.back()
		d.failover(len(d.primary.wal) - d.kept)
	}
}

// front is where clients are led to. Nobody but the adapter and the sidecar was given the address
// of a backup.
func (d *database) front() *server {
	if d.at == d.copy && !d.spec.hosted {
		return d.primary
	}
	return d.at
}

func (d *database) astray(s *server) {
	d.at, d.forgetful = s, d.w.some(500)
	d.w.after(d.w.spread(3*second), d.back)
}

// back lets the address lead to the primary again.
func (d *database) back() {
	if d.at == d.primary {
		return
	}
	d.w.say("the address of %s leads to the primary again", d.name)
	d.forget(d.at.crash())
	d.at, d.forgetful = d.primary, false
}

// meddle is a person who ends a prepared branch.
func (d *database) meddle(commit bool) {
	if d.at != d.primary || len(d.at.prepared) == 0 {
		return
	}
	n := d.at.prepared[d.w.rng.IntN(len(d.at.prepared))]
	d.w.count[humanRollback]++
	if commit {
		d.w.count[humanRollback]--
		d.w.count[humanCommit]++
	}
	d.w.say("%s: a person ends %d.%d", d.name, uint64(n.Seq), uint64(n.Branch))
	d.at.finish(n, commit)
	d.w.book.byHand(n, commit)
}

package explore

import (
	"slices"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// resource is a database like PostgreSQL: a history of operations on one timeline after the other.
// Whatever is true of a branch follows from that history, so that a failover needs no care: it cuts
// operations off and starts a new timeline.
type resource struct {
	name     string
	evidence bool
	identity txn.Identity
	timeline uint32
	// forks says where each earlier timeline was left.
	forks []fork
	wal   []op
	// sessions are branches with work that is not prepared, in the order of their names.
	sessions []session
	// fence is the highest epoch that has called. It survives everything.
	fence txn.Epoch
	// registered: the coordinator of this epoch knows what it can do.
	registered bool
	// down: the coordinator of this epoch was told that it does not answer.
	down bool
	// decoys are prepared here and not to be touched.
	decoys []protocol.SweptName
}

type fork struct {
	timeline uint32
	end      uint64
}

// session is a transaction that is open, or that its process has seen end.
type session struct {
	name  txn.Name
	ended bool
}

// op is one durable operation on a branch.
type op struct {
	kind opKind
	name txn.Name
	xid  uint64
}

type opKind uint8

const (
	opPrepare opKind = iota + 1
	opCommit
	opRollback
	// opPlain is a commit without a prepare, opMark one with a marker.
	opPlain
	opMark
	// opNever is a marker that says that the transaction never commits. opUnmark removes markers.
	opNever
	opUnmark
)

const (
	firstLSN = 100
	firstXID = 700
)

func newResource(sc *Scenario, i int) resource {
	spec := sc.Resources[i]
	r := resource{name: spec.Name, evidence: spec.Evidence, timeline: 1,
		identity: txn.Identity{System: uint64(i + 1), Database: 7}}
	if !spec.Decoys {
		return r
	}
	name := func(log txn.LogID, seq txn.Seq, branch txn.BranchNo, ours bool) {
		r.decoys = append(r.decoys, protocol.SweptName{Ours: ours,
			Name: txn.Name{Log: log, Seq: seq, Branch: branch}})
	}
	// Of another log; in another role or database; of a branch that the transaction does not have;
	// and far beyond everything that was handed out.
	name(foreignLog, 1, 1, true)
	name(logID, 1, 40, false)
	name(logID, 500, 1, true)
	return r
}

func (r *resource) position() txn.Position {
	return txn.Position{Timeline: r.timeline, LSN: firstLSN + uint64(len(r.wal))}
}

// admit is the fence: a call of an older epoch than one that was seen is refused.
func (r *resource) admit(e txn.Epoch, ignored bool) bool {
	if e < r.fence {
		return ignored
	}
	r.fence = e
	return true
}

// standing is where a branch stands by the history alone.
func (r *resource) standing(n txn.Name) (txn.Standing, op) {
	for _, o := range slices.Backward(r.wal) {
		if o.name != n {
			continue
		}
		switch o.kind {
		case opPrepare:
			return txn.StandingPrepared, o
		case opRollback:
			return txn.StandingRolledBack, o
		case opNever, opUnmark:
			continue
		}
		return txn.StandingCommitted, o
	}
	return txn.StandingUnknown, op{}
}

func (r *resource) isPrepared(n txn.Name) bool {
	s, _ := r.standing(n)
	return s == txn.StandingPrepared
}

// wasPrepared says whether the history has the preparation of a branch in it.
func (r *resource) wasPrepared(n txn.Name) bool {
	return slices.ContainsFunc(r.wal, func(o op) bool {
		return o.kind == opPrepare && o.name == n
	})
}

// prepared lists the branches that are, in the order of their preparation.
func (r *resource) prepared() []txn.Name {
	var names []txn.Name
	for _, o := range r.wal {
		if o.kind == opPrepare && r.isPrepared(o.name) && !slices.Contains(names, o.name) {
			names = append(names, o.name)
		}
	}
	return names
}

// listed is what a listing shows. An adapter that is mistaken takes foreign branches for its own.
func (r *resource) listed(mistaken bool) []protocol.SweptName {
	var names []protocol.SweptName
	for _, n := range r.prepared() {
		names = append(names, protocol.SweptName{Name: n, Ours: true})
	}
	names = append(names, r.decoys...)
	if mistaken {
		for i := range names {
			names[i].Ours, names[i].Name.Log = true, logID
		}
	}
	return names
}

// nextXID numbers transactions. After a failover that lost some their numbers are given out again.
func (r *resource) nextXID() uint64 {
	next := uint64(firstXID)
	for _, o := range r.wal {
		next = max(next, o.xid+1)
	}
	return next
}

// evidenceOf is taken with the vote. An adapter that cannot prove anything later has no number.
func (r *resource) evidenceOf(o op) txn.Evidence {
	ev := txn.Evidence{Identity: r.identity, Position: r.position()}
	if r.evidence {
		ev.XID = o.xid
	}
	return ev
}

// session finds a branch's session.
func (r *resource) session(n txn.Name) *session {
	for i := range r.sessions {
		if r.sessions[i].name == n {
			return &r.sessions[i]
		}
	}
	return nil
}

// active says whether the branch has work that can be prepared.
func (r *resource) active(n txn.Name) bool {
	s := r.session(n)
	return s != nil && !s.ended
}

// open starts a session.
func (r *resource) open(n txn.Name) {
	if r.session(n) == nil {
		r.sessions = append(r.sessions, session{name: n})
	}
}

// drop forgets a session, because it became a prepared branch or its process lost it.
func (r *resource) drop(n txn.Name) {
	r.sessions = slices.DeleteFunc(r.sessions, func(s session) bool { return s.name == n })
}

// write adds an operation with the branch's own number, or a new one.
func (r *resource) write(kind opKind, n txn.Name) op {
	o := op{kind: kind, name: n}
	if _, before := r.standing(n); before.xid != 0 {
		o.xid = before.xid
	} else {
		o.xid = r.nextXID()
	}
	r.wal = append(r.wal, o)
	return o
}

// judge proves how a branch ended that is not prepared, from the evidence of its vote: the
// transaction number says something only on a history that contains the vote.
func (r *resource) judge(ev txn.Evidence) txn.Standing {
	switch {
	case ev.XID == 0:
		return txn.StandingGone
	case r.timeline > ev.Timeline && !r.contains(ev.Position):
		return txn.StandingGone
	}
	for _, o := range slices.Backward(r.wal) {
		if o.xid != ev.XID {
			continue
		}
		switch o.kind {
		case opCommit, opPlain, opMark:
			return txn.StandingCommitted
		case opRollback:
			return txn.StandingRolledBack
		}
		return txn.StandingUnknown
	}
	return txn.StandingGone
}

// absent is what a resource that durably knows its commits says of a branch of which it knows
// nothing. A failover after the commit was asked for may have lost just that knowledge.
func (r *resource) absent(ev txn.Evidence) txn.Standing {
	if r.timeline > ev.Timeline {
		return txn.StandingGone
	}
	return txn.StandingRolledBack
}

// contains says whether the history of this timeline has the position in it.
func (r *resource) contains(p txn.Position) bool {
	for _, f := range r.forks {
		if f.timeline == p.Timeline {
			return f.end >= p.LSN
		}
	}
	return false
}

// failover promotes a standby that lacks the last operations. All sessions end with the old
// primary, and nobody is left who saw them end.
func (r *resource) failover(lost int) []op {
	cut := slices.Clone(r.wal[len(r.wal)-lost:])
	r.wal = r.wal[:len(r.wal)-lost]
	// A branch that was cut at every timeline is in no history, however many there are.
	for i := range r.forks {
		r.forks[i].end = min(r.forks[i].end, r.position().LSN)
	}
	r.forks = append(r.forks, fork{r.timeline, r.position().LSN})
	r.timeline++
	r.sessions = nil
	return cut
}

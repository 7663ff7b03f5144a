package sim

import (
	"slices"

	"github.com/gavel-tx/gavel/txn"
)

// server is one PostgreSQL: a history of durable operations on one timeline, and sessions. Whatever
// is true of a branch follows from the history, so that a failover needs no care: a new server is
// made of a part of it.
type server struct {
	identity txn.Identity
	timeline uint32
	// forks says where each earlier timeline was left.
	forks []fork
	wal   []op
	lsn   uint64
	// nextXID numbers transactions. A number that left nothing in the history is given out again
	// after a crash.
	nextXID uint64

	rows     map[txn.Name]row
	prepared []txn.Name
	sessions []*session
	// markers has what the marker of each transaction holds that has one here: the votes, or never.
	markers map[txn.ID]string
}

// never is the marker that says that a transaction never commits.
const never = ""

type fork struct {
	timeline uint32
	end      uint64
}

// op is one durable operation.
type op struct {
	kind opKind
	name txn.Name
	xid  uint64
	lsn  uint64
	// decision is what a marker holds.
	decision string
}

type opKind uint8

const (
	opPrepare opKind = iota + 1
	opCommit
	opRollback
	// opPlain is a commit without a prepare.
	opPlain
	// opOther is the commit of a transaction that is none of ours.
	opOther
	// opMark is a commit together with a marker, opNever a marker that says never, and opUnmark the
	// removal of one of a commit.
	opMark
	opNever
	opUnmark
)

// row is what the history says of one branch.
type row struct {
	kind opKind
	xid  uint64
}

// session is a transaction that is not prepared: it runs, or its process has seen it end.
type session struct {
	name  txn.Name
	xid   uint64
	epoch txn.Epoch
	// gone: the connection is broken, and nobody knows more. ended: it was seen to end.
	gone, ended, readOnly bool
	// marking: it has written a marker, and not committed as yet.
	marking bool
}

const (
	firstLSN = 100
	firstXID = 700
	lsnStep  = 8
)

func newServer(id txn.Identity) *server {
	return &server{identity: id, timeline: 1, lsn: firstLSN, nextXID: firstXID,
		rows: map[txn.Name]row{}}
}

func (s *server) position() txn.Position { return txn.Position{Timeline: s.timeline, LSN: s.lsn} }

// write makes an operation durable.
func (s *server) write(kind opKind, name txn.Name, xid uint64) {
	s.add(op{kind: kind, name: name, xid: xid})
}

func (s *server) add(o op) {
	s.lsn += lsnStep
	o.lsn = s.lsn
	s.wal = append(s.wal, o)
	s.apply(o)
}

func (s *server) apply(o op) {
	s.nextXID = max(s.nextXID, o.xid+1)
	switch o.kind {
	case opOther:
		return
	case opNever, opUnmark:
		s.mark(o)
		return
	case opMark:
		s.mark(o)
	}
	was := s.rows[o.name]
	s.rows[o.name] = row{o.kind, o.xid}
	if was.kind == opPrepare {
		i := slices.Index(s.prepared, o.name)
		s.prepared = slices.Delete(s.prepared, i, i+1)
	}
	if o.kind == opPrepare {
		s.prepared = append(s.prepared, o.name)
	}
}

// mark keeps or removes a marker.
func (s *server) mark(o op) {
	if o.kind == opUnmark {
		delete(s.markers, o.name.ID())
		return
	}
	if s.markers == nil {
		s.markers = map[txn.ID]string{}
	}
	s.markers[o.name.ID()] = o.decision
}

// marked lists the transactions that have a marker of their commit.
func (s *server) marked() []txn.ID {
	var ids []txn.ID
	for id, decision := range s.markers {
		if decision != never {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b txn.ID) int { return slices.Compare(a[:], b[:]) })
	return ids
}

// other is what everybody else does in this database.
func (s *server) other() { s.write(opOther, txn.Name{}, s.take()) }

// take gives out a transaction number.
func (s *server) take() uint64 {
	s.nextXID++
	return s.nextXID - 1
}

func (s *server) isPrepared(n txn.Name) bool { return s.rows[n].kind == opPrepare }

// finish ends a prepared branch.
func (s *server) finish(n txn.Name, commit bool) {
	kind := opRollback
	if commit {
		kind = opCommit
	}
	s.write(kind, n, s.rows[n].xid)
}

func (s *server) session(n txn.Name) *session {
	for _, x := range s.sessions {
		if x.name == n {
			return x
		}
	}
	return nil
}

func (s *server) open(n txn.Name, e txn.Epoch) *session {
	x := &session{name: n, xid: s.take(), epoch: e}
	s.sessions = append(s.sessions, x)
	return x
}

func (s *server) drop(x *session) {
	x.gone = true
	if i := slices.Index(s.sessions, x); i >= 0 {
		s.sessions = slices.Delete(s.sessions, i, i+1)
	}
}

// crash ends all sessions, and forgets the numbers that nothing durable has. It returns the
// sessions.
func (s *server) crash() []*session {
	lost := s.sessions
	s.sessions = nil
	for _, x := range lost {
		x.gone = true
	}
	s.nextXID = firstXID
	for _, o := range s.wal {
		s.nextXID = max(s.nextXID, o.xid+1)
	}
	return lost
}

// fork is a new server on the next timeline, with all of the history but the last operations.
func (s *server) fork(lacks int) *server {
	f := s.backup(lacks)
	f.timeline = s.timeline + 1
	f.forks = append(f.forks, fork{s.timeline, f.lsn})
	return f
}

// backup is a server that was restored from a backup without the last operations. By its timeline
// nobody can tell it from the one that it is a copy of, and it gives out the same numbers again.
func (s *server) backup(lacks int) *server {
	f := newServer(s.identity)
	f.timeline = s.timeline
	for _, o := range s.wal[:len(s.wal)-lacks] {
		f.wal = append(f.wal, o)
		f.apply(o)
		f.lsn = o.lsn
	}
	for _, k := range s.forks {
		// A branch that was cut at every timeline is in no history, however many there are.
		f.forks = append(f.forks, fork{k.timeline, min(k.end, f.lsn)})
	}
	return f
}

// contains says whether the history has a position of an earlier timeline in it.
func (s *server) contains(p txn.Position) bool {
	for _, f := range s.forks {
		if f.timeline == p.Timeline {
			return f.end >= p.LSN
		}
	}
	return false
}

// status is what the server knows of a transaction number, as pg_xact_status tells it.
func (s *server) status(xid uint64) txn.Standing {
	for _, o := range slices.Backward(s.wal) {
		if o.xid != xid {
			continue
		}
		switch o.kind {
		case opPrepare:
			return txn.StandingUnknown
		case opRollback:
			return txn.StandingRolledBack
		}
		return txn.StandingCommitted
	}
	if xid < s.nextXID {
		return txn.StandingRolledBack
	}
	return txn.StandingGone
}

// before says whether a lies in the past of b.
func before(a, b txn.Position) bool {
	return a.Timeline < b.Timeline || a.Timeline == b.Timeline && a.LSN < b.LSN
}

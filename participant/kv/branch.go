package kv

import (
	"container/list"
	"errors"
	"sync"
	"time"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// ErrBranchLost is returned by Apply for a branch whose earlier work the store no longer has: it
// was restarted, the branch was idle too long, was finished, or its coordinator's epoch is over.
// The branch will not be prepared.
var ErrBranchLost = errors.New("kv: the branch's earlier work is lost")

// maxVotes bounds the remembered votes of branches that ended without being prepared.
const maxVotes = 10_000

// branch is the work of one branch before it is prepared.
type branch struct {
	name txn.Name
	// epoch is the newest of the branch's log when the branch began here. 0: none was known.
	epoch txn.Epoch

	mu sync.Mutex
	// sequence and answer belong to the last call of Apply.
	sequence uint64
	answer   []Entry
	// reads has the versions of the committed values that were read.
	reads  map[string]uint64
	writes map[string]write
	bytes  int
	// charge accounts for what the branch keeps in memory, or refuses it.
	charge func(bytes int) error
	// closed: a prepare or rollback has seen the branch. What it saw stays as it is.
	closed bool
	// vote is set once the branch has ended without being prepared.
	vote *participant.Vote
}

// end gives the branch its last vote, unless it has one already, and returns it. The first vote
// stands, also where the transaction that gave it is not durable yet: the coordinator may have
// heard it.
func (b *branch) end(v participant.Vote) participant.Vote {
	b.closed = true
	if b.vote == nil {
		b.vote = &v
	}
	return *b.vote
}

// branches are the unprepared branches in memory, and the votes of those that ended that way.
type branches struct {
	cfg Config

	mu    sync.Mutex
	byKey map[txn.Name]*list.Element
	// idle is in the order of the last use, the longest unused first. Its elements are *used.
	idle *list.List
	// bytes is the sum of what the branches are charged.
	bytes int
	// votes is bounded; order has its names, the oldest first.
	votes map[txn.Name]participant.Vote
	order []txn.Name
}

type used struct {
	branch *branch
	at     time.Time
	bytes  int
}

func newBranches(cfg Config) *branches {
	return &branches{
		cfg: cfg, byKey: map[txn.Name]*list.Element{}, idle: list.New(),
		votes: map[txn.Name]participant.Vote{},
	}
}

// find is the live branch of a name, or nil, and the vote with which it ended, if it did.
func (s *branches) find(n txn.Name) (*branch, *participant.Vote) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.votes[n]; ok {
		return nil, &v
	}
	e := s.byKey[n]
	if e == nil {
		return nil, nil
	}
	return e.Value.(*used).branch, nil
}

// use is the branch for a call of Apply. Only the first call of a branch may make it: any later
// one that finds nothing belongs to a branch that was lost.
func (s *branches) use(n txn.Name, epoch txn.Epoch, first bool) (*branch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, over := s.votes[n]; over {
		return nil, ErrBranchLost
	}
	if e := s.byKey[n]; e != nil {
		e.Value.(*used).at = s.cfg.Now()
		s.idle.MoveToBack(e)
		return e.Value.(*used).branch, nil
	}
	if !first {
		return nil, ErrBranchLost
	}
	s.expire()
	if len(s.byKey) >= s.cfg.MaxBranches {
		return nil, txn.Refusef(txn.ReasonOverloaded, "",
			"%d branches are unprepared, and no more are allowed", s.cfg.MaxBranches)
	}
	b := &branch{name: n, epoch: epoch, reads: map[string]uint64{}, writes: map[string]write{}}
	b.charge = func(bytes int) error { return s.charge(b, bytes) }
	s.byKey[n] = s.idle.PushBack(&used{branch: b, at: s.cfg.Now()})
	return b, nil
}

// charge sets what a branch keeps in memory. One that was dropped meanwhile keeps nothing: its call
// is the last to see it.
func (s *branches) charge(b *branch, bytes int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.byKey[b.name]
	if e == nil || e.Value.(*used).branch != b {
		return nil
	}
	u := e.Value.(*used)
	grows, most := bytes-u.bytes, s.cfg.MaxWorkingBytes
	if s.bytes+grows > most {
		s.expire()
	}
	if s.bytes+grows > most {
		return txn.Refusef(txn.ReasonOverloaded, "", "unprepared branches have %d bytes of work, "+
			"%d more are wanted, and %d are allowed; commit or roll back some, and run this one "+
			"again", s.bytes, grows, most)
	}
	s.bytes, u.bytes = s.bytes+grows, bytes
	return nil
}

// expire drops branches that nobody has used for long. Their next call finds nothing.
func (s *branches) expire() {
	limit := s.cfg.Now().Add(-s.cfg.IdleAfter)
	for e := s.idle.Front(); e != nil && e.Value.(*used).at.Before(limit); e = s.idle.Front() {
		s.remove(e)
	}
}

func (s *branches) remove(e *list.Element) {
	s.bytes -= e.Value.(*used).bytes
	delete(s.byKey, e.Value.(*used).branch.name)
	s.idle.Remove(e)
}

// drop removes a branch that is durable, or known, elsewhere.
func (s *branches) drop(n txn.Name) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.byKey[n]; e != nil {
		s.remove(e)
	}
}

// retire replaces a branch by its vote.
func (s *branches) retire(n txn.Name, v participant.Vote) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.byKey[n]; e != nil {
		s.remove(e)
	}
	if _, ok := s.votes[n]; ok {
		return
	}
	s.votes[n] = v
	s.order = append(s.order, n)
	if len(s.order) > maxVotes {
		delete(s.votes, s.order[0])
		s.order = s.order[1:]
	}
}

// dropOlder removes the branches that began under an epoch of the log that is over: their
// coordinator will never ask for their vote. A branch of the new epoch whose client was faster than
// the coordinator's first call is among them, and votes unknown; that costs a transaction, and only
// in the moment after a restart.
func (s *branches) dropOlder(f txn.Fence) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.byKey {
		if b := e.Value.(*used).branch; b.name.Log == f.Log && b.stale(f.Epoch) {
			s.remove(e)
		}
	}
}

// stale says whether the branch began under an epoch that is over. Where none was known it counts
// as of the first, which is as old as it can be.
func (b *branch) stale(now txn.Epoch) bool { return max(b.epoch, 1) < now }

package service

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// work is a branch at work in this process.
type work struct {
	// epoch is the newest of the branch's log when it began. 0: none was known.
	epoch txn.Epoch
	// calls is the number of the last call of Work.
	calls uint64
	// closed: the service was asked to prepare it. What it saw stays as it is.
	closed bool
	// vote is set once the branch can only end without effect. It stays, since the coordinator may
	// have heard it.
	vote *participant.Vote
}

// stale says whether the branch began under an epoch that is over. Where none was known it counts
// as of the first, which is as old as it can be.
func (w *work) stale(now txn.Epoch) bool { return max(w.epoch, 1) < now }

// fail ends the work with its vote, unless it has one.
func (w *work) fail(v participant.Vote) participant.Vote {
	if w.vote == nil {
		w.vote = &v
	}
	return *w.vote
}

// slot is one branch that somebody is concerned with. Who holds its turn may use work.
type slot struct {
	name txn.Name
	turn chan struct{}
	work *work

	// The others belong to branches.mu. users hold the turn or wait for it.
	users int
	// idle is the place among the branches at work, or nil.
	idle *list.Element
	used time.Time
	// epoch is that of work.
	epoch txn.Epoch
}

// branches are the turns of all branches, and those at work.
type branches struct {
	most int

	mu     sync.Mutex
	byName map[txn.Name]*slot
	// idle has the slots at work, the longest unused first.
	idle *list.List
}

func newBranches(most int) *branches {
	return &branches{most: most, byName: map[txn.Name]*slot{}, idle: list.New()}
}

// take waits for the turn of a branch.
func (s *branches) take(ctx context.Context, n txn.Name) (*slot, error) {
	s.mu.Lock()
	b := s.byName[n]
	if b == nil {
		b = &slot{name: n, turn: make(chan struct{}, 1)}
		s.byName[n] = b
	}
	b.users++
	s.mu.Unlock()
	select {
	case b.turn <- struct{}{}:
		return b, nil
	case <-ctx.Done():
		s.leave(b)
		return nil, fmt.Errorf("another call is at the branch %s: %w", n, context.Cause(ctx))
	}
}

// release gives the turn back.
func (s *branches) release(b *slot) {
	s.mu.Lock()
	if b.work == nil && b.idle != nil {
		s.idle.Remove(b.idle)
		b.idle = nil
	}
	s.mu.Unlock()
	<-b.turn
	s.leave(b)
}

func (s *branches) leave(b *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b.users--
	if b.users == 0 && b.idle == nil {
		delete(s.byName, b.name)
	}
}

// begin makes the branch one at work. The caller has its turn.
func (s *branches) begin(b *slot, epoch txn.Epoch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idle.Len() >= s.most {
		return txn.Refusef(txn.ReasonOverloaded, "",
			"%d branches are at work, and no more are allowed", s.most)
	}
	b.work, b.epoch = &work{epoch: epoch}, epoch
	b.idle = s.idle.PushBack(b)
	return nil
}

// touch notes that the branch at work was used.
func (s *branches) touch(b *slot, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b.used = now
	if b.idle != nil {
		s.idle.MoveToBack(b.idle)
	}
}

// busy says whether a call is at the branch.
func (s *branches) busy(n txn.Name) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.byName[n]
	return b != nil && b.users > 0
}

// maxExpired bounds the branches that one call gives up because they were left alone.
const maxExpired = 16

// expired are branches that nobody has used since limit, and nobody uses.
func (s *branches) expired(limit time.Time) []txn.Name {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []txn.Name
	for e := s.idle.Front(); e != nil && len(names) < maxExpired; e = e.Next() {
		b := e.Value.(*slot)
		if !b.used.Before(limit) {
			break
		}
		if b.users == 0 {
			names = append(names, b.name)
		}
	}
	return names
}

// postpone has a branch at work count as used now.
func (s *branches) postpone(n txn.Name, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.byName[n]; b != nil && b.idle != nil {
		b.used = now
		s.idle.MoveToBack(b.idle)
	}
}

// stale are the branches at work of older epochs of the log.
func (s *branches) stale(f txn.Fence) []txn.Name {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []txn.Name
	for e := s.idle.Front(); e != nil; e = e.Next() {
		b := e.Value.(*slot)
		if b.name.Log == f.Log && (&work{epoch: b.epoch}).stale(f.Epoch) {
			names = append(names, b.name)
		}
	}
	return names
}

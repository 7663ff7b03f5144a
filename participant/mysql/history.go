package mysql

import (
	"fmt"
	"sync"

	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/txn"
)

// HeldError says that the database is not the one that was registered, or that its history went
// backwards. Nothing was done, and nothing will be before [Resource.Expect] accepts what is there.
type HeldError struct {
	// Resource is the registered name.
	Resource string
	// Expected is the registered identity and the highest position ever seen; Found what is there.
	Expected, Found struct {
		txn.Identity
		txn.Position
	}
}

// Error says whether another database was found, or the same one at an earlier moment.
func (e *HeldError) Error() string {
	if e.Expected.Identity != e.Found.Identity {
		return fmt.Sprintf("mysql: %s leads to database %s, not to %s which was registered: "+
			"another server or database, a replica, or a changed server_id", e.Resource,
			e.Found.Identity, e.Expected.Identity)
	}
	return fmt.Sprintf("mysql: %s went backwards, from branch %d to branch %d: a restored backup",
		e.Resource, e.Expected.LSN, e.Found.LSN)
}

// past is what the adapter knows of its database's history, and what each connection is held to.
type past struct {
	resource     string
	experimental bool

	mu     sync.Mutex
	expect txn.Identity
	seen   txn.Position
}

// admit compares a server with the past. The first one is taken for the right one if none was
// registered. Its position does not become part of the past: that takes a learn.
//
// before is the highest position known when the question was sent: answers of concurrent questions
// overtake each other, and a position is only lower than it should be if somebody had seen a higher
// one before this one was asked for.
func (p *past) admit(place xabranch.Place, before txn.Position) error {
	switch {
	case !place.MariaDB() && !p.experimental:
		return fmt.Errorf("mysql: %s is version %s: %w", p.resource, place.Version,
			xabranch.ErrMySQL)
	case place.ReadOnly:
		return fmt.Errorf("mysql: %s: %w", p.resource, xabranch.ErrReadOnly)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.expect.IsZero() {
		p.expect = place.Identity
	}
	if place.Identity != p.expect || place.Position.Before(before) {
		held := &HeldError{Resource: p.resource}
		held.Expected.Identity, held.Expected.Position = p.expect, before
		held.Found.Identity, held.Found.Position = place.Identity, place.Position
		return held
	}
	return nil
}

// learn makes a position part of the past, which must be durable: a crash may take back what was
// only read, and the server would look like a restored backup from then on.
func (p *past) learn(at txn.Position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen.Before(at) {
		p.seen = at
	}
}

// reset makes identity and seen the truth from now on.
func (p *past) reset(identity txn.Identity, seen txn.Position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expect, p.seen = identity, seen
}

func (p *past) known() (txn.Identity, txn.Position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.expect, p.seen
}

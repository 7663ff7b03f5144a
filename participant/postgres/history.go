package postgres

import (
	"errors"
	"fmt"
	"sync"

	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

// ErrStandby is returned while the address leads to a server in recovery. Nothing was done; ask
// again, it may be promoted or the address may move.
var ErrStandby = errors.New(
	"postgres: the server is a standby, which lists no prepared transactions",
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
		return fmt.Sprintf("postgres: %s leads to database %s, not to %s which was registered",
			e.Resource, e.Found.Identity, e.Expected.Identity)
	}
	return fmt.Sprintf(
		"postgres: %s went backwards, from timeline %d at %X to timeline %d at %X: "+
			"an old primary, or a restored backup",
		e.Resource,
		e.Expected.Timeline,
		e.Expected.LSN,
		e.Found.Timeline,
		e.Found.LSN,
	)
}

// past is what the adapter knows of its database's history, and what each connection is held to.
type past struct {
	resource string

	mu     sync.Mutex
	expect txn.Identity
	seen   txn.Position
}

// admit compares a server with the past and, if it passes, makes it part of the past. The first one
// is taken for the right one if none was registered.
//
// before is the highest position known when the question was sent: answers of concurrent questions
// overtake each other, and a position is only lower than it should be if somebody had seen a higher
// one before this one was asked for. A timeline is held to the latest knowledge: once a newer one
// has shown itself, whoever is still on the old one is an old primary.
func (p *past) admit(place pgbranch.Place, before txn.Position) error {
	if place.Standby {
		return fmt.Errorf("%w: %s", ErrStandby, p.resource)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.expect.IsZero() {
		p.expect = place.Identity
	}
	now := place.Position
	if place.Identity != p.expect || pgbranch.Behind(now, before) ||
		now.Timeline < p.seen.Timeline {
		held := &HeldError{Resource: p.resource}
		held.Expected.Identity, held.Expected.Position = p.expect, p.seen
		held.Found.Identity, held.Found.Position = place.Identity, now
		return held
	}
	if pgbranch.Behind(p.seen, now) {
		p.seen = now
	}
	return nil
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

package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/internal/fence"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

// ErrBatch is returned for a call with more than participant.MaxBatch branches. Nothing was done.
var ErrBatch = fmt.Errorf("postgres: more than %d branches in one call", participant.MaxBatch)

// Resource is one PostgreSQL database. It implements participant.Resource, Delegate, Describer and
// Closer, and is safe for concurrent use.
type Resource struct {
	config    Config
	past      *past
	connector *connector
	pool      *pool
	rights    *rights
	timelines timelines

	mu     sync.Mutex
	fences map[txn.LogID]txn.Fence
	// behind is the last marker of the listing before, if that was full: markers that nobody
	// removes must not hide those behind them for ever.
	behind txn.ID
}

var (
	_ participant.Resource  = (*Resource)(nil)
	_ participant.Delegate  = (*Resource)(nil)
	_ participant.Describer = (*Resource)(nil)
	_ participant.Closer    = (*Resource)(nil)
)

// Open connects once, to fail early on a wrong address, and returns the resource. The error is a
// [HeldError], [ErrStandby], or of the configuration or connection.
func Open(ctx context.Context, c Config) (*Resource, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	r, err := New(c)
	if err != nil {
		return nil, err
	}
	s, err := r.pool.acquire(ctx)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	r.pool.release(s)
	return r, nil
}

// New is Open without connecting: for a coordinator that starts while a database is down.
func New(c Config) (*Resource, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	p := &past{resource: c.Name, expect: c.Expect, seen: c.Seen}
	k, err := newConnector(c, p)
	if err != nil {
		return nil, err
	}
	pool := newPool(c.MaxConns, k.connect)
	return &Resource{
		config:    c,
		past:      p,
		connector: k,
		pool:      pool,
		rights: &rights{instance: rand.Text()[:8], connect: k.connect, discard: pool.discard,
			held: map[txn.LogID]*right{}, taking: map[txn.LogID]chan struct{}{}},
		timelines: timelines{known: map[uint32][]pgbranch.Fork{}},
		fences:    map[txn.LogID]txn.Fence{},
	}, nil
}

// Expect makes identity the registered one and position the highest ever seen, from now on: at
// registration, or when an operator accepts what the address leads to now. All connections are made
// anew and held to it.
func (r *Resource) Expect(identity txn.Identity, position txn.Position) {
	r.past.reset(identity, position)
	r.pool.retire()
	r.rights.dropAll()
}

// Seen is the identity that connections are held to and the highest position seen so far.
func (r *Resource) Seen() (txn.Identity, txn.Position) { return r.past.known() }

// String names the resource without secrets.
func (r *Resource) String() string { return r.config.String() }

// Close gives up all rights, closes all connections and waits until they are gone.
func (r *Resource) Close() error {
	r.rights.close()
	r.pool.close()
	return nil
}

// admit judges the fence of a call. What it remembers lasts as long as this Resource; the right's
// lock is the memory that processes share, and a sidecar keeps a durable one.
func (r *Resource) admit(f txn.Fence, branches int) error {
	if branches > participant.MaxBatch {
		return ErrBatch
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	seen, known := r.fences[f.Log]
	if !known && len(r.fences) >= maxRights {
		return ErrTooManyLogs
	}
	remember, err := fence.Judge(seen, f, false)
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	r.fences[f.Log] = remember
	return nil
}

// List names every prepared branch with our prefix in this database, and the markers of the
// caller's log. It fails with [ErrStandby] or a [HeldError] rather than return less.
func (r *Resource) List(ctx context.Context, f txn.Fence) (participant.Listing, error) {
	if err := r.admit(f, 0); err != nil {
		return participant.Listing{}, err
	}
	var l listing
	var markers []txn.ID
	err := r.reading(ctx, func(s *session) (err error) {
		if l, err = r.list(ctx, s, ours); err == nil {
			markers, err = r.markers(ctx, s, f.Log)
		}
		return err
	})
	if err != nil {
		return participant.Listing{}, err
	}
	return participant.Listing{Identity: l.place.Identity, Position: l.place.Position,
		Branches: l.branches, Unknown: l.unknown, Truncated: l.truncated,
		Used: l.used, Limit: l.limit, Markers: markers}, nil
}

// reading runs questions that change nothing, or as much when asked twice, on one session, and once
// more on a fresh one if the connection broke: an idle one may have been dead since the database's
// last restart.
func (r *Resource) reading(ctx context.Context, questions func(*session) error) error {
	for again := range 2 {
		s, err := r.pool.acquire(ctx)
		if err != nil {
			return err
		}
		err = questions(s)
		broken := s.IsClosed()
		r.pool.release(s)
		if err == nil || !broken || again == 1 || ctx.Err() != nil {
			return err
		}
	}
	return nil
}

// Inquire tells where branches stand and changes nothing. A branch that is not listed is judged by
// its evidence, and is Gone without. One that is listed is vouched for as a vote would be: it is
// listed while its PREPARE still waits for a standby.
func (r *Resource) Inquire(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	if err := r.admit(f, len(b)); err != nil {
		return nil, err
	}
	if len(b) == 0 {
		return []participant.Finding{}, nil
	}
	findings := make([]participant.Finding, len(b))
	err := r.reading(ctx, func(s *session) error { return r.inquire(ctx, s, b, findings) })
	return heldFindings(findings, err)
}

func (r *Resource) inquire(
	ctx context.Context, s *session, b []participant.Branch, findings []participant.Finding,
) error {
	found, err := r.find(ctx, s, namesOf(b))
	if err != nil {
		return err
	}
	var barrier error
	if len(found) > 0 {
		barrier = pgbranch.Barrier(ctx, s.PgConn)
	}
	if barrier != nil && !errors.Is(barrier, pgbranch.ErrNotReplicated) {
		return fmt.Errorf("postgres: vouch for what %s lists: %w", r.config.Name, barrier)
	}
	for i := range b {
		listed, prepared := found[b[i].Name]
		switch {
		case prepared && listed.Ours && barrier != nil:
			findings[i] = participant.Finding{Reason: barrier.Error()}
		case prepared && listed.Ours:
			findings[i] = participant.Finding{Standing: txn.StandingPrepared,
				Evidence: listed.Evidence}
		case prepared:
			findings[i] = foreign(listed.Owner)
		default:
			if findings[i], err = r.judge(ctx, s, b[i].Evidence); err != nil {
				return err
			}
		}
	}
	return nil
}

// heldFindings turns the error of a database that is not the right one into the finding that it is.
func heldFindings(
	findings []participant.Finding, err error,
) ([]participant.Finding, error) {
	held, ok := errors.AsType[*HeldError](err)
	if !ok {
		if err != nil {
			return nil, err
		}
		return findings, nil
	}
	for i := range findings {
		if !settled(findings[i]) {
			findings[i] = participant.Finding{Standing: txn.StandingHeld, Reason: held.Error()}
		}
	}
	return findings, nil
}

// settled says whether a finding is an answer that no later look can improve.
func settled(f participant.Finding) bool {
	return f.Standing != txn.StandingUnknown
}

func foreign(owner string) participant.Finding {
	return participant.Finding{Standing: txn.StandingForeign,
		Reason: fmt.Sprintf(
			"the branch belongs to role %q, which this adapter's role may not take",
			owner,
		)}
}

func namesOf(b []participant.Branch) []txn.Name {
	names := make([]txn.Name, len(b))
	for i := range b {
		names[i] = b[i].Name
	}
	return names
}

package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

const (
	// maxPast bounds the names that are remembered after their end.
	maxPast = 10_000
	// maxLogs bounds the logs whose epochs are remembered.
	maxLogs = 1024
)

// Config describes a Keeper.
type Config struct {
	// Resource answers for everything that is prepared, and for the branches that others run. It
	// becomes the Keeper's, and is closed with it.
	Resource participant.Resource
	// Database opens the sessions. It becomes the Keeper's too.
	Database Database
	// Identity tells which database the resource is. A session of another one is refused. Defaults
	// to no check: the coordinator makes it too, at each vote.
	Identity func() txn.Identity
	// MaxSessions bounds the sessions at one time. Defaults to 64.
	MaxSessions int
	// Idle is how long a session may wait for its next statement, or for its coordinator. Defaults
	// to 1 minute.
	Idle time.Duration
	// Life is how old a session may become before it is asked to prepare. Defaults to 1 hour.
	Life time.Duration
	// PrepareLimit bounds one PREPARE, or ROLLBACK, at the database. Defaults to 10 s.
	PrepareLimit time.Duration
}

// Default limits.
const (
	DefaultSessions = 64
	DefaultIdle     = time.Minute
)

func (c Config) withDefaults() Config {
	if c.Identity == nil {
		c.Identity = func() txn.Identity { return txn.Identity{} }
	}
	if c.MaxSessions == 0 {
		c.MaxSessions = DefaultSessions
	}
	if c.Idle == 0 {
		c.Idle = DefaultIdle
	}
	if c.Life == 0 {
		c.Life = time.Hour
	}
	if c.PrepareLimit == 0 {
		c.PrepareLimit = 10 * time.Second
	}
	return c
}

// Keeper keeps the sessions of one resource, and is that resource. It is a Runner,
// participant.Resource, Delegate, Describer and Closer; that the resource takes one phase is not
// passed on. It is safe for concurrent use.
type Keeper struct {
	cfg Config
	// join counts the branches that have not ended.
	join sync.WaitGroup

	mu struct {
		sync.Mutex
		closed bool
		fences map[txn.LogID]txn.Fence
		live   map[txn.Name]*branch
		// past has the votes of names that no session is given any more, and order the names,
		// the oldest first. A vote that is not No or ReadOnly is the resource's to tell.
		past  map[txn.Name]participant.Vote
		order []txn.Name
	}
}

var (
	_ Runner                = (*Keeper)(nil)
	_ participant.Resource  = (*Keeper)(nil)
	_ participant.Delegate  = (*Keeper)(nil)
	_ participant.Describer = (*Keeper)(nil)
	_ participant.Closer    = (*Keeper)(nil)
)

// New makes a Keeper.
func New(cfg Config) (*Keeper, error) {
	if cfg.Resource == nil || cfg.Database == nil {
		return nil, errors.New("session: a keeper needs a resource and a database")
	}
	if cfg.MaxSessions < 0 || cfg.Idle < 0 || cfg.Life < 0 || cfg.PrepareLimit < 0 {
		return nil, errors.New("session: a limit is negative")
	}
	k := &Keeper{cfg: cfg.withDefaults()}
	k.mu.fences = map[txn.LogID]txn.Fence{}
	k.mu.live = map[txn.Name]*branch{}
	k.mu.past = map[txn.Name]participant.Vote{}
	return k, nil
}

// Attach implements Runner. The name must not have been attached before, and its coordinator must
// not have asked for its rollback.
func (k *Keeper) Attach(ctx context.Context, a Attachment) (Branch, error) {
	b, err := k.enlist(a)
	if err != nil {
		return nil, err
	}
	defer b.leaveOnPanic()
	opening, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(b.ctx, cancel)()
	conn, err := k.cfg.Database.Open(opening, a.Name, a.Options)
	if err == nil {
		b.conn = conn
		err = k.fits(conn)
	}
	if err != nil {
		b.leave(err)
		return nil, fmt.Errorf("session: attach %s: %w", a.Name, err)
	}
	if err := b.opened(); err != nil {
		return nil, fmt.Errorf("session: attach %s: %w", a.Name, err)
	}
	return b, nil
}

// enlist makes a place for a branch.
func (k *Keeper) enlist(a Attachment) (*branch, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, over := k.mu.past[a.Name]
	switch {
	case k.mu.closed:
		return nil, txn.Refusef(txn.ReasonShutdown, "", "the participant is shutting down")
	case over || k.mu.live[a.Name] != nil:
		return nil, txn.Refusef(txn.ReasonInvalid, "prepared_name",
			"%s was attached, or ended, before, and no name is attached twice", a.Name)
	case len(k.mu.live) >= k.cfg.MaxSessions:
		return nil, txn.Refusef(txn.ReasonOverloaded, "",
			"%d sessions are open, and no more are allowed", k.cfg.MaxSessions)
	}
	b := &branch{keeper: k, name: a.Name, over: make(chan struct{}),
		epoch: max(a.Epoch, k.mu.fences[a.Name.Log].Epoch)}
	b.ctx, b.cancel = context.WithCancelCause(context.Background())
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.idle = time.AfterFunc(k.cfg.Idle, b.leftAlone)
	b.mu.idle.Stop() // until there is somebody to wait for
	b.mu.life = time.AfterFunc(k.cfg.Life, func() {
		b.end(b.outlived("was open for", k.cfg.Life))
	})
	k.mu.live[a.Name] = b
	k.join.Add(1)
	return b, nil
}

// fits refuses a session of another database than the resource's.
func (k *Keeper) fits(conn Conn) error {
	want, got := k.cfg.Identity(), conn.Identity()
	if want.IsZero() || got == want {
		return nil
	}
	return txn.Refusef(txn.ReasonNotReady, "", "the sessions lead to database %s, and the "+
		"resource is %s: correct the address that the participant runs SQL at", got, want)
}

// retire remembers a branch that has ended, instead of keeping it.
func (k *Keeper) retire(b *branch, v participant.Vote) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.mu.live, b.name)
	k.remember(b.name, v)
}

// remember notes that a name is not attached any more. The caller holds the lock.
func (k *Keeper) remember(n txn.Name, v participant.Vote) {
	if _, known := k.mu.past[n]; known {
		return
	}
	k.mu.past[n] = v
	k.mu.order = append(k.mu.order, n)
	if len(k.mu.order) > maxPast {
		delete(k.mu.past, k.mu.order[0])
		k.mu.order = k.mu.order[1:]
	}
}

// find is the live branch of a name, or nil, and the vote with which it ended, if this Keeper can
// tell.
func (k *Keeper) find(n txn.Name) (*branch, *participant.Vote) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if b := k.mu.live[n]; b != nil {
		return b, nil
	}
	if v, ok := k.mu.past[n]; ok && (v.Vote == txn.VoteNo || v.Vote == txn.VoteReadOnly) {
		return nil, &v
	}
	return nil, nil
}

// Drain refuses new sessions, and rolls back those that are not being prepared: nobody can ask for
// their votes any more. It does not wait, and may be called again.
func (k *Keeper) Drain() {
	k.mu.Lock()
	k.mu.closed = true
	var all []*branch
	for _, b := range k.mu.live {
		all = append(all, b)
	}
	k.mu.Unlock()
	for _, b := range all {
		b.end(participant.Vote{Vote: txn.VoteNo, Reason: "the participant was shut down",
			SQLState: retryState})
	}
}

// Close rolls back all sessions, waits for those that are being prepared, and closes the database
// and the resource. It may be called again.
func (k *Keeper) Close() error {
	k.Drain()
	k.join.Wait()
	err := k.cfg.Database.Close()
	if c, ok := k.cfg.Resource.(participant.Closer); ok {
		err = errors.Join(err, c.Close())
	}
	return err
}

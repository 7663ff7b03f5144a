package coordinator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/gavel-tx/gavel/coordinator/core"
	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/coordinator/record"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
	"github.com/gavel-tx/gavel/txn/point"
)

// Coordinator is one epoch of a log. All methods are safe for concurrent use.
type Coordinator struct {
	cfg       Config
	log       *txlog.Log
	mail      *mailbox
	persisted latest
	// start is the zero of the core's clock.
	start   time.Time
	workers map[string]*workers

	failed   failure
	stop     context.CancelFunc
	join     sync.WaitGroup
	loopDone chan struct{}
	closing  sync.Once
	closeErr error
}

// latest is the newest word of the log's flusher.
type latest struct {
	mu   sync.Mutex
	p    txlog.Persisted
	wake chan struct{}
}

func (l *latest) set(p txlog.Persisted) {
	l.mu.Lock()
	l.p = p
	l.mu.Unlock()
	l.signal()
}

func (l *latest) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *latest) get() txlog.Persisted {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.p
}

// failure is set once, by the first thing that makes going on unsafe.
type failure struct {
	once sync.Once
	ch   chan struct{}
	err  error
}

// ErrFailed is wrapped by the errors of a coordinator whose log failed or that was deposed. It
// stays so; opening the log again tells what became of its transactions.
var ErrFailed = errors.New("coordinator: stopped for good")

// ErrClosed is wrapped by the errors of a coordinator that was closed.
var ErrClosed = errors.New("coordinator: closed")

// Open opens the log in cfg.Dir, raises its epoch durably, takes up every decision that is not
// finished, and starts. It does not wait for the resources: those that do not answer are asked
// until they do. The context bounds opening alone. On return the epoch is durable and every
// decision is loaded.
func Open(ctx context.Context, cfg Config) (*Coordinator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if point.Enabled {
		cfg.FS = vfs.Hooked(cfg.FS, hitRename)
	}
	c := &Coordinator{
		cfg: cfg, mail: newMailbox(), persisted: latest{wake: make(chan struct{}, 1)},
		workers: map[string]*workers{}, loopDone: make(chan struct{}),
		failed: failure{ch: make(chan struct{})},
	}
	state, err := c.openLog()
	if err != nil {
		return nil, err
	}
	point.Hit(point.DuringRecovery, txn.ID{})
	c.run(state)
	return c, nil
}

// hitRename marks the moment before a file of the log gets its name.
func hitRename(call vfs.Call) error {
	if call.Op == vfs.OpRename {
		point.Hit(point.DuringRoll, txn.ID{})
	}
	return nil
}

// openLog replays the log into a state.
func (c *Coordinator) openLog() (*protocol.State, error) {
	state := protocol.NewState(0)
	if mutant.On(mutant.EmptyLogIsFresh) {
		_, _ = Init(c.cfg.FS, c.cfg.Dir)
	}
	log, err := txlog.Open(txlog.Options{
		FS: c.cfg.FS, Dir: c.cfg.Dir, SegmentSize: c.cfg.SegmentSize,
		Replay:      func(e txlog.Entry) error { return apply(state, e) },
		OnPersisted: c.persisted.set,
		OnFailed:    func(err error) { c.fail(fmt.Errorf("the log failed: %w", err)) },
		OnSync:      func(s txlog.Sync) { c.cfg.Observer.Synced(s.Duration) },
		MaxPending:  maxPendingBytes,
	})
	if err != nil {
		return nil, err
	}
	c.log = log
	state.Log, state.Epoch = log.ID(), log.Epoch()
	return state, nil
}

// maxPendingBytes bounds the records that wait for the disk.
const maxPendingBytes = 64 << 20

func apply(state *protocol.State, e txlog.Entry) error {
	state.Log = e.Log
	if mutant.On(mutant.ReadyUnread) {
		return nil
	}
	r, err := record.Decode(e.Record)
	if mutant.On(mutant.UnknownRecordSkipped) && errors.Is(err, record.ErrUnknownType) {
		return nil
	}
	if err != nil {
		return err
	}
	return state.Apply(r)
}

// run starts every goroutine. What the machine wants first goes out from the loop.
func (c *Coordinator) run(state *protocol.State) {
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.start = time.Now()
	l := &loop{c: c, core: core.New(state, c.log, c.cfg.core(), 0),
		waiting: map[protocol.ReqID]*call{}}
	host, _ := os.Hostname()
	l.core.Opened(protocol.OpenRecord{Epoch: state.Epoch, Host: host, PID: os.Getpid(),
		Version: c.cfg.Version, Wall: c.start.UnixNano()})
	c.cfg.Logger.Info("coordinator is open", "log", state.Log.String(), "epoch", state.Epoch,
		"unfinished decisions", len(state.OpenDecisions()))
	for _, r := range c.cfg.Resources {
		w := newWorkers(c, r, len(state.Adopted()))
		c.workers[r.Name] = w
		for range c.cfg.Workers + 2 {
			c.join.Go(func() { w.run(ctx) })
		}
	}
	c.join.Go(func() { l.run(ctx) })
}

// now is this moment on the machine's clock.
func (c *Coordinator) now() protocol.Instant { return protocol.Instant(time.Since(c.start)) }

// fail stops everything, for good. Nothing is rolled back: what the log says will be done by its
// next epoch.
func (c *Coordinator) fail(err error) {
	c.failed.once.Do(func() {
		c.failed.err = err
		close(c.failed.ch)
		c.cfg.Logger.Error(
			"coordinator stops: its results are unknown until its log is opened again",
			"err",
			err,
		)
	})
}

// Failed is closed when the coordinator cannot go on. The process should exit and open the log
// again.
func (c *Coordinator) Failed() <-chan struct{} { return c.failed.ch }

// Err is why Failed is closed, or nil.
func (c *Coordinator) Err() error {
	select {
	case <-c.failed.ch:
		return c.failed.err
	default:
		return nil
	}
}

// stopped is what callers hear whose request was cut off.
func (c *Coordinator) stopped() error {
	if err := c.Err(); err != nil && mutant.On(mutant.AbortOnLogError) {
		return txn.Refusef(txn.ReasonRolledBack, "", "the log failed")
	} else if err != nil {
		return fmt.Errorf("%w: %w (%w)", ErrFailed, txn.ErrUnknown, err)
	}
	return fmt.Errorf("%w: %w", ErrClosed, txn.ErrUnknown)
}

// request sends an event to the loop and waits for its reply.
func (c *Coordinator) request(ctx context.Context, e protocol.Event) (protocol.Reply, error) {
	call := &call{reply: make(chan protocol.Reply, 1)}
	if !c.mail.put(input{event: e, call: call}) {
		select {
		case <-c.loopDone:
			return protocol.Reply{}, c.stopped()
		default:
		}
		return protocol.Reply{}, txn.Refusef(
			txn.ReasonOverloaded,
			"",
			"%d requests wait already",
			maxRequests,
		)
	}
	select {
	case r := <-call.reply:
		return r, r.Err
	case <-ctx.Done():
		// What waits for this caller must not outlive it: thousands of impatient ones would fill
		// memory, and a Begin would be served for nobody.
		c.mail.put(input{event: e, call: call, gone: true})
		return protocol.Reply{}, fmt.Errorf("%w: %w", txn.ErrUnknown, context.Cause(ctx))
	}
}

// Begin starts a transaction, or enlists resources in one. It writes nothing: a transaction that
// was only begun is rolled back by any crash. A refusal is a *txn.Refusal.
func (c *Coordinator) Begin(ctx context.Context, r txn.BeginRequest) (txn.Begun, error) {
	for _, name := range r.Resources {
		if c.workers[name] == nil {
			return txn.Begun{}, txn.Refusef(txn.ReasonNoResource, "resources",
				"no resource %.80q is configured", name)
		}
	}
	r.Resources = slices.Clone(r.Resources)
	rep, err := c.request(ctx, protocol.Begin{Request: r, Until: c.until(ctx)})
	if err != nil {
		return txn.Begun{}, err
	}
	return *rep.Begun, nil
}

// until is the deadline of ctx on the machine's clock, or zero if it has none.
func (c *Coordinator) until(ctx context.Context) protocol.Instant {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return protocol.Instant(deadline.Sub(c.start))
}

// Commit asks for the decision, and may be repeated. A nil error means that the result is true: its
// outcome is final and durable, or OutcomeUnknown for a mere intent, and while resources that have
// the word have not answered. An error that wraps txn.ErrUnknown means that it must be asked for
// again; any other, a *txn.Refusal, that the request changed nothing.
func (c *Coordinator) Commit(ctx context.Context, r txn.CommitRequest) (txn.Result, error) {
	r.Votes = slices.Clone(r.Votes)
	return c.result(c.request(ctx, protocol.Commit{Request: r}))
}

// Rollback ends an undecided transaction without effect. It is refused once a commit is decided.
func (c *Coordinator) Rollback(ctx context.Context, id txn.ID, reason string) (txn.Result, error) {
	return c.result(c.request(ctx, protocol.Rollback{ID: id, Reason: reason}))
}

// Outcome says what is known about a transaction at this moment. An undecided one has
// OutcomeUnknown.
func (c *Coordinator) Outcome(ctx context.Context, id txn.ID) (txn.Result, error) {
	return c.result(c.request(ctx, protocol.Ask{ID: id}))
}

func (c *Coordinator) result(rep protocol.Reply, err error) (txn.Result, error) {
	if err != nil {
		return txn.Result{}, err
	}
	return *rep.Result, nil
}

// inside runs f inside the loop and returns what it found.
func inside[T any](ctx context.Context, c *Coordinator, f func(*core.Core) T) (T, error) {
	found := make(chan T, 1)
	var none T
	if !c.mail.put(input{do: func(l *loop) { found <- f(l.core) }}) {
		return none, c.stopped()
	}
	select {
	case v := <-found:
		return v, nil
	case <-c.loopDone:
		return none, c.stopped()
	case <-ctx.Done():
		return none, fmt.Errorf("coordinator: %w", context.Cause(ctx))
	}
}

// look is inside for those who look at the machine.
func look[T any](ctx context.Context, c *Coordinator, f func(*protocol.Machine) T) (T, error) {
	return inside(ctx, c, func(k *core.Core) T { return f(k.Machine()) })
}

// Close stops at once and waits for every goroutine. Undecided transactions are rolled back by the
// next epoch, decided ones are finished by it. Callers that wait hear txn.ErrUnknown. Call Drain
// before it to stop gracefully.
func (c *Coordinator) Close() error {
	c.closing.Do(func() {
		c.stop()
		<-c.loopDone
		c.join.Wait()
		c.closeErr = c.log.Close()
	})
	return c.closeErr
}

// Active is the number of transactions that are undecided or wait for phase two.
func (c *Coordinator) Active(ctx context.Context) (int, error) {
	return look(ctx, c, (*protocol.Machine).Active)
}

// Room says whether the log's disk has room for new transactions.
func (c *Coordinator) Room() bool { return c.log.Room() }

// LogID is the identity of the log.
func (c *Coordinator) LogID() txn.LogID { return c.log.ID() }

// Epoch is the number of this opening of the log.
func (c *Coordinator) Epoch() txn.Epoch { return c.log.Epoch() }

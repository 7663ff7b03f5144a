package service

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// ErrClosed is returned by calls of a closed Resource.
var ErrClosed = errors.New("service: the resource is closed")

// Service is what a service of one's own does for the branches of transactions. Calls about one
// branch never overlap, and those about several may. Where the journal joins, a method works in
// the transaction that the journal's package finds in its context, and what it did is taken back
// if the method returns an error; else its changes must be durable when it returns, and it must
// bear being repeated, also after it had succeeded. A panic ends the process, as a crash would.
type Service interface {
	// Prepare makes sure that the branch can be committed whatever happens, and remembers what is
	// to be done then. It is called for branches whose [Resource.Work] succeeded in this process.
	// The answer is Yes(), or No("why"), or ReadOnly() if there is nothing to commit: Rollback is
	// called after these two. An error means that nobody knows: the branch is asked for again, or
	// rolled back.
	Prepare(ctx context.Context, branch txn.Name) (participant.Vote, error)
	// Commit makes the work of a branch that voted Yes take effect. After an error it is called
	// again, until it succeeds.
	Commit(ctx context.Context, branch txn.Name) error
	// Rollback lets go of a branch, whether it was prepared, is at work or is not known at all.
	// After an error it is called again; a branch that voted Yes may be listed meanwhile.
	Rollback(ctx context.Context, branch txn.Name) error
}

// Yes is the vote of a branch that can be committed whatever happens.
func Yes() participant.Vote { return participant.Vote{Vote: txn.VoteYes} }

// No is the vote of a branch that must not be committed. The reason is for people; at most
// txn.MaxReasonLen bytes of it are kept.
func No(reason string) participant.Vote {
	return participant.Vote{Vote: txn.VoteNo, Reason: reason}
}

// ReadOnly is the vote of a branch that changed nothing and needs no commit.
func ReadOnly() participant.Vote { return participant.Vote{Vote: txn.VoteReadOnly} }

// Config describes a Resource.
type Config struct {
	// Service does the work.
	Service Service
	// Journal remembers. If it is an io.Closer, Close of the Resource closes it.
	Journal Journal
	// Kind and Version are shown to people. Kind defaults to "service".
	Kind, Version string
	// MaxPrepared bounds the prepared branches. Beyond it branches vote No. Defaults to 10,000.
	MaxPrepared int
	// MaxWorking bounds the branches at work that are not prepared. Beyond it Work is refused.
	// Defaults to 10,000.
	MaxWorking int
	// MaxEnded bounds the ends that are remembered. Defaults to 100,000.
	MaxEnded int
	// IdleAfter is when a branch at work is rolled back that was left alone. Defaults to 10 min.
	IdleAfter time.Duration
	// Parallel is how many branches of one call are worked on at once. Defaults to 8.
	Parallel int
	// Now is the clock. It decides when a branch was left alone, and how old a listed one is.
	// Defaults to time.Now.
	Now func() time.Time
}

func (c Config) withDefaults() Config {
	fill(&c.MaxPrepared, 10_000)
	fill(&c.MaxWorking, 10_000)
	fill(&c.MaxEnded, 100_000)
	fill(&c.IdleAfter, 10*time.Minute)
	fill(&c.Parallel, 8)
	if c.Kind == "" {
		c.Kind = "service"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

func fill[T int | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var errs []error
	if c.Service == nil {
		errs = append(errs, errors.New("service: Service is nil: somebody must do the work"))
	}
	if c.Journal == nil {
		errs = append(errs, errors.New("service: Journal is nil: somebody must remember"))
	}
	for name, n := range map[string]int64{
		"MaxPrepared": int64(c.MaxPrepared), "MaxWorking": int64(c.MaxWorking),
		"MaxEnded": int64(c.MaxEnded), "IdleAfter": int64(c.IdleAfter),
		"Parallel": int64(c.Parallel),
	} {
		if n < 0 {
			errs = append(errs, fmt.Errorf("service: %s is negative", name))
		}
	}
	return errors.Join(errs...)
}

// Resource is a service with a journal. It is a participant.Resource, Describer and Closer, keeps
// fences itself (it is a remote.Greeter), and is safe for concurrent use.
type Resource struct {
	cfg      Config
	svc      Service
	journal  Journal
	identity txn.Identity
	branches *branches

	mu     sync.Mutex
	closed bool
	// calls are those under way. Add is called under mu, and never once closed is set.
	calls sync.WaitGroup
}

var (
	_ participant.Resource  = (*Resource)(nil)
	_ participant.Describer = (*Resource)(nil)
	_ participant.Closer    = (*Resource)(nil)
)

// Open reads the journal, and begins it, with a new identity, if it is empty. What was prepared is
// prepared again; branches at work are lost. The Journal belongs to the Resource if Open succeeds.
func Open(cfg Config) (*Resource, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	r := &Resource{cfg: cfg, svc: cfg.Service, journal: cfg.Journal}
	r.branches = newBranches(cfg.MaxWorking)
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("service: draw an identity: %w", err)
	}
	err := r.change(context.Background(), nil, func(_ context.Context, b *book) error {
		if b.meta.system == 0 {
			b.meta.system = max(1, binary.BigEndian.Uint64(id[:]))
		}
		r.identity = b.identity()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("service: open the journal: %w", err)
	}
	return r, nil
}

// Close waits for the calls under way and closes the journal. What is prepared stays prepared. A
// second Close does nothing.
func (r *Resource) Close() error {
	r.mu.Lock()
	was := r.closed
	r.closed = true
	r.mu.Unlock()
	r.calls.Wait()
	if c, ok := r.journal.(io.Closer); ok && !was {
		return c.Close()
	}
	return nil
}

// enter lets a call in, and leave lets Close go on.
func (r *Resource) enter(ctx context.Context) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("service: not begun: %w", context.Cause(ctx))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, ErrClosed
	}
	r.calls.Add(1)
	return r.calls.Done, nil
}

// Identity is the journal's own, drawn when it was made.
func (r *Resource) Identity() txn.Identity { return r.identity }

// Describe implements participant.Describer.
func (r *Resource) Describe(ctx context.Context) (participant.Description, error) {
	leave, err := r.enter(ctx)
	if err != nil {
		return participant.Description{}, err
	}
	defer leave()
	d := participant.Description{
		Kind: r.cfg.Kind, Version: r.cfg.Version, Identity: r.identity,
		Limit: r.cfg.MaxPrepared, Evidence: true,
	}
	err = r.view(ctx, func(b *book) error {
		d.Position, d.Used = b.position(), int(b.meta.branches)
		return nil
	})
	if err != nil {
		return participant.Description{}, err
	}
	check := participant.Check{
		What: fmt.Sprintf("%d of %d branches are prepared", d.Used, d.Limit),
	}
	if 5*d.Used >= 4*d.Limit {
		check.Level = participant.LevelWarn
		check.Fix = "raise MaxPrepared, or look for branches that nobody finishes"
	}
	d.Checks = []participant.Check{check}
	return d, nil
}

// view reads the journal.
func (r *Resource) view(ctx context.Context, f func(*book) error) error {
	return r.journal.View(ctx, func(tx Tx) error {
		b, err := openBook(tx)
		if err != nil {
			return err
		}
		if b.meta.system != 0 && b.identity() != r.identity {
			return errors.New("service: the journal was replaced while it was in use")
		}
		return f(b)
	})
}

// change writes the journal, on behalf of a fence unless it is nil.
func (r *Resource) change(
	ctx context.Context, f *txn.Fence, do func(context.Context, *book) error,
) error {
	return r.journal.Update(ctx, func(ctx context.Context, tx Tx) error {
		b, err := openBook(tx)
		if err != nil {
			return err
		}
		if f != nil {
			if _, err := b.admit(*f, false); err != nil {
				return err
			}
		}
		if err := do(ctx, b); err != nil {
			return err
		}
		return b.close()
	})
}

// stepError is a failure of the service, which concerns one branch. Every other error is one of the
// journal, and then nothing is known.
type stepError struct{ error }

func (e stepError) Unwrap() error { return e.error }

// act makes a step of the service about a branch that was seen so, and notes its end: in one
// transaction where the journal joins, else the step first, so that the journal never says that
// something is done that is not. Within the transaction the branch is looked at again: a step that
// was made by an earlier one must not be made twice.
func (r *Resource) act(
	ctx context.Context, f *txn.Fence, n txn.Name, seen sight,
	step func(context.Context, txn.Name) error, e ended,
) error {
	if !r.journal.Joins() {
		if err := step(ctx, n); err != nil {
			return stepError{err}
		}
	}
	return r.change(ctx, f, func(ctx context.Context, b *book) error {
		if err := b.still(n, seen); err != nil {
			return err
		}
		if r.journal.Joins() {
			if err := step(ctx, n); err != nil {
				return stepError{err}
			}
		}
		return b.conclude(n, e, r.cfg.MaxEnded)
	})
}

// look is what the journal says about a branch. What it says of one that is prepared, or has ended,
// goes before what memory has of it.
func (r *Resource) look(ctx context.Context, s *slot) (seen sight, err error) {
	err = r.view(ctx, func(b *book) (err error) {
		seen, err = b.look(s.name)
		return err
	})
	if err == nil && seen.closed() {
		s.work = nil
	}
	return seen, err
}

// maxLooks bounds how often a branch is looked at because it has moved on.
const maxLooks = 3

// looking does something about a branch as it is seen, and again where it has moved on meanwhile.
func looking[T any](
	ctx context.Context, r *Resource, s *slot, do func(sight) (T, error),
) (answer T, err error) {
	for range maxLooks {
		var seen sight
		if seen, err = r.look(ctx, s); err != nil {
			return answer, err
		}
		if answer, err = do(seen); !errors.Is(err, errMoved) {
			return answer, err
		}
	}
	return answer, err
}

// admit lets a call of a coordinator in. An epoch that is new is durable before anything is done
// for it, and the work of older ones is rolled back.
func (r *Resource) admit(ctx context.Context, f txn.Fence, hello bool) error {
	var raised bool
	err := r.view(ctx, func(b *book) (err error) {
		_, raised, _, err = b.judge(f, hello)
		return err
	})
	if err == nil && raised {
		err = r.raise(ctx, f, hello)
	}
	if err != nil {
		return fmt.Errorf("service: %w", err)
	}
	return nil
}

func (r *Resource) raise(ctx context.Context, f txn.Fence, hello bool) error {
	err := r.journal.Update(ctx, func(_ context.Context, tx Tx) error {
		b, err := openBook(tx)
		if err != nil {
			return err
		}
		if _, err := b.admit(f, hello); err != nil {
			return err
		}
		return b.close()
	})
	if err != nil {
		return err
	}
	for _, n := range r.branches.stale(f) {
		// What fails stays marked, and is not prepared.
		_ = r.giveUp(ctx, n, "its coordinator's epoch is over", func(w *work) bool {
			return w.stale(f.Epoch)
		})
	}
	return nil
}

// Hello announces a coordinator's epoch: older ones are refused from now on, durably, and their
// branches at work are rolled back.
func (r *Resource) Hello(ctx context.Context, f txn.Fence) error {
	leave, err := r.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return r.admit(ctx, f, true)
}

// each answers for the branches of a call, several at once, each under its own turn. The first
// failure of the journal is that of the call.
func each[T any](
	r *Resource, ctx context.Context, f txn.Fence, b []participant.Branch,
	one func(context.Context, *slot, participant.Branch) (T, error),
) ([]T, error) {
	if len(b) > participant.MaxBatch {
		return nil, txn.Refusef(txn.ReasonInvalid, "branches",
			"%d in one call, at most %d are allowed", len(b), participant.MaxBatch)
	}
	leave, err := r.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := r.admit(ctx, f, false); err != nil {
		return nil, err
	}
	answers, errs := make([]T, len(b)), make([]error, len(b))
	room := make(chan struct{}, r.cfg.Parallel)
	var wg sync.WaitGroup
	for i := range b {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			s, err := r.branches.take(ctx, b[i].Name)
			if err != nil {
				errs[i] = err
				return
			}
			defer r.branches.release(s)
			answers[i], errs[i] = one(ctx, s, b[i])
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("service: %w", err)
	}
	return answers, nil
}

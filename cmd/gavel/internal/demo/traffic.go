package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/txn"
)

// heard is an attempt and what its client was told, for good.
type heard struct {
	key    string
	answer answer
	// doubted says that the first answer was "unknown".
	doubted bool
}

// traffic is the clients and everything that they were told.
type traffic struct {
	banks  banks
	client decider
	join   sync.WaitGroup

	mu struct {
		sync.Mutex
		heard     []heard
		committed int
		last      int
		// enough ends the clients: no new transfer is begun once this many are committed.
		enough int
		err    error
		// moved is closed, and made anew, with every commit.
		moved chan struct{}
	}
}

// endless is more than any demo does.
const endless = 1 << 30

func newTraffic(b banks, c decider) *traffic {
	t := &traffic{banks: b, client: c}
	t.mu.enough, t.mu.moved = endless, make(chan struct{})
	return t
}

// start sends the clients off.
func (t *traffic) start(ctx context.Context, clients int, seed uint64) {
	for i := range clients {
		random := rand.New(rand.NewPCG(seed, uint64(i)+1))
		t.join.Go(func() { t.work(ctx, random) })
	}
}

// pauseAfterRollback keeps a client from hammering a coordinator that is just starting.
const pauseAfterRollback = 10 * time.Millisecond

// work is one client: transfer after transfer, each until it is committed.
func (t *traffic) work(ctx context.Context, random *rand.Rand) {
	for {
		number, more := t.next(ctx)
		if !more {
			return
		}
		for attempt := 1; ; attempt++ {
			h, err := t.attempt(ctx, drawTransfer(random, number, attempt))
			if err != nil {
				t.fail(ctx, err)
				return
			}
			if t.note(h); h.answer == committed {
				break
			}
			if !pause(ctx, pauseAfterRollback) {
				return
			}
		}
	}
}

func drawTransfer(random *rand.Rand, number, attempt int) transfer {
	return transfer{key: fmt.Sprintf("transfer-%05d.%d", number, attempt),
		amount: 1 + random.Int64N(100), toSecond: random.IntN(2) == 0,
		accountIDs: [2]int{random.IntN(accounts), random.IntN(accounts)}}
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// attempt moves money once. A client that hears "unknown" asks until it knows: there is nothing
// else that it may do.
func (t *traffic) attempt(ctx context.Context, move transfer) (heard, error) {
	h := heard{key: move.key}
	var id txn.ID
	var err error
	h.answer, id, err = t.banks.move(ctx, t.client, move)
	if err != nil || h.answer != unknown {
		return h, err
	}
	h.doubted = true
	for h.answer == unknown {
		if ctx.Err() != nil {
			return h, context.Cause(ctx)
		}
		err := client.New(t.client).Await(ctx, id)
		if h.answer, _, err = readAnswer(err); err != nil {
			return h, err
		}
	}
	return h, nil
}

func (t *traffic) next(ctx context.Context) (number int, more bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ctx.Err() != nil || t.mu.err != nil || t.mu.committed >= t.mu.enough {
		return 0, false
	}
	t.mu.last++
	return t.mu.last, true
}

func (t *traffic) note(h heard) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.heard = append(t.mu.heard, h)
	if h.answer == committed {
		t.mu.committed++
		close(t.mu.moved)
		t.mu.moved = make(chan struct{})
	}
}

// fail remembers the first error of a client. That its context ended is none.
func (t *traffic) fail(ctx context.Context, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ctx.Err() == nil && t.mu.err == nil {
		t.mu.err = err
		close(t.mu.moved)
		t.mu.moved = make(chan struct{})
	}
}

// count is how many transfers are committed, and what is closed when that changes.
func (t *traffic) count() (int, <-chan struct{}, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.committed, t.mu.moved, t.mu.err
}

// await returns when at least n transfers are committed.
func (t *traffic) await(ctx context.Context, n int, progress func(int)) error {
	for {
		done, moved, err := t.count()
		progress(done)
		if err != nil || done >= n {
			return err
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// finish lets the clients end what they have begun, once n transfers are committed, and returns
// everything that they were told.
func (t *traffic) finish(ctx context.Context, n int, progress func(int)) ([]heard, error) {
	t.mu.Lock()
	t.mu.enough = n
	t.mu.Unlock()
	err := t.await(ctx, n, progress)
	t.join.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.heard, errors.Join(err, t.mu.err)
}

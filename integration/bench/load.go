package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// load is clients who use a line.
type load struct {
	line      Line
	clients   int
	databases int
	accounts  int
	// seed makes the accounts and amounts of every client.
	seed [2]uint64
}

// tally is what clients have seen.
type tally struct {
	// latencies has one element for each transfer that was made.
	latencies []time.Duration
	// aborted counts attempts that were repeated.
	aborted int64
	// unstarted counts transfers that were due, but not begun when patience was over.
	unstarted int64
	sums      [phases]time.Duration
	elapsed   time.Duration
}

func (t *tally) add(o tally) {
	t.latencies = append(t.latencies, o.latencies...)
	t.aborted += o.aborted
	t.unstarted += o.unstarted
	for p := range t.sums {
		t.sums[p] += o.sums[p]
	}
}

// perSecond is the throughput.
func (t *tally) perSecond() float64 {
	return float64(len(t.latencies)) / t.elapsed.Seconds()
}

// phases are the averages over all transfers.
func (t *tally) phases() Phases {
	var avg Phases
	for p, sum := range t.sums {
		avg[p] = millis(sum) / float64(max(1, len(t.latencies)))
	}
	return avg
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// closed lets every client make transfers one after the other for d, at least one each.
func (l load) closed(ctx context.Context, d time.Duration) (tally, error) {
	start := time.Now()
	return l.run(ctx, func(ctx context.Context, c *teller) error {
		for {
			if err := c.transfer(ctx, time.Now()); err != nil {
				return err
			}
			if ctx.Err() != nil || time.Since(start) >= d {
				return nil
			}
		}
	})
}

// patience is how many durations an open loop takes at most before it gives up on transfers that
// are due and not begun.
const patience = 3

// paced makes transfers that are due at a constant rate for d, and returns when all of them are
// made. As long as a client is free a transfer begins when it is due; otherwise it waits for one,
// and the waiting counts.
func (l load) paced(ctx context.Context, d time.Duration, perSecond float64) (tally, error) {
	start := time.Now()
	var next, unstarted atomic.Int64
	all, err := l.run(ctx, func(ctx context.Context, c *teller) error {
		for ctx.Err() == nil {
			due, more := schedule(next.Add(1)-1, perSecond, d)
			if !more {
				return nil
			}
			if time.Since(start) > patience*d {
				unstarted.Add(1)
				continue
			}
			if err := until(ctx, start.Add(due)); err != nil {
				return nil
			}
			if err := c.transfer(ctx, start.Add(due)); err != nil {
				return err
			}
		}
		return nil
	})
	all.unstarted = unstarted.Load()
	return all, err
}

// schedule is when the i-th transfer is due, counted from the start, and whether it still belongs
// to the measurement. The first is due at once.
func schedule(i int64, perSecond float64, d time.Duration) (due time.Duration, more bool) {
	due = time.Duration(float64(i) / perSecond * float64(time.Second))
	return due, due < d
}

// until waits for a moment. One that has passed is not waited for.
func until(ctx context.Context, at time.Time) error {
	wait := time.Until(at)
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run runs all clients and adds up what they have seen. The first error ends all of them. They do
// not stop in the middle of a transfer: what is half done would have to be cleared away.
func (l load) run(
	ctx context.Context, work func(context.Context, *teller) error,
) (tally, error) {
	parent := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	tellers := make([]*teller, l.clients)
	start := time.Now()
	var join sync.WaitGroup
	for i := range tellers {
		tellers[i] = &teller{load: l, number: i,
			random: rand.New(rand.NewPCG(l.seed[0], l.seed[1]+uint64(i)))}
		join.Go(func() {
			if err := work(ctx, tellers[i]); err != nil {
				cancel(err)
			}
		})
	}
	join.Wait()
	all := tally{elapsed: time.Since(start)}
	for _, c := range tellers {
		all.add(c.seen)
	}
	if parent.Err() != nil {
		return all, context.Cause(parent)
	}
	return all, context.Cause(ctx)
}

// teller is one client.
type teller struct {
	load
	number int
	random *rand.Rand
	watch  watch
	seen   tally
}

// Bounds of one transfer.
const (
	maxAttempts   = 100
	transferLimit = 30 * time.Second
	// pauseAfterAbort keeps clients from fighting over what they have not got.
	pauseAfterAbort = 2 * time.Millisecond
)

// transfer makes one transfer, which was due at a moment, in as many attempts as it takes.
func (c *teller) transfer(ctx context.Context, due time.Time) error {
	whole, cancel := context.WithTimeout(context.WithoutCancel(ctx), transferLimit)
	defer cancel()
	t := c.draw()
	for range maxAttempts {
		c.watch.begin(time.Now())
		err := c.line.Transfer(withWatch(whole, &c.watch), c.number, t)
		if err == nil {
			c.watch.add(time.Since(c.watch.start), &c.seen.sums)
			c.seen.latencies = append(c.seen.latencies, time.Since(due))
			return nil
		}
		if !aborted(err) {
			return fmt.Errorf("bench: a transfer failed: %w", err)
		}
		c.seen.aborted++
		pause := time.Duration(1 + c.random.Int64N(int64(pauseAfterAbort)))
		if err := until(whole, time.Now().Add(pause)); err != nil {
			return err
		}
	}
	return fmt.Errorf("bench: a transfer was aborted %d times in a row", maxAttempts)
}

// draw makes up a transfer.
func (c *teller) draw() Transfer {
	t := Transfer{Amount: 1 + c.random.Int64N(100), Accounts: make([]int, c.databases)}
	for i := range t.Accounts {
		t.Accounts[i] = c.random.IntN(c.accounts)
	}
	return t
}

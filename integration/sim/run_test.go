package sim

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/gavel-tx/gavel/integration/explore"
	"github.com/gavel-tx/gavel/txlog/vfs"
)

// report is what one world has come to.
type report struct {
	seed   uint64
	full   bool
	sum    uint64
	count  tally
	rest   instant
	broken *explore.Broken
	tail   string
}

// world is the word for its kind on the command line.
func (r report) world() string {
	if r.full {
		return "full"
	}
	return "bare"
}

func (r report) String() string {
	return fmt.Sprintf("%s world %d: %q is broken: %s\n%s\nthe same again:\n\n    "+
		"go test ./integration/sim -run TestReplay -v -sim.world=%s -sim.seed=%d\n",
		r.world(), r.seed, r.broken.Checker, r.broken.What, r.tail, r.world(), r.seed)
}

// play runs the world of a seed from its beginning to its end. Out, if not nil, gets its history.
func play(seed uint64, full bool, f flaw, blank *vfs.Mem, out io.Writer) report {
	w := newWorld(seed, draw(seed, full, f), blank)
	w.trace.out = out
	w.run()
	r := report{seed: seed, full: full, sum: w.trace.sum, count: w.count, rest: w.rest,
		broken: w.broken}
	if w.broken != nil {
		r.tail = w.trace.tail()
	}
	return r
}

// batch is a number of worlds, with seeds in a row.
type batch struct {
	full    bool
	flaw    flaw
	first   uint64
	worlds  int
	workers int
}

// outcome is what a batch has come to: what happened, how many worlds there were, and the broken
// one with the lowest seed, if there is any.
type outcome struct {
	count  tally
	worlds int
	// sum is that of all checksums, and rest the longest second phase.
	sum    uint64
	rest   instant
	broken *report
}

// run plays the worlds on several goroutines, which it joins. Only how many worlds are played after
// a broken one depends on their number.
func (b batch) run() outcome {
	var (
		mu   sync.Mutex
		wg   sync.WaitGroup
		next atomic.Int64
		stop atomic.Bool
		all  outcome
	)
	disk := blank()
	for range b.workers {
		wg.Go(func() {
			for !stop.Load() {
				i := next.Add(1) - 1
				if i >= int64(b.worlds) {
					return
				}
				r := play(b.first+uint64(i), b.full, b.flaw, disk, nil)
				mu.Lock()
				all.add(r)
				mu.Unlock()
				if r.broken != nil {
					stop.Store(true)
				}
			}
		})
	}
	wg.Wait()
	return all
}

func (o *outcome) add(r report) {
	o.worlds++
	o.count.add(&r.count)
	o.sum += r.sum
	o.rest = max(o.rest, r.rest)
	if r.broken != nil && (o.broken == nil || r.seed < o.broken.seed) {
		o.broken = &r
	}
}

package main

import (
	"context"
	"io"
	"sync"
	"sync/atomic"

	"github.com/gavel-tx/gavel/integration/crash"
)

// clerks is how many transfers are under way at once.
const clerks = 4

// desk runs transfers.
type desk struct {
	// move carries out one transfer and says what it learns.
	move func(ctx context.Context, n int64, say func(crash.Line))

	mu  sync.Mutex
	out io.Writer
	// broken is the error that kept a line from being written. Nobody would hear of the transfers
	// that follow, so that there are none.
	broken error

	// closing is closed to end the clerks, by the goroutine that takes the orders.
	closing chan struct{}
	// leave has the caller of the newest single transfer go away.
	leave context.CancelFunc
	join  sync.WaitGroup
}

// open starts the clerks. Numbers begin at base.
func (d *desk) open(ctx context.Context, base int64) {
	closing := make(chan struct{})
	d.closing = closing
	next := new(atomic.Int64)
	next.Store(base)
	for range clerks {
		d.join.Go(func() { d.work(ctx, next, closing) })
	}
}

// one runs a single transfer beside whatever is under way.
func (d *desk) one(ctx context.Context, n int64) {
	ctx, leave := context.WithCancel(ctx)
	d.leave = leave
	d.join.Go(func() {
		defer leave()
		d.move(ctx, n, d.say)
	})
}

// work is one clerk.
func (d *desk) work(ctx context.Context, next *atomic.Int64, closing <-chan struct{}) {
	for {
		select {
		case <-closing:
			return
		default:
		}
		d.move(ctx, next.Add(1)-1, d.say)
		if d.failed() {
			return
		}
	}
}

// stop waits until no transfer is under way.
func (d *desk) stop() {
	if d.closing != nil {
		close(d.closing)
		d.closing = nil
	}
	d.join.Wait()
}

// say writes one line. It returns when the line has left the process.
func (d *desk) say(l crash.Line) {
	text, err := l.Encode()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		_, err = d.out.Write(text)
	}
	if err != nil && d.broken == nil {
		d.broken = err
	}
}

func (d *desk) failed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.broken != nil
}

func (d *desk) rests() error {
	d.say(crash.Line{Rests: true})
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.broken
}

package kv

import (
	"context"
	"fmt"
	"sync"

	"go.etcd.io/bbolt"
)

// maxQueue bounds the changes that wait for the writer; more wait in their callers.
const maxQueue = 1024

// maxGroup bounds the changes of one bbolt transaction.
const maxGroup = 256

// change is one caller's part of a bbolt transaction.
type change struct {
	// apply writes. It decides for itself whether to refuse, before it writes anything; an error
	// is a failure of the storage, and takes the whole group back.
	apply func(view) error
	// after runs once the group is durable, or not, before the caller hears of it.
	after func(durable bool)
	done  chan error
}

// writer owns the only goroutine that changes the file. The fsync that runs is the window in
// which the next group gathers; no change waits for a timer.
type writer struct {
	update func(func(*bbolt.Tx) error) error
	queue  chan change
	quit   chan struct{}
	join   sync.WaitGroup
	once   sync.Once

	// turn holds a token while a group is being written.
	turn chan struct{}

	mu     sync.Mutex
	failed error
}

// newWriter starts the goroutine. update is db.Update: it is durable when it returns nil.
func newWriter(update func(func(*bbolt.Tx) error) error) *writer {
	w := &writer{
		update: update, queue: make(chan change, maxQueue), quit: make(chan struct{}),
		turn: make(chan struct{}, 1),
	}
	w.join.Go(w.run)
	return w
}

// close waits for the group under way. Changes still waiting hear ErrClosed and are not made.
func (w *writer) close() {
	w.once.Do(func() { close(w.quit) })
	w.join.Wait()
}

// err says why nothing can be done any more, or nil.
func (w *writer) err() error {
	select {
	case <-w.quit:
		return ErrClosed
	default:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// settled waits until everything that a reader may have seen is durable. bbolt shows a commit to
// readers before it has synced the page that makes it one.
func (w *writer) settled(ctx context.Context) error {
	select {
	case w.turn <- struct{}{}:
		<-w.turn
		return w.err()
	case <-ctx.Done():
		return fmt.Errorf("kv: not known to be durable: %w", context.Cause(ctx))
	}
}

// do hands a change to the writer and waits. If ctx ends first the change may still be made.
func (w *writer) do(ctx context.Context, c change) error {
	if err := w.err(); err != nil {
		return err
	}
	c.done = make(chan error, 1)
	select {
	case w.queue <- c:
	case <-w.quit:
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("kv: not begun: %w", context.Cause(ctx))
	}
	select {
	case err := <-c.done:
		return err
	case <-w.quit:
		// The group under way may hold this change; once it is over, the answer is there or never
		// comes.
		w.join.Wait()
		select {
		case err := <-c.done:
			return err
		default:
			return ErrClosed
		}
	case <-ctx.Done():
		return fmt.Errorf("kv: not known whether it was done: %w", context.Cause(ctx))
	}
}

func (w *writer) run() {
	for {
		select {
		case <-w.quit:
			return
		case c := <-w.queue:
			w.write(w.gather(c))
		}
	}
}

// gather takes what waits already.
func (w *writer) gather(first change) []change {
	group := []change{first}
	for len(group) < maxGroup {
		select {
		case c := <-w.queue:
			group = append(group, c)
		default:
			return group
		}
	}
	return group
}

// write makes one group durable. When applying fails the group is taken back and its changes are
// made one by one, so that a damaged record fails the call that needs it and no other. When the
// commit fails, nobody knows what is on disk: pages that could not be synced may be there or not,
// and the store must not be used on what memory says about them.
func (w *writer) write(group []change) {
	applied, err := w.commit(group)
	if err != nil && !applied && len(group) > 1 {
		for i := range group {
			w.write(group[i : i+1])
		}
		return
	}
	for _, c := range group {
		if c.after != nil {
			c.after(err == nil)
		}
		c.done <- err
	}
}

// commit is one bbolt transaction. applied says whether an error is about more than its changes.
func (w *writer) commit(group []change) (applied bool, err error) {
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	if err := w.err(); err != nil {
		return false, err
	}
	err = w.update(func(tx *bbolt.Tx) error {
		applied = false
		v := viewOf(tx)
		for _, c := range group {
			if err := c.apply(v); err != nil {
				return fmt.Errorf("kv: %w", err)
			}
		}
		applied = true
		return nil
	})
	if err != nil && applied {
		err = w.fail(err)
	}
	return applied, err
}

func (w *writer) fail(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = fmt.Errorf("%w: %w", ErrFailed, err)
	return w.failed
}

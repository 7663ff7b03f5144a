package bench

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gavel-tx/gavel/txlog/vfs"
)

// TestDecisionsShareASync: those who come while the disk is busy wait for one sync together.
func TestDecisionsShareASync(t *testing.T) {
	var syncs atomic.Int64
	var armed atomic.Bool
	first, release := make(chan struct{}), make(chan struct{})
	fs := vfs.Hooked(vfs.NewMem(), func(c vfs.Call) error {
		if c.Op != vfs.OpDatasync || !armed.Load() {
			return nil
		}
		if syncs.Add(1) == 1 {
			close(first)
			<-release
		}
		return nil
	})
	d, err := newDecisions(fs, "decisions")
	if err != nil {
		t.Fatal(err)
	}
	armed.Store(true)
	var join sync.WaitGroup
	force := func() {
		if err := d.force(); err != nil {
			t.Error(err)
		}
	}
	join.Go(force)
	<-first
	const others = 20
	for range others {
		join.Go(force)
	}
	// They have written what they want forced, each before it waits for its turn.
	for written := int64(0); written < others+1; {
		d.mu.Lock()
		written = d.written
		d.mu.Unlock()
	}
	close(release)
	join.Wait()
	if n := syncs.Load(); n != 2 || d.synced != others+1 {
		t.Errorf("%d syncs for %d decisions, %d durable", n, others+1, d.synced)
	}
	if err := d.close(); err != nil {
		t.Error(err)
	}
}

// TestDecisionsFail: after a failed sync nothing is believed any more, as fsync itself would have
// it.
func TestDecisionsFail(t *testing.T) {
	broken := errors.New("broken")
	var fails atomic.Bool
	fs := vfs.Hooked(vfs.NewMem(), func(c vfs.Call) error {
		if c.Op == vfs.OpDatasync && fails.CompareAndSwap(true, false) {
			return broken
		}
		return nil
	})
	d, err := newDecisions(fs, "decisions")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.force(); err != nil {
		t.Error(err)
	}
	fails.Store(true)
	for range 2 {
		if err := d.force(); !errors.Is(err, broken) {
			t.Errorf("%v", err)
		}
	}
	if err := d.close(); err != nil {
		t.Error(err)
	}
	if _, err := newDecisions(fs, "decisions"); err == nil {
		t.Error("another run's file is taken")
	}
}

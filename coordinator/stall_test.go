package coordinator

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// TestStalledDiskIsNoticed: while the disk does not answer, everybody can see for how long; when it
// does again, nothing is left of it.
func TestStalledDiskIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var stalled atomic.Bool
		disk := make(chan struct{})
		fs := vfs.Hooked(w.disk, func(call vfs.Call) error {
			if stalled.Load() && call.Op == vfs.OpDatasync {
				<-disk
			}
			return nil
		})
		c := w.open(func(cfg *Config) { cfg.FS = fs })
		rest()
		unsynced := func() time.Duration {
			d, err := c.Unsynced(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		if d := unsynced(); d > time.Second {
			t.Errorf("an idle log owes a sync for %v", d)
		}
		stalled.Store(true)
		id, votes := w.begun(c)
		answer := make(chan txn.Result, 1)
		go func() { answer <- w.commit(c, id, votes, txn.AckDecided) }()
		time.Sleep(time.Minute)
		if d := unsynced(); d < 55*time.Second {
			t.Errorf("stall unnoticed: after a minute the log owes a sync for %v", d)
		}
		stalled.Store(false)
		close(disk)
		if r := <-answer; r.Outcome != txn.OutcomeCommitted {
			t.Errorf("result %+v", r)
		}
		rest()
		if d := unsynced(); d > time.Second {
			t.Errorf("after the stall the log owes a sync for %v", d)
		}
	})
}

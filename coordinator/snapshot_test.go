package coordinator

import (
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// snapshotFiles are the snapshots in the log's directory.
func (w *world) snapshotFiles() (names []string) {
	w.t.Helper()
	all, err := w.disk.List(logDir)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, name := range all {
		if strings.HasPrefix(name, "snap-") {
			names = append(names, name)
		}
	}
	return names
}

// TestSnapshotsOfAFullDisk: beside a busy log, a snapshot that finds no space is not tried at every
// group commit, each failure is told once, and it succeeds when there is space again.
func TestSnapshotsOfAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var full atomic.Bool
		full.Store(true)
		var tries atomic.Int32
		fs := vfs.Hooked(w.disk, func(call vfs.Call) error {
			if call.Op == vfs.OpTruncate && filepath.Base(call.Name) == "snap.reserve" &&
				full.Load() {
				tries.Add(1)
				return syscall.ENOSPC
			}
			return nil
		})
		c := w.open(func(cfg *Config) { cfg.FS, cfg.SnapshotEvery = fs, 1 })
		for range 600 {
			id, votes := w.begun(c)
			w.commit(c, id, votes, txn.AckApplied)
			time.Sleep(100 * time.Millisecond)
		}
		// A minute: at 0, 1, 3, 7, 15 and 31 s.
		if n := tries.Load(); n < 4 || n > 7 {
			t.Errorf("%d tries in a minute", n)
		}
		told := 0
		for _, line := range w.journal.lines(t) {
			if line["next try in"] != nil {
				told++
			}
		}
		if told != int(tries.Load()) {
			t.Errorf("%d failures are told %d times", tries.Load(), told)
		}
		full.Store(false)
		time.Sleep(5 * time.Minute)
		id, votes := w.begun(c)
		w.commit(c, id, votes, txn.AckApplied)
		synctest.Wait()
		if len(w.snapshotFiles()) == 0 {
			t.Error("no snapshot although there is space")
		}
	})
}

// syncs is an observer that can hold up the log between a group's sync and its report.
type syncs struct {
	nobody
	mu   sync.Mutex
	left int
	gate chan struct{}
}

// holdAfter lets n more reports pass, and holds the next until the gate is closed.
func (s *syncs) holdAfter(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left, s.gate = n, make(chan struct{})
}

func (s *syncs) Synced(time.Duration) {
	s.mu.Lock()
	gate := s.gate
	s.left--
	hold := gate != nil && s.left < 0
	s.mu.Unlock()
	if hold {
		<-gate
	}
}

// TestSnapshotIsOfWhatWasReported: a snapshot stands for the log up to the report that the state
// follows, and not up to what happens to be durable when it is written: the second of two decisions
// is on the disk already when the state, which has only the first, is written down.
func TestSnapshotIsOfWhatWasReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var holding atomic.Bool
		disk := make(chan struct{})
		fs := vfs.Hooked(w.disk, func(call vfs.Call) error {
			if holding.Load() && call.Op == vfs.OpDatasync {
				<-disk
			}
			return nil
		})
		observer := &syncs{}
		c := w.open(func(cfg *Config) {
			cfg.FS, cfg.Observer, cfg.SnapshotEvery = fs, observer, 1
		})
		time.Sleep(1500 * time.Millisecond)
		had := w.snapshotFiles()

		// Each decision is a group of its own: the second gathers while the first is being synced.
		holding.Store(true)
		var answers sync.WaitGroup
		ids := make([]txn.ID, 2)
		for i := range ids {
			id, votes := w.begun(c)
			ids[i] = id
			answers.Go(func() { w.commit(c, id, votes, txn.AckDecided) })
			synctest.Wait()
		}
		// The loop sleeps through both syncs, and is told of the first alone.
		observer.holdAfter(1)
		reported := c.log.LSN()
		asleep := make(chan struct{})
		c.mail.put(input{do: func(*loop) { <-asleep }})
		synctest.Wait()
		close(disk)
		synctest.Wait()
		if seen := c.persisted.get().LSN; seen <= reported || seen >= c.log.LSN() {
			t.Fatalf("reported up to %d and then %d, durable up to %d", reported, seen, c.log.LSN())
		}
		close(asleep)
		synctest.Wait()
		if slices.Equal(w.snapshotFiles(), had) {
			t.Error("no snapshot was written")
		}

		w.disk = w.disk.KillClone()
		close(observer.gate)
		answers.Wait()
		c.Close()
		c = w.open()
		for i, id := range ids {
			r, err := c.Outcome(t.Context(), id)
			if err != nil || r.Outcome != txn.OutcomeCommitted {
				t.Errorf("decision %d is lost: %+v, %v", i+1, r, err)
			}
		}
	})
}

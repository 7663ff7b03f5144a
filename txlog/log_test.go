package txlog

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

func TestAppendedRecordsAreReplayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := newFS(t, InitOptions{})
		r := open(t, fsys)
		for i := range 50 {
			r.must(1+i%3, 10+37*i, i%2 == 0)
		}
		if err := r.wait(); err != nil {
			t.Fatal(err)
		}
		r.close()
		if rep := verify(t, fsys); !rep.Clean || rep.Torn || rep.Epoch != 1 || rep.Records == 0 {
			t.Errorf("after closing: %+v", rep.Info)
		}
		again := open(t, fsys)
		defer again.close()
		if err := again.state.check(50, 50); err != nil {
			t.Error(err)
		}
		if again.log.ID() != testID || again.log.Epoch() != 2 || !again.log.Recovery().Clean {
			t.Errorf("opened as %x, epoch %d, %+v",
				again.log.ID(), again.log.Epoch(), again.log.Recovery())
		}
	})
}

func TestSegmentsRollAndSnapshotsFreeThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := newFS(t, InitOptions{})
		r := open(t, fsys)
		for i := range 60 {
			r.put(2, 10_000)
			if i%9 == 8 {
				if err := r.snapshot(); err != nil {
					t.Fatal(err)
				}
			}
		}
		synctest.Wait()
		if s := r.log.Stats(); s.Segments > 6 || s.Snapshot == 0 || !s.Room || s.Persisted != 60 {
			t.Errorf("%+v", s)
		}
		r.close()
		rep := verify(t, fsys)
		if rep.Snapshots != 2 || rep.Tail < 5*testSegment {
			t.Errorf("%+v", rep.Info)
		}
		again := open(t, fsys)
		defer again.close()
		if err := again.state.check(60, 60); err != nil {
			t.Error(err)
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	fsys := vfs.NewMem()
	if err := fsys.Mkdir(testDir); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{testDir, "/nowhere"} {
		_, err := Open(Options{FS: fsys, Dir: dir})
		if !errors.Is(err, ErrNotALog) || !strings.Contains(err.Error(), "gavel log init "+dir) {
			t.Errorf("open %s: %v", dir, err)
		}
	}
	if names, _ := fsys.List(testDir); len(names) != 0 {
		t.Errorf("opening made %v", names)
	}
	if _, err := Open(Options{FS: fsys, SegmentSize: 5, MaxPending: -1}); err == nil ||
		!strings.Contains(err.Error(), "Dir") || !strings.Contains(err.Error(), "MaxPending") ||
		!strings.Contains(err.Error(), "segment size") {
		t.Errorf("not all faults of the options: %v", err)
	}
}

func TestASecondOpenerIsToldWhoHoldsTheLog(t *testing.T) {
	fsys := newFS(t, InitOptions{})
	r := open(t, fsys)
	_, err := tryOpen(t, fsys)
	held, ok := errors.AsType[*LockedError](err)
	if !ok || held.PID == 0 || held.Host == "" || held.Dir != testDir {
		t.Errorf("second open: %#v", err)
	}
	if err := Init(fsys, testDir, testID, InitOptions{}); !errors.As(err, &held) {
		t.Errorf("init of an open log: %v", err)
	}
	if _, err := MoveAside(fsys, testDir); !errors.As(err, &held) {
		t.Errorf("moving an open log aside: %v", err)
	}
	r.close()
	open(t, fsys).close()
}

func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, newFS(t, InitOptions{}))
		big := Record{Data: make([]byte, MaxRecord+1)}
		if _, err := r.log.Append([]Record{big}, true); !errors.Is(err, ErrTooLarge) {
			t.Errorf("a large record: %v", err)
		}
		two := []Record{{Data: make([]byte, MaxRecord)}, {Data: make([]byte, MaxRecord)}}
		if _, err := r.log.Append(two, true); !errors.Is(err, ErrTooLarge) {
			t.Errorf("a large append: %v", err)
		}
		r.put(1, MaxRecord)
		r.close()
		if err := r.append(1, 1, true); !errors.Is(err, ErrClosed) {
			t.Errorf("append after close: %v", err)
		}
		if err := r.log.Snapshot(r.log.LSN(), prefix(1)); !errors.Is(err, ErrClosed) {
			t.Errorf("snapshot after close: %v", err)
		}
	})
}

// TestBacklogIsBounded holds the disk still while appends arrive.
func TestBacklogIsBounded(t *testing.T) {
	mem := newFS(t, InitOptions{})
	stuck, free := make(chan struct{}), make(chan struct{})
	armed := false
	fsys := vfs.Hooked(mem, func(c vfs.Call) error {
		if c.Op == vfs.OpDatasync && armed {
			armed = false
			close(stuck)
			<-free
		}
		return nil
	})
	r := open(t, fsys, func(o *Options) { o.MaxPending = 1 })
	armed = true
	r.must(1, 100, true)
	<-stuck
	taken := 0
	for r.append(1, 1000, true) == nil {
		taken++
	}
	if limit := maxFrame(testSegment) / 1000; taken < limit-20 || taken > limit {
		t.Errorf("%d appends taken, the limit is about %d", taken, limit)
	}
	if err := r.append(1, 1000, false); !errors.Is(err, ErrBacklog) {
		t.Errorf("beyond the limit: %v", err)
	}
	close(free)
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	r.put(1, 1000)
	r.close()
	if _, h := readBack(t, mem); h.check(uint64(taken+2), uint64(taken+2)) != nil {
		t.Error(h)
	}
}

// TestSyncsPerGroup counts: one write and one sync for each group commit, whatever rides along;
// nothing synced for the empty frame that follows the last one.
func TestSyncsPerGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var count vfs.Counter
		mem := newFS(t, InitOptions{})
		r := open(t, vfs.Hooked(mem, count.Hook))
		defer r.close()
		idle := func() { time.Sleep(4 * lazyDelay); synctest.Wait() }
		syncs := []vfs.Op{vfs.OpSync, vfs.OpDatasync, vfs.OpSyncDir}
		idle()
		expect := func(what string, writes, synced int) {
			t.Helper()
			if w, s := count.Count(vfs.OpWrite), count.Count(syncs...); w != writes || s != synced {
				t.Errorf("%s: %d writes and %d syncs, not %d and %d", what, w, s, writes, synced)
			}
			count.Reset()
		}
		count.Reset()
		r.put(1, 100)
		expect("a forced append", 1, 1)
		idle()
		expect("the empty frame behind it", 1, 0)
		idle()
		expect("idling on", 0, 0)
		for range 10 {
			r.must(1, 100, false)
		}
		synctest.Wait()
		expect("lazy appends at first", 0, 0)
		r.must(1, 100, true)
		if err := r.wait(); err != nil {
			t.Fatal(err)
		}
		expect("lazy appends that ride along", 1, 1)
		idle()
		count.Reset()
		r.must(1, 100, false)
		if err := r.wait(); err != nil {
			t.Fatal(err)
		}
		expect("a lazy append alone", 1, 1)
		idle()
		expect("the empty frame behind it", 1, 0)
	})
}

// TestGroupsGatherWhileTheDiskIsBusy checks that the running sync is the batching window.
func TestGroupsGatherWhileTheDiskIsBusy(t *testing.T) {
	mem := newFS(t, InitOptions{})
	stuck, free := make(chan struct{}), make(chan struct{})
	armed := false
	r := open(t, vfs.Hooked(mem, func(c vfs.Call) error {
		if c.Op == vfs.OpDatasync && armed {
			armed = false
			close(stuck)
			<-free
		}
		return nil
	}))
	defer r.close()
	armed = true
	r.must(1, 100, true)
	<-stuck
	for range 20 {
		r.must(2, 100, true)
	}
	close(free)
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.syncs) != 2 {
		t.Fatalf("groups: %+v", r.syncs)
	}
	if s := r.syncs[1]; s.Appends != 20 || s.Records != 40 || s.Bytes == 0 {
		t.Errorf("second group: %+v", s)
	}
}

func TestLazyRecordsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, newFS(t, InitOptions{}))
		defer r.close()
		start := time.Now()
		for range 4 {
			r.must(1, lazyLimit/4, false)
		}
		if err := r.wait(); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(start); waited > 0 {
			t.Errorf("lazy records beyond the limit waited %v of virtual time", waited)
		}
	})
}

func TestEmptyAppendIsABarrier(t *testing.T) {
	r := open(t, newFS(t, InitOptions{}))
	defer r.close()
	before := r.log.LSN()
	done := make(chan struct{})
	r.log.opts.OnPersisted = func(Persisted) { close(done) }
	if _, err := r.log.Append(nil, true); err != nil {
		t.Fatal(err)
	}
	<-done
	if r.log.LSN() != before+sectorSize {
		t.Errorf("from LSN %d to %d", before, r.log.LSN())
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	r := open(t, newFS(t, InitOptions{SegmentSize: 4 << 20}), func(o *Options) {
		o.SegmentSize = 4 << 20
		o.OnPersisted, o.OnSync = nil, nil
	})
	defer r.close()
	recs := []Record{{Type: 1, Data: make([]byte, 100)}}
	for range 10 {
		if _, err := r.log.Append(recs, false); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(200, func() { _, _ = r.log.Append(recs, false) }); n > 0 {
		t.Errorf("%v allocations per append", n)
	}
}

func TestEpochsRiseByOne(t *testing.T) {
	fsys := newFS(t, InitOptions{})
	for want := txn.Epoch(1); want < 6; want++ {
		r := open(t, fsys)
		if r.log.Epoch() != want {
			t.Errorf("epoch %d, not %d", r.log.Epoch(), want)
		}
		// A killed process has its epoch on disk, and the next one does not repeat it.
		fsys2 := fsys.KillClone()
		r.close()
		fsys = fsys2
	}
}

// TestEpochSurvivesFreeingItsFrames lets every frame of the early epochs be freed.
func TestEpochSurvivesFreeingItsFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := newFS(t, InitOptions{})
		for range 3 {
			open(t, fsys).close()
		}
		r := open(t, fsys)
		for range 40 {
			r.put(1, 30_000)
		}
		for range 2 {
			if err := r.snapshot(); err != nil {
				t.Fatal(err)
			}
			r.put(1, 10)
		}
		r.close()
		verify(t, fsys)
		again := open(t, fsys)
		defer again.close()
		if again.log.Epoch() != 5 {
			t.Errorf("epoch %d, not 5", again.log.Epoch())
		}
	})
}

func TestTimeInFramesNeverFalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := newFS(t, InitOptions{})
		clock := time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC)
		r := open(t, fsys, func(o *Options) { o.Now = func() time.Time { return clock } })
		r.put(1, 10)
		r.close()
		clock = clock.AddDate(-30, 0, 0)
		r = open(t, fsys, func(o *Options) { o.Now = func() time.Time { return clock } })
		r.put(1, 10)
		r.close()
		last := time.Time{}
		_, err := Dump(fsys, testDir, Visitor{Frame: func(f FrameInfo) error {
			if f.Time.Before(last) {
				t.Errorf("frame at %d is of %v, after one of %v", f.LSN, f.Time, last)
			}
			last = f.Time
			return nil
		}})
		if err != nil || last.Year() != 2040 {
			t.Errorf("last frame of %v, %v", last, err)
		}
	})
}

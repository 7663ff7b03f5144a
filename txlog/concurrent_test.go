package txlog

import (
	"encoding/binary"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gavel-tx/gavel/txlog/vfs"
)

// TestManyAppenders appends from many goroutines beside snapshots: indexes are unique and dense,
// every append is acknowledged once it is durable, whole, and in the order of its index.
func TestManyAppenders(t *testing.T) {
	const appenders, each = 16, 60
	mem := newFS(t, InitOptions{})
	w := newWaiters()
	var mu sync.Mutex
	byIndex := make(map[uint64]uint64)
	log, err := Open(Options{FS: mem, Dir: testDir, SegmentSize: testSegment,
		OnPersisted: w.persisted})
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for a := range uint64(appenders) {
		group.Go(func() {
			for i := range uint64(each) {
				id := a*each + i
				index, err := log.Append(twin(id), i%3 > 0)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				byIndex[index] = id
				mu.Unlock()
				if i%2 == 0 {
					w.wait(index)
				}
			}
		})
	}
	group.Wait()
	w.wait(appenders * each)
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	index, half := uint64(0), false
	_, err = Read(mem, testDir, func(e Entry) error {
		if !half {
			index++
		}
		half = !half
		if id := binary.LittleEndian.Uint64(e.Data); id != byIndex[index] {
			t.Errorf("append %d is %d, not %d", index, id, byIndex[index])
		}
		return nil
	})
	if err != nil || index != appenders*each || half || len(byIndex) != appenders*each {
		t.Errorf("%d appends read, %d made: %v", index, len(byIndex), err)
	}
}

// twin are two records that belong together.
func twin(id uint64) []Record {
	data := binary.LittleEndian.AppendUint64(nil, id)
	return []Record{{Type: 1, Data: data}, {Type: 2, Data: append(data, make([]byte, id%300)...)}}
}

// TestSnapshotsBesideAppends makes snapshots in one goroutine while another appends; each is of a
// durable place, and the log replays whatever was last.
func TestSnapshotsBesideAppends(t *testing.T) {
	mem := newFS(t, InitOptions{})
	r := open(t, mem)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 150 {
			if err := errors.Join(r.append(1+i%2, 2_000, true), r.wait()); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for snapped := 0; ; snapped++ {
		if err := r.snapshot(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-done:
		default:
			continue
		}
		break
	}
	r.close()
	verify(t, mem)
	if _, h := readBack(t, mem); h.check(150, 150) != nil {
		t.Errorf("%+v", h)
	}
}

// TestCloseIsIdempotent, also when called at once from several places, and writes what waits.
func TestCloseIsIdempotent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newFS(t, InitOptions{})
		r := open(t, mem)
		for range 5 {
			r.must(1, 10_000, false)
		}
		var group sync.WaitGroup
		for range 4 {
			group.Go(r.close)
		}
		group.Wait()
		r.close()
		if acked, _ := r.bounds(); acked != 5 {
			t.Errorf("%d of 5 acknowledged by closing", acked)
		}
		if info, h := readBack(t, mem); h.check(5, 5) != nil || !info.Clean {
			t.Errorf("%+v, %+v", info, h)
		}
	})
}

// TestSegmentSizeMayChange between openings: segments that exist keep theirs, and a frame that is
// too large for what is left of them goes into the next that holds it.
func TestSegmentSizeMayChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newFS(t, InitOptions{})
		n := uint64(0)
		for _, size := range []int64{4 << 20, testSegment, 1 << 20, 8 << 20} {
			r := open(t, mem, func(o *Options) { o.SegmentSize = size })
			if err := r.state.check(n, n); err != nil {
				t.Errorf("size %d: %v", size, err)
			}
			synctest.Wait()
			count := maxFrame(size)/MaxRecord - 1
			for range 4 {
				r.put(max(1, count), MaxRecord-16)
				n++
			}
			r.close()
			verify(t, mem)
		}
	})
}

// TestOnSyncMeasuresWithTheGivenClock and tells before OnPersisted.
func TestOnSyncMeasuresWithTheGivenClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newFS(t, InitOptions{})
		slow := vfs.Hooked(mem, func(c vfs.Call) error {
			if c.Op == vfs.OpDatasync {
				time.Sleep(7 * time.Millisecond)
			}
			return nil
		})
		var order []string
		r := open(t, slow, func(o *Options) {
			persisted, sync := o.OnPersisted, o.OnSync
			o.OnPersisted = func(p Persisted) { order = append(order, "persisted"); persisted(p) }
			o.OnSync = func(s Sync) { order = append(order, "sync"); sync(s) }
		})
		r.put(3, 100)
		if s := r.syncs[0]; s.Duration != 7*time.Millisecond || s.Records != 3 || s.Appends != 1 ||
			s.Bytes != sectorSize {
			t.Errorf("%+v", s)
		}
		if !slices.Equal(order, []string{"sync", "persisted"}) {
			t.Errorf("told %v", order)
		}
		r.close()
	})
}

func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newFS(t, InitOptions{})
		r := open(t, mem)
		synctest.Wait()
		empty := r.log.Stats()
		if empty.Segments != 2 || empty.Bytes != 2*testSegment || empty.Snapshot != 0 ||
			empty.BytesSinceSnapshot != sectorSize || !empty.Room ||
			empty.LSN != headerSize+sectorSize {
			t.Errorf("at first: %+v", empty)
		}
		r.put(2, 100)
		r.must(1, 100, false)
		synctest.Wait()
		s := r.log.Stats()
		if s.Appended != 2 || s.Persisted != 1 || s.Pending != 1 || s.Groups != 1 ||
			s.Records != 2 || s.Appends != 1 || s.LSN != r.log.LSN() ||
			s.BytesSinceSnapshot != 2*sectorSize {
			t.Errorf("then: %+v", s)
		}
		if err := r.snapshot(); err != nil {
			t.Fatal(err)
		}
		if s = r.log.Stats(); s.Snapshot != s.LSN || s.BytesSinceSnapshot != 0 ||
			r.log.BytesSinceSnapshot() != 0 {
			t.Errorf("after a snapshot: %+v", s)
		}
		r.close()
	})
}

// TestReplayMayRefuse: the error of the caller's replay ends Open, and the log is as it was.
func TestReplayMayRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newFS(t, InitOptions{})
		r := open(t, mem)
		r.put(1, 10)
		if err := r.snapshot(); err != nil {
			t.Fatal(err)
		}
		r.put(1, 10)
		r.close()
		before := readFile(t, mem, filepath.Join(testDir, segmentName(0)))
		for _, fromSnapshot := range []bool{true, false} {
			stop := errors.New("an unknown record")
			_, err := Open(Options{FS: mem, Dir: testDir, Replay: func(e Entry) error {
				if e.FromSnapshot == fromSnapshot {
					return stop
				}
				return nil
			}})
			if !errors.Is(err, stop) {
				t.Errorf("open: %v", err)
			}
		}
		if !slices.Equal(before, readFile(t, mem, filepath.Join(testDir, segmentName(0)))) {
			t.Error("a refused replay changed the log")
		}
		open(t, mem).close()
	})
}

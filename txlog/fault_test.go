package txlog

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gavel-tx/gavel/txlog/vfs"
)

// TestFailEveryCall fails the i-th call that changes anything, for every i, once and for ever, as
// an error, and as a short write. The log then either refuses to open or fails for good: it tells
// once, takes nothing more, touches none of the log's files again, and what it had acknowledged is
// there for the next process.
func TestFailEveryCall(t *testing.T) {
	for _, sticky := range []bool{false, true} {
		for _, short := range []bool{false, true} {
			t.Run(fmt.Sprintf("sticky=%v short=%v", sticky, short), func(t *testing.T) {
				done := false
				for i := 1; !done && !t.Failed(); i++ {
					synctest.Test(t, func(t *testing.T) { done = failCall(t, i, sticky, short) })
				}
			})
		}
	}
}

// failCall runs a workload whose i-th call fails. It says whether the workload came to its end
// before.
func failCall(t *testing.T, i int, sticky, short bool) (done bool) {
	mem := newFS(t, InitOptions{})
	cause := error(errDisk)
	if short {
		cause = &vfs.ShortWrite{N: 700, Err: errDisk}
	}
	fault := vfs.FailNth(i, sticky, cause, vfs.Mutating()...)
	var mu sync.Mutex
	var hit, hitLog bool
	var told atomic.Bool
	after := 0
	r, err := tryOpen(t, vfs.Hooked(mem, func(c vfs.Call) error {
		mu.Lock()
		defer mu.Unlock()
		err := fault(c)
		inLog := slices.Contains(vfs.Mutating(), c.Op) && isLogFile(filepath.Base(c.Name))
		switch {
		case inLog && (hitLog || told.Load()):
			after++
		case err != nil && !hit:
			hit, hitLog = true, inLog
		}
		return err
	}), func(o *Options) {
		tell := o.OnFailed
		o.OnFailed = func(err error) { told.Store(true); tell(err) }
	})
	if err != nil {
		if !hit || !errors.Is(err, errDisk) {
			t.Errorf("call %d: open says %v", i, err)
		}
		recovered(t, fmt.Sprintf("call %d, reopened", i), mem.KillClone(), 0, 0)
		return false
	}
	faultyWorkload(r)
	closeErr := r.log.Close()
	switch {
	case !hit && (r.failed != nil || closeErr != nil):
		t.Errorf("no fault, but %v, %v", r.failed, closeErr)
	case hit && !errors.Is(r.failed, ErrFailed), hit && !errors.Is(r.failed, errDisk),
		hit && !errors.Is(closeErr, errDisk):
		t.Errorf("call %d failed; reported: %v; close: %v", i, r.failed, closeErr)
	case hit && !errors.Is(r.append(1, 1, true), ErrFailed):
		t.Errorf("call %d failed, and appends are still taken", i)
	case hit && r.log.Room():
		t.Errorf("call %d failed, and there is room", i)
	}
	// While the keeper or a snapshot fails, one group commit may be under way, with the seal before
	// it.
	if allowed := 4; hit && (after > allowed || hitLog && after > 0) {
		t.Errorf("call %d failed, and %d calls for the log's files followed", i, after)
	}
	acked, appended := r.bounds()
	recovered(t, fmt.Sprintf("call %d, reopened", i), mem.KillClone(), acked, appended)
	return !hit
}

// faultyWorkload goes on as far as the log does.
func faultyWorkload(r *rig) {
	for i := range 9 {
		if r.append(2, 9_000, true) != nil || r.wait() != nil {
			return
		}
		if i%4 == 2 && r.snapshot() != nil {
			return
		}
		if i == 5 {
			time.Sleep(2 * lazyDelay)
		}
	}
	synctest.Wait()
}

// TestNothingIsReportedAfterAFailure fails the keeper while a group commit runs: the group may be
// durable, and is not reported.
func TestNothingIsReportedAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newFS(t, InitOptions{})
		stuck, free := make(chan struct{}), make(chan struct{})
		var once sync.Once
		armed := false
		r := open(t, vfs.Hooked(mem, func(c vfs.Call) error {
			if c.Op == vfs.OpDatasync && armed {
				once.Do(func() { close(stuck); <-free })
			}
			return nil
		}))
		synctest.Wait()
		armed = true
		r.must(1, 100, true)
		<-stuck
		r.log.fail(errDisk)
		close(free)
		if err := r.wait(); !errors.Is(err, ErrFailed) {
			t.Error(err)
		}
		if err := r.log.Close(); !errors.Is(err, ErrFailed) {
			t.Error(err)
		}
		if acked, _ := r.bounds(); acked != 0 {
			t.Errorf("%d reported after the failure", acked)
		}
		if err := r.log.Snapshot(r.log.LSN(), prefix(0)); !errors.Is(err, ErrFailed) {
			t.Errorf("snapshot of a failed log: %v", err)
		}
	})
}

// TestDiskFull fills the disk: new work is refused by Room, appends and a snapshot go on in the
// reserve, nothing fails, and when space returns everything goes on by itself.
func TestDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newFS(t, InitOptions{})
		r := open(t, mem)
		synctest.Wait()
		mem.SetCapacity(mem.Used())
		if !r.log.Room() {
			t.Error("no room although a segment and a reserve are in stock")
		}
		fill := func(segments int) {
			for range segments * testSegment / 20_000 {
				r.put(1, 20_000)
			}
			synctest.Wait()
		}
		fill(1)
		if r.log.Room() {
			t.Error("room although no spare could be made")
		}
		if err := r.snapshot(); err != nil {
			t.Errorf("a snapshot in the reserve: %v", err)
		}
		synctest.Wait()
		if err := r.snapshot(); err != nil && !errors.Is(err, ErrNoSpace) {
			t.Errorf("a snapshot without a reserve: %v", err)
		}
		// The current segment fills up; what is appended then waits, and nothing fails.
		for r.append(1, 20_000, true) == nil {
			synctest.Wait()
		}
		if acked, appended := r.bounds(); acked == appended || r.failed != nil {
			t.Errorf("acked %d of %d, failed: %v", acked, appended, r.failed)
		}
		killed := unbounded(mem.KillClone())
		recovered(t, "killed on a full disk, space again", killed, r.acked, r.appended)
		mem.SetCapacity(0)
		if err := r.wait(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * spaceRetry)
		synctest.Wait()
		if !r.log.Room() {
			t.Error("no room although there is space again")
		}
		r.close()
		verify(t, mem)
	})
}

func unbounded(mem *vfs.Mem) *vfs.Mem {
	mem.SetCapacity(0)
	return mem
}

// TestSnapshotMakesRoom: on a full disk a snapshot frees segments, and that is room.
func TestSnapshotMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newFS(t, InitOptions{})
		r := open(t, mem)
		r.put(1, 100)
		if err := r.snapshot(); err != nil {
			t.Fatal(err)
		}
		for range 12 {
			r.put(1, 30_000)
		}
		synctest.Wait()
		mem.SetCapacity(mem.Used())
		for r.log.Room() {
			r.put(1, 30_000)
			synctest.Wait()
		}
		if err := r.snapshot(); err != nil {
			t.Fatal(err)
		}
		r.put(1, 100)
		if err := r.snapshot(); err != nil && !errors.Is(err, ErrNoSpace) {
			t.Fatal(err)
		}
		time.Sleep(2 * spaceRetry)
		if err := r.snapshot(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !r.log.Room() {
			t.Errorf("no room after segments were freed: %+v", r.log.Stats())
		}
		r.close()
	})
}

// TestCloseOnAFullDisk reports what it could not write, and does not wait for space.
func TestCloseOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newFS(t, InitOptions{})
		r := open(t, mem)
		synctest.Wait()
		mem.SetCapacity(mem.Used())
		for r.append(1, 20_000, true) == nil {
			synctest.Wait()
		}
		if err := r.log.Close(); !errors.Is(err, ErrNoSpace) || errors.Is(err, ErrFailed) {
			t.Errorf("close: %v", err)
		}
		info, h := readBack(t, mem)
		if err := h.check(r.acked, r.appended); err != nil || !info.Clean {
			t.Errorf("%v, %+v", err, info)
		}
		// With the disk still full it opens again, several times, in the room kept for that.
		for i := range 3 {
			again := open(t, mem)
			synctest.Wait()
			if again.log.Room() {
				t.Errorf("open %d: room on a full disk", i)
			}
			if err := again.log.Close(); err != nil {
				t.Error(err)
			}
		}
		opens := 0
		for opens < 20 {
			again, err := tryOpen(t, mem)
			if err != nil {
				if !errors.Is(err, ErrNoSpace) {
					t.Error(err)
				}
				break
			}
			opens++
			if err := again.log.Close(); err != nil {
				t.Error(err)
			}
		}
		if opens == 20 {
			t.Error("a full segment on a full disk was opened without end")
		}
		mem.SetCapacity(0)
		recovered(t, "with space again", mem, r.acked, r.appended)
	})
}

// TestSnapshotContract holds Snapshot to durable places where frames begin.
func TestSnapshotContract(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newFS(t, InitOptions{})
		r := open(t, mem)
		defer r.close()
		for range 5 {
			r.put(1, 3000)
		}
		lsn := r.log.LSN()
		for _, bad := range []uint64{0, 100, lsn + sectorSize, lsn - sectorSize, 1 << 50} {
			if err := r.log.Snapshot(bad, prefix(5)); !errors.Is(err, ErrBadSnapshot) {
				t.Errorf("at %d of %d: %v", bad, lsn, err)
			}
		}
		tooLarge := slices.Values([]Record{{Data: make([]byte, MaxRecord+1)}})
		if err := r.log.Snapshot(lsn, tooLarge); !errors.Is(err, ErrTooLarge) {
			t.Errorf("with a large record: %v", err)
		}
		older := r.lsns[3]
		if err := r.log.Snapshot(older, prefix(3)); err != nil {
			t.Errorf("at an older place: %v", err)
		}
		if err := r.log.Snapshot(lsn, prefix(5)); err != nil {
			t.Error(err)
		}
		if err := r.log.Snapshot(older, prefix(3)); !errors.Is(err, ErrBadSnapshot) {
			t.Errorf("before the last one: %v", err)
		}
		if n := r.log.BytesSinceSnapshot(); n != 0 {
			t.Errorf("%d bytes since the snapshot at the end", n)
		}
		if _, h := readBack(t, mem); h.check(5, 5) != nil {
			t.Errorf("%+v", h)
		}
	})
}

// TestLargeSnapshot spans chunks and outgrows the reserve.
func TestLargeSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newFS(t, InitOptions{})
		r := open(t, mem)
		r.put(1, 10)
		big := func(yield func(Record) bool) {
			for range 40 {
				if !yield(Record{Type: recPrefix, Data: payload(1, 0, MaxRecord-7)}) {
					return
				}
			}
		}
		for range 2 {
			if err := r.log.Snapshot(r.log.LSN(), big); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		info, err := mem.Stat(filepath.Join(testDir, reserveName))
		if err != nil || info.Size < 40*MaxRecord {
			t.Errorf("the next reserve has %d bytes, %v", info.Size, err)
		}
		r.close()
		n := 0
		if _, err := Read(mem, testDir, func(e Entry) error {
			if e.FromSnapshot && len(e.Data) == MaxRecord-7 {
				n++
			}
			return nil
		}); err != nil || n != 40 {
			t.Errorf("%d records, %v", n, err)
		}
		stop := errors.New("enough")
		if _, err := Read(mem, testDir, func(Entry) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("a reader's error: %v", err)
		}
	})
}

// TestCopies copies a log's files: it is read, and not opened.
func TestCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem, n := specimen(t, false)
		names, err := mem.List(testDir)
		if err != nil {
			t.Fatal(err)
		}
		const dir = "/copy"
		if err := mem.Mkdir(dir); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			b := readFile(t, mem, filepath.Join(testDir, name))
			writeFile(t, mem, filepath.Join(dir, name), b)
		}
		var h history
		info, err := Read(mem, dir, h.apply)
		if err != nil || !info.Copy || h.check(n, n) != nil {
			t.Errorf("%+v, %+v, %v", info, h, err)
		}
		_, err = Open(Options{FS: mem, Dir: dir})
		if c, ok := errors.AsType[*CopyError](err); !ok || c.Dir != dir {
			t.Errorf("open: %v", err)
		}
		if info, _ := readBack(t, mem); info.Copy {
			t.Error("the original counts as a copy")
		}
		if rep, err := Verify(mem, dir, nil); err != nil || !rep.Copy || len(rep.Faults) > 0 {
			t.Errorf("%+v, %v", rep, err)
		}
	})
}

func writeFile(t *testing.T, fsys vfs.FS, name string, b []byte) {
	t.Helper()
	f, err := fsys.Open(name, vfs.Create)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(writeFull(f, b, 0), f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestInitRefuses(t *testing.T) {
	mem := newFS(t, InitOptions{})
	for _, what := range []string{metaName, segmentName(0)} {
		other := mem.KillClone()
		if what == segmentName(0) {
			// A log that lost its meta is damaged, and no place for a new one either.
			if err := other.Remove(filepath.Join(testDir, metaName)); err != nil {
				t.Fatal(err)
			}
			if _, err := tryOpen(t, other); !isCorruption(err) {
				t.Errorf("open without meta: %v", err)
			}
		}
		if err := Init(other, testDir, testID, InitOptions{}); !errors.Is(err, ErrExists) {
			t.Errorf("with %s: %v", what, err)
		}
	}
	if err := Init(mem, "/x", 0, InitOptions{}); err == nil {
		t.Error("made a log without an id")
	}
	if err := Init(mem, "/x", testID, InitOptions{SegmentSize: 1}); err == nil {
		t.Error("made segments of one byte")
	}
	if err := Init(mem, "/no/parent", testID, InitOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a parent: %v", err)
	}
	small := vfs.NewMem()
	small.SetCapacity(testSegment)
	err := Init(small, testDir, testID, InitOptions{SegmentSize: testSegment})
	if !errors.Is(err, ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("on a full disk: %v", err)
	}
	if _, err := Open(Options{FS: small, Dir: testDir}); !errors.Is(err, ErrNotALog) {
		t.Errorf("half a log: %v", err)
	}
}

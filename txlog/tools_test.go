package txlog

import (
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gavel-tx/gavel/txlog/vfs"
)

// TestDumpTellsTheWholeStory walks a small log frame by frame.
func TestDumpTellsTheWholeStory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newFS(t, InitOptions{})
		r := open(t, mem)
		r.put(2, 1000)
		time.Sleep(2 * lazyDelay)
		synctest.Wait()
		if err := r.snapshot(); err != nil {
			t.Fatal(err)
		}
		r.put(1, 10)
		r.close()
		var kinds []string
		var frames []FrameInfo
		entries := 0
		info, err := Dump(mem, testDir, Visitor{
			Frame: func(f FrameInfo) error {
				kinds, frames = append(kinds, f.Kind.String()), append(frames, f)
				return nil
			},
			Entry: func(Entry) error { entries++; return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"open", "data", "empty", "data", "close"}
		if len(kinds) != len(want) || entries != 3+3 || info.Frames != 5 || info.Records != 3 {
			t.Fatalf("frames %v, %d entries, %+v", kinds, entries, info)
		}
		for i, f := range frames {
			if kinds[i] != want[i] || f.Epoch != 1 || f.LSN != uint64(f.Offset) || f.Time.IsZero() {
				t.Errorf("frame %d: %+v", i, f)
			}
		}
		// The empty frame vouches for the group before it, and nothing for itself.
		if e := frames[2]; e.Synced != e.LSN || e.Bytes != sectorSize || frames[3].Synced != e.LSN {
			t.Errorf("empty frame %+v, then %+v", e, frames[3])
		}
		stat, err := Stat(mem, testDir)
		if err != nil || stat.Tail != info.Tail || stat.ID != testID ||
			stat.Bytes != 2*testSegment {
			t.Errorf("stat: %+v, %v", stat, err)
		}
	})
}

func TestReadingToolsChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem, _ := specimen(t, false)
		forbidden := append(vfs.Mutating(), vfs.OpLock)
		fsys := vfs.Hooked(mem, vfs.FailNth(1, true, errDisk, forbidden...))
		readBack(t, fsys)
		verify(t, fsys)
		if _, err := Stat(fsys, testDir); err != nil {
			t.Error(err)
		}
		fsys = vfs.Hooked(mem, vfs.FailNth(5, true, errDisk, vfs.OpRead))
		if _, err := Verify(fsys, testDir, nil); !errors.Is(err, errDisk) || isCorruption(err) {
			t.Errorf("a disk that cannot be read counts as %v", err)
		}
		for _, f := range []func() error{
			func() error { _, err := Stat(mem, "/nowhere"); return err },
			func() error { _, err := Verify(mem, "/nowhere", nil); return err },
		} {
			if err := f(); !errors.Is(err, ErrNotALog) {
				t.Errorf("nowhere: %v", err)
			}
		}
	})
}

// TestReadBesideALiveLog reads and verifies again and again while a log rolls, snapshots and frees:
// never is anything in motion called damaged.
func TestReadBesideALiveLog(t *testing.T) {
	mem := newFS(t, InitOptions{})
	r := open(t, mem)
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; !stop.Load(); i++ {
			r.put(1+i%3, 200+i%7*2500)
			if i%25 == 24 {
				if err := r.snapshot(); err != nil {
					t.Error(err)
					return
				}
			}
		}
	}()
	for range 60 {
		var h history
		acked, _ := r.bounds()
		_, err := Read(mem, testDir, h.apply)
		_, appended := r.bounds()
		if err == nil {
			err = h.check(acked, appended)
		}
		if err != nil && !errors.Is(err, ErrMoved) {
			t.Fatal(err)
		}
		rep, err := Verify(mem, testDir, nil)
		if err != nil && !errors.Is(err, ErrMoved) || len(rep.Faults) > 0 {
			t.Fatalf("%v, %v", rep.Faults, err)
		}
	}
	stop.Store(true)
	<-done
	r.close()
}

// TestHalfAWriteIsInMotion reads while only the first part of a frame has arrived, its last sector
// half: that is no damage while it moves, and damage if it stays.
func TestHalfAWriteIsInMotion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newFS(t, InitOptions{})
		r := open(t, mem)
		r.put(1, 100)
		before := mem.KillClone()
		r.put(1, 3300)
		r.close()
		var frame FrameInfo
		if _, err := Dump(mem, testDir, Visitor{Frame: func(f FrameInfo) error {
			if f.Records > 0 {
				frame = f
			}
			return nil
		}}); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(testDir, frame.Segment)
		whole := readFile(t, mem, file)[frame.Offset : frame.Offset+int64(frame.Bytes)]
		half := func(n int) {
			before.Damage(file, func(data []byte) { copy(data[frame.Offset:], whole[:n]) })
		}
		half(len(whole) - 350)
		if rep, err := Verify(before, testDir, nil); err != nil || len(rep.Faults) != 1 {
			t.Errorf("half a write that stays: %v, %v", rep.Faults, err)
		}
		finished := make(chan struct{})
		go func() {
			defer close(finished)
			time.Sleep(2 * settlePause)
			half(len(whole))
		}()
		if _, h := readBack(t, before); h.check(2, 2) != nil {
			t.Errorf("%+v", h)
		}
		<-finished
		verify(t, before)
	})
}

// TestMovedOn frees the segment that a reader is about to enter.
func TestMovedOn(t *testing.T) {
	mem := newFS(t, InitOptions{})
	im, err := openImage(mem, testDir, vfs.ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := im.close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := im.openLater(5); !isCorruption(errors.Join(err)) && !errors.Is(err, ErrMoved) {
		t.Errorf("segment 5 of 2: %v", err)
	}
	if _, err := im.openLater(2); !isCorruption(err) {
		t.Errorf("the segment behind the last one: %v", err)
	}
	if err := mem.Remove(filepath.Join(testDir, segmentName(1))); err != nil {
		t.Fatal(err)
	}
	if _, err := im.openLater(2); !errors.Is(err, ErrMoved) {
		t.Errorf("behind a freed segment: %v", err)
	}
}

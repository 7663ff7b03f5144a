package txlog

import (
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gavel-tx/gavel/txlog/vfs"
)

// TestStill: of a log that nobody writes to, a torn or damaged tail is judged at once, without a
// pause; what is found is the same.
func TestStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		torn := tornLog(t)
		damaged := torn.KillClone()
		damaged.FlipBit(filepath.Join(testDir, segmentName(0)), headerSize+sectorSize+70, 0)
		for _, mem := range []*vfs.Mem{torn, damaged} {
			live, still := Source{FS: mem, Dir: testDir}, Source{FS: mem, Dir: testDir, Still: true}
			start := time.Now()
			want, wantErr := live.Stat()
			if time.Since(start) < settlePause {
				t.Error("a tail in motion was not given any time")
			}
			start = time.Now()
			got, err := still.Stat()
			frames := uint64(0)
			_, dumpErr := still.Dump(Visitor{Frame: func(FrameInfo) error { frames++; return nil }})
			rep, verifyErr := still.Verify(nil)
			if took := time.Since(start); took != 0 {
				t.Errorf("judged after %v", took)
			}
			if got.Tail != want.Tail || got.Torn != want.Torn || frames != want.Frames ||
				(err == nil) != (wantErr == nil) || (dumpErr == nil) != (wantErr == nil) {
				t.Errorf("%+v, %v; live: %+v, %v; %d frames, %v", got, err, want, wantErr, frames,
					dumpErr)
			}
			if faults := len(rep.Faults) > 0; verifyErr != nil || faults != isCorruption(wantErr) {
				t.Errorf("verify: %+v, %v", rep, verifyErr)
			}
		}
	})
}

// TestStillWithoutTheNextSegment: a seal is the end of nothing, and there is nobody to wait for.
func TestStillWithoutTheNextSegment(t *testing.T) {
	mem := newDrivenFS(t)
	r := open(t, mem, driven)
	for r.log.LSN() < MinSegmentSize {
		r.put(1, 3_000)
	}
	r.close()
	if err := mem.Remove(filepath.Join(testDir, segmentName(1))); err != nil {
		t.Fatal(err)
	}
	still := Source{FS: mem, Dir: testDir, Still: true}
	if _, err := still.Stat(); !errors.Is(err, errMissing) {
		t.Errorf("stat: %v", err)
	}
	rep, err := still.Verify(nil)
	if err != nil || len(rep.Faults) != 1 || !errors.Is(rep.Faults[0], errMissing) {
		t.Errorf("verify: %v, %v", rep.Faults, err)
	}
}

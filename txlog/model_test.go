package txlog

import (
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/gavel-tx/gavel/txlog/vfs"
)

// world is a log and what a perfect one would hold: the appends that must be there, and those that
// may.
type world struct {
	t    *rapid.T
	tb   testing.TB
	mem  *vfs.Mem
	rig  *rig
	size int64
	// epoch is that of the last opening that is known to be durable.
	epoch uint32
}

// open opens the log after whatever has happened to it, and compares.
func (w *world) open(acked, appended uint64) {
	r, err := tryOpen(w.tb, w.mem, func(o *Options) { o.SegmentSize = w.size })
	if err == nil {
		err = r.state.check(acked, appended)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if e := uint32(r.log.Epoch()); e <= w.epoch {
		w.t.Fatalf("epoch %d after epoch %d", e, w.epoch)
	} else {
		w.epoch = e
	}
	w.rig = r
}

// leave ends the running log without a word to the disk that could count: the world goes on with a
// clone that was taken before.
func (w *world) leave(next *vfs.Mem) {
	if err := w.rig.log.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.mem = next
}

func (w *world) append(t *rapid.T) {
	count := rapid.IntRange(1, 4).Draw(t, "count")
	size := rapid.SampledFrom([]int{0, 40, 420, 480, 3_000, 25_000}).Draw(t, "size")
	err := w.rig.append(count, size, rapid.Bool().Draw(t, "forced"))
	if err != nil && !errors.Is(err, ErrBacklog) {
		t.Fatal(err)
	}
}

func (w *world) wait(t *rapid.T) {
	if err := w.rig.wait(); err != nil {
		t.Fatal(err)
	}
}

func (w *world) idle(*rapid.T) {
	time.Sleep(3 * lazyDelay)
	synctest.Wait()
}

func (w *world) snapshot(t *rapid.T) {
	if err := w.rig.snapshot(); err != nil {
		t.Fatal(err)
	}
}

func (w *world) reopen(t *rapid.T) {
	w.size = rapid.SampledFrom([]int64{testSegment, 2 * testSegment}).Draw(t, "segment")
	if err := w.rig.log.Close(); err != nil {
		t.Fatal(err)
	}
	_, appended := w.rig.bounds()
	w.open(appended, appended)
}

func (w *world) kill(*rapid.T) {
	acked, _ := w.rig.bounds()
	next := w.mem.KillClone()
	_, appended := w.rig.bounds()
	w.leave(next)
	w.open(acked, appended)
}

func (w *world) powerCut(t *rapid.T) {
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
	acked, _ := w.rig.bounds()
	next := w.mem.CrashClone(rng)
	_, appended := w.rig.bounds()
	w.leave(next)
	w.open(acked, appended)
}

// look reads the running log from beside.
func (w *world) look(t *rapid.T) {
	acked, _ := w.rig.bounds()
	var h history
	info, err := Read(w.mem, testDir, h.apply)
	_, appended := w.rig.bounds()
	if err = errors.Join(err, h.check(acked, appended)); err != nil {
		t.Fatal(err)
	}
	rep, err := Verify(w.mem, testDir, nil)
	if err != nil || len(rep.Faults) > 0 || rep.ID != info.ID || rep.Tail < info.Tail {
		t.Fatalf("read %+v, verify %+v, %v", info, rep, err)
	}
}

// TestAgainstAModel drives a log through lives of any shape: any order of appends, waits, idle
// times, snapshots, closings, kills and power cuts.
func TestAgainstAModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{t: rt, tb: t, mem: newFS(t, InitOptions{}), size: testSegment}
			w.open(0, 0)
			defer func() { _ = w.rig.log.Close() }()
			rt.Repeat(map[string]func(*rapid.T){
				"append": w.append, "append more": w.append, "append again": w.append,
				"wait": w.wait, "idle": w.idle, "snapshot": w.snapshot, "reopen": w.reopen,
				"kill": w.kill, "power cut": w.powerCut, "look": w.look,
			})
		})
	})
}

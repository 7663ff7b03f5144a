package txlog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gavel-tx/gavel/txlog/vfs"
)

// crasher cuts the power before every call that changes a file system or makes a change durable, and
// hands what is left to check.
type crasher struct {
	mu    sync.Mutex
	mem   *vfs.Mem
	rng   *rand.Rand
	seeds int
	// bounds are asked for the acknowledged appends before the power is cut, and for those made after it: other
	// goroutines go on meanwhile.
	bounds func() (acked, appended uint64)
	check  func(at string, crashed *vfs.Mem, acked, appended uint64)
	calls  int
}

func (c *crasher) hook(call vfs.Call) error {
	if !slices.Contains(vfs.Mutating(), call.Op) {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	for seed := range c.seeds {
		at := fmt.Sprintf("call %d (%v of %s), seed %d", c.calls, call.Op, call.Name, seed)
		acked, _ := c.bounds()
		crashed := c.mem.CrashClone(c.rng)
		_, appended := c.bounds()
		c.check(at, crashed, acked, appended)
	}
	return nil
}

// fixed are bounds that do not move.
func fixed(acked, appended uint64) func() (uint64, uint64) {
	return func() (uint64, uint64) { return acked, appended }
}

// recovered opens what a crash has left, compares, closes and compares again. It is called by whichever goroutine
// makes a call, so it must not end it.
func recovered(t *testing.T, at string, fsys vfs.FS, acked, appended uint64) {
	r, err := tryOpen(t, fsys)
	if err != nil {
		t.Errorf("%s: %v", at, err)
		return
	}
	n := r.state.n
	stateErr := r.state.check(acked, appended)
	err = errors.Join(stateErr, r.append(1, 50, true), r.wait(), r.log.Close())
	if err != nil {
		t.Errorf("%s: %v", at, err)
		return
	}
	rep, err := Verify(fsys, testDir, nil)
	if err != nil || len(rep.Faults) > 0 || !rep.Clean {
		t.Errorf("%s: verify after recovery: %+v, %v", at, rep, err)
	}
	var h history
	_, err = Read(fsys, testDir, h.apply)
	if err := errors.Join(err, h.check(n+1, n+1)); err != nil {
		t.Errorf("%s: after recovery and one more append: %v", at, err)
	}
}

// workload is a scripted life: groups of all sizes, lazy and forced, idle times, rolls, snapshots.
func workload(t *testing.T, r *rig, rng *rand.Rand, steps int) {
	for range steps {
		switch rng.IntN(10) {
		case 0:
			time.Sleep(2 * lazyDelay)
		case 1:
			if err := r.snapshot(); err != nil {
				t.Fatal(err)
			}
		case 2, 3:
			r.must(1+rng.IntN(2), rng.IntN(300), false)
		case 4:
			r.put(3, 7_000+rng.IntN(20_000))
		default:
			r.must(1+rng.IntN(3), rng.IntN(1500), rng.IntN(3) > 0)
			if rng.IntN(2) == 0 {
				if err := r.wait(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// TestEveryCrash is the promise of this package: every acknowledged record survives a power cut at any moment,
// a second one during the recovery from it, and a third; nothing appears that was not appended, and no append is
// there in part.
func TestEveryCrash(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { everyCrash(t, seed) })
		})
	}
}

func everyCrash(t *testing.T, seed uint64) {
	mem := newFS(t, InitOptions{})
	rng := rand.New(rand.NewPCG(seed, 1))
	var opened atomic.Pointer[rig]
	c := &crasher{mem: mem, rng: rng, seeds: 2}
	c.bounds = func() (acked, appended uint64) {
		if r := opened.Load(); r != nil {
			return r.bounds()
		}
		return 0, 0
	}
	c.check = func(at string, crashed *vfs.Mem, acked, appended uint64) {
		if rng.IntN(8) == 0 {
			crashDuringRecovery(t, at, crashed, rng, acked, appended)
		} else {
			recovered(t, at, crashed, acked, appended)
		}
	}
	hooked := vfs.Hooked(mem, c.hook)
	r := open(t, hooked)
	opened.Store(r)
	workload(t, r, rand.New(rand.NewPCG(seed, 2)), 50)
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	r.close()
	if c.calls < 80 {
		t.Errorf("only %d crashes", c.calls)
	}
}

// crashDuringRecovery crashes the opening at every call, too.
func crashDuringRecovery(t *testing.T, at string, mem *vfs.Mem, rng *rand.Rand, acked, appended uint64) {
	c := &crasher{mem: mem, rng: rng, seeds: 1, bounds: fixed(acked, appended)}
	c.check = func(then string, crashed *vfs.Mem, acked, appended uint64) {
		recovered(t, at+", then "+then, crashed, acked, appended)
	}
	r, err := tryOpen(t, vfs.Hooked(mem, c.hook))
	if err == nil {
		err = errors.Join(r.state.check(acked, appended), r.log.Close())
	}
	if err != nil {
		t.Errorf("%s: %v", at, err)
	}
	if c.calls < 5 {
		t.Errorf("only %d crashes during recovery", c.calls)
	}
}

// TestKilledProcess checks that kill -9 loses nothing that was written, and that what is then believed is
// durable, although the killed process had not synced it.
func TestKilledProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newFS(t, InitOptions{})
		rng := rand.New(rand.NewPCG(7, 7))
		var killed *vfs.Mem
		armed := false
		r := open(t, vfs.Hooked(mem, func(c vfs.Call) error {
			if c.Op == vfs.OpDatasync && armed {
				armed, killed = false, mem.KillClone()
			}
			return nil
		}))
		r.put(1, 100)
		armed = true
		r.put(2, 3000)
		r.close()
		next := open(t, killed)
		if err := next.state.check(2, 2); err != nil {
			t.Errorf("written, not synced, killed: %v", err)
		}
		for range 50 {
			recovered(t, "power cut after the restart", killed.CrashClone(rng), 2, 2)
		}
		next.close()
	})
}

// TestPageCacheLies follows a failed sync: the pages are clean and not on disk. What the next process reads from them,
// it must make durable before it believes it, or a power cut takes away what it has acted upon.
func TestPageCacheLies(t *testing.T) {
	for _, idle := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			mem := newFS(t, InitOptions{})
			rng := rand.New(rand.NewPCG(8, 8))
			armed := false
			r := open(t, vfs.Hooked(mem, func(c vfs.Call) error {
				if c.Op == vfs.OpDatasync && armed {
					return errDisk
				}
				return nil
			}))
			r.put(1, 100)
			if idle {
				// The empty frame is then among the pages that the failed sync drops.
				time.Sleep(2 * lazyDelay)
				synctest.Wait()
			}
			armed = true
			r.must(2, 3000, true)
			if err := r.wait(); err == nil {
				t.Fatal("a failed sync was acknowledged")
			}
			if err := r.log.Close(); err == nil {
				t.Error("closing a failed log reports nothing")
			}
			running := mem.KillClone()
			next := open(t, running)
			believed := next.state.n
			if believed != 2 {
				t.Errorf("%d appends read from the page cache", believed)
			}
			for range 50 {
				recovered(t, "power cut", running.CrashClone(rng), believed, 2)
			}
			next.close()
		})
	}
}

// TestInitIsAllOrNothing crashes the making of a log at every call: what is left is no log, for which
// Init may be called again, or the whole log.
func TestInitIsAllOrNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		c := &crasher{mem: mem, rng: rand.New(rand.NewPCG(9, 9)), seeds: 6, bounds: fixed(3, 3)}
		none, whole := 0, 0
		opts := InitOptions{SegmentSize: MinSegmentSize, Snapshot: prefix(3)}
		c.check = func(at string, crashed *vfs.Mem, _, _ uint64) {
			err := Init(crashed, testDir, testID, opts)
			if err != nil {
				whole++
			} else {
				none++
			}
			r, operr := tryOpen(t, crashed)
			if operr != nil || r.state.n != 3 {
				t.Fatalf("%s: init again says %v, open %v", at, err, operr)
			}
			r.close()
		}
		if err := Init(vfs.Hooked(mem, c.hook), testDir, testID, opts); err != nil {
			t.Fatal(err)
		}
		recovered(t, "after init", mem.CrashClone(c.rng), 3, 3)
		if none < 20 || whole < 5 {
			t.Errorf("%d crashes left nothing, %d the log", none, whole)
		}
	})
}

// TestMoveAsideMayBeInterrupted crashes an adoption at every call and finishes it then: the old log is whole in
// its sub-directory, the new one in its place.
func TestMoveAsideMayBeInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newFS(t, InitOptions{})
		r := open(t, mem)
		r.put(2, 20_000)
		if err := r.snapshot(); err != nil {
			t.Fatal(err)
		}
		r.put(1, 100)
		r.close()
		c := &crasher{mem: mem, rng: rand.New(rand.NewPCG(10, 10)), seeds: 3, bounds: fixed(2, 2)}
		c.check = func(at string, crashed *vfs.Mem, _, _ uint64) {
			if info, err := Stat(crashed, testDir); err == nil && info.ID != testID {
				return
			}
			if err := adopt(crashed); err != nil {
				t.Fatalf("%s: %v", at, err)
			}
			adopted(t, at, crashed)
		}
		if err := adopt(vfs.Hooked(mem, c.hook)); err != nil {
			t.Fatal(err)
		}
		adopted(t, "without a crash", mem)
		if _, err := MoveAside(mem, testDir); err != nil {
			t.Errorf("a second adoption: %v", err)
		}
	})
}

// adopt is what `gavel log adopt` does.
func adopt(fsys vfs.FS) error {
	aside, err := MoveAside(fsys, testDir)
	if err != nil {
		return err
	}
	var h history
	if _, err := Read(fsys, aside, h.apply); err != nil {
		return err
	}
	return Init(fsys, testDir, testID+1, InitOptions{SegmentSize: MinSegmentSize, Snapshot: prefix(h.n)})
}

func adopted(t *testing.T, at string, fsys vfs.FS) {
	t.Helper()
	var old history
	info, err := Read(fsys, fmt.Sprintf("%s/adopted-%015x", testDir, uint64(testID)), old.apply)
	if err != nil || info.ID != testID || old.check(2, 2) != nil {
		t.Fatalf("%s: the old log: %+v, %+v, %v", at, info, old, err)
	}
	r, err := tryOpen(t, fsys)
	if err != nil {
		t.Fatalf("%s: %v", at, err)
	}
	if r.state.check(2, 2) != nil || r.log.ID() != testID+1 {
		t.Fatalf("%s: the new log %x: %+v", at, r.log.ID(), r.state)
	}
	r.close()
}

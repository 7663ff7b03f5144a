package txlog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gavel-tx/gavel/txlog/vfs"
)

// crasher cuts the power before every call that changes a file system or makes a change durable,
// and hands what is left to check.
type crasher struct {
	// turn is a lock that a bubble of virtual time can see through, unlike a mutex.
	turn  chan struct{}
	mem   *vfs.Mem
	rng   *rand.Rand
	seeds int
	// bounds are asked for the acknowledged appends before the power is cut, and for those made
	// after it: other goroutines go on meanwhile.
	bounds func() (acked, appended uint64)
	check  func(at string, crashed *vfs.Mem, acked, appended uint64)
	calls  int
	// draw is the number of the clone that is being checked, of those of one call.
	draw int
}

// newCrasher draws its power cuts, seeds of them before each call, from the given seed.
func newCrasher(mem *vfs.Mem, seed uint64, seeds int) *crasher {
	return &crasher{turn: make(chan struct{}, 1), mem: mem, rng: rand.New(rand.NewPCG(seed, 1)),
		seeds: seeds, bounds: fixed(0, 0)}
}

func (c *crasher) hook(call vfs.Call) error {
	if !slices.Contains(vfs.Mutating(), call.Op) {
		return nil
	}
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.calls++
	for seed := range c.seeds {
		c.draw = seed
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

// recovered opens what a crash has left, compares, closes and compares again. It is called by
// whichever goroutine makes a call, so it must not end it.
func recovered(
	t *testing.T, at string, fsys vfs.FS, acked, appended uint64, edit ...func(*Options),
) {
	r, err := tryOpen(t, fsys, edit...)
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
	closed := Source{FS: fsys, Dir: testDir, Still: true}
	rep, err := closed.Verify(nil)
	if err != nil || len(rep.Faults) > 0 || !rep.Clean {
		t.Errorf("%s: verify after recovery: %+v, %v", at, rep, err)
	}
	var h history
	_, err = closed.Read(h.apply)
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

// TestEveryCrash is the promise of this package: every acknowledged record survives a power cut at
// any moment, a second one during the recovery from it, and a third; nothing appears that was not
// appended, and no append is there in part.
func TestEveryCrash(t *testing.T) {
	seeds := uint64(2)
	if testing.Short() {
		seeds = 1
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { everyCrash(t, seed) })
		})
	}
}

func everyCrash(t *testing.T, seed uint64) {
	mem := newFS(t, InitOptions{})
	var opened atomic.Pointer[rig]
	c := newCrasher(mem, seed, 2)
	c.bounds = func() (acked, appended uint64) {
		if r := opened.Load(); r != nil {
			return r.bounds()
		}
		return 0, 0
	}
	c.check = func(at string, crashed *vfs.Mem, acked, appended uint64) {
		if c.rng.IntN(8) == 0 {
			crashDuringRecovery(t, at, crashed, acked, appended)
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
func crashDuringRecovery(t *testing.T, at string, mem *vfs.Mem, acked, appended uint64) {
	c := newCrasher(mem, appended, 1)
	c.bounds = fixed(acked, appended)
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

// TestEveryKill kills the process before every call and lets the next one go on for a while on the
// same machine, until the power fails: what the killed process had not synced, and the next one
// read and built on, must be there.
func TestEveryKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := newFS(t, InitOptions{})
		var opened atomic.Pointer[rig]
		c := newCrasher(mem, 7, 1)
		c.check = func(at string, _ *vfs.Mem, _, _ uint64) {
			acked, appended := uint64(0), uint64(0)
			if r := opened.Load(); r != nil {
				acked, _ = r.bounds()
			}
			killed := mem.KillClone()
			if r := opened.Load(); r != nil {
				_, appended = r.bounds()
			}
			livesOn(t, at, killed, c.rng, acked, appended)
		}
		r := open(t, vfs.Hooked(mem, c.hook))
		opened.Store(r)
		workload(t, r, rand.New(rand.NewPCG(5, 5)), 25)
		if err := r.wait(); err != nil {
			t.Fatal(err)
		}
		r.close()
	})
}

// livesOn opens the log of a killed process, goes on past the end of the segment, and cuts the
// power.
func livesOn(
	t *testing.T, at string, fsys *vfs.Mem, rng *rand.Rand, acked, appended uint64,
	edit ...func(*Options),
) {
	r, err := tryOpen(t, fsys, edit...)
	if err == nil {
		err = r.state.check(acked, appended)
	}
	for range 5 {
		if err == nil {
			size := min(30_000, r.log.MaxAppend()/2)
			err = errors.Join(r.append(1, size, true), r.wait())
		}
	}
	if err != nil {
		t.Errorf("killed at %s: %v", at, err)
		return
	}
	for range 2 {
		acked, appended = r.bounds()
		recovered(t, "killed at "+at+", then power cut", fsys.CrashClone(rng), acked, appended,
			edit...)
	}
	if err := r.log.Close(); err != nil {
		t.Error(err)
	}
}

// TestRepairMayBeCutShort cuts the power in all ways at every call of a recovery that has a torn
// tail to remove.
func TestRepairMayBeCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		torn := tornLog(t)
		c := newCrasher(torn, 6, 40)
		c.bounds = fixed(1, 1)
		c.check = func(at string, crashed *vfs.Mem, acked, appended uint64) {
			recovered(t, at, crashed, acked, appended)
		}
		open(t, vfs.Hooked(torn, c.hook)).close()
	})
}

// TestPageCacheLies fails every sync of a life, one in each: the pages are then clean, and not on
// disk. What the next process reads from them, it must make durable before it believes it, or a
// power cut takes away what it has acted upon.
func TestPageCacheLies(t *testing.T) {
	for n, done := 1, false; !done && !t.Failed(); n++ {
		synctest.Test(t, func(t *testing.T) { done = failSync(t, n) })
	}
}

// failSync fails the n-th sync. It says whether there was none.
func failSync(t *testing.T, n int) (done bool) {
	mem := newFS(t, InitOptions{})
	rng := rand.New(rand.NewPCG(8, 8))
	syncs := []vfs.Op{vfs.OpSync, vfs.OpDatasync, vfs.OpSyncDir}
	r, err := tryOpen(t, vfs.Hooked(mem, vfs.FailNth(n, true, errDisk, syncs...)))
	if err != nil {
		livesOn(t, fmt.Sprintf("failed sync %d", n), mem.KillClone(), rng, 0, 0)
		return false
	}
	for i := range 12 {
		// After an idle time the empty frame is among the pages that a failed sync drops.
		if i%3 == 0 {
			time.Sleep(2 * lazyDelay)
			synctest.Wait()
		}
		if r.append(2, 6_000, true) != nil || r.wait() != nil {
			break
		}
	}
	synctest.Wait()
	closeErr := r.log.Close()
	if (closeErr == nil) != (r.failed == nil) {
		t.Errorf("sync %d: failure %v, close %v", n, r.failed, closeErr)
	}
	acked, appended := r.bounds()
	livesOn(t, fmt.Sprintf("failed sync %d", n), mem.KillClone(), rng, acked, appended)
	return closeErr == nil
}

// tornLog is a log with append 1 and, behind it, a part of append 2 that a power cut left.
func tornLog(t *testing.T) *vfs.Mem {
	mem := newFS(t, InitOptions{})
	var unsynced *vfs.Mem
	r := open(t, vfs.Hooked(mem, func(c vfs.Call) error {
		if c.Op == vfs.OpDatasync {
			unsynced = mem.KillClone()
		}
		return nil
	}))
	r.put(1, 10)
	r.put(2, 9000)
	written := unsynced
	r.close()
	for seed := range uint64(100) {
		crashed := written.CrashClone(rand.New(rand.NewPCG(seed, 0)))
		info, err := Stat(crashed, testDir)
		if err == nil && info.Torn && info.TornBytes > 4*sectorSize {
			return crashed
		}
	}
	t.Fatal("no power cut tore the frame")
	return nil
}

// TestZerosMayLieToo follows a recovery that zeroed a torn tail and could not sync it: the next one
// sees zeros which the disk does not have, and must not leave the stale bytes behind its first
// frame.
func TestZerosMayLieToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		torn := tornLog(t)
		for n := 1; !t.Failed(); n++ {
			running := torn.KillClone()
			r, err := tryOpen(t, vfs.Hooked(running, vfs.FailNth(n, true, errDisk, vfs.OpDatasync)))
			if err == nil {
				_ = r.log.Close()
				if n < 4 {
					t.Errorf("opening makes only %d syncs", n-1)
				}
				return
			}
			again := running.KillClone()
			next := open(t, again)
			next.put(1, 10)
			rng := rand.New(rand.NewPCG(uint64(n), 0))
			for range 20 {
				recovered(t, fmt.Sprintf("sync %d failed", n), again.CrashClone(rng), 2, 2)
			}
			next.close()
		}
	})
}

// TestInitIsAllOrNothing crashes the making of a log at every call: what is left is no log, for
// which Init may be called again, or the whole log.
func TestInitIsAllOrNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		c := newCrasher(mem, 9, 6)
		none, whole := 0, 0
		opts := InitOptions{SegmentSize: testSegment, Snapshot: prefix(3)}
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
			noMarkers(t, at, crashed)
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

// noMarkers: once a log was opened, nothing is left of its making.
func noMarkers(t *testing.T, at string, fsys vfs.FS) {
	t.Helper()
	for _, name := range []string{markerName, adoptingName} {
		if _, err := fsys.Stat(testDir + "/" + name); err == nil {
			t.Errorf("%s: %s is still there", at, name)
		}
	}
}

// TestMoveAsideMayBeInterrupted crashes an adoption at every call and finishes it then: the old log
// is whole in its sub-directory, the new one in its place.
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
		c := newCrasher(mem, 10, 3)
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
	opts := InitOptions{SegmentSize: testSegment, Snapshot: prefix(h.n)}
	return Init(fsys, testDir, testID+1, opts)
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
	noMarkers(t, at, fsys)
	r.close()
}

package txlog

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/txlog/vfs"
)

// fire is for long runs; all of it is found again by the seeds that a failure names.
var fire = flag.Int("fire", 1, "how many times as much TestUnderFire does")

// seeds is how many seeds there is time for, of n in an ordinary run.
func seeds(n int) uint64 { return uint64(n * *fire) }

// tally counts what a log was put through.
type tally struct{ crashes, faults, lies, flips, lives int }

// String is the line that is collected from run to run.
func (c tally) String() string {
	return fmt.Sprintf("log: %s crash states, %s faults, %s lies, %s flips, %s lives",
		grouped(c.crashes), grouped(c.faults), grouped(c.lies), grouped(c.flips), grouped(c.lives))
}

// grouped is a number with commas.
func grouped(n int) string {
	digits := strconv.Itoa(n)
	var parts []string
	for len(digits) > 3 {
		parts = append(parts, digits[len(digits)-3:])
		digits = digits[:len(digits)-3]
	}
	parts = append(parts, digits)
	slices.Reverse(parts)
	return strings.Join(parts, ",")
}

func TestTally(t *testing.T) {
	got := tally{crashes: 12_345, faults: 999, lies: 1_000, flips: 1_234_567}.String()
	want := "log: 12,345 crash states, 999 faults, 1,000 lies, 1,234,567 flips, 0 lives"
	if got != want {
		t.Error(got)
	}
}

// TestUnderFire puts driven logs through everything that can happen to them, at every place where
// it can, and says how much that was.
func TestUnderFire(t *testing.T) {
	var c tally
	t.Run("crashes", c.crash)
	t.Run("faults", c.fault)
	t.Run("lies", c.lie)
	t.Run("flips", c.flip)
	t.Run("lives", c.live)
	t.Log(c)
}

// enough fails a test that has met too little to mean anything.
func enough(t *testing.T, what string, n, least int) {
	t.Helper()
	if n < least {
		t.Errorf("only %d %s", n, what)
	}
}

// crash cuts the power before every call that changes anything, in three ways, and before every
// such call of the recovery from the first of them again; and it kills the process there, whose
// successor then lives on to a power cut. Of the places, no sample is drawn: it is all of them.
func (c *tally) crash(t *testing.T) {
	for seed := range seeds(3) {
		mem := newDrivenFS(t)
		var r *rig
		power := newCrasher(mem, seed, 3)
		power.bounds = func() (acked, appended uint64) {
			if r == nil {
				return 0, 0
			}
			return r.bounds()
		}
		power.check = func(at string, crashed *vfs.Mem, acked, appended uint64) {
			c.crashes++
			at = fmt.Sprintf("seed %d, %s", seed, at)
			if power.draw > 0 {
				recovered(t, at, crashed, acked, appended, driven)
				return
			}
			c.crashAgain(t, at, crashed, acked, appended)
			c.crashes += 3
			livesOn(t, at, mem.KillClone(), power.rng, acked, appended, driven)
		}
		r = open(t, vfs.Hooked(mem, power.hook), driven)
		if err := drivenLife(r, rand.New(rand.NewPCG(seed, 4)), 40); err != nil {
			t.Fatal(err)
		}
		r.close()
	}
	enough(t, "crash states", c.crashes, 6_000)
}

// crashAgain recovers from one crash, crashing before every call of that, and recovers from each of
// these.
func (c *tally) crashAgain(t *testing.T, at string, mem *vfs.Mem, acked, appended uint64) {
	power := newCrasher(mem, appended, 1)
	power.bounds = fixed(acked, appended)
	power.check = func(then string, crashed *vfs.Mem, acked, appended uint64) {
		c.crashes++
		recovered(t, at+", then "+then, crashed, acked, appended, driven)
	}
	r, err := tryOpen(t, vfs.Hooked(mem, power.hook), driven)
	if err != nil {
		t.Errorf("%s: %v", at, err)
		return
	}
	if err := errors.Join(r.state.check(acked, appended), r.log.Close()); err != nil {
		t.Errorf("%s: %v", at, err)
	}
}

// fault fails every call of every kind, those that only look included, once and for ever.
func (c *tally) fault(t *testing.T) {
	for _, op := range vfs.Ops() {
		for seed := range seeds(2) {
			for i, hit := 0, true; hit && !t.Failed(); i++ {
				if hit = failDriven(t, op, 1+i/2, i%2 == 0, seed); hit {
					c.faults++
				}
			}
		}
	}
	enough(t, "faults", c.faults, 700)
}

// failDriven is a life whose i-th call of one kind fails. It says whether there were so many. The
// failure is always told, never taken for damage, and ends the log unless it was one of looking
// only; nothing that was acknowledged is lost.
func failDriven(t *testing.T, op vfs.Op, i int, sticky bool, seed uint64) (hit bool) {
	at := fmt.Sprintf("seed %d, %v %d (sticky: %v)", seed, op, i, sticky)
	mem := newDrivenFS(t)
	fault, late := vfs.FailNth(i, sticky, errDisk, op), 0
	var r *rig
	var err error
	fsys := vfs.Hooked(mem, func(call vfs.Call) error {
		if r != nil && r.failed != nil && slices.Contains(vfs.Mutating(), call.Op) {
			late++
		}
		err := fault(call)
		hit = hit || err != nil
		return err
	})
	r, err = tryOpen(t, fsys, driven)
	acked, appended := uint64(0), uint64(0)
	if err == nil {
		err = errors.Join(drivenLife(r, rand.New(rand.NewPCG(seed, 6)), 40), r.log.Close())
		acked, appended = r.bounds()
		changed := slices.Contains(vfs.Mutating(), op)
		if hit && changed && (!errors.Is(r.failed, ErrFailed) || !errors.Is(r.failed, errDisk)) {
			t.Errorf("%s: reported %v", at, r.failed)
		}
	}
	if hit != (err != nil) || hit && (!errors.Is(err, errDisk) || isCorruption(err)) || late > 0 {
		t.Errorf("%s: hit: %v, told: %v; %d calls after the failure", at, hit, err, late)
	}
	rng := rand.New(rand.NewPCG(uint64(i), 0))
	livesOn(t, at, mem.KillClone(), rng, acked, appended, driven)
	recovered(t, at+", power cut", mem.CrashClone(rng), acked, appended, driven)
	return hit
}

// lie lets every write and every sync in turn say that all is well and do nothing. That breaks
// what the log relies on, so nobody can ask that nothing be lost; but it must be seen: whoever
// opens the log afterwards gets everything, or is told of the damage.
func (c *tally) lie(t *testing.T) {
	refused := 0
	for _, op := range []vfs.Op{vfs.OpWrite, vfs.OpSync, vfs.OpDatasync, vfs.OpSyncDir} {
		for i, hit := 1, true; hit && !t.Failed(); i++ {
			at := fmt.Sprintf("lie of %v %d", op, i)
			var killed, mem *vfs.Mem
			var acked uint64
			if killed, mem, acked, hit = lieOnce(t, at, op, i); !hit {
				break
			}
			c.lies++
			refusesOrRecovers(t, at+", killed", killed, acked, driven)
			for seed := range uint64(4) {
				left := mem.CrashClone(rand.New(rand.NewPCG(seed, uint64(i))))
				if !refusesOrRecovers(t, at, left, acked, driven) {
					refused++
				}
			}
		}
	}
	enough(t, "lies", c.lies, 100)
	enough(t, "lies that did any harm", refused, 20)
}

// lieOnce is a life during which the disk lied once, until the process was killed in an idle moment
// and until it was closed in order. The log may notice by itself while it makes a file.
func lieOnce(
	t *testing.T, at string, op vfs.Op, i int,
) (killed, closed *vfs.Mem, acked uint64, hit bool) {
	mem := newDrivenFS(t)
	lie := vfs.FailNth(i, false, vfs.ErrLost, op)
	r := open(t, vfs.Hooked(mem, func(call vfs.Call) error {
		err := lie(call)
		hit = hit || err != nil
		return err
	}), driven)
	err := drivenLife(r, rand.New(rand.NewPCG(7, 7)), 40)
	// The last group is as short as can be: only the empty frame behind it tells of its loss.
	if err == nil {
		err = errors.Join(r.wait(), r.append(1, 0, true), r.wait(), r.idle())
	}
	killed = mem.KillClone()
	if err = errors.Join(err, r.log.Close()); err != nil && (!hit || !isCorruption(err)) {
		t.Errorf("%s: %v", at, err)
	}
	acked, _ = r.bounds()
	return killed, mem, acked, hit
}

// flip flips bits, one at a time: about one in every twentieth byte that was ever written, and in
// every hundredth behind.
func (c *tally) flip(t *testing.T) {
	mem, n := smallSpecimen(t)
	written, size, _ := surface(t, mem)
	rng := rand.New(rand.NewPCG(9, 9))
	for _, name := range namesOf(written, mem) {
		for off := rng.Int64N(20); off < size[name] && !t.Failed(); {
			c.flips++
			hurt, bit := mem.KillClone(), uint(rng.IntN(8))
			hurt.FlipBit(filepath.Join(testDir, name), off, bit)
			at := fmt.Sprintf("bit %d of byte %d of %s", bit, off, name)
			mustBeSeen(t, at, hurt, n, driven)
			stride := int64(40)
			if off >= written[name] {
				stride = 200
			}
			off += 1 + rng.Int64N(max(1, stride/int64(*fire)))
		}
	}
	enough(t, "flips", c.flips, 2_000)
}

// smallSpecimen is a driven log with two snapshots and frames of several sizes, killed in an idle
// moment.
func smallSpecimen(t testing.TB) (mem *vfs.Mem, n uint64) {
	t.Helper()
	mem = newDrivenFS(t)
	r := open(t, mem, driven)
	for i := range 12 {
		r.put(1+i%3, 100+i*130)
		var err error
		if i == 3 || i == 8 {
			err = r.snapshot()
		}
		if err := errors.Join(err, r.idle()); err != nil {
			t.Fatal(err)
		}
	}
	return mem.KillClone(), 12
}

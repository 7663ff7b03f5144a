package sim

import (
	"flag"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The sizes of a run in which every kind of fault must have happened.
const (
	usualBare = 30_000
	usualFull = 3_000
)

var (
	seedFlag     = flag.Uint64("sim.seed", 1, "the first fixed seed, or the one to replay")
	worldFlag    = flag.String("sim.world", "full", "the kind of world to replay: full or bare")
	bareFlag     = flag.Int("sim.bare", usualBare, "how many bare worlds are played")
	fullFlag     = flag.Int("sim.full", usualFull, "how many full worlds are played")
	durationFlag = flag.Duration("sim.duration", 0, "how long fresh seeds are played, at least")
)

// TestMain chooses the sizes: -short is for race detectors, under which a world takes ten times as
// long. A world makes much garbage and keeps little, so that the collector may wait.
func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		*bareFlag, *fullFlag = *bareFlag/15, *fullFlag/15
	}
	debug.SetGCPercent(800)
	goleak.VerifyTestMain(m)
}

// TestReplay tells the history of one world.
func TestReplay(t *testing.T) {
	r := play(*seedFlag, *worldFlag == "full", noFlaw, blank(), t.Output())
	if r.broken != nil {
		t.Error(r)
	}
}

// TestFixedWorlds plays the same worlds each time. In a run of the usual size every kind of fault
// happens.
func TestFixedWorlds(t *testing.T) {
	for _, b := range []batch{
		{first: *seedFlag, worlds: *bareFlag}, {full: true, first: *seedFlag, worlds: *fullFlag},
	} {
		o := b.played(t)
		if b.worlds < usualFull || !b.full && b.worlds < usualBare {
			continue
		}
		if missing := o.count.missing(b.full); len(missing) > 0 {
			t.Errorf("never happened: %q", missing)
		}
	}
}

// TestFreshWorlds plays worlds that nobody has seen, at least one batch of them.
func TestFreshWorlds(t *testing.T) {
	first, began := rand.Uint64()>>20, time.Now()
	for again := true; again && !t.Failed(); again = time.Since(began) < *durationFlag {
		batch{first: first, worlds: *bareFlag / 4}.played(t)
		batch{full: true, first: first, worlds: *fullFlag / 4}.played(t)
		first += uint64(max(*bareFlag, *fullFlag))
	}
}

// played plays a batch on all processors, says what has happened in it, and reports the broken
// world with the lowest seed.
func (b batch) played(t *testing.T) outcome {
	t.Helper()
	b.workers = runtime.GOMAXPROCS(0)
	began := time.Now()
	o := b.run()
	t.Logf("sim: %d %s worlds from seed %d, %.0f a second, at rest %.1f s after the faults: %s",
		o.worlds, report{full: b.full}.world(), b.first,
		float64(o.worlds)/time.Since(began).Seconds(), float64(o.rest)/1e9, &o.count)
	if o.broken != nil {
		t.Error(o.broken)
	}
	return o
}

// TestSameSeedSameWorld: a world depends on nothing but its seed.
func TestSameSeedSameWorld(t *testing.T) {
	processors := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(processors)
	for _, full := range []bool{false, true} {
		b := batch{full: full, first: 1000, worlds: 60}
		sums := map[uint64]bool{}
		for i := range uint64(60) {
			sums[play(1000+i, full, noFlaw, blank(), nil).sum] = true
		}
		if len(sums) != 60 {
			t.Errorf("60 seeds make %d different worlds", len(sums))
		}
		var all []uint64
		for _, n := range []int{1, 4} {
			runtime.GOMAXPROCS(n)
			b.workers = n
			o := b.run()
			if o.broken != nil {
				t.Fatal(o.broken)
			}
			all = append(all, o.sum)
		}
		want := uint64(0)
		for sum := range sums {
			want += sum
		}
		if all[0] != want || all[1] != want {
			t.Errorf("the same seeds give %x, %x and %x", want, all[0], all[1])
		}
	}
}

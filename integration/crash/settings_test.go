package crash_test

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/gavel-tx/gavel/integration/crash"
)

// full says that every cell of every matrix is wanted. Without it a sample is drawn.
func full() bool { return os.Getenv("GAVEL_FULL") != "" }

// number reads a setting of the environment.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// seed decides the order of the faults and which process is caught. The same seed does not make the
// same run, because real processes run; it makes the same order.
func seed(t *testing.T) uint64 {
	t.Helper()
	return number(t, "GAVEL_SEED", 1)
}

// dice are those of one test. They are printed, to be thrown again.
func dice(t *testing.T, salt uint64) *rand.Rand {
	t.Helper()
	n := seed(t)
	t.Logf("seed %d (GAVEL_SEED overrides, GAVEL_FULL=1 runs every cell)", n)
	return rand.New(rand.NewPCG(n, salt))
}

// sample draws n of all, or takes all where the full matrix is wanted.
func sample[T any](rng *rand.Rand, all []T, n int) []T {
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if full() || n > len(all) {
		return all
	}
	return all[:n]
}

// modes are both, in the order that the dice say.
func modes(rng *rand.Rand) []crash.Mode {
	return sample(rng, []crash.Mode{crash.InProcess, crash.Sidecars}, 2)
}

const (
	// undecided is the life of a teller's transfer that nobody decides.
	undecided = 600 * time.Millisecond
	// impatient is the bound of one call of a resource where the test is about calls that hang.
	impatient = 300 * time.Millisecond
	// longer is longer than every timeout of an impatient installation: a call, an undecided
	// transfer, a sweep and its grace. It is how long a fault lasts, and no wait for anything.
	longer = 1200 * time.Millisecond
)

// last lets a fault last.
func (w *world) last(d time.Duration) {
	w.t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.t.Context().Done():
		w.fatal("the test ended while a fault lasted")
	}
}

func TestSamplesAreDrawn(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	all := []int{1, 2, 3, 4}
	t.Setenv("GAVEL_FULL", "")
	if got := sample(rng, all, 2); len(got) != 2 || got[0] == got[1] {
		t.Errorf("a sample of two: %v", got)
	}
	if got := sample(rng, all, 9); len(got) != 4 {
		t.Errorf("a sample of more than all: %v", got)
	}
	t.Setenv("GAVEL_FULL", "1")
	if got := sample(rng, all, 2); len(got) != 4 {
		t.Errorf("all: %v", got)
	}
	t.Setenv("GAVEL_SEED", "77")
	if got := seed(t); got != 77 {
		t.Errorf("seed %d", got)
	}
}

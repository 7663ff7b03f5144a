package bench

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// fake is a line that takes its time, on the clock of a bubble.
type fake struct {
	takes func(n int64) time.Duration
	fails func(n int64) error
	calls atomic.Int64
	// moved is what all transfers together have done to the sum of money.
	moved atomic.Int64
}

// Transfer counts.
func (f *fake) Transfer(ctx context.Context, client int, t Transfer) error {
	n := f.calls.Add(1)
	if f.takes != nil {
		time.Sleep(f.takes(n))
	}
	reached(ctx, PhaseSQL)
	for i := range t.Accounts {
		f.moved.Add(t.change(i))
	}
	if f.fails != nil {
		return f.fails(n)
	}
	return nil
}

func (f *fake) Close() {}

func always(d time.Duration) func(int64) time.Duration {
	return func(int64) time.Duration { return d }
}

func loadOf(f *fake, clients int) load {
	return load{line: f, clients: clients, databases: 3, accounts: 10}
}

// TestClosed: every client makes one transfer after the other, and the throughput is what Little's
// law says.
func TestClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{takes: always(10 * time.Millisecond)}
		seen, err := loadOf(f, 4).closed(t.Context(), time.Second)
		if err != nil || len(seen.latencies) != 400 || seen.elapsed != time.Second {
			t.Fatalf("%d in %v, %v", len(seen.latencies), seen.elapsed, err)
		}
		if got := seen.perSecond(); got != 400 {
			t.Errorf("%v per second", got)
		}
		if got := seen.phases(); got != (Phases{PhaseSQL: 10}) {
			t.Errorf("phases %v", got)
		}
		if f.moved.Load() != 0 {
			t.Errorf("%d of money made", f.moved.Load())
		}
	})
}

// TestClosedOnce: however short it is, every client makes a transfer.
func TestClosedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{takes: always(time.Second)}
		seen, err := loadOf(f, 3).closed(t.Context(), time.Millisecond)
		if err != nil || len(seen.latencies) != 3 || seen.elapsed != time.Second {
			t.Errorf("%d in %v, %v", len(seen.latencies), seen.elapsed, err)
		}
	})
}

// TestSchedule: due at a constant rate, the first at once, none beyond the end.
func TestSchedule(t *testing.T) {
	for _, c := range []struct {
		i    int64
		due  time.Duration
		more bool
	}{{0, 0, true}, {1, 4 * time.Millisecond, true}, {249, 996 * time.Millisecond, true},
		{250, time.Second, false}, {1000, 4 * time.Second, false}} {
		due, more := schedule(c.i, 250, time.Second)
		if due != c.due || more != c.more {
			t.Errorf("%d: %v, %v", c.i, due, more)
		}
	}
}

// TestPaced: a line that keeps up has its own latency, at exactly the rate.
func TestPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{takes: always(5 * time.Millisecond)}
		seen, err := loadOf(f, 8).paced(t.Context(), time.Second, 500)
		if err != nil || len(seen.latencies) != 500 || seen.unstarted != 0 {
			t.Fatalf("%d, %d unstarted, %v", len(seen.latencies), seen.unstarted, err)
		}
		for _, d := range seen.latencies {
			if d != 5*time.Millisecond {
				t.Fatalf("a latency of %v", d)
			}
		}
	})
}

// TestNoOmission: one stall of a second is paid for by everybody who was due meanwhile, not by one
// transfer alone.
func TestNoOmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{takes: func(n int64) time.Duration {
			if n == 1 {
				return time.Second
			}
			return 0
		}}
		seen, err := loadOf(f, 1).paced(t.Context(), 2*time.Second, 100)
		if err != nil || len(seen.latencies) != 200 {
			t.Fatalf("%d, %v", len(seen.latencies), err)
		}
		late := 0
		for _, d := range seen.latencies {
			if d > 500*time.Millisecond {
				late++
			}
		}
		if late != 50 {
			t.Errorf("%d waited for more than half a second, want 50", late)
		}
	})
}

// TestPatience: what cannot be done is given up and counted, and the end comes.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{takes: always(100 * time.Millisecond)}
		seen, err := loadOf(f, 1).paced(t.Context(), time.Second, 1000)
		if err != nil || seen.unstarted == 0 || len(seen.latencies)+int(seen.unstarted) != 1000 ||
			seen.elapsed > (patience+1)*time.Second {
			t.Errorf("%d, %d unstarted in %v, %v", len(seen.latencies), seen.unstarted,
				seen.elapsed, err)
		}
	})
}

// TestAgain: an attempt that was aborted is made again; its time counts and so does its number.
func TestAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{takes: always(time.Millisecond), fails: func(n int64) error {
			if n <= 2 {
				return &undone{&pgconn.PgError{Code: "40001"}}
			}
			return nil
		}}
		seen, err := loadOf(f, 1).closed(t.Context(), time.Millisecond)
		if err != nil || seen.aborted != 2 || len(seen.latencies) != 1 ||
			seen.latencies[0] <= 3*time.Millisecond {
			t.Errorf("%+v, %v", seen, err)
		}
		// The phases are those of the attempt that counts.
		if got := seen.phases()[PhaseSQL]; got != 1 {
			t.Errorf("SQL took %v ms", got)
		}
	})
}

// TestAgainHasALimit: a line that never gets through ends the run.
func TestAgainHasALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{fails: func(int64) error { return &undone{&pgconn.PgError{Code: "40001"}} }}
		_, err := loadOf(f, 1).closed(t.Context(), time.Second)
		if err == nil || f.calls.Load() != maxAttempts {
			t.Errorf("%v after %d attempts", err, f.calls.Load())
		}
	})
}

// TestFailure: the first error that is not to be repeated ends all clients.
func TestFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		f := &fake{takes: always(time.Millisecond), fails: func(n int64) error {
			if n == 10 {
				return broken
			}
			return nil
		}}
		if _, err := loadOf(f, 4).closed(t.Context(), time.Hour); !errors.Is(err, broken) {
			t.Errorf("closed: %v", err)
		}
		f.calls.Store(0)
		if _, err := loadOf(f, 4).paced(t.Context(), time.Hour, 100); !errors.Is(err, broken) {
			t.Errorf("paced: %v", err)
		}
	})
}

// TestInterrupt: when the caller has enough, clients end between two transfers, not in one.
func TestInterrupt(t *testing.T) {
	for _, paced := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 55*time.Millisecond)
			defer cancel()
			f := &fake{takes: always(10 * time.Millisecond)}
			l, err := loadOf(f, 1), error(nil)
			var seen tally
			if paced {
				seen, err = l.paced(ctx, time.Minute, 1)
			} else {
				seen, err = l.closed(ctx, time.Minute)
			}
			want := map[bool]int{false: 6, true: 1}[paced]
			if !errors.Is(err, context.DeadlineExceeded) || len(seen.latencies) != want {
				t.Errorf("paced %v: %d transfers, %v", paced, len(seen.latencies), err)
			}
		})
	}
}

// TestWatch: the last branch counts, and a phase that nobody marks is part of the next.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w watch
		ctx := withWatch(t.Context(), &w)
		w.begin(time.Now())
		var sums [phases]time.Duration
		each(2, func(i int) error {
			time.Sleep(time.Duration(i+1) * time.Millisecond)
			reached(ctx, PhaseSQL)
			return nil
		})
		time.Sleep(3 * time.Millisecond)
		reached(ctx, PhasePrepare)
		time.Sleep(4 * time.Millisecond)
		w.add(time.Since(w.start), &sums)
		want := [phases]time.Duration{PhaseSQL: 2e6, PhasePrepare: 3e6, PhaseCommit: 4e6}
		if sums != want {
			t.Errorf("%v, want %v", sums, want)
		}
		w.begin(time.Now())
		if w.at[PhaseSQL].Load() != 0 {
			t.Error("an attempt has the marks of the last one")
		}
		reached(t.Context(), PhaseSQL) // nobody takes the time
	})
	for p, want := range []string{"SQL", "begin", "prepare", "decide", "commit"} {
		if got := Phase(p).String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

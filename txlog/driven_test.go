package txlog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/gavel-tx/gavel/txlog/vfs"
)

// TestDrivenStepByStep: nothing happens between the owner's calls, each step is one group, and
// Work says what the next ones would do.
func TestDrivenStepByStep(t *testing.T) {
	mem := newDrivenFS(t)
	r := open(t, mem, driven)
	expect := func(at string, acked uint64, want Work) {
		t.Helper()
		if got, _ := r.bounds(); got != acked || r.log.Work() != want {
			t.Errorf("%s: %d acknowledged, %+v", at, got, r.log.Work())
		}
	}
	step := func(due, wrote bool) {
		t.Helper()
		if got, err := r.log.Step(due); err != nil || got != wrote {
			t.Errorf("step: %v, %v", got, err)
		}
	}
	expect("opened", 0, Work{Vouch: true, Stock: true})
	if err := r.log.Tend(); err != nil {
		t.Fatal(err)
	}
	step(true, false)
	expect("tended and vouched for", 0, Work{})
	r.must(1, 100, false)
	step(false, false)
	expect("a lazy record", 0, Work{Lazy: true})
	step(true, true)
	expect("and its time is over", 1, Work{Vouch: true})
	r.must(1, 1_000, true)
	expect("a forced record", 1, Work{Group: true, Vouch: true})
	r.must(1, 7_500, false)
	expect("and a frame behind it", 1, Work{Group: true, Vouch: true})
	step(false, true)
	expect("one group", 2, Work{Lazy: true, Vouch: true})
	step(true, true)
	expect("the other", 3, Work{Vouch: true, Stock: true})
	r.close()
	expect("closed", 3, Work{})
	if _, err := r.log.Step(true); !errors.Is(err, ErrClosed) {
		t.Errorf("step: %v", err)
	}
	if err := r.log.Tend(); !errors.Is(err, ErrClosed) {
		t.Errorf("tend: %v", err)
	}
	recovered(t, "closed", mem, 3, 3, driven)
}

// TestDrivenWritesInOrder: what was acknowledged by a call is durable when it returns, and a group
// that OnPersisted appends is one for the next step.
func TestDrivenWritesInOrder(t *testing.T) {
	mem := newDrivenFS(t)
	var r *rig
	more := 3
	r = open(t, mem, driven, func(o *Options) {
		tell := o.OnPersisted
		o.OnPersisted = func(p Persisted) {
			tell(p)
			if more--; more >= 0 {
				r.must(1, 50, true)
			}
		}
	})
	r.must(1, 50, true)
	for want := uint64(1); want <= 4; want++ {
		if wrote, err := r.log.Step(false); err != nil || !wrote {
			t.Fatal(wrote, err)
		}
		acked, appended := r.bounds()
		if acked != want || appended != min(4, want+1) {
			t.Errorf("%d of %d after step %d", acked, appended, want)
		}
		for seed := range uint64(10) {
			crashed := mem.CrashClone(rand.New(rand.NewPCG(seed, want)))
			recovered(t, fmt.Sprint("after step ", want), crashed, acked, acked, driven)
		}
	}
}

// TestNotDriven: a log with goroutines of its own is not to be driven, and has nothing to say about
// its work.
func TestNotDriven(t *testing.T) {
	r := open(t, newFS(t, InitOptions{}))
	if _, err := r.log.Step(true); !errors.Is(err, errNotDriven) {
		t.Errorf("step: %v", err)
	}
	if err := r.log.Tend(); !errors.Is(err, errNotDriven) {
		t.Errorf("tend: %v", err)
	}
	r.must(1, 10, false)
	if w := r.log.Work(); w != (Work{}) {
		t.Errorf("%+v", w)
	}
	r.close()
}

// TestDrivenOnAFullDisk: groups stay in the queue, steps say so and may be repeated, nothing fails,
// and with space again everything is written.
func TestDrivenOnAFullDisk(t *testing.T) {
	mem := newDrivenFS(t)
	r := open(t, mem, driven)
	if err := r.log.Tend(); err != nil || !r.log.Room() {
		t.Fatal(err, r.log.Room())
	}
	mem.SetCapacity(mem.Used())
	var err error
	for err == nil {
		r.must(1, 3_000, true)
		err = r.wait()
	}
	acked, appended := r.bounds()
	if !errors.Is(err, ErrNoSpace) || errors.Is(err, ErrFailed) || r.failed != nil ||
		r.log.Room() || acked < 4 || acked == appended {
		t.Errorf("%v, failed: %v, room: %v, %d of %d", err, r.failed, r.log.Room(), acked, appended)
	}
	sum := mem.Sum()
	for range 3 {
		if wrote, err := r.log.Step(true); wrote || !errors.Is(err, ErrNoSpace) {
			t.Errorf("a step: %v, %v", wrote, err)
		}
		if err := r.log.Tend(); !errors.Is(err, ErrNoSpace) {
			t.Errorf("tended: %v", err)
		}
	}
	if w := r.log.Work(); !w.Group || !w.Stock || mem.Sum() != sum {
		t.Errorf("%+v, and the files have changed: %v", w, mem.Sum() != sum)
	}
	stuck := mem.KillClone()
	mem.SetCapacity(0)
	r.must(1, 3_000, true)
	if err := errors.Join(r.wait(), r.log.Tend()); err != nil || !r.log.Room() {
		t.Errorf("with space again: %v", err)
	}
	r.close()
	recovered(t, "with space again", mem, appended+1, appended+1, driven)
	recovered(t, "stuck", unbounded(stuck), acked, acked, driven)
}

// TestDrivenCloseOnAFullDisk says what is lost, and is an orderly end all the same.
func TestDrivenCloseOnAFullDisk(t *testing.T) {
	mem := newDrivenFS(t)
	r := open(t, mem, driven)
	mem.SetCapacity(mem.Used())
	for err := error(nil); err == nil; err = r.wait() {
		r.must(1, 3_000, true)
	}
	if err := r.log.Close(); !errors.Is(err, ErrNoSpace) || errors.Is(err, ErrFailed) {
		t.Errorf("close: %v", err)
	}
	info, h := readBack(t, mem)
	if err := h.check(r.acked, r.acked); err != nil || !info.Clean {
		t.Errorf("%v, %+v", err, info)
	}
}

// TestDrivenFailure is one for good, as it is with goroutines.
func TestDrivenFailure(t *testing.T) {
	for _, op := range []vfs.Op{vfs.OpWrite, vfs.OpDatasync, vfs.OpRename} {
		mem := newDrivenFS(t)
		armed := false
		r := open(t, vfs.Hooked(mem, func(c vfs.Call) error {
			if armed && c.Op == op {
				return errDisk
			}
			return nil
		}), driven)
		armed = true
		r.must(1, 100, true)
		err := r.log.Tend()
		if err == nil {
			_, err = r.log.Step(false)
		}
		if !errors.Is(err, ErrFailed) || !errors.Is(err, errDisk) || !errors.Is(r.failed, errDisk) {
			t.Errorf("%v: %v, reported %v", op, err, r.failed)
		}
		sum := mem.Sum()
		_, stepErr := r.log.Step(true)
		for what, err := range map[string]error{"step": stepErr, "tend": r.log.Tend(),
			"append": r.append(1, 1, true), "close": r.log.Close()} {
			if !errors.Is(err, ErrFailed) {
				t.Errorf("%v: %s after the failure: %v", op, what, err)
			}
		}
		if r.log.Work() != (Work{}) || r.log.Room() || mem.Sum() != sum {
			t.Errorf("%v: %+v, room: %v, changed: %v", op, r.log.Work(), r.log.Room(),
				mem.Sum() != sum)
		}
	}
}

// TestSmallSegments: a frame, and so an append, is bounded by the segment, to the byte.
func TestSmallSegments(t *testing.T) {
	r := open(t, newDrivenFS(t), driven)
	if r.log.MaxAppend() != payloadRoom(MinSegmentSize-headerSize-tailReserve) {
		t.Errorf("an append of %d bytes", r.log.MaxAppend())
	}
	data := make([]byte, r.log.MaxAppend()-recordSize(Record{Data: make([]byte, 8_000)})+8_000+1)
	for len(data) > 0 {
		_, err := r.log.Append([]Record{{Data: data}}, true)
		if fits := recordSize(Record{Data: data}) <= r.log.MaxAppend(); fits != (err == nil) ||
			err != nil && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%d bytes: %v", len(data), err)
		}
		if err == nil {
			break
		}
		data = data[1:]
	}
	for r.log.Work().Group {
		if _, err := r.log.Step(false); err != nil {
			t.Fatal(err)
		}
	}
	if s := r.log.Stats(); s.Persisted != 1 || s.Segments < 2 {
		t.Errorf("%+v", s)
	}
	r.close()
	for _, size := range []int64{MinSegmentSize - headerSize, MinSegmentSize + 512, -1} {
		if _, err := Open(Options{Dir: testDir, SegmentSize: size}); err == nil {
			t.Errorf("segments of %d bytes", size)
		}
	}
}

// TestSameSeedSameFiles: a driven log depends on nothing but what it is told. The same life, with
// crashes, leaves the same files, byte by byte; another one does not.
func TestSameSeedSameFiles(t *testing.T) {
	distinct := make(map[uint64]bool)
	for seed := range uint64(20) {
		first, again := seededLife(t, seed), seededLife(t, seed)
		if first != again {
			t.Errorf("seed %d leaves %x and %x", seed, first, again)
		}
		distinct[first] = true
	}
	if len(distinct) != 20 {
		t.Errorf("20 seeds leave %d different files", len(distinct))
	}
}

// seededLife is a few lives of one log with crashes between them. It returns a checksum over what
// every life has left.
func seededLife(t *testing.T, seed uint64) (sum uint64) {
	rng := rand.New(rand.NewPCG(seed, 3))
	mem := newDrivenFS(t)
	acked, appended := uint64(0), uint64(0)
	for range 5 {
		r := open(t, mem, driven)
		if err := r.state.check(acked, appended); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := drivenLife(r, rng, 12); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		acked, appended = r.bounds()
		if mem = mem.CrashClone(rng); rng.IntN(4) == 0 {
			mem = mem.KillClone()
		}
		sum = sum*31 + mem.Sum()
	}
	return sum
}

// drivenLife is a random life on one goroutine: appends of all shapes, steps, idle times, work for
// the stock and snapshots, in any order. It ends at the first error.
func drivenLife(r *rig, rng *rand.Rand, steps int) (err error) {
	for i := 0; i < steps && err == nil; i++ {
		switch rng.IntN(8) {
		case 0:
			if err = r.wait(); err == nil {
				err = r.idle()
			}
		case 1:
			err = r.snapshot()
		case 2:
			_, err = r.log.Step(rng.IntN(2) == 0)
		case 3:
			err = r.wait()
		default:
			err = r.append(1+rng.IntN(3), rng.IntN(1_800), rng.IntN(3) > 0)
		}
	}
	return err
}

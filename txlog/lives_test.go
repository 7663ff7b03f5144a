package txlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gavel-tx/gavel/txlog/vfs"
)

// deed is one thing that happens in the life of a log.
type deed struct {
	kind deedKind
	// count, size and forced are an append's.
	count, size int
	forced      bool
	// seed decides what a power cut leaves.
	seed uint64
}

type deedKind uint8

const (
	doAppend deedKind = iota
	doWait
	doIdle
	doSnapshot
	// doReopen closes the log and opens it, doKill and doCut end its process or its machine.
	doReopen
	doKill
	doCut
	deedEnd
)

func (d deed) String() string {
	names := [...]string{"append", "wait", "idle", "snapshot", "reopen", "kill", "cut"}
	switch d.kind {
	case doAppend:
		return fmt.Sprintf("append(%d, %d, %v)", d.count, d.size, d.forced)
	case doCut:
		return fmt.Sprintf("cut(%d)", d.seed)
	default:
		return names[d.kind]
	}
}

// drawDeeds is a random life. Half of it is appends.
func drawDeeds(rng *rand.Rand, n int) []deed {
	deeds := make([]deed, n)
	for i := range deeds {
		d := deed{kind: doAppend, count: 1 + rng.IntN(3), size: rng.IntN(2_000),
			forced: rng.IntN(2) == 0, seed: rng.Uint64()}
		if rng.IntN(2) == 0 {
			d.kind = deedKind(rng.IntN(int(deedEnd)))
		}
		deeds[i] = d
	}
	return deeds
}

// setup is how a log is used. What it replays must not depend on it.
type setup struct {
	segment    int64
	maxPending int
	// driven logs take a step after every so many appends; 0 leaves all to those who wait.
	driven bool
	every  int
	// snapshots are made after every so many acknowledgements, besides those of the life.
	snapshots int
}

func setups() []setup {
	return []setup{
		{segment: MinSegmentSize, driven: true},
		{segment: MinSegmentSize, driven: true, every: 1, snapshots: 1},
		{segment: MinSegmentSize, driven: true, every: 3, snapshots: 4, maxPending: 1},
		{segment: 5 * headerSize, driven: true, every: 2},
		{segment: 64 << 10, driven: true, every: 5, snapshots: 7},
		{segment: testSegment, driven: true, every: 1, maxPending: 1},
		{segment: MinSegmentSize, snapshots: 2},
		{segment: testSegment, maxPending: 1},
	}
}

// story is what a log has told: how many appends, and a checksum over every byte of them.
type story struct{ appends, sum uint64 }

func (s story) add(recs []Record) story {
	for _, r := range recs {
		b := append(binary.LittleEndian.AppendUint64([]byte{r.Type, r.Flags}, s.sum), r.Data...)
		s.sum = crc64.Checksum(b, crc64.MakeTable(crc64.ECMA))
	}
	s.appends++
	return s
}

// being is a log that lives through deeds, with the story of everything that was ever appended,
// told[n] being that of the first n.
type being struct {
	setup
	tb    testing.TB
	mem   *vfs.Mem
	fsys  func(*vfs.Mem) vfs.FS
	log   *Log
	deeds []deed

	// reported is the last report of this opening, or how it failed. The log may be telling it from
	// a goroutine of its own.
	reported struct {
		sync.Mutex
		last   Persisted
		failed error
	}
	// base is the number of appends before this opening, made of those since; sinceSnapshot those
	// acknowledged since the last one.
	base, made    uint64
	sinceSnapshot int
	told          []story
	appends       []deed
}

// report takes what the log tells.
func (b *being) report(p Persisted, failed error) {
	b.reported.Lock()
	defer b.reported.Unlock()
	if b.reported.failed = failed; failed == nil {
		b.reported.last = p
	}
}

// said is the last report.
func (b *being) said() (Persisted, error) {
	b.reported.Lock()
	defer b.reported.Unlock()
	return b.reported.last, b.reported.failed
}

// live goes through the deeds and returns the story that the log tells at the end.
func (s setup) live(tb testing.TB, deeds []deed, fsys func(*vfs.Mem) vfs.FS) (story, error) {
	b := &being{setup: s, tb: tb, deeds: deeds, fsys: fsys, told: []story{{}}}
	b.mem = newFS(tb, InitOptions{SegmentSize: s.segment, Now: ticking()})
	if err := b.open(0); err != nil {
		return story{}, err
	}
	for i, d := range deeds {
		if err := b.do(d); err != nil {
			return story{}, errors.Join(fmt.Errorf("deed %d, %v: %w", i, d, err), b.log.Close())
		}
	}
	if err := errors.Join(b.wait(), b.reopen()); err != nil {
		return story{}, errors.Join(err, b.log.Close())
	}
	last := b.told[len(b.told)-1]
	return last, b.log.Close()
}

func (b *being) do(d deed) error {
	switch d.kind {
	case doAppend:
		return b.append(d)
	case doWait:
		return b.wait()
	case doIdle:
		return b.idle()
	case doSnapshot:
		return b.snapshot()
	case doReopen:
		return b.reopen()
	case doKill:
		return b.leave(b.mem.KillClone)
	default:
		return b.leave(func() *vfs.Mem {
			return b.mem.CrashClone(rand.New(rand.NewPCG(d.seed, 5)))
		})
	}
}

// open opens the log after at least acked appends were acknowledged. What it tells must be the
// beginning of the story so far; the appends that a crash took are made again.
func (b *being) open(acked uint64) error {
	var now story
	var parts []Record
	opts := Options{FS: b.fsys(b.mem), Dir: testDir, SegmentSize: b.segment, Driven: b.driven,
		MaxPending: b.maxPending,
		Replay: func(e Entry) error {
			if e.FromSnapshot {
				le := binary.LittleEndian
				now = story{le.Uint64(e.Data), le.Uint64(e.Data[8:])}
				return nil
			}
			parts = append(parts, Record{Type: e.Type, Flags: e.Flags, Data: slices.Clone(e.Data)})
			if e.Flags == flagLast {
				now, parts = now.add(parts), nil
			}
			return nil
		},
		OnPersisted: func(p Persisted) { b.report(p, nil) },
		OnFailed:    func(err error) { b.report(Persisted{}, err) },
	}
	if b.driven {
		opts.Now = ticking()
	}
	log, err := Open(opts)
	if err != nil {
		return err
	}
	b.log, b.base, b.made = log, now.appends, 0
	b.report(Persisted{LSN: log.LSN()}, nil)
	if now.appends < acked || now.appends >= uint64(len(b.told)) || len(parts) > 0 ||
		b.told[now.appends] != now {
		return fmt.Errorf("%d appends were acknowledged, %d made; told is %+v and %d records",
			acked, len(b.told)-1, now, len(parts))
	}
	lost := b.appends[now.appends:]
	b.told, b.appends = b.told[:now.appends+1], b.appends[:now.appends]
	for _, d := range lost {
		if err := b.append(d); err != nil {
			return err
		}
	}
	return nil
}

// flagLast marks the last record of an append.
const flagLast = 1

// recordsOf are those of an append: its number and its place in it fill the data.
func recordsOf(d deed, num uint64) []Record {
	recs := make([]Record, d.count)
	for i := range recs {
		data := binary.LittleEndian.AppendUint64(nil, num<<8|uint64(i))
		recs[i] = Record{Type: uint8(1 + i), Data: bytes.Repeat(data, d.size/8)}
	}
	recs[d.count-1].Flags = flagLast
	return recs
}

func (b *being) append(d deed) error {
	recs := recordsOf(d, uint64(len(b.told)))
	_, err := b.log.Append(recs, d.forced)
	if errors.Is(err, ErrBacklog) {
		// Somebody else would come back later: so does this one.
		if err := b.wait(); err != nil {
			return err
		}
		_, err = b.log.Append(recs, d.forced)
	}
	if err != nil {
		return err
	}
	b.told, b.appends = append(b.told, b.told[len(b.told)-1].add(recs)), append(b.appends, d)
	b.made++
	if b.driven && b.every > 0 && b.made%uint64(b.every) == 0 {
		_, err = b.log.Step(false)
	}
	return err
}

// wait waits until everything is acknowledged, and makes a snapshot if it is time for one.
func (b *being) wait() error {
	for before := b.acked(); b.acked() < b.base+b.made; {
		if err := b.pass(); err != nil {
			return err
		}
		if _, failed := b.said(); failed != nil {
			return failed
		}
		b.sinceSnapshot += int(b.acked() - before)
		before = b.acked()
	}
	if b.snapshots > 0 && b.sinceSnapshot >= b.snapshots {
		b.sinceSnapshot = 0
		return b.snapshot()
	}
	return nil
}

// acked is how many appends of the whole life are acknowledged.
func (b *being) acked() uint64 {
	p, _ := b.said()
	return b.base + p.Index
}

// pass lets some time pass for the log.
func (b *being) pass() error {
	if b.driven {
		_, err := b.log.Step(true)
		return err
	}
	time.Sleep(2 * lazyDelay)
	synctest.Wait()
	return nil
}

func (b *being) idle() error {
	if err := b.pass(); err != nil || !b.driven {
		return err
	}
	return b.log.Tend()
}

func (b *being) snapshot() error {
	if !b.driven {
		synctest.Wait()
	}
	p, _ := b.said()
	return b.log.Snapshot(p.LSN, b.summary(b.told[b.base+p.Index]))
}

// summary is a snapshot's one record.
func (b *being) summary(s story) iter.Seq[Record] {
	data := binary.LittleEndian.AppendUint64(nil, s.appends)
	return slices.Values([]Record{{Type: 9, Data: binary.LittleEndian.AppendUint64(data, s.sum)}})
}

func (b *being) reopen() error {
	if err := b.log.Close(); err != nil {
		return err
	}
	return b.open(uint64(len(b.told) - 1))
}

// leave goes on in a clone, and lets the original come to its end.
func (b *being) leave(clone func() *vfs.Mem) error {
	if !b.driven {
		synctest.Wait()
	}
	acked, next := b.acked(), clone()
	if err := b.log.Close(); err != nil {
		return err
	}
	b.mem = next
	return b.open(acked)
}

// expected is the story without a log.
func expected(deeds []deed) story {
	var s story
	for _, d := range deeds {
		if d.kind == doAppend {
			s = s.add(recordsOf(d, s.appends+1))
		}
	}
	return s
}

// tell compares the story of a life in one setup with that of no log at all.
func (s setup) tell(t *testing.T, deeds []deed, fsys func(*vfs.Mem) vfs.FS) (err error) {
	run := func(t *testing.T) {
		var got story
		got, err = s.live(t, deeds, fsys)
		if want := expected(deeds); err == nil && got != want {
			err = fmt.Errorf("told %+v, not %+v", got, want)
		}
	}
	if s.driven {
		run(t)
	} else {
		synctest.Test(t, run)
	}
	return err
}

// plain is a file system without surprises.
func plain(mem *vfs.Mem) vfs.FS { return mem }

// live leads the same random life in many setups: all of them tell the same in the end, whatever
// the segments, the groups, the snapshots, and whoever does the work.
func (c *tally) live(t *testing.T) {
	for seed := range seeds(20) {
		deeds := drawDeeds(rand.New(rand.NewPCG(seed, 11)), 60)
		for _, s := range setups() {
			// A bubble of virtual time takes long to make.
			if !s.driven && seed%5 > 0 {
				continue
			}
			c.lives++
			fails := func(deeds []deed) bool { return s.tell(t, deeds, plain) != nil }
			if err := s.tell(t, deeds, plain); err != nil {
				t.Fatalf("seed %d, %+v: %v\nthe least that fails: %v", seed, s, err,
					reduce(deeds, fails))
			}
		}
	}
	enough(t, "lives", c.lives, 100)
}

// reduce leaves out of a failing list what is not needed for the failure: halves of it, then
// quarters, down to single ones.
func reduce[T any](list []T, fails func([]T) bool) []T {
	for size := (len(list) + 1) / 2; size > 0; size /= 2 {
		for at := 0; at < len(list); {
			less := slices.Delete(slices.Clone(list), at, min(at+size, len(list)))
			if fails(less) {
				list = less
			} else {
				at += size
			}
		}
	}
	return list
}

// TestLivesFindALiar: a disk that loses a sync of the log's frames, once a segment has been filled,
// is found out by some life, and the life is reduced to a few deeds.
func TestLivesFindALiar(t *testing.T) {
	liar := func(mem *vfs.Mem) vfs.FS {
		return vfs.Hooked(mem, func(c vfs.Call) error {
			if c.Op == vfs.OpDatasync {
				return vfs.ErrLost
			}
			return nil
		})
	}
	s := setups()[1]
	fails := func(deeds []deed) bool { return s.tell(t, deeds, liar) != nil }
	for seed := range uint64(50) {
		deeds := drawDeeds(rand.New(rand.NewPCG(seed, 12)), 60)
		if !fails(deeds) {
			continue
		}
		least := reduce(deeds, fails)
		if len(least) > 3 || !fails(least) {
			t.Errorf("seed %d is reduced to %v", seed, least)
		}
		return
	}
	t.Error("nobody has noticed that the disk lies")
}

// TestReduce keeps what is needed, in its order, and nothing else.
func TestReduce(t *testing.T) {
	list := make([]int, 100)
	for i := range list {
		list[i] = i
	}
	got := reduce(list, func(l []int) bool {
		return slices.Contains(l, 17) && slices.Contains(l, 18) && slices.Contains(l, 93)
	})
	if !slices.Equal(got, []int{17, 18, 93}) {
		t.Errorf("reduced to %v", got)
	}
}

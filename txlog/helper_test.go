package txlog

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// TestMain leaves out, under -short, what goes through every place of a file or of a life without a
// goroutine beside it: races have nothing to find there.
func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		flag.Set("test.skip", "^Test(UnderFire|BitFlips|EveryZeroedSector)$")
	}
	goleak.VerifyTestMain(m)
}

const (
	testDir = "/data"
	testID  = txn.LogID(0x123456789abcdef)
	// testSegment is the size of most tests' segments: the smallest that takes every record.
	testSegment = 128 << 10
	// recAppend is the type of the first record of each test append, recRest of its others, and
	// recPrefix of a snapshot's record, which stands for all appends up to a number.
	recAppend, recRest, recPrefix = 1, 2, 3
)

// newFS is an empty memory file system with a log in it.
func newFS(t testing.TB, opts InitOptions) *vfs.Mem {
	t.Helper()
	fsys := vfs.NewMem()
	if opts.SegmentSize == 0 {
		opts.SegmentSize = testSegment
	}
	if err := Init(fsys, testDir, testID, opts); err != nil {
		t.Fatal(err)
	}
	return fsys
}

// rig is an open log whose appends are numbered, with what was acknowledged and replayed.
type rig struct {
	t   testing.TB
	log *Log
	// driven says that the rig, waiting, does the work of the log's own goroutines.
	driven bool

	mu sync.Mutex
	// changed is signalled with every report.
	changed *sync.Cond
	// appended and acked count appends over the life of the log, not of this opening.
	appended, acked uint64
	// first is the number of the append with index 1.
	first  uint64
	failed error
	// lsns are the ends of the durable log: at opening, then as reported.
	lsns  []uint64
	syncs []Sync
	// state is what the replay has told.
	state history
}

// history is what a reader of the log has seen: appends 1 to n, whole and in order.
type history struct {
	n uint64
	// rest is how many records of append n are still missing.
	rest uint64
	err  error
}

// apply takes one entry in; the first thing that does not fit is kept.
func (h *history) apply(e Entry) error {
	num := uint64(0)
	if len(e.Data) >= 16 {
		num = binary.LittleEndian.Uint64(e.Data)
	}
	switch {
	case h.err != nil:
	case e.FromSnapshot && e.Type == recPrefix:
		h.n = num
	case e.Type == recAppend && h.rest == 0 && num == h.n+1:
		h.n, h.rest = num, binary.LittleEndian.Uint64(e.Data[8:])
	case e.Type == recRest && h.rest > 0 && num == h.n:
		h.rest--
	default:
		h.err = fmt.Errorf("entry of type %d of append %d after append %d, %d missing",
			e.Type, num, h.n, h.rest)
	}
	if h.err == nil && !filled(e.Data) {
		h.err = fmt.Errorf("append %d holds bytes that nobody wrote", num)
	}
	return nil
}

func (h *history) check(acked, appended uint64) error {
	switch {
	case h.err != nil:
		return h.err
	case h.rest != 0:
		return fmt.Errorf("append %d lacks %d records", h.n, h.rest)
	case h.n < acked:
		return fmt.Errorf("appends to %d were acknowledged, those to %d are there", acked, h.n)
	case h.n > appended:
		return fmt.Errorf("appends to %d were made, those to %d are there", appended, h.n)
	}
	return nil
}

// payload is data that names its append and can be recognised byte by byte.
func payload(num, rest uint64, size int) []byte {
	b := make([]byte, max(16, size))
	binary.LittleEndian.PutUint64(b, num)
	binary.LittleEndian.PutUint64(b[8:], rest)
	for i := 16; i < len(b); i++ {
		b[i] = byte(num) + byte(i)
	}
	return b
}

func filled(b []byte) bool {
	if len(b) < 16 {
		return false
	}
	num, rest := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	return slices.Equal(b, payload(num, rest, len(b)))
}

// open opens the log on fsys; edit may change the options.
func open(t testing.TB, fsys vfs.FS, edit ...func(*Options)) *rig {
	t.Helper()
	r, err := tryOpen(t, fsys, edit...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tryOpen(t testing.TB, fsys vfs.FS, edit ...func(*Options)) (*rig, error) {
	r := &rig{t: t}
	r.changed = sync.NewCond(&r.mu)
	opts := Options{FS: fsys, Dir: testDir, SegmentSize: testSegment, Replay: r.state.apply,
		OnPersisted: r.persisted, OnFailed: r.fail, OnSync: r.sync}
	for _, e := range edit {
		e(&opts)
	}
	r.driven = opts.Driven
	log, err := Open(opts)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = log
	r.first, r.appended, r.acked = r.state.n+1, r.state.n, r.state.n
	r.lsns = []uint64{log.LSN()}
	return r, nil
}

func (r *rig) persisted(p Persisted) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acked = r.first + p.Index - 1
	r.lsns = append(r.lsns, p.LSN)
	r.changed.Broadcast()
}

func (r *rig) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed != nil {
		r.t.Error("a failure was reported twice")
	}
	r.failed = err
	r.changed.Broadcast()
}

func (r *rig) sync(s Sync) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.syncs = append(r.syncs, s)
}

// records are those of append num.
func records(num uint64, count, size int) []Record {
	recs := []Record{{Type: recAppend, Data: payload(num, uint64(count-1), size)}}
	for range count - 1 {
		recs = append(recs, Record{Type: recRest, Flags: 1, Data: payload(num, 0, size)})
	}
	return recs
}

// append makes the next append, of count records of size bytes.
func (r *rig) append(count, size int, forced bool) error {
	r.mu.Lock()
	r.appended++
	num := r.appended
	r.mu.Unlock()
	index, err := r.log.Append(records(num, count, size), forced)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.appended--
		return err
	}
	if want := num - r.first + 1; index != want {
		r.t.Errorf("append %d has index %d, not %d", num, index, want)
	}
	return nil
}

// must makes an append that has to succeed.
func (r *rig) must(count, size int, forced bool) {
	r.t.Helper()
	if err := r.append(count, size, forced); err != nil {
		r.t.Fatal(err)
	}
}

// driven makes a log of small segments that is driven by its rig, in a time of its own.
func driven(o *Options) {
	o.Driven, o.SegmentSize, o.Now = true, MinSegmentSize, ticking()
}

// ticking is a clock that advances by a millisecond whenever it is read.
func ticking() func() time.Time {
	now := time.Unix(1_700_000_000, 0)
	return func() time.Time {
		now = now.Add(time.Millisecond)
		return now
	}
}

// newDrivenFS is newFS for driven logs: nothing in it depends on the time or the machine.
func newDrivenFS(t testing.TB) *vfs.Mem {
	t.Helper()
	return newFS(t, InitOptions{SegmentSize: MinSegmentSize, Now: ticking()})
}

// drive is wait for a driven log.
func (r *rig) drive() error {
	for acked, appended := r.bounds(); acked < appended; acked, appended = r.bounds() {
		if _, err := r.log.Step(true); err != nil {
			return err
		}
	}
	return nil
}

// idle is the time that passes in a driven log without appends.
func (r *rig) idle() error {
	if _, err := r.log.Step(true); err != nil {
		return err
	}
	return r.log.Tend()
}

// wait waits until everything appended is acknowledged, or the log has failed.
func (r *rig) wait() error {
	if r.driven {
		return r.drive()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.acked < r.appended && r.failed == nil {
		r.changed.Wait()
	}
	return r.failed
}

// put is an append and the wait for it.
func (r *rig) put(count, size int) {
	r.t.Helper()
	r.must(count, size, true)
	if err := r.wait(); err != nil {
		r.t.Fatal(err)
	}
}

// bounds are the least and the most that may be found after a crash now.
func (r *rig) bounds() (acked, appended uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.acked, r.appended
}

// snapshot replaces everything acknowledged. Place and number are of one report: the log may be
// durable further by now.
func (r *rig) snapshot() error {
	r.mu.Lock()
	acked, lsn := r.acked, r.lsns[len(r.lsns)-1]
	r.mu.Unlock()
	return r.log.Snapshot(lsn, prefix(acked))
}

// prefix is a snapshot's records, for appends 1 to n, with some filling.
func prefix(n uint64) iter.Seq[Record] {
	return func(yield func(Record) bool) {
		for range 3 {
			if !yield(Record{Type: recPrefix, Data: payload(n, 0, 700)}) {
				return
			}
		}
	}
}

func (r *rig) close() {
	r.t.Helper()
	if err := r.log.Close(); err != nil {
		r.t.Fatal(err)
	}
}

// readBack reads the log without opening it.
func readBack(t testing.TB, fsys vfs.FS) (Info, history) {
	t.Helper()
	var h history
	info, err := Read(fsys, testDir, h.apply)
	if err != nil {
		t.Fatal(err)
	}
	return info, h
}

// verify fails the test if Verify finds anything.
func verify(t testing.TB, fsys vfs.FS) Report {
	t.Helper()
	rep, err := Verify(fsys, testDir, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range rep.Faults {
		t.Errorf("fault: %v", f)
	}
	return rep
}

// errDisk is an error of a disk.
var errDisk = errors.New("input/output error")

func isCorruption(err error) bool {
	_, ok := errors.AsType[*CorruptionError](err)
	return ok
}

package txlog

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// Options configure Open.
type Options struct {
	// FS holds the log. Defaults to the operating system's files.
	FS vfs.FS
	// Dir is the log's directory. It has no default.
	Dir string
	// SegmentSize of segments to come, in bytes, a multiple of 4096. Those that exist keep theirs.
	// It bounds what one Append may take, see Log.MaxAppend. Defaults to DefaultSegmentSize.
	SegmentSize int64
	// MaxPending bounds the bytes that wait to be written, in memory; beyond it Append refuses. At
	// least two frames are allowed. Defaults to 8 MiB.
	MaxPending int
	// Replay is called by Open for each record, in order: the snapshot's, then the appended ones.
	// It must not act on what it is told before Open has returned: only then is it durable. An
	// error ends Open. Defaults to ignoring all.
	Replay func(Entry) error
	// OnPersisted is told how far the log is durable, once per group commit, in order, from one
	// goroutine. The next group waits for it, so it must be quick; it may call Append, and must not
	// call Snapshot, Step, Tend or Close. Defaults to nothing.
	OnPersisted func(Persisted)
	// OnFailed is told once why the log has failed. After it there are no calls of OnPersisted. It
	// must not call what OnPersisted must not call. Defaults to nothing; Append tells as well.
	OnFailed func(error)
	// OnSync is told of each group commit, before OnPersisted. Defaults to nothing.
	OnSync func(Sync)
	// Now is the wall clock, for the times in frames and the durations of OnSync. Defaults to
	// time.Now.
	Now func() time.Time
	// Driven keeps Open from starting goroutines: the owner calls Log.Step and Log.Tend, and
	// nothing happens between its calls. It is for simulations. Defaults to false.
	Driven bool
}

// DefaultMaxPending is the default of Options.MaxPending.
const DefaultMaxPending = 8 << 20

// complete fills in the defaults and validates the rest.
func (o *Options) complete() error {
	if o.FS == nil {
		o.FS = vfs.OS()
	}
	if o.SegmentSize == 0 {
		o.SegmentSize = DefaultSegmentSize
	}
	if o.MaxPending == 0 {
		o.MaxPending = DefaultMaxPending
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.OnPersisted == nil {
		o.OnPersisted = func(Persisted) {}
	}
	if o.OnFailed == nil {
		o.OnFailed = func(error) {}
	}
	if o.OnSync == nil {
		o.OnSync = func(Sync) {}
	}
	return o.validate()
}

// validate reports all faults at once.
func (o *Options) validate() error {
	var errs []error
	if o.Dir == "" {
		errs = append(errs, errors.New("txlog: Dir is empty"))
	}
	if o.MaxPending < 0 {
		errs = append(errs, fmt.Errorf("txlog: MaxPending is %d", o.MaxPending))
	}
	return errors.Join(append(errs, checkSegmentSize(o.SegmentSize))...)
}

// Persisted says how far the log is durable.
type Persisted struct {
	// Index is the highest index of an Append whose records are durable, as are those of all lower
	// ones.
	Index uint64
	// LSN is the end of the durable log: everything below it is durable. A snapshot can be made
	// there.
	LSN uint64
}

// Sync describes one group commit.
type Sync struct {
	// Duration of the sync alone, without the write.
	Duration time.Duration
	// Bytes written; Records and Appends in the group.
	Bytes, Records, Appends int
}

// Log is an open log. Its methods may be called concurrently.
type Log struct {
	opts     Options
	id       txn.LogID
	epoch    txn.Epoch
	lock     io.Closer
	recovery Recovery
	maker    maker

	// wake tells the flusher of work, work the keeper, ready the flusher of a next segment or its
	// absence. Each holds at most one signal: the receiver looks for all there is to do.
	wake, work, ready chan struct{}
	// closing ends the flusher, after it has written what waits; halt then ends the keeper.
	closing, halt             chan struct{}
	flusherDone, keeperDone   chan struct{}
	closeOnce                 sync.Once
	closeErr                  error
	room                      atomic.Bool
	durable                   atomic.Uint64
	persisted                 atomic.Uint64
	groups, records, appended atomic.Uint64

	// reports is held while the caller is told of progress or failure, so that nothing is reported
	// persisted after the failure was.
	reports sync.Mutex
	// snapshots is held by whoever writes a snapshot or the reserve for one.
	snapshots sync.Mutex

	mu struct {
		sync.Mutex
		// queue are the frames being filled, the oldest first; free are empty ones; made counts all
		// there are.
		queue, free []*batch
		made        int
		index       uint64
		failure     error
		closed      bool
		// segs are the log's segments, oldest first; next, if not nil, is the last of them and not
		// in use yet.
		segs []segmentHeader
		next *segment
		// tail is the LSN where the next frame goes.
		tail uint64
		// snaps are the LSNs of the snapshots to keep, at most two, oldest first.
		snaps    []uint64
		snapSize int64
		reserved bool
	}

	// w belongs to the flusher.
	w writer
	// frameSize is the size of a batch's buffer.
	frameSize int
}

// ID is the log's identity.
func (l *Log) ID() txn.LogID { return l.id }

// Epoch is the number of this opening of the log. It was made durable by Open.
func (l *Log) Epoch() txn.Epoch { return l.epoch }

// LSN is the end of the durable log: everything below it is durable. It may be ahead of the last
// call of OnPersisted.
func (l *Log) LSN() uint64 { return l.durable.Load() }

// Recovery says what Open found.
func (l *Log) Recovery() Recovery { return l.recovery }

// Room says whether new work may be taken on. It is false while the disk is so full that no spare
// segment, or no reserve for a snapshot, can be made: what is there then is kept for the work that
// runs already. It becomes true by itself once there is space again, which is looked for every
// second and after every snapshot.
func (l *Log) Room() bool { return l.room.Load() }

// Append takes records into the log's next frame and returns at once: it never waits for the disk.
// All records of one call become durable together or not at all, in the order of calls. The index,
// one higher than that of the call before and 1 for the first one after Open, is reported to
// OnPersisted when they are durable, not earlier. The data is copied.
//
// Forced records start a group commit as soon as the one that runs has ended. Others ride along
// with the next one, or start one after 5 ms.
//
// The records were not taken if the error is [ErrTooLarge], [ErrBacklog] or [ErrClosed]. After
// [ErrFailed] nobody knows what became of anything that had not been reported persisted.
func (l *Log) Append(recs []Record, forced bool) (index uint64, err error) {
	size, err := l.sizeOf(recs)
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usableLocked(); err != nil {
		return 0, err
	}
	b := l.batchLocked(size)
	if b == nil {
		return 0, ErrBacklog
	}
	for _, r := range recs {
		b.add(r)
	}
	l.mu.index++
	b.index, b.forced = l.mu.index, b.forced || forced
	b.appends++
	signal(l.wake)
	return l.mu.index, nil
}

// MaxAppend is the most that the records of one Append may take, in bytes: their data, and up to 5
// more for each. It is that of a frame: 1 MiB, or 8 KiB less than a segment if that is less.
func (l *Log) MaxAppend() int { return payloadRoom(l.frameSize) }

// sizeOf is the payload that recs take, if it is within limits.
func (l *Log) sizeOf(recs []Record) (int, error) {
	size := 0
	for _, r := range recs {
		if len(r.Data) > MaxRecord {
			return 0, fmt.Errorf("%w: a record of %d bytes; the limit is %d",
				ErrTooLarge, len(r.Data), MaxRecord)
		}
		size += recordSize(r)
	}
	if limit := l.MaxAppend(); size > limit {
		return 0, fmt.Errorf("%w: %d bytes in one append; the limit is %d",
			ErrTooLarge, size, limit)
	}
	return size, nil
}

// usableLocked says why the log takes no more. The callers hold mu.
func (l *Log) usableLocked() error {
	if l.mu.failure != nil {
		return l.mu.failure
	}
	if l.mu.closed {
		return ErrClosed
	}
	return nil
}

// batchLocked is the frame to fill with size more bytes, or nil if the limit is reached. The
// callers hold mu.
func (l *Log) batchLocked(size int) *batch {
	if n := len(l.mu.queue); n > 0 && l.mu.queue[n-1].fits(size) {
		return l.mu.queue[n-1]
	}
	var b *batch
	switch n := len(l.mu.free); {
	case n > 0:
		b, l.mu.free = l.mu.free[n-1], l.mu.free[:n-1]
	case l.mu.made < max(2, l.opts.MaxPending/l.frameSize):
		b = newBatch(l.frameSize)
		l.mu.made++
	default:
		return nil
	}
	l.mu.queue = append(l.mu.queue, b)
	return b
}

// signal leaves one signal, if there is none.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// fail ends the log: no frame is written, nothing is synced and nothing reported from now on. What
// a failed sync should have written may be lost although a later sync succeeds, so there is no
// later sync.
func (l *Log) fail(cause error) {
	l.reports.Lock()
	defer l.reports.Unlock()
	l.mu.Lock()
	first := l.mu.failure == nil
	if first {
		l.mu.failure = fmt.Errorf("%w: %w", ErrFailed, cause)
		l.room.Store(false)
	}
	err := l.mu.failure
	l.mu.Unlock()
	if !first {
		return
	}
	signal(l.ready)
	l.opts.OnFailed(err)
}

// failure is why the log has failed, or nil.
func (l *Log) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.failure
}

// Close writes what waits, ends the log with a synced empty frame, and gives the lock back. It
// reports a failure of the log, or that a full disk kept something from being written, which then
// is lost. Later calls return the same.
func (l *Log) Close() error {
	l.closeOnce.Do(func() {
		l.mu.Lock()
		l.mu.closed = true
		l.mu.Unlock()
		l.join()
		// A snapshot that is being written ends first: its directory must not change hands under
		// it.
		l.snapshots.Lock()
		defer l.snapshots.Unlock()
		l.closeErr = errors.Join(l.failure(), l.stalled(), l.closeSegments(), l.lock.Close())
	})
	return l.closeErr
}

// join ends the flusher, after it has written what waits, and then the keeper, which it may need
// for that. A driven log has neither and writes here what the flusher would have written.
func (l *Log) join() {
	close(l.closing)
	if l.opts.Driven {
		l.finish()
		close(l.halt)
		return
	}
	<-l.flusherDone
	close(l.halt)
	<-l.keeperDone
}

// stalled says that records were taken and could not be written for want of space. After a failure
// it says nothing.
func (l *Log) stalled() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.mu.queue) == 0 || l.mu.failure != nil {
		return nil
	}
	return fmt.Errorf("%w: appends above index %d are lost", ErrNoSpace, l.persisted.Load())
}

// closeSegments closes the files that are open for writing. Nothing uses them any more: the flusher
// and the keeper have ended, or were never started.
func (l *Log) closeSegments() error {
	err := l.w.seg.file.Close()
	if l.mu.next != nil {
		err = errors.Join(err, l.mu.next.file.Close())
	}
	return err
}

// BytesSinceSnapshot is how much log would be replayed behind the newest snapshot.
func (l *Log) BytesSinceSnapshot() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(l.mu.tail - l.lastSnapshotLocked())
}

// lastSnapshotLocked is the LSN of the newest snapshot, or of the first frame. The callers hold mu.
func (l *Log) lastSnapshotLocked() uint64 {
	if n := len(l.mu.snaps); n > 0 {
		return l.mu.snaps[n-1]
	}
	return headerSize
}

// Stats are numbers about the log since Open.
type Stats struct {
	// LSN is the end of the durable log; Appended and Persisted are the highest indexes.
	LSN, Appended, Persisted uint64
	// Groups are the group commits, Records and Appends what was made durable in them.
	Groups, Records, Appends uint64
	// Pending is how many frames wait to be written, the one that is being written not counted.
	Pending int
	// Segments and Bytes are what the log takes on disk, without snapshots.
	Segments int
	Bytes    int64
	// Snapshot is the LSN of the newest snapshot, 0 if there is none.
	Snapshot           uint64
	BytesSinceSnapshot int64
	Room               bool
}

// Stats returns the numbers of this moment.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Stats{
		LSN: l.durable.Load(), Appended: l.mu.index, Persisted: l.persisted.Load(),
		Groups: l.groups.Load(), Records: l.records.Load(), Appends: l.appended.Load(),
		Pending: len(l.mu.queue), Segments: len(l.mu.segs), Room: l.room.Load(),
		BytesSinceSnapshot: int64(l.mu.tail - l.lastSnapshotLocked()),
	}
	for _, seg := range l.mu.segs {
		s.Bytes += seg.size
	}
	if n := len(l.mu.snaps); n > 0 {
		s.Snapshot = l.mu.snaps[n-1]
	}
	return s
}

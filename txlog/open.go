package txlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// Recovery says what Open found.
type Recovery struct {
	// Snapshot is the LSN of the snapshot that was replayed, 0 if there is none.
	Snapshot uint64
	// Damaged are snapshots that were passed over for an older one; the next Snapshot removes them.
	Damaged []error
	// Frames and Records were read behind the snapshot's segment's start.
	Frames, Records uint64
	// Torn says that the last write before a crash was incomplete, and TornBytes how much of it was
	// removed.
	Torn      bool
	TornBytes int64
	// Clean says that the log had been closed.
	Clean bool
}

// Open opens the log in opts.Dir, replays it, and starts a new epoch. On return everything
// replayed, and the new epoch, is durable. It returns
//
//   - an error wrapping [ErrNotALog] if there is no log: never is one made here,
//   - a [*LockedError] while somebody else has it open,
//   - a [*CopyError] if the directory is a copy,
//   - a [*VersionError], matching [ErrVersion], if a newer program wrote it,
//   - a [*CorruptionError] if anything is there that no crash explains; nothing was changed then,
//   - an error wrapping [ErrNoSpace] if the log's end leaves no room and the disk has none,
//
// and else an error of the disk or of Replay.
func Open(opts Options) (*Log, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	if _, _, err := findMeta(opts.FS, opts.Dir); err != nil {
		return nil, err
	}
	lock, err := takeLock(opts.FS, opts.Dir)
	if err != nil {
		return nil, err
	}
	l := newLog(opts, lock)
	if err := l.restore(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	if !opts.Driven {
		go l.flush()
		go l.keep()
	}
	return l, nil
}

// newLog is a log that has not been read yet. Room is assumed until the keeper finds none, which is
// the first thing it looks for.
func newLog(opts Options, lock io.Closer) *Log {
	l := &Log{
		opts: opts, lock: lock,
		wake: make(chan struct{}, 1), work: make(chan struct{}, 1), ready: make(chan struct{}, 1),
		closing: make(chan struct{}), halt: make(chan struct{}),
		flusherDone: make(chan struct{}), keeperDone: make(chan struct{}),
		frameSize: maxFrame(opts.SegmentSize),
	}
	l.maker = maker{fs: opts.FS, dir: opts.Dir, stop: l.stopped}
	l.room.Store(true)
	return l
}

// takeLock takes the log's lock.
func takeLock(fsys vfs.FS, dir string) (io.Closer, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	lock, err := fsys.Lock(filepath.Join(dir, lockName), fmt.Sprintf("%d %s", os.Getpid(), host))
	if err == nil {
		return lock, nil
	}
	if held, ok := errors.AsType[*vfs.HeldError](err); ok {
		return nil, lockedBy(dir, held.Owner)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noLog(dir, "does not exist")
	}
	return nil, fmt.Errorf("txlog: lock %s: %w", dir, err)
}

// lockedBy reads what takeLock of the holder has left.
func lockedBy(dir, owner string) error {
	pid, host, _ := strings.Cut(owner, " ")
	n, err := strconv.Atoi(pid)
	if err != nil {
		return &LockedError{Dir: dir}
	}
	return &LockedError{Dir: dir, Host: host, PID: n}
}

// restore brings the log from what a crash left to where frames can be written.
func (l *Log) restore() (err error) {
	im, err := openImage(l.opts.FS, l.opts.Dir, vfs.ReadWrite)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, im.close()) }()
	if im.isCopy {
		return &CopyError{Dir: l.opts.Dir}
	}
	// What a killed process has written may be in the page cache only. Before any of it is
	// believed, and branches are finished because of it, it must be as durable as it looks.
	if err := l.syncAll(im); err != nil {
		return err
	}
	r := &replayer{im: im, entry: l.opts.Replay}
	if err := r.run(); err != nil {
		return err
	}
	if err := errors.Join(l.maker.dropMarkers(), l.repair(r)); err != nil {
		return err
	}
	return l.begin(im, r)
}

// syncAll makes everything in the directory, and its names, as durable as it looks. The directory
// matters as much as the files: a segment whose name is lost is lost.
func (l *Log) syncAll(im *image) error {
	for _, s := range im.segs {
		if err := s.file.Datasync(); err != nil {
			return fmt.Errorf("txlog: sync %s: %w", s.name, err)
		}
	}
	return l.maker.syncDir(l.opts.Dir)
}

// repair makes true what recovery has read. If the process that wrote the log ended because a sync
// failed, the page cache shows frames that the disk does not have, as clean pages that no sync will
// write. Everything that the last frame does not vouch for is suspect: it is written again. Behind
// it, what a torn write left is zeroed, so that no later frame can come to stand before it; and as
// zeros, too, may be in the page cache only (a repair before this one may have failed to sync), all
// that a torn write can reach is written.
func (l *Log) repair(r *replayer) error {
	last := r.scan.last
	if last.seg != nil && !mutant.On(mutant.PageCacheTrust) {
		from := int64(max(last.synced, last.seg.first()) - last.seg.base)
		if err := rewrite(last.seg, from, last.off+int64(last.len())); err != nil {
			return err
		}
	}
	t := r.tail
	if err := rewrite(t.seg, 0, headerSize); err != nil {
		return err
	}
	// A torn write never reaches another segment: the first frame there waits for a durable seal
	// here.
	reach := min(unsyncedReach, t.seg.size-t.off)
	if mutant.On(mutant.TailNotZeroed) {
		reach = 0
	}
	if err := writeFull(t.seg.file, make([]byte, reach), t.off); err != nil {
		return fmt.Errorf("txlog: zero the tail of %s: %w", t.seg.name, err)
	}
	for _, seg := range []*segment{last.seg, t.seg} {
		if seg == nil {
			continue
		}
		if err := seg.file.Datasync(); err != nil {
			return fmt.Errorf("txlog: sync %s: %w", seg.name, err)
		}
	}
	return nil
}

// rewrite reads a part of a segment and writes the same again.
func rewrite(seg *segment, from, to int64) error {
	b := make([]byte, to-from)
	err := readFull(seg.file, b, from)
	if err == nil {
		err = writeFull(seg.file, b, from)
	}
	if err != nil {
		return fmt.Errorf("txlog: rewrite %s: %w", seg.name, err)
	}
	return nil
}

// begin takes the segments over from the image and makes the first frame of the new epoch durable.
func (l *Log) begin(im *image, r *replayer) error {
	if r.scan.epoch == math.MaxUint32 {
		return errors.New("txlog: the log has used up its epochs")
	}
	l.id, l.epoch = im.meta.id, r.scan.epoch+1
	l.w = writer{
		id: l.id, epoch: r.scan.epoch, now: l.opts.Now, empty: newBatch(sectorSize),
		seg: r.tail.seg, off: r.tail.off, prevSum: r.scan.prevSum, prevLen: r.scan.prevLen,
		synced: r.tail.lsn(), clock: r.scan.last.clock,
	}
	l.adopt(im, r)
	if err := errors.Join(l.findReserve(), l.writeOpen()); err != nil {
		return errors.Join(err, l.closeSegments())
	}
	l.recovery = Recovery{
		Snapshot: r.snap.lsn, Damaged: r.damaged, Frames: r.scan.frames, Records: r.scan.records,
		Torn: r.tail.torn(), TornBytes: r.tail.dirty - r.tail.off,
		Clean: r.scan.last.seg != nil && r.scan.last.kind == KindClose,
	}
	return nil
}

// adopt keeps the tail's segment and the next one open and lets the image close the others.
// Segments below the snapshot's are remembered until they are freed; one beyond the next was never
// used, and a new one takes its name in time.
func (l *Log) adopt(im *image, r *replayer) {
	tail, rest := r.tail.seg.num, im.segs[:0]
	for _, s := range im.segs {
		if s.num == tail+1 {
			l.mu.next = s
		} else if s.num != tail {
			rest = append(rest, s)
		}
		if s.num <= tail+1 {
			l.mu.segs = append(l.mu.segs, s.segmentHeader)
		}
	}
	im.segs = rest
	for _, s := range im.snaps {
		if s.lsn <= r.snap.lsn {
			l.mu.snaps = append(l.mu.snaps, s.lsn)
		}
	}
	l.mu.snapSize = r.snapSize
}

// findReserve says whether there is a reserve, and one that was not cut to a snapshot's size before
// a crash.
func (l *Log) findReserve() error {
	info, err := l.opts.FS.Stat(l.maker.path(reserveName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("txlog: stat %s: %w", reserveName, err)
	}
	l.mu.reserved = err == nil && info.Size >= l.reserveSizeLocked()
	return nil
}

// writeOpen makes the first frame of the new epoch durable, in the next segment if this one is
// full.
func (l *Log) writeOpen() error {
	if !l.w.fits(sectorSize, sectorSize) {
		if err := l.makeNext(); err != nil {
			return err
		}
		next, err := l.takeNext()
		if err != nil {
			return err
		}
		if err := l.roll(next); err != nil {
			return errors.Join(err, next.file.Close())
		}
	}
	// A seal above still belongs to the old epoch. The new one begins with this frame and no other.
	l.w.epoch = l.epoch
	if err := l.w.writeEmpty(KindOpen); err != nil {
		return err
	}
	if err := l.w.sync(); err != nil {
		return err
	}
	l.durable.Store(l.w.lsn())
	l.mu.tail = l.w.lsn()
	return nil
}

package txlog

import (
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"

	"github.com/gavel-tx/gavel/txlog/vfs"
)

// Snapshot replaces the log below lsn by these records: on return a later Open replays them and
// what was appended behind lsn, and nothing else. lsn must be one that OnPersisted has named, or
// that LSN said right after Open, and not below that of the last snapshot. The records must say
// everything that the log below lsn says and nothing of what is behind it: take lsn and state from
// the same report, because [Log.LSN] may be ahead of the last one by now.
//
// It runs beside Append and waits for another Snapshot. The newest two snapshots are kept: should
// the newer be damaged one day, the older one and the log behind it say the same. Segments wholly
// below the older one are removed.
//
// [ErrNoSpace], [ErrTooLarge], [ErrBadSnapshot] and an error of reading the log at lsn leave
// everything as it was, and it may be tried again; other errors of the disk are a failure of the
// log.
func (l *Log) Snapshot(lsn uint64, records iter.Seq[Record]) error {
	// A snapshot uses up the reserve, and may free space: both are work for the keeper, once this
	// lock is free.
	defer signal(l.work)
	l.snapshots.Lock()
	defer l.snapshots.Unlock()
	if err := l.checkSnapshot(lsn); err != nil {
		return err
	}
	err := l.writeSnapshot(lsn, records)
	if err == nil {
		err = l.trim()
	}
	if err == nil || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrNoSpace) {
		return err
	}
	l.fail(err)
	return l.failure()
}

// checkSnapshot holds lsn to its contract, on the disk itself: a snapshot at a wrong place would
// only be found out at the next Open, when it is too late.
func (l *Log) checkSnapshot(lsn uint64) error {
	l.mu.Lock()
	err, last := l.usableLocked(), l.lastSnapshotLocked()
	i := slices.IndexFunc(l.mu.segs, func(s segmentHeader) bool {
		return s.base <= lsn && lsn < s.end()
	})
	var num uint64
	if i >= 0 {
		num = l.mu.segs[i].num
	}
	l.mu.Unlock()
	durable := l.LSN()
	switch {
	case err != nil:
		return err
	case i < 0 || lsn < last || lsn > durable:
		return fmt.Errorf("%w: LSN %d is not from %d to %d", ErrBadSnapshot, lsn, last, durable)
	case lsn == durable:
		return nil
	}
	return l.checkBoundary(num, lsn)
}

// checkBoundary checks that a frame begins at lsn.
func (l *Log) checkBoundary(num, lsn uint64) error {
	seg, err := openSegment(l.opts.FS, l.opts.Dir, num, l.id, vfs.ReadOnly)
	if err != nil {
		return err
	}
	b := make([]byte, sectorSize)
	err = errors.Join(readFull(seg.file, b, int64(lsn-seg.base)), seg.file.Close())
	if err != nil {
		return fmt.Errorf("txlog: read %s: %w", seg.name, err)
	}
	if h, err := parseFrameHeader(b); err != nil || h.lsn != lsn {
		return fmt.Errorf("%w: no frame begins at LSN %d", ErrBadSnapshot, lsn)
	}
	return nil
}

// writeSnapshot writes over the reserve, cuts it to size, and gives it its name when it is durable.
func (l *Log) writeSnapshot(lsn uint64, records iter.Seq[Record]) error {
	f, err := l.openReserve()
	if err != nil {
		return l.maker.failed(reserveName, err)
	}
	h := snapHeader{id: l.id, lsn: lsn, created: l.opts.Now(), epoch: l.epoch}
	size, err := writeSnapshot(f, h, records, l.failure)
	if err == nil {
		err = f.Truncate(size)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close(), l.failure()); err != nil {
		return l.maker.failed(reserveName, err)
	}
	if err := l.maker.publish(reserveName, snapshotName(lsn)); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.reserved, l.mu.snapSize = false, size
	if n := len(l.mu.snaps); n == 0 || l.mu.snaps[n-1] != lsn {
		l.mu.snaps = append(l.mu.snaps, lsn)
	}
	return nil
}

// openReserve opens the reserve, or a new file where none could be made yet.
func (l *Log) openReserve() (vfs.File, error) {
	there, err := l.maker.exists(reserveName)
	if err != nil {
		return nil, err
	}
	mode := vfs.Create
	if there {
		mode = vfs.ReadWrite
	}
	return l.opts.FS.Open(filepath.Join(l.opts.Dir, reserveName), mode)
}

// trim removes, after the new snapshot is durable, all snapshots but the newest two, and the
// segments wholly below the older of them. The removals need no sync: what comes back after a crash
// is ignored.
func (l *Log) trim() error {
	l.mu.Lock()
	snaps := l.mu.snaps[max(0, len(l.mu.snaps)-2):]
	l.mu.snaps = snaps
	for len(snaps) == 2 && l.mu.segs[0].end() <= snaps[0] {
		l.mu.segs = l.mu.segs[1:]
	}
	first := l.mu.segs[0].num
	l.mu.Unlock()
	names, err := l.opts.FS.List(l.opts.Dir)
	if err != nil {
		return fmt.Errorf("txlog: list %s: %w", l.opts.Dir, err)
	}
	for _, name := range names {
		num, seg := parseSegmentName(name)
		lsn, snap := parseSnapshotName(name)
		if seg && num < first || snap && !slices.Contains(snaps, lsn) {
			if err := l.maker.remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}

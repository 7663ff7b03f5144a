package txlog

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/gavel-tx/gavel/txn"
)

// Entry is one record as it is read back.
type Entry struct {
	// Record's Data is valid during the call only.
	Record
	// Log is the log that it is read from.
	Log txn.LogID
	// LSN is that of the record's frame, or of the snapshot. All records of one Append have the
	// same.
	LSN uint64
	// Epoch is the owner that wrote it.
	Epoch txn.Epoch
	// FromSnapshot says that the record is not one that was appended, but one that a snapshot put
	// in the place of those.
	FromSnapshot bool
}

// path is the name of a file in the log's directory.
func (im *image) path(name string) string { return filepath.Join(im.dir, name) }

// replayer reads an image as recovery does.
type replayer struct {
	im *image
	// live makes it patient with a tail in motion.
	live bool
	// all makes it visit the frames of all segments, also those below the snapshot.
	all   bool
	entry func(Entry) error
	frame func(frame) error
	read  func(n int)

	// snap is the snapshot used; its lsn is 0 if there is none. start is where the log goes on from
	// it.
	snap     snapHeader
	snapSize int64
	start    uint64
	damaged  []error
	scan     *scanner
	tail     tail
}

// run delivers the newest intact snapshot and every frame behind it, and finds the tail.
func (r *replayer) run() error {
	if err := r.snapshot(); err != nil {
		return err
	}
	segs, err := r.im.from(r.start)
	if err != nil {
		return err
	}
	if r.all {
		segs = r.im.before(segs)
	}
	r.scan = newScanner(r.im.meta.id, segs)
	r.scan.win.read = r.read
	if r.live {
		r.scan.more = r.im.openLater
	}
	if err := r.walk(); err != nil {
		return err
	}
	if r.tail.lsn() < r.start {
		err := fmt.Errorf("the log ends before its snapshot at %d", r.start)
		return r.tail.seg.corrupt(r.tail.off, err)
	}
	// A snapshot's writer had begun its epoch with a frame below or behind it. If there is none,
	// these frames are of an older copy of the log, however well they fit.
	if r.scan.epoch < r.snap.epoch {
		return r.tail.seg.corrupt(r.tail.off, fmt.Errorf("%w: %d, and the snapshot is of epoch %d",
			errEpoch, r.scan.epoch, r.snap.epoch))
	}
	return nil
}

// snapshot picks the newest intact snapshot: it checks each fully before it delivers anything of
// it.
func (r *replayer) snapshot() error {
	r.start = headerSize
	for i := len(r.im.snaps) - 1; i >= 0; i-- {
		s := r.im.snaps[i]
		h, err := readSnapshot(s, r.im.meta.id, nil, nil)
		if _, corrupt := errors.AsType[*CorruptionError](err); corrupt {
			r.damaged = append(r.damaged, err)
			continue
		}
		if err != nil {
			return err
		}
		r.snap, r.start = h, h.lsn
		return r.deliverSnapshot(s)
	}
	return r.noSnapshot()
}

// noSnapshot says whether the log may be read from its very beginning.
func (r *replayer) noSnapshot() error {
	fromStart := len(r.im.segs) > 0 && r.im.segs[0].num == 0
	switch {
	case fromStart && !r.im.meta.born:
		return nil
	case len(r.damaged) > 0:
		return r.damaged[0]
	case r.im.meta.born:
		return &CorruptionError{File: "snap-*.gvl", Err: fs.ErrNotExist}
	}
	return r.im.hole(headerSize)
}

// deliverSnapshot reads a checked snapshot once more, for its records. Damage that appears between
// the two readings ends the replay with an error, as any other would.
func (r *replayer) deliverSnapshot(s snapshotFile) error {
	info, err := s.file.Stat()
	if err != nil {
		return fmt.Errorf("txlog: stat %s: %w", s.name, err)
	}
	r.snapSize = info.Size
	if r.entry == nil {
		return nil
	}
	_, err = readSnapshot(s, r.im.meta.id, r.read, func(rec Record) error {
		return r.entry(Entry{Record: rec, Log: r.im.meta.id, LSN: r.snap.lsn,
			Epoch: r.snap.epoch, FromSnapshot: true})
	})
	return err
}

// walk visits the frames up to the tail.
func (r *replayer) walk() error {
	for {
		f, ok, err := r.scan.next()
		if err != nil {
			return err
		}
		if ok {
			if err := r.visit(f); err != nil {
				return err
			}
			continue
		}
		if again, err := r.settle(); err != nil || !again {
			return err
		}
	}
}

// settle decides about the place without a valid frame; again says that there is one by now.
func (r *replayer) settle() (again bool, err error) {
	if r.live {
		r.tail, again, err = r.scan.settle()
	} else {
		r.tail, err = r.scan.judge()
	}
	return again, err
}

// visit delivers one frame. Frames below the snapshot's start are read, because the tail is judged
// by the frames before it, and not delivered, because the snapshot says what they say.
func (r *replayer) visit(f frame) error {
	if f.lsn < r.start && r.start < f.end() {
		return f.seg.corrupt(f.off, fmt.Errorf("the snapshot at %d begins within a frame", r.start))
	}
	if r.frame != nil {
		if err := r.frame(f); err != nil {
			return err
		}
	}
	if r.entry == nil || f.lsn < r.start && !r.all {
		return nil
	}
	return deliver(f.payload, func(rec Record) error {
		return r.entry(Entry{Record: rec, Log: r.im.meta.id, LSN: f.lsn, Epoch: f.epoch})
	})
}

// before extends segs, a part of im.segs, to the front as far as there is no gap.
func (im *image) before(segs []*segment) []*segment {
	first := len(im.segs) - len(segs)
	for first > 0 && im.segs[first-1].num+1 == im.segs[first].num &&
		im.segs[first-1].end() == im.segs[first].base {
		first--
	}
	return im.segs[first:]
}

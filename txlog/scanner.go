package txlog

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// frame is a valid frame where it was found.
type frame struct {
	frameHeader
	seg     *segment
	off     int64
	payload []byte
}

// end is the LSN behind the frame.
func (f frame) end() uint64 { return f.lsn + uint64(f.len()) }

// window reads a segment through a buffer that looks ahead.
type window struct {
	buf  []byte
	seg  *segment
	off  int64
	n    int64
	read func(n int)
}

// maxWindow holds the largest frame with as much again.
const maxWindow = 2 * MaxFrame

// view returns n bytes of seg at off, valid until the next view.
func (w *window) view(seg *segment, off int64, n int) ([]byte, error) {
	if w.seg != seg || off < w.off || off+int64(n) > w.off+w.n {
		if err := w.fill(seg, off); err != nil {
			return nil, err
		}
	}
	at := off - w.off
	return w.buf[at : at+int64(n)], nil
}

// fill reads as much as the buffer holds from off on. The segment has been checked to have its
// size, so a short read is an error of the disk and not the log's end.
func (w *window) fill(seg *segment, off int64) error {
	size := min(maxWindow, seg.size-off)
	if int64(len(w.buf)) < size {
		w.buf = make([]byte, min(maxWindow, seg.size))
	}
	w.forget()
	if err := readFull(seg.file, w.buf[:size], off); err != nil {
		return fmt.Errorf("txlog: read %s at %d: %w", seg.name, off, err)
	}
	w.seg, w.off, w.n = seg, off, size
	if w.read != nil {
		w.read(int(size))
	}
	return nil
}

// forget makes the next view read from the file.
func (w *window) forget() { w.seg, w.n = nil, 0 }

// scanner walks the frames of consecutive segments.
type scanner struct {
	id   txn.LogID
	segs []*segment
	// cur and off are the place: a frame begins there, or the log ends there, or it is damaged
	// there.
	cur int
	off int64
	// sealed says that the last frame was a seal: the place is the start of the next segment.
	sealed bool
	// prevSum and prevLen are what the frame at the place must name as its predecessor.
	prevSum, prevLen uint32
	// epoch is that of the last frame, 0 before the first one.
	epoch txn.Epoch
	// durable is the highest promise that a frame has made: everything below was durable.
	durable uint64
	// last is the last valid frame; its seg is nil before the first one.
	last    frame
	frames  uint64
	records uint64
	win     window
	payload []byte
	// why says what kept the place from holding a valid frame.
	why error
	// more, in a live directory, opens a segment that was made after the directory was listed.
	more func(num uint64) (*segment, error)
}

// newScanner begins at the first frame of the first segment.
func newScanner(id txn.LogID, segs []*segment) *scanner {
	s := &scanner{id: id, segs: slices.Clip(segs)}
	s.enter(0)
	return s
}

// enter goes to the start of a segment. The chain begins anew with the checksum of its header, so
// that a segment can be checked without the one before it.
func (s *scanner) enter(i int) {
	s.cur, s.off, s.sealed = i, headerSize, false
	s.prevSum, s.prevLen = s.segs[i].sum, headerSize
}

// seg is the segment of the place.
func (s *scanner) seg() *segment { return s.segs[s.cur] }

// lsn is the place.
func (s *scanner) lsn() uint64 { return s.seg().base + uint64(s.off) }

// next returns the frame at the place and goes behind it. Without a valid frame there, ok is false,
// the place stays, and only judge can say what that means. The payload is valid until the next
// call.
func (s *scanner) next() (f frame, ok bool, err error) {
	if s.sealed {
		if err := s.advance(); err != nil {
			return frame{}, false, err
		}
	}
	f, err = s.peek()
	if err != nil || s.why != nil {
		return frame{}, false, err
	}
	// Nothing of the scanner has changed up to here, so that a live reader can look at the place
	// again.
	s.off += int64(f.len())
	s.prevSum, s.prevLen = f.sum, uint32(f.len())
	s.epoch, s.durable = f.epoch, max(s.durable, f.synced)
	s.sealed = f.kind == KindSeal
	s.frames++
	s.records += uint64(f.count)
	s.last = f
	return f, true, nil
}

// peek reads the frame at the place, or sets why.
func (s *scanner) peek() (frame, error) {
	seg := s.seg()
	f := frame{seg: seg, off: s.off}
	if s.why = nil; s.off+sectorSize > seg.size {
		s.why = errNoSeal
		return f, nil
	}
	head, err := s.win.view(seg, s.off, sectorSize)
	if err != nil {
		return f, err
	}
	if f.frameHeader, s.why = parseFrameHeader(head); s.why != nil {
		return f, nil
	}
	if s.why = s.check(f.frameHeader); s.why != nil {
		return f, nil
	}
	raw, err := s.win.view(seg, s.off, f.len())
	if err != nil {
		return f, err
	}
	if checksum(raw[frameHeaderSize:]) != f.payloadSum {
		s.why = errFrameBody
		return f, nil
	}
	s.payload = unstamp(s.payload[:0], raw, f.frameHeader.payload)
	f.payload = s.payload
	s.why = checkRecords(f.payload, f.count)
	return f, nil
}

var (
	errNoSeal    = errors.New("the segment ends without a seal")
	errMisplaced = errors.New("a frame that was written for another place")
	errTooLong   = errors.New("a frame longer than its segment")
	errChain     = errors.New("a frame that does not follow the one before it")
	errPromise   = errors.New("a later frame says that this place was durable")
	errStray     = errors.New("bytes that no write explains")
	errKind      = errors.New("a frame of unknown kind")
	errEpoch     = errors.New("a frame of the wrong epoch")
)

// check says whether a header with a good checksum belongs where it is.
func (s *scanner) check(h frameHeader) error {
	switch {
	case h.id != s.id:
		return errForeign
	case h.lsn != s.lsn():
		return errMisplaced
	case h.payload > payloadRoom(MaxFrame) || s.off+int64(h.len()) > s.seg().size:
		return errTooLong
	case h.prevSum != s.prevSum || h.prevLen != s.prevLen || h.synced > h.lsn:
		return errChain
	case h.kind >= kindEnd:
		return errKind
	// An epoch begins with its open frame, one above the last, and with nothing else. Where the
	// frames before are not known (a segment is the first that is read), any epoch will do.
	case s.epoch != 0 && (h.kind == KindOpen) != (h.epoch == s.epoch+1),
		s.epoch != 0 && h.kind != KindOpen && h.epoch != s.epoch:
		return errEpoch
	}
	return nil
}

// advance goes from a seal into the next segment, which was durable before the seal was written.
func (s *scanner) advance() error {
	seg := s.seg()
	if err := s.mustBeZero(seg, s.off); err != nil {
		return err
	}
	if s.cur+1 == len(s.segs) {
		if s.more == nil {
			return seg.corrupt(s.off, errMissing)
		}
		next, err := s.more(seg.num + 1)
		if err != nil {
			return err
		}
		s.segs = append(s.segs, next)
	}
	s.enter(s.cur + 1)
	return nil
}

// mustBeZero checks that nothing was ever written to seg from off on.
func (s *scanner) mustBeZero(seg *segment, off int64) error {
	return s.sectors(seg, off, func(at int64, _ []byte) error {
		return seg.corrupt(at, errStray)
	})
}

var zeroSector [sectorSize]byte

// sectors calls fn for each sector from off on that is not all zero.
func (s *scanner) sectors(seg *segment, off int64, fn func(off int64, sector []byte) error) error {
	for ; off+sectorSize <= seg.size; off += sectorSize {
		b, err := s.win.view(seg, off, sectorSize)
		if err != nil {
			return err
		}
		if bytes.Equal(b, zeroSector[:]) {
			continue
		}
		if err := fn(off, b); err != nil {
			return err
		}
	}
	return nil
}

// tail is where the log ends.
type tail struct {
	seg *segment
	off int64
	// dirty is the end of what a torn write left behind off; off if there is nothing.
	dirty int64
}

// lsn is that of the next frame.
func (t tail) lsn() uint64 { return t.seg.base + uint64(t.off) }

// torn says whether there is anything behind the end.
func (t tail) torn() bool { return t.dirty > t.off }

// unsyncedReach is how far behind the place of the first lost sector a crash can have left
// anything: one empty frame, which nobody syncs, and the one frame that was in flight behind it.
const unsyncedReach = sectorSize + MaxFrame

// judge decides what it means that the place, p, holds no valid frame. It is called once, at the
// first such place, and is the only judge of the matter:
//
//	@1 a frame with a good header, at p or behind, not at its own LSN          corruption
//	@2 a frame behind p that says p was durable (synced LSN > p)               corruption
//	@3 a frame head further on than one lost empty frame                        corruption
//	@4 anything written further than one frame in flight can reach, or in a
//	   later segment (its first frame waits for the seal to be durable)         corruption
//	@5 a sector that is neither zero, nor a valid frame head, nor stamped       corruption
//	@6 the sector at p is all zero                                              the end of the log
//	@7 a good header at p that belongs there, one of the frame's sectors zero   torn: the end
//	@8 a good header at p, no sector zero: the frame is complete and wrong      corruption
//
// @6 and @7 are what a crash leaves, and only that: one frame is in flight at a time, on a region
// that was zero, and no sector of a frame is zero. Whatever is behind the end then was never
// acknowledged, and is zeroed before the log is used.
func (s *scanner) judge() (tail, error) {
	seg := s.seg()
	t := tail{seg: seg, off: s.off, dirty: s.off}
	if errors.Is(s.why, errNoSeal) {
		return t, seg.corrupt(s.off-sectorSize, errNoSeal)
	}
	err := s.sectors(seg, s.off, func(off int64, sector []byte) error {
		t.dirty = off + sectorSize
		return s.inTail(off, sector)
	})
	if err != nil {
		return t, err
	}
	for _, later := range s.segs[s.cur+1:] {
		if err := s.mustBeZero(later, headerSize); err != nil {
			return t, err
		}
	}
	return t, s.tornAtPlace()
}

// inTail is @1 to @5 for one sector that is not zero. The sector at the place itself is left to
// tornAtPlace.
func (s *scanner) inTail(off int64, sector []byte) error {
	seg := s.seg()
	switch {
	case off == s.off:
		return nil
	case off-s.off >= unsyncedReach:
		return seg.corrupt(off, errStray)
	case sector[0] == stamp:
		return nil
	}
	// A head is one sector, written as a whole: a crash leaves a good one or zeros.
	h, err := parseFrameHeader(sector)
	switch {
	case err != nil:
		return seg.corrupt(off, errStray)
	case h.id != s.id:
		return seg.corrupt(off, errForeign)
	case h.lsn != seg.base+uint64(off):
		return seg.corrupt(off, errMisplaced)
	case h.synced > s.lsn():
		return seg.corrupt(s.off, errPromise)
	case off-s.off > sectorSize:
		return seg.corrupt(off, errStray)
	}
	return nil
}

// tornAtPlace is @6 to @8, and the part of @1 and @5 that is about the sector at the place.
func (s *scanner) tornAtPlace() error {
	seg := s.seg()
	head, err := s.win.view(seg, s.off, sectorSize)
	if err != nil || bytes.Equal(head, zeroSector[:]) {
		return err
	}
	h, err := parseFrameHeader(head)
	if err == nil {
		err = s.check(h)
	}
	if err != nil {
		return seg.corrupt(s.off, err)
	}
	raw, err := s.win.view(seg, s.off, h.len())
	if err != nil {
		return err
	}
	for off := 0; off < len(raw); off += sectorSize {
		if bytes.Equal(raw[off:off+sectorSize], zeroSector[:]) {
			return nil
		}
	}
	if mutant.On(mutant.TruncateOnAnyCRCError) {
		return nil
	}
	return seg.corrupt(s.off, s.why)
}

// A live tail is in motion: a reader may see half of a write that is still going on. It looks
// again, a few times, before it calls anything damaged.
const (
	settleTries = 10
	settlePause = 5 * time.Millisecond
)

// settle is judge for a live directory. resumed says that a valid frame has appeared at the place
// meanwhile, so that there is nothing to judge.
func (s *scanner) settle() (t tail, resumed bool, err error) {
	for range settleTries {
		t, err = s.judge()
		_, corrupt := errors.AsType[*CorruptionError](err)
		if !corrupt && (err != nil || !t.torn()) {
			return t, false, err
		}
		time.Sleep(settlePause)
		s.win.forget()
		if _, perr := s.peek(); perr != nil || s.why == nil {
			return t, true, perr
		}
	}
	return t, false, err
}

// openLater opens a segment that appeared after the image was taken.
func (im *image) openLater(num uint64) (*segment, error) {
	seg, err := openSegment(im.fs, im.dir, num, im.meta.id, vfs.ReadOnly)
	if err == nil {
		im.segs = append(im.segs, seg)
		return seg, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	prev := segmentName(num - 1)
	if _, serr := im.fs.Stat(im.path(prev)); errors.Is(serr, fs.ErrNotExist) {
		return nil, ErrMoved
	}
	return nil, &CorruptionError{File: segmentName(num), Err: errMissing}
}

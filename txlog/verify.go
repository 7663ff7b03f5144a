package txlog

import (
	"errors"
	"io/fs"

	"github.com/gavel-tx/gavel/txlog/vfs"
)

var errSnapPlace = errors.New("no frame begins at this snapshot's LSN")

// Report is the answer of Verify.
type Report struct {
	Info
	// Faults is everything that no crash explains, in the order of discovery, at most MaxFaults. A
	// log without faults opens.
	Faults []*CorruptionError
	// Checked is the bytes that were read.
	Checked int64
}

// MaxFaults bounds a Report.
const MaxFaults = 100

// Verify reads every byte of a log, those below its snapshots and those not written yet included,
// and reports everything that no crash explains. It changes nothing and may run beside a live log.
// progress, if not nil, is called as it advances. The error says why Verify could not finish; what
// it has found is in the Report, not in the error.
func (s Source) Verify(progress func(done, total int64)) (rep Report, err error) {
	im, err := openImage(s.FS, s.Dir, vfs.ReadOnly)
	if bad, ok := errors.AsType[*CorruptionError](err); ok {
		return Report{Faults: []*CorruptionError{bad}}, nil
	}
	if err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, im.close()) }()
	v := &verifier{im: im, live: !s.Still, progress: progress, bounds: make(map[uint64]bool)}
	err = v.run()
	rep = Report{Info: v.info, Faults: v.faults, Checked: v.done}
	return rep, err
}

// Verify is [Source.Verify] of a log that may be live.
func Verify(fsys vfs.FS, dir string, progress func(done, total int64)) (Report, error) {
	return Source{FS: fsys, Dir: dir}.Verify(progress)
}

// verifier checks snapshots one by one, then all segments as one walk that goes on behind a fault.
type verifier struct {
	im *image
	// live makes it patient with a tail in motion.
	live        bool
	info        Info
	faults      []*CorruptionError
	progress    func(done, total int64)
	done, total int64
	// intact are the snapshots without a fault, newest first, and bounds which of their LSNs are
	// the start of a frame.
	intact []snapshotFile
	bounds map[uint64]bool
}

// run checks the snapshots first: where the log must be without a gap depends on which of them are
// intact.
func (v *verifier) run() error {
	if err := v.measure(); err != nil {
		return err
	}
	for _, bad := range v.im.bad {
		v.found(bad)
	}
	// start is where the older intact snapshot begins: from there on there must be no gap.
	start := uint64(headerSize)
	for i := len(v.im.snaps) - 1; i >= 0; i-- {
		s := v.im.snaps[i]
		_, err := readSnapshot(s, v.im.meta.id, v.advance, nil)
		if err != nil {
			if err := v.take(err); err != nil {
				return err
			}
			continue
		}
		if v.intact = append(v.intact, s); len(v.intact) <= 2 {
			start = s.lsn
		}
	}
	if len(v.intact) == 0 {
		if err := v.take((&replayer{im: v.im}).noSnapshot()); err != nil {
			return err
		}
	}
	found := len(v.faults)
	if err := v.segments(start); err != nil {
		return err
	}
	// A damaged frame would be named twice if a snapshot begins at it.
	if len(v.faults) == found {
		v.places()
	}
	if len(v.faults) > 0 {
		return nil
	}
	// Whatever Open would mind is a fault, so it is asked as well.
	r := &replayer{im: v.im, live: v.live}
	err := r.run()
	v.info.Snapshot = r.snap.lsn
	return v.take(err)
}

// places checks that the snapshots which count begin where a frame does, or where the log ends.
// Older ones are left from a crash during their removal, as may be gaps in the log below them.
func (v *verifier) places() {
	for _, s := range v.intact[:min(2, len(v.intact))] {
		if !v.bounds[s.lsn] && s.lsn != v.info.Tail {
			v.found(&CorruptionError{File: s.name, Offset: 16, Err: errSnapPlace})
		}
	}
}

// measure finds out how much there is to read.
func (v *verifier) measure() error {
	for _, s := range v.im.snaps {
		info, err := s.file.Stat()
		if err != nil {
			return err
		}
		v.total += info.Size
	}
	for _, s := range v.im.segs {
		v.total += s.size
	}
	return nil
}

// advance reports progress. Parts that are read twice count once: the total is never exceeded.
func (v *verifier) advance(n int) {
	v.done += int64(n)
	if v.progress != nil {
		v.progress(min(v.done, v.total), v.total)
	}
}

// found notes a fault, once.
func (v *verifier) found(bad *CorruptionError) {
	for _, f := range v.faults {
		if f.File == bad.File && f.Offset == bad.Offset {
			return
		}
	}
	if len(v.faults) < MaxFaults {
		v.faults = append(v.faults, bad)
	}
}

// take notes a fault and passes every other error on.
func (v *verifier) take(err error) error {
	if bad, ok := errors.AsType[*CorruptionError](err); ok {
		v.found(bad)
		return nil
	}
	return err
}

// segments walks all frames. Runs of segments that touch are walked as one; a gap at or above start
// is a fault, one below is what freeing has left.
func (v *verifier) segments(start uint64) error {
	if _, err := v.im.from(start); err != nil {
		if err := v.take(err); err != nil {
			return err
		}
	}
	segs := v.im.segs
	for len(segs) > 0 {
		n := 1
		for n < len(segs) && segs[n].num == segs[n-1].num+1 && segs[n].base == segs[n-1].end() {
			n++
		}
		last := n == len(segs)
		if err := v.walk(segs[:n], last); err != nil {
			return err
		}
		segs = segs[n:]
	}
	return nil
}

// walk checks one run of segments. Behind a fault it goes on with the next frame that can be read.
// The last run ends with the log's tail; an earlier one ends at its gap, which has been noted.
func (v *verifier) walk(segs []*segment, last bool) error {
	r := &replayer{im: v.im, live: v.live, frame: v.mark}
	r.scan = newScanner(v.im.meta.id, segs)
	r.scan.win.read = v.advance
	if last && v.live {
		r.scan.more = v.im.openLater
	}
	for len(v.faults) < MaxFaults {
		err := r.walk()
		if err == nil {
			break
		}
		bad, ok := errors.AsType[*CorruptionError](err)
		if !ok {
			return err
		}
		if last || !errors.Is(bad, errMissing) {
			v.found(bad)
		}
		if found, err := r.scan.resync(); err != nil || !found {
			return v.take(err)
		}
	}
	v.info = r.info()
	return nil
}

// mark notes a frame that begins where a snapshot does.
func (v *verifier) mark(f frame) error {
	for _, s := range v.intact {
		if s.lsn == f.lsn {
			v.bounds[f.lsn] = true
		}
	}
	return nil
}

// resync goes to the next frame behind the place that can be read, for a look at what a damaged log
// still holds. Whether it follows the one before it is not asked.
func (s *scanner) resync() (found bool, err error) {
	if s.sealed && s.cur+1 == len(s.segs) {
		return false, nil
	}
	for from := s.off + sectorSize; ; from = headerSize {
		err := s.sectors(s.seg(), from, func(off int64, sector []byte) error {
			h, err := parseFrameHeader(sector)
			if err != nil || h.id != s.id || h.lsn != s.seg().base+uint64(off) {
				return nil
			}
			s.off, s.prevSum, s.prevLen, s.epoch = off, h.prevSum, h.prevLen, 0
			return fs.SkipAll
		})
		if err != nil {
			return errors.Is(err, fs.SkipAll), ignoreSkip(err)
		}
		if s.cur+1 == len(s.segs) {
			return false, nil
		}
		s.enter(s.cur + 1)
	}
}

// ignoreSkip drops the error by which a walk over sectors ends early.
func ignoreSkip(err error) error {
	if errors.Is(err, fs.SkipAll) {
		return nil
	}
	return err
}

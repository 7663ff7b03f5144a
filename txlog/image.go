package txlog

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// The names in a log's directory. Temporary ones mean nothing and are replaced or removed.
const (
	metaName     = "meta"
	metaTmp      = "meta.tmp"
	lockName     = "LOCK"
	markerName   = "INIT"
	segmentTmp   = "segment.tmp"
	reserveName  = "snap.reserve"
	reserveTmp   = "snap.reserve.tmp"
	adoptingName = "ADOPTING"
)

// segmentName and snapshotName have fixed width, so that the order of names is that of numbers.
func segmentName(num uint64) string { return fmt.Sprintf("log-%016x.seg", num) }

func snapshotName(lsn uint64) string { return fmt.Sprintf("snap-%016x.gvl", lsn) }

// parseName reads the number in a name of the form prefix, 16 hexadecimal digits, suffix.
func parseName(name, prefix, suffix string) (uint64, bool) {
	digits, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return 0, false
	}
	if digits, ok = strings.CutSuffix(digits, suffix); !ok || len(digits) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 16, 64)
	return n, err == nil
}

func parseSegmentName(name string) (uint64, bool) { return parseName(name, "log-", ".seg") }

func parseSnapshotName(name string) (uint64, bool) { return parseName(name, "snap-", ".gvl") }

// isLogFile says whether a name is that of a file that holds something of a log, be it only a part.
func isLogFile(name string) bool {
	_, seg := parseSegmentName(name)
	_, snap := parseSnapshotName(name)
	return seg || snap || name == metaName
}

// isScratch says whether a name is that of a file without lasting content.
func isScratch(name string) bool {
	return slices.Contains([]string{metaTmp, segmentTmp, reserveName, reserveTmp}, name)
}

// segment is an open segment. Its header has been checked.
type segment struct {
	segmentHeader
	name string
	file vfs.File
	// sum is the header's checksum, with which the chain of frames begins.
	sum uint32
}

// first is the LSN of the segment's first frame.
func (s *segment) first() uint64 { return s.base + headerSize }

// corrupt names a place in this segment.
func (s *segment) corrupt(off int64, err error) *CorruptionError {
	return &CorruptionError{File: s.name, Offset: off, LSN: s.base + uint64(off), Err: err}
}

// openSegment opens a segment and checks that its header, name and size agree. The caller owns the
// file.
func openSegment(
	fsys vfs.FS, dir string, num uint64, id txn.LogID, mode vfs.Mode,
) (*segment, error) {
	name := segmentName(num)
	file, err := fsys.Open(filepath.Join(dir, name), mode)
	if err != nil {
		return nil, fmt.Errorf("txlog: open %s: %w", name, err)
	}
	s := &segment{name: name, file: file}
	if err := s.readHeader(num, id); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return s, nil
}

// readHeader holds the header, the name and the size against each other: a file that was renamed,
// cut off, or copied here from another log is not a part of this one, however sound it is in
// itself.
func (s *segment) readHeader(num uint64, id txn.LogID) error {
	b := make([]byte, headerSize)
	if err := readFull(s.file, b, 0); err != nil {
		return s.headerError(err)
	}
	header, sum, err := decodeSegmentHeader(b)
	if err != nil {
		return s.corrupt(0, err)
	}
	s.segmentHeader, s.sum = header, sum
	info, err := s.file.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("txlog: stat %s: %w", s.name, err)
	case header.id != id:
		return s.corrupt(8, errForeign)
	case header.num != num:
		return s.corrupt(16, fmt.Errorf("this is segment %d", header.num))
	case info.Size != header.size:
		return s.corrupt(0, fmt.Errorf("%w: %d bytes, not %d", errSize, info.Size, header.size))
	}
	return nil
}

// headerError tells a file that is too short, which is damage, from a disk that cannot be read,
// which is not: the same file may be read tomorrow, or on another machine.
func (s *segment) headerError(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return s.corrupt(0, fmt.Errorf("%w: %w", errSize, err))
	}
	return fmt.Errorf("txlog: read %s: %w", s.name, err)
}

// readFull reads all of b; a file that is too short is io.ErrUnexpectedEOF.
func readFull(f io.ReaderAt, b []byte, off int64) error {
	n, err := f.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readMeta reads the meta file and says whether it is a copy.
func readMeta(fsys vfs.FS, dir string) (m meta, isCopy bool, err error) {
	f, err := fsys.Open(filepath.Join(dir, metaName), vfs.ReadOnly)
	if err != nil {
		return meta{}, false, fmt.Errorf("txlog: open meta: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return meta{}, false, fmt.Errorf("txlog: stat meta: %w", err)
	}
	b := make([]byte, min(info.Size, metaSize+1))
	if err := readFull(f, b, 0); err != nil {
		return meta{}, false, fmt.Errorf("txlog: read meta: %w", err)
	}
	m, err = decodeMeta(b)
	if errors.Is(err, ErrVersion) {
		return meta{}, false, err
	}
	if err != nil {
		return meta{}, false, &CorruptionError{File: metaName, Err: err}
	}
	return m, m.isCopy(info), nil
}

// findMeta reads meta and tells a directory without a log from a log without its meta.
func findMeta(fsys vfs.FS, dir string) (meta, bool, error) {
	names, err := fsys.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return meta{}, false, noLog(dir, "does not exist")
	}
	if err != nil {
		return meta{}, false, fmt.Errorf("txlog: list %s: %w", dir, err)
	}
	if slices.Contains(names, metaName) {
		return readMeta(fsys, dir)
	}
	switch {
	case slices.Contains(names, adoptingName):
		return meta{}, false, fmt.Errorf("%w: the adoption of %s was interrupted; "+
			"`gavel log adopt %s` finishes it", ErrNotALog, dir, dir)
	case slices.Contains(names, markerName):
		return meta{}, false, noLog(dir, "holds a log whose making was interrupted")
	case slices.ContainsFunc(names, isLogFile):
		return meta{}, false, &CorruptionError{File: metaName, Err: fs.ErrNotExist}
	}
	return meta{}, false, noLog(dir, "is empty")
}

// snapshotFile is an open snapshot. Nothing of it has been checked.
type snapshotFile struct {
	lsn  uint64
	name string
	file vfs.File
}

// image is the files of a log at one moment, all of them open, so that a live log which frees or
// replaces some of them does not pull the ground away.
type image struct {
	fs     vfs.FS
	dir    string
	meta   meta
	isCopy bool
	// segs by number, and snaps by LSN, both ascending. Nothing says yet that segs have no gap.
	segs  []*segment
	snaps []snapshotFile
	// bad are the segments whose header is damaged.
	bad []*CorruptionError
}

// maxRelists bounds how often a live directory is listed again because a file vanished between
// listing and opening.
const maxRelists = 16

// openImage opens the files of a log. A segment with a damaged header is put in bad and not in
// segs.
func openImage(fsys vfs.FS, dir string, mode vfs.Mode) (*image, error) {
	m, isCopy, err := findMeta(fsys, dir)
	if err != nil {
		return nil, err
	}
	im := &image{fs: fsys, dir: dir, meta: m, isCopy: isCopy}
	for range maxRelists {
		err := im.open(mode)
		if err == nil {
			return im, nil
		}
		if cerr := im.close(); cerr != nil || !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(err, cerr)
		}
	}
	return nil, ErrMoved
}

// open opens everything that is listed, before anything is read: a name may vanish at any time in a
// live directory, an open file does not.
func (im *image) open(mode vfs.Mode) error {
	names, err := im.fs.List(im.dir)
	if err != nil {
		return fmt.Errorf("txlog: list %s: %w", im.dir, err)
	}
	for _, name := range names {
		if num, ok := parseSegmentName(name); ok {
			err = im.addSegment(num, mode)
		} else if lsn, ok := parseSnapshotName(name); ok {
			err = im.addSnapshot(lsn, name)
		}
		if err != nil {
			return err
		}
	}
	slices.SortFunc(im.segs, func(a, b *segment) int { return cmp.Compare(a.num, b.num) })
	slices.SortFunc(im.snaps, func(a, b snapshotFile) int { return cmp.Compare(a.lsn, b.lsn) })
	return nil
}

// addSegment keeps a damaged segment apart: whether it matters depends on where the newest intact
// snapshot begins, and Verify wants to go on.
func (im *image) addSegment(num uint64, mode vfs.Mode) error {
	s, err := openSegment(im.fs, im.dir, num, im.meta.id, mode)
	if bad, ok := errors.AsType[*CorruptionError](err); ok {
		im.bad = append(im.bad, bad)
		return nil
	}
	if err == nil {
		im.segs = append(im.segs, s)
	}
	return err
}

// addSnapshot opens a snapshot for reading; it is checked when it is used.
func (im *image) addSnapshot(lsn uint64, name string) error {
	f, err := im.fs.Open(filepath.Join(im.dir, name), vfs.ReadOnly)
	if err != nil {
		return fmt.Errorf("txlog: open %s: %w", name, err)
	}
	im.snaps = append(im.snaps, snapshotFile{lsn: lsn, name: name, file: f})
	return nil
}

// close closes every file and forgets it.
func (im *image) close() error {
	var errs []error
	for _, s := range im.segs {
		errs = append(errs, s.file.Close())
	}
	for _, s := range im.snaps {
		errs = append(errs, s.file.Close())
	}
	im.segs, im.snaps, im.bad = nil, nil, nil
	return errors.Join(errs...)
}

// from returns the segments that hold the log from lsn on. They must be there without a gap: a
// missing or damaged one is a hole, and nobody knows what fell into it.
func (im *image) from(lsn uint64) ([]*segment, error) {
	i := slices.IndexFunc(im.segs, func(s *segment) bool { return s.base <= lsn && lsn < s.end() })
	if i < 0 {
		return nil, im.hole(lsn)
	}
	segs := im.segs[i:]
	for j := 1; j < len(segs); j++ {
		prev, s := segs[j-1], segs[j]
		if s.num != prev.num+1 {
			return nil, im.hole(prev.end())
		}
		if s.base != prev.end() {
			return nil, s.corrupt(24, fmt.Errorf("base LSN %d, not %d", s.base, prev.end()))
		}
	}
	for _, bad := range im.bad {
		if num, ok := parseSegmentName(bad.File); ok && num >= segs[0].num {
			return nil, bad
		}
	}
	return segs, nil
}

// hole is the error of a missing segment: damage of its header, if there is a file, else its
// absence.
func (im *image) hole(lsn uint64) error {
	if len(im.bad) > 0 {
		return im.bad[0]
	}
	return &CorruptionError{File: "log-*.seg", LSN: lsn, Err: errMissing}
}

var errMissing = errors.New("the segment that holds this LSN is missing")

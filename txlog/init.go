package txlog

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"
	"slices"
	"time"

	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// InitOptions are the choices for a new log.
type InitOptions struct {
	// SegmentSize of the first segments, in bytes. Defaults to DefaultSegmentSize.
	SegmentSize int64
	// Snapshot, if not nil, are the records that the log is born with. They are replayed as a
	// snapshot.
	Snapshot iter.Seq[Record]
	// Now is the wall clock. Defaults to time.Now.
	Now func() time.Time
}

// complete fills in the defaults and says what is out of range.
func (o *InitOptions) complete() error {
	if o.SegmentSize == 0 {
		o.SegmentSize = DefaultSegmentSize
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return checkSegmentSize(o.SegmentSize)
}

// Init makes a new log with this id in dir, which is made too if its parent exists. It refuses,
// with an error that wraps [ErrExists], a directory that holds anything of a log. On return the log
// is durable.
//
// A crash leaves a log or none: the meta file comes last, and while only a marker says that a log
// is being made, Init may be called again and begins anew.
func Init(fsys vfs.FS, dir string, id txn.LogID, opts InitOptions) (err error) {
	if err := opts.complete(); err != nil {
		return err
	}
	if id == 0 || id > txn.MaxLogID {
		return fmt.Errorf("txlog: %#x is not a log id", uint64(id))
	}
	if err := makeDir(fsys, dir); err != nil {
		return err
	}
	lock, err := takeLock(fsys, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	m := maker{fs: fsys, dir: dir, stop: func() bool { return false }}
	if err := m.begin(); err != nil {
		return err
	}
	return m.build(id, opts)
}

// makeDir makes dir and its name durable.
func makeDir(fsys vfs.FS, dir string) error {
	err := fsys.Mkdir(dir)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("txlog: make %s: %w", dir, err)
	}
	return maker{fs: fsys}.syncDir(filepath.Dir(dir))
}

// begin sets the marker and removes what an interrupted Init left. Without the marker nothing is
// removed: what is there then is, or was, a log.
func (m maker) begin() error {
	names, err := m.fs.List(m.dir)
	if err != nil {
		return fmt.Errorf("txlog: list %s: %w", m.dir, err)
	}
	marked := slices.Contains(names, markerName)
	if slices.Contains(names, metaName) || !marked && slices.ContainsFunc(names, isLogFile) {
		return fmt.Errorf("%w: %s", ErrExists, m.dir)
	}
	if !marked {
		if err := m.file(markerName, metaTmp, func(vfs.Info) []byte { return nil }); err != nil {
			return err
		}
	}
	// From here on the marker is durable, and every crash leaves either it or the meta file.
	for _, name := range names {
		if isLogFile(name) || isScratch(name) {
			if err := m.remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// build makes everything of a log, its meta last, and removes the markers.
func (m maker) build(id txn.LogID, opts InitOptions) error {
	// The second segment is the stock without which Open would have no room to promise.
	h := segmentHeader{id: id, size: opts.SegmentSize, created: opts.Now()}
	for range 2 {
		s, err := m.segment(h)
		if err != nil {
			return err
		}
		if err := s.file.Close(); err != nil {
			return fmt.Errorf("txlog: close %s: %w", s.name, err)
		}
		h = nextHeader(h, opts.SegmentSize, opts.Now())
	}
	if err := m.firstSnapshot(id, opts); err != nil {
		return err
	}
	err := m.file(metaName, metaTmp, func(own vfs.Info) []byte {
		return meta{id: id, created: opts.Now(), inode: own.Inode, birth: own.Birth,
			born: opts.Snapshot != nil}.encode()
	})
	if err != nil {
		return err
	}
	return errors.Join(m.remove(markerName), m.remove(adoptingName))
}

// firstSnapshot writes the records that the log is born with, as a snapshot that begins where the
// first frame will. Its epoch is 0: nobody has opened the log yet.
func (m maker) firstSnapshot(id txn.LogID, opts InitOptions) error {
	if opts.Snapshot == nil {
		return nil
	}
	f, err := m.fs.Open(m.path(reserveTmp), vfs.Create)
	if err != nil {
		return m.failed(reserveTmp, err)
	}
	h := snapHeader{id: id, lsn: headerSize, created: opts.Now()}
	_, err = writeSnapshot(f, h, opts.Snapshot, func() error { return nil })
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return m.failed(reserveTmp, err)
	}
	return m.publish(reserveTmp, snapshotName(h.lsn))
}

// MoveAside clears dir for a new log: it moves all files of the log in it to the sub-directory
// adopted-<log id> and returns its path. The records can be read there, and Init can be called for
// dir. It takes the log's lock for the time.
//
// It may be interrupted anywhere and called again, until Init for dir has succeeded: a marker,
// durable before the first file moves, remembers which log was being adopted, and meanwhile dir
// opens as no log.
func MoveAside(fsys vfs.FS, dir string) (aside string, err error) {
	lock, err := takeLock(fsys, dir)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	m := maker{fs: fsys, dir: dir, stop: func() bool { return false }}
	id, err := m.adopting()
	if err != nil {
		return "", err
	}
	aside = filepath.Join(dir, fmt.Sprintf("adopted-%015x", uint64(id)))
	if err := makeDir(fsys, aside); err != nil {
		return "", err
	}
	return aside, m.moveAll(id, aside)
}

// adopting is the id of the log that is being moved aside, remembered by the marker. The marker
// holds the meta file's own bytes.
func (m maker) adopting() (txn.LogID, error) {
	marked, err := m.exists(adoptingName)
	if err != nil {
		return 0, err
	}
	if marked {
		return m.marked()
	}
	old, _, err := findMeta(m.fs, m.dir)
	if err != nil {
		return 0, err
	}
	if err := m.dropMarkers(); err != nil {
		return 0, err
	}
	err = m.file(adoptingName, metaTmp, func(vfs.Info) []byte { return old.encode() })
	return old.id, err
}

// marked reads the id that the marker remembers. The marker came by rename, so it is whole or
// absent; a bad one is damage, and nothing is moved on its word.
func (m maker) marked() (txn.LogID, error) {
	f, err := m.fs.Open(m.path(adoptingName), vfs.ReadOnly)
	if err != nil {
		return 0, fmt.Errorf("txlog: open %s: %w", adoptingName, err)
	}
	b := make([]byte, metaSize)
	if err := errors.Join(readFull(f, b, 0), f.Close()); err != nil {
		return 0, fmt.Errorf("txlog: read %s: %w", adoptingName, err)
	}
	old, err := decodeMeta(b)
	if err != nil {
		return 0, &CorruptionError{File: adoptingName, Err: err}
	}
	return old.id, nil
}

// dropMarkers removes, durably, markers that outlived the meta file which made them void. They must
// be gone before a new one is set: the marker of Init beside that of an adoption says that all is
// moved.
func (m maker) dropMarkers() error {
	dropped := false
	for _, name := range []string{markerName, adoptingName} {
		there, err := m.exists(name)
		if err != nil {
			return err
		}
		if !there {
			continue
		}
		if err := m.remove(name); err != nil {
			return err
		}
		dropped = true
	}
	if !dropped {
		return nil
	}
	return m.syncDir(m.dir)
}

// moveAll moves the files of log id. A meta of another log means that Init has succeeded since and
// only the marker outlived it; the marker of Init means that all is moved and what is here is half
// of a new log.
func (m maker) moveAll(id txn.LogID, aside string) error {
	names, err := m.fs.List(m.dir)
	if err != nil {
		return fmt.Errorf("txlog: list %s: %w", m.dir, err)
	}
	if slices.Contains(names, metaName) {
		now, _, err := readMeta(m.fs, m.dir)
		if err != nil {
			return err
		}
		if now.id != id {
			return fmt.Errorf("%w: %s, adopted already", ErrExists, m.dir)
		}
	}
	if slices.Contains(names, markerName) {
		return nil
	}
	for _, name := range names {
		if !isLogFile(name) {
			continue
		}
		if err := m.move(name, aside); err != nil {
			return err
		}
	}
	return errors.Join(m.syncDir(aside), m.syncDir(m.dir))
}

// move never moves over a file: nothing of a log is destroyed by adopting it.
func (m maker) move(name, aside string) error {
	there, err := maker{fs: m.fs, dir: aside}.exists(name)
	if err != nil {
		return err
	}
	if there {
		return fmt.Errorf("%w: %s", ErrExists, filepath.Join(aside, name))
	}
	if err := m.fs.Rename(m.path(name), filepath.Join(aside, name)); err != nil {
		return fmt.Errorf("txlog: move %s: %w", name, err)
	}
	return nil
}

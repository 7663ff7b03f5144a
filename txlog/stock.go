package txlog

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/gavel-tx/gavel/txlog/vfs"
)

// fillChunk is how much is zero-filled at a time.
const fillChunk = 1 << 20

// errStopped ends the making of a file early. It is never seen outside.
var errStopped = errors.New("txlog: stopped")

// maker makes the files that the log keeps in stock. stop, asked between writes, ends the work
// early.
type maker struct {
	fs   vfs.FS
	dir  string
	stop func() bool
}

// path is the name of a file in the log's directory.
func (m maker) path(name string) string { return filepath.Join(m.dir, name) }

// segment makes a segment: zero-filled, because the first write to a block that is only allocated
// goes through the file system's journal, and because recovery tells a torn frame by its zero
// sectors. It is durable, with its header, before it gets its name, and its name is durable on
// return.
func (m maker) segment(h segmentHeader) (*segment, error) {
	if err := m.fill(segmentTmp, h.size, h.encode()); err != nil {
		return nil, err
	}
	if m.stop() {
		return nil, errStopped
	}
	name := segmentName(h.num)
	if err := m.publish(segmentTmp, name); err != nil {
		return nil, err
	}
	return openSegment(m.fs, m.dir, h.num, h.id, vfs.ReadWrite)
}

// reserve makes the file that the next snapshot is written over, so that there can be one on a full
// disk.
func (m maker) reserve(size int64) error {
	if err := m.fill(reserveTmp, size, nil); err != nil {
		return err
	}
	if m.stop() {
		return errStopped
	}
	return m.publish(reserveTmp, reserveName)
}

// publish gives a durable file its name, durably. Before it, the content is synced; after it, a
// crash can take neither.
func (m maker) publish(tmp, name string) error {
	if err := m.fs.Rename(m.path(tmp), m.path(name)); err != nil {
		return fmt.Errorf("txlog: rename %s: %w", tmp, err)
	}
	return m.syncDir(m.dir)
}

// syncDir makes the names in dir durable.
func (m maker) syncDir(dir string) error {
	if err := m.fs.SyncDir(dir); err != nil {
		return fmt.Errorf("txlog: sync %s: %w", dir, err)
	}
	return nil
}

// fill makes a file of size bytes that begins with head and is zero behind it, durable but for its
// name. If it cannot be finished, what there is of it is removed: it would only take space.
func (m maker) fill(name string, size int64, head []byte) error {
	if err := m.remove(name); err != nil {
		return err
	}
	f, err := m.fs.Open(m.path(name), vfs.Create)
	if err != nil {
		return m.failed(name, err)
	}
	err = errors.Join(m.fillFile(f, size, head), f.Close())
	if err == nil {
		return nil
	}
	return errors.Join(m.failed(name, err), m.remove(name))
}

// fillFile asks for the space first, so that a full disk is noticed before time is spent on
// writing, and writes zeros then: space that is only allocated is not what a segment needs.
func (m maker) fillFile(f vfs.File, size int64, head []byte) error {
	if err := f.Allocate(size); err != nil {
		return err
	}
	chunk := make([]byte, min(fillChunk, size))
	copy(chunk, head)
	for off := int64(0); off < size; off += int64(len(chunk)) {
		if m.stop() {
			return errStopped
		}
		chunk = chunk[:min(int64(len(chunk)), size-off)]
		if err := writeFull(f, chunk, off); err != nil {
			return err
		}
		if off == 0 {
			clear(chunk[:len(head)])
		}
	}
	if m.stop() {
		return errStopped
	}
	return f.Sync()
}

// failed tells a full disk, which may have room again later, from a broken one.
func (m maker) failed(name string, err error) error {
	if vfs.NoSpace(err) {
		return fmt.Errorf("%w: make %s: %w", ErrNoSpace, name, err)
	}
	return fmt.Errorf("txlog: make %s: %w", name, err)
}

// remove removes a file that may not exist.
func (m maker) remove(name string) error {
	if err := m.fs.Remove(m.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("txlog: remove %s: %w", name, err)
	}
	return nil
}

// exists says whether there is such a file, and passes on every error but its absence.
func (m maker) exists(name string) (bool, error) {
	_, err := m.fs.Stat(m.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("txlog: stat %s: %w", name, err)
	}
	return true, nil
}

// file makes a small file with this content by way of a temporary one: it is there, whole and
// durable, on return, or not at all.
func (m maker) file(name, tmp string, content func(vfs.Info) []byte) error {
	if err := m.remove(tmp); err != nil {
		return err
	}
	f, err := m.fs.Open(m.path(tmp), vfs.Create)
	if err != nil {
		return m.failed(name, err)
	}
	info, err := f.Stat()
	if err == nil {
		err = writeFull(f, content(info), 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return m.failed(name, err)
	}
	return m.publish(tmp, name)
}

// nextHeader is the header of the segment behind s.
func nextHeader(s segmentHeader, size int64, now time.Time) segmentHeader {
	return segmentHeader{id: s.id, num: s.num + 1, base: s.end(), size: size, created: now}
}

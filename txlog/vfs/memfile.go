package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"syscall"
)

// memFile is an open file of a [Mem].
type memFile struct {
	fs       *Mem
	name     string
	node     *node
	writable bool
	closed   bool
}

// enter locks the file system for one call on an open file.
func (f *memFile) enter(op string, write bool) (leave func(), err error) {
	f.fs.mu.Lock()
	switch {
	case f.closed:
		err = memError(op, f.name, fs.ErrClosed)
	case write && !f.writable:
		err = memError(op, f.name, syscall.EBADF)
	default:
		return f.fs.mu.Unlock, nil
	}
	f.fs.mu.Unlock()
	return nil, err
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	leave, err := f.enter("read", false)
	if err != nil {
		return 0, err
	}
	defer leave()
	if off >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.node.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt writes what fits: on a full disk the rest is a short write, as in life.
func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	leave, err := f.enter("write", true)
	if err != nil {
		return 0, err
	}
	defer leave()
	full := f.growLocked(off + int64(len(p)))
	room := max(int64(len(f.node.data))-off, 0)
	n := copy(f.node.data[min(off, int64(len(f.node.data))):], p[:min(int64(len(p)), room)])
	f.node.touch(off, int64(n))
	if n < len(p) {
		return n, memError("write", f.name, full)
	}
	return n, nil
}

// growLocked grows the file to size, or as far as the capacity goes, and then returns why no
// further.
func (f *memFile) growLocked(size int64) error {
	need := size - int64(len(f.node.data))
	if need <= 0 {
		return nil
	}
	var err error
	if free := f.fs.capacity - f.fs.used; f.fs.capacity > 0 && need > free {
		need, err = max(free, 0), fmt.Errorf("%d of %d bytes used: %w", f.fs.used, f.fs.capacity,
			syscall.ENOSPC)
	}
	f.node.touch(int64(len(f.node.data)), need)
	f.node.data = append(f.node.data, make([]byte, need)...)
	if f.node.links > 0 {
		f.fs.used += need
	}
	return err
}

// touch marks the sectors of a range as not on disk.
func (n *node) touch(off, size int64) {
	if size <= 0 {
		return
	}
	for s := off / SectorSize; s <= (off+size-1)/SectorSize; s++ {
		n.dirty[s] = true
	}
}

func (f *memFile) Sync() error { return f.sync("sync") }

// Datasync is no weaker than Sync here: the size of a file is metadata needed to read its data
// back.
func (f *memFile) Datasync() error { return f.sync("datasync") }

// sync writes the dirty sectors, and only those: a sector that an earlier failed sync dropped stays
// lost until somebody writes it anew.
func (f *memFile) sync(op string) error {
	leave, err := f.enter(op, false)
	if err != nil {
		return err
	}
	defer leave()
	n := f.node
	n.resizeDisk(len(n.data))
	for s := range n.dirty {
		n.writeSector(s)
	}
	clear(n.dirty)
	return nil
}

// DropDirty is what Linux does when a sync fails: the pages stay as they are seen, are marked
// clean, and never reach the disk.
func (f *memFile) DropDirty() {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	clear(f.node.dirty)
}

func (n *node) resizeDisk(size int) {
	if size <= len(n.disk) {
		n.disk = n.disk[:size]
		return
	}
	n.disk = append(n.disk, make([]byte, size-len(n.disk))...)
}

// writeSector puts one sector on disk, as far as both sizes reach.
func (n *node) writeSector(s int64) {
	from := min(s*SectorSize, int64(len(n.data)), int64(len(n.disk)))
	to := min((s+1)*SectorSize, int64(len(n.data)), int64(len(n.disk)))
	copy(n.disk[from:to], n.data[from:to])
}

func (f *memFile) Truncate(size int64) error {
	leave, err := f.enter("truncate", true)
	if err != nil {
		return err
	}
	defer leave()
	n := f.node
	if old := int64(len(n.data)); size < old {
		n.data = append([]byte(nil), n.data[:size]...)
		if n.links > 0 {
			f.fs.used -= old - size
		}
		return nil
	}
	return f.allocateLocked("truncate", size)
}

func (f *memFile) Allocate(size int64) error {
	leave, err := f.enter("allocate", true)
	if err != nil {
		return err
	}
	defer leave()
	return f.allocateLocked("allocate", size)
}

// allocateLocked takes all of the space or none of it.
func (f *memFile) allocateLocked(op string, size int64) error {
	old := int64(len(f.node.data))
	err := f.growLocked(size)
	if err != nil {
		f.fs.used -= int64(len(f.node.data)) - old
		f.node.data = f.node.data[:old]
		return memError(op, f.name, err)
	}
	return nil
}

func (f *memFile) Stat() (Info, error) {
	leave, err := f.enter("stat", false)
	if err != nil {
		return Info{}, err
	}
	defer leave()
	return f.node.info(), nil
}

func (f *memFile) Close() error {
	leave, err := f.enter("close", false)
	if err != nil {
		return err
	}
	defer leave()
	f.closed = true
	return nil
}

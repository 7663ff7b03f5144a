package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Mem is a file system in memory that knows, for every sector and every directory entry, what a
// power cut would leave. It has two layers: what programs see (the page cache), and what is on the
// disk. [Mem.CrashClone] is the machine after a power cut, [Mem.KillClone] the machine after the
// death of the process; both are new values, so one run can be crashed at every step and in every
// way.
//
// Its disk is a little worse than a real one: sectors of one page part ways, renames of one
// directory arrive out of order, and a failed sync loses what it should have written, for ever and
// silently.
//
// Opening with Create needs the parent directory, as usual. The root "/" always exists.
type Mem struct {
	mu       sync.Mutex
	root     *node
	nextNode uint64
	// ops are the directory operations that no SyncDir has made durable, oldest first.
	ops   []dirOp
	locks map[string]string
	// capacity bounds the bytes of all files; 0 means no bound. used is what they take now.
	capacity, used int64
}

// node is a file or a directory.
type node struct {
	inode uint64
	birth time.Time
	dir   bool
	// live and durable are a directory's entries: as seen, and as on disk.
	live, durable map[string]*node
	// data is a file's content as seen, disk as on disk. They differ in the dirty sectors, which
	// the next sync writes, and, after a failed sync, in sectors that nothing will ever write.
	data, disk []byte
	dirty      map[int64]bool
	// links counts the directory entries as seen, so that space is given back with the last one.
	links int
}

// dirOp is a link (from nil), an unlink (to nil) or a rename (neither nil).
type dirOp struct {
	node             *node
	from, to         *node
	fromName, toName string
}

// NewMem makes an empty file system.
func NewMem() *Mem {
	m := &Mem{locks: make(map[string]string)}
	m.root = m.newNode(true)
	return m
}

// SetCapacity bounds the bytes that all files together may take, or unbounds them with 0. What is
// there already stays.
func (m *Mem) SetCapacity(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = n
}

// Used is the bytes that all files take.
func (m *Mem) Used() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}

// newNode gives every node its own inode and birth time, both from a counter: there is no clock
// here.
func (m *Mem) newNode(dir bool) *node {
	m.nextNode++
	birth := time.Unix(1_700_000_000, int64(m.nextNode)).UTC()
	n := &node{inode: m.nextNode, birth: birth, dir: dir}
	if dir {
		n.live, n.durable = make(map[string]*node), make(map[string]*node)
	} else {
		n.dirty = make(map[int64]bool)
	}
	return n
}

// lookupLocked walks a path. The callers hold mu.
func (m *Mem) lookupLocked(op, name string) (*node, error) {
	n := m.root
	for _, part := range split(name) {
		next, ok := n.live[part]
		if !ok {
			return nil, memError(op, name, fs.ErrNotExist)
		}
		n = next
	}
	return n, nil
}

// parentLocked finds the directory of name.
func (m *Mem) parentLocked(op, name string) (*node, string, error) {
	dir, base := filepath.Split(filepath.Clean("/" + name))
	p, err := m.lookupLocked(op, dir)
	if err != nil {
		return nil, "", err
	}
	if !p.dir || base == "" {
		return nil, "", memError(op, name, syscall.ENOTDIR)
	}
	return p, base, nil
}

// Open implements [FS].
func (m *Mem) Open(name string, mode Mode) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mode == Create {
		n, err := m.linkLocked("open", name, false)
		if err != nil {
			return nil, err
		}
		return &memFile{fs: m, name: name, node: n, writable: true}, nil
	}
	n, err := m.lookupLocked("open", name)
	if err != nil {
		return nil, err
	}
	if n.dir {
		return nil, memError("open", name, syscall.EISDIR)
	}
	return &memFile{fs: m, name: name, node: n, writable: mode == ReadWrite}, nil
}

func (m *Mem) linkLocked(op, name string, dir bool) (*node, error) {
	p, base, err := m.parentLocked(op, name)
	if err != nil {
		return nil, err
	}
	if p.live[base] != nil {
		return nil, memError(op, name, fs.ErrExist)
	}
	n := m.newNode(dir)
	n.links = 1
	p.live[base] = n
	m.ops = append(m.ops, dirOp{node: n, to: p, toName: base})
	return n, nil
}

// Mkdir implements [FS].
func (m *Mem) Mkdir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, err := m.linkLocked("mkdir", name, true)
	return err
}

// Rename implements [FS].
func (m *Mem) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	fp, fb, err := m.parentLocked("rename", from)
	if err != nil {
		return err
	}
	n := fp.live[fb]
	if n == nil {
		return memError("rename", from, fs.ErrNotExist)
	}
	tp, tb, err := m.parentLocked("rename", to)
	if err != nil {
		return err
	}
	if old := tp.live[tb]; old != nil && old != n {
		m.dropLocked(old)
	}
	delete(fp.live, fb)
	tp.live[tb] = n
	m.ops = append(m.ops, dirOp{node: n, from: fp, fromName: fb, to: tp, toName: tb})
	return nil
}

// Remove implements [FS].
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, base, err := m.parentLocked("remove", name)
	if err != nil {
		return err
	}
	n := p.live[base]
	switch {
	case n == nil:
		return memError("remove", name, fs.ErrNotExist)
	case n.dir && len(n.live) > 0:
		return memError("remove", name, syscall.ENOTEMPTY)
	}
	delete(p.live, base)
	m.dropLocked(n)
	m.ops = append(m.ops, dirOp{node: n, from: p, fromName: base})
	return nil
}

// dropLocked gives the space of an unlinked file back.
func (m *Mem) dropLocked(n *node) {
	n.links--
	m.used -= int64(len(n.data))
}

// List implements [FS].
func (m *Mem) List(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.lookupLocked("list", dir)
	if err != nil {
		return nil, err
	}
	if !n.dir {
		return nil, memError("list", dir, syscall.ENOTDIR)
	}
	return slices.Sorted(maps.Keys(n.live)), nil
}

// Stat implements [FS].
func (m *Mem) Stat(name string) (Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.lookupLocked("stat", name)
	if err != nil {
		return Info{}, err
	}
	return n.info(), nil
}

func (n *node) info() Info {
	return Info{Size: int64(len(n.data)), Inode: n.inode, Birth: n.birth, Dir: n.dir}
}

// SyncDir implements [FS]. A rename between two directories is durable with the first of them that
// is synced.
func (m *Mem) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.lookupLocked("syncdir", dir)
	if err != nil {
		return err
	}
	rest := m.ops[:0]
	for _, op := range m.ops {
		if op.from == n || op.to == n {
			op.apply(func(d *node) map[string]*node { return d.durable })
		} else {
			rest = append(rest, op)
		}
	}
	m.ops = rest
	return nil
}

// apply does op to the entries that view gives for a directory.
func (op dirOp) apply(view func(*node) map[string]*node) {
	if op.from != nil {
		delete(view(op.from), op.fromName)
	}
	if op.to != nil {
		view(op.to)[op.toName] = op.node
	}
}

// Lock implements [FS]. A clone has no locks: their holders died.
func (m *Mem) Lock(name, owner string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name = filepath.Clean("/" + name)
	if held, ok := m.locks[name]; ok {
		return nil, &HeldError{Name: name, Owner: held}
	}
	if _, err := m.lookupLocked("lock", name); err != nil {
		if _, err := m.linkLocked("lock", name, false); err != nil {
			return nil, err
		}
	}
	m.locks[name] = owner
	return &memLock{fs: m, name: name}, nil
}

type memLock struct {
	fs   *Mem
	name string
}

func (l *memLock) Close() error {
	l.fs.mu.Lock()
	defer l.fs.mu.Unlock()
	if _, ok := l.fs.locks[l.name]; !ok {
		return memError("unlock", l.name, fs.ErrClosed)
	}
	delete(l.fs.locks, l.name)
	return nil
}

// split takes a path apart; the root has no parts.
func split(name string) []string {
	clean := strings.Trim(filepath.Clean("/"+name), "/")
	if clean == "" {
		return nil
	}
	return strings.Split(clean, "/")
}

func memError(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: fmt.Errorf("vfs memory: %w", err)}
}

package vfs

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

// Op is a kind of call.
type Op uint8

// The kinds of calls.
const (
	OpOpen Op = iota
	OpCreate
	OpRead
	OpWrite
	OpSync
	OpDatasync
	OpTruncate
	OpAllocate
	OpRename
	OpRemove
	OpMkdir
	OpList
	OpStat
	OpSyncDir
	OpLock
	opEnd
)

// Ops are all kinds.
func Ops() []Op {
	all := make([]Op, opEnd)
	for i := range all {
		all[i] = Op(i)
	}
	return all
}

// Mutating are the kinds that can change a file or make a change durable.
func Mutating() []Op {
	return []Op{OpCreate, OpWrite, OpSync, OpDatasync, OpTruncate, OpAllocate, OpRename, OpRemove,
		OpMkdir, OpSyncDir}
}

// String names the kind as in the interfaces.
func (o Op) String() string {
	names := [...]string{"Open", "Create", "ReadAt", "WriteAt", "Sync", "Datasync", "Truncate",
		"Allocate", "Rename", "Remove", "Mkdir", "List", "Stat", "SyncDir", "Lock"}
	if int(o) >= len(names) {
		return fmt.Sprintf("Op(%d)", uint8(o))
	}
	return names[o]
}

// Call is one call that is about to be made.
type Call struct {
	Op   Op
	Name string
	// Offset and Len are those of ReadAt and WriteAt; Len is the size for Truncate and Allocate.
	Offset int64
	Len    int64
}

// Hook is told of every call before it is made. An error makes the call fail with it, without
// effect; a [*ShortWrite] lets a part of a write happen, and [ErrLost] makes the disk lie. It may
// be called concurrently.
type Hook func(Call) error

// ErrLost as a hook's error makes WriteAt, Sync, Datasync and SyncDir say that all is well and do
// nothing. A sync that lies loses what it should have written, as a failed one does. No log keeps a
// promise on such a disk; a good one notices.
var ErrLost = errors.New("vfs: lost without a word")

// ShortWrite as a hook's error makes WriteAt write N bytes and return Err.
type ShortWrite struct {
	N   int
	Err error
}

// Error says how much was written, and why no more.
func (e *ShortWrite) Error() string { return fmt.Sprintf("vfs: short write of %d: %v", e.N, e.Err) }

// Unwrap is the error of the write.
func (e *ShortWrite) Unwrap() error { return e.Err }

// Hooked is base with hooks in front of every call, asked in order; the first error counts. A sync
// that a hook fails behaves as on Linux if base can do that (see [Mem]): what it should have
// written is lost.
func Hooked(base FS, hooks ...Hook) FS { return &hookedFS{base: base, hooks: hooks} }

type hookedFS struct {
	base  FS
	hooks []Hook
}

func (h *hookedFS) ask(op Op, name string, off, size int64) error {
	for _, hook := range h.hooks {
		if err := hook(Call{Op: op, Name: name, Offset: off, Len: size}); err != nil {
			return err
		}
	}
	return nil
}

func (h *hookedFS) Open(name string, mode Mode) (File, error) {
	op := OpOpen
	if mode == Create {
		op = OpCreate
	}
	if err := h.ask(op, name, 0, 0); err != nil {
		return nil, err
	}
	f, err := h.base.Open(name, mode)
	if err != nil {
		return nil, err
	}
	return &hookedFile{File: f, fs: h, name: name}, nil
}

func (h *hookedFS) Rename(from, to string) error {
	if err := h.ask(OpRename, from, 0, 0); err != nil {
		return err
	}
	return h.base.Rename(from, to)
}

func (h *hookedFS) Remove(name string) error {
	if err := h.ask(OpRemove, name, 0, 0); err != nil {
		return err
	}
	return h.base.Remove(name)
}

func (h *hookedFS) Mkdir(name string) error {
	if err := h.ask(OpMkdir, name, 0, 0); err != nil {
		return err
	}
	return h.base.Mkdir(name)
}

func (h *hookedFS) List(dir string) ([]string, error) {
	if err := h.ask(OpList, dir, 0, 0); err != nil {
		return nil, err
	}
	return h.base.List(dir)
}

func (h *hookedFS) Stat(name string) (Info, error) {
	if err := h.ask(OpStat, name, 0, 0); err != nil {
		return Info{}, err
	}
	return h.base.Stat(name)
}

func (h *hookedFS) SyncDir(dir string) error {
	if err := h.ask(OpSyncDir, dir, 0, 0); err != nil {
		return unlessLost(err)
	}
	return h.base.SyncDir(dir)
}

func (h *hookedFS) Lock(name, owner string) (io.Closer, error) {
	if err := h.ask(OpLock, name, 0, 0); err != nil {
		return nil, err
	}
	return h.base.Lock(name, owner)
}

type hookedFile struct {
	File
	fs   *hookedFS
	name string
}

func (f *hookedFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fs.ask(OpRead, f.name, off, int64(len(p))); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *hookedFile) WriteAt(p []byte, off int64) (int, error) {
	err := f.fs.ask(OpWrite, f.name, off, int64(len(p)))
	if short, ok := errors.AsType[*ShortWrite](err); ok {
		n, werr := f.File.WriteAt(p[:min(short.N, len(p))], off)
		return n, errors.Join(short, werr)
	}
	if errors.Is(err, ErrLost) {
		return len(p), nil
	}
	if err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *hookedFile) Sync() error { return f.sync(OpSync, f.File.Sync) }

func (f *hookedFile) Datasync() error { return f.sync(OpDatasync, f.File.Datasync) }

func (f *hookedFile) sync(op Op, do func() error) error {
	err := f.fs.ask(op, f.name, 0, 0)
	if err == nil {
		return do()
	}
	if d, ok := f.File.(interface{ DropDirty() }); ok {
		d.DropDirty()
	}
	return unlessLost(err)
}

// unlessLost is nil where a call that had no effect is to say that it had.
func unlessLost(err error) error {
	if errors.Is(err, ErrLost) {
		return nil
	}
	return err
}

func (f *hookedFile) Truncate(size int64) error {
	if err := f.fs.ask(OpTruncate, f.name, 0, size); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *hookedFile) Allocate(size int64) error {
	if err := f.fs.ask(OpAllocate, f.name, 0, size); err != nil {
		return err
	}
	return f.File.Allocate(size)
}

func (f *hookedFile) Stat() (Info, error) {
	if err := f.fs.ask(OpStat, f.name, 0, 0); err != nil {
		return Info{}, err
	}
	return f.File.Stat()
}

// Counter counts calls by kind. The zero Counter is ready.
type Counter struct {
	mu     sync.Mutex
	counts [opEnd]int
}

// Hook is the hook that counts.
func (c *Counter) Hook(call Call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[call.Op]++
	return nil
}

// Count is how many calls of these kinds were made since the last Reset.
func (c *Counter) Count(ops ...Op) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	total := 0
	for _, op := range ops {
		total += c.counts[op]
	}
	return total
}

// Reset starts the count anew.
func (c *Counter) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts = [opEnd]int{}
}

// FailNth fails, with err, the n-th call (from 1) of the given kinds, and with sticky every later
// one too.
func FailNth(n int, sticky bool, err error, ops ...Op) Hook {
	var mu sync.Mutex
	seen := 0
	return func(c Call) error {
		if !slices.Contains(ops, c.Op) {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		seen++
		if seen == n || sticky && seen > n {
			return err
		}
		return nil
	}
}

//go:build unix

package vfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A log tells what an organisation's databases decided; only its owner reads it.
const (
	fileMode = 0o600
	dirMode  = 0o700
	maxOwner = 256
)

// OS is the operating system's file system. Files are made readable by their owner only.
func OS() FS { return osFS{} }

type osFS struct{}

type osFile struct{ *os.File }

func (osFS) Open(name string, mode Mode) (File, error) {
	flags := os.O_RDONLY
	switch mode {
	case ReadWrite:
		flags = os.O_RDWR
	case Create:
		flags = os.O_RDWR | os.O_CREATE | os.O_EXCL
	}
	f, err := os.OpenFile(name, flags, fileMode)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) Rename(from, to string) error { return os.Rename(from, to) }

func (osFS) Remove(name string) error { return os.Remove(name) }

func (osFS) Mkdir(name string) error { return os.Mkdir(name, dirMode) }

func (osFS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

func (osFS) Stat(name string) (Info, error) { return statName(name) }

func (osFS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Lock locks the file itself and not its existence, so that the death of the holder, however
// sudden, ends the lock. The file is never removed: removing it would let two processes lock two
// files of one name.
func (osFS) Lock(name, owner string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, err
	}
	switch err := tryLock(f); {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
		return nil, errors.Join(&HeldError{Name: name, Owner: ownerIn(f)}, f.Close())
	case err != nil:
		return nil, errors.Join(fmt.Errorf("vfs: lock %s: %w", name, err), f.Close())
	}
	leaveOwner(f, owner)
	return f, nil
}

// leaveOwner is for people: a disk too full to take the description must not keep a log from
// opening, so its errors count for nothing.
func leaveOwner(f *os.File, owner string) {
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt([]byte(owner), 0)
	}
}

func ownerIn(f *os.File) string {
	b := make([]byte, maxOwner)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	return strings.TrimSpace(string(b[:n]))
}

func (f osFile) Datasync() error { return datasync(f.File) }

func (f osFile) Allocate(size int64) error { return allocate(f.File, size) }

func (f osFile) Stat() (Info, error) { return statFile(f.File) }

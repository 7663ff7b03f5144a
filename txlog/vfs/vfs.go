// Package vfs is the part of a file system that a transaction log needs, behind an interface: the
// operating system's files for production ([OS]), files in memory whose crash is a value ([Mem])
// and a layer that counts, watches or fails calls ([Hooked]) for everybody who wants to know what
// survives.
//
// # What is durable when
//
//	WriteAt, Truncate, Allocate    nothing, until Sync or Datasync of that file returns nil
//	Open with Create, Rename,
//	Remove, Mkdir                  nothing, until SyncDir of every directory concerned returns nil
//	Sync, Datasync                 everything written to the file before the call
//
// Between two syncs a crash keeps or drops every 512-byte sector on its own, and every directory
// operation on its own. After a failed Sync nobody knows what reached the disk, and a second Sync
// that succeeds proves nothing: Linux marks the pages clean and forgets them (Rebello et al., "Can
// Applications Recover from fsync Failures?", USENIX ATC 2020). [Mem] behaves the same.
//
// # Errors
//
// A missing file is [io/fs.ErrNotExist], one that exists against expectation [io/fs.ErrExist], a
// lock that somebody holds a [*HeldError]; [NoSpace] recognises a full disk or quota. Decide by
// errors.Is and errors.AsType, never by text.
package vfs

import (
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"
)

// SectorSize is the unit, in bytes, that a crash keeps or drops as a whole.
const SectorSize = 512

// Mode says how Open opens a file.
type Mode uint8

const (
	// ReadOnly opens an existing file for reading.
	ReadOnly Mode = iota
	// ReadWrite opens an existing file for reading and writing.
	ReadWrite
	// Create makes a new file for reading and writing, and refuses an existing one.
	Create
)

// FS is a file system. Names are paths in the form of path/filepath. All methods may be called
// concurrently.
type FS interface {
	// Open opens a file. With Create the new name is durable only after SyncDir of its directory.
	Open(name string, mode Mode) (File, error)
	// Rename moves a file over whatever has the new name, atomically; it keeps inode and birth
	// time.
	Rename(from, to string) error
	// Remove deletes a file or an empty directory. Open files stay readable.
	Remove(name string) error
	// Mkdir makes one directory.
	Mkdir(name string) error
	// List returns the names in a directory, sorted.
	List(dir string) ([]string, error)
	// Stat describes a file or directory.
	Stat(name string) (Info, error)
	// SyncDir makes the names in a directory durable.
	SyncDir(dir string) error
	// Lock takes an exclusive lock for the life of the process or until the result is closed,
	// without waiting. It makes the file if needed and leaves the owner's description in it, for
	// whoever is refused.
	Lock(name, owner string) (io.Closer, error)
}

// File is an open file. Its methods may be called concurrently.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync makes data and all metadata of the file durable.
	Sync() error
	// Datasync makes data durable, and of the metadata what is needed to read it back.
	Datasync() error
	// Truncate sets the size. Bytes that appear are zero.
	Truncate(size int64) error
	// Allocate grows the file to at least size bytes of zeros and takes the disk space for them,
	// where the file system can promise that; where it cannot, it does nothing.
	Allocate(size int64) error
	// Stat describes the file.
	Stat() (Info, error)
}

// Info describes a file.
type Info struct {
	// Size in bytes.
	Size int64
	// Inode and Birth tell this file from a copy of it. Birth is zero where the file system has
	// none.
	Inode uint64
	Birth time.Time
	// Dir is set for a directory.
	Dir bool
}

// HeldError says that somebody else holds a lock.
type HeldError struct {
	Name string
	// Owner is the description that the holder left; empty if it could leave none.
	Owner string
}

// Error names the lock, and its owner in the owner's words.
func (e *HeldError) Error() string {
	return fmt.Sprintf("vfs: %s is locked by %q", e.Name, e.Owner)
}

// NoSpace says whether err means that the disk or the quota is full. Nothing is broken then: the
// same call may succeed later.
func NoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

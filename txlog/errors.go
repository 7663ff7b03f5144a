package txlog

import (
	"errors"
	"fmt"
)

// Errors of the log. What they mean for records:
//
//   - ErrTooLarge, ErrBacklog, ErrClosed: the records of that call were not taken.
//   - ErrFailed: nobody knows which records that were not reported persisted are durable. They
//     count as neither written nor absent until the log has been opened again.
var (
	// ErrNotALog is wrapped when a directory holds no log, or does not exist.
	ErrNotALog = errors.New("txlog: no log here")
	// ErrExists is wrapped when a log would be made where there is something of one.
	ErrExists = errors.New("txlog: the directory already holds something of a log")
	// ErrVersion is matched by a [*VersionError].
	ErrVersion = errors.New("txlog: unknown format version")
	// ErrFailed is wrapped by everything after a write or a sync failed. It is final.
	ErrFailed = errors.New("txlog: the log has failed")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("txlog: the log is closed")
	// ErrBacklog is returned by Append while too many bytes wait to be written. Try again later.
	ErrBacklog = errors.New("txlog: too much is waiting to be written")
	// ErrTooLarge is wrapped when a record, or the records of one Append, exceed their limit.
	ErrTooLarge = errors.New("txlog: too large")
	// ErrNoSpace is wrapped when the disk is full: by Snapshot, which may be tried again, and by
	// Open and Close.
	ErrNoSpace = errors.New("txlog: no space left for the log")
	// ErrBadSnapshot is wrapped when a snapshot is asked for at a place where there can be none.
	ErrBadSnapshot = errors.New("txlog: no snapshot can be made there")
	// ErrMoved is returned by the reading functions when a live log freed segments faster than they
	// were read. Read again.
	ErrMoved = errors.New("txlog: the log moved on while it was read")
)

// CorruptionError says that stored bytes are not what this package wrote, and that no crash
// explains it. Nothing was changed, and nothing must be presumed from the records that could be
// read.
type CorruptionError struct {
	// File is the name in the log's directory; Offset is the place in it, in bytes.
	File   string
	Offset int64
	// LSN is the place in the log, where File is a segment.
	LSN uint64
	// Err says what is wrong there.
	Err error
}

// Error names the file and the byte, and the place in the log where it has one.
func (e *CorruptionError) Error() string {
	if e.LSN != 0 {
		return fmt.Sprintf("txlog: %s is damaged at byte %d (LSN %d): %v",
			e.File, e.Offset, e.LSN, e.Err)
	}
	return fmt.Sprintf("txlog: %s is damaged at byte %d: %v", e.File, e.Offset, e.Err)
}

// Unwrap is what is wrong.
func (e *CorruptionError) Unwrap() error { return e.Err }

// LockedError says that another process, or another part of this one, has the log open.
type LockedError struct {
	Dir string
	// Host and PID are the holder's, as it described itself; empty and zero if it could not.
	Host string
	PID  int
}

// Error names the process that has the log open, if that is known.
func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("txlog: %s is in use by another process", e.Dir)
	}
	return fmt.Sprintf("txlog: %s is in use by process %d on host %s", e.Dir, e.PID, e.Host)
}

// CopyError says that the directory is a copy of a log and not the log itself. What it has recorded
// is true; what it has not recorded may have happened since in the original, so it must not be
// continued under the same log id.
type CopyError struct {
	Dir string
}

// Error says what a copy may not know, and how it becomes a log of its own.
func (e *CopyError) Error() string {
	return fmt.Sprintf("txlog: %s is a copy of a log (it was restored, or moved between file "+
		"systems); what it does not know may have happened; `gavel log adopt %s` gives it a log "+
		"id of its own", e.Dir, e.Dir)
}

// VersionError says that a newer program wrote the log. It matches [ErrVersion].
type VersionError struct {
	Found uint32
}

// Error says which version wrote the log and which one this program knows.
func (e *VersionError) Error() string {
	return fmt.Sprintf("txlog: the log has format version %d; this program knows version %d",
		e.Found, Version)
}

// Is matches ErrVersion.
func (e *VersionError) Is(target error) bool { return target == ErrVersion }

// noLog is ErrNotALog with the way on.
func noLog(dir, why string) error {
	return fmt.Errorf("%w: %s %s; `gavel log init %s` makes one", ErrNotALog, dir, why, dir)
}

package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// datasync repeats only an interrupted call: EINTR says that the wait did not finish, not that a
// write failed, and consumes no error of the file. Every other error is final.
func datasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return pathError("fdatasync", f.Name(), err)
		}
	}
}

// allocate is silent where the file system has no such call: callers fill what they need with zeros
// anyway.
func allocate(f *os.File, size int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, 0, size)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return nil
		default:
			return pathError("fallocate", f.Name(), err)
		}
	}
}

// tryLock takes an open-file-description lock: unlike a POSIX record lock it also refuses a second
// opener within this process, and is not lost when some other descriptor of the file is closed.
func tryLock(f *os.File) error {
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l)
}

const statxMask = unix.STATX_TYPE | unix.STATX_SIZE | unix.STATX_INO | unix.STATX_BTIME

func statName(name string) (Info, error) {
	return statx(unix.AT_FDCWD, name, 0, name)
}

func statFile(f *os.File) (Info, error) {
	return statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, f.Name())
}

func statx(dir int, path string, flags int, name string) (Info, error) {
	var x unix.Statx_t
	if err := unix.Statx(dir, path, flags, statxMask, &x); err != nil {
		return Info{}, pathError("statx", name, err)
	}
	info := Info{Size: int64(x.Size), Inode: x.Ino, Dir: x.Mode&unix.S_IFMT == unix.S_IFDIR}
	if x.Mask&unix.STATX_BTIME != 0 {
		info.Birth = time.Unix(x.Btime.Sec, int64(x.Btime.Nsec)).UTC()
	}
	return info, nil
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

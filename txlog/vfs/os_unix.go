//go:build unix && !linux

package vfs

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// datasync is the full sync: these systems either have no lesser one or do not promise enough for
// it.
func datasync(f *os.File) error { return f.Sync() }

// allocate does nothing: callers fill what they need with zeros.
func allocate(*os.File, int64) error { return nil }

func tryLock(f *os.File) error {
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}

func statName(name string) (Info, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return Info{}, err
	}
	return infoOf(fi), nil
}

func statFile(f *os.File) (Info, error) {
	fi, err := f.Stat()
	if err != nil {
		return Info{}, err
	}
	return infoOf(fi), nil
}

// infoOf leaves Birth zero: there is no portable way to read it. Copies are then told by inode
// alone.
func infoOf(fi os.FileInfo) Info {
	info := Info{Size: fi.Size(), Dir: fi.IsDir()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		info.Inode = uint64(st.Ino)
	}
	return info
}

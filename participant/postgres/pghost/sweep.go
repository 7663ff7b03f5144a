package pghost

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const (
	// tempPrefix starts the names of the temporary directories that Stop removes.
	tempPrefix = "gavel-pg-"
	// lockName is a file in such a directory, locked as long as the process lives that made it.
	// The system lets go of the lock when that process ends, in whatever way.
	lockName = "lock"
)

// lockDir marks a directory as in use until the file is closed or this process ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return f, nil
}

// sweep removes the directories of processes that ended without Stop: a demonstration that was
// killed would otherwise leave forty megabytes each time. What it cannot remove stays; that is no
// reason not to start a server. A directory without a lock file is somebody's to keep, and one
// without data is just being made: its maker has yet to take the lock.
func sweep(parent string) {
	dirs, err := filepath.Glob(filepath.Join(parent, tempPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		_, err1 := os.Stat(filepath.Join(dir, lockName))
		_, err2 := os.Stat(filepath.Join(dir, "data"))
		if err1 != nil || err2 != nil {
			continue
		}
		lock, err := lockDir(dir)
		if err != nil {
			continue
		}
		if !serves(dir) {
			_ = os.RemoveAll(dir)
		}
		lock.Close()
	}
}

// serves says whether a postmaster still runs in a directory: one that has just lost its parent
// needs a moment to end. A number that has been given to another process only delays the removal.
func serves(dir string) bool {
	text, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		return false
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(first)
	return err == nil && syscall.Kill(pid, 0) == nil
}

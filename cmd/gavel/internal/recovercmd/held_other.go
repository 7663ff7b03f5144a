//go:build unix && !linux

package recovercmd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// held says whether a living process owns the log. These systems cannot ask for a lock without
// taking it, so that it is taken, shared, for an instant: a coordinator that starts in that instant
// is refused, and its supervisor starts it again.
func held(dir string) (bool, error) {
	f, err := os.Open(filepath.Join(dir, "LOCK"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("recover: look at the log's lock: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	closeErr := f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, closeErr
	}
	if err = errors.Join(err, closeErr); err != nil {
		return false, fmt.Errorf("recover: look at the log's lock: %w", err)
	}
	return false, nil
}

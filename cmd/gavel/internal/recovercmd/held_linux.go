package recovercmd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// held says whether a living process owns the log. It asks for the lock without taking it, not
// even for a moment: a coordinator that starts just then must not be refused because of a look.
func held(dir string) (bool, error) {
	f, err := os.Open(filepath.Join(dir, "LOCK"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("recover: look at the log's lock: %w", err)
	}
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l)
	if err = errors.Join(err, f.Close()); err != nil {
		return false, fmt.Errorf("recover: look at the log's lock: %w", err)
	}
	return l.Type != unix.F_UNLCK, nil
}

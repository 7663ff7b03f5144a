package boltjournal

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/participant/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestAFailedDiskEndsTheJournal: after a commit of unknown result nothing is answered any more, and
// the file opened again tells what became of it.
func TestAFailedDiskEndsTheJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	disk := errors.New("the disk is gone")
	j.run = func(f func(*bbolt.Tx) error) error { return errors.Join(j.db.Update(f), disk) }
	put := func(_ context.Context, tx service.Tx) error { return tx.Put([]byte("k"), []byte("v")) }
	err = j.Update(t.Context(), put)
	if !errors.Is(err, ErrFailed) || !errors.Is(err, disk) {
		t.Errorf("a commit of unknown result: %v, want ErrFailed", err)
	}
	j.run = j.db.Update
	look := j.View(t.Context(), func(service.Tx) error { return nil })
	err = j.Update(t.Context(), put)
	if !errors.Is(err, ErrFailed) || !errors.Is(look, ErrFailed) {
		t.Errorf("a later write: %v, a look: %v, want ErrFailed", err, look)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if j, err = Open(path); err != nil {
		t.Fatal(err)
	}
	err = j.View(t.Context(), func(tx service.Tx) error {
		v, err := tx.Get([]byte("k"))
		if string(v) != "v" {
			t.Errorf("the entry is %q", v)
		}
		return err
	})
	if err := errors.Join(err, j.Close()); err != nil {
		t.Fatal(err)
	}
}

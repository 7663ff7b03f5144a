package boltjournal_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"

	"go.etcd.io/bbolt"

	"github.com/gavel-tx/gavel/participant/service"
	"github.com/gavel-tx/gavel/participant/service/boltjournal"
)

func open(t *testing.T, path string) *boltjournal.Journal {
	t.Helper()
	j, err := boltjournal.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

func put(key, value string) func(context.Context, service.Tx) error {
	return func(_ context.Context, tx service.Tx) error {
		return tx.Put([]byte(key), []byte(value))
	}
}

func get(t *testing.T, j *boltjournal.Journal, key string) string {
	t.Helper()
	var value []byte
	err := j.View(t.Context(), func(tx service.Tx) error {
		v, err := tx.Get([]byte(key))
		value = append(value, v...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(value)
}

// TestUpdatesShareASyncAndNothingElse: many at once, of which some refuse. Those leave nothing, and
// take nothing of the others along.
func TestUpdatesShareASyncAndNothingElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := open(t, path)
	refusal := errors.New("refused")
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			key := fmt.Sprintf("k%02d", i)
			err := j.Update(context.Background(), func(ctx context.Context, tx service.Tx) error {
				if err := put(key, "v")(ctx, tx); err != nil || i%4 > 0 {
					return err
				}
				return refusal
			})
			if want := i%4 == 0; errors.Is(err, refusal) != want || (err != nil) != want {
				t.Errorf("%s: %v", key, err)
			}
		})
	}
	wg.Wait()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, path)
	for i := range 64 {
		want := "v"
		if i%4 == 0 {
			want = ""
		}
		if got := get(t, j, fmt.Sprintf("k%02d", i)); got != want {
			t.Errorf("entry %d is %q, want %q", i, got, want)
		}
	}
}

// TestAPanicAnswersTheWholeGroup: of two updates that wait together one panics. Whoever of them
// writes for both takes the panic, the other one is told; nothing of either remains, and the next
// one has its turn.
func TestAPanicAnswersTheWholeGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := open(t, filepath.Join(t.TempDir(), "journal"))
		first, goOn := make(chan struct{}), make(chan struct{})
		go func() {
			_ = j.Update(t.Context(), func(context.Context, service.Tx) error {
				close(first)
				<-goOn
				return nil
			})
		}()
		<-first
		ends := make(chan any, 2)
		update := func(f func(context.Context, service.Tx) error) {
			defer func() {
				if p := recover(); p != nil {
					ends <- p
				}
			}()
			ends <- j.Update(t.Context(), f)
		}
		go update(put("k", "v"))
		go update(func(context.Context, service.Tx) error { panic("halfway") })
		synctest.Wait()
		close(goOn)
		panicked, told := 0, 0
		for range 2 {
			switch end := (<-ends).(type) {
			case string:
				panicked++
			case error:
				told++
				t.Log(end)
			}
		}
		if panicked != 1 || told != 1 {
			t.Errorf("%d panicked, and %d were told of an error", panicked, told)
		}
		if err := j.Update(t.Context(), put("next", "v")); err != nil {
			t.Error(err)
		}
		if k, next := get(t, j, "k"), get(t, j, "next"); k != "" || next != "v" {
			t.Errorf("%q remains of the group, and %q is behind it", k, next)
		}
	})
}

// TestIn keeps entry and effect together in the service's own file.
func TestIn(t *testing.T) {
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "own.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	j, err := boltjournal.In(db)
	if err != nil {
		t.Fatal(err)
	}
	refusal := errors.New("refused")
	for _, want := range []error{refusal, nil} {
		err := j.Update(t.Context(), func(ctx context.Context, tx service.Tx) error {
			_, err := boltjournal.Tx(ctx).CreateBucket([]byte("mine"))
			return errors.Join(err, tx.Put([]byte("k"), []byte("v")), want)
		})
		if !errors.Is(err, want) {
			t.Fatalf("error %v, want %v", err, want)
		}
		err = db.View(func(tx *bbolt.Tx) error {
			effect, entry := tx.Bucket([]byte("mine")) != nil, get(t, j, "k") == "v"
			if effect != entry || effect != (want == nil) {
				t.Errorf("after %v: effect %v, entry %v", want, effect, entry)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if boltjournal.Tx(t.Context()) != nil || !j.Joins() {
		t.Error("a transaction outside of one, or a journal that does not join")
	}
	// The file stays its owner's.
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Update(t.Context(), put("k", "v")); err == nil {
		t.Error("written into a closed file")
	}
}

// TestAFileThatIsNotSyncedIsRefused: it could promise nothing.
func TestAFileThatIsNotSyncedIsRefused(t *testing.T) {
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "own.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	db.NoSync = true
	if _, err := boltjournal.In(db); err == nil {
		t.Error("accepted")
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestAnEndedContextBeginsNothing, neither a write nor a look.
func TestAnEndedContextBeginsNothing(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	look := j.View(ctx, func(service.Tx) error { return nil })
	if err := j.Update(ctx, put("k", "v")); !errors.Is(err, context.Canceled) ||
		!errors.Is(look, context.Canceled) {
		t.Errorf("an update: %v, a look: %v", err, look)
	}
	if got := get(t, j, "k"); got != "" {
		t.Errorf("written: %q", got)
	}
}

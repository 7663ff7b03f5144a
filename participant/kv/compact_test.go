package kv

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// dump is everything that a store holds, bucket by bucket.
func dump(t *testing.T, s *Store) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			all[string(name)] = fmt.Sprint(b.Sequence())
			return b.ForEach(func(k, v []byte) error {
				all[fmt.Sprintf("%s %x", name, k)] = fmt.Sprintf("%x", v)
				return nil
			})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// wellUsed closes a store that has something of everything, and much that was deleted. It returns
// what it holds, and the evidence of the branch 5, which is prepared.
func wellUsed(t *testing.T, cfg Config) (map[string]string, txn.Evidence) {
	t.Helper()
	cfg.MaxFinished = 3
	s := open(t, cfg)
	for i := range 4 {
		commitAll(t, s, name(txnSeq(i+1)), put(fmt.Sprint("kept", i), "v"))
	}
	e := prepared(t, s, name(5), put("in doubt", "v"))
	standing(t, s.Rollback, name(6), txn.Evidence{})
	for _, f := range []txn.Fence{fenceAt(7, 70), {Log: 4711, Epoch: 3, LSN: 30}} {
		if err := s.Hello(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	fillAndEmpty(t, s, 8)
	all := dump(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return all, e
}

// whole asserts that a store holds what it held, and keeps its promises.
func whole(t *testing.T, cfg Config, want map[string]string, e txn.Evidence) {
	t.Helper()
	cfg.MaxFinished = 3
	s := open(t, cfg)
	if diff := cmp.Diff(want, dump(t, s)); diff != "" {
		t.Errorf("the store holds something else:\n%s", diff)
	}
	if files, err := os.ReadDir(cfg.Dir); err != nil || len(files) != 1 {
		t.Errorf("files %v, %v", files, err)
	}
	ctx := t.Context()
	if err := s.Hello(ctx, fenceAt(6, 99)); !errors.Is(err, participant.ErrFenced) {
		t.Errorf("an older epoch: %v, want ErrFenced", err)
	}
	got, err := s.Commit(ctx, fenceAt(7, 71), branchOf(name(5), e))
	if err != nil || got[0].Standing != txn.StandingCommitted || value(t, s, "in doubt") != "v" {
		t.Errorf("the prepared branch: %+v, %v", got, err)
	}
	got, err = s.Inquire(ctx, fenceAt(7, 71), branchOf(name(1), txn.Evidence{}))
	if err != nil || got[0].Standing != txn.StandingGone {
		t.Errorf("below the horizon: %+v, %v", got, err)
	}
}

func TestCompact(t *testing.T) {
	cfg := Config{Dir: t.TempDir()}
	want, e := wellUsed(t, cfg)
	left := filepath.Join(cfg.Dir, compactName)
	if err := os.WriteFile(left, []byte("half of a copy"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(cfg.Dir, fileName), 0o640); err != nil {
		t.Fatal(err)
	}
	c, err := Compact(cfg.Dir, time.Second)
	if err != nil || c.After*8 > c.Before {
		t.Errorf("%+v, %v", c, err)
	}
	info, err := os.Stat(filepath.Join(cfg.Dir, fileName))
	if err != nil || info.Mode().Perm() != 0o640 || info.Size() != c.After {
		t.Errorf("%+v, %v", info, err)
	}
	whole(t, cfg, want, e)
}

// TestCompactFirstFormat: a file of the first format is still one afterwards.
func TestCompactFirstFormat(t *testing.T) {
	s := open(t, Config{})
	err := s.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("format"), []byte{firstFormat})
	})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Compact(s.cfg.Dir, time.Second); err != nil {
		t.Fatal(err)
	}
	d, err := open(t, s.cfg).Describe(t.Context())
	if err != nil || d.OnePhase || d.Identity != s.Identity() {
		t.Errorf("%+v, %v", d, err)
	}
}

// dieEnv names the step behind which TestCompactDies ends its process, and dirEnv its store.
const (
	dieEnv = "KV_COMPACT_DIES"
	dirEnv = "KV_COMPACT_DIR"
)

var steps = []string{"locked", "made", "copied", "compared", "renamed", "synced"}

// TestCompactDies is a compaction in a process of its own, which ends without warning; without the
// variables it goes through.
func TestCompactDies(t *testing.T) {
	dir := os.Getenv(dirEnv)
	if dir == "" {
		dir = t.TempDir()
		wellUsed(t, Config{Dir: dir})
	}
	var seen []string
	_, err := compact(dir, time.Second, func(step string) {
		seen = append(seen, step)
		if step == os.Getenv(dieEnv) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	})
	if diff := cmp.Diff(steps, seen); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
}

// TestCompactKilled: kill -9 behind each step leaves the old store or the new one.
func TestCompactKilled(t *testing.T) {
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			cfg := Config{Dir: t.TempDir()}
			want, e := wellUsed(t, cfg)
			before, err := os.Stat(filepath.Join(cfg.Dir, fileName))
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(os.Args[0], "-test.run=^TestCompactDies$")
			cmd.Env = append(os.Environ(), dieEnv+"="+step, dirEnv+"="+cfg.Dir)
			out, err := cmd.CombinedOutput()
			if err == nil || cmd.ProcessState.ExitCode() != -1 {
				t.Fatalf("it was not killed: %v\n%s", err, out)
			}
			after, err := os.Stat(filepath.Join(cfg.Dir, fileName))
			if err != nil {
				t.Fatal(err)
			}
			renamed := step == "renamed" || step == "synced"
			if os.SameFile(before, after) == renamed {
				t.Errorf("behind %q: is it the old file? %v", step, !renamed)
			}
			whole(t, cfg, want, e)
		})
	}
}

// TestOpenWhileCompacting: who waits for the lock while the file is replaced gets the new file, and
// not the old one, in which everything that is written is lost.
func TestOpenWhileCompacting(t *testing.T) {
	cfg := Config{Dir: t.TempDir()}
	want, e := wellUsed(t, cfg)
	path := filepath.Join(cfg.Dir, fileName)
	opened, got := make(chan struct{}, maxReopen), make(chan error, 1)
	_, err := compact(cfg.Dir, time.Second, func(step string) {
		if step != "compared" {
			return
		}
		go func() {
			db, err := openFile(path, time.Minute,
				func(name string, flag int, mode os.FileMode) (*os.File, error) {
					f, err := os.OpenFile(name, flag, mode)
					opened <- struct{}{}
					return f, err
				})
			if err == nil {
				err = errors.Join(db.Update(func(tx *bbolt.Tx) error {
					return tx.Bucket([]byte("data")).Put([]byte("late"), []byte("12345678v"))
				}), db.Close())
			}
			got <- err
		}()
		<-opened
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	want["data "+fmt.Sprintf("%x", "late")] = fmt.Sprintf("%x", "12345678v")
	whole(t, cfg, want, e)
}

// TestReplacedForEver: a name that never stays with its file is given up.
func TestReplacedForEver(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, fileName)
	rounds := 0
	_, err := openFile(path, time.Second,
		func(name string, flag int, mode os.FileMode) (*os.File, error) {
			rounds++
			f, err := os.OpenFile(name, flag, mode)
			return f, errors.Join(err, os.WriteFile(path+".new", nil, 0o600),
				os.Rename(path+".new", path))
		})
	if err == nil || rounds != maxReopen {
		t.Errorf("%d rounds, %v", rounds, err)
	}
}

// TestCompactRefuses, and leaves what is there as it is.
func TestCompactRefuses(t *testing.T) {
	s := open(t, Config{})
	if _, err := Compact(s.cfg.Dir, time.Millisecond); !errors.Is(err, bbolterrors.ErrTimeout) {
		t.Errorf("a store in use: %v", err)
	}
	empty := t.TempDir()
	if _, err := Compact(empty, time.Second); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no store: %v", err)
	}
	if files, err := os.ReadDir(empty); err != nil || len(files) != 0 {
		t.Errorf("a compaction of nothing made %v, %v", files, err)
	}
	for what, change := range map[string]func(*bbolt.Tx) error{
		"another format": func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("meta")).Put([]byte("format"), []byte{9})
		},
		"no identity": func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("meta")).Delete([]byte("system"))
		},
		"no store": func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("meta")) },
	} {
		s := open(t, Config{})
		if err := errors.Join(s.db.Update(change), s.Close()); err != nil {
			t.Fatal(err)
		}
		before, err := os.ReadFile(filepath.Join(s.cfg.Dir, fileName))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Compact(s.cfg.Dir, time.Second); err == nil {
			t.Errorf("%s: compacted", what)
		}
		after, err := os.ReadFile(filepath.Join(s.cfg.Dir, fileName))
		if err != nil || !bytes.Equal(before, after) {
			t.Errorf("%s: the file was changed, %v", what, err)
		}
	}
}

// TestCompactCompares: a copy that lacks something, or has something else, is noticed.
func TestCompactCompares(t *testing.T) {
	cfg := Config{Dir: t.TempDir()}
	wellUsed(t, cfg)
	a, b := open(t, cfg), open(t, Config{})
	if err := b.db.Update(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, _ *bbolt.Bucket) error { return tx.DeleteBucket(name) })
	}); err != nil {
		t.Fatal(err)
	}
	if err := bbolt.Compact(b.db, a.db, 0); err != nil {
		t.Fatal(err)
	}
	if err := same(a.db, b.db); err != nil {
		t.Fatalf("the copy: %v", err)
	}
	for what, change := range map[string]func(*bbolt.Tx) error{
		"an entry less": func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("data")).Delete([]byte("kept3"))
		},
		"an entry more": func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("data")).Put([]byte("zzz"), []byte("12345678"))
		},
		"another value": func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("data")).Put([]byte("kept3"), []byte("12345678"))
		},
		"another position": func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("meta")).SetSequence(1)
		},
		"a bucket less": func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("fences")) },
		"a bucket more": func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket([]byte("more"))
			return err
		},
	} {
		if err := b.db.Update(change); err != nil {
			t.Fatal(err)
		}
		if err := same(a.db, b.db); !errors.Is(err, errDiffers) {
			t.Errorf("%s: %v", what, err)
		}
		err := b.db.Update(func(tx *bbolt.Tx) error {
			return tx.ForEach(func(name []byte, _ *bbolt.Bucket) error {
				return tx.DeleteBucket(name)
			})
		})
		if err = errors.Join(err, bbolt.Compact(b.db, a.db, 0)); err != nil {
			t.Fatal(err)
		}
	}
}

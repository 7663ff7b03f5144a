package vfs

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"testing"
)

// liar is m with a hook that lies about every call of one kind while lying is set.
func liar(m *Mem, lying *bool, op Op) FS {
	return Hooked(m, func(c Call) error {
		if *lying && c.Op == op {
			return ErrLost
		}
		return nil
	})
}

// TestLostWrites say that they were made, and the file is as it was.
func TestLostWrites(t *testing.T) {
	m, lying := NewMem(), false
	f := create(t, liar(m, &lying, OpWrite), "/f", "old!")
	lying = true
	if n, err := f.WriteAt([]byte("new"), 0); n != 3 || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
	check(t, errors.Join(f.Sync(), m.SyncDir("/"), f.Close()))
	got, seen := content(t, m, "/f"), outcomes(t, m, "/f")
	if got != "old!" || seen["old!"] != 300 {
		t.Errorf("seen %q, after a power cut %v", got, seen)
	}
}

// TestLostSyncs say that all is durable; what they should have written is seen until the power
// fails, and no later sync makes up for it.
func TestLostSyncs(t *testing.T) {
	for _, op := range []Op{OpSync, OpDatasync} {
		m, lying := NewMem(), false
		f := create(t, liar(m, &lying, op), "/f", "old")
		check(t, errors.Join(f.Sync(), f.Datasync(), m.SyncDir("/")))
		if _, err := f.WriteAt([]byte("new"), 0); err != nil {
			t.Fatal(err)
		}
		lying = true
		sync := f.Sync
		if op == OpDatasync {
			sync = f.Datasync
		}
		check(t, sync())
		lying = false
		check(t, errors.Join(sync(), f.Close()))
		if got, seen := content(t, m, "/f"), outcomes(t, m, "/f"); got != "new" ||
			seen["old"] != 300 {
			t.Errorf("%v: seen %q, after a power cut %v", op, got, seen)
		}
	}
	m, lying := NewMem(), true
	names := liar(m, &lying, OpSyncDir)
	check(t, create(t, names, "/f", "x").Close())
	check(t, names.SyncDir("/"))
	if seen := outcomes(t, m, "/f"); seen["-"] == 0 {
		t.Error("a directory sync that was lost has made a name durable")
	}
}

// TestLostElsewhere: only writes and syncs lie; of other calls it is an error as any other.
func TestLostElsewhere(t *testing.T) {
	m, lying := NewMem(), true
	if _, err := liar(m, &lying, OpCreate).Open("/f", Create); !errors.Is(err, ErrLost) {
		t.Errorf("create: %v", err)
	}
	if _, err := m.Stat("/f"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("made all the same: %v", err)
	}
}

// TestSum sees names, contents, and what is on disk of both, and nothing else.
func TestSum(t *testing.T) {
	m := NewMem()
	last := m.Sum()
	changed := func(what string, change func() error) {
		t.Helper()
		check(t, change())
		if now := m.Sum(); now == last {
			t.Errorf("%s: the sum has not changed", what)
		} else {
			last = now
		}
		if m.KillClone().Sum() != last {
			t.Errorf("%s: the clone has another sum", what)
		}
	}
	var f File
	changed("create", func() error { f = create(t, m, "/f", "content"); return nil })
	changed("sync the content", func() error { return f.Sync() })
	changed("sync the name", func() error { return m.SyncDir("/") })
	changed("write", func() error { _, err := f.WriteAt([]byte("x"), 0); return err })
	changed("mkdir", func() error { return m.Mkdir("/d") })
	changed("rename", func() error { return m.Rename("/f", "/d/f") })
	changed("remove", func() error { return m.Remove("/d/f") })
	check(t, errors.Join(f.Close(), m.Mkdir("/e")))
	a, b := m.CrashClone(rand.New(rand.NewPCG(1, 1))), m.CrashClone(rand.New(rand.NewPCG(1, 1)))
	if a.Sum() != b.Sum() {
		t.Error("one seed, two sums")
	}
}

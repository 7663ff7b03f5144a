package kv

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gavel-tx/gavel/participant"
)

func TestIdentityIsDrawnOnce(t *testing.T) {
	s := open(t, Config{})
	if s.Identity().IsZero() {
		t.Error("a store without identity")
	}
	if again := crash(t, s); again.Identity() != s.Identity() {
		t.Errorf("%v became %v", s.Identity(), again.Identity())
	}
	if other := open(t, Config{}); other.Identity() == s.Identity() {
		t.Error("two stores have one identity")
	}
}

// TestOneProcess: two stores over one file would each believe their own memory.
func TestOneProcess(t *testing.T) {
	s := open(t, Config{})
	if second, err := Open(Config{Dir: s.cfg.Dir, LockWait: time.Millisecond}); err == nil {
		second.Close()
		t.Error("the file was opened twice")
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, change := range map[string]func(*bbolt.Bucket) error{
		"another format": func(b *bbolt.Bucket) error { return b.Put([]byte("format"), []byte{3}) },
		"no identity":    func(b *bbolt.Bucket) error { return b.Delete([]byte("system")) },
	} {
		s := open(t, Config{})
		err := s.db.Update(func(tx *bbolt.Tx) error { return change(tx.Bucket([]byte("meta"))) })
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if again, err := Open(s.cfg); err == nil {
			again.Close()
			t.Errorf("%s: opened", name)
		}
	}
	if _, err := Open(Config{Dir: "/dev/null/kv"}); err == nil {
		t.Error("opened below a file")
	}
}

func TestValidate(t *testing.T) {
	err := Config{MaxPrepared: -1, IdleAfter: -1}.Validate()
	for _, word := range []string{"Dir", "MaxPrepared", "IdleAfter"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v does not name %s", err, word)
		}
	}
	if _, err := Open(Config{}); err == nil {
		t.Error("opened without a directory")
	}
}

func TestMissingDirectoriesAreMade(t *testing.T) {
	s := open(t, Config{Dir: filepath.Join(t.TempDir(), "a", "b")})
	commitAll(t, s, name(1), put("k", "v"))
}

func TestClosed(t *testing.T) {
	s := open(t, Config{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	_, get := s.Get(ctx, nil)
	_, app := s.Apply(ctx, name(1), 1, []Op{put("k", "v")})
	_, prep := s.Prepare(ctx, first, nil)
	_, list := s.List(ctx, first)
	_, desc := s.Describe(ctx)
	for i, err := range []error{get, app, prep, list, desc, s.Hello(ctx, first)} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%d: %v", i, err)
		}
	}
}

func TestEndedContext(t *testing.T) {
	s := open(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Get(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v", err)
	}
	if _, err := s.Describe(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("describe: %v", err)
	}
}

func TestDescribe(t *testing.T) {
	s := open(t, Config{MaxPrepared: 5})
	for i := range 5 {
		d, err := s.Describe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := participant.LevelOK
		if i >= 4 {
			want = participant.LevelWarn
		}
		if d.Kind != "kv" || !d.Evidence || !d.OnePhase || d.Limit != 5 || d.Used != i ||
			d.Identity != s.Identity() || d.Position.LSN != uint64(i) || d.Checks[0].Level != want {
			t.Errorf("%d prepared: %+v", i, d)
		}
		prepared(t, s, name(1+txnSeq(i)), put(string(rune('a'+i)), "v"))
	}
}

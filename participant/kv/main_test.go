package kv

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testLog txn.LogID = 0x123456789abcdef

// clock is moved by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Unix(1_800_000_000, 0)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// open opens a store that the test closes.
func open(t *testing.T, cfg Config) *Store {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// crash opens what a power cut at this moment would leave of the store: its file, without its
// memory. bbolt has synced every page of a finished change, so the file as it stands is what the
// disk has.
func crash(t *testing.T, s *Store) *Store {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(s.cfg.Dir, "kv.db"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.cfg
	cfg.Dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(cfg.Dir, "kv.db"), body, 0o600); err != nil {
		t.Fatal(err)
	}
	return open(t, cfg)
}

func name(seq txn.Seq) txn.Name { return txn.NameOf(txn.NewID(testLog, seq), 1) }

func fenceAt(epoch txn.Epoch, lsn uint64) txn.Fence {
	return txn.Fence{Log: testLog, Epoch: epoch, LSN: lsn}
}

var first = fenceAt(1, 1)

func put(key, value string) Op { return Op{Kind: OpPut, Key: []byte(key), Value: []byte(value)} }

func read(key string) Op { return Op{Kind: OpRead, Key: []byte(key)} }

func del(key string) Op { return Op{Kind: OpDelete, Key: []byte(key)} }

func add(key string, delta int64) Op { return Op{Kind: OpAdd, Key: []byte(key), Delta: delta} }

// apply runs one call that must succeed.
func apply(t *testing.T, s *Store, n txn.Name, sequence uint64, ops ...Op) []Entry {
	t.Helper()
	entries, err := s.Apply(t.Context(), n, sequence, ops)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func branchOf(n txn.Name, e txn.Evidence) []participant.Branch {
	return []participant.Branch{{Name: n, Evidence: e}}
}

func prepare(t *testing.T, s *Store, n txn.Name) participant.Vote {
	t.Helper()
	votes, err := s.Prepare(t.Context(), first, branchOf(n, txn.Evidence{}))
	if err != nil {
		t.Fatal(err)
	}
	return votes[0]
}

// prepared prepares a branch that must vote yes.
func prepared(t *testing.T, s *Store, n txn.Name, ops ...Op) txn.Evidence {
	t.Helper()
	apply(t, s, n, 1, ops...)
	v := prepare(t, s, n)
	if v.Vote != txn.VoteYes || v.Evidence.XID == 0 {
		t.Fatalf("branch %s voted %+v", n, v)
	}
	return v.Evidence
}

// The three calls about a branch's end, by name.
type finisher func(context.Context, txn.Fence, []participant.Branch) ([]participant.Finding, error)

func standing(t *testing.T, call finisher, n txn.Name, e txn.Evidence) txn.Standing {
	t.Helper()
	findings, err := call(t.Context(), first, branchOf(n, e))
	if err != nil {
		t.Fatal(err)
	}
	return findings[0].Standing
}

// commitAll runs a whole transaction that must succeed.
func commitAll(t *testing.T, s *Store, n txn.Name, ops ...Op) {
	t.Helper()
	e := prepared(t, s, n, ops...)
	if got := standing(t, s.Commit, n, e); got != txn.StandingCommitted {
		t.Fatalf("commit of %s: %v", n, got)
	}
}

// value is a committed value, or "-".
func value(t *testing.T, s *Store, key string) string {
	t.Helper()
	entries, err := s.Get(t.Context(), [][]byte{[]byte(key)})
	if err != nil {
		t.Fatal(err)
	}
	if !entries[0].Found {
		return "-"
	}
	return string(entries[0].Value)
}

func number(t *testing.T, s *Store, key string) int {
	t.Helper()
	n, err := strconv.Atoi(value(t, s, key))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

package kv

import (
	"errors"
	"testing"
	"time"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/internal/conformance"
	"github.com/gavel-tx/gavel/participant/participanttest"
	"github.com/gavel-tx/gavel/txn"
)

// bench is the resource of the suite: one directory, and the clock of whatever store is open on it.
type bench struct {
	cfg   Config
	clock *clock
}

func (b *bench) open(*testing.T) (participant.Resource, error) {
	s, err := Open(b.cfg)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// crash leaves the directory to the store that has it open, and goes on with a copy, as after a
// power cut.
func (b *bench) crash(t *testing.T, r participant.Resource) participant.Resource {
	t.Helper()
	s := crash(t, r.(*Store))
	b.cfg.Dir = s.cfg.Dir
	return s
}

func (b *bench) begin(
	t *testing.T, r participant.Resource, f txn.Fence, n txn.Name, key string,
) participanttest.Work {
	t.Helper()
	w := &work{bench: b, store: r.(*Store), fence: f, name: n}
	// The coordinator is heard of before its clients: what begins under an older epoch is dropped.
	if err := w.store.Hello(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	apply(t, w.store, n, 1, put(key, "there"))
	return w
}

// work is a branch whose application is the test.
type work struct {
	bench *bench
	store *Store
	fence txn.Fence
	name  txn.Name
}

func (w *work) Prepare(t *testing.T) participant.Vote {
	t.Helper()
	votes, err := w.store.Prepare(t.Context(), w.fence, branchOf(w.name, txn.Evidence{}))
	if err != nil {
		t.Fatal(err)
	}
	return votes[0]
}

func (w *work) Fail(t *testing.T) {
	t.Helper()
	_, err := w.store.Apply(t.Context(), w.name, 2, []Op{put("text", "abc"), add("text", 1)})
	if !errors.Is(err, ErrNotNumber) {
		t.Fatalf("the failing step: %v", err)
	}
}

// Abandon lets the application fall silent until the store gives its work up, as it does when it
// needs room for another.
func (w *work) Abandon(t *testing.T) {
	t.Helper()
	w.bench.clock.advance(w.bench.cfg.IdleAfter + time.Second)
	w.store.branches.mu.Lock()
	defer w.store.branches.mu.Unlock()
	w.store.branches.expire()
}

func TestConformance(t *testing.T) {
	c := newClock()
	b := &bench{clock: c, cfg: Config{
		Dir: t.TempDir(), Now: c.Now, IdleAfter: time.Minute, LockWait: time.Millisecond,
	}}
	conformance.Keep(t, "kv", participanttest.Run(t, participanttest.Harness{
		Open:  b.open,
		Begin: b.begin,
		Effect: func(t *testing.T, r participant.Resource, key string) bool {
			return value(t, r.(*Store), key) == "there"
		},
		Resolve: resolve,
		Crash:   b.crash,
		Traits: participanttest.Traits{Proof: participanttest.ProofMemory, OnePhase: true,
			Undecided: true},
	}))
}

// resolve finishes a branch on nobody's behalf, without any fence.
func resolve(t *testing.T, r participant.Resource, n txn.Name, commit bool) {
	t.Helper()
	s := r.(*Store)
	finish := s.rollback
	if commit {
		finish = s.commit
	}
	err := s.writer.do(t.Context(), change{apply: func(v view) error {
		_, err := finish(v, participant.Branch{Name: n})
		return err
	}})
	if err != nil {
		t.Fatal(err)
	}
}

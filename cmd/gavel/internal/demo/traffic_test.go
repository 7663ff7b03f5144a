package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/txn"
)

// fakeBanks answer by a script: the n-th attempt of all gets script(n).
type fakeBanks struct {
	banks
	mu     sync.Mutex
	n      int
	script func(n int) (answer, error)
	moved  []transfer
	// looks are what is prepared, one map for each look; the last one stays.
	looks []map[txn.Name]bool
}

func (b *fakeBanks) move(
	_ context.Context, _ decider, t transfer,
) (answer, txn.ID, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n++
	b.moved = append(b.moved, t)
	a, err := b.script(b.n)
	return a, txn.NewID(7, txn.Seq(b.n)), err
}

func (b *fakeBanks) prepared(
	context.Context, txn.Fence,
) ([2]map[txn.Name]bool, error) {
	now := b.looks[0]
	if len(b.looks) > 1 {
		b.looks = b.looks[1:]
	}
	return [2]map[txn.Name]bool{now, {}}, nil
}

// fakeDecider knows how transactions ended, when it is asked the second time.
type fakeDecider struct {
	decider
	asked   atomic.Int64
	outcome txn.Outcome
}

func (d *fakeDecider) Outcome(_ context.Context, id txn.ID) (txn.Result, error) {
	if d.asked.Add(1) == 1 {
		return txn.Result{}, txn.ErrUnknown
	}
	return txn.Result{ID: id, Outcome: d.outcome}, nil
}

func nothing(int) {}

// TestTrafficEndsWhenItIsEnough: every client ends what it began, and every answer is kept.
func TestTrafficEndsWhenItIsEnough(t *testing.T) {
	b := &fakeBanks{script: func(n int) (answer, error) {
		if n%3 == 0 {
			return rolledBack, nil
		}
		return committed, nil
	}}
	tr := newTraffic(b, nil)
	tr.start(t.Context(), 4, 1)
	var seen atomic.Int64
	answers, err := tr.finish(t.Context(), 40, func(n int) { seen.Store(int64(n)) })
	if err != nil {
		t.Fatal(err)
	}
	n := tally(answers)
	if n.committed < 40 || n.rolledBack == 0 || len(answers) != b.n || seen.Load() < 40 {
		t.Errorf("%+v of %d attempts, and %d were seen", n, b.n, seen.Load())
	}
	keys := map[string]bool{}
	for _, m := range b.moved {
		if keys[m.key] {
			t.Errorf("%s was tried twice", m.key)
		}
		keys[m.key] = true
	}
}

// TestTrafficAsksUntilItKnows: "unknown" is an answer for the moment only.
func TestTrafficAsksUntilItKnows(t *testing.T) {
	for outcome, want := range map[txn.Outcome]answer{txn.OutcomeCommitted: committed,
		txn.OutcomeRolledBack: rolledBack} {
		b := &fakeBanks{script: func(int) (answer, error) { return unknown, nil }}
		d := &fakeDecider{outcome: outcome}
		tr := newTraffic(b, d)
		h, err := tr.attempt(t.Context(), transfer{key: "t1"})
		if err != nil || h != (heard{key: "t1", answer: want, doubted: true}) ||
			d.asked.Load() < 2 {
			t.Errorf("%s: %+v, %v after %d questions", outcome, h, err, d.asked.Load())
		}
	}
	tr := newTraffic(&fakeBanks{script: func(int) (answer, error) { return unknown, nil }},
		&fakeDecider{outcome: txn.OutcomeHeuristicMixed})
	if _, err := tr.attempt(t.Context(), transfer{key: "t1"}); err == nil {
		t.Error("a heuristic outcome is taken for an answer")
	}
}

// TestTrafficStopsAtAFault: what no client should ever see ends the demo, at once and by name.
func TestTrafficStopsAtAFault(t *testing.T) {
	bad := errors.New("a third kind of answer")
	b := &fakeBanks{script: func(n int) (answer, error) {
		if n == 5 {
			return unknown, bad
		}
		return committed, nil
	}}
	tr := newTraffic(b, nil)
	tr.start(t.Context(), 2, 1)
	if _, err := tr.finish(t.Context(), endless-1, nothing); !errors.Is(err, bad) {
		t.Error(err)
	}
	if err := tr.await(t.Context(), endless-1, nothing); !errors.Is(err, bad) {
		t.Error(err)
	}
}

// TestTrafficEndsWithItsContext, without calling that a fault.
func TestTrafficEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	b := &fakeBanks{script: func(n int) (answer, error) {
		if n == 10 {
			cancel()
		}
		return rolledBack, ctx.Err()
	}}
	tr := newTraffic(b, nil)
	tr.start(ctx, 3, 1)
	if _, err := tr.finish(ctx, 1, nothing); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if tr.mu.err != nil {
		t.Error(tr.mu.err)
	}
}

// newStory is one without a coordinator, into a buffer.
func newStory(t *testing.T) (*story, *strings.Builder) {
	t.Helper()
	var out strings.Builder
	io := ui.IO{Out: &out, Err: &out, Getenv: os.Getenv, Now: time.Now}
	s := &story{io: io, o: options{transfers: 1, clients: 1, seed: 1}, dir: t.TempDir(),
		start: time.Now()}
	s.coordinator = &child{args: []string{"coordinator"}, ended: make(chan struct{})}
	return s, &out
}

// TestPoll looks until it is as expected, and gives up with its context.
func TestPoll(t *testing.T) {
	s, _ := newStory(t)
	name := txn.NameOf(txn.NewID(7, 8), 1)
	b := &fakeBanks{looks: []map[txn.Name]bool{{name: true}, {name: true}, {}}}
	looks := 0
	empty := func(now [2]map[txn.Name]bool) (bool, error) {
		looks++
		return len(now[0]) == 0, nil
	}
	if err := s.poll(t.Context(), b, txn.Fence{}, empty); err != nil || looks != 3 {
		t.Errorf("%d looks, %v", looks, err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, errTooLong)
	defer cancel()
	b.looks = []map[txn.Name]bool{{name: true}}
	if err := s.poll(ctx, b, txn.Fence{}, empty); !errors.Is(err, errTooLong) {
		t.Error(err)
	}
	bad := errors.New("no answer")
	failing := func([2]map[txn.Name]bool) (bool, error) { return false, bad }
	err := s.poll(t.Context(), b, txn.Fence{}, failing)
	if !errors.Is(err, bad) {
		t.Error(err)
	}
}

// TestFailed: a demo that proves nothing says so, and how to see it again.
func TestFailed(t *testing.T) {
	s, _ := newStory(t)
	err := s.failed(t.Context(), errors.New("money is lost"))
	if !strings.Contains(err.Error(), "money is lost") ||
		!strings.Contains(err.Error(), "--seed 1") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errTooLong)
	if err := s.failed(ctx, errors.New("x")); !errors.Is(err, errTooLong) {
		t.Error(err)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if err := s.failed(stopped, errors.New("x")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestShow tells both halves of a crash.
func TestShow(t *testing.T) {
	s, out := newStory(t)
	id := txn.NewID(7, 8)
	w := witness{id: id, key: "transfer-1", kills: 3, decisions: 2, inside: [2]bool{false, true},
		names:    [2]txn.Name{txn.NameOf(id, 1), txn.NameOf(id, 2)},
		prepared: [2]map[txn.Name]bool{{}, {txn.NameOf(id, 2): true}}}
	s.show(w)
	for _, want := range []string{"1  Kill 3.", id.String(), "bank_a       committed already",
		"bank_b       PREPARED as " + txn.NameOf(id, 2).String(), "2 decisions", "1 branches"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in %s", want, out)
		}
	}
}

// script makes an executable that stands in for a process.
func script(t *testing.T, body string) *child {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gavel")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body), 0o700); err != nil {
		t.Fatal(err)
	}
	return &child{binary: path, args: []string{"coordinator"}, env: []string{"SECRET=s3"},
		journal: filepath.Join(t.TempDir(), "journal")}
}

const banner = `echo '  gRPC      127.0.0.1:71  (plaintext)'
echo '  HTTP      http://127.0.0.1:72'
`

const forever = "while :; do sleep 0.01; done\n"

// TestChild: it reads the addresses, keeps them for the next start, and passes secrets by the
// environment.
func TestChild(t *testing.T) {
	c := script(t, "echo \"$SECRET $*\" >&2\n"+banner+"exec sleep 60\n")
	for i, flags := range []string{"--grpc 127.0.0.1:0 --http 127.0.0.1:0",
		"--grpc 127.0.0.1:71 --http 127.0.0.1:72"} {
		if err := c.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if c.grpc != "127.0.0.1:71" || c.http != "127.0.0.1:72" {
			t.Errorf("start %d: %s, %s", i, c.grpc, c.http)
		}
		c.kill()
		if got := c.tail(); !strings.HasSuffix(got, fmt.Sprintf("s3 coordinator %s", flags)) {
			t.Errorf("start %d: %s", i, got)
		}
	}
}

// TestChildEnds: in order, in disorder, and before it was ready.
func TestChildEnds(t *testing.T) {
	c := script(t, "trap 'exit 0' TERM\n"+banner+forever)
	if err := c.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.stop(t.Context()); err != nil {
		t.Error(err)
	}
	c = script(t, "trap 'echo it broke >&2; exit 70' TERM\n"+banner+forever)
	if err := c.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.stop(t.Context()); err == nil || !strings.Contains(err.Error(), "code 70") ||
		!strings.Contains(err.Error(), "it broke") {
		t.Error(err)
	}
	c = script(t, banner+"echo too bad >&2\nexit 4\n")
	if err := c.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.ready(t.Context()); err == nil || !strings.Contains(err.Error(), "too bad") {
		t.Error(err)
	}
}

// TestChildWithoutAddresses: one that hangs before it serves ends with the context.
func TestChildWithoutAddresses(t *testing.T) {
	c := script(t, "exec sleep 60\n")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.start(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	c.kill()
}

// Package servicetest holds a service of one's own, with its journal, to what participanttest wants
// of every resource manager.
//
//	func TestService(t *testing.T) {
//		servicetest.Run(t, func(dir string) (*servicetest.Instance, error) { … })
//	}
//
// A crash is made by opening the service again on a copy of its directory, taken at that moment,
// while the old one still runs; a service with a database elsewhere brings its own crash. Besides,
// each call is cut off at each place where anybody looks at its context, and repeated, by the same
// process and by the next one: what the service and its journal have done by then must fit.
package servicetest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/participanttest"
	"github.com/gavel-tx/gavel/participant/service"
	"github.com/gavel-tx/gavel/txn"
)

// Instance is the service under test, opened over one store. All but Close must be set.
type Instance struct {
	Resource *service.Resource
	// Work does something within the branch, by the service's own API, that Effect finds under key
	// once the branch is committed. Keys do not conflict with each other.
	Work func(ctx context.Context, branch txn.Name, call uint64, key string) error
	// Effect says whether the effect under key is there, as anybody outside of branches sees it.
	Effect func(ctx context.Context, key string) (bool, error)
	// Close, if not nil, closes what the service has open, after the Resource was closed.
	Close func() error
}

// Opener opens the service over the store in dir, and makes one there if dir is empty. It must fail
// while another process has the store open, after a second or so.
type Opener func(dir string) (*Instance, error)

// Run runs the suite on a fresh store and returns what it found.
func Run(t *testing.T, open Opener) *participanttest.Report {
	t.Helper()
	root := t.TempDir()
	s := &site{open: open, dir: filepath.Join(root, "0")}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	crashes := 0
	s.crash = func(t *testing.T, _ *Instance) {
		t.Helper()
		crashes++
		next := filepath.Join(root, strconv.Itoa(crashes))
		// The store is idle, so that the files as they are have what the disk would.
		if err := os.CopyFS(next, os.DirFS(s.dir)); err != nil {
			t.Fatalf("copy the store: %v", err)
		}
		s.dir = next
	}
	return s.run(t)
}

// RunCrashing is Run for a service whose store is not, or not only, in a directory: crash has to
// end the instance without any warning, and with it its hold on the store. The next call of open
// must find what was durable. The suite does not use the instance again, nor close it.
func RunCrashing(
	t *testing.T, open Opener, crash func(t *testing.T, i *Instance),
) *participanttest.Report {
	t.Helper()
	return (&site{open: open, dir: t.TempDir(), crash: crash, ends: true}).run(t)
}

func (s *site) run(t *testing.T) *participanttest.Report {
	t.Helper()
	report := participanttest.Run(t, participanttest.Harness{
		Open:    s.opened,
		Begin:   s.begin,
		Effect:  effect,
		Resolve: s.resolve,
		Crash:   s.crashed,
		Traits:  participanttest.Traits{Proof: participanttest.ProofMemory, Undecided: true},
	})
	s.runCuts(t, report)
	return report
}

// site is the store of the suite and how to get at it.
type site struct {
	open  Opener
	crash func(*testing.T, *Instance)
	// ends says that a crash leaves nothing to close.
	ends bool
	dir  string
	// last is the newest fence of the suite's log, and epoch the newest epoch of cutLog.
	last  txn.Fence
	epoch txn.Epoch
}

// resource presents an instance to the suite as one resource.
type resource struct {
	*service.Resource
	instance *Instance

	mu     sync.Mutex
	closed bool
}

// Close closes the instance, once.
func (r *resource) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	err := r.Resource.Close()
	if r.instance.Close != nil {
		err = errors.Join(err, r.instance.Close())
	}
	return err
}

// forget leaves the instance to its crash.
func (r *resource) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
}

func (r *resource) over() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

func (s *site) opened(*testing.T) (participant.Resource, error) {
	i, err := s.open(s.dir)
	if err != nil {
		return nil, err
	}
	return &resource{Resource: i.Resource, instance: i}, nil
}

func (s *site) crashed(t *testing.T, r participant.Resource) participant.Resource {
	t.Helper()
	s.crash(t, r.(*resource).instance)
	if s.ends {
		r.(*resource).forget()
	}
	next, err := s.opened(t)
	if err != nil {
		t.Fatalf("open after the crash: %v", err)
	}
	t.Cleanup(func() {
		if err := next.(*resource).Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return next
}

func effect(t *testing.T, r participant.Resource, key string) bool {
	t.Helper()
	there, err := r.(*resource).instance.Effect(t.Context(), key)
	if err != nil {
		t.Fatalf("look for the effect: %v", err)
	}
	return there
}

// resolve finishes a branch as an operator would who knows only the service.
func (s *site) resolve(t *testing.T, r participant.Resource, n txn.Name, commit bool) {
	t.Helper()
	finish := r.Rollback
	if commit {
		finish = r.Commit
	}
	if _, err := finish(t.Context(), s.last, []participant.Branch{{Name: n}}); err != nil {
		t.Fatalf("resolve: %v", err)
	}
}

func (s *site) begin(
	t *testing.T, r participant.Resource, f txn.Fence, n txn.Name, key string,
) participanttest.Work {
	t.Helper()
	w := &work{resource: r.(*resource), fence: f, name: n}
	s.last = f
	// The coordinator is heard of before its clients: what begins under an older epoch is dropped.
	if err := w.resource.Hello(t.Context(), f); err != nil {
		t.Fatalf("hello: %v", err)
	}
	if err := w.resource.instance.Work(t.Context(), n, 1, key); err != nil {
		t.Fatalf("work: %v", err)
	}
	return w
}

// work is a branch whose application is the suite.
type work struct {
	resource *resource
	fence    txn.Fence
	name     txn.Name
}

func (w *work) Prepare(t *testing.T) participant.Vote {
	t.Helper()
	votes, err := w.resource.Prepare(t.Context(), w.fence, []participant.Branch{{Name: w.name}})
	if err != nil {
		t.Fatalf("prepare: %v", err)
	}
	return votes[0]
}

var errStep = errors.New("servicetest: a step fails")

func (w *work) Fail(t *testing.T) {
	t.Helper()
	err := w.resource.Work(t.Context(), w.name, 2, func(context.Context) error { return errStep })
	if !errors.Is(err, errStep) {
		t.Fatalf("the failing step: %v", err)
	}
}

func (w *work) Abandon(t *testing.T) {
	t.Helper()
	if w.resource.over() {
		return // the crash was the end of it
	}
	if err := w.resource.Abandon(t.Context(), w.name); err != nil {
		t.Fatalf("abandon: %v", err)
	}
}

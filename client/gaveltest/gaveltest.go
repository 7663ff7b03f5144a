package gaveltest

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/kvtx"
	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/kv"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

const (
	logDir = "log"
	// patience bounds every wait of this package.
	patience = 10 * time.Second
	// pause is between two looks.
	pause = 2 * time.Millisecond
	// sweep and grace are those of the coordinator, shorter than in production.
	sweep = 50 * time.Millisecond
	grace = 100 * time.Millisecond
	// segmentSize keeps a log small: each test writes one.
	segmentSize = 128 << 10
)

// Resource is one that the transactions of a test may name.
type Resource struct {
	name    string
	manager participant.Resource
}

// KV is a key-value store of the test's own: see [Gavel.Store].
func KV(name string) Resource { return Resource{name: name} }

// Of is any other resource. It stays the caller's.
func Of(name string, manager participant.Resource) Resource { return Resource{name, manager} }

// Gavel is a coordinator in the test's process. It is a client.Decider and safe for concurrent use,
// but for Restart, which nothing but transactions may run beside.
type Gavel struct {
	t         testing.TB
	faults    faults
	resources []coordinator.Resource
	stores    map[string]*kv.Store

	mu struct {
		sync.Mutex
		disk *vfs.Mem
		c    *coordinator.Coordinator
		// branches are those of the transactions that have not been committed yet.
		branches map[txn.ID][]txn.Enlisted
	}
}

var (
	_ client.Decider    = (*Gavel)(nil)
	_ client.Rollbacker = (*Gavel)(nil)
)

// New starts a coordinator with these resources, which ends with the test. A failure to start
// fails the test.
func New(t testing.TB, resources ...Resource) *Gavel {
	t.Helper()
	g := &Gavel{t: t, stores: map[string]*kv.Store{}}
	g.mu.branches = map[txn.ID][]txn.Enlisted{}
	for _, r := range resources {
		if r.manager == nil {
			r.manager = g.newStore(r.name)
		}
		g.resources = append(g.resources, coordinator.Resource{
			Name: r.name, Manager: &faulty{Resource: r.manager, name: r.name, faults: &g.faults}})
	}
	g.mu.disk = vfs.NewMem()
	id, err := txn.NewLogID()
	if err == nil {
		err = txlog.Init(g.mu.disk, logDir, id, txlog.InitOptions{SegmentSize: segmentSize})
	}
	if err != nil {
		t.Fatalf("gaveltest: make a log: %v", err)
	}
	t.Cleanup(func() {
		c := g.current()
		if c == nil {
			return // it did not start, which has failed the test
		}
		if err := c.Close(); err != nil {
			t.Errorf("gaveltest: close the coordinator: %v", err)
		}
	})
	g.open()
	return g
}

func (g *Gavel) newStore(name string) *kv.Store {
	s, err := kv.Open(kv.Config{Dir: g.t.TempDir()})
	if err != nil {
		g.t.Fatalf("gaveltest: open %s: %v", name, err)
	}
	g.t.Cleanup(func() {
		if err := s.Close(); err != nil {
			g.t.Errorf("gaveltest: close %s: %v", name, err)
		}
	})
	g.stores[name] = s
	return s
}

// open starts a coordinator over the disk, and waits until every resource can be named.
func (g *Gavel) open() {
	g.t.Helper()
	c, err := coordinator.Open(context.Background(), coordinator.Config{
		Dir: logDir, FS: g.mu.disk, Resources: g.resources, SegmentSize: segmentSize,
		SweepEvery: sweep, Grace: grace, Version: "gaveltest",
		Logger: slog.New(slog.NewTextHandler(g.t.Output(), nil)),
	})
	if err != nil {
		g.t.Fatalf("gaveltest: start the coordinator: %v", err)
	}
	g.mu.Lock()
	g.mu.c = c
	g.mu.Unlock()
	g.until("a resource to be registered", func() (string, error) {
		all, err := c.Resources(context.Background())
		for _, r := range all {
			if !r.Registered || !r.Up {
				return r.Name + " is not", err
			}
		}
		return "", err
	})
}

func (g *Gavel) current() *coordinator.Coordinator {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mu.c
}

// until waits until look has nothing to say, and fails the test with its last word.
func (g *Gavel) until(what string, look func() (string, error)) {
	g.t.Helper()
	for start := time.Now(); ; time.Sleep(pause) {
		left, err := look()
		if err != nil {
			g.t.Fatalf("gaveltest: wait for %s: %v", what, err)
		}
		if left == "" {
			return
		}
		if time.Since(start) > patience {
			g.t.Fatalf("gaveltest: waited %v for %s: %s", patience, what, left)
		}
	}
}

// Store is the KV resource of that name, for use within transactions.
func (g *Gavel) Store(name string) *kvtx.DB { return kvtx.New(name, g.store(name)) }

// Value is what is committed under a key of the KV resource of that name, outside of every
// transaction. A key that does not exist has the empty value.
func (g *Gavel) Value(name, key string) string {
	g.t.Helper()
	entries, err := g.store(name).Get(context.Background(), [][]byte{[]byte(key)})
	if err != nil {
		g.t.Fatalf("gaveltest: read %q of %s: %v", key, name, err)
	}
	return string(entries[0].Value)
}

func (g *Gavel) store(name string) *kv.Store {
	g.t.Helper()
	s := g.stores[name]
	if s == nil {
		g.t.Fatalf("gaveltest: %q is none of the test's KV resources", name)
	}
	return s
}

// Restart is a kill -9 of the coordinator, with the start that follows it: what was not decided is
// rolled back, and what was decided is finished. Calls that are under way end with an error that
// wraps txn.ErrUnknown.
func (g *Gavel) Restart() {
	g.t.Helper()
	g.mu.Lock()
	old := g.mu.c
	g.mu.disk = g.mu.disk.KillClone()
	clear(g.mu.branches)
	g.mu.Unlock()
	if err := old.Close(); err != nil {
		g.t.Fatalf("gaveltest: end the old coordinator: %v", err)
	}
	g.open()
}

// Settle waits until no transaction runs and nothing is prepared at any resource. It fails the test
// if that takes more than ten seconds.
func (g *Gavel) Settle() {
	g.t.Helper()
	g.until("everything to end", func() (string, error) {
		c, ctx := g.current(), context.Background()
		active, err := c.Active(ctx)
		if err != nil || active > 0 {
			return fmt.Sprintf("%d transactions run", active), err
		}
		for _, r := range g.resources {
			listing, err := r.Manager.List(ctx, txn.Fence{Log: c.LogID(), Epoch: c.Epoch()})
			if err != nil {
				return r.Name + ": " + err.Error(), nil
			}
			if n := len(listing.Branches); n > 0 {
				return fmt.Sprintf("%s has %d prepared branches, the first of them %s", r.Name, n,
					listing.Branches[0].Name), nil
			}
		}
		return "", nil
	})
}

// Begin implements client.Decider.
func (g *Gavel) Begin(ctx context.Context, r txn.BeginRequest) (txn.Begun, error) {
	for _, name := range r.Resources {
		if g.faults.take(Begin, name) {
			return txn.Begun{}, txn.Refusef(txn.ReasonNotReady, "resources",
				"the test has %s fail", name)
		}
	}
	begun, err := g.current().Begin(ctx, r)
	if err == nil {
		g.mu.Lock()
		g.mu.branches[begun.ID] = begun.Branches
		g.mu.Unlock()
	}
	return begun, err
}

// Commit implements client.Decider.
func (g *Gavel) Commit(ctx context.Context, r txn.CommitRequest) (txn.Result, error) {
	branches := g.branchesOf(r.ID, !r.Intent)
	if r.Intent && g.anyWaits(branches) {
		// What is announced could be found prepared, and be committed, before a vote says no.
		return txn.Result{}, fmt.Errorf("%w: the test has a branch vote no", txn.ErrUnknown)
	}
	r.Votes = slices.Clone(r.Votes)
	for i := range r.Votes {
		v := &r.Votes[i]
		if name := resourceOf(branches, v.Branch); v.Vote == txn.VoteYes &&
			g.faults.take(Prepare, name) {
			v.Vote, v.Reason, v.SQLState = txn.VoteNo, testsReason, serialization
		}
	}
	result, err := g.current().Commit(ctx, r)
	if err == nil && !r.Intent && g.faults.takeAny(Answer, branches) {
		return txn.Result{}, fmt.Errorf("%w: the test has the answer get lost", txn.ErrUnknown)
	}
	return result, err
}

// branchesOf are those that Begin told, for the last time if so said.
func (g *Gavel) branchesOf(id txn.ID, last bool) []txn.Enlisted {
	g.mu.Lock()
	defer g.mu.Unlock()
	branches := g.mu.branches[id]
	if last {
		delete(g.mu.branches, id)
	}
	return branches
}

func (g *Gavel) anyWaits(branches []txn.Enlisted) bool {
	return slices.ContainsFunc(branches, func(b txn.Enlisted) bool {
		return g.faults.waits(Prepare, b.Resource)
	})
}

func resourceOf(branches []txn.Enlisted, no txn.BranchNo) string {
	for _, b := range branches {
		if b.Branch == no {
			return b.Resource
		}
	}
	return ""
}

// Outcome implements client.Decider.
func (g *Gavel) Outcome(ctx context.Context, id txn.ID) (txn.Result, error) {
	return g.current().Outcome(ctx, id)
}

// List selects transactions in the order of their ids: with it a Gavel can stand behind a
// server.Server.
func (g *Gavel) List(ctx context.Context, r txn.ListRequest) ([]txn.Result, error) {
	return g.current().List(ctx, r)
}

// Rollback implements client.Rollbacker.
func (g *Gavel) Rollback(ctx context.Context, id txn.ID, reason string) (txn.Result, error) {
	g.branchesOf(id, true)
	return g.current().Rollback(ctx, id, reason)
}

package service_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/service"
	"github.com/gavel-tx/gavel/participant/service/boltjournal"
	"github.com/gavel-tx/gavel/txn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testLog txn.LogID = 0x123456789abcdef

func name(seq txn.Seq) txn.Name { return txn.NameOf(txn.NewID(testLog, seq), 1) }

func fenceAt(epoch txn.Epoch, lsn uint64) txn.Fence {
	return txn.Fence{Log: testLog, Epoch: epoch, LSN: lsn}
}

var first = fenceAt(1, 1)

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

// disk is what a drawer has made durable. It outlives the drawer, and counts the effects, so that
// one that was made twice shows.
type disk struct {
	mu       sync.Mutex
	prepared map[txn.Name][]string
	effects  map[string]int
}

func newDisk() *disk {
	return &disk{prepared: map[txn.Name][]string{}, effects: map[string]int{}}
}

func (d *disk) effect(key string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.effects[key]
}

func (d *disk) holds(n txn.Name) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.prepared[n] != nil
}

// drawer is a service with a store of its own, beside the journal.
type drawer struct {
	disk *disk

	mu      sync.Mutex
	working map[txn.Name][]string
	// before and after, if set, run around the durable part of a method.
	before, after func(method string) error
	// vote, if set, is the vote instead of Yes.
	vote *participant.Vote
}

func newDrawer(d *disk) *drawer { return &drawer{disk: d, working: map[txn.Name][]string{}} }

var errDrawer = errors.New("the drawer is stuck")

func (d *drawer) step(method string, do func()) error {
	d.mu.Lock()
	before, after := d.before, d.after
	d.mu.Unlock()
	if before != nil {
		if err := before(method); err != nil {
			return err
		}
	}
	d.disk.mu.Lock()
	do()
	d.disk.mu.Unlock()
	if after != nil {
		return after(method)
	}
	return nil
}

func (d *drawer) put(n txn.Name, key string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.working[n] = append(d.working[n], key)
}

func (d *drawer) keys(n txn.Name) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.working[n]
}

func (d *drawer) Prepare(_ context.Context, n txn.Name) (participant.Vote, error) {
	if d.vote != nil {
		return *d.vote, nil
	}
	keys := d.keys(n)
	return service.Yes(), d.step("prepare", func() { d.disk.prepared[n] = keys })
}

func (d *drawer) Commit(_ context.Context, n txn.Name) error {
	return d.step("commit", func() {
		for _, key := range d.disk.prepared[n] {
			d.disk.effects[key]++
		}
		delete(d.disk.prepared, n)
	})
}

func (d *drawer) Rollback(_ context.Context, n txn.Name) error {
	err := d.step("rollback", func() { delete(d.disk.prepared, n) })
	if err == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.working, n)
	}
	return err
}

// office is a drawer with its journal in a file, on one disk.
type office struct {
	*service.Resource
	drawer  *drawer
	disk    *disk
	journal *boltjournal.Journal
	cfg     service.Config
	path    string
}

// open opens an office that the test closes. Of cfg the Service and the Journal are filled in.
func open(t *testing.T, cfg service.Config) *office {
	t.Helper()
	return openAt(t, cfg, newDisk(), filepath.Join(t.TempDir(), "journal"))
}

func openAt(t *testing.T, cfg service.Config, d *disk, path string) *office {
	t.Helper()
	o, err := tryOpen(cfg, d, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

func tryOpen(cfg service.Config, d *disk, path string) (*office, error) {
	j, err := boltjournal.Open(path)
	if err != nil {
		return nil, err
	}
	o := &office{drawer: newDrawer(d), disk: d, journal: j, cfg: cfg, path: path}
	cfg.Service, cfg.Journal = o.drawer, j
	if o.Resource, err = service.Open(cfg); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return o, nil
}

// crash drops the office, with what it has in memory, and opens another one on its disk. Every
// update of a journal is durable when it returns, so that closing the file adds nothing.
func (o *office) crash(t *testing.T) *office {
	t.Helper()
	if err := o.journal.Close(); err != nil {
		t.Fatal(err)
	}
	return openAt(t, o.cfg, o.disk, o.path)
}

func (o *office) work(t *testing.T, n txn.Name, call uint64, key string) {
	t.Helper()
	if err := o.try(t, n, call, key); err != nil {
		t.Fatal(err)
	}
}

func (o *office) try(t *testing.T, n txn.Name, call uint64, key string) error {
	t.Helper()
	return o.Work(t.Context(), n, call, func(context.Context) error {
		o.drawer.put(n, key)
		return nil
	})
}

func branchOf(n txn.Name) []participant.Branch { return []participant.Branch{{Name: n}} }

func (o *office) votes(t *testing.T, f txn.Fence, n txn.Name) participant.Vote {
	t.Helper()
	votes, err := o.Prepare(t.Context(), f, branchOf(n))
	if err != nil {
		t.Fatal(err)
	}
	return votes[0]
}

// prepared is a branch with one effect that has voted Yes.
func (o *office) prepared(t *testing.T, n txn.Name, key string) participant.Branch {
	t.Helper()
	o.work(t, n, 1, key)
	v := o.votes(t, first, n)
	if v.Vote != txn.VoteYes || v.Evidence.XID == 0 {
		t.Fatalf("branch %s voted %+v", n, v)
	}
	return participant.Branch{Name: n, Evidence: v.Evidence}
}

type finisher func(context.Context, txn.Fence, []participant.Branch) ([]participant.Finding, error)

func stands(
	t *testing.T, call finisher, f txn.Fence, b participant.Branch, want txn.Standing,
) participant.Finding {
	t.Helper()
	findings, err := call(t.Context(), f, []participant.Branch{b})
	if err != nil {
		t.Fatal(err)
	}
	if findings[0].Standing != want {
		t.Errorf("%s: %v (%s), want %v", b.Name, findings[0].Standing, findings[0].Reason, want)
	}
	return findings[0]
}

func (o *office) listed(t *testing.T, f txn.Fence) []txn.Name {
	t.Helper()
	l, err := o.List(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	var names []txn.Name
	for _, b := range l.Branches {
		names = append(names, b.Name)
	}
	return names
}

package coordinator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errDown = errors.New("fake: connection refused")

// fakeDB is a resource manager in memory. It outlives coordinators, and forgets nothing that is
// prepared.
type fakeDB struct {
	mu       sync.Mutex
	identity txn.Identity
	timeline uint32
	lsn      uint64
	prepared map[txn.Name]uint64
	ended    map[uint64]txn.Standing
	// committed and rolledBack are the branches that ended here, in order.
	committed, rolledBack []txn.Name
	// down: no call gets through. deaf: calls take effect and their replies are lost. hang: calls
	// wait for their context.
	down, deaf, hang bool
	// blind: nothing proves how a branch ended that is gone.
	blind  bool
	fences []txn.Fence
	checks []participant.Check
}

func newFakeDB(system uint64) *fakeDB {
	return &fakeDB{identity: txn.Identity{System: system, Database: 7}, timeline: 1, lsn: 100,
		prepared: map[txn.Name]uint64{}, ended: map[uint64]txn.Standing{}}
}

// prepare is what an application does on its own connection.
func (d *fakeDB) prepare(n txn.Name) txn.BranchVote {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lsn++
	d.prepared[n] = d.lsn
	return txn.BranchVote{Branch: n.Branch, Vote: txn.VoteYes, Evidence: d.evidence(d.lsn)}
}

func (d *fakeDB) evidence(xid uint64) txn.Evidence {
	return txn.Evidence{
		Identity: d.identity,
		Position: txn.Position{Timeline: d.timeline, LSN: d.lsn},
		XID:      xid,
	}
}

func (d *fakeDB) set(f func(*fakeDB)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

func (d *fakeDB) counts() (prepared, committed, rolledBack int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.prepared), len(d.committed), len(d.rolledBack)
}

// gate is the state of the connection at the beginning of a call.
func (d *fakeDB) gate(ctx context.Context, f txn.Fence) (done func(error) error, err error) {
	d.mu.Lock()
	hang := d.hang
	d.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	d.mu.Lock()
	if d.down {
		d.mu.Unlock()
		return nil, errDown
	}
	d.fences = append(d.fences, f)
	return func(err error) error {
		deaf := d.deaf
		d.mu.Unlock()
		if deaf {
			return errDown
		}
		return err
	}, nil
}

func (d *fakeDB) Prepare(
	ctx context.Context,
	f txn.Fence,
	b []participant.Branch,
) ([]participant.Vote, error) {
	done, err := d.gate(ctx, f)
	if err != nil {
		return nil, err
	}
	votes := make([]participant.Vote, len(b))
	for i, x := range b {
		if xid, ok := d.prepared[x.Name]; ok {
			votes[i] = participant.Vote{Vote: txn.VoteYes, Evidence: d.evidence(xid)}
		} else {
			votes[i].Reason = "not listed"
		}
	}
	return votes, done(nil)
}

func (d *fakeDB) Commit(
	ctx context.Context,
	f txn.Fence,
	b []participant.Branch,
) ([]participant.Finding, error) {
	return d.finish(ctx, f, b, txn.StandingCommitted)
}

func (d *fakeDB) Rollback(
	ctx context.Context,
	f txn.Fence,
	b []participant.Branch,
) ([]participant.Finding, error) {
	return d.finish(ctx, f, b, txn.StandingRolledBack)
}

func (d *fakeDB) Inquire(
	ctx context.Context,
	f txn.Fence,
	b []participant.Branch,
) ([]participant.Finding, error) {
	return d.finish(ctx, f, b, txn.StandingUnknown)
}

// finish ends prepared branches as end says, or only looks.
func (d *fakeDB) finish(
	ctx context.Context,
	f txn.Fence,
	b []participant.Branch,
	end txn.Standing,
) (
	[]participant.Finding, error,
) {
	done, err := d.gate(ctx, f)
	if err != nil {
		return nil, err
	}
	found := make([]participant.Finding, len(b))
	for i, x := range b {
		xid, prepared := d.prepared[x.Name]
		switch {
		case x.Name.Log != f.Log:
			found[i].Standing = txn.StandingForeign
		case prepared && end == txn.StandingUnknown:
			found[i] = participant.Finding{Standing: txn.StandingPrepared,
				Evidence: d.evidence(xid)}
		case prepared:
			d.end(x.Name, xid, end)
			found[i].Standing = end
		case d.ended[x.Evidence.XID] != 0 && !d.blind:
			found[i].Standing = d.ended[x.Evidence.XID]
		default:
			found[i] = participant.Finding{Standing: txn.StandingGone, Evidence: d.evidence(0)}
		}
	}
	return found, done(nil)
}

func (d *fakeDB) end(n txn.Name, xid uint64, end txn.Standing) {
	delete(d.prepared, n)
	d.lsn++
	d.ended[xid] = end
	if end == txn.StandingCommitted {
		d.committed = append(d.committed, n)
	} else {
		d.rolledBack = append(d.rolledBack, n)
	}
}

func (d *fakeDB) List(ctx context.Context, f txn.Fence) (participant.Listing, error) {
	done, err := d.gate(ctx, f)
	if err != nil {
		return participant.Listing{}, err
	}
	l := participant.Listing{Identity: d.identity,
		Position: txn.Position{Timeline: d.timeline, LSN: d.lsn}, Used: len(d.prepared), Limit: 100}
	for n := range d.prepared {
		l.Branches = append(l.Branches, participant.Listed{Name: n, Ours: true, Age: time.Minute})
	}
	return l, done(nil)
}

func (d *fakeDB) Describe(ctx context.Context) (participant.Description, error) {
	done, err := d.gate(ctx, txn.Fence{})
	if err != nil {
		return participant.Description{}, err
	}
	desc := participant.Description{Kind: "fake", Identity: d.identity, Checks: d.checks,
		Position: txn.Position{Timeline: d.timeline, LSN: d.lsn}, Limit: 100, Evidence: !d.blind}
	return desc, done(nil)
}

// world is a disk and two databases, which outlive every coordinator.
type world struct {
	t       *testing.T
	disk    *vfs.Mem
	dbs     map[string]*fakeDB
	log     txn.LogID
	journal *journal
}

// journal keeps what coordinators tell people, as JSON.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(b)
}

// lines are the fields of each line so far.
func (j *journal) lines(t *testing.T) (all []map[string]any) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	for line := range bytes.Lines(j.buf.Bytes()) {
		fields := map[string]any{}
		if err := json.Unmarshal(line, &fields); err != nil {
			t.Fatal(err)
		}
		all = append(all, fields)
	}
	return all
}

const logDir = "/log"

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t:    t,
		disk: vfs.NewMem(),
		dbs:  map[string]*fakeDB{"a": newFakeDB(1), "b": newFakeDB(2)},

		journal: &journal{},
	}
	w.log = w.init(logDir)
	return w
}

// init makes a log with segments small enough to see one end.
func (w *world) init(dir string) txn.LogID {
	w.t.Helper()
	id, err := txn.NewLogID()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := txlog.Init(w.disk, dir, id, txlog.InitOptions{SegmentSize: 128 << 10}); err != nil {
		w.t.Fatal(err)
	}
	return id
}

func (w *world) config() Config {
	return Config{
		Dir:         logDir,
		FS:          w.disk,
		SegmentSize: 128 << 10,
		Logger:      slog.New(slog.NewJSONHandler(w.journal, nil)),
		Resources:   []Resource{{Name: "a", Manager: w.dbs["a"]}, {Name: "b", Manager: w.dbs["b"]}},
	}
}

// open starts a coordinator and waits until both resources can be named. It is closed with the
// test.
func (w *world) open(change ...func(*Config)) *Coordinator {
	w.t.Helper()
	cfg := w.config()
	for _, f := range change {
		f(&cfg)
	}
	c, err := Open(w.t.Context(), cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	w.await("resources that can be named", func() bool {
		all, err := c.Resources(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		for _, r := range all {
			if !r.Up && !w.dbs[r.Name].isOff() {
				return false
			}
		}
		return true
	})
	return c
}

func (d *fakeDB) isOff() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.down || d.hang || d.deaf
}

// begun starts a transaction over a and b and prepares both branches.
func (w *world) begun(c *Coordinator) (txn.ID, []txn.BranchVote) {
	w.t.Helper()
	b, err := c.Begin(
		w.t.Context(),
		txn.BeginRequest{Resources: []string{"a", "b"}, Label: "transfer"},
	)
	if err != nil {
		w.t.Fatal(err)
	}
	var votes []txn.BranchVote
	for _, e := range b.Branches {
		votes = append(votes, w.dbs[e.Resource].prepare(e.Name))
	}
	return b.ID, votes
}

func (w *world) commit(
	c *Coordinator,
	id txn.ID,
	votes []txn.BranchVote,
	ack txn.AckLevel,
) txn.Result {
	w.t.Helper()
	r, err := c.Commit(w.t.Context(), txn.CommitRequest{ID: id, Votes: votes, Ack: ack})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// settled waits until nothing is prepared any more.
func (w *world) settled() {
	w.t.Helper()
	w.await("nothing in doubt", func() bool {
		for _, d := range w.dbs {
			if n, _, _ := d.counts(); n != 0 {
				return false
			}
		}
		return true
	})
}

// want checks how many branches of each database ended how.
func (w *world) want(committed, rolledBack int) {
	w.t.Helper()
	for name, d := range w.dbs {
		if _, c, r := d.counts(); c != committed || r != rolledBack {
			w.t.Errorf(
				"%s committed %d and rolled back %d, want %d and %d",
				name,
				c,
				r,
				committed,
				rolledBack,
			)
		}
	}
}

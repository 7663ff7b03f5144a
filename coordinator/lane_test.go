package coordinator

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gavel-tx/gavel/coordinator/core"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// owned is a resource that knows another owner of one log, as long as refusal is set.
type owned struct {
	*fakeDB
	log txn.LogID

	mine    sync.Mutex
	refusal error
	refused int
}

func (o *owned) set(err error) {
	o.mine.Lock()
	defer o.mine.Unlock()
	o.refusal = err
}

func (o *owned) count() int {
	o.mine.Lock()
	defer o.mine.Unlock()
	return o.refused
}

func (o *owned) Commit(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	o.mine.Lock()
	err := o.refusal
	if f.Log == o.log && err != nil {
		o.refused++
	}
	o.mine.Unlock()
	if f.Log == o.log && err != nil {
		return nil, err
	}
	return o.fakeDB.Commit(ctx, f, b)
}

// List does not show the branches of that log, as if each call had taken effect: no sweep asks for
// them again.
func (o *owned) List(ctx context.Context, f txn.Fence) (participant.Listing, error) {
	l, err := o.fakeDB.List(ctx, f)
	l.Branches = slices.DeleteFunc(l.Branches, func(b participant.Listed) bool {
		return b.Name.Log == o.log
	})
	return l, err
}

// adopted makes a coordinator whose log has adopted one with a decision for a and b, of which both
// say err. It returns their refusing faces.
func (w *world) adopted(err error) (c *Coordinator, decided txn.ID, faces map[string]*owned) {
	w.t.Helper()
	decided, _ = w.inDoubt()
	copyDir(w.t, w.disk, logDir, "/copy")
	if _, err := Adopt(w.disk, "/copy"); err != nil {
		w.t.Fatal(err)
	}
	faces = map[string]*owned{}
	c = w.open(func(cfg *Config) {
		cfg.Dir = "/copy"
		for i, r := range cfg.Resources {
			faces[r.Name] = &owned{fakeDB: w.dbs[r.Name], log: w.log, refusal: err}
			cfg.Resources[i].Manager = faces[r.Name]
		}
	})
	return c, decided, faces
}

// TestAdoptedLogHasAnotherOwner: a resource that refuses us on behalf of an adopted log has
// answered. Our own transactions go on as if nothing were, and the decision that came along is
// asked for again, at its own pace, until it is let through.
func TestAdoptedLogHasAnotherOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c, decided, faces := w.adopted(participant.ErrFenced)
		committed := 0
		for _, refusal := range []error{
			participant.ErrFenced, participant.ErrRegression, participant.ErrNotResolver,
		} {
			for _, face := range faces {
				face.set(refusal)
			}
			for range 20 {
				time.Sleep(time.Second)
				id, votes := w.begun(c)
				before := time.Now()
				w.commit(c, id, votes, txn.AckApplied)
				committed++
				if d := time.Since(before); d > 0 {
					t.Fatalf("%v: our own transaction %d waited %v", refusal, committed, d)
				}
			}
		}
		if err := c.Err(); err != nil {
			t.Fatalf("another log's owner stops it: %v", err)
		}
		w.want(committed, 0)
		for name, face := range faces {
			// Ten times within the first five seconds, and then every five seconds, or twice as
			// often.
			if n := face.count(); n < 15 || n > 40 {
				t.Errorf("%s was asked %d times in a minute", name, n)
			}
		}
		w.wantRefusalTold()
		r, err := c.Outcome(t.Context(), decided)
		if err != nil || len(r.Pending()) != 2 ||
			r.Branches[0].LastError != participant.ErrNotResolver.Error() {
			t.Errorf("nobody is told what its branches wait for: %+v, %v", r, err)
		}
		for _, face := range faces {
			face.set(nil)
		}
		w.await("the decision that came along", func() bool {
			_, err := c.Outcome(t.Context(), decided)
			return txn.ReasonOf(err) == txn.ReasonForeign
		})
		w.want(committed+1, 0)
		for name := range faces {
			stuck, err := inside(t.Context(), c, func(k *core.Core) bool {
				return k.Stuck(name, w.log)
			})
			if stuck || err != nil {
				t.Errorf("%s lets us act, and counts as refusing", name)
			}
		}
	})
}

// wantRefusalTold: one line for each resource that refuses, however often it does.
func (w *world) wantRefusalTold() {
	w.t.Helper()
	var from []string
	for _, line := range w.journal.lines(w.t) {
		if line["log"] == w.log.String() && line["level"] == "WARN" {
			from = append(from, line["resource"].(string))
		}
	}
	slices.Sort(from)
	if !slices.Equal(from, []string{"a", "b"}) {
		w.t.Errorf("lines about %v", from)
	}
}

// asked is a resource that remembers whose votes it was asked for.
type asked struct {
	*fakeDB
	mine  sync.Mutex
	names []txn.Name
}

func (a *asked) Prepare(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Vote, error) {
	a.mine.Lock()
	for _, x := range b {
		a.names = append(a.names, x.Name)
	}
	a.mine.Unlock()
	return a.fakeDB.Prepare(ctx, f, b)
}

// TestVoteOfARolledBackTransaction: what waits for a resource that is down is not asked for its
// vote any more once it was rolled back.
func TestVoteOfARolledBackTransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := &asked{fakeDB: w.dbs["b"]}
		c := w.open(func(cfg *Config) { cfg.Resources[1].Manager = b })
		blocking, votes := w.begun(c)
		b.fakeDB.set(func(d *fakeDB) { d.down = true })
		w.commit(c, blocking, votes, txn.AckDecided)
		rest()
		heard := make(chan txn.Result, 1)
		late, lateVotes := w.begun(c)
		go func() { heard <- w.commit(c, late, lateVotes[:1], txn.AckDecided) }()
		synctest.Wait()
		if _, err := c.Rollback(t.Context(), late, "changed my mind"); err != nil {
			t.Fatal(err)
		}
		if r := <-heard; r.Outcome != txn.OutcomeRolledBack {
			t.Errorf("result %+v", r)
		}
		b.fakeDB.set(func(d *fakeDB) { d.down = false })
		w.settled()
		b.mine.Lock()
		defer b.mine.Unlock()
		if slices.Contains(b.names, txn.NameOf(late, 2)) {
			t.Error("it was asked to prepare what had been rolled back")
		}
	})
}

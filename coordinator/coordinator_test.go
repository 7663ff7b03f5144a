package coordinator

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gavel-tx/gavel/participant"

	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// await waits, in the virtual time of the test, until something holds.
func (w *world) await(what string, holds func() bool) {
	w.t.Helper()
	for range 10_000 {
		if holds() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.t.Fatalf("waited for %s", what)
}

// TestTransfer: begun, prepared by the application, decided, applied.
func TestTransfer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		id, votes := w.begun(c)
		if r, err := c.Outcome(t.Context(), id); err != nil || r.State != txn.StateActive {
			t.Fatalf("before: %+v, %v", r, err)
		}
		r := w.commit(c, id, votes, txn.AckApplied)
		if r.State != txn.StateCommitted || r.Outcome != txn.OutcomeCommitted ||
			len(r.Pending()) != 0 {
			t.Errorf("result %+v", r)
		}
		w.want(1, 0)
		if again := w.commit(c, id, votes, txn.AckApplied); again.Outcome != txn.OutcomeCommitted {
			t.Errorf("asked again: %+v", again)
		}
		if _, err := c.Rollback(t.Context(), id, "too late"); txn.ReasonOf(
			err,
		) != txn.ReasonAlreadyDecided {
			t.Errorf("rollback after commit: %v", err)
		}
	})
}

// TestSelfPrepared: a branch that comes without a vote is asked for at its resource.
func TestSelfPrepared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		id, _ := w.begun(c)
		if r := w.commit(c, id, nil, txn.AckApplied); r.Outcome != txn.OutcomeCommitted {
			t.Errorf("result %+v", r)
		}
		b, err := c.Begin(t.Context(), txn.BeginRequest{Resources: []string{"a", "b"}})
		if err != nil {
			t.Fatal(err)
		}
		vote := w.dbs["a"].prepare(b.Branches[0].Name)
		r := w.commit(c, b.ID, []txn.BranchVote{vote}, txn.AckApplied)
		if r.Outcome != txn.OutcomeRolledBack || r.Cause != txn.CausePrepareLimit ||
			r.Resource != "b" {
			t.Errorf("b was never prepared: %+v", r)
		}
		w.settled()
		w.want2(map[string][2]int{"a": {1, 1}, "b": {1, 0}})
	})
}

func (w *world) want2(want map[string][2]int) {
	w.t.Helper()
	for name, n := range want {
		if _, c, r := w.dbs[name].counts(); c != n[0] || r != n[1] {
			w.t.Errorf("%s committed %d and rolled back %d, want %v", name, c, r, n)
		}
	}
}

// TestCrashBetweenDecisionAndPhaseTwo: the next epoch finishes what was decided and rolls back what
// was not.
func TestCrashBetweenDecisionAndPhaseTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		decided, votes := w.begun(c)
		undecided, _ := w.begun(c)
		for _, d := range w.dbs {
			d.set(func(d *fakeDB) { d.down = true })
		}
		r := w.commit(c, decided, votes, txn.AckDecided)
		if r.Outcome != txn.OutcomeCommitted || len(r.Pending()) != 2 {
			t.Fatalf("result %+v", r)
		}
		w.disk = w.disk.CrashClone(rand.New(rand.NewPCG(1, 2)))
		c.Close()
		w.want(0, 0)
		for _, d := range w.dbs {
			d.set(func(d *fakeDB) { d.down = false })
		}
		c = w.open()
		if r, err := c.Outcome(t.Context(), decided); r.Outcome != txn.OutcomeCommitted {
			t.Fatalf("an acknowledged commit is lost: %+v, %v", r, err)
		}
		w.settled()
		w.want(1, 1)
		for id, want := range map[txn.ID]txn.Outcome{
			decided: txn.OutcomeCommitted, undecided: txn.OutcomeRolledBack} {
			if r, err := c.Outcome(t.Context(), id); err != nil || r.Outcome != want {
				t.Errorf("%s: %+v, %v, want %s", id, r, err, want)
			}
		}
	})
}

// TestLostReply: a commit whose reply was lost is asked for again, and its evidence acknowledges
// it.
func TestLostReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		id, votes := w.begun(c)
		w.dbs["b"].set(func(d *fakeDB) { d.deaf = true })
		r := w.commit(c, id, votes, txn.AckDecided)
		if got := r.Pending(); len(got) != 2 {
			t.Errorf("pending %v", got)
		}
		w.await("the commit of b", func() bool { _, n, _ := w.dbs["b"].counts(); return n == 1 })
		w.dbs["b"].set(func(d *fakeDB) { d.deaf = false })
		w.await("the end", func() bool {
			r, err := c.Outcome(t.Context(), id)
			return err == nil && r.State == txn.StateCommitted
		})
		w.want(1, 0)
	})
}

// TestHumanRollback: a branch that somebody rolled back by hand is a heuristic outcome, for ever.
func TestHumanRollback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		id, votes := w.begun(c)
		b := w.dbs["b"]
		b.set(func(d *fakeDB) {
			for n, xid := range d.prepared {
				d.end(n, xid, txn.StandingRolledBack)
			}
		})
		r := w.commit(c, id, votes, txn.AckApplied)
		if r.Outcome != txn.OutcomeHeuristicMixed || r.State != txn.StateHeuristic {
			t.Errorf("result %+v", r)
		}
		c.Close()
		c = w.open()
		w.await("the heuristic outcome after a restart", func() bool {
			r, err := c.Outcome(t.Context(), id)
			return err == nil && r.State == txn.StateHeuristic &&
				r.Outcome == txn.OutcomeHeuristicMixed
		})
	})
}

// TestDeadResourceHarmsNobodyElse: with a hung, transactions over b alone go on as if nothing were.
func TestDeadResourceHarmsNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		alone := w.ofB(c, 200)
		id, votes := w.begun(c)
		w.dbs["a"].set(func(d *fakeDB) { d.hang = true })
		w.commit(c, id, votes, txn.AckDecided)
		// By now the first calls have timed out, and a is taken for down.
		time.Sleep(2 * c.cfg.CallTimeout)
		if beside := w.ofB(c, 200); beside > alone+alone/10 {
			t.Errorf("200 transactions took %v, and %v without a hung resource", beside, alone)
		}
		w.dbs["a"].set(func(d *fakeDB) { d.hang = false })
		w.settled()
	})
}

// ofB runs so many transactions over b alone, some at a time, each for as long as b and the disk
// take, and says for how long.
func (w *world) ofB(c *Coordinator, n int) time.Duration {
	w.t.Helper()
	start := time.Now()
	var join sync.WaitGroup
	for range 8 {
		join.Go(func() {
			for range n / 8 {
				b, err := c.Begin(w.t.Context(), txn.BeginRequest{Resources: []string{"b"}})
				if err != nil {
					w.t.Error(err)
					return
				}
				time.Sleep(time.Millisecond)
				vote := w.dbs["b"].prepare(b.Branches[0].Name)
				r, err := c.Commit(w.t.Context(), txn.CommitRequest{ID: b.ID,
					Votes: []txn.BranchVote{vote}, Ack: txn.AckApplied})
				if err != nil || r.State != txn.StateCommitted {
					w.t.Errorf("result %+v, %v", r, err)
					return
				}
			}
		})
	}
	join.Wait()
	return time.Since(start)
}

// TestLogFailureStops: a failed sync is neither commit nor abort. The coordinator stops, callers
// hear "unknown", nothing is rolled back, and the next epoch tells the truth.
func TestLogFailureStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var broken atomic.Bool
		fs := vfs.Hooked(w.disk, func(call vfs.Call) error {
			if broken.Load() && call.Op == vfs.OpDatasync {
				return io.ErrUnexpectedEOF
			}
			return nil
		})
		c := w.open(func(cfg *Config) { cfg.FS = fs })
		id, votes := w.begun(c)
		time.Sleep(time.Second)
		broken.Store(true)
		_, err := c.Commit(t.Context(), txn.CommitRequest{ID: id, Votes: votes})
		if !errors.Is(err, txn.ErrUnknown) || !errors.Is(err, ErrFailed) {
			t.Errorf("the answer to a commit whose append failed: %v", err)
		}
		<-c.Failed()
		if c.Err() == nil {
			t.Error("failed without a reason")
		}
		if _, err := c.Begin(t.Context(), txn.BeginRequest{}); !errors.Is(err, ErrFailed) {
			t.Errorf("begin on a failed coordinator: %v", err)
		}
		w.want(0, 0)
		c.Close()
		broken.Store(false)
		c = w.open()
		w.settled()
		r, err := c.Outcome(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		switch r.Outcome {
		case txn.OutcomeCommitted:
			w.want(1, 0)
		case txn.OutcomeRolledBack:
			w.want(0, 1)
		default:
			t.Errorf("result %+v", r)
		}
	})
}

// TestSyncs: Begin and aborts never sync; a group of commits costs one.
func TestSyncs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var counter vfs.Counter
		c := w.open(func(cfg *Config) { cfg.FS = vfs.Hooked(w.disk, counter.Hook) })
		time.Sleep(10 * time.Second)
		counter.Reset()
		for range 100 {
			id, _ := w.begun(c)
			if _, err := c.Rollback(t.Context(), id, "changed my mind"); err != nil {
				t.Fatal(err)
			}
		}
		w.settled()
		time.Sleep(10 * time.Second)
		if n := counter.Count(vfs.OpSync, vfs.OpDatasync, vfs.OpSyncDir); n != 0 {
			t.Errorf("100 transactions begun and rolled back cost %d syncs", n)
		}
		id, votes := w.begun(c)
		w.commit(c, id, votes, txn.AckDecided)
		if n := counter.Count(vfs.OpSync, vfs.OpDatasync, vfs.OpSyncDir); n != 1 {
			t.Errorf("one decision cost %d syncs", n)
		}
	})
}

// TestOrphans: branches that no live transaction owns are rolled back, those of other logs are not.
func TestOrphans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		id, _ := w.begun(c)
		if _, err := c.Rollback(t.Context(), id, ""); err != nil {
			t.Fatal(err)
		}
		w.settled()
		foreign := txn.Name{Log: w.log ^ 1, Seq: 5, Branch: 1}
		future := txn.Name{Log: w.log, Seq: 1 << 40, Branch: 1}
		late := txn.NameOf(id, 1)
		for _, n := range []txn.Name{foreign, future, late} {
			w.dbs["a"].prepare(n)
		}
		w.await(
			"the late branch to go",
			func() bool { n, _, _ := w.dbs["a"].counts(); return n == 2 },
		)
		time.Sleep(time.Minute)
		w.dbs["a"].set(func(d *fakeDB) {
			if d.prepared[foreign] == 0 || d.prepared[future] == 0 {
				t.Error("a branch was finished that is not ours to finish")
			}
		})
		all, err := c.Resources(t.Context())
		if err != nil || all[0].Foreign != 1 || all[0].InDoubt != 1 {
			t.Errorf("resources %+v, %v", all, err)
		}
	})
}

// TestDeadline: an abandoned transaction releases its branches at its deadline.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		id, _ := w.begun(c)
		time.Sleep(29 * time.Second)
		w.want(0, 0)
		time.Sleep(2 * time.Second)
		w.want(0, 1)
		r, err := c.Outcome(t.Context(), id)
		if err != nil || r.Outcome != txn.OutcomeRolledBack || r.Cause != txn.CauseExpired {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// TestImpatientCaller: a caller that goes away hears that the outcome is unknown, and the decision
// stands.
func TestImpatientCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		id, votes := w.begun(c)
		w.dbs["b"].set(func(d *fakeDB) { d.hang = true })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.Commit(ctx, txn.CommitRequest{ID: id, Votes: votes})
		if !errors.Is(err, txn.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		r := w.commit(c, id, nil, txn.AckApplied)
		if r.Outcome != txn.OutcomeCommitted || len(r.Pending()) != 1 || r.Pending()[0] != "b" {
			t.Errorf("after the waiting bound: %+v", r)
		}
		w.dbs["b"].set(func(d *fakeDB) { d.hang = false })
		w.settled()
		w.want(1, 0)
	})
}

// TestSnapshots: a log that is cut by snapshots says the same after a restart.
func TestSnapshots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		small := func(cfg *Config) { cfg.SnapshotEvery = 20_000 }
		c := w.open(small)
		outcomes := map[txn.ID]txn.Outcome{}
		for i := range 600 {
			id, votes := w.begun(c)
			if i%3 == 0 {
				votes[1].Vote = txn.VoteNo
			}
			outcomes[id] = w.commit(c, id, votes, txn.AckApplied).Outcome
		}
		w.settled()
		c.Close()
		names, err := w.disk.List(logDir)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(
			names,
			func(n string) bool { return strings.HasPrefix(n, "snap-") },
		) {
			t.Fatalf("no snapshot among %v", names)
		}
		c = w.open(small)
		for id, want := range outcomes {
			if r, err := c.Outcome(t.Context(), id); err != nil || r.Outcome != want {
				t.Fatalf("%s: %+v, %v, want %s", id, r, err, want)
			}
		}
	})
}

// TestDrain: no new transactions, and those that run may end.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		id, votes := w.begun(c)
		drained := make(chan error, 1)
		go func() { drained <- c.Drain(t.Context()) }()
		w.await("the drain to begin", func() bool {
			_, err := c.Begin(t.Context(), txn.BeginRequest{})
			return txn.ReasonOf(err) == txn.ReasonShutdown
		})
		w.commit(c, id, votes, txn.AckApplied)
		if err := <-drained; err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if _, err := c.Outcome(t.Context(), id); !errors.Is(err, ErrClosed) {
			t.Errorf("outcome from a closed coordinator: %v", err)
		}
	})
}

// TestList: what runs, filtered and paged.
func TestList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		var ids []txn.ID
		for range 5 {
			id, _ := w.begun(c)
			ids = append(ids, id)
			time.Sleep(time.Second)
		}
		first, err := c.List(t.Context(), txn.ListRequest{Limit: 2})
		if err != nil || len(first) != 2 || first[0].ID != ids[0] {
			t.Errorf("%+v, %v", first, err)
		}
		rest, err := c.List(t.Context(), txn.ListRequest{After: ids[1]})
		if err != nil || len(rest) != 3 || rest[0].ID != ids[2] {
			t.Errorf("%+v, %v", rest, err)
		}
		old, err := c.List(t.Context(), txn.ListRequest{OlderThan: 3 * time.Second,
			States: []txn.State{txn.StateActive}})
		if err != nil || len(old) != 3 {
			t.Errorf("%+v, %v", old, err)
		}
		if _, err := c.List(t.Context(), txn.ListRequest{Limit: -1}); txn.ReasonOf(
			err,
		) != txn.ReasonInvalid {
			t.Errorf("error %v", err)
		}
	})
}

// TestUnfitResource: a resource whose check fails is not registered, and says what to do; once it
// is mended it can be named.
func TestUnfitResource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.dbs["b"].checks = []participant.Check{{Level: participant.LevelFail,
			What: "prepared transactions are disabled", Fix: "max_prepared_transactions = 64"}}
		cfg := w.config()
		c, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		time.Sleep(5 * time.Second)
		if _, err := c.Begin(t.Context(), txn.BeginRequest{Resources: []string{"b"}}); txn.ReasonOf(
			err,
		) != txn.ReasonNoResource {
			t.Errorf("error %v", err)
		}
		all, err := c.Resources(t.Context())
		if err != nil || all[1].Up || all[1].Err == nil || !all[0].Up {
			t.Errorf("%+v, %v", all, err)
		}
		w.dbs["b"].set(func(d *fakeDB) { d.checks = nil })
		time.Sleep(5 * time.Second)
		if _, err := c.Begin(t.Context(), txn.BeginRequest{Resources: []string{"b"}}); err != nil {
			t.Errorf("error %v", err)
		}
	})
}

// TestUnfitResourceIsSwept: orphans may make a check fail, as those that hold every slot do.
// A resource that the log knows is swept whatever its check says, and is fit again afterwards.
func TestUnfitResourceIsSwept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.inDoubt()
		full := []participant.Check{{Level: participant.LevelFail, What: "PREPARE failed"}}
		w.dbs["b"].set(func(d *fakeDB) { d.checks = full })
		c, err := Open(t.Context(), w.config())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		rest()
		w.want(1, 1)
		all, err := c.Resources(t.Context())
		if err != nil || all[1].Up || all[1].Err == nil {
			t.Errorf("nobody is told that it is unfit: %+v, %v", all, err)
		}
		w.dbs["b"].set(func(d *fakeDB) { d.checks = nil })
		rest()
		if all, err = c.Resources(t.Context()); err != nil || !all[1].Up || !all[1].Registered {
			t.Errorf("mended, and not up: %+v, %v", all, err)
		}
	})
}

// TestFencedStops: a coordinator that a resource has seen deposed stops for good.
func TestFencedStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open(func(cfg *Config) {
			cfg.Resources[1].Manager = &fencing{
				fakeDB: w.dbs["b"],
				after:  time.Now().Add(5 * time.Second),
			}
		})
		time.Sleep(10 * time.Second)
		select {
		case <-c.Failed():
		default:
			t.Fatal("it goes on although it is fenced")
		}
		if !errors.Is(c.Err(), participant.ErrFenced) {
			t.Errorf("because %v", c.Err())
		}
	})
}

// fencing is a resource that sees a newer epoch from some moment on.
type fencing struct {
	*fakeDB
	after time.Time
}

func (f *fencing) List(ctx context.Context, fence txn.Fence) (participant.Listing, error) {
	if time.Now().After(f.after) {
		return participant.Listing{}, participant.ErrFenced
	}
	return f.fakeDB.List(ctx, fence)
}

// TestConfig: every fault is reported at once.
func TestConfig(t *testing.T) {
	err := Config{
		Grace:     -1,
		MaxActive: -1,
		Resources: []Resource{{}, {Name: "a", Manager: newFakeDB(1)},
			{Name: "a", Manager: newFakeDB(1)}, {Name: "c"}},
	}.Validate()
	if joined, ok := err.(interface{ Unwrap() []error }); !ok || len(joined.Unwrap()) != 6 {
		t.Errorf("%v", err)
	}
}

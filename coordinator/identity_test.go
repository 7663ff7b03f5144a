package coordinator

import (
	"errors"
	"io"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// copyDir copies the files of a directory, as a backup does: the bytes are the same, the files are
// not.
func copyDir(t *testing.T, fs vfs.FS, from, to string) {
	t.Helper()
	if err := fs.Mkdir(to); err != nil {
		t.Fatal(err)
	}
	names, err := fs.List(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		info, err := fs.Stat(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Dir {
			continue
		}
		copyFile(t, fs, filepath.Join(from, name), filepath.Join(to, name), info.Size)
	}
}

func copyFile(t *testing.T, fs vfs.FS, from, to string, size int64) {
	t.Helper()
	src, err := fs.Open(from, vfs.ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := fs.Open(to, vfs.Create)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	buf := make([]byte, size)
	if _, err := src.ReadAt(buf, 0); err != nil && size > 0 && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if _, err := dst.WriteAt(buf, 0); err != nil {
		t.Fatal(err)
	}
}

// inDoubt leaves one decided and one undecided transaction, both prepared everywhere, and no
// coordinator.
func (w *world) inDoubt() (decided, undecided txn.ID) {
	w.t.Helper()
	c := w.open()
	decided, votes := w.begun(c)
	undecided, _ = w.begun(c)
	w.off(true)
	w.commit(c, decided, votes, txn.AckDecided)
	c.Close()
	w.off(false)
	return decided, undecided
}

func (w *world) off(off bool) {
	for _, d := range w.dbs {
		d.set(func(d *fakeDB) { d.down = off })
	}
}

// rest lets a coordinator do whatever it would do on its own.
func rest() { time.Sleep(time.Minute) }

// TestLostLog: an empty directory never becomes a fresh log by itself, and a fresh log that
// somebody made in its place leaves the branches of the lost one alone and refuses their resource.
func TestLostLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.inDoubt()
		cfg := w.config()
		cfg.Dir = "/empty"
		if err := w.disk.Mkdir(cfg.Dir); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), cfg); !errors.Is(err, txlog.ErrNotALog) {
			t.Fatalf("an empty directory opens: %v", err)
		}
		if _, err := Init(w.disk, cfg.Dir); err != nil {
			t.Fatal(err)
		}
		c, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		rest()
		w.want(0, 0)
		_, err = c.Begin(t.Context(), txn.BeginRequest{Resources: []string{"a"}})
		if txn.ReasonOf(err) != txn.ReasonNoResource {
			t.Errorf("a resource full of another log's branches is taken: %v", err)
		}
		c.Close()
		for i := range cfg.Resources {
			cfg.Resources[i].AcceptForeign = true
		}
		accepting, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer accepting.Close()
		rest()
		w.want(0, 0)
		_, err = accepting.Begin(t.Context(), txn.BeginRequest{Resources: []string{"a"}})
		if err != nil {
			t.Errorf("accepted, and still refused: %v", err)
		}
	})
}

// TestCopiedLog: a copy is for looking. It does not open, and after its adoption it finishes what
// it knows to be decided and leaves the rest.
func TestCopiedLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		decided, undecided := w.inDoubt()
		copyDir(t, w.disk, logDir, "/copy")
		cfg := w.config()
		cfg.Dir = "/copy"
		_, err := Open(t.Context(), cfg)
		if _, ok := errors.AsType[*txlog.CopyError](err); !ok {
			t.Fatalf("a copy opens: %v", err)
		}
		w.want(0, 0)
		state, info, err := ReadState(w.disk, "/copy")
		if err != nil || !info.Copy || !state.Committed(decided) || state.Committed(undecided) {
			t.Fatalf("the copy says %+v, %v", info, err)
		}
		adopted, err := Adopt(w.disk, "/copy")
		if err != nil || adopted.Old != w.log || adopted.New == w.log || adopted.Decisions != 1 {
			t.Fatalf("adopted %+v, %v", adopted, err)
		}
		c, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		rest()
		w.want(1, 0)
		if r, err := c.Outcome(t.Context(), undecided); txn.ReasonOf(err) != txn.ReasonForeign {
			t.Errorf("the adopted log judges what it cannot know: %+v, %v", r, err)
		}
		id, votes := w.begun(c)
		if id.Log() != adopted.New {
			t.Errorf("%s is not of the new log", id)
		}
		w.commit(c, id, votes, txn.AckApplied)
	})
}

// TestOlderLog: a log restored from a backup does not know what was handed out after it. It is a
// copy; and even if it is taken for the original, what lies beyond its range is left alone.
func TestOlderLog(t *testing.T) {
	t.Run("never opened", func(t *testing.T) { testOlderLog(t, 0) })
	t.Run("opened once", func(t *testing.T) { testOlderLog(t, 1) })
}

func testOlderLog(t *testing.T, opened int) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for range opened {
			w.open().Close()
		}
		before := w.disk.KillClone()
		for range 3 {
			c := w.open()
			w.begun(c)
			c.Close()
		}
		// The clone keeps inode and birth time, as the snapshot of a volume would.
		w.disk = before
		w.off(true)
		for range 3 {
			// Reserves sequences, and ends before it could see what is there.
			w.open().Close()
		}
		w.off(false)
		for range 5 {
			older := w.open()
			rest()
			older.Close()
		}
		for name, d := range w.dbs {
			d.set(func(d *fakeDB) {
				for _, n := range d.rolledBack {
					t.Errorf("%s: lost to the older log, and rolled back: %s", name, n)
				}
				if len(d.prepared) == 0 {
					t.Errorf("%s: nothing is left of what the older log cannot know", name)
				}
			})
		}
	})
}

// TestForeignLog: another log's directory leaves our branches alone, and finishes its own.
func TestForeignLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.inDoubt()
		w.init("/other")
		cfg := w.config()
		cfg.Dir = "/other"
		for i := range cfg.Resources {
			cfg.Resources[i].AcceptForeign = true
		}
		c, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		rest()
		id, votes := w.begun(c)
		w.commit(c, id, votes, txn.AckApplied)
		w.want(1, 0)
		c.Close()
		w.open()
		w.settled()
		w.want(2, 1)
	})
}

// TestTwoOnOneLog: the second coordinator on a directory is told who holds it.
func TestTwoOnOneLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.open()
		_, err := Open(t.Context(), w.config())
		if locked, ok := errors.AsType[*txlog.LockedError](err); !ok || locked.PID == 0 {
			t.Errorf("error %v", err)
		}
	})
}

// TestRepointedResource: an address that leads to another database is refused, and its branches are
// not touched, until an operator says so.
func TestRepointedResource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.inDoubt()
		real := w.dbs["b"].identity
		w.dbs["b"].set(func(d *fakeDB) { d.identity = txn.Identity{System: 99} })
		c, err := Open(t.Context(), w.config())
		if err != nil {
			t.Fatal(err)
		}
		rest()
		all, err := c.Resources(t.Context())
		if err != nil || all[1].Up || txn.ReasonOf(all[1].Err) != txn.Reason(txn.CauseIdentity) {
			t.Errorf("resources %+v, %v", all, err)
		}
		w.dbs["b"].set(func(d *fakeDB) {
			if len(d.rolledBack) != 0 {
				t.Error("a branch was rolled back in a database that is not the registered one")
			}
			d.identity = real
		})
		w.settled()
		w.want(1, 1)
		c.Close()
	})
}

// TestPlanAndSettle: what recovery would do, and that it does it.
func TestPlanAndSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		decided, undecided := w.inDoubt()
		foreign := txn.Name{Log: w.log ^ 1, Seq: 1, Branch: 1}
		w.dbs["a"].prepare(foreign)
		w.dbs["b"].set(func(d *fakeDB) {
			// The decided branch of b has been committed already; its evidence will say so.
			for n, xid := range d.prepared {
				if n.ID() == decided {
					d.end(n, xid, txn.StandingCommitted)
				}
			}
		})
		state, info, err := ReadState(w.disk, logDir)
		if err != nil {
			t.Fatal(err)
		}
		rows, err := Plan(t.Context(), PlanRequest{State: state, Resources: w.config().Resources,
			Fence: txn.Fence{Log: info.ID, Epoch: info.Epoch}})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]protocol.Label{}
		for _, r := range rows {
			got[r.Resource+" "+r.Name.String()] = r.Label
		}
		for key, label := range map[string]protocol.Label{
			"a " + txn.NameOf(decided, 1).String():   'A',
			"b " + txn.NameOf(decided, 2).String():   'B',
			"a " + txn.NameOf(undecided, 1).String(): 'E',
			"b " + txn.NameOf(undecided, 2).String(): 'E',
			"a " + foreign.String():                  'H',
		} {
			if got[key] != label {
				t.Errorf("%s: %s, want %s", key, got[key], label)
			}
		}
		if len(rows) != 5 {
			t.Errorf("rows %+v", rows)
		}
		w.want2(map[string][2]int{"a": {0, 0}, "b": {1, 0}})
		c := w.open()
		if err := c.Settle(t.Context()); err != nil {
			t.Error(err)
		}
		w.want(1, 1)
		left, err := c.Plan(t.Context(), nil)
		if err != nil ||
			!slices.EqualFunc(left, []protocol.Label{'H'}, func(r PlanRow, l protocol.Label) bool {
				return r.Label == l
			}) {
			t.Errorf("left %+v, %v", left, err)
		}
	})
}

// TestDiskFull: new transactions are refused, those under way are decided and finished, and it
// resumes by itself.
func TestDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open(func(cfg *Config) { cfg.SnapshotEvery = 1 << 40 })
		w.disk.SetCapacity(w.disk.Used())
		var id txn.ID
		var votes []txn.BranchVote
		w.await("the disk to be full", func() bool {
			b, err := c.Begin(t.Context(), txn.BeginRequest{Resources: []string{"a", "b"}})
			if err != nil {
				if txn.ReasonOf(err) != txn.ReasonLogFull {
					t.Fatal(err)
				}
				return true
			}
			if !id.IsZero() {
				w.commit(c, id, votes, txn.AckApplied)
			}
			id, votes = b.ID, nil
			for _, e := range b.Branches {
				votes = append(votes, w.dbs[e.Resource].prepare(e.Name))
			}
			return false
		})
		if r := w.commit(c, id, votes, txn.AckApplied); r.Outcome != txn.OutcomeCommitted {
			t.Errorf("the transaction under way: %+v", r)
		}
		w.disk.SetCapacity(0)
		w.await("room again", func() bool {
			_, err := c.Begin(t.Context(), txn.BeginRequest{})
			return err == nil
		})
	})
}

var _ participant.Describer = (*fakeDB)(nil)

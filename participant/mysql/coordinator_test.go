package mysql_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/participant/mysql"
	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// databases are two resources at one server: what is prepared in one is listed by both.
var databases = []string{"bank", "other"}

// openCoordinator opens one over both databases, and waits until transactions may name them.
func openCoordinator(
	t *testing.T, dir string, change ...func(*coordinator.Config),
) (*coordinator.Coordinator, func()) {
	t.Helper()
	conf := coordinator.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler),
		Grace: 50 * time.Millisecond, SweepEvery: 20 * time.Millisecond}
	for _, f := range change {
		f(&conf)
	}
	var managers []*mysql.Resource
	for _, database := range databases {
		c := config(srv)
		c.Name, c.DSN = database, srv.DSN("gavel", database)
		r, err := mysql.New(c)
		if err != nil {
			t.Fatal(err)
		}
		managers = append(managers, r)
		conf.Resources = append(conf.Resources,
			coordinator.Resource{Name: database, Kind: "mysql", Manager: r})
	}
	coord, err := coordinator.Open(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the resources to be registered", func() bool {
		begun, err := coord.Begin(t.Context(), txn.BeginRequest{Resources: databases})
		if err != nil {
			return false
		}
		_, err = coord.Rollback(t.Context(), begun.ID, "only a question")
		return err == nil
	})
	return coord, func() {
		if err := coord.Close(); err != nil {
			t.Error(err)
		}
		for _, r := range managers {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// votes begins a transaction, prepares a branch in each database, and returns the votes.
func votes(
	t *testing.T, coord *coordinator.Coordinator, key string,
) (txn.ID, []txn.BranchVote) {
	t.Helper()
	begun, err := coord.Begin(context.Background(), txn.BeginRequest{Resources: databases})
	if err != nil {
		t.Fatal(err)
	}
	var all []txn.BranchVote
	for _, b := range begun.Branches {
		v := connect(t, srv, "app", b.Resource).begin(b.Name, key).Prepare(context.Background(),
			xabranch.PrepareOptions{})
		if v.Vote != txn.VoteYes {
			t.Fatalf("vote %v: %s", v.Vote, v.Reason)
		}
		all = append(all, txn.BranchVote{Branch: b.Branch, Vote: v.Vote, Evidence: v.Evidence})
	}
	return begun.ID, all
}

// both asserts that an effect is in both databases, or in none.
func both(t *testing.T, key string, want string) {
	t.Helper()
	for _, database := range databases {
		got := connect(t, srv, "gavel", database).ask(
			"SELECT COUNT(*) FROM effects WHERE k = '" + key + "'")
		if got != want {
			t.Errorf("%s: %s of %s in %s, want %s", t.Name(), got, key, database, want)
		}
	}
}

// TestCoordinator commits over two databases, also one by one of many callers, after a crash of the
// server, and rolls back what an earlier life of the coordinator has left.
func TestCoordinator(t *testing.T) {
	dir := t.TempDir() + "/log"
	if _, err := coordinator.Init(vfs.OS(), dir); err != nil {
		t.Fatal(err)
	}
	coord, shut := openCoordinator(t, dir)
	run := newName().String() + " "
	commit := func(key string, ack txn.AckLevel) {
		id, all := votes(t, coord, run+key)
		r, err := coord.Commit(context.Background(),
			txn.CommitRequest{ID: id, Votes: all, Ack: ack})
		if err != nil || r.Outcome != txn.OutcomeCommitted {
			t.Errorf("%s: %v, %v", key, r.Outcome, err)
		}
		if ack == txn.AckApplied && len(r.Pending()) > 0 {
			t.Errorf("%s: pending at %v", key, r.Pending())
		}
	}
	commit("one", txn.AckApplied)
	both(t, run+"one", "1")
	var wg sync.WaitGroup
	for _, key := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		wg.Go(func() { commit(key, txn.AckApplied) })
	}
	wg.Wait()
	commit("decided", txn.AckDecided)
	observer := connect(t, srv, "root", "other")
	await(t, "the decided one to be applied", func() bool {
		return observer.ask("SELECT COUNT(*) FROM effects WHERE k = '"+run+"decided'") == "1"
	})

	id, all := votes(t, coord, run+"crashed")
	crash(t)
	r, err := coord.Commit(t.Context(), txn.CommitRequest{ID: id, Votes: all,
		Wait: time.Minute})
	if err != nil || r.Outcome != txn.OutcomeCommitted || len(r.Pending()) > 0 {
		t.Errorf("after the crash: %+v, %v", r, err)
	}
	both(t, run+"crashed", "1")

	votes(t, coord, run+"orphan")
	shut()
	coord, shut = openCoordinator(t, dir)
	observer = connect(t, srv, "root", "bank")
	await(t, "the orphan to be rolled back", func() bool {
		p, err := xabranch.Recover(t.Context(), observer.Conn)
		return err == nil && len(p.Names) == 0
	})
	both(t, run+"orphan", "0")
	shut()
	rows := "SELECT COUNT(*) FROM gavel.branch"
	ended := observer.ask(rows)
	observer.run("SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
	if all := observer.ask(rows); all != ended {
		t.Errorf("%s rows, of which %s are committed, and nothing is prepared", all, ended)
	}
}

// TestRowsGoAfterTheRetention: the coordinator says how far it may still ask, also after a restart,
// and what is older goes.
func TestRowsGoAfterTheRetention(t *testing.T) {
	dir := t.TempDir() + "/log"
	if _, err := coordinator.Init(vfs.OS(), dir); err != nil {
		t.Fatal(err)
	}
	short := func(c *coordinator.Config) { c.Retention = 100 * time.Millisecond }
	observer := connect(t, srv, "root", "bank")
	for range 2 {
		coord, shut := openCoordinator(t, dir, short)
		rows := "SELECT COUNT(*) FROM gavel.branch WHERE name LIKE 'gavel1." +
			coord.LogID().String() + ".%'"
		id, all := votes(t, coord, newName().String())
		r, err := coord.Commit(t.Context(), txn.CommitRequest{ID: id, Votes: all})
		if err != nil || r.Outcome != txn.OutcomeCommitted {
			t.Errorf("%+v: %v", r, err)
		}
		await(t, "the rows to go", func() bool { return observer.ask(rows) == "0" })
		// By then the outcome is not told any more either.
		r, err = coord.Outcome(t.Context(), id)
		if err != nil || r.Outcome != txn.OutcomeForgotten {
			t.Errorf("its rows are gone, and its outcome is %v, %v", r.Outcome, err)
		}
		shut()
	}
}

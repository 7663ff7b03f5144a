package mysql_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/mysql"
	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/txn"
)

// held asserts that a resource answers Held and finishes nothing.
func held(t *testing.T, r *mysql.Resource, f txn.Fence, b participant.Branch, say string) {
	t.Helper()
	for _, call := range []string{"inquire", "commit", "rollback"} {
		do := r.Inquire
		switch call {
		case "commit":
			do = r.Commit
		case "rollback":
			do = r.Rollback
		}
		if got := standing(t, do, f, b, txn.StandingHeld); !strings.Contains(got.Reason, say) {
			t.Errorf("%s: reason %q", call, got.Reason)
		}
	}
	v, err := r.Prepare(t.Context(), f, []participant.Branch{b})
	if err != nil || v[0].Vote != txn.VoteUnknown || !strings.Contains(v[0].Reason, say) {
		t.Errorf("vote %+v, %v", v, err)
	}
	if _, err := r.List(t.Context(), f); err == nil {
		t.Error("it lists all the same")
	}
}

// A server that took the place of another is held until somebody accepts it.
func TestAnotherServerIsHeld(t *testing.T) {
	root := connect(t, srv, "root", "bank")
	r, f := openResource(t, config(srv)), newFence()
	commitOne(t, r, f)
	b := prepared(t, srv, "bank")
	before, _ := r.Seen()
	// As a replica that was promoted would have it.
	root.run("SET GLOBAL server_id = 99")
	defer root.run("SET GLOBAL server_id = 1")
	r.Expect(before, txn.Position{})
	held(t, r, f, b, "which was registered")

	place, err := xabranch.Look(t.Context(), root.Conn)
	if err != nil {
		t.Fatal(err)
	}
	r.Expect(place.Identity, place.Position)
	standing(t, r.Rollback, f, b, txn.StandingRolledBack)
}

// A server whose history went backwards is held: a backup was restored.
func TestARestoredBackupIsHeld(t *testing.T) {
	root := connect(t, srv, "root", "bank")
	r, f := openResource(t, config(srv)), newFence()
	b := prepared(t, srv, "bank")
	standing(t, r.Inquire, f, b, txn.StandingPrepared)
	high := root.ask("SELECT high FROM gavel.identity")
	root.run("UPDATE gavel.identity SET high = 1")
	held(t, openHeld(t, r), f, b, "went backwards")
	root.run("UPDATE gavel.identity SET high = " + high)
	standing(t, r.Rollback, f, b, txn.StandingRolledBack)
}

// A crash takes back what a server has shown and not synced. What was only read of its history is
// not held against it, and what was listed is durable.
func TestWhatWasOnlyReadIsNoHistory(t *testing.T) {
	root := connect(t, srv, "root", "bank")
	r, f := openResource(t, config(srv)), newFence()
	commitOne(t, r, f)
	b := prepared(t, srv, "bank")
	// From here on nothing is synced but by who asks for it.
	root.run("SET GLOBAL innodb_flush_log_at_timeout = 2700")
	unsynced := func() {
		root.run("SET GLOBAL innodb_flush_log_at_trx_commit = 0")
		root.run("UPDATE gavel.identity SET high = high + 100")
		root.run("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
	}
	unsynced()
	if _, err := r.Inquire(t.Context(), f, []participant.Branch{{Name: newName(),
		Evidence: txn.Evidence{Identity: b.Evidence.Identity}}}); err != nil {
		t.Fatal(err)
	}
	crash(t)
	standing(t, r.Inquire, f, b, txn.StandingPrepared)

	root = connect(t, srv, "root", "bank")
	root.run("SET GLOBAL innodb_flush_log_at_timeout = 2700")
	for what, position := range map[string]func() (txn.Position, error){
		"listed": func() (txn.Position, error) {
			l, err := r.List(t.Context(), f)
			return l.Position, err
		},
		"described": func() (txn.Position, error) {
			d, err := r.Describe(t.Context())
			return d.Position, err
		},
	} {
		unsynced()
		at, err := position()
		if err != nil {
			t.Fatal(err)
		}
		crash(t)
		root = connect(t, srv, "root", "bank")
		place, err := xabranch.Look(t.Context(), root.Conn)
		if err != nil || place.Position.Before(at) {
			t.Errorf("%s at %d, and after the crash at %d (%v)", what, at.LSN, place.Position.LSN,
				err)
		}
		root.run("SET GLOBAL innodb_flush_log_at_timeout = 2700")
	}
	standing(t, r.Rollback, f, b, txn.StandingRolledBack)
}

// openHeld is a resource that knows what another one has seen.
func openHeld(t *testing.T, other *mysql.Resource) *mysql.Resource {
	t.Helper()
	c := config(srv)
	c.Expect, c.Seen = other.Seen()
	if _, err := mysql.Open(t.Context(), c); err == nil {
		t.Error("opened a server that went backwards")
	} else if held, ok := errors.AsType[*mysql.HeldError](err); !ok || held.Resource != "bank_a" {
		t.Errorf("opened: %v", err)
	}
	r, err := mysql.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// A server that takes no writes is asked again later; nothing is known about any branch.
func TestReadOnlyServer(t *testing.T) {
	root := connect(t, srv, "root", "bank")
	r, f := openResource(t, config(srv)), newFence()
	b := prepared(t, srv, "bank")
	root.run("SET GLOBAL read_only = 1")
	_, err := r.List(t.Context(), f)
	_, asked := r.Inquire(t.Context(), f, []participant.Branch{b})
	root.run("SET GLOBAL read_only = 0")
	for _, err := range []error{err, asked} {
		if !errors.Is(err, xabranch.ErrReadOnly) {
			t.Errorf("asked a read-only server: %v", err)
		}
	}
	standing(t, r.Commit, f, b, txn.StandingCommitted)
}

// The server does not sync: what is listed may be lost, and is no vote, and no commit is durable.
func TestUnsynced(t *testing.T) {
	root := connect(t, srv, "root", "bank")
	r, f, b := openResource(t, config(srv)), newFence(), prepared(t, srv, "bank")
	root.run("SET GLOBAL innodb_flush_log_at_trx_commit = 0")
	v, err := r.Prepare(t.Context(), f, []participant.Branch{b})
	// What commits meanwhile is told once the server syncs again.
	for range 2 {
		got := standing(t, r.Commit, f, b, txn.StandingUnknown)
		if !strings.Contains(got.Reason, "SET GLOBAL innodb_flush_log_at_trx_commit = 1") {
			t.Errorf("reason %q", got.Reason)
		}
	}
	root.run("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
	if err != nil || v[0].Vote != txn.VoteUnknown || v[0].Reason == "" {
		t.Errorf("vote %+v, %v", v, err)
	}
	standing(t, r.Commit, f, b, txn.StandingCommitted)
}

// Large calls go over several connections, and more branches than a connection takes are finished.
func TestManyBranches(t *testing.T) {
	r, f := openResource(t, config(srv)), newFence()
	var batch []participant.Branch
	for range 60 {
		batch = append(batch, prepared(t, srv, "bank"))
	}
	l, err := r.List(t.Context(), f)
	if err != nil || len(l.Branches) != len(batch) {
		t.Fatalf("%d listed, %v", len(l.Branches), err)
	}
	got, err := r.Commit(t.Context(), f, batch)
	if err != nil {
		t.Fatal(err)
	}
	for i, g := range got {
		if g.Standing != txn.StandingCommitted {
			t.Errorf("%s: %v (%s)", batch[i].Name, g.Standing, g.Reason)
		}
	}
}

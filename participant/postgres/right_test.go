package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/postgres"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

// rightHolder is the process id of the session that holds the right of the test log.
func rightHolder(observer *session) string {
	observer.t.Helper()
	return observer.run(fmt.Sprintf(`SELECT coalesce(max(pid), 0) FROM pg_locks
		WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND mode = 'ExclusiveLock'
		AND classid::bigint = %d AND objid::bigint = %d`,
		uint64(testLog)>>32, uint32(testLog)))
}

// commitOne has a resource commit a branch, for which it must hold the right.
func commitOne(t *testing.T, r *postgres.Resource, f txn.Fence) {
	t.Helper()
	b := connect(t, srv, "app").prepare("gavel_owner")
	standing(t, r.Commit, f, b, txn.StandingCommitted)
}

func TestHoldersSayWhoTheyAre(t *testing.T) {
	r, observer, f := openResource(t, config(srv)), connect(t, srv, "postgres"), newFence()
	commitOne(t, r, f)
	names := observer.run(fmt.Sprintf(`SELECT count(*) FROM pg_stat_activity
		WHERE application_name LIKE 'gavel/%s/%d/%%'`, testLog, f.Epoch))
	if names != "2" {
		t.Errorf(
			"%s sessions carry log and epoch, want the control connection and one that finishes",
			names,
		)
	}
}

// A newer epoch ends all sessions of the older process, not only the one that holds the right: one
// of them may be about to send a COMMIT PREPARED.
func TestTakeoverEndsTheWholeCrew(t *testing.T) {
	observer := connect(t, srv, "postgres")
	old, young := openResource(t, config(srv)), openResource(t, config(srv))
	f := newFence()
	commitOne(t, old, f)
	before := observer.run(`SELECT string_agg(pid::text, ',') FROM pg_stat_activity
		WHERE application_name LIKE 'gavel/` + testLog.String() + `/%'`)
	newer := newFence()
	commitOne(t, young, newer)
	left := observer.run("SELECT count(*) FROM pg_stat_activity WHERE pid IN (" + before + ")")
	if len(strings.Split(before, ",")) != 2 || left != "0" {
		t.Errorf("of the sessions %s, %s are left", before, left)
	}
	b := connect(t, srv, "app").prepare("gavel_owner")
	if _, err := old.Rollback(t.Context(), f, []participant.Branch{b}); !errors.Is(err,
		participant.ErrFenced) {
		t.Errorf("the deposed process: %v", err)
	}
	// A process that starts only now, with the old epoch, has seen nothing, and is told.
	late := openResource(t, config(srv))
	if _, err := late.Commit(t.Context(), f, []participant.Branch{b}); !errors.Is(err,
		participant.ErrFenced) {
		t.Errorf("a late starter: %v", err)
	}
	standing(t, young.Commit, newer, b, txn.StandingCommitted)
}

// A connection of the old process that joins its crew late must see that the right is gone. Here
// its control connection is ended behind its back, and another process takes the right.
func TestALateJoinerOfADeposedCrewIsRefused(t *testing.T) {
	observer := connect(t, srv, "postgres")
	first, second := openResource(t, config(srv)), openResource(t, config(srv))
	f := newFence()
	commitOne(t, first, f)
	observer.run("SELECT pg_terminate_backend(" + rightHolder(observer) + ", 60000)")
	commitOne(t, second, f)
	b := connect(t, srv, "app").prepare("gavel_owner")
	got, err := first.Commit(t.Context(), f, []participant.Branch{b})
	if !errors.Is(err, participant.ErrNotResolver) {
		t.Errorf("the process that lost its right: %+v, %v", got, err)
	}
	if !observer.listed(b.Name) {
		t.Error("a branch was finished without the right")
	}
	standing(t, second.Commit, f, b, txn.StandingCommitted)
}

func TestARightThatWasLostIsTakenAgain(t *testing.T) {
	observer, r, f := connect(t, srv, "postgres"), openResource(t, config(srv)), newFence()
	commitOne(t, r, f)
	for range 2 {
		holder := rightHolder(observer)
		observer.run(`SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
			WHERE usename = 'gavel'`)
		commitOne(t, r, f)
		if again := rightHolder(observer); again == holder || again == "0" {
			t.Errorf("held by %s, then by %s", holder, again)
		}
	}
	// Only the control connection ends: those that had joined go on, and no other process can act.
	observer.run("SELECT pg_terminate_backend(" + rightHolder(observer) + ", 60000)")
	commitOne(t, r, f)
}

func TestAHolderThatIsNotOursIsLeftAlone(t *testing.T) {
	observer, r := connect(t, srv, "postgres"), openResource(t, config(srv))
	b := connect(t, srv, "app").prepare("gavel_owner")
	right := fmt.Sprintf("SELECT pg_advisory_lock(%d)", testLog)
	// The lock of a log's crew.
	crew := fmt.Sprintf("SELECT pg_advisory_lock_shared(%d)", uint64(testLog)|1<<60)
	name := func(epoch uint32) string { return fmt.Sprintf("gavel/%s/%d/X", testLog, epoch) }
	for what, c := range map[string]struct{ role, application, lock, sqlstate string }{
		"a person":                   {"gavel", "psql", right, ""},
		"another role, of old":       {"postgres", name(0), right, ""},
		"another role, of times off": {"app", name(4000000000), right, ""},
		"another role in the crew":   {"app", name(4000000000), crew, "42501"},
		"a superuser in the crew":    {"postgres", name(0), crew, "42501"},
	} {
		holder := connect(t, srv, c.role)
		pid := holder.run("SELECT pg_backend_pid()")
		holder.run("SET application_name = '" + c.application + "'; " + c.lock)
		_, err := r.Commit(t.Context(), newFence(), []participant.Branch{b})
		if !errors.Is(err, participant.ErrNotResolver) || errors.Is(err, participant.ErrFenced) ||
			pgbranch.SQLState(err) != c.sqlstate {
			t.Errorf("%s holds the right: %v", what, err)
		} else if text := err.Error(); !strings.Contains(text, "of role "+c.role) ||
			!strings.Contains(text, pid) {
			t.Errorf("%s is not named: %v", what, err)
		}
		if holder.run("SELECT 1") != "1" || !observer.listed(b.Name) {
			t.Errorf("%s: session or branch was ended", what)
		}
		holder.run("SELECT pg_advisory_unlock_all()")
		holder.Close(context.Background())
		await(t, "the lock to be free", func() bool { return rightHolder(observer) == "0" })
	}
	standing(t, r.Commit, newFence(), b, txn.StandingCommitted)
}

func TestRightsArePerLog(t *testing.T) {
	first, second := openResource(t, config(srv)), openResource(t, config(srv))
	app := connect(t, srv, "app")
	one, two := newFence(), txn.Fence{Log: testLog + 1, Epoch: 1}
	a, b := app.prepare("gavel_owner"), app.prepareAs("gavel_owner",
		txn.Name{Log: testLog + 1, Seq: 1, Branch: 1})
	standing(t, first.Commit, one, a, txn.StandingCommitted)
	standing(t, second.Commit, two, b, txn.StandingCommitted)
	if _, err := first.Commit(t.Context(), two, []participant.Branch{b}); !errors.Is(err,
		participant.ErrNotResolver) {
		t.Errorf("the right of the other log: %v", err)
	}
	commitOne(t, first, one)
}

func TestCloseGivesTheRightUp(t *testing.T) {
	observer, r, f := connect(t, srv, "postgres"), openResource(t, config(srv)), newFence()
	commitOne(t, r, f)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	await(t, "the right to be free", func() bool { return rightHolder(observer) == "0" })
	// A call that comes too late must not leave a connection behind that nobody closes any more.
	_, err := r.Commit(t.Context(), f, []participant.Branch{{Name: newName()}})
	if !errors.Is(err, postgres.ErrClosed) || rightHolder(observer) != "0" {
		t.Errorf("commit after close: %v, the right is held by %s", err, rightHolder(observer))
	}
	commitOne(t, openResource(t, config(srv)), f)
}

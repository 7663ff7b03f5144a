package mysql_test

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/mysql"
	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/txn"
)

// bankNumber is the number of the database in identities.
func bankNumber() uint32 { return crc32.ChecksumIEEE([]byte("bank")) }

// rightHolder is the session that holds the right of the test log, or 0.
func rightHolder(observer *session) string {
	observer.t.Helper()
	return observer.ask(fmt.Sprintf(
		"SELECT COALESCE(IS_USED_LOCK('gavel.right.%s.%08x'), 0)", testLog, bankNumber()))
}

// crew are the sessions that hold a place in the crew of the test log.
func crew(observer *session) (ids []string) {
	observer.t.Helper()
	for i := range 64 {
		id := observer.ask(fmt.Sprintf(
			"SELECT COALESCE(IS_USED_LOCK('gavel.crew.%s.%08x.%d'), 0)", testLog, bankNumber(), i))
		if id != "0" {
			ids = append(ids, id)
		}
	}
	return ids
}

// commitOne has a resource commit a branch, for which it must hold the right.
func commitOne(t *testing.T, r *mysql.Resource, f txn.Fence) {
	t.Helper()
	standing(t, r.Commit, f, prepared(t, srv, "bank"), txn.StandingCommitted)
}

// A newer epoch ends all sessions of the older process, not only the one that holds the right: one
// of them may be about to send an XA COMMIT.
func TestTakeoverEndsTheWholeCrew(t *testing.T) {
	observer := connect(t, srv, "root", "bank")
	old, young := openResource(t, config(srv)), openResource(t, config(srv))
	f := newFence()
	commitOne(t, old, f)
	before := append(crew(observer), rightHolder(observer))
	newer := newFence()
	commitOne(t, young, newer)
	if len(before) != 2 {
		t.Errorf("sessions %v of the old process", before)
	}
	await(t, "the old sessions to end", func() bool {
		return observer.ask("SELECT COUNT(*) FROM information_schema.processlist WHERE id IN ("+
			strings.Join(before, ", ")+")") == "0"
	})
	b := prepared(t, srv, "bank")
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

// The epoch is remembered by the server, when nobody holds the right any more and after a crash.
func TestTheEpochIsRemembered(t *testing.T) {
	old, f, newer := openResource(t, config(srv)), newFence(), newFence()
	r, err := mysql.Open(t.Context(), config(srv))
	if err != nil {
		t.Fatal(err)
	}
	commitOne(t, r, newer)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	crash(t)
	b := prepared(t, srv, "bank")
	if _, err := old.Commit(t.Context(), f, []participant.Branch{b}); !errors.Is(err,
		participant.ErrFenced) {
		t.Errorf("the older epoch: %v", err)
	}
	standing(t, old.Rollback, newer, b, txn.StandingRolledBack)
}

// A connection of the old process that joins its crew late must see that the right is gone. Here
// its control connection is ended behind its back, and another process takes the right.
func TestALateJoinerOfADeposedCrewIsRefused(t *testing.T) {
	observer := connect(t, srv, "root", "bank")
	first, second := openResource(t, config(srv)), openResource(t, config(srv))
	f := newFence()
	commitOne(t, first, f)
	observer.run("KILL " + rightHolder(observer))
	await(t, "the right to be free", func() bool { return rightHolder(observer) == "0" })
	commitOne(t, second, f)
	b := prepared(t, srv, "bank")
	got, err := first.Commit(t.Context(), f, []participant.Branch{b})
	if !errors.Is(err, participant.ErrNotResolver) {
		t.Errorf("the process that lost its right: %+v, %v", got, err)
	}
	if effect(t, srv, b.Name.String()) {
		t.Error("a branch was finished without the right")
	}
	standing(t, second.Commit, f, b, txn.StandingCommitted)
}

// A process whose connections were cut takes its right again. As long as its crew lives it may even
// finish without the right: nobody who takes that leaves one of the crew alive.
func TestARightIsTakenAgain(t *testing.T) {
	observer, r, f := connect(t, srv, "root", "bank"), openResource(t, config(srv)), newFence()
	commitOne(t, r, f)
	observer.run("KILL " + rightHolder(observer))
	await(t, "the right to be free", func() bool { return rightHolder(observer) == "0" })
	commitOne(t, r, f)
	for _, id := range crew(observer) {
		observer.run("KILL " + id)
	}
	commitOne(t, r, f)
	if rightHolder(observer) == "0" || len(crew(observer)) == 0 {
		t.Error("it finishes without the right, and without a crew")
	}
}

// One adapter serves several logs, and no more than there is room for.
func TestSeveralLogs(t *testing.T) {
	r := openResource(t, config(srv))
	for i := range 17 {
		f := txn.Fence{Log: testLog + 1 + txn.LogID(i), Epoch: 1, LSN: 1}
		name := newName()
		name.Log = f.Log
		b := prepareAs(t, connect(t, srv, "app", "bank"), name)
		if i < 16 {
			standing(t, r.Commit, f, b, txn.StandingCommitted)
			continue
		}
		_, err := r.Commit(t.Context(), f, []participant.Branch{b})
		if !errors.Is(err, mysql.ErrTooManyLogs) {
			t.Errorf("log %d: %v", i, err)
		}
		resolve(t, srv, name, false)
	}
}

// An application that keeps its connection does not hold up what was decided: its session is ended.
func TestAHangingApplication(t *testing.T) {
	r, f := openResource(t, config(srv)), newFence()
	for _, commit := range []bool{true, false} {
		b := participant.Branch{Name: newName()}
		raw(t, b.Name, []string{"XA START", "work", "row", "XA END", "XA PREPARE"})
		v, err := r.Prepare(t.Context(), f, []participant.Branch{b})
		if err != nil || v[0].Vote != txn.VoteYes {
			t.Fatalf("%+v, %v", v, err)
		}
		b.Evidence = v[0].Evidence
		if commit {
			standing(t, r.Commit, f, b, txn.StandingCommitted)
		} else {
			standing(t, r.Rollback, f, b, txn.StandingRolledBack)
		}
		if effect(t, srv, b.Name.String()) != commit {
			t.Errorf("effect %v, want %v", !commit, commit)
		}
	}
}

// What was prepared without a row is not voted for and not committed; a rollback ends it, and
// nothing proves that it did.
func TestWithoutARow(t *testing.T) {
	r, f, b := openResource(t, config(srv)), newFence(), participant.Branch{Name: newName()}
	raw(t, b.Name, []string{"XA START", "work", "XA END", "XA PREPARE"})
	v, err := r.Prepare(t.Context(), f, []participant.Branch{b})
	if err != nil || v[0].Vote != txn.VoteUnknown || v[0].Reason == "" {
		t.Errorf("%+v, %v", v, err)
	}
	standing(t, r.Inquire, f, b, txn.StandingUnknown)
	if got := standing(t, r.Commit, f, b, txn.StandingUnknown); got.Reason == "" {
		t.Error("not committed without a reason")
	}
	l, err := r.List(t.Context(), f)
	if err != nil || len(l.Branches) != 1 || !l.Branches[0].Ours ||
		l.Branches[0].Evidence.XID != 0 {
		t.Errorf("listed %+v, %v", l.Branches, err)
	}
	// Nobody knows its session, which has to end by itself.
	await(t, "the rollback", func() bool {
		got, err := r.Rollback(context.Background(), f, []participant.Branch{b})
		if err != nil {
			t.Fatal(err)
		}
		if got[0].Standing == txn.StandingUnknown {
			endSessions(t, "app")
		}
		return got[0].Standing == txn.StandingGone && got[0].Reason != ""
	})
	if l, err = r.List(t.Context(), f); err != nil || len(l.Branches) != 0 {
		t.Errorf("listed %+v, %v", l.Branches, err)
	}
	if effect(t, srv, b.Name.String()) {
		t.Error("it is committed")
	}
}

// endSessions ends all sessions of an account.
func endSessions(t *testing.T, account string) {
	t.Helper()
	connect(t, srv, "root", "bank").run("KILL USER " + account)
}

// A branch of another database of the server is somebody else's.
func TestAnotherDatabase(t *testing.T) {
	r, f, b := openResource(t, config(srv)), newFence(), prepared(t, srv, "other")
	for range 2 {
		standing(t, r.Commit, f, b, txn.StandingForeign)
		standing(t, r.Inquire, f, b, txn.StandingForeign)
	}
	c := config(srv)
	c.DSN = srv.DSN("gavel", "other")
	standing(t, openResource(t, c).Commit, newFence(), b, txn.StandingCommitted)
	seen, err := xabranch.Sight(t.Context(), connect(t, srv, "root", "bank").Conn,
		[]txn.Name{b.Name})
	if err != nil || seen[b.Name].State != xabranch.StateHidden {
		t.Errorf("%+v, %v", seen, err)
	}
}

package xabranch_test

import (
	"context"
	"database/sql"
	"sync"
	"testing"
	"time"

	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/txn"
)

// preparedOpen prepares by raw statements, without a row and a user lock, or with them, and leaves
// the session as it is.
func (s *session) preparedOpen(name txn.Name, marked bool) {
	s.t.Helper()
	if marked {
		s.run("DO GET_LOCK('" + name.String() + "', 0)")
	}
	xid := xabranch.Literal(name)
	s.run("XA START " + xid)
	s.run("INSERT INTO effects VALUES ('" + name.String() + "')")
	if marked {
		s.run("INSERT INTO gavel.branch (name, db, connection, user) VALUES ('" + name.String() +
			"', DATABASE(), CONNECTION_ID(), CURRENT_USER())")
	}
	s.run("XA END " + xid)
	s.run("XA PREPARE " + xid)
}

// MariaDB 10.11: a branch that its session still holds is listed, and unknown to XA COMMIT. Ending
// the session frees it.
func TestAttached(t *testing.T) {
	for _, commit := range []bool{true, false} {
		name, owner, other := newName(), connect(t), connect(t)
		owner.preparedOpen(name, true)
		at := other.sight(name)
		if at.State != xabranch.StateAttached || !at.HasRow || at.Row.Database != "bank" {
			t.Errorf("seen %+v", at)
		}
		if got := other.finish(commit, name); got.Result != xabranch.FinishMissing {
			t.Errorf("finished by another session: %v (%v)", got.Result, got.Err)
		}
		if err := xabranch.Detach(t.Context(), other.Conn, at.Session); err != nil {
			t.Fatal(err)
		}
		other.awaitState(name, xabranch.StateFree)
		if err := xabranch.Detach(t.Context(), other.Conn, at.Session); err != nil {
			t.Errorf("ending what has ended: %v", err)
		}
		if got := other.finish(commit, name); got.Result != xabranch.FinishDone {
			t.Errorf("finished: %v (%v)", got.Result, got.Err)
		}
		if other.effect(name) != commit {
			t.Errorf("effect %v, want %v", !commit, commit)
		}
		if got := other.finish(commit, name); got.Result != xabranch.FinishMissing {
			t.Errorf("finished again: %v (%v)", got.Result, got.Err)
		}
	}
}

// Connection ids begin anew when a server is restarted. A stranger who has that of a branch's
// session must not be waited for, nor ended.
func TestConnectionIDsAreUsedAgain(t *testing.T) {
	name := newName()
	connect(t).prepare(name)
	srv.Kill()
	if err := srv.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := connect(t)
	id := other.ask("SELECT CONNECTION_ID()")
	other.awaitState(name, xabranch.StateFree)
	other.run("SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
	had := other.ask("SELECT connection FROM gavel.branch WHERE name = '" + name.String() + "'")
	for len(id) < len(had) || len(id) == len(had) && id < had {
		id = connect(t).ask("SELECT CONNECTION_ID()")
	}
	if at := other.sight(name); at.State != xabranch.StateFree {
		t.Errorf("seen %+v beside connection %s", at, had)
	}
	if got := other.finish(true, name); got.Result != xabranch.FinishDone {
		t.Errorf("finished: %v (%v)", got.Result, got.Err)
	}
}

// A foreign XID is counted, and one of our format that is no name of ours as well.
func TestRecoverCountsStrangers(t *testing.T) {
	s := connect(t)
	before, err := xabranch.Recover(t.Context(), s.Conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, xid := range []string{"'a','b',1", "'gavel1.x','1',1196837937"} {
		stranger := connect(t)
		for _, verb := range []string{"XA START ", "XA END ", "XA PREPARE "} {
			stranger.run(verb + xid)
		}
		defer stranger.run("XA ROLLBACK " + xid)
	}
	after, err := xabranch.Recover(t.Context(), s.Conn)
	if err != nil || after.Unknown != before.Unknown+2 || len(after.Names) != len(before.Names) {
		t.Errorf("%d unknown and %d names (%v), before %d and %d", after.Unknown, len(after.Names),
			err, before.Unknown, len(before.Names))
	}
}

// raced runs branches whose sessions end while somebody finishes them, and returns those of which
// the server said OK and that it lost sight of.
func raced(t *testing.T, branches, workers int, sighted bool) (lost []txn.Name) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range workers {
		finisher := connect(t)
		wg.Go(func() {
			db, err := sql.Open("mysql", srv.DSN("root", "bank"))
			if err != nil {
				t.Error(err)
				return
			}
			defer db.Close()
			for range branches / workers {
				name := newName()
				conn, err := db.Conn(context.Background())
				if err != nil {
					t.Error(err)
					return
				}
				s := &session{Conn: conn, t: t}
				s.prepare(name)
				switch got := finishNow(finisher, name, sighted); got.Result {
				case xabranch.FinishHidden:
					mu.Lock()
					lost = append(lost, name)
					mu.Unlock()
				case xabranch.FinishDone:
				default:
					t.Errorf("%s: %v (%v)", name, got.Result, got.Err)
				}
			}
		})
	}
	wg.Wait()
	return lost
}

// finishNow commits as soon as the server takes it, or when the rules allow it.
func finishNow(s *session, name txn.Name, sighted bool) xabranch.Finished {
	for {
		began := time.Now()
		if sighted && s.sight(name).State != xabranch.StateFree {
			continue
		}
		if sighted {
			<-time.After(xabranch.Settle + time.Since(began))
		}
		got := s.finish(true, name)
		if got.Result != xabranch.FinishMissing {
			return got
		}
	}
}

// MariaDB 10.11.19: an XA COMMIT that races with the end of the preparing session answers OK and
// commits nothing. No such OK is believed, and the next start of the server brings the branch back.
// It was lost in 1 of 60 to 100 branches here; ten thousand without a loss would be another server.
func TestCommitRacesWithTheSessionsEnd(t *testing.T) {
	var lost []txn.Name
	for range 20 {
		if lost = raced(t, 500, 2, false); len(lost) > 0 {
			break
		}
	}
	if len(lost) == 0 {
		t.Fatal("MariaDB lost no branch: the rules of Sight may not be needed any more")
	}
	name, observer := lost[0], connect(t)
	if at := observer.sight(name); at.State != xabranch.StateHidden {
		t.Errorf("seen %+v", at)
	}
	if observer.effect(name) {
		t.Error("it is committed after all")
	}
	place, err := xabranch.Look(t.Context(), observer.Conn)
	if err != nil {
		t.Fatal(err)
	}
	ev := txn.Evidence{Identity: place.Identity, Position: place.Position, XID: 1}
	a := standing(t, observer, name, ev)
	if a.Standing != txn.StandingUnknown || a.Reason == "" {
		t.Errorf("standing %v (%s)", a.Standing, a.Reason)
	}

	if err := srv.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	observer = connect(t)
	for _, name := range lost {
		if at := observer.sight(name); at.State != xabranch.StateFree {
			t.Fatalf("after the restart: seen %+v", at)
		}
		if got := observer.finish(true, name); got.Result != xabranch.FinishDone {
			t.Errorf("after the restart: %v (%v)", got.Result, got.Err)
		}
		if !observer.effect(name) {
			t.Error("it is not committed")
		}
	}
}

// Whoever waits until Sight says that the session has ended, and lets it settle, loses none of
// these branches, where some thirty would be lost at once. One is let pass: a machine with much
// else to do can hold a session up for longer than the wait.
func TestSightClosesTheRace(t *testing.T) {
	if lost := raced(t, 3000, 4, true); len(lost) > 1 {
		t.Errorf("%d branches were lost", len(lost))
	}
}

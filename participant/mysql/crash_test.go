package mysql_test

import (
	"context"
	"database/sql"
	"sync"
	"testing"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/mysql"
	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/txn"
)

// crash kills the server and starts it again.
func crash(t *testing.T) {
	t.Helper()
	srv.Kill()
	if err := srv.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestKillAtEachStep kills the server behind each step of a branch's life, and asks what became of
// it. Only what was prepared is left, and it ends as it is told to.
func TestKillAtEachStep(t *testing.T) {
	r := openResource(t, config(srv))
	for _, c := range []struct {
		name     string
		steps    []string
		prepared bool
	}{
		{"begun", []string{"XA START"}, false},
		{"worked", []string{"XA START", "work"}, false},
		{"row written", []string{"XA START", "work", "row"}, false},
		{"ended", []string{"XA START", "work", "row", "XA END"}, false},
		{"prepared", []string{"XA START", "work", "row", "XA END", "XA PREPARE"}, true},
	} {
		for _, commit := range []bool{true, false} {
			t.Run(c.name, func(t *testing.T) {
				b, f := participant.Branch{Name: newName()}, newFence()
				l, err := r.List(t.Context(), f)
				if err != nil {
					t.Fatal(err)
				}
				// What an intent says of a branch of which no vote is known.
				b.Evidence = txn.Evidence{Identity: l.Identity, Position: l.Position}
				raw(t, b.Name, c.steps)
				crash(t)
				want := txn.StandingGone
				if c.prepared {
					want = txn.StandingPrepared
				}
				b.Evidence.XID = standing(t, r.Inquire, f, b, want).Evidence.XID
				finishAfterCrash(t, r, f, b, commit, c.prepared)
			})
		}
	}
}

// raw takes some steps of a branch, by the statements that another program would use.
func raw(t *testing.T, name txn.Name, steps []string) {
	s := connect(t, srv, "app", "bank")
	s.run("DO GET_LOCK('" + name.String() + "', 0)")
	for _, step := range steps {
		switch step {
		case "work":
			s.run("INSERT INTO effects VALUES ('" + name.String() + "')")
		case "row":
			s.run("INSERT INTO gavel.branch (name, db, connection, user) VALUES ('" +
				name.String() + "', DATABASE(), CONNECTION_ID(), CURRENT_USER())")
		default:
			s.run(step + " " + xidOf(name))
		}
	}
}

// finishAfterCrash ends a branch, kills the server at once, and asks again.
func finishAfterCrash(
	t *testing.T, r *mysql.Resource, f txn.Fence, b participant.Branch, commit, prepared bool,
) {
	call, want := r.Rollback, txn.StandingRolledBack
	if commit {
		call, want = r.Commit, txn.StandingCommitted
	}
	if !prepared {
		want = txn.StandingGone
	}
	standing(t, call, f, b, want)
	crash(t)
	// The inquiry comes first: a rollback that the crash had undone would be done again.
	standing(t, r.Inquire, f, b, want)
	standing(t, call, f, b, want)
	if got := effect(t, srv, b.Name.String()); got != (prepared && commit) {
		t.Errorf("effect %v", got)
	}
	l, err := r.List(t.Context(), f)
	if err != nil || len(l.Branches) != 0 {
		t.Errorf("%d branches are left (%v)", len(l.Branches), err)
	}
}

// load runs branches while the server is killed again and again.
type load struct {
	t *testing.T
	r *mysql.Resource
	f txn.Fence
	// kill has a place for each time that the server is to be killed.
	kill chan struct{}

	mu        sync.Mutex
	committed map[txn.Name]bool
	voted     map[txn.Vote]int
}

// TestKillUnderLoad kills the server while branches are begun, prepared and finished. Whatever was
// decided comes to be: no branch that voted Yes is lost, and none that did not commits.
func TestKillUnderLoad(t *testing.T) {
	const kills, workers, perKill = 12, 4, 40
	l := &load{t: t, r: openResource(t, config(srv)), f: newFence(),
		kill: make(chan struct{}, kills), committed: map[txn.Name]bool{},
		voted: map[txn.Vote]int{}}
	var killing, working sync.WaitGroup
	killing.Go(func() {
		for range l.kill {
			srv.Kill()
			if err := srv.Restart(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	for range workers {
		working.Go(func() {
			for i := range kills * perKill / workers {
				l.branch(i%perKill == perKill/2)
			}
		})
	}
	working.Wait()
	close(l.kill)
	killing.Wait()
	t.Logf("votes: %v", l.voted)
	if l.voted[txn.VoteYes] == 0 {
		t.Error("no branch voted Yes")
	}
	l.sweep()
	for name, want := range l.committed {
		if got := effect(t, srv, name.String()); got != want {
			t.Errorf("%s: effect %v, want %v", name, got, want)
		}
	}
}

// branch runs one branch to its end. If kill is true the server is killed at the same time.
func (l *load) branch(kill bool) {
	name := newName()
	if kill {
		l.kill <- struct{}{}
	}
	v := l.vote(name)
	commit := v.Vote == txn.VoteYes && name.Seq%4 != 0
	l.mu.Lock()
	l.committed[name] = commit
	l.voted[v.Vote]++
	l.mu.Unlock()
	b := participant.Branch{Name: name, Evidence: v.Evidence}
	call := l.r.Rollback
	if commit {
		call = l.r.Commit
	}
	await(l.t, "the end of "+name.String(), func() bool {
		got, err := call(context.Background(), l.f, []participant.Branch{b})
		if err != nil {
			return false
		}
		switch got[0].Standing {
		case txn.StandingCommitted:
			if !commit {
				l.t.Errorf("%s is committed, and was told to roll back", name)
			}
			return true
		case txn.StandingRolledBack, txn.StandingGone:
			if commit {
				l.t.Errorf("%s is %v, and voted Yes", name, got[0].Standing)
			}
			return true
		case txn.StandingUnknown:
			return false
		}
		l.t.Errorf("%s: %v (%s)", name, got[0].Standing, got[0].Reason)
		return true
	})
}

// vote runs the application's part. Where there is no server there is no vote.
func (l *load) vote(name txn.Name) xabranch.Verdict {
	db, err := sql.Open("mysql", srv.DSN("app", "bank"))
	if err != nil {
		return xabranch.Verdict{Err: err}
	}
	defer db.Close()
	conn, err := db.Conn(context.Background())
	if err != nil {
		return xabranch.Verdict{Err: err}
	}
	defer xabranch.Discard(conn)
	b, err := xabranch.Begin(context.Background(), conn, name, xabranch.BeginOptions{})
	if err != nil {
		return xabranch.Verdict{Err: err}
	}
	// What fails here is remembered by the branch.
	_, _ = b.Exec(context.Background(), "INSERT INTO effects VALUES ('"+name.String()+"')")
	return b.Prepare(context.Background(), xabranch.PrepareOptions{})
}

// sweep rolls back what was prepared although nobody heard so: presumed abort.
func (l *load) sweep() {
	found, err := l.r.List(l.t.Context(), l.f)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, b := range found.Branches {
		if l.committed[b.Name] {
			l.t.Errorf("%s was committed, and is prepared", b.Name)
		}
		standing(l.t, l.r.Rollback, l.f, participant.Branch{Name: b.Name}, txn.StandingRolledBack)
	}
}

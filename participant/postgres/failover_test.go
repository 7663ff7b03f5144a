package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/postgres"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
	"github.com/gavel-tx/gavel/txn"
)

// lonely is a server that waits for a synchronous standby that it does not have. It is made when a
// test first needs it, and lives as long as the package.
func lonely(t *testing.T) *pghost.Server {
	t.Helper()
	lonelyOnce.Do(func() {
		s, err := pghost.Start(context.Background(), pghost.Config{Name: "lonely",
			Settings: map[string]string{"synchronous_standby_names": "nosuch",
				"synchronous_commit": "local"}})
		if err != nil {
			t.Fatal(err)
		}
		lonelyServer = s
		if err := s.Exec(context.Background(), "postgres", schema); err != nil {
			t.Fatal(err)
		}
	})
	return lonelyServer
}

// A failover: branches that were replicated are finished on the new primary, one that was lost is
// never called committed, and the old primary is not listened to any more.
func TestFailover(t *testing.T) {
	standby, err := pghost.Start(t.Context(), pghost.Config{Name: "standby", StandbyOf: srv})
	if err != nil {
		t.Fatal(err)
	}
	defer standby.Stop(context.Background())
	app, f := connect(t, srv, "app"), newFence()
	left := app.decide()
	toCommit, decided := app.prepare("gavel_owner"), app.prepare("gavel_owner")
	observer := connect(t, standby, "postgres")
	await(t, "the standby to have it", func() bool {
		return observer.run(fmt.Sprintf("SELECT pg_last_wal_replay_lsn() >= '%X/%X'",
			decided.Evidence.LSN>>32, uint32(decided.Evidence.LSN))) == "t"
	})

	identity, seen := openResource(t, config(srv)).Seen()
	c := config(standby)
	c.Expect, c.Seen = identity, seen
	r, err := postgres.New(c)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	testStandby(t, r, f, toCommit)

	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		app.run("BEGIN; SELECT pg_current_xact_id(); COMMIT")
	}
	// At the old primary, which nobody has told:
	lost, unseen := app.prepare("gavel_owner"), app.decide()
	standing(t, r.Commit, f, toCommit, txn.StandingCommitted)
	observer.run("COMMIT PREPARED '" + decided.Name.String() + "'")
	if !connect(t, standby, "app").effect(toCommit.Name) {
		t.Error("the commit has no effect on the new primary")
	}
	for observer.run(fmt.Sprintf("SELECT pg_current_xact_id()::text::bigint > %d",
		lost.Evidence.XID)) != "t" {
	}
	// A marker that came along decides. One that was lost did so together with its work, and what
	// the new primary says instead shows the timeline on which it is true.
	standing(t, r.Decide, f, left, txn.StandingCommitted)
	got := standing(t, r.Decide, f, unseen, txn.StandingRolledBack)
	if got.Evidence.Timeline != 2 || connect(t, standby, "app").effect(unseen.Name) {
		t.Errorf("the marker that was lost: %+v", got)
	}
	// Without the right to read the history, a number proves nothing after a failover.
	standing(t, r.Commit, f, decided, txn.StandingGone)
	standing(t, r.Commit, f, lost, txn.StandingGone)
	observer.run("ALTER ROLE gavel REPLICATION")
	standing(t, r.Commit, f, decided, txn.StandingCommitted)
	standing(t, r.Commit, f, lost, txn.StandingGone)

	_, seen = r.Seen()
	if seen.Timeline != 2 {
		t.Errorf("timeline %d after the failover", seen.Timeline)
	}
	old := config(srv)
	old.Expect, old.Seen = identity, seen
	_, err = postgres.Open(t.Context(), old)
	if _, ok := errors.AsType[*postgres.HeldError](err); !ok {
		t.Errorf("the old primary: %v", err)
	}
	connect(t, srv, "postgres").run("ROLLBACK PREPARED '" + lost.Name.String() + "'; ")
	for _, b := range []participant.Branch{toCommit, decided} {
		connect(t, srv, "postgres").run("ROLLBACK PREPARED '" + b.Name.String() + "'")
	}
}

// PostgreSQL 15: a hot standby lists no prepared transactions, though it has them.
func testStandby(t *testing.T, r *postgres.Resource, f txn.Fence, b participant.Branch) {
	t.Helper()
	if _, err := r.List(t.Context(), f); !errors.Is(err, postgres.ErrStandby) {
		t.Errorf("list of a standby: %v", err)
	}
	for _, call := range []func(context.Context, txn.Fence, []participant.Branch) (
		[]participant.Finding, error){r.Commit, r.Rollback, r.Inquire, r.Decide} {
		got, err := call(t.Context(), f, []participant.Branch{b})
		if !errors.Is(err, postgres.ErrStandby) {
			t.Errorf("a standby answered %v, %v", got, err)
		}
	}
	d, err := r.Describe(t.Context())
	if err != nil || d.Checks[0].Level != participant.LevelFail {
		t.Errorf("a standby is described as %+v, %v", d.Checks, err)
	}
}

// PostgreSQL 15: a restored backup has the identity and the timeline of the original, and hands out
// its transaction numbers again. Only its lower position gives it away.
func TestARestoredBackupIsHeld(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "postgres-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := pghost.Start(t.Context(), pghost.Config{Name: "restored", Dir: dir + "/pg"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop(context.Background())
	if err := s.Exec(t.Context(), "postgres", schema+"; CHECKPOINT"); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	copyDir(t, s.DataDir(), dir+"/backup")
	restart(t, s)

	r, f := openResource(t, config(s)), newFence()
	b := connect(t, s, "app").prepare("gavel_owner")
	standing(t, r.Commit, f, b, txn.StandingCommitted)
	s.Kill()
	if err := os.RemoveAll(s.DataDir()); err != nil {
		t.Fatal(err)
	}
	copyDir(t, dir+"/backup", s.DataDir())
	restart(t, s)

	// Another transaction gets the branch's number, so that its status would be a lie.
	app := connect(t, s, "postgres")
	for app.run("SELECT pg_current_xact_id()::text") != fmt.Sprint(b.Evidence.XID) {
	}
	if app.run(fmt.Sprintf("SELECT pg_xact_status('%d')", b.Evidence.XID)) != "committed" {
		t.Error("the number was not handed out again")
	}
	standing(t, r.Commit, f, b, txn.StandingHeld)
	standing(t, r.Inquire, f, b, txn.StandingHeld)
	standing(t, r.Decide, f, b, txn.StandingHeld)
	if _, err := r.List(t.Context(), f); err == nil {
		t.Error("a restored backup was listed")
	}
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v: %s", from, err, out)
	}
}

func restart(t *testing.T, s *pghost.Server) {
	t.Helper()
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/postgres"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
	"github.com/gavel-tx/gavel/txn"
)

// others are the votes that the markers of these tests hold.
var others = []txn.BranchVote{{Branch: 2, Vote: txn.VoteReadOnly}}

// decide commits a branch with one effect and its marker.
func (s *session) decide() participant.Branch {
	s.t.Helper()
	name := newName()
	if v := s.decideAs(name); v.Vote != txn.VoteCommitted {
		s.t.Fatalf("vote %v: %s (%v)", v.Vote, v.Reason, v.Err)
	}
	return participant.Branch{Name: name}
}

func (s *session) decideAs(name txn.Name) pgbranch.Verdict {
	s.t.Helper()
	s.run(fmt.Sprintf("BEGIN; INSERT INTO effects VALUES ('%s')", name))
	return pgbranch.Decide(context.Background(), s.PgConn, name.ID(),
		txn.AppendDecision(nil, others), pgbranch.PrepareOptions{})
}

func (s *session) marked(name txn.Name) bool {
	s.t.Helper()
	return s.run(fmt.Sprintf("SELECT count(*) FROM gavel.marker WHERE txid = '%s'",
		name.ID())) == "1"
}

// inBackground asks how a branch ends while the test does something to the server.
func inBackground(
	t *testing.T, r *postgres.Resource, f txn.Fence, b participant.Branch,
) <-chan participant.Finding {
	found := make(chan participant.Finding, 1)
	go func() {
		got, err := r.Decide(context.Background(), f, []participant.Branch{b})
		if err != nil || len(got) != 1 {
			t.Errorf("%v, %v", got, err)
			got = make([]participant.Finding, 1)
		}
		found <- got[0]
	}()
	return found
}

// replicating has a server wait for no standby, for the time of a test.
func replicating(t *testing.T, s *pghost.Server) {
	t.Helper()
	set := func(standbys string) {
		err := s.Configure(context.Background(), map[string]string{
			"synchronous_standby_names": standbys})
		if err != nil {
			t.Error(err)
		}
	}
	set("")
	t.Cleanup(func() { set("nosuch") })
}

// A marker can be seen before its standby has it, where somebody has cancelled the wait: the
// client's, or ours. It is unknown until a synchronous write of ours has come back.
func TestAMarkerIsNotVouchedForBeforeTheStandbyHasIt(t *testing.T) {
	s := lonely(t)
	if err := s.Exec(t.Context(), "postgres", markerSchema()); err != nil {
		t.Fatal(err)
	}
	r, f := openResource(t, config(s)), newFence()
	app, watcher := connect(t, s, "app"), connect(t, s, "postgres")
	committed, never := participant.Branch{Name: newName()}, participant.Branch{Name: newName()}

	vote := make(chan pgbranch.Verdict, 1)
	go func() { vote <- app.decideAs(committed.Name) }()
	watcher.cancelSyncRep("app")
	if v := <-vote; v.Vote != txn.VoteUnknown || !watcher.marked(committed.Name) {
		t.Errorf("the client's wait was cancelled: vote %v, marked %v", v.Vote,
			watcher.marked(committed.Name))
	}
	found := inBackground(t, r, f, committed)
	watcher.cancelSyncRep("gavel") // the barrier: there was nothing to write
	if got := <-found; got.Standing != txn.StandingUnknown || got.Reason == "" {
		t.Errorf("committed: %+v", got)
	}
	found = inBackground(t, r, f, never)
	watcher.cancelSyncRep("gavel") // the marker
	watcher.cancelSyncRep("gavel") // the barrier
	if got := <-found; got.Standing != txn.StandingUnknown || got.Reason == "" {
		t.Errorf("never: %+v", got)
	}
	replicating(t, s)
	standing(t, r.Decide, f, committed, txn.StandingCommitted)
	standing(t, r.Decide, f, never, txn.StandingRolledBack)
}

// A client that waits for its standby has neither committed nor failed.
func TestAClientThatWaitsForItsStandbyIsUnknown(t *testing.T) {
	s := lonely(t)
	if err := s.Exec(t.Context(), "postgres", markerSchema()); err != nil {
		t.Fatal(err)
	}
	r, f := openResource(t, config(s)), newFence()
	app, watcher := connect(t, s, "app"), connect(t, s, "postgres")
	b := participant.Branch{Name: newName()}
	vote := make(chan pgbranch.Verdict, 1)
	go func() { vote <- app.decideAs(b.Name) }()
	watcher.awaitSyncRep("app")
	found := inBackground(t, r, f, b)
	watcher.cancelSyncRep("gavel") // the barrier
	if got := <-found; got.Standing != txn.StandingUnknown ||
		!strings.Contains(got.Reason, "just committing") {
		t.Errorf("%+v", got)
	}
	watcher.cancelSyncRep("app")
	<-vote
	replicating(t, s)
	standing(t, r.Decide, f, b, txn.StandingCommitted)
}

// Nothing is decided, nor removed, at a database that is not the right one.
func TestDecideAtAnotherDatabaseWritesNothing(t *testing.T) {
	r, app, f := openResource(t, config(srv)), connect(t, srv, "app"), newFence()
	admin := connect(t, srv, "postgres")
	identity, seen := r.Seen()
	done, open := app.decide(), newName()
	r.Expect(identity, txn.Position{Timeline: 2, LSN: 1})
	got := standing(t, r.Decide, f, participant.Branch{Name: open}, txn.StandingHeld)
	if got.Evidence.Identity != identity || got.Evidence.Timeline != 1 || got.Reason == "" {
		t.Errorf("%+v", got)
	}
	err := r.RemoveMarkers(t.Context(), f, []txn.ID{done.Name.ID()})
	if _, held := errors.AsType[*postgres.HeldError](err); !held {
		t.Errorf("remove: %v", err)
	}
	if admin.marked(open) || !admin.marked(done.Name) {
		t.Error("a marker was written, or removed")
	}
	r.Expect(identity, seen)
	standing(t, r.Decide, f, done, txn.StandingCommitted)
}

// The evidence of a Decide lies behind the marker: a failover to a server that was left behind has
// a lower position.
func TestDecideShowsWhereItWas(t *testing.T) {
	r, app, f := openResource(t, config(srv)), connect(t, srv, "app"), newFence()
	identity, _ := r.Seen()
	for _, b := range []participant.Branch{{Name: newName()}, app.decide()} {
		written, err := pgbranch.ParseLSN(app.run("SELECT pg_current_wal_insert_lsn()"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.Decide(t.Context(), f, []participant.Branch{b})
		if err != nil {
			t.Fatal(err)
		}
		ev := got[0].Evidence
		if ev.Identity != identity || ev.Timeline != 1 || ev.LSN < written || ev.XID != 0 {
			t.Errorf("evidence %+v, written up to %X", ev, written)
		}
	}
	_, seen := r.Seen()
	if got := standing(t, r.Decide, f, app.decide(), txn.StandingCommitted); !slices.Equal(
		got.Votes, others) || got.Evidence.Before(seen) {
		t.Errorf("%+v, seen %+v", got, seen)
	}
}

func TestDecidingNeedsTheRight(t *testing.T) {
	first, second := openResource(t, config(srv)), openResource(t, config(srv))
	app, admin, f := connect(t, srv, "app"), connect(t, srv, "postgres"), newFence()
	done, open := app.decide(), participant.Branch{Name: newName()}
	standing(t, first.Decide, f, done, txn.StandingCommitted)
	try := func(r *postgres.Resource, want error) {
		t.Helper()
		_, decide := r.Decide(t.Context(), f, []participant.Branch{open})
		remove := r.RemoveMarkers(t.Context(), f, []txn.ID{done.Name.ID()})
		if !errors.Is(decide, want) || !errors.Is(remove, want) {
			t.Errorf("%v; %v; want %v", decide, remove, want)
		}
		if admin.marked(open.Name) || !admin.marked(done.Name) {
			t.Error("a marker was written, or removed")
		}
	}
	try(second, participant.ErrNotResolver)
	newer := newFence()
	standing(t, second.Decide, newer, done, txn.StandingCommitted)
	try(first, participant.ErrFenced)
	standing(t, second.Decide, newer, open, txn.StandingRolledBack)
}

// Lost sessions, idle or of the right, are no reason to leave a decision open.
func TestDecideGoesOnWithAnotherSession(t *testing.T) {
	r, app, f := openResource(t, config(srv)), connect(t, srv, "app"), newFence()
	admin := connect(t, srv, "postgres")
	for range 2 {
		standing(t, r.Decide, f, app.decide(), txn.StandingCommitted)
		admin.run(`SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
			WHERE usename = 'gavel'`)
		standing(t, r.Decide, f, participant.Branch{Name: newName()}, txn.StandingRolledBack)
	}
}

// Clients that are slow to commit hold up nobody, however many they are.
func TestDecideOfManyLeavesOutWhatIsBeingWritten(t *testing.T) {
	r, app, f := openResource(t, config(srv)), connect(t, srv, "app"), newFence()
	app.run("BEGIN")
	batch := make([]participant.Branch, 20)
	want := make([]txn.Standing, len(batch))
	for i := range batch {
		batch[i].Name = newName()
		want[i] = txn.StandingRolledBack
		if i%7 == 3 {
			want[i] = txn.StandingUnknown
			app.run(fmt.Sprintf("INSERT INTO gavel.marker VALUES ('%s', '\\x01')",
				batch[i].Name.ID()))
		}
	}
	ask := func() (got []txn.Standing) {
		t.Helper()
		findings, err := r.Decide(t.Context(), f, batch)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range findings {
			got = append(got, found.Standing)
		}
		return got
	}
	if got := ask(); !slices.Equal(got, want) {
		t.Errorf("decided %v, want %v", got, want)
	}
	app.run("COMMIT")
	// What they have committed is no decision that anybody here could read.
	for i := range want {
		if want[i] == txn.StandingUnknown {
			want[i] = txn.StandingHeld
		}
	}
	if got := ask(); !slices.Equal(got, want) {
		t.Errorf("behind the commit: decided %v, want %v", got, want)
	}
	got, err := r.Decide(t.Context(), f, batch[3:4])
	if err != nil || got[0].Standing != txn.StandingHeld ||
		!strings.Contains(got[0].Reason, "cannot be read") {
		t.Errorf("%+v, %v", got, err)
	}
}

// unmarked is an adapter at a database of its own, which has no markers to begin with.
type unmarked struct {
	*postgres.Resource
	t      *testing.T
	name   string
	config postgres.Config
	fence  txn.Fence
}

func openUnmarked(t *testing.T) *unmarked {
	t.Helper()
	name := fmt.Sprintf("unmarked_%d", lastSeq.Add(1))
	if err := srv.CreateDatabase(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	c := config(srv)
	c.DSN = srv.DSN(name) + "&user=gavel"
	return &unmarked{Resource: openResource(t, c), t: t, name: name, config: c,
		fence: newFence()}
}

func (u *unmarked) admin(sql string) {
	u.t.Helper()
	if err := srv.Exec(u.t.Context(), u.name, sql); err != nil {
		u.t.Fatal(err)
	}
}

// takes asserts whether decisions can be left to it, by what it says and by what it does.
func (u *unmarked) takes(want bool) {
	u.t.Helper()
	d, err := u.Describe(u.t.Context())
	told := slices.ContainsFunc(d.Checks, func(c participant.Check) bool {
		return c.Level == participant.LevelOK && strings.Contains(c.What, "gavel.marker")
	})
	if err != nil || d.Delegate != want || told != want {
		u.t.Errorf("takes decisions: %v, told %v, want %v (%v)", d.Delegate, told, want, err)
	}
	open := newName()
	_, err = u.Decide(u.t.Context(), u.fence, []participant.Branch{{Name: open}})
	if (err == nil) != want || !want && !errors.Is(err, participant.ErrNoMarkers) {
		u.t.Errorf("%v, usable %v", err, want)
	}
	err = u.RemoveMarkers(u.t.Context(), u.fence, []txn.ID{open.ID()})
	if (err == nil) != want || !want && !errors.Is(err, participant.ErrNoMarkers) {
		u.t.Errorf("%v, usable %v", err, want)
	}
}

func (u *unmarked) lists(want ...txn.ID) {
	u.t.Helper()
	l, err := u.List(u.t.Context(), u.fence)
	if err != nil || !slices.Equal(l.Markers, want) {
		u.t.Errorf("listed %v, want %v (%v)", l.Markers, want, err)
	}
}

// connect connects as the application.
func (u *unmarked) connect() *session {
	u.t.Helper()
	conn, err := pgconn.Connect(u.t.Context(), srv.DSN(u.name)+"&user=app")
	if err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() {
		conn.Close(context.Background())
		<-conn.CleanupDone()
	})
	return &session{PgConn: conn, t: u.t}
}

// Markers are set up, and taken away, while a coordinator runs. That there are none is no fault;
// that there are some of no use is one.
func TestADatabaseMayGetAndLoseItsMarkers(t *testing.T) {
	u := openUnmarked(t)
	u.takes(false)
	u.lists()
	if found := findings(t, u.config); len(found) != 0 {
		t.Errorf("a database without markers: %+v", found)
	}
	u.admin("CREATE TABLE effects (key text); GRANT ALL ON effects TO app; " + markerSchema())
	u.takes(true)
	done := u.connect().decide()
	u.lists(done.Name.ID())

	u.admin("REVOKE DELETE, SELECT ON gavel.marker FROM gavel")
	u.takes(false)
	u.lists()
	found := findings(t, u.config)
	if len(found) != 1 || found[0].Level != participant.LevelWarn ||
		!strings.Contains(found[0].Fix, "gavel markers") {
		t.Errorf("markers of no use: %+v", found)
	}
	u.admin(markerSchema())
	u.takes(true)
	u.lists(done.Name.ID())
	u.admin("DROP SCHEMA gavel CASCADE")
	u.lists()
	u.takes(false)
}

// TestMarkersThatStayHideNoOthers: a listing goes on behind a full one, and begins again at its
// end.
func TestMarkersThatStayHideNoOthers(t *testing.T) {
	u := openUnmarked(t)
	u.admin(markerSchema())
	const more = 5
	u.admin(fmt.Sprintf(`INSERT INTO gavel.marker SELECT (substr('%s', 1, 28) ||
		lpad(to_hex(n), 8, '0'))::uuid, '\x01' FROM generate_series(1, %d) n`,
		txn.NewID(u.fence.Log, 1), participant.MaxMarkers+more))
	for round, want := range []int{participant.MaxMarkers, more, participant.MaxMarkers} {
		l, err := u.List(t.Context(), u.fence)
		if err != nil || len(l.Markers) != want {
			t.Fatalf("listing %d: %d markers, want %d: %v", round, len(l.Markers), want, err)
		}
		first := txn.Seq(1)
		if want == more {
			first += participant.MaxMarkers
		}
		if l.Markers[0].Seq() != first {
			t.Errorf("listing %d begins with %d, want %d", round, l.Markers[0].Seq(), first)
		}
	}
}

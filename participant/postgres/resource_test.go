package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/postgres"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

func TestAnotherDatabaseIsHeldUntilAccepted(t *testing.T) {
	r, app, f := openResource(t, config(srv)), connect(t, srv, "app"), newFence()
	b := app.prepare("gavel_owner")
	identity, seen := r.Seen()
	if identity.System != srv.SystemID() || seen.Timeline != 1 || seen.LSN == 0 {
		t.Fatalf("the first connection taught %v, %v", identity, seen)
	}
	for what, was := range map[string]struct {
		identity txn.Identity
		position txn.Position
	}{
		"another cluster":  {txn.Identity{System: 1, Database: identity.Database}, seen},
		"another database": {txn.Identity{System: identity.System, Database: 1}, seen},
		"an old primary":   {identity, txn.Position{Timeline: 2, LSN: 1}},
		"a backup":         {identity, txn.Position{Timeline: 1, LSN: 1 << 60}},
	} {
		r.Expect(was.identity, was.position)
		for _, call := range []func(context.Context, txn.Fence, []participant.Branch) (
			[]participant.Finding, error){r.Commit, r.Rollback, r.Inquire, r.Decide} {
			if got := standing(t, call, f, b, txn.StandingHeld); got.Reason == "" {
				t.Errorf("%s: held without a reason", what)
			}
		}
		_, err := r.List(t.Context(), f)
		if held, ok := errors.AsType[*postgres.HeldError](err); !ok ||
			held.Found.Identity != identity || held.Expected.Identity != was.identity {
			t.Errorf("%s: list: %v", what, err)
		}
		votes, err := r.Prepare(t.Context(), f, []participant.Branch{b})
		if err != nil || votes[0].Vote != txn.VoteUnknown {
			t.Errorf("%s: votes %v, %v", what, votes, err)
		}
		d, err := r.Describe(t.Context())
		if err != nil || d.Checks[0].Level != participant.LevelFail || d.Identity != identity {
			t.Errorf("%s: described as %+v, %v", what, d.Checks, err)
		}
		_, err = postgres.Open(t.Context(), postgres.Config{Name: "x", DSN: dsn(srv, "gavel"),
			Expect: was.identity, Seen: was.position})
		if _, ok := errors.AsType[*postgres.HeldError](err); !ok {
			t.Errorf("%s: open: %v", what, err)
		}
	}
	if !app.listed(b.Name) {
		t.Error("a held branch was finished")
	}
	r.Expect(identity, txn.Position{})
	standing(t, r.Commit, f, b, txn.StandingCommitted)
}

// The list finds the owner where the configuration names another one, or none.
func TestOwnersAreFoundByTheList(t *testing.T) {
	app := connect(t, srv, "app")
	for _, owner := range []string{"", "stranger", "no such role"} {
		c := config(srv)
		c.OwnerRole = owner
		r, f := openResource(t, c), newFence()
		b := app.prepare("gavel_owner")
		standing(t, r.Commit, f, b, txn.StandingCommitted)
		if !app.effect(b.Name) {
			t.Errorf("configured owner %q: nothing was committed", owner)
		}
	}
}

// PostgreSQL 15: the list shows the prepared transactions of all databases, and any name.
func TestListIsOfOurPrefixInOurDatabase(t *testing.T) {
	r, f := openResource(t, config(srv)), newFence()
	before, err := r.List(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.CreateDatabase(t.Context(), "neighbour"); err != nil {
		t.Fatal(err)
	}
	prepare := func(database, name string) {
		sql := "BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION '" + name + "'"
		if err := srv.Exec(t.Context(), database, sql); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			sql := "ROLLBACK PREPARED '" + name + "'"
			if err := srv.Exec(context.Background(), database, sql); err != nil {
				t.Error(err)
			}
		})
	}
	elsewhere := newName()
	prepare("neighbour", elsewhere.String())
	for _, name := range []string{"", "gavel1", "gavel1.", "gavel1.junk", "gavel1/", "gavel2.x",
		"Gavel1.x", strings.ToUpper(newName().String()), newName().String() + ".x",
		"gavelprobe.1.2", "zz"} {
		prepare("postgres", name)
	}
	got, err := r.List(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Branches) != len(before.Branches) || got.Unknown != before.Unknown+11 ||
		got.Used != before.Used+12 || got.Limit != 200 {
		t.Errorf("%d branches, %d unknown, %d of %d slots; before: %d, %d, %d", len(got.Branches),
			got.Unknown, got.Used, got.Limit, len(before.Branches), before.Unknown, before.Used)
	}
	standing(t, r.Commit, f, participant.Branch{Name: elsewhere}, txn.StandingGone)
}

// Evidence from a listing must bound the PREPARE from above: a lower position could place a branch
// before a fork that it came after.
func TestListedEvidenceIsThatOfTheVote(t *testing.T) {
	r, app, f := openResource(t, config(srv)), connect(t, srv, "app"), newFence()
	b := app.prepare("gavel_owner")
	votes, err := r.Prepare(t.Context(), f, []participant.Branch{b})
	if err != nil || votes[0].Vote != txn.VoteYes {
		t.Fatalf("%+v, %v", votes, err)
	}
	ev := votes[0].Evidence
	if ev.XID != b.Evidence.XID || ev.Identity != b.Evidence.Identity ||
		ev.Timeline != b.Evidence.Timeline || ev.LSN < b.Evidence.LSN {
		t.Errorf("listed %+v, prepared %+v", ev, b.Evidence)
	}
	standing(t, r.Commit, f, b, txn.StandingCommitted)
	b.Evidence = ev
	standing(t, r.Commit, f, b, txn.StandingCommitted)
}

func TestConnectionsAreBounded(t *testing.T) {
	c := config(srv)
	c.MaxConns = 2
	r, app, f := openResource(t, c), connect(t, srv, "app"), newFence()
	observer := connect(t, srv, "postgres")
	var wg sync.WaitGroup
	for range 8 {
		var batch []participant.Branch
		for range 8 {
			batch = append(batch, app.prepare("gavel_owner"))
		}
		wg.Go(func() {
			got, err := r.Commit(context.Background(), f, batch)
			if err != nil {
				t.Error(err)
			}
			for _, g := range got {
				if g.Standing != txn.StandingCommitted {
					t.Errorf("%v (%s)", g.Standing, g.Reason)
				}
			}
		})
	}
	wg.Wait()
	const mine = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'gavel'"
	if got := observer.run(mine); got != "3" {
		t.Errorf("%s connections, want 2 and the control connection", got)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	await(t, "the sessions to end", func() bool { return observer.run(mine) == "0" })
}

func TestWaitingForAConnectionEndsWithTheContext(t *testing.T) {
	c := config(lonely(t))
	c.MaxConns = 1
	r := openResource(t, c)
	app, watcher := connect(t, lonely(t), "app"), connect(t, lonely(t), "postgres")
	b := app.prepareAsync("gavel_owner")
	held := make(chan []participant.Finding, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		got, _ := r.Commit(ctx, newFence(), []participant.Branch{b})
		held <- got
	}()
	watcher.awaitSyncRep("gavel")
	short, stop := context.WithCancel(t.Context())
	stop()
	if _, err := r.List(short, txn.Fence{Log: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for the only connection: %v", err)
	}
	cancel()
	<-held
	watcher.run(
		"SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE usename = 'gavel'",
	)
}

// PostgreSQL 15: a PREPARE is listed while it waits for its synchronous standby, and whoever
// cancels that wait makes it report success. So a listing alone is no vote.
func TestAListedBranchIsNotVouchedForBeforeTheStandbyHasIt(t *testing.T) {
	r, f := openResource(t, config(lonely(t))), newFence()
	app, watcher := connect(t, lonely(t), "app"), connect(t, lonely(t), "postgres")
	b := app.prepareAsync("gavel_owner")
	votes := make(chan participant.Vote, 1)
	go func() {
		got, err := r.Prepare(context.Background(), f, []participant.Branch{b})
		if err != nil || len(got) != 1 {
			t.Errorf("%v, %v", got, err)
			got = make([]participant.Vote, 1)
		}
		votes <- got[0]
	}()
	watcher.cancelSyncRep("gavel")
	if v := <-votes; v.Vote != txn.VoteUnknown || v.Reason == "" {
		t.Errorf("vote %v (%s)", v.Vote, v.Reason)
	}
	watcher.run("ROLLBACK PREPARED '" + b.Name.String() + "'")
}

// A COMMIT PREPARED whose replication wait was cancelled is done here and may be lost there. It is
// unknown until a synchronous write has come back, and Committed by evidence after that.
func TestACommitThatIsNotReplicatedIsUnknown(t *testing.T) {
	s := lonely(t)
	r, f := openResource(t, config(s)), newFence()
	app, watcher := connect(t, s, "app"), connect(t, s, "postgres")
	b := app.prepareAsync("gavel_owner")
	finding := make(chan participant.Finding, 1)
	go func() {
		got, err := r.Commit(context.Background(), f, []participant.Branch{b})
		if err != nil || len(got) != 1 {
			t.Errorf("%v, %v", got, err)
			got = make([]participant.Finding, 1)
		}
		finding <- got[0]
	}()
	watcher.cancelSyncRep("gavel") // COMMIT PREPARED
	watcher.cancelSyncRep("gavel") // the barrier behind pg_xact_status
	if got := <-finding; got.Standing != txn.StandingUnknown || got.Reason == "" {
		t.Errorf("standing %v (%s)", got.Standing, got.Reason)
	}
	if !app.effect(b.Name) {
		t.Error("PostgreSQL 15 shows the effect by then")
	}
	set := func(standbys string) {
		err := s.Configure(context.Background(), map[string]string{
			"synchronous_standby_names": standbys})
		if err != nil {
			t.Fatal(err)
		}
	}
	set("")
	defer set("nosuch")
	standing(t, r.Commit, f, b, txn.StandingCommitted)
}

func TestOpenFailsEarlyWithoutSecrets(t *testing.T) {
	bad := strings.Replace(srv.TCPDSN("postgres"), "postgres:", "postgres:"+secret, 1)
	bad = strings.Replace(bad, "postgres:"+secret+"//", "postgres://", 1)
	_, address, _ := strings.Cut(bad, "@")
	bad = "postgres://postgres:" + secret + "@" + address
	_, err := postgres.Open(t.Context(), postgres.Config{Name: "bank_a", DSN: bad})
	if pgbranch.SQLState(err) != "28P01" || strings.Contains(fmt.Sprint(err), secret) {
		t.Errorf("a wrong password: %v", err)
	}
	if _, err := postgres.Open(t.Context(), postgres.Config{DSN: bad}); err == nil {
		t.Error("a configuration without a name was opened")
	}
	r, err := postgres.New(postgres.Config{Name: "down", DSN: "postgres://127.0.0.1:1/x"})
	if err != nil {
		t.Fatalf("new, while the database is down: %v", err)
	}
	defer r.Close()
	if _, err := r.List(t.Context(), newFence()); err == nil {
		t.Error("a database that is down was listed")
	}
}

func TestOneAdapterServesABoundedNumberOfLogs(t *testing.T) {
	r := openResource(t, config(srv))
	var last error
	for log := range txn.LogID(17) {
		f := txn.Fence{Log: 1000 + log, Epoch: 1}
		if _, last = r.List(t.Context(), f); last != nil && log < 16 {
			t.Fatalf("log %d: %v", log, last)
		}
	}
	if !errors.Is(last, postgres.ErrTooManyLogs) {
		t.Errorf("one log too many: %v", last)
	}
}

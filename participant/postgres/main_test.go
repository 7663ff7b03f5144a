package postgres_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/postgres"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
	"github.com/gavel-tx/gavel/txn"
)

// srv is the server that most tests share. lonelyServer is made by lonely.
var (
	srv, lonelyServer *pghost.Server
	lonelyOnce        sync.Once
)

// TestMain starts a server. Under -short there is none, and only TestConfig… and TestPure…, which
// need no database, are left: everything else here is about what PostgreSQL really does.
func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	stop := func() error { return nil }
	if testing.Short() {
		flag.Set("test.run", "^Test(Config|Pure)")
	} else {
		var err error
		if stop, err = startServer(); err != nil {
			return fail(err)
		}
	}
	code := m.Run()
	if err := stop(); err != nil {
		return fail(err)
	}
	// Only now: the goroutine that waits for the server has ended with it.
	if err := goleak.Find(); err != nil && code == 0 {
		return fail(err)
	}
	return code
}

func startServer() (stop func() error, err error) {
	ctx := context.Background()
	inst, err := pghost.Ensure(ctx, os.Stderr)
	if err != nil {
		return nil, err
	}
	if srv, err = inst.Start(ctx, pghost.Config{Name: "adapter"}); err != nil {
		return nil, err
	}
	stop = func() error {
		err := srv.Stop(ctx)
		if lonelyServer != nil {
			err = errors.Join(err, lonelyServer.Stop(ctx))
		}
		return err
	}
	if err := srv.Exec(ctx, "postgres", schema+";"+markerSchema()); err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

// markerSchema is what `gavel markers` would run.
func markerSchema() string { return strings.Join(pgbranch.MarkerSchema("gavel", "app"), ";") }

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// schema is a set-up as a user has it: an application and the adapter, neither a superuser, both
// members of a role that owns the branches; and a role that has nothing to do with it.
const schema = `CREATE TABLE effects (key text PRIMARY KEY);
	CREATE ROLE gavel_owner NOLOGIN; CREATE ROLE app LOGIN; CREATE ROLE gavel LOGIN;
	CREATE ROLE stranger LOGIN;
	GRANT gavel_owner TO app, gavel;
	GRANT ALL ON effects TO app, stranger, gavel`

const testLog txn.LogID = 0x7777

var lastSeq atomic.Uint64

func newName() txn.Name {
	return txn.Name{Log: testLog, Seq: txn.Seq(lastSeq.Add(1)), Branch: 1}
}

var lastEpoch atomic.Uint32

// newFence is the next epoch of the test log.
func newFence() txn.Fence {
	e := lastEpoch.Add(1)
	return txn.Fence{Log: testLog, Epoch: txn.Epoch(e), LSN: uint64(e)}
}

// dsn is the address of a server as a role.
func dsn(s *pghost.Server, role string) string {
	return s.DSN("postgres") + "&user=" + role
}

func config(s *pghost.Server) postgres.Config {
	return postgres.Config{Name: "bank_a", DSN: dsn(s, "gavel"), OwnerRole: "gavel_owner"}
}

// openResource opens an adapter that is closed at the test's end.
func openResource(t *testing.T, c postgres.Config) *postgres.Resource {
	t.Helper()
	r, err := postgres.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// session is a connection of an application, an operator or an observer.
type session struct {
	*pgconn.PgConn
	t testing.TB
}

func connect(t testing.TB, s *pghost.Server, role string) *session {
	t.Helper()
	conn, err := pgconn.Connect(context.Background(), dsn(s, role))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close(context.Background())
		<-conn.CleanupDone()
	})
	return &session{PgConn: conn, t: t}
}

func (s *session) run(sql string) string {
	s.t.Helper()
	results, err := s.Exec(context.Background(), sql).ReadAll()
	if err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	last := results[len(results)-1]
	if len(last.Rows) == 0 || len(last.Rows[0]) == 0 {
		return ""
	}
	return string(last.Rows[len(last.Rows)-1][0])
}

func (s *session) try(sql string) error {
	_, err := s.Exec(context.Background(), sql).ReadAll()
	return err
}

// prepare makes a branch with one effect, owned by a role, and returns it with its evidence.
func (s *session) prepare(owner string) participant.Branch {
	s.t.Helper()
	return s.prepareAs(owner, newName())
}

func (s *session) prepareAs(owner string, name txn.Name) participant.Branch {
	s.t.Helper()
	s.run(fmt.Sprintf("BEGIN; INSERT INTO effects VALUES ('%s')", name))
	v := pgbranch.Prepare(context.Background(), s.PgConn, name,
		pgbranch.PrepareOptions{OwnerRole: owner})
	if v.Vote != txn.VoteYes {
		s.t.Fatalf("vote %v: %s (%v)", v.Vote, v.Reason, v.Err)
	}
	return participant.Branch{Name: name, Evidence: v.Evidence}
}

// prepareAsync prepares without waiting for a synchronous standby, as pgbranch never would.
func (s *session) prepareAsync(owner string) participant.Branch {
	s.t.Helper()
	name := newName()
	xid := s.run(fmt.Sprintf(`SET synchronous_commit = local; BEGIN;
		INSERT INTO effects VALUES ('%s'); SELECT pg_current_xact_id()::text`, name))
	s.run(fmt.Sprintf("SET LOCAL ROLE %s; PREPARE TRANSACTION '%s'", owner, name))
	b := participant.Branch{Name: name}
	place, err := pgbranch.Look(context.Background(), s.PgConn)
	if err != nil {
		s.t.Fatal(err)
	}
	b.Evidence.Identity, b.Evidence.Position = place.Identity, place.Position
	if _, err := fmt.Sscan(xid, &b.Evidence.XID); err != nil {
		s.t.Fatal(err)
	}
	return b
}

// awaitSyncRep waits until a session of the role waits for its synchronous standby.
func (s *session) awaitSyncRep(role string) (pid string) {
	s.t.Helper()
	await(s.t, "a replication wait", func() bool {
		pid = s.run(fmt.Sprintf(`SELECT coalesce(max(pid), 0) FROM pg_stat_activity
			WHERE usename = '%s' AND wait_event = 'SyncRep'`, role))
		return pid != "0"
	})
	return pid
}

// cancelSyncRep cancels one replication wait of the role's, and returns when that one is over.
func (s *session) cancelSyncRep(role string) {
	s.t.Helper()
	pid := s.awaitSyncRep(role)
	started := s.run("SELECT query_start FROM pg_stat_activity WHERE pid = " + pid)
	s.run("SELECT pg_cancel_backend(" + pid + ")")
	await(s.t, "the end of the replication wait", func() bool {
		return s.run(fmt.Sprintf(`SELECT count(*) FROM pg_stat_activity WHERE pid = %s
			AND wait_event = 'SyncRep' AND query_start = '%s'`, pid, started)) == "0"
	})
}

func (s *session) effect(name txn.Name) bool {
	s.t.Helper()
	return s.run(fmt.Sprintf("SELECT count(*) FROM effects WHERE key = '%s'", name)) == "1"
}

func (s *session) listed(name txn.Name) bool {
	s.t.Helper()
	return s.run(
		fmt.Sprintf("SELECT count(*) FROM pg_prepared_xacts WHERE gid = '%s'", name),
	) == "1"
}

// await asks until the answer is yes. It gives up after a minute, which no healthy run comes near.
func await(t testing.TB, what string, yes func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 12_000 {
		if yes() {
			return
		}
		<-tick.C
	}
	t.Fatalf("still waiting for: %s", what)
}

// standing asserts the answer of a call with one branch.
func standing(
	t *testing.T, call func(context.Context, txn.Fence, []participant.Branch) (
		[]participant.Finding, error), f txn.Fence, b participant.Branch, want txn.Standing,
) participant.Finding {
	t.Helper()
	got, err := call(t.Context(), f, []participant.Branch{b})
	if err != nil {
		t.Fatal(err)
	}
	if got[0].Standing != want {
		t.Errorf("standing %v (%s), want %v", got[0].Standing, got[0].Reason, want)
	}
	return got[0]
}

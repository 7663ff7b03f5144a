package pgbranch_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
	"github.com/gavel-tx/gavel/txn"
)

// Two servers for the whole package: one ordinary, and one that waits for a synchronous standby
// that it does not have, wherever a session asks for synchronous commits.
var srv, lonely *pghost.Server

// TestMain starts the servers. Under -short there are none, and only what needs no database is run.
func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx := context.Background()
	if testing.Short() {
		flag.Set("test.run", "^(TestClassify|TestParse|TestAnUnknown|Fuzz)")
	} else if err := startServers(ctx); err != nil {
		return fail(err)
	}
	code := m.Run()
	for _, s := range []*pghost.Server{srv, lonely} {
		if s == nil {
			continue
		}
		if err := s.Stop(ctx); err != nil {
			return fail(err)
		}
	}
	// Only now: the goroutines that wait for the servers have ended with them.
	if err := goleak.Find(); err != nil && code == 0 {
		return fail(err)
	}
	return code
}

func startServers(ctx context.Context) error {
	inst, err := pghost.Ensure(ctx, os.Stderr)
	if err != nil {
		return err
	}
	if srv, err = inst.Start(ctx, pghost.Config{Name: "plain"}); err != nil {
		return err
	}
	lonely, err = inst.Start(ctx, pghost.Config{Name: "lonely", Settings: map[string]string{
		"synchronous_standby_names": "nosuch", "synchronous_commit": "local"}})
	if err != nil {
		return err
	}
	for _, s := range []*pghost.Server{srv, lonely} {
		markers := strings.Join(pgbranch.MarkerSchema("resolver", "app"), ";")
		if err := s.Exec(ctx, "postgres", schema+";"+markers); err != nil {
			return err
		}
	}
	return nil
}

const schema = `SET synchronous_commit = local;
	CREATE TABLE acct (id int PRIMARY KEY, bal int NOT NULL);
	CREATE ROLE gavel_owner NOLOGIN; CREATE ROLE app LOGIN; CREATE ROLE other LOGIN;
	CREATE ROLE resolver LOGIN; GRANT gavel_owner TO app, resolver;
	GRANT ALL ON acct TO app, other;
	GRANT CREATE ON SCHEMA public TO app`

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

const testLog txn.LogID = 0x5a5a5a5a5a5a5a5

var lastSeq atomic.Uint64

// newName is a name that no other test uses.
func newName() txn.Name {
	return txn.Name{Log: testLog, Seq: txn.Seq(lastSeq.Add(1)), Branch: 1}
}

type session struct {
	*pgconn.PgConn
	t       *testing.T
	ready   bool
	notices []string
}

// open connects to a database as a role, and closes at the test's end.
func open(t *testing.T, s *pghost.Server, role string) *session {
	t.Helper()
	return openDatabase(t, s, "postgres", role)
}

func openDatabase(t *testing.T, s *pghost.Server, database, role string) *session {
	t.Helper()
	config, err := pgconn.ParseConfig(s.DSN(database))
	if err != nil {
		t.Fatal(err)
	}
	config.User = role
	se := &session{t: t}
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		se.notices = append(se.notices, n.Severity+" "+n.Code)
	}
	if se.PgConn, err = pgconn.ConnectConfig(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		se.Close(context.Background())
		<-se.CleanupDone()
	})
	return se
}

// openWith connects as superuser with a configuration of the test's own.
func openWith(t *testing.T, s *pghost.Server, change func(*pgconn.Config)) *session {
	t.Helper()
	config, err := pgconn.ParseConfig(s.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	change(config)
	conn, err := pgconn.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close(context.Background())
		<-conn.CleanupDone()
	})
	return &session{t: t, PgConn: conn}
}

// run executes SQL that must succeed, and returns the first column of the last row.
func (s *session) run(sql string) string {
	s.t.Helper()
	results, err := s.Exec(s.t.Context(), sql).ReadAll()
	if err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	last := results[len(results)-1]
	if len(last.Rows) == 0 || len(last.Rows[0]) == 0 {
		return ""
	}
	return string(last.Rows[len(last.Rows)-1][0])
}

// try executes SQL that may fail.
func (s *session) try(sql string) error {
	_, err := s.Exec(context.Background(), sql).ReadAll()
	return err
}

func (s *session) begin() {
	s.t.Helper()
	if err := pgbranch.Begin(s.t.Context(), s.PgConn, pgbranch.BeginOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// write begins a branch that writes one row, and returns the row's id.
func (s *session) write() int {
	s.t.Helper()
	s.begin()
	id := int(lastSeq.Add(1))
	s.run(fmt.Sprintf("INSERT INTO acct VALUES (%d, 1)", id))
	return id
}

func (s *session) prepare(name txn.Name) pgbranch.Verdict {
	s.t.Helper()
	return s.prepareWith(name, pgbranch.PrepareOptions{})
}

func (s *session) prepareWith(name txn.Name, o pgbranch.PrepareOptions) pgbranch.Verdict {
	s.t.Helper()
	o.Ready = s.ready
	return pgbranch.Prepare(s.t.Context(), s.PgConn, name, o)
}

// bothWays runs a test with sessions that have the statements of a Prepare prepared, and without.
func bothWays(t *testing.T, test func(t *testing.T, open func(role string) *session)) {
	for _, ready := range []bool{false, true} {
		t.Run(fmt.Sprintf("ready=%v", ready), func(t *testing.T) {
			test(t, func(role string) *session {
				s := open(t, srv, role)
				s.makeReady(ready)
				return s
			})
		})
	}
}

func (s *session) makeReady(ready bool) {
	s.t.Helper()
	if s.ready = ready; !ready {
		return
	}
	for _, p := range pgbranch.Statements() {
		if _, err := s.Prepare(s.t.Context(), p.Name, p.SQL, nil); err != nil {
			s.t.Fatal(err)
		}
	}
}

// mustPrepare prepares a branch with one write and returns its name and evidence.
func (s *session) mustPrepare() (txn.Name, txn.Evidence) {
	s.t.Helper()
	name := newName()
	s.write()
	v := s.prepare(name)
	if v.Vote != txn.VoteYes {
		s.t.Fatalf("vote %v: %s (%v)", v.Vote, v.Reason, v.Err)
	}
	rollbackLater(s.t, name)
	return name, v.Evidence
}

// rollbackLater removes a branch that a test may have left at the ordinary server.
func rollbackLater(t *testing.T, name txn.Name) {
	t.Cleanup(func() {
		conn, err := pgconn.Connect(context.Background(), srv.DSN("postgres"))
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(context.Background())
		pgbranch.Finish(context.Background(), conn, "", false, []txn.Name{name})
	})
}

// newDatabase makes an empty database at the ordinary server.
func newDatabase(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("d%d", lastSeq.Add(1))
	if err := srv.CreateDatabase(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	return name
}

func (s *session) listed(name txn.Name) bool {
	s.t.Helper()
	return s.run("SELECT count(*) FROM pg_prepared_xacts WHERE gid = '"+name.String()+"'") == "1"
}

func (s *session) finish(name txn.Name, commit bool) pgbranch.Finished {
	s.t.Helper()
	return pgbranch.Finish(s.t.Context(), s.PgConn, "", commit, []txn.Name{name})[0]
}

// await asks until the answer is yes. It gives up after a minute, which no healthy run comes near.
func await(t *testing.T, what string, yes func() bool) {
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

// awaitWait waits until a backend waits for the named event.
func awaitWait(watcher *session, pid uint32, event string) {
	watcher.t.Helper()
	await(watcher.t, event, func() bool {
		return watcher.run(fmt.Sprintf(
			"SELECT coalesce(max(wait_event), '') FROM pg_stat_activity WHERE pid = %d",
			pid,
		)) == event
	})
}

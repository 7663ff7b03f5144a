package xabranch_test

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/participant/mysql/mariahost"
	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/txn"
)

// srv is the server of the tests.
var srv *mariahost.Server

// TestMain starts a server. Under -short there is none, and only TestPure…, which need no database,
// are left: everything else here is about what MariaDB really does.
func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	// The driver writes a line for each connection that a killed server has cut.
	if err := mysql.SetLogger(&mysql.NopLogger{}); err != nil {
		return fail(err)
	}
	ctx := context.Background()
	if testing.Short() {
		flag.Set("test.run", "^TestPure")
	} else if err := startServer(ctx); err != nil {
		return fail(err)
	}
	code := m.Run()
	if srv != nil {
		if err := srv.Stop(ctx); err != nil {
			return fail(err)
		}
	}
	// Only now: the goroutine that waits for the server has ended with it.
	if err := goleak.Find(); err != nil && code == 0 {
		return fail(err)
	}
	return code
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func startServer(ctx context.Context) error {
	inst, err := mariahost.Find()
	if err != nil {
		return err
	}
	if srv, err = inst.Start(ctx, mariahost.Config{Name: "rules"}); err != nil {
		return err
	}
	err = srv.Exec(ctx, append(xabranch.Schema(), "CREATE DATABASE bank", "CREATE DATABASE bare",
		"CREATE TABLE bank.effects (k VARCHAR(64) PRIMARY KEY) ENGINE = InnoDB",
		"CREATE USER stranger@localhost", "GRANT ALL ON bank.* TO stranger@localhost")...)
	if err != nil {
		return errors.Join(err, srv.Stop(ctx))
	}
	return nil
}

const testLog txn.LogID = 0x7777

var lastSeq atomic.Uint64

func newName() txn.Name {
	return txn.Name{Log: testLog, Seq: txn.Seq(lastSeq.Add(1)), Branch: 1}
}

// session is a connection of an application, or of somebody who finishes.
type session struct {
	*sql.Conn
	t testing.TB
}

func connect(t testing.TB) *session { return connectAs(t, "root") }

func connectAs(t testing.TB, account string) *session {
	t.Helper()
	db, err := sql.Open("mysql", srv.DSN(account, "bank"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := db.Conn(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		xabranch.Discard(conn)
		db.Close()
	})
	return &session{Conn: conn, t: t}
}

func (s *session) run(statement string) {
	s.t.Helper()
	if err := s.try(statement); err != nil {
		s.t.Fatalf("%s: %v", statement, err)
	}
}

func (s *session) try(statement string) error {
	_, err := s.ExecContext(context.Background(), statement)
	return err
}

func (s *session) ask(query string) (answer string) {
	s.t.Helper()
	if err := s.QueryRowContext(context.Background(), query).Scan(&answer); err != nil {
		s.t.Fatalf("%s: %v", query, err)
	}
	return answer
}

// begin begins a branch with one effect.
func (s *session) begin(name txn.Name) *xabranch.Branch {
	s.t.Helper()
	b, err := xabranch.Begin(context.Background(), s.Conn, name, xabranch.BeginOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = b.Exec(context.Background(), "INSERT INTO effects VALUES ('"+name.String()+"')")
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func (s *session) prepare(name txn.Name) txn.Evidence {
	s.t.Helper()
	v := s.begin(name).Prepare(context.Background(), xabranch.PrepareOptions{})
	if v.Vote != txn.VoteYes {
		s.t.Fatalf("vote %v: %s (%v)", v.Vote, v.Reason, v.Err)
	}
	return v.Evidence
}

func (s *session) effect(name txn.Name) bool {
	s.t.Helper()
	return s.ask("SELECT COUNT(*) FROM effects WHERE k = '"+name.String()+"'") == "1"
}

func (s *session) sight(name txn.Name) xabranch.Seen {
	s.t.Helper()
	seen, err := xabranch.Sight(context.Background(), s.Conn, []txn.Name{name})
	if err != nil {
		s.t.Fatal(err)
	}
	return seen[name]
}

func (s *session) awaitState(name txn.Name, want xabranch.State) {
	s.t.Helper()
	await(s.t, "state "+want.String(), func() bool { return s.sight(name).State == want })
}

func (s *session) finish(commit bool, name txn.Name) xabranch.Finished {
	return xabranch.Finish(context.Background(), s.Conn, commit, []txn.Name{name})[0]
}

// await asks until the answer is yes. It gives up after a minute, which no healthy run comes near.
func await(t testing.TB, what string, yes func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for range 30_000 {
		if yes() {
			return
		}
		<-tick.C
	}
	t.Fatalf("still waiting for: %s", what)
}

package mysql_test

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

	driver "github.com/go-sql-driver/mysql"
	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/mysql"
	"github.com/gavel-tx/gavel/participant/mysql/mariahost"
	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/txn"
)

// srv is the server that most tests share.
var srv *mariahost.Server

// TestMain starts a server. Under -short there is none, and only TestConfig… and TestPure…, which
// need no database, are left: everything else here is about what MariaDB really does.
func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	// The driver writes a line for each connection that a killed server has cut.
	if err := driver.SetLogger(&driver.NopLogger{}); err != nil {
		return fail(err)
	}
	ctx := context.Background()
	if testing.Short() {
		flag.Set("test.run", "^Test(Config|Pure)")
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
	if srv, err = inst.Start(ctx, mariahost.Config{Name: "adapter"}); err != nil {
		return err
	}
	if err := setUp(ctx, srv); err != nil {
		return errors.Join(err, srv.Stop(ctx))
	}
	return nil
}

// setUp makes a set-up as a user has it: two databases, an application and the adapter, neither of
// which may do everything.
func setUp(ctx context.Context, s *mariahost.Server) error {
	statements := append(xabranch.Schema(),
		"CREATE DATABASE bank", "CREATE DATABASE other",
		"CREATE TABLE bank.effects (k VARCHAR(64) PRIMARY KEY) ENGINE = InnoDB",
		"CREATE TABLE other.effects (k VARCHAR(64) PRIMARY KEY) ENGINE = InnoDB",
		"CREATE USER app@localhost", "CREATE USER gavel@localhost",
		"GRANT ALL ON bank.* TO app@localhost", "GRANT ALL ON other.* TO app@localhost",
		"GRANT SELECT ON bank.* TO gavel@localhost", "GRANT SELECT ON other.* TO gavel@localhost")
	grants := xabranch.Grants("app@localhost", "gavel@localhost")
	return s.Exec(ctx, append(statements, grants...)...)
}

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

func config(s *mariahost.Server) mysql.Config {
	return mysql.Config{Name: "bank_a", DSN: s.DSN("gavel", "bank")}
}

// openResource opens an adapter that is closed at the test's end.
func openResource(t *testing.T, c mysql.Config) *mysql.Resource {
	t.Helper()
	r, err := mysql.Open(t.Context(), c)
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
	*sql.Conn
	t testing.TB
}

func connect(t testing.TB, s *mariahost.Server, account, database string) *session {
	t.Helper()
	db, err := sql.Open("mysql", s.DSN(account, database))
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
	if _, err := s.ExecContext(context.Background(), statement); err != nil {
		s.t.Fatalf("%s: %v", statement, err)
	}
}

func (s *session) ask(query string) (answer string) {
	s.t.Helper()
	if err := s.QueryRowContext(context.Background(), query).Scan(&answer); err != nil {
		s.t.Fatalf("%s: %v", query, err)
	}
	return answer
}

// begin begins a branch with one effect.
func (s *session) begin(name txn.Name, key string) *xabranch.Branch {
	s.t.Helper()
	b, err := xabranch.Begin(context.Background(), s.Conn, name, xabranch.BeginOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = b.Exec(context.Background(), "INSERT INTO effects VALUES ('"+key+"')")
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// prepared is a branch with one effect, and its evidence.
func prepared(t testing.TB, s *mariahost.Server, database string) participant.Branch {
	t.Helper()
	name := newName()
	return prepareAs(t, connect(t, s, "app", database), name)
}

func prepareAs(t testing.TB, s *session, name txn.Name) participant.Branch {
	t.Helper()
	v := s.begin(name, name.String()).Prepare(context.Background(), xabranch.PrepareOptions{})
	if v.Vote != txn.VoteYes {
		t.Fatalf("vote %v: %s (%v)", v.Vote, v.Reason, v.Err)
	}
	return participant.Branch{Name: name, Evidence: v.Evidence}
}

func effect(t testing.TB, s *mariahost.Server, key string) bool {
	t.Helper()
	db, err := sql.Open("mysql", s.DSN("gavel", "bank"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var n int
	if err := db.QueryRow("SELECT COUNT(*) FROM effects WHERE k = ?", key).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n == 1
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

package mariahost_test

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/participant/mysql/mariahost"
)

// srv is the server of the tests.
var srv *mariahost.Server

// TestMain starts a server. Under -short there is none, and only what starts none is run.
func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx := context.Background()
	if testing.Short() {
		flag.Set("test.run", "^TestFind")
	} else if err := startServer(ctx); err != nil {
		return fail(err)
	}
	code := m.Run()
	if srv != nil {
		if err := srv.Stop(ctx); err != nil {
			return fail(err)
		}
	}
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
	srv, err = inst.Start(ctx, mariahost.Config{Name: "mariahost test"})
	return err
}

func count(t *testing.T, query string) (n int) {
	t.Helper()
	db, err := sql.Open("mysql", srv.DSN("root", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow(query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// What was committed is there after a kill, at the same address, in another process.
func TestKillAndRestart(t *testing.T) {
	err := srv.Exec(t.Context(), "CREATE DATABASE d", "CREATE TABLE d.t (i INT) ENGINE = InnoDB",
		"INSERT INTO d.t VALUES (1)")
	if err != nil {
		t.Fatal(err)
	}
	before := srv.PID()
	srv.Kill()
	if srv.PID() != 0 {
		t.Error("it runs after Kill")
	}
	if err := srv.Restart(t.Context(), "server_id=7"); err != nil {
		t.Fatal(err)
	}
	if pid := srv.PID(); pid == 0 || pid == before {
		t.Errorf("process %d, was %d", pid, before)
	}
	if n := count(t, "SELECT COUNT(*) FROM d.t"); n != 1 {
		t.Errorf("%d rows after the crash", n)
	}
	if n := count(t, "SELECT @@server_id"); n != 7 {
		t.Errorf("server_id %d after a restart with 7", n)
	}
}

// A server that cannot start says why, by its log, and leaves nothing.
func TestStartFails(t *testing.T) {
	inst, err := mariahost.Find()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	_, err = inst.Start(t.Context(), mariahost.Config{Settings: []string{"no-such-option"}})
	if err == nil {
		t.Fatal("it started")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "gavel-maria-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestStopped(t *testing.T) {
	inst, err := mariahost.Find()
	if err != nil {
		t.Fatal(err)
	}
	s, err := inst.Start(t.Context(), mariahost.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Restart(t.Context()); !errors.Is(err, mariahost.ErrStopped) {
		t.Errorf("restart after Stop: %v", err)
	}
	if _, err := os.Stat(s.LogFile()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory is left: %v", err)
	}
}

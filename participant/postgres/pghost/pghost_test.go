package pghost_test

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/gavel-tx/gavel/participant/postgres/pghost"
)

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func scan[T any](t *testing.T, conn *pgx.Conn, sql string) T {
	t.Helper()
	var v T
	if err := conn.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func mustExec(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func start(t *testing.T, conf pghost.Config) *pghost.Server {
	t.Helper()
	s, err := pghost.Start(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// publicDir is a directory that the server's user may enter too; those of the testing package are
// closed.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pghost-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestADirectoryOutOfReachIsNamed(t *testing.T) {
	closed := filepath.Join(publicDir(t), "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := pghost.Start(t.Context(), pghost.Config{Dir: filepath.Join(closed, "mine")})
	if os.Geteuid() != 0 {
		if err != nil {
			t.Fatalf("an ordinary user's own directory: %v", err)
		}
		s.Stop(context.Background())
		return
	}
	if err == nil || !strings.Contains(err.Error(), "may not enter "+closed+":") {
		t.Errorf("start below a closed directory: %v", err)
	}
}

func TestBothAddressesReachTheServerThatWasStarted(t *testing.T) {
	for _, dsn := range []string{srv.DSN("postgres"), srv.TCPDSN("postgres")} {
		conn := connect(t, dsn)
		id := scan[string](t, conn, "SELECT system_identifier::text FROM pg_control_system()")
		if id != strconv.FormatUint(srv.SystemID(), 10) {
			t.Errorf("%s: system identifier %s, want %d", dsn, id, srv.SystemID())
		}
	}
}

func TestDefaultsAreThoseThatDurabilityNeeds(t *testing.T) {
	conn := connect(t, srv.DSN("postgres"))
	for setting, want := range map[string]string{
		"fsync": "on", "full_page_writes": "on", "max_prepared_transactions": "200",
		"listen_addresses": "127.0.0.1", "cluster_name": "pghost test",
	} {
		if got := scan[string](t, conn, "SELECT current_setting('"+setting+"')"); got != want {
			t.Errorf("%s = %q, want %q", setting, got, want)
		}
	}
}

func TestPortRefusesOtherUsersOfTheHost(t *testing.T) {
	_, address, _ := strings.Cut(srv.TCPDSN("postgres"), "@")
	conn, err := pgx.Connect(t.Context(), "postgres://postgres:guess@"+address)
	if err == nil {
		conn.Close(context.Background())
		t.Fatal("the TCP port let a stranger in")
	}
}

func TestCreateDatabase(t *testing.T) {
	const name = `odd "name"`
	if err := srv.CreateDatabase(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, srv.DSN(name))
	if got := scan[string](t, conn, "SELECT current_database()"); got != name {
		t.Fatalf("connected to %q, want %q", got, name)
	}
	if err := srv.CreateDatabase(t.Context(), name); err == nil {
		t.Fatal("making a database twice succeeded")
	}
}

func TestCommittedAndPreparedWorkSurvivesKill(t *testing.T) {
	s := start(t, pghost.Config{Name: "crashing"})
	conn := connect(t, s.DSN("postgres"))
	mustExec(t, conn, "CREATE TABLE t AS SELECT 1 AS x")
	mustExec(t, conn, "BEGIN")
	mustExec(t, conn, "INSERT INTO t VALUES (2)")
	mustExec(t, conn, "PREPARE TRANSACTION 'survivor'")
	dsn, pid := s.DSN("postgres"), s.PID()

	s.Kill()
	if s.PID() != 0 {
		t.Fatal("a killed server has a process id")
	}
	if err := conn.Ping(t.Context()); err == nil {
		t.Fatal("a connection outlived SIGKILL of the whole server")
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.DSN("postgres") != dsn || s.PID() == pid || s.PID() == 0 {
		t.Fatalf("after the restart: address %s, process %d", s.DSN("postgres"), s.PID())
	}
	conn = connect(t, s.DSN("postgres"))
	mustExec(t, conn, "COMMIT PREPARED 'survivor'")
	if got := scan[int](t, conn, "SELECT count(*) FROM t"); got != 2 {
		t.Fatalf("%d rows after the crash, want 2", got)
	}
}

func TestRestartOfARunningServerIsClean(t *testing.T) {
	s := start(t, pghost.Config{Settings: map[string]string{"work_mem": "5MB"}})
	err := s.Configure(t.Context(), map[string]string{"max_prepared_transactions": "7"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, s.DSN("postgres"))
	if got := scan[string](t, conn, "SHOW max_prepared_transactions"); got != "7" {
		t.Errorf("max_prepared_transactions = %s, want 7", got)
	}
	if got := scan[string](t, conn, "SHOW work_mem"); got != "5MB" {
		t.Errorf("work_mem = %s, want 5MB", got)
	}
	log, err := os.ReadFile(s.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(log), "automatic recovery in progress") {
		t.Error("a clean restart went through crash recovery")
	}
}

func TestConfigureTakesEffectWithoutARestart(t *testing.T) {
	if err := srv.Configure(t.Context(), map[string]string{"work_mem": "6MB"}); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, srv.DSN("postgres"))
	if got := scan[string](t, conn, "SHOW work_mem"); got != "6MB" {
		t.Errorf("work_mem = %s, want 6MB", got)
	}
}

func TestStopRemovesOnlyWhatStartMade(t *testing.T) {
	temporary := start(t, pghost.Config{})
	dir := filepath.Dir(temporary.DataDir())
	named := publicDir(t)
	mine := start(t, pghost.Config{Dir: named})
	id := mine.SystemID()
	for _, s := range []*pghost.Server{temporary, mine} {
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Restart(t.Context()); !errors.Is(err, pghost.ErrStopped) {
			t.Errorf("restart after stop: %v, want ErrStopped", err)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the temporary directory is still there: %v", err)
	}
	again := start(t, pghost.Config{Dir: named})
	if again.SystemID() != id {
		t.Error("a directory with a cluster got a new one")
	}
	connect(t, again.TCPDSN("postgres"))
}

func TestStandbyFollowsAndIsPromoted(t *testing.T) {
	primary := start(t, pghost.Config{Name: "primary"})
	standby := start(t, pghost.Config{Name: "standby", StandbyOf: primary})
	if primary.SystemID() != standby.SystemID() {
		t.Fatal("a standby has another identity than its primary")
	}
	conn := connect(t, standby.DSN("postgres"))
	if !scan[bool](t, conn, "SELECT pg_is_in_recovery()") {
		t.Fatal("the standby is a primary")
	}
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustExec(t, conn, "CREATE TABLE writable ()")
}

func TestAServerThatCannotStartSaysWhyAndLeavesNothing(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	bad := pghost.Config{Settings: map[string]string{"max_connections": "many"}}
	s, err := pghost.Start(t.Context(), bad)
	if err == nil {
		s.Stop(context.Background())
		t.Fatal("a server with a nonsense setting started")
	}
	if !strings.Contains(err.Error(), "max_connections") {
		t.Errorf("the error does not quote the server's log: %v", err)
	}
	left, globErr := filepath.Glob(filepath.Join(temp, "*"))
	if globErr != nil || len(left) != 0 {
		t.Errorf("left behind: %v (%v)", left, globErr)
	}
}

func TestStartHonoursItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err := pghost.Start(ctx, pghost.Config{}); err == nil {
		s.Stop(context.Background())
		t.Fatal("started although the context had ended")
	}
}

// A program that dies without stopping its server must not leave it running. Its connection's end
// is the event that tells.
func TestServerDiesWithItsParent(t *testing.T) {
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childEnv+"=1")
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	dsn, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	conn := connect(t, strings.TrimSpace(dsn))
	dir := filepath.Dir(scan[string](t, conn, "SHOW data_directory"))
	t.Cleanup(func() { os.RemoveAll(dir) })

	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = conn.WaitForNotification(ctx)
	if ctx.Err() != nil {
		t.Fatalf("the server still runs a minute after its parent died: %v", err)
	}
	// What it has left goes away with the next start, once the last of its processes has ended.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for gone := false; !gone && ctx.Err() == nil; <-tick.C {
		pghost.Sweep(filepath.Dir(dir))
		_, err := os.Stat(dir)
		gone = errors.Is(err, fs.ErrNotExist)
	}
	if ctx.Err() != nil {
		t.Errorf("%s was not removed", dir)
	}
	if _, err := os.Stat(srv.DataDir()); err != nil {
		t.Errorf("the directory of a running server was removed: %v", err)
	}
}

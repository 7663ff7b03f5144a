package benchcmd_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/cli"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/clitest"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/integration/bench"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
)

// patience bounds the whole of a benchmark here. It only passes when something hangs.
const patience = 5 * time.Minute

// run runs `gavel bench` in a directory for temporary files of its own, and looks afterwards
// whether anything stayed in it.
func run(t *testing.T, ctx context.Context, args ...string) clitest.Result {
	t.Helper()
	dir := t.TempDir()
	// A server of PostgreSQL runs as another user, who must get to its directory.
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("TMPDIR", dir)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var out, errs strings.Builder
	io := ui.IO{Out: &out, Err: &errs, Getenv: os.Getenv, Now: time.Now}
	code := cli.Run(ctx, io, append([]string{"bench"}, args...))
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
	return clitest.Result{Code: code, Out: out.String(), Err: errs.String()}
}

// quick are the flags of a run that measures next to nothing.
var quick = []string{"--rounds", "1", "--duration", "20ms", "--clients", "2", "--no-progress",
	"--rate", "0", "--lines", "server-classic-applied"}

// TestWhole is all of it, on two real servers, but short: every line moves money, none is lost, and
// the reports can be read.
func TestWhole(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "report.json")
	r := run(t, t.Context(), "--rounds", "1", "--duration", "100ms", "--clients", "2,1",
		"--seed", "7", "--report", file, "--report", filepath.Join(dir, "report.md"))
	r.Want(t, exit.OK, "(seed 7)", "kept", "nothing in doubt", "CLIENTS 1", "report: "+file)
	body, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	report, err := bench.ReadJSON(body)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[bench.Mode][]string{}
	for _, s := range report.Summaries {
		if s.PerSecond.Min <= 0 || s.Latency.P50 <= 0 {
			t.Errorf("%v: %+v", s.Cell, s)
		}
		if !slices.Contains(seen[s.Mode], s.Line) {
			seen[s.Mode] = append(seen[s.Mode], s.Line)
		}
	}
	if got := seen[bench.Closed]; !slices.Equal(got, bench.Names()) {
		t.Errorf("measured %v", got)
	}
	if len(seen[bench.Open]) == 0 || len(seen[bench.Growth]) == 0 {
		t.Errorf("measured %v", seen)
	}
	for _, f := range report.Figures {
		if f.Transfers == 0 || f.Aborted < 0 {
			t.Errorf("%+v", f)
		}
	}
	if report.Audit.Times != len(report.Figures) || len(report.Servers) != 2 ||
		report.Servers[0].Settings["fsync"] != "on" {
		t.Errorf("%+v, %+v", report.Audit, report.Servers)
	}
	text, err := os.ReadFile(filepath.Join(dir, "report.md"))
	if err != nil || !strings.Contains(string(text), "| 2pc-pipelined-log |") {
		t.Errorf("%v: %s", err, text)
	}
}

// given is one server with databases for --resource.
type given struct {
	srv   *pghost.Server
	flags []string
}

func start(t *testing.T, settings map[string]string) *given {
	t.Helper()
	srv, err := pghost.Start(t.Context(), pghost.Config{Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	g := &given{srv: srv}
	for _, name := range []string{"a", "b"} {
		if err := srv.CreateDatabase(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		t.Setenv("BENCH_"+name, srv.TCPDSN(name))
		g.flags = append(g.flags, "--resource", name+"=env:BENCH_"+name)
	}
	return g
}

// clean fails the test if anything of a run is left in the databases.
func (g *given) clean(t *testing.T) {
	t.Helper()
	for _, name := range []string{"a", "b"} {
		err := g.srv.Exec(context.Background(), name, `DO $$ BEGIN
			IF to_regclass('gavel_bench_account') IS NOT NULL
				OR EXISTS (SELECT FROM pg_prepared_xacts WHERE gid NOT LIKE 'gavelprobe.%')
			THEN RAISE 'something is left'; END IF;
		END $$`)
		if err != nil {
			t.Error(err)
		}
	}
}

// TestGiven: databases that it is given have nothing of it afterwards; a table of that name is not
// touched.
func TestGiven(t *testing.T) {
	g := start(t, nil)
	args := slices.Concat(quick, g.flags)
	run(t, t.Context(), args...).Want(t, exit.OK, "2 given databases", "kept")
	g.clean(t)
	if err := g.srv.Exec(t.Context(), "b", "CREATE TABLE gavel_bench_account (x int)"); err != nil {
		t.Fatal(err)
	}
	run(t, t.Context(), args...).Want(t, exit.Refused, "exists already at resource b")
	if err := g.srv.Exec(t.Context(), "b", "DROP TABLE gavel_bench_account"); err != nil {
		t.Error(err)
	}
	g.clean(t)
}

// TestRoom: a server that allows too little is refused before anything is done.
func TestRoom(t *testing.T) {
	g := start(t, map[string]string{"max_prepared_transactions": "3"})
	run(t, t.Context(), append(quick, g.flags...)...).Want(t, exit.Refused,
		"resource a: max_prepared_transactions is 3, and this run needs 16")
	g.clean(t)
}

// meddle takes money out of an account as soon as there is one.
func meddle(ctx context.Context, dsn string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for {
		tag, err := conn.Exec(ctx, "UPDATE gavel_bench_account SET balance = balance - 1 "+
			"WHERE id = 0")
		if err == nil && tag.RowsAffected() == 1 || ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// TestLoss: a run that has lost money fails loudly, and still clears away.
func TestLoss(t *testing.T) {
	g := start(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var join sync.WaitGroup
	join.Go(func() {
		if err := meddle(ctx, g.srv.TCPDSN("a")); err != nil {
			t.Error(err)
		}
	})
	args := slices.Concat(quick, g.flags, []string{"--rounds", "100", "--report",
		filepath.Join(t.TempDir(), "none.json")})
	r := run(t, t.Context(), args...)
	cancel()
	join.Wait()
	r.Want(t, exit.No, "the audit failed", "all balances add up to", "Do not believe any figure")
	if strings.Contains(r.Out, "kept") {
		t.Errorf("it says that nothing was lost: %s", r.Out)
	}
	g.clean(t)
}

// TestInterrupt: a Ctrl-C in the middle of it leaves nothing behind.
func TestInterrupt(t *testing.T) {
	g := start(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var join sync.WaitGroup
	join.Go(func() {
		// The change is undone by nobody, and no audit comes any more.
		if err := meddle(t.Context(), g.srv.TCPDSN("b")); err != nil {
			t.Error(err)
		}
		cancel()
	})
	args := slices.Concat(g.flags, []string{"--duration", "5m", "--clients", "2"})
	run(t, ctx, args...).Want(t, exit.Interrupted)
	join.Wait()
	g.clean(t)
}

// TestUsage: what is wrong with the command line is said before anything is started.
func TestUsage(t *testing.T) {
	for line, want := range map[string]string{
		"now":                          "",
		"--clients 0":                  "0 clients",
		"--clients 1,x":                "invalid argument",
		"--rounds 0":                   "above zero",
		"--duration 0s":                "above zero",
		"--rate -1":                    "a rate of -1",
		"--lines 3pc":                  `no line is called "3pc"`,
		"--report x.html":              "neither .json nor .md",
		"--report /nope/nope/x.md":     "no such directory",
		"--resource a=env:A":           "needs two databases",
		"--resource a --resource b":    "NAME=URL",
		"--seed -1":                    "",
		"--clients 2 --report bench.v": "bench.v ends in neither",
	} {
		run(t, t.Context(), strings.Fields(line)...).Want(t, exit.Usage, want)
	}
}

// TestNotPostgres: only databases whose SQL it speaks.
func TestNotPostgres(t *testing.T) {
	run(t, t.Context(), "--resource", "a=kv:x", "--resource", "b=kv:y").Want(t, exit.Usage,
		"no postgres:// URL")
	run(t, t.Context(), "--resource", "a=env:GAVEL_NOPE", "--resource", "b=kv:y").Want(t,
		exit.Usage, "GAVEL_NOPE is empty")
}

// TestUnreachable: a database that does not answer is told by its name, without its password.
func TestUnreachable(t *testing.T) {
	url := func(name string) string {
		return fmt.Sprintf("%s=postgres://u:secret@127.0.0.1:1/x?connect_timeout=1", name)
	}
	r := run(t, t.Context(), append(quick, "--resource", url("a"), "--resource", url("b"))...)
	r.Want(t, exit.Unreachable, "resource a")
	if strings.Contains(r.Out+r.Err, "secret") {
		t.Errorf("it tells a password: %s%s", r.Out, r.Err)
	}
}

package sql_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/participant/postgres/pghost"
)

// shared is one server with two databases, and the binary, for the whole package.
var shared struct {
	server *pghost.Server
	gavel  string
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	dir, err := os.MkdirTemp("", "gavel-sql-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	if testing.Short() {
		// All of it is about processes and databases.
		err = flag.Set("test.skip", "^Test")
	} else {
		err = setUp(ctx, dir)
	}
	if err != nil {
		return fail(err)
	}
	code := m.Run()
	if shared.server != nil {
		err = shared.server.Stop(ctx)
	}
	if err = errors.Join(err, goleak.Find()); err != nil {
		return fail(err)
	}
	return code
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func setUp(ctx context.Context, dir string) error {
	shared.gavel = filepath.Join(dir, "gavel")
	build := exec.CommandContext(ctx, "go", "build", "-o", shared.gavel, "./cmd/gavel")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	inst, err := pghost.Ensure(ctx, os.Stderr)
	if err == nil {
		shared.server, err = inst.Start(ctx, pghost.Config{Name: "sql"})
	}
	for _, sql := range []string{"CREATE DATABASE bank_a", "CREATE DATABASE bank_b", roles} {
		if err == nil {
			err = shared.server.Exec(ctx, "postgres", sql)
		}
	}
	for _, database := range banks {
		if err == nil {
			err = shared.server.Exec(ctx, database, schema)
		}
	}
	return err
}

var banks = []string{"bank_a", "bank_b"}

const (
	roles = `CREATE ROLE gavel_owner NOLOGIN; CREATE ROLE app LOGIN; CREATE ROLE gavel LOGIN;
		GRANT gavel_owner TO app, gavel`
	schema = `CREATE TABLE acct (id int PRIMARY KEY, bal bigint NOT NULL CHECK (bal >= 0));
		INSERT INTO acct VALUES (1, 100); GRANT ALL ON acct TO app`
)

// url is the address of a database as a role.
func url(database, role string) string { return shared.server.DSN(database) + "&user=" + role }

// process is one that runs until the test ends, or somebody ends it.
type process struct {
	cmd *exec.Cmd
	// grpc and http are the addresses that it has told.
	grpc, http string
	journal    bytes.Buffer
	done       chan struct{}
}

// start starts a serving command, and returns when it has told its addresses.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(shared.gavel, args...), done: make(chan struct{})}
	p.cmd.Stderr = &p.journal
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan struct{})
	go func() {
		defer close(p.done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			switch words := strings.Fields(lines.Text()); {
			case len(words) > 1 && words[0] == "gRPC":
				p.grpc = words[1]
			case len(words) > 1 && words[0] == "HTTP":
				p.http = strings.TrimPrefix(words[1], "http://")
				close(told)
			}
		}
		_ = p.cmd.Wait() // by which signal it ended is the test's doing
	}()
	t.Cleanup(func() { p.end(syscall.SIGKILL) })
	select {
	case <-told:
	case <-p.done:
		t.Fatalf("%v ended: %s", args, p.journal.String())
	}
	return p
}

// end ends the process by a signal, and waits until it is gone.
func (p *process) end(s syscall.Signal) {
	_ = p.cmd.Process.Signal(s) // it may be gone
	<-p.done
}

// participant starts that of a bank, with its memory in dir. An address keeps it where it was.
func participant(t *testing.T, bank, dir, address string) *process {
	t.Helper()
	t.Setenv("SIDECAR", url(bank, "gavel"))
	t.Setenv("APP", url(bank, "app"))
	return start(t, "participant", "--name", bank, "--postgres", "env:SIDECAR", "--owner-role",
		"gavel_owner", "--sql", "env:APP", "--data", dir, "--grpc", address, "--http",
		"127.0.0.1:0")
}

// coordinator starts one that reaches bank_a by itself, and bank_b by its participant.
func coordinator(t *testing.T, b *process) *process {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	if out, err := exec.Command(shared.gavel, "log", "init", dir).CombinedOutput(); err != nil {
		t.Fatalf("log init: %v\n%s", err, out)
	}
	t.Setenv("BANK_A", url("bank_a", "gavel")+"&gavel_owner_role=gavel_owner")
	t.Setenv("APP_A", url("bank_a", "app"))
	c := start(t, "coordinator", "--data", dir, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0",
		"--resource", "bank_a=env:BANK_A", "--execute", "bank_a=env:APP_A",
		"--resource", "bank_b=grpc://"+b.grpc, "--execute", "bank_b")
	await(t, "the coordinator knows its resources", func() bool {
		text := get(t, "http://"+c.http+"/readyz?verbose")
		return strings.Contains(text, "[+]resource bank_a") &&
			strings.Contains(text, "[+]resource bank_b")
	})
	return c
}

func get(t *testing.T, address string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, text := do(t, r)
	return text
}

// do makes a request, and returns the status and what came back.
func do(t *testing.T, r *http.Request) (int, string) {
	t.Helper()
	r.Close = true
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// gavel runs a command to its end, and returns its exit code and what it said.
func gavel(t *testing.T, args ...string) (int, string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), shared.gavel, args...).CombinedOutput()
	if exited, ok := errors.AsType[*exec.ExitError](err); ok {
		return exited.ExitCode(), string(out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0, string(out)
}

// await asks until the answer is yes. It gives up after a minute, which no healthy run comes near.
func await(t *testing.T, what string, yes func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 6000 {
		if yes() {
			return
		}
		<-tick.C
	}
	t.Fatalf("still waiting for: %s", what)
}

package examples

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/gavel-tx/gavel/client/remote"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
	"github.com/gavel-tx/gavel/txn"
)

const (
	// root is the root of the module, as seen from this package.
	root = ".."
	// hang is how long anything is waited for before it counts as never.
	hang = 60 * time.Second
	// again is the pause between two looks.
	again = 5 * time.Millisecond
)

// world is what the examples run in: two databases, each with a sidecar, and a coordinator.
type world struct {
	t *testing.T
	// bin holds gavel and the examples in Go.
	bin      string
	banks    [2]*bank
	sidecars [2]*process
	gavel    *process
}

// bank is one of the databases.
type bank struct {
	name, dsn string
	conn      *pgx.Conn
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, bin: t.TempDir()}
	// What is left out takes long to link, and nobody looks at it here.
	must(t, nil, "go", "build", "-C", root, "-ldflags=-s -w", "-o", w.bin, "./cmd/gavel",
		"./examples/pgx", "./examples/sqlc", "./examples/services/...")
	inst, err := pghost.Ensure(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"bank_a", "bank_b"} {
		w.banks[i] = newBank(t, inst, name)
		w.sidecars[i] = w.startSidecar(w.banks[i])
	}
	w.startCoordinator()
	w.awaitRegistration()
	return w
}

func newBank(t *testing.T, inst pghost.Installation, name string) *bank {
	t.Helper()
	s, err := inst.Start(t.Context(), pghost.Config{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	b := &bank{name: name, dsn: s.DSN("postgres")}
	if b.conn, err = pgx.Connect(t.Context(), b.dsn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.conn.Close(context.Background()) })
	b.exec(t, `CREATE TABLE acct (id text PRIMARY KEY, bal bigint NOT NULL CHECK (bal >= 0))`)
	return b
}

func (b *bank) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := b.conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// number asks the database for one.
func (b *bank) number(t *testing.T, sql string) (n int) {
	t.Helper()
	if err := b.conn.QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func (w *world) startSidecar(b *bank) *process {
	w.t.Helper()
	return start(w.t, 2, []string{"BANK=" + b.dsn}, w.program("gavel"), "participant",
		"--name", b.name, "--postgres", "env:BANK", "--sql", "env:BANK", "--data", w.t.TempDir(),
		"--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
}

func (w *world) startCoordinator() {
	w.t.Helper()
	dir := filepath.Join(w.t.TempDir(), "log")
	must(w.t, nil, w.program("gavel"), "log", "init", dir)
	args := []string{w.program("gavel"), "coordinator", "--data", dir,
		"--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"}
	for i, b := range w.banks {
		args = append(args, "--resource", b.name+"=grpc://"+w.sidecars[i].grpc, "--execute", b.name)
	}
	w.gavel = start(w.t, 2, nil, args...)
}

// url is where the coordinator speaks JSON.
func (w *world) url() string { return "http://" + w.gavel.http }

func (w *world) program(name string) string { return filepath.Join(w.bin, name) }

// awaitRegistration waits until the coordinator has met both databases.
func (w *world) awaitRegistration() {
	w.t.Helper()
	c, err := remote.Dial(w.gavel.grpc)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	w.await("the coordinator to take transactions", func(ctx context.Context) bool {
		begun, err := c.Begin(ctx, txn.BeginRequest{Resources: []string{"bank_a", "bank_b"}})
		if err != nil {
			return false
		}
		_, err = c.Rollback(ctx, begun.ID, "it was a question")
		return err == nil
	})
}

// await asks until the answer is yes.
func (w *world) await(what string, yes func(context.Context) bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), hang)
	defer cancel()
	tick := time.NewTicker(again)
	defer tick.Stop()
	for !yes(ctx) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.t.Fatalf("waited in vain for %s\n%s", what, w.gavel.tail())
		}
	}
}

// fill gives both databases what they begin with.
func (w *world) fill() {
	w.t.Helper()
	for i, owner := range []string{"alice", "bob"} {
		w.banks[i].exec(w.t, `TRUNCATE acct`)
		w.banks[i].exec(w.t, `INSERT INTO acct VALUES ($1, 100)`, owner)
	}
}

// balances asks the databases, once nothing is prepared there any more: a rollback is told, and
// nobody waits for it.
func (w *world) balances(t *testing.T) (alice, bob int) {
	t.Helper()
	w.await("prepared branches to end", func(context.Context) bool {
		const prepared = `SELECT count(*) FROM pg_prepared_xacts`
		return w.banks[0].number(t, prepared)+w.banks[1].number(t, prepared) == 0
	})
	const sum = `SELECT sum(bal)::int FROM acct`
	return w.banks[0].number(t, sum), w.banks[1].number(t, sum)
}

package bench

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/coordinator/server"
	"github.com/gavel-tx/gavel/participant/postgres"
	"github.com/gavel-tx/gavel/proto/wire/transport"
	"github.com/gavel-tx/gavel/txlog/vfs"
)

// clients is how many the worlds of these tests have room for.
const clients = 12

// configOf is a run between the two databases, with a coordinator behind gRPC as a process would
// have it.
func configOf(t *testing.T) Config {
	t.Helper()
	cfg := Config{Dir: t.TempDir(), Clients: []int{clients}, Branches: []int{2}, Seed: 7,
		Accounts: 50}
	for _, name := range []string{"bank_a", "bank_b"} {
		cfg.Resources = append(cfg.Resources, Resource{Name: name, DSN: srv.DSN(name)})
	}
	cfg.Coordinator = serve(t, cfg.Resources)
	return cfg.withDefaults()
}

// serve opens a coordinator and its server, for the time of the test.
func serve(t *testing.T, resources []Resource) (addr string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	if _, err := coordinator.Init(vfs.OS(), dir); err != nil {
		t.Fatal(err)
	}
	cfg := coordinator.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)}
	for _, r := range resources {
		manager, err := postgres.New(postgres.Config{Name: r.Name, DSN: r.DSN})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := manager.Close(); err != nil {
				t.Error(err)
			}
		})
		cfg.Resources = append(cfg.Resources, coordinator.Resource{Name: r.Name,
			Kind: "postgres", Manager: manager})
	}
	c, err := coordinator.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	plain := insecure.NewCredentials()
	g := grpc.NewServer(transport.ServerOptions(transport.Limits{}, plain, nil)...)
	server.New(c, server.Options{}).Register(g)
	healthpb.RegisterHealthServer(g, health.NewServer())
	done := make(chan error, 1)
	go func() { done <- g.Serve(lis) }()
	t.Cleanup(func() {
		g.Stop()
		if err := errors.Join(<-done, c.Close()); err != nil {
			t.Error(err)
		}
	})
	return lis.Addr().String()
}

// openTest opens a world that is closed with the test, and has left nothing behind then.
func openTest(t *testing.T) *world {
	t.Helper()
	w, err := openWorld(t.Context(), configOf(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.close(context.Background()); err != nil {
			t.Error(err)
		}
		clean(t)
	})
	return w
}

// clean fails the test if a run has left something in the databases. The coordinator, which goes
// on, may be trying out whether PREPARE works.
func clean(t *testing.T) {
	t.Helper()
	for _, name := range []string{"bank_a", "bank_b"} {
		err := srv.Exec(context.Background(), name, `DO $$ BEGIN
			IF to_regclass('`+table+`') IS NOT NULL
				OR EXISTS (SELECT FROM pg_prepared_xacts WHERE gid NOT LIKE 'gavelprobe.%')
			THEN RAISE 'something is left'; END IF;
		END $$`)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// balance is that of one account, as the change since the beginning.
func balance(t *testing.T, b *bank, account int) int64 {
	t.Helper()
	var now int64
	err := b.pool.QueryRow(t.Context(), "SELECT balance FROM "+table+" WHERE id = $1", account).
		Scan(&now)
	if err != nil {
		t.Fatal(err)
	}
	return now - opening
}

// within says that a line keeps to the first database.
func within(name string) bool {
	return name == "one-database" || name == plainPoolName || name == "one-resource"
}

// TestDatabasesLines: every line moves the money from where it is to where it belongs, all of it
// once.
func TestDatabasesLines(t *testing.T) {
	w := openTest(t)
	for i, row := range Rows() {
		line, err := row.open(t.Context(), w, 1, 2)
		if err != nil {
			t.Fatal(row.Name, err)
		}
		var mark watch
		mark.begin(time.Now())
		move := Transfer{Amount: 5, Accounts: []int{2 * i, 2*i + 1}}
		if err := line.Transfer(withWatch(t.Context(), &mark), 0, move); err != nil {
			t.Errorf("%s: %v", row.Name, err)
		}
		line.Close()
		if err := errors.Join(w.settle(t.Context()), w.audit(t.Context())); err != nil {
			t.Errorf("%s: %v", row.Name, err)
		}
		from, to, want := w.banks[0], w.banks[1], int64(5)
		if within(row.Name) {
			to = from
		}
		if row.Name == "empty-rpc" {
			want = 0
		}
		if a, b := balance(t, from, 2*i), balance(t, to, 2*i+1); a != -want || b != want {
			t.Errorf("%s: %d and %d, want %d and %d", row.Name, a, b, -want, want)
		}
		if marked := mark.at[PhaseSQL].Load()+mark.at[PhasePrepare].Load() > 0; marked ==
			(row.Name == "empty-rpc") {
			t.Errorf("%s: marks %v", row.Name, marked)
		}
	}
}

// TestDatabasesConflict: a transfer that cannot have its lock says that it is worth another try,
// has left nothing, and the same line goes on afterwards.
func TestDatabasesConflict(t *testing.T) {
	w := openTest(t)
	// Whoever holds the lock; one account for the lines over two databases, one for the others.
	holder, err := w.banks[1].pool.Begin(t.Context())
	if err == nil {
		_, err = holder.Exec(t.Context(), addSQL, 0, 1)
	}
	near, err2 := w.banks[0].pool.Begin(t.Context())
	if err2 == nil {
		_, err2 = near.Exec(t.Context(), addSQL, 0, 2)
	}
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	lines, moves := map[string]Line{}, map[string]Transfer{}
	for i, row := range Rows() {
		if row.Name == "empty-rpc" {
			continue
		}
		line, err := row.open(t.Context(), w, 1, 2)
		if err != nil {
			t.Fatal(err)
		}
		defer line.Close()
		lines[row.Name] = line
		moves[row.Name] = Transfer{Amount: 1, Accounts: []int{10 + i, 1}}
		if within(row.Name) {
			moves[row.Name] = Transfer{Amount: 1, Accounts: []int{10 + i, 2}}
		}
	}
	everyLine := func(check func(name string, err error)) {
		var join sync.WaitGroup
		for name, line := range lines {
			join.Go(func() { check(name, line.Transfer(t.Context(), 0, moves[name])) })
		}
		join.Wait()
	}
	everyLine(func(name string, err error) {
		if !aborted(err) {
			t.Errorf("%s: %v", name, err)
		}
	})
	if err := errors.Join(holder.Rollback(t.Context()), near.Rollback(t.Context())); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.settle(t.Context()), w.audit(t.Context())); err != nil {
		t.Error(err)
	}
	for i := range Rows() {
		if got := balance(t, w.banks[0], 10+i); got != 0 {
			t.Errorf("line %d has left %d", i, got)
		}
	}
	everyLine(func(name string, err error) {
		if err != nil {
			t.Errorf("%s does not go on: %v", name, err)
		}
	})
	if err := errors.Join(w.settle(t.Context()), w.audit(t.Context())); err != nil {
		t.Error(err)
	}
}

// TestDatabasesAudit: a coin too much, or a branch that stays prepared, ends the run; and whatever
// it was, the databases are clean afterwards.
func TestDatabasesAudit(t *testing.T) {
	w := openTest(t)
	if _, err := w.banks[0].pool.Exec(t.Context(), addSQL, 1, 1); err != nil {
		t.Fatal(err)
	}
	if err := w.audit(t.Context()); !errors.Is(err, ErrAudit) {
		t.Errorf("%v", err)
	}
	err := srv.Exec(t.Context(), "bank_a", "BEGIN; UPDATE "+table+" SET balance = 0 WHERE id = 3; "+
		"PREPARE TRANSACTION '"+w.namePrefix()+"0_1_0'")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err = w.settle(ctx)
	if !errors.Is(err, ErrAudit) || !strings.Contains(err.Error(), w.namePrefix()) {
		t.Errorf("%v", err)
	}
}

// TestDatabasesBesideOthers: what other programs have prepared is none of our business.
func TestDatabasesBesideOthers(t *testing.T) {
	w := openTest(t)
	err := srv.Exec(t.Context(), "bank_a", "BEGIN; SELECT 1; PREPARE TRANSACTION 'somebody_else'")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.settle(t.Context()); err != nil {
		t.Error(err)
	}
	err = srv.Exec(t.Context(), "bank_a", "ROLLBACK PREPARED 'somebody_else'")
	if err != nil {
		t.Error("it is gone: ", err)
	}
}

// TestDatabasesHalfOpened: a world that cannot be opened leaves nothing behind.
func TestDatabasesHalfOpened(t *testing.T) {
	cfg := configOf(t)
	// A listener that never answers.
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	cfg.Coordinator = lis.Addr().String()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := openWorld(ctx, cfg); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	clean(t)
	cfg = configOf(t)
	cfg.Resources[1].DSN = "postgres://127.0.0.1:1/x?connect_timeout=1"
	if _, err := openWorld(t.Context(), cfg); !errors.Is(err, ErrUnreachable) {
		t.Errorf("%v", err)
	}
	cfg.Resources[1].DSN = "postgres://%zz"
	if _, err := openWorld(t.Context(), cfg); !errors.Is(err, ErrConfig) {
		t.Errorf("%v", err)
	}
	clean(t)
}

// TestDatabasesRun: the seed decides what is done and in which order, every cell of every round is
// there, and whoever listens hears how far it is.
func TestDatabasesRun(t *testing.T) {
	cfg := configOf(t)
	cfg.Clients, cfg.Rounds, cfg.Duration, cfg.Rate = []int{1, 3}, 2, 10*time.Millisecond, 0.5
	cfg.Lines = []string{"embedded-classic-decided"}
	var heard []int
	cfg.Progress = func(done, total int) { heard = append(heard, done, total) }
	r, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	// Two lines at two numbers of clients, the floor's growth, and two lines in the open loop.
	const cells = 4 + 1 + 2
	if len(r.Figures) != 2*cells || len(r.Summaries) != cells || len(r.Lines) != 2 {
		t.Errorf("%d figures, %d summaries", len(r.Figures), len(r.Summaries))
	}
	if len(heard) != 4*cells || heard[0] != 1 || heard[len(heard)-2] != 2*cells ||
		heard[len(heard)-1] != 2*cells {
		t.Errorf("heard %v", heard)
	}
	if r.Machine.SyncMillis <= 0 || r.Audit.Sum != 2*50*opening || len(r.Servers) != 1 {
		t.Errorf("%+v, %+v", r.Machine, r.Audit)
	}
	clean(t)
	if _, err := Run(t.Context(), Config{}); !errors.Is(err, ErrConfig) {
		t.Errorf("%v", err)
	}
}

package pgsession_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/postgres"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
	"github.com/gavel-tx/gavel/participant/postgres/pgsession"
	"github.com/gavel-tx/gavel/participant/remote"
	"github.com/gavel-tx/gavel/participant/session"
	"github.com/gavel-tx/gavel/proto/wire/transport"
	"github.com/gavel-tx/gavel/txn"
)

var srv *pghost.Server

// TestMain starts a server. Under -short there is none, and only TestPure… are left: everything
// else here is about what PostgreSQL really does.
func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	stop := func() error { return nil }
	if testing.Short() {
		flag.Set("test.run", "^TestPure")
	} else {
		var err error
		if stop, err = startServer(context.Background()); err != nil {
			return fail(err)
		}
	}
	code := m.Run()
	err := stop()
	if err == nil {
		err = goleak.Find()
	}
	if err != nil {
		return fail(err)
	}
	return code
}

func startServer(ctx context.Context) (stop func() error, err error) {
	inst, err := pghost.Ensure(ctx, os.Stderr)
	if err != nil {
		return nil, err
	}
	if srv, err = inst.Start(ctx, pghost.Config{Name: "sessions"}); err != nil {
		return nil, err
	}
	stop = func() error { return srv.Stop(ctx) }
	if err := srv.Exec(ctx, "postgres", schema); err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// schema is a set-up as a user has it: the role that runs SQL, and that of the participant, neither
// a superuser, both members of a role that owns the branches; and a role without rights.
const schema = `CREATE TABLE effects (key text PRIMARY KEY);
	CREATE ROLE gavel_owner NOLOGIN; CREATE ROLE app LOGIN; CREATE ROLE gavel LOGIN;
	CREATE ROLE stranger LOGIN;
	GRANT gavel_owner TO app, gavel;
	GRANT ALL ON effects TO app, stranger, gavel`

func dsn(role string) string { return srv.DSN("postgres") + "&user=" + role }

// site is a database with its adapter and sessions.
type site struct {
	*session.Keeper
	inner *postgres.Resource
}

// open makes one, with changes to how sessions are opened.
func open(ctx context.Context, change func(*pgsession.Config, *session.Config)) (*site, error) {
	inner, err := postgres.Open(ctx, postgres.Config{Name: "bank_a", DSN: dsn("gavel"),
		OwnerRole: "gavel_owner"})
	if err != nil {
		return nil, err
	}
	c := pgsession.Config{DSN: dsn("app"), OwnerRole: "gavel_owner", Finisher: "gavel"}
	k := session.Config{Resource: inner, Identity: func() txn.Identity {
		identity, _ := inner.Seen()
		return identity
	}}
	if change != nil {
		change(&c, &k)
	}
	sessions, err := pgsession.New(c)
	if err != nil {
		return nil, errors.Join(err, inner.Close())
	}
	k.Database = sessions
	keeper, err := session.New(k)
	return &site{keeper, inner}, err
}

// start is open for one test.
func start(t *testing.T, change func(*pgsession.Config, *session.Config)) *site {
	t.Helper()
	s, err := open(t.Context(), change)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// sidecar is a site in a process of its own, and the client by which it is reached.
type sidecar struct {
	*remote.Client
	close func() error
}

func (s *sidecar) Close() error { return s.close() }

// startSidecar serves a site whose fences are remembered in dir.
func startSidecar(ctx context.Context, dir string) (*sidecar, error) {
	s, err := open(ctx, nil)
	if err != nil {
		return nil, err
	}
	server, err := remote.NewServer(remote.Config{Name: "bank_a", Resource: s.Keeper, SQL: s.Keeper,
		FenceFile: filepath.Join(dir, "fences")})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	g := grpc.NewServer(
		transport.ServerOptions(transport.Limits{}, insecure.NewCredentials(), nil)...)
	server.Register(g)
	lis := bufconn.Listen(1 << 20)
	done := make(chan error, 1)
	go func() {
		err := g.Serve(lis)
		if errors.Is(err, grpc.ErrServerStopped) {
			err = nil // the test was over before it began
		}
		done <- err
	}()
	client, err := remote.Dial("passthrough:///bufconn", remote.WithInsecure(),
		remote.WithResource("bank_a"), remote.WithDialOptions(grpc.WithContextDialer(
			func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) })))
	return &sidecar{Client: client, close: sync.OnceValue(func() error {
		err := client.Close()
		s.Drain()
		g.Stop()
		return errors.Join(err, <-done, server.Close(), s.Close())
	})}, err
}

const testLog txn.LogID = 0x7777

var lastSeq txn.Seq

// newName is a name that was never used. Tests here are not parallel.
func newName() txn.Name {
	lastSeq++
	return txn.Name{Log: testLog, Seq: lastSeq, Branch: 1}
}

// fence is that of the only epoch of the test log.
func fence() txn.Fence { return txn.Fence{Log: testLog, Epoch: 1, LSN: 1} }

// attach begins a branch that is closed with the test.
func attach(t *testing.T, r session.Runner, n txn.Name, o session.Options) session.Branch {
	t.Helper()
	b, err := r.Attach(t.Context(), session.Attachment{Name: n, Options: o})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// exec runs a statement that must succeed.
func exec(t *testing.T, b session.Branch, sql string, args ...any) session.Result {
	t.Helper()
	r, err := b.Execute(t.Context(), session.Statement{SQL: sql, Args: args}, nil)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return r
}

func vote(t *testing.T, r participant.Resource, n txn.Name) participant.Vote {
	t.Helper()
	votes, err := r.Prepare(t.Context(), fence(), []participant.Branch{{Name: n}})
	if err != nil {
		t.Fatal(err)
	}
	return votes[0]
}

// query asks as an operator, and returns the first column of the first row.
func query(t *testing.T, sql string) (text string) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, srv.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if err := conn.QueryRow(ctx, sql, pgx.QueryExecModeSimpleProtocol).Scan(&text); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return text
}

func effect(t *testing.T, key string) bool {
	t.Helper()
	return query(t, fmt.Sprintf("SELECT count(*)::text FROM effects WHERE key = '%s'", key)) == "1"
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

// awaitNoWork waits until no session of a client is in a transaction.
func awaitNoWork(t *testing.T) {
	t.Helper()
	await(t, "the end of all sessions' work", func() bool {
		return query(t, `SELECT count(*)::text FROM pg_stat_activity
			WHERE application_name = 'gavel sql' AND xact_start IS NOT NULL`) == "0"
	})
}

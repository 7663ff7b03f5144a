package grpctx_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/test/bufconn"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/grpctx"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/participant/postgres"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// world is a caller with its database, bank_a, a coordinator, and whatever services a test starts.
// Each service is another process, as far as one test binary can have it: it shares nothing with
// the caller but the coordinator.
type world struct {
	t      testing.TB
	coord  *coordinator.Coordinator
	client *client.Client
	a      *pgxtx.DB
}

func newWorld(t testing.TB) *world {
	t.Helper()
	for _, s := range []*pghost.Server{srvA, srvB} {
		err := s.Exec(t.Context(), "postgres", `TRUNCATE acct, notes;
			INSERT INTO acct VALUES ('alice', 100), ('bob', 100), ('carol', 100)`)
		if err != nil {
			t.Fatal(err)
		}
	}
	w := &world{t: t}
	w.coord = openCoordinator(t)
	w.client = client.New(w.coord)
	w.a = pgxtx.New("bank_a", newPool(t, srvA))
	t.Cleanup(w.wantNothingPrepared)
	return w
}

func openCoordinator(t testing.TB) *coordinator.Coordinator {
	t.Helper()
	dir := t.TempDir()
	if _, err := coordinator.Init(vfs.OS(), dir); err != nil {
		t.Fatal(err)
	}
	conf := coordinator.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)}
	for _, s := range []*pghost.Server{srvA, srvB} {
		r, err := postgres.Open(t.Context(),
			postgres.Config{Name: s.Name(), DSN: s.DSN("postgres")})
		if err != nil {
			t.Fatal(err)
		}
		closing(t, r)
		conf.Resources = append(conf.Resources,
			coordinator.Resource{Name: s.Name(), Kind: "postgres", Manager: r})
	}
	coord, err := coordinator.Open(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	closing(t, coord)
	eventually(t, "the resources are registered", func() bool {
		begun, err := coord.Begin(t.Context(),
			txn.BeginRequest{Resources: []string{"bank_a", "bank_b"}})
		if err == nil {
			_, err = coord.Rollback(t.Context(), begun.ID, "only a question")
		}
		return err == nil
	})
	return coord
}

func closing(t testing.TB, c io.Closer) {
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

func newPool(t testing.TB, s *pghost.Server) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), s.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// eventually waits for what happens in the background.
func eventually(t testing.TB, what string, happened func() bool) {
	t.Helper()
	limit := time.After(30 * time.Second)
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for !happened() {
		select {
		case <-again.C:
		case <-limit:
			t.Fatalf("not after 30 s: %s", what)
		}
	}
}

// scan asks a server on a connection of its own, as somebody outside of every transaction.
func scan[T any](t testing.TB, s *pghost.Server, sql string) T {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, s.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var v T
	if err := conn.QueryRow(ctx, sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// wantNothingPrepared: whatever happened, the coordinator finishes it, and no session stays behind.
func (w *world) wantNothingPrepared() {
	for _, s := range []*pghost.Server{srvA, srvB} {
		eventually(w.t, "nothing is prepared at "+s.Name(), func() bool {
			return scan[int](w.t, s, `SELECT (SELECT count(*) FROM pg_prepared_xacts) +
				(SELECT count(*) FROM pg_stat_activity
				WHERE state LIKE 'idle in transaction%')`) == 0
		})
	}
}

// want compares the books: alice's account is in bank_a, bob's in bank_b. Whoever is still prepared
// is waited for.
func (w *world) want(alice, bob int) {
	w.t.Helper()
	w.wantNothingPrepared()
	a := scan[int](w.t, srvA, `SELECT bal FROM acct WHERE id = 'alice'`)
	b := scan[int](w.t, srvB, `SELECT bal FROM acct WHERE id = 'bob'`)
	if a != alice || b != bob {
		w.t.Errorf("alice has %d and bob %d, want %d and %d", a, b, alice, bob)
	}
}

const (
	debit  = `UPDATE acct SET bal = bal - $1 WHERE id = 'alice'`
	credit = `UPDATE acct SET bal = bal + $1 WHERE id = 'bob'`
)

func (w *world) debit(ctx context.Context) error {
	_, err := w.a.Exec(ctx, debit, 30)
	return err
}

// handler is what a service does about a request.
type handler func(ctx context.Context) error

// credits is a handler that pays 30 to bob.
func credits(db *pgxtx.DB) handler {
	return func(ctx context.Context) error {
		_, err := db.Exec(ctx, credit, 30)
		return err
	}
}

// service answers every kind of call by its handler: once for a call, and for streams that are
// written once for each message.
type service struct {
	testpb.UnimplementedTestServiceServer
	handle handler
}

func (s *service) UnaryCall(
	ctx context.Context, _ *testpb.SimpleRequest,
) (*testpb.SimpleResponse, error) {
	return &testpb.SimpleResponse{Username: "done"}, s.handle(ctx)
}

func (s *service) StreamingOutputCall(
	_ *testpb.StreamingOutputCallRequest, stream testpb.TestService_StreamingOutputCallServer,
) error {
	for range 3 {
		if err := stream.Send(&testpb.StreamingOutputCallResponse{}); err != nil {
			return err
		}
	}
	return s.handle(stream.Context())
}

func (s *service) StreamingInputCall(stream testpb.TestService_StreamingInputCallServer) error {
	for {
		_, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&testpb.StreamingInputCallResponse{})
		}
		if err != nil {
			return err
		}
		if err := s.handle(stream.Context()); err != nil {
			return err
		}
	}
}

func (s *service) FullDuplexCall(stream testpb.TestService_FullDuplexCallServer) error {
	for {
		_, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.handle(stream.Context()); err != nil {
			return err
		}
		if err := stream.Send(&testpb.StreamingOutputCallResponse{}); err != nil {
			return err
		}
	}
}

// setup changes how a service is reached.
type setup struct {
	// decider is the service's own way to the coordinator. Defaults to the one of this process.
	decider client.Decider
	// bare: the server has no interceptors of ours.
	bare bool
	// outer is around the server's interceptors, and inner below the client's: what they do happens
	// on the way.
	outer grpc.UnaryServerInterceptor
	inner grpc.UnaryClientInterceptor
	dial  []grpc.DialOption
	// server is told of the server.
	server func(*grpc.Server)
}

// serve starts a service and connects to it.
func (w *world) serve(h handler, s setup) testpb.TestServiceClient {
	w.t.Helper()
	var unary []grpc.UnaryServerInterceptor
	var streams []grpc.StreamServerInterceptor
	if s.outer != nil {
		unary = append(unary, s.outer)
	}
	if !s.bare {
		var d client.Decider = w.coord
		if s.decider != nil {
			d = s.decider
		}
		c := client.New(d)
		unary = append(unary, grpctx.UnaryServer(c))
		streams = append(streams, grpctx.StreamServer(c))
	}
	srv := grpc.NewServer(grpc.ChainUnaryInterceptor(unary...),
		grpc.ChainStreamInterceptor(streams...))
	testpb.RegisterTestServiceServer(srv, &service{handle: h})
	if s.server != nil {
		s.server(srv)
	}
	dial := []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(grpctx.UnaryClient()),
		grpc.WithChainStreamInterceptor(grpctx.StreamClient()),
	}
	if s.inner != nil {
		dial = append(dial, grpc.WithChainUnaryInterceptor(s.inner))
	}
	return testpb.NewTestServiceClient(connect(w.t, srv, append(dial, s.dial...)...))
}

// connect runs a server, and dials it in memory.
func connect(t testing.TB, srv *grpc.Server, dial ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///service", append(dial, dialTo(t, srv),
		grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	closing(t, conn)
	return conn
}

// dialTo runs a server, and leads to it.
func dialTo(t testing.TB, srv *grpc.Server) grpc.DialOption {
	lis := bufconn.Listen(1 << 20)
	var join sync.WaitGroup
	join.Go(func() { _ = srv.Serve(lis) })
	t.Cleanup(func() {
		srv.Stop()
		join.Wait()
	})
	return grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return lis.DialContext(ctx)
	})
}

// call calls a service that has one thing to do.
func call(ctx context.Context, svc testpb.TestServiceClient) error {
	_, err := svc.UnaryCall(ctx, &testpb.SimpleRequest{})
	return err
}

// transfer debits here and calls a service for the rest.
func (w *world) transfer(svc testpb.TestServiceClient) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := w.debit(ctx); err != nil {
			return err
		}
		return call(ctx, svc)
	}
}

// swallow is a function whose error is ignored.
func swallow(f func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		_ = f(ctx)
		return nil
	}
}

func wantAborted(t testing.TB, err error) *client.AbortedError {
	t.Helper()
	a, ok := errors.AsType[*client.AbortedError](err)
	if !ok {
		t.Fatalf("error %v (%T), want an AbortedError", err, err)
	}
	return a
}

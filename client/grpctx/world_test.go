package grpctx_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/test/bufconn"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/grpctx"
	"github.com/gavel-tx/gavel/client/internal/banks"
	"github.com/gavel-tx/gavel/client/pgxtx"
)

// world is that of package banks, with whatever services a test starts. Each of them is another
// process, as far as one test binary can have it: it shares nothing with the caller but the
// coordinator.
type world struct{ *banks.World }

func newWorld(t testing.TB) *world {
	t.Helper()
	return &world{banks.New(t)}
}

const (
	debit  = banks.Debit
	credit = banks.Credit
)

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
	w.T.Helper()
	var unary []grpc.UnaryServerInterceptor
	var streams []grpc.StreamServerInterceptor
	if s.outer != nil {
		unary = append(unary, s.outer)
	}
	if !s.bare {
		var d client.Decider = w.Coord
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
	return testpb.NewTestServiceClient(connect(w.T, srv, append(dial, s.dial...)...))
}

// connect runs a server, and dials it in memory.
func connect(t testing.TB, srv *grpc.Server, dial ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///service", append(dial, dialTo(t, srv),
		grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	banks.Closing(t, conn)
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
		if err := w.Debit(ctx); err != nil {
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

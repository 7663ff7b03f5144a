package transport

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/gavel-tx/gavel/proto/wire"
)

// Limits bound what clients can make a server hold. The zero Limits are the defaults.
type Limits struct {
	// MaxMessage bounds one request, in bytes. Defaults to 64 KiB: a commit with 64 votes needs
	// half of it.
	MaxMessage int
	// MaxStreams bounds the calls in flight on one connection. Defaults to 1024.
	MaxStreams uint32
	// MaxAge is when a connection is asked to close, so that clients spread over servers anew. It
	// then has MaxAgeGrace for its calls. Defaults to 30 minutes and 1 minute.
	MaxAge, MaxAgeGrace time.Duration
	// MinPing is how often a client may ping. One that does more often is disconnected. Defaults
	// to 5 s.
	MinPing time.Duration
	// HandshakeTimeout bounds the time from the first byte of a connection to its first call.
	// Defaults to 10 s.
	HandshakeTimeout time.Duration
}

func (l Limits) withDefaults() Limits {
	fill(&l.MaxMessage, 64<<10)
	fill(&l.MaxStreams, 1024)
	fill(&l.MaxAge, 30*time.Minute)
	fill(&l.MaxAgeGrace, time.Minute)
	fill(&l.MinPing, 5*time.Second)
	fill(&l.HandshakeTimeout, 10*time.Second)
	return l
}

func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Panic is a panic within a call.
type Panic struct {
	Value any
	Stack []byte
}

// Pings of an idle client find a dead connection within about pingEvery + pingWait.
const (
	pingEvery = 10 * time.Second
	pingWait  = 5 * time.Second
)

// ServerOptions are the options that every gRPC server of gavel is made with. report, if not nil,
// hears of every panic within a call; the caller hears INTERNAL with the outcome unknown, since
// nobody can say how far the call had come.
func ServerOptions(
	l Limits, creds credentials.TransportCredentials, report func(Panic),
) []grpc.ServerOption {
	l = l.withDefaults()
	return []grpc.ServerOption{
		grpc.Creds(creds),
		grpc.MaxRecvMsgSize(l.MaxMessage),
		grpc.MaxConcurrentStreams(l.MaxStreams),
		grpc.ConnectionTimeout(l.HandshakeTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime: l.MinPing, PermitWithoutStream: true,
		}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: l.MaxAge, MaxConnectionAgeGrace: l.MaxAgeGrace,
			Time: pingEvery, Timeout: pingWait,
		}),
		grpc.ChainUnaryInterceptor(Recovery(report)),
		grpc.ChainStreamInterceptor(recovery.StreamServerInterceptor(recovered(report))),
	}
}

// Recovery is the interceptor that keeps a panic within its call, in the way of [ServerOptions]:
// for whoever makes calls of a service that did not come by themselves.
func Recovery(report func(Panic)) grpc.UnaryServerInterceptor {
	return recovery.UnaryServerInterceptor(recovered(report))
}

func recovered(report func(Panic)) recovery.Option {
	return recovery.WithRecoveryHandlerContext(func(_ context.Context, v any) error {
		if report != nil {
			report(Panic{Value: v, Stack: debug.Stack()})
		}
		return wire.Status(fmt.Errorf("the server failed inside the call"))
	})
}

// DialOptions are the options that every gRPC client of gavel dials with: it notices a dead peer
// by itself, and takes no retry policy from outside, since repeating a call is decided by what is
// being asked.
func DialOptions(creds credentials.TransportCredentials) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: pingEvery, Timeout: pingWait, PermitWithoutStream: true,
		}),
		grpc.WithDisableServiceConfig(),
		// A server that restarts is found again soon: gRPC's own pauses grow to two minutes.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2,
				MaxDelay: 2 * time.Second,
			},
			MinConnectTimeout: 5 * time.Second,
		}),
	}
}

// RegisterHealth adds the health service (grpc.health.v1) and reflection to a server, last of all
// services. The process as a whole ("") is serving at once; the named services are not until the
// caller sets their status. The caller also calls Shutdown before it stops the server.
func RegisterHealth(g *grpc.Server, services ...string) *health.Server {
	h := health.NewServer()
	for _, s := range services {
		h.SetServingStatus(s, grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	}
	grpc_health_v1.RegisterHealthServer(g, h)
	reflection.Register(g)
	return h
}

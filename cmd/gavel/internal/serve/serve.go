// Package serve is what the long-running commands share: a gRPC address and an HTTP address, both
// under one rule about plaintext, health for machines and people, and an orderly end.
//
//	f := serve.Face{GRPC: addr, HTTP: addr, …}
//	l, err := f.Listen()                 // addresses are taken, nothing is answered yet
//	… open what stands behind them …
//	s := l.Serve(register, handler)      // answers
//	s.Ready(true)                        // and says so to whoever balances load
//	s.Stop(ctx)                          // not ready, finish calls, close
//
// Addresses are taken before a log is opened, so that a second process started by mistake fails
// before it has touched anything.
package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/proto/wire/transport"
)

// Face is how a process meets the network.
type Face struct {
	// GRPC and HTTP are addresses as for net.Listen.
	GRPC, HTTP string
	TLS        transport.TLS
	// Insecure allows plaintext beyond loopback.
	Insecure bool
	// Service is the gRPC service whose health is shown beside that of the process.
	Service string
	// MaxMessage bounds one request, in bytes. Defaults to that of transport.Limits.
	MaxMessage int
	Logger     *slog.Logger
}

// Check refuses, with an error that wraps transport.ErrPlaintext, to be readable by the network
// without anybody having said so. The HTTP face shows and later controls as much as the other.
func (f Face) Check() error {
	for _, addr := range []string{f.GRPC, f.HTTP} {
		if f.TLS.IsZero() {
			if err := transport.CheckPlaintext(addr, f.Insecure); err != nil {
				return err
			}
		}
	}
	return nil
}

// Listener holds both addresses.
type Listener struct {
	face       Face
	grpc, http net.Listener
	options    []grpc.ServerOption
	tls        *tls.Config
}

// Listen takes both addresses.
func (f Face) Listen() (*Listener, error) {
	if err := f.Check(); err != nil {
		return nil, err
	}
	creds, err := transport.Server(f.TLS, f.GRPC, f.Insecure)
	if err != nil {
		return nil, badTLS(err)
	}
	l := &Listener{face: f}
	if !f.TLS.IsZero() {
		if l.tls, err = transport.ServerConfig(f.TLS); err != nil {
			return nil, badTLS(err)
		}
	}
	l.options = transport.ServerOptions(transport.Limits{MaxMessage: f.MaxMessage}, creds,
		f.Panicked)
	if l.grpc, err = net.Listen("tcp", f.GRPC); err != nil {
		return nil, taken(err)
	}
	if l.http, err = net.Listen("tcp", f.HTTP); err != nil {
		return nil, errors.Join(taken(err), l.grpc.Close())
	}
	return l, nil
}

func badTLS(err error) error {
	return &exit.Error{Code: exit.Usage, What: err.Error(), Err: err,
		Do: "Correct --tls-cert, --tls-key and --tls-ca."}
}

func taken(err error) error {
	return &exit.Error{Code: exit.Refused, What: err.Error(), Err: err,
		Data: "Nothing was started.",
		Do:   "Choose another address, or stop the process that holds it."}
}

// Panicked writes down that a call failed inside.
func (f Face) Panicked(p transport.Panic) {
	f.Logger.Error("a call failed inside", "panic", fmt.Sprint(p.Value), "stack", string(p.Stack))
}

// Close gives the addresses back, unserved.
func (l *Listener) Close() error { return errors.Join(l.grpc.Close(), l.http.Close()) }

// Addrs are the addresses as they were taken, with the port that a 0 became.
func (l *Listener) Addrs() (grpc, http string) {
	return l.grpc.Addr().String(), l.http.Addr().String()
}

// Secured says how the connections are secured, for people.
func (l *Listener) Secured() string {
	switch {
	case l.tls == nil:
		return "plaintext"
	case l.face.TLS.CA == "":
		return "TLS"
	}
	return "mutual TLS"
}

// Server answers on both addresses.
type Server struct {
	face   Face
	grpc   *grpc.Server
	http   *http.Server
	health *health.Server
	failed chan error
	join   sync.WaitGroup
}

// Limits of the HTTP face.
const (
	headerTimeout = 5 * time.Second
	idleTimeout   = time.Minute
	maxHeader     = 16 << 10
)

// Serve starts to answer. The process counts as alive at once, and as ready only after Ready.
func (l *Listener) Serve(register func(grpc.ServiceRegistrar), handler http.Handler) *Server {
	s := &Server{face: l.face, grpc: grpc.NewServer(l.options...), failed: make(chan error, 2)}
	register(s.grpc)
	s.health = transport.RegisterHealth(s.grpc, l.face.Service)
	s.http = &http.Server{Handler: handler, TLSConfig: l.tls, ReadHeaderTimeout: headerTimeout,
		ReadTimeout: 2 * headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(l.face.Logger.Handler(), slog.LevelWarn)}
	s.join.Go(func() { s.report(s.grpc.Serve(l.grpc)) })
	s.join.Go(func() {
		if l.tls != nil {
			s.report(s.http.ServeTLS(l.http, "", ""))
			return
		}
		s.report(s.http.Serve(l.http))
	})
	return s
}

func (s *Server) report(err error) {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, grpc.ErrServerStopped) {
		err = nil
	}
	if err != nil {
		s.failed <- err
	}
}

// Failed delivers the error of a server that ended by itself.
func (s *Server) Failed() <-chan error { return s.failed }

// Ready says whether the service is, to gRPC's health service.
func (s *Server) Ready(ready bool) {
	status := grpc_health_v1.HealthCheckResponse_NOT_SERVING
	if ready {
		status = grpc_health_v1.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus(s.face.Service, status)
}

// Stop ends both servers: politely until ctx ends, then at once. It returns when no gRPC call runs;
// an HTTP call that was cut off may run on, and nobody hears its answer.
func (s *Server) Stop(ctx context.Context) {
	s.health.Shutdown()
	s.join.Go(func() {
		if s.http.Shutdown(ctx) != nil {
			// A connection that is still busy when the time is over is cut.
			_ = s.http.Close()
		}
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop()
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
	}
	s.join.Wait()
}

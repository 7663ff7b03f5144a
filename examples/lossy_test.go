package examples

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
)

// lossy is a way to the coordinator on which one answer gets lost: that to the first call that asks
// for a commit, which the coordinator carries out.
type lossy struct {
	// address is what to set GAVEL to.
	address string
	calls   atomic.Int32
	// rollbacks counts what the coordinator has rolled back when it was asked on this way.
	rollbacks atomic.Int32
}

// loses counts a call, and says whether its answer gets lost.
func (l *lossy) loses() bool { return l.calls.Add(1) == 1 }

// losingHTTP makes a way to the coordinator's HTTP address that loses an answer of a method.
func (w *world) losingHTTP(method string) func(*testing.T) *lossy {
	return func(t *testing.T) *lossy {
		t.Helper()
		to, err := url.Parse(w.url())
		if err != nil {
			t.Fatal(err)
		}
		l := &lossy{}
		proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
		proxy.ModifyResponse = func(answer *http.Response) error {
			if strings.HasSuffix(answer.Request.URL.Path, "/"+method) && l.loses() {
				panic(http.ErrAbortHandler) // the connection is closed, unanswered
			}
			return nil
		}
		s := httptest.NewServer(proxy)
		t.Cleanup(s.Close)
		l.address = s.URL
		return l
	}
}

// losingGRPC makes a way to the coordinator's gRPC address.
func (w *world) losingGRPC(t *testing.T) *lossy {
	t.Helper()
	conn, err := grpc.NewClient(w.gavel.grpc,
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &lossy{address: lis.Addr().String()}
	srv := grpc.NewServer()
	gavelv1.RegisterTransactionServiceServer(srv, &forwarder{
		to: gavelv1.NewTransactionServiceClient(conn), lossy: l})
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return l
}

// forwarder makes the calls of others at the coordinator.
type forwarder struct {
	gavelv1.UnimplementedTransactionServiceServer
	to    gavelv1.TransactionServiceClient
	lossy *lossy
}

func (f *forwarder) BeginTransaction(
	ctx context.Context, r *gavelv1.BeginTransactionRequest,
) (*gavelv1.BeginTransactionResponse, error) {
	return f.to.BeginTransaction(ctx, r)
}

func (f *forwarder) CommitTransaction(
	ctx context.Context, r *gavelv1.CommitTransactionRequest,
) (*gavelv1.CommitTransactionResponse, error) {
	answer, err := f.to.CommitTransaction(ctx, r)
	if f.lossy.loses() {
		return nil, status.Error(codes.Unavailable, "the connection is lost")
	}
	return answer, err
}

func (f *forwarder) RollbackTransaction(
	ctx context.Context, r *gavelv1.RollbackTransactionRequest,
) (*gavelv1.RollbackTransactionResponse, error) {
	answer, err := f.to.RollbackTransaction(ctx, r)
	if err == nil {
		f.lossy.rollbacks.Add(1)
	}
	return answer, err
}

// Package web is the coordinator's service for everything that speaks HTTP and not gRPC: the
// methods of server.Server as JSON, by the Connect protocol, and as gRPC-Web.
//
//	curl -H 'Content-Type: application/json' -d '{"resources": ["bank_a", "bank_b"]}' \
//	    http://127.0.0.1:7441/gavel.v1.TransactionService/BeginTransaction
//
// There is no second way through the server: a call is the same method with the same answer and,
// where it fails, the same status: its code by name, its text, and its details, of which
// google.rpc.ErrorInfo has the reason.
//
//	HTTP/1.1 409 Conflict
//	{"code": "aborted", "message": "…", "details": [{"type": "google.rpc.ErrorInfo", "debug":
//	    {"reason": "PARTICIPANT_VOTED_NO", …}}]}
//
// 200 for CommitTransaction and ExecuteTransaction means that the transaction is committed,
// durably, and nothing else does; but for an intent, which decides nothing. The code "aborted"
// means that nothing of it remains. Every other answer, and none, leaves the outcome unknown:
// repeat the call, or ask GetTransaction; an ExecuteTransaction may be repeated only if it has an
// idempotency key.
//
// # Browsers
//
// A page of another site can make a browser send requests to addresses that only the browser
// reaches. They are refused: what comes from a page must come from the address that it asks, and
// without TLS that must be a number or localhost, because anybody's name can be made to lead here.
package web

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/gavel-tx/gavel/coordinator/server"
	"github.com/gavel-tx/gavel/proto/wire/transport"
)

// Path is where the methods are: the pattern under which to mount the handler.
const Path = "/" + server.Service + "/"

// Options are the limits of the handler. The zero Options are the defaults.
type Options struct {
	// MaxMessage bounds one request, in bytes. Defaults to 64 KiB.
	MaxMessage int
	// TLS says that the handler is served by TLS, so that the client has made sure of the name.
	TLS bool
	// Interceptor runs around every call, as those of a gRPC server do. It must keep a panic within
	// its call. Defaults to transport.Recovery(nil).
	Interceptor grpc.UnaryServerInterceptor
}

// envelope is what gRPC-Web adds to a message, and more.
const envelope = 64

// Handler serves the methods of s below [Path], but for Session, which needs gRPC.
func Handler(s *server.Server, o Options) http.Handler {
	if o.MaxMessage == 0 {
		o.MaxMessage = 64 << 10
	}
	if o.Interceptor == nil {
		o.Interceptor = transport.Recovery(nil)
	}
	mux := http.NewServeMux()
	method(mux, o, "BeginTransaction", s.BeginTransaction)
	method(mux, o, "EnlistBranch", s.EnlistBranch)
	method(mux, o, "CommitTransaction", s.CommitTransaction)
	method(mux, o, "RollbackTransaction", s.RollbackTransaction)
	method(mux, o, "GetTransaction", s.GetTransaction)
	method(mux, o, "ListTransactions", s.ListTransactions)
	method(mux, o, "ExecuteTransaction", s.ExecuteTransaction)
	return http.NewCrossOriginProtection().Handler(&door{mux, o})
}

// method mounts one. What it answers, and what goes wrong, are as over gRPC. It takes POST alone:
// with a GET no browser says which page it is for.
func method[Req, Res any](
	mux *http.ServeMux, o Options, name string, call func(context.Context, *Req) (*Res, error),
) {
	info := &grpc.UnaryServerInfo{FullMethod: Path + name}
	run := func(ctx context.Context, r any) (any, error) { return call(ctx, r.(*Req)) }
	mux.Handle(info.FullMethod, connect.NewUnaryHandlerSimple(info.FullMethod,
		func(ctx context.Context, r *Req) (*Res, error) {
			answer, err := o.Interceptor(ctx, r, info, run)
			if err != nil {
				return nil, translate(err)
			}
			return answer.(*Res), nil
		}, connect.WithReadMaxBytes(o.MaxMessage),
		connect.WithCodec(strict{"json"}), connect.WithCodec(strict{"json; charset=utf-8"})))
}

// strict is JSON in which a field that does not exist is an error: nobody's key, or resource, is to
// be overlooked because of its spelling.
type strict struct{ name string }

func (s strict) Name() string { return s.name }

func (strict) Marshal(m any) ([]byte, error) { return protojson.Marshal(m.(proto.Message)) }

func (strict) Unmarshal(b []byte, m any) error {
	return protojson.Unmarshal(b, m.(proto.Message))
}

// translate makes a status an error of the other protocol: the codes are the same.
func translate(err error) error {
	st := status.Convert(err)
	e := connect.NewError(connect.Code(st.Code()), errors.New(st.Message()))
	for _, d := range st.Details() {
		m, ok := d.(proto.Message)
		if !ok {
			continue
		}
		if detail, err := connect.NewErrorDetail(m); err == nil {
			e.AddDetail(detail)
		}
	}
	return e
}

// door looks at a request before its method does.
type door struct {
	next http.Handler
	o    Options
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Origin") != "" && !d.o.TLS && !local(r.Host) {
		http.Error(w, "without TLS a page may ask only an address that is a number or localhost",
			http.StatusForbidden)
		return
	}
	// The request must have arrived by the server's deadline for reading, which would end the call
	// as well if it stayed: a commit may wait longer for its branches.
	most := d.o.MaxMessage + envelope
	body, err := io.ReadAll(io.LimitReader(r.Body, int64(most+1)))
	switch {
	case err != nil:
		http.Error(w, "the request did not arrive in full", http.StatusBadRequest)
		return
	case len(body) > most:
		// What is left of it is not waited for.
		w.Header().Set("Connection", "close")
		http.Error(w, "the request is too large", http.StatusRequestEntityTooLarge)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	// It fails only for a connection that has no deadlines, and then there is none to take off.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	d.next.ServeHTTP(w, r)
}

// local says whether a Host header is an address that no name service can lead elsewhere.
func local(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return host == "localhost" || net.ParseIP(strings.Trim(host, "[]")) != nil
}

package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/gavel-tx/gavel/proto/wire"
)

// serve runs a server with nothing but health and reflection on a loopback port.
func serve(t *testing.T, creds credentials.TransportCredentials) (*grpc.Server, string) {
	t.Helper()
	g := grpc.NewServer(ServerOptions(Limits{}, creds, nil)...)
	RegisterHealth(g, "gavel.v1.TransactionService")
	return g, listen(t, g)
}

func listen(t *testing.T, g *grpc.Server) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- g.Serve(lis) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return lis.Addr().String()
}

func dial(t *testing.T, addr string, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, DialOptions(creds)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// check asks the health service, and returns the server's certificate if there is one.
func check(t *testing.T, conn *grpc.ClientConn) (*x509.Certificate, error) {
	t.Helper()
	var p peer.Peer
	_, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(),
		&grpc_health_v1.HealthCheckRequest{}, grpc.Peer(&p))
	if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && err == nil {
		return info.State.PeerCertificates[0], nil
	}
	return nil, err
}

type creds = credentials.TransportCredentials

func mustCreds(t *testing.T) func(creds, error) creds {
	return func(c creds, err error) creds {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
}

// TestHandshake is the table of who may talk to whom. A refused client must fail, and must not be
// let in without its certificate.
func TestHandshake(t *testing.T) {
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	server := ours.issue(leaf{serial: 10})
	client := ours.issue(leaf{serial: 11})
	noCert := TLS{CA: ours.file}
	stranger := theirs.issue(leaf{serial: 12})
	stranger.CA = ours.file
	distrusts := client
	distrusts.CA = theirs.file
	open := server
	open.CA = ""
	cases := []struct {
		name           string
		server, client TLS
		ok             bool
	}{
		{"mutual", server, client, true},
		{"server without CA asks for nothing", open, noCert, true},
		{"no client certificate", server, noCert, false},
		{"client of another CA", server, stranger, false},
		{"server of another CA", server, distrusts, false},
		{"server certificate expired", ours.issue(leaf{serial: 13, expired: true}), client, false},
		{"client certificate expired", server, ours.issue(leaf{serial: 14, expired: true}), false},
		{"server has another name", ours.issue(leaf{serial: 15, host: "db.example"}), client,
			false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, addr := serve(t, mustCreds(t)(Server(c.server, "0.0.0.0:0", false)))
			cert, err := check(t, dial(t, addr, mustCreds(t)(Client(c.client, addr, false))))
			if c.ok && (err != nil || cert == nil) {
				t.Errorf("refused: %v", err)
			}
			if !c.ok && status.Code(err) != codes.Unavailable {
				t.Errorf("let in: %v", err)
			}
		})
	}
}

func TestPlaintextClientOfTLSServer(t *testing.T) {
	a := newAuthority(t, "ours")
	_, addr := serve(t, mustCreds(t)(Server(a.issue(leaf{serial: 2}), "", false)))
	if _, err := check(t, dial(t, addr, insecure.NewCredentials())); err == nil {
		t.Error("a plaintext client was served")
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	a := newAuthority(t, "ours")
	files := a.issue(leaf{serial: 2})
	files.CA = ""
	_, addr := serve(t, mustCreds(t)(Server(files, "", false)))
	conn, err := tls.Dial("tcp", addr, &tls.Config{
		MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true,
	})
	if err == nil {
		conn.Close()
		t.Error("TLS 1.2 was accepted")
	}
}

// TestRenewedCertificate: the server shows a new certificate to new connections without a
// restart, keeps the old one while the pair is half in place, and reports both.
func TestRenewedCertificate(t *testing.T) {
	a := newAuthority(t, "ours")
	files := a.issue(leaf{serial: 20})
	reports := make(chan error, 100)
	files.Reloaded = func(err error) { reports <- err }
	// last is what was reported since it was last asked: how much, and the newest.
	last := func() (n int, newest error) {
		for {
			select {
			case newest = <-reports:
				n++
			default:
				return n, newest
			}
		}
	}
	_, addr := serve(t, mustCreds(t)(Server(files, "", false)))
	client := mustCreds(t)(Client(a.issue(leaf{serial: 21}), addr, false))
	serial := func() int64 {
		t.Helper()
		conn := dial(t, addr, client.Clone())
		defer conn.Close()
		cert, err := check(t, conn)
		if err != nil {
			t.Fatal(err)
		}
		return cert.SerialNumber.Int64()
	}
	got := serial()
	if n, _ := last(); got != 20 || n != 0 {
		t.Fatalf("first certificate is %d, %d reloads", got, n)
	}
	cert, key := a.sign(leaf{serial: 22})
	a.write(files.Cert, "CERTIFICATE", cert)
	got = serial()
	if n, err := last(); got != 20 || n == 0 || err == nil {
		t.Fatalf("half a pair: certificate %d, %d reports, %v", got, n, err)
	}
	a.write(files.Key, "PRIVATE KEY", key)
	got = serial()
	if n, err := last(); got != 22 || n == 0 || err != nil {
		t.Fatalf("whole pair: certificate %d, %d reports, %v", got, n, err)
	}
	if err := os.Remove(files.Key); err != nil {
		t.Fatal(err)
	}
	got = serial()
	if n, err := last(); got != 22 || n == 0 || err == nil {
		t.Fatalf("key removed: certificate %d, %d reports, %v", got, n, err)
	}
}

// TestRenewedAuthority: a client follows a change of its authorities as well.
func TestRenewedAuthority(t *testing.T) {
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	files := ours.issue(leaf{serial: 30})
	files.CA = ""
	_, addr := serve(t, mustCreds(t)(Server(files, "", false)))
	client := TLS{CA: theirs.file}
	creds := mustCreds(t)(Client(client, addr, false))
	first := dial(t, addr, creds)
	if _, err := check(t, first); err == nil {
		t.Fatal("trusted a strange authority")
	}
	body, err := os.ReadFile(ours.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(theirs.file, body, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := check(t, dial(t, addr, creds)); err != nil {
		t.Errorf("the new authority is not followed: %v", err)
	}
}

func TestServerConfigForHTTP(t *testing.T) {
	a := newAuthority(t, "ours")
	config, err := ServerConfig(a.issue(leaf{serial: 40}))
	if err != nil {
		t.Fatal(err)
	}
	lis, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := lis.Accept()
		if err == nil {
			_, err = io.WriteString(conn, "hello")
			err = errors.Join(err, conn.Close())
		}
		done <- err
	}()
	client, err := load(a.issue(leaf{serial: 41}))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", lis.Addr().String(), client.client())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if body, err := io.ReadAll(conn); string(body) != "hello" {
		t.Errorf("read %q, %v", body, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestBadFiles(t *testing.T) {
	a := newAuthority(t, "ours")
	good := a.issue(leaf{serial: 50})
	cases := map[string]TLS{
		"no key":         {Cert: good.Cert},
		"no certificate": {Key: good.Key},
		"only a CA":      {CA: good.CA},
		"missing":        {Cert: good.Cert + "x", Key: good.Key},
		"missing CA":     {Cert: good.Cert, Key: good.Key, CA: good.CA + "x"},
		"CA is a key":    {Cert: good.Cert, Key: good.Key, CA: good.Key},
		"swapped":        {Cert: good.Key, Key: good.Cert},
	}
	for name, files := range cases {
		if _, err := Server(files, "127.0.0.1:0", true); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, err := ServerConfig(files); err == nil {
			t.Errorf("%s: accepted for HTTP", name)
		}
	}
	if _, err := Client(TLS{Cert: good.Cert}, "127.0.0.1:1", true); err == nil {
		t.Error("a client certificate without a key is accepted")
	}
	c := mustCreds(t)(Client(good, "127.0.0.1:1", false))
	var overrider interface{ OverrideServerName(string) error } = c
	if err := overrider.OverrideServerName("other"); err == nil {
		t.Error("the server's name was overridden")
	}
	if got := c.Info().SecurityProtocol; got != "tls" {
		t.Errorf("security protocol %q", got)
	}
}

// TestPlaintextRule: the same table for servers and clients.
func TestPlaintextRule(t *testing.T) {
	allowed := []string{
		"127.0.0.1:7440", "127.8.9.10:1", "[::1]:7440", "localhost:7440", "unix:/run/gavel.sock",
		"unix-abstract:gavel", "dns:///localhost:7440", "passthrough:///127.0.0.1:7440",
		"[::ffff:127.0.0.1]:1", "ipv4:127.0.0.1:1,127.0.0.2:1", "dns://8.8.8.8/localhost:1",
	}
	refused := []string{
		":7440", "", "0.0.0.0:7440", "[::]:7440", "10.2.0.9:7440", "db.example:7440",
		"dns:///db.example:7440", "passthrough:///10.0.0.1:1", "localhost.example.com:1",
		"ipv4:127.0.0.1:1,10.0.0.1:1", "dns://localhost/10.0.0.1:1", "xds:///localhost:1",
		"unixes.example:1", "127.0.0.1.example:1",
	}
	for _, addr := range allowed {
		if _, err := Server(TLS{}, addr, false); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
	for _, addr := range refused {
		_, err := Client(TLS{}, addr, false)
		if !errors.Is(err, ErrPlaintext) || !strings.Contains(err.Error(), addr) {
			t.Errorf("%s: %v", addr, err)
		}
		if _, err := Server(TLS{}, addr, true); err != nil {
			t.Errorf("%s, explicitly insecure: %v", addr, err)
		}
	}
}

func TestHealthAndReflection(t *testing.T) {
	const service = "gavel.v1.TransactionService"
	g := grpc.NewServer(ServerOptions(Limits{}, insecure.NewCredentials(), nil)...)
	h := RegisterHealth(g, service)
	conn := dial(t, listen(t, g), insecure.NewCredentials())
	ask := func(name string) grpc_health_v1.HealthCheckResponse_ServingStatus {
		t.Helper()
		r, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(),
			&grpc_health_v1.HealthCheckRequest{Service: name})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetStatus()
	}
	if ask("") != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Error("the process is not alive")
	}
	if ask(service) != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
		t.Error("the service is ready before anybody said so")
	}
	h.SetServingStatus(service, grpc_health_v1.HealthCheckResponse_SERVING)
	if ask(service) != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Error("the service is not ready")
	}
	h.Shutdown()
	if ask("") != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
		t.Error("the process serves after its shutdown")
	}
	stream, err := grpc_reflection_v1.NewServerReflectionClient(conn).
		ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{},
	})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil || len(answer.GetListServicesResponse().GetService()) < 2 {
		t.Errorf("services %v, %v", answer, err)
	}
}

// faulty is a health service that panics, and shows how large a request may be.
type faulty struct {
	grpc_health_v1.UnimplementedHealthServer
}

func (faulty) Check(
	_ context.Context, r *grpc_health_v1.HealthCheckRequest,
) (*grpc_health_v1.HealthCheckResponse, error) {
	if r.GetService() == "panic" {
		panic("a broken invariant")
	}
	return &grpc_health_v1.HealthCheckResponse{}, nil
}

func (faulty) Watch(*grpc_health_v1.HealthCheckRequest, grpc_health_v1.Health_WatchServer) error {
	panic("a broken stream")
}

// TestPanicLeavesTheOutcomeOpen: nobody knows how far a call had come that panicked.
func TestPanicLeavesTheOutcomeOpen(t *testing.T) {
	panics := make(chan Panic, 2)
	g := grpc.NewServer(ServerOptions(Limits{}, insecure.NewCredentials(),
		func(p Panic) { panics <- p })...)
	grpc_health_v1.RegisterHealthServer(g, faulty{})
	client := grpc_health_v1.NewHealthClient(dial(t, listen(t, g), insecure.NewCredentials()))
	expect := func(err error, value string) {
		t.Helper()
		if status.Code(err) != codes.Internal || wire.ReasonOf(err) != wire.ReasonOutcomeUnknown {
			t.Errorf("the caller hears %v", err)
		}
		p := <-panics
		if p.Value != value || !strings.Contains(string(p.Stack), "transport_test.go") {
			t.Errorf("reported %v\n%s", p.Value, p.Stack)
		}
	}
	_, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "panic"})
	expect(err, "a broken invariant")
	stream, err := client.Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	expect(err, "a broken stream")
}

func TestMessagesAreBounded(t *testing.T) {
	g := grpc.NewServer(ServerOptions(Limits{}, insecure.NewCredentials(), nil)...)
	grpc_health_v1.RegisterHealthServer(g, faulty{})
	client := grpc_health_v1.NewHealthClient(dial(t, listen(t, g), insecure.NewCredentials()))
	for size, want := range map[int]codes.Code{60 << 10: codes.OK,
		65 << 10: codes.ResourceExhausted} {
		_, err := client.Check(t.Context(),
			&grpc_health_v1.HealthCheckRequest{Service: strings.Repeat("x", size)})
		if status.Code(err) != want {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

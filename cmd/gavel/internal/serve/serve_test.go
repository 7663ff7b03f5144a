package serve_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/serve"
	"github.com/gavel-tx/gavel/proto/wire/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const service = "test.Service"

func face() serve.Face {
	return serve.Face{GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Service: service,
		Logger: slog.New(slog.DiscardHandler)}
}

func nothing(grpc.ServiceRegistrar) {}

// start serves what checks say.
func start(t *testing.T, checks *[]serve.Check) (s *serve.Server, grpcAddr, httpAddr string) {
	t.Helper()
	l, err := face().Listen()
	if err != nil {
		t.Fatal(err)
	}
	grpcAddr, httpAddr = l.Addrs()
	s = l.Serve(nothing, serve.Handler(serve.Registry("v1.2.3"),
		func(context.Context) []serve.Check { return *checks }))
	return s, grpcAddr, httpAddr
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// TestHTTP: alive is alive; ready is what the required checks say; and the metrics are there.
func TestHTTP(t *testing.T) {
	checks := []serve.Check{{Name: "log", OK: true, Required: true},
		{Name: "resource b", Detail: "gone"}}
	s, _, addr := start(t, &checks)
	defer s.Stop(t.Context())
	for _, c := range []struct {
		path string
		code int
		want string
	}{
		{"/livez", 200, "ok\n"}, {"/readyz", 200, "ready\n"},
		{"/readyz?verbose", 200, "[+]log\n[-]resource b: gone (does not count)\nready\n"},
		{"/nope", 404, "404 page not found\n"},
	} {
		if code, body := get(t, "http://"+addr+c.path); code != c.code || body != c.want {
			t.Errorf("%s: %d %q", c.path, code, body)
		}
	}
	_, body := get(t, "http://"+addr+"/metrics")
	for _, name := range []string{`gavel_build_info{version="v1.2.3"} 1`, "go_goroutines",
		"process_open_fds"} {
		if !strings.Contains(body, name) {
			t.Errorf("no %s", name)
		}
	}
	checks[0].OK, checks[0].Detail = false, "full"
	code, body := get(t, "http://"+addr+"/readyz")
	if code != 503 || !strings.Contains(body, "[-]log: full\n") ||
		!strings.HasSuffix(body, "not ready\n") {
		t.Errorf("%d %q", code, body)
	}
}

// TestHealth: the process is alive at once, the service when it says so, and neither at the end.
func TestHealth(t *testing.T) {
	s, addr, _ := start(t, &[]serve.Check{})
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := grpc_health_v1.NewHealthClient(conn)
	status := func(name string) string {
		r, err := c.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: name})
		if err != nil {
			return err.Error()
		}
		return r.GetStatus().String()
	}
	if status("") != "SERVING" || status(service) != "NOT_SERVING" {
		t.Error(status(""), status(service))
	}
	s.Ready(true)
	if status(service) != "SERVING" {
		t.Error(status(service))
	}
	s.Ready(false)
	if status(service) != "NOT_SERVING" {
		t.Error(status(service))
	}
	s.Stop(t.Context())
	if got := status(""); got == "SERVING" {
		t.Error(got)
	}
}

// TestStopIsBounded: a stream that never ends does not keep the process.
func TestStopIsBounded(t *testing.T) {
	s, addr, _ := start(t, &[]serve.Check{})
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	watch, err := grpc_health_v1.NewHealthClient(conn).Watch(t.Context(),
		&grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.Stop(ctx)
	select {
	case err := <-s.Failed():
		t.Error(err)
	default:
	}
}

// TestPlaintext: nobody listens in the open by mistake, on neither address.
func TestPlaintext(t *testing.T) {
	for _, addrs := range [][2]string{{"0.0.0.0:0", "127.0.0.1:0"}, {"127.0.0.1:0", ":0"},
		{"example.com:1", "127.0.0.1:0"}} {
		f := face()
		f.GRPC, f.HTTP = addrs[0], addrs[1]
		_, err := f.Listen()
		if !errors.Is(err, transport.ErrPlaintext) || exit.Of(err).Code != exit.Refused {
			t.Errorf("%v: %v", addrs, err)
		}
	}
	f := face()
	f.GRPC, f.HTTP, f.Insecure = "0.0.0.0:0", "0.0.0.0:0", true
	l, err := f.Listen()
	if err != nil {
		t.Fatal(err)
	}
	if l.Secured() != "plaintext" {
		t.Error(l.Secured())
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// TestTaken: an address that somebody has is refused, and the other one is given back.
func TestTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	f := face()
	f.GRPC = taken.Addr().String()
	if _, err := f.Listen(); exit.Of(err).Code != exit.Refused {
		t.Error(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.GRPC, f.HTTP = free.Addr().String(), taken.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Listen(); exit.Of(err).Code != exit.Refused {
		t.Error(err)
	}
	free, err = net.Listen("tcp", f.GRPC)
	if err != nil {
		t.Fatalf("the first address is still held: %v", err)
	}
	free.Close()
}

// TestTLS: with files both faces are encrypted, and plaintext gets no answer.
func TestTLS(t *testing.T) {
	files, pool := certificate(t)
	f := face()
	f.GRPC, f.HTTP, f.TLS = "0.0.0.0:0", "0.0.0.0:0", files
	l, err := f.Listen()
	if err != nil {
		t.Fatal(err)
	}
	if l.Secured() != "TLS" {
		t.Error(l.Secured())
	}
	_, addr := l.Addrs()
	s := l.Serve(nothing, serve.Handler(prometheus.NewRegistry(),
		func(context.Context) []serve.Check { return nil }))
	defer s.Stop(t.Context())
	_, port, _ := net.SplitHostPort(addr)
	tr := &http.Transport{TLSClientConfig: pool, DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: tr}).Get("https://127.0.0.1:" + port + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if code, _ := get(t, "http://127.0.0.1:"+port+"/livez"); code == http.StatusOK {
		t.Error("plaintext is answered")
	}
}

// TestBadTLS: files that do not fit are a fault of the command line.
func TestBadTLS(t *testing.T) {
	for _, files := range []transport.TLS{{Cert: "/nope", Key: "/nope"}, {Cert: "/nope"},
		{CA: "/nope"}} {
		f := face()
		f.TLS = files
		if _, err := f.Listen(); exit.Of(err).Code != exit.Usage {
			t.Errorf("%+v: %v", files, err)
		}
	}
}

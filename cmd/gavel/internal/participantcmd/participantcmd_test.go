package participantcmd_test

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/clitest"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/participant/remote"
	"github.com/gavel-tx/gavel/participant/session"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/txn"
)

// TestMain leaves out what needs a database under -short.
func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		if err := flag.Set("test.skip", "^TestMariaDB$"); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
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
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// TestKV: a store serves its data and its branches, shows its health, and ends in order.
func TestKV(t *testing.T) {
	dir := t.TempDir()
	s := clitest.Start(t, "participant", "--name", "stock", "--kv", dir)
	conn, err := grpc.NewClient(s.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	clitest.Eventually(t, "it is healthy", func() bool {
		r, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(),
			&grpc_health_v1.HealthCheckRequest{Service: remote.Service})
		return err == nil && r.GetStatus() == grpc_health_v1.HealthCheckResponse_SERVING
	})
	if code, body := get(t, "http://"+s.HTTP+"/readyz?verbose"); code != 200 ||
		!strings.Contains(body, "[+]resource stock: kv") {
		t.Errorf("%d %s", code, body)
	}
	if _, body := get(t, "http://"+s.HTTP+"/metrics"); !strings.Contains(body, "go_goroutines") {
		t.Error("no metrics")
	}
	answer, err := gavelv1.NewKvServiceClient(conn).Get(t.Context(),
		&gavelv1.GetRequest{Keys: [][]byte{[]byte("k")}})
	if err != nil || answer.GetEntries()[0].GetFound() {
		t.Errorf("%v, %v", answer, err)
	}
	s.Stop(t).Want(t, exit.OK, "participant", "stock  kv:"+dir)
}

// TestAFullStore is ready, since what is prepared in it must end, and says what to do.
func TestAFullStore(t *testing.T) {
	s := clitest.Start(t, "participant", "--name", "stock", "--kv", t.TempDir(),
		"--kv-max-size", "1KiB")
	code, body := get(t, "http://"+s.HTTP+"/readyz?verbose")
	if code != 200 || !strings.Contains(body, "in use") || !strings.Contains(body, "delete keys") {
		t.Errorf("%d %s", code, body)
	}
	s.Stop(t).Want(t, exit.OK)
}

// TestFencesOutliveTheProcess: a coordinator that was replaced stays so after a restart.
func TestFencesOutliveTheProcess(t *testing.T) {
	dir, data := t.TempDir(), filepath.Join(t.TempDir(), "data")
	log, err := txn.NewLogID()
	if err != nil {
		t.Fatal(err)
	}
	list := func(epoch txn.Epoch) error {
		s := clitest.Start(t, "participant", "--name", "stock", "--kv", dir, "--data", data)
		defer func() { s.Stop(t).Want(t, exit.OK) }()
		c, err := remote.Dial(s.GRPC)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, err = c.List(t.Context(), txn.Fence{Log: log, Epoch: epoch, LSN: 100})
		return err
	}
	if err := list(7); err != nil {
		t.Fatal(err)
	}
	if err := list(6); err == nil {
		t.Error("an older epoch is let in after a restart")
	}
	file := filepath.Join(data, "fences")
	if err := os.WriteFile(file, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	clitest.Run(t, "participant", "--name", "stock", "--kv", dir, "--data", data, "--grpc",
		"127.0.0.1:0", "--http", "127.0.0.1:0").Want(t, exit.Refused, file, "replaced one in again")
}

// TestADeadDatabase: the process serves, and is not ready; its password is shown nowhere.
func TestADeadDatabase(t *testing.T) {
	const secret = "hunter2"
	for kind, more := range map[string]string{"postgres": "--owner-role=gavel_owner",
		"mysql": "--experimental-mysql"} {
		file := filepath.Join(t.TempDir(), "dsn")
		dsn := kind + "://u:" + secret + "@127.0.0.1:1/d"
		if err := os.WriteFile(file, []byte(dsn), 0o600); err != nil {
			t.Fatal(err)
		}
		s := clitest.Start(t, "participant", "--name", "bank", "--"+kind, "file:"+file, more,
			"--data", t.TempDir())
		code, body := get(t, "http://"+s.HTTP+"/readyz")
		if code != http.StatusServiceUnavailable || !strings.Contains(body, "[-]resource bank") {
			t.Errorf("%d %s", code, body)
		}
		r := s.Stop(t).Want(t, exit.OK, kind+"://u@127.0.0.1:1/d")
		if strings.Contains(r.Out+r.Err+body, secret) {
			t.Errorf("the password is in %s%s%s", r.Out, r.Err, body)
		}
	}
}

// TestSQL: the role that runs it is told, without its password, and the service is there only then.
func TestSQL(t *testing.T) {
	t.Setenv("APP", "postgres://app:hunter2@127.0.0.1:1/d")
	for _, on := range []bool{true, false} {
		args := []string{"participant", "--name", "bank", "--postgres",
			"postgres://u@127.0.0.1:1/d", "--data", t.TempDir()}
		if on {
			args = append(args, "--sql", "env:APP")
		}
		s := clitest.Start(t, args...)
		c, err := remote.Dial(s.GRPC)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Attach(t.Context(),
			session.Attachment{Name: txn.Name{Log: 1, Seq: 1, Branch: 1}})
		if off := strings.Contains(fmt.Sprint(err), "runs no SQL"); err == nil || off == on {
			t.Errorf("with --sql %v: %v", on, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		r := s.Stop(t).Want(t, exit.OK)
		if told := strings.Contains(r.Out, "SQL       postgres://app@127.0.0.1:1/d"); told != on ||
			strings.Contains(r.Out+r.Err, "hunter2") {
			t.Errorf("with --sql %v: %s%s", on, r.Out, r.Err)
		}
	}
}

// TestUsage: a participant speaks for one resource, by one name.
func TestUsage(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("BANK", "kv:/x")
	for _, args := range [][]string{
		{}, {"--name", "a"}, {"--kv", dir}, {"--name", "a/b", "--kv", dir},
		{"--name", "a", "--kv", dir, "--postgres", "env:X", "--data", dir},
		{"--name", "a", "--postgres", "env:X"},
		{"--name", "a", "--postgres", "env:X", "--data", dir},
		{"--name", "a", "--postgres", "env:BANK", "--data", dir},
		{"--name", "a", "--postgres", "mysql://x/d", "--data", dir},
		{"--name", "a", "--mysql", "postgres://x/d", "--data", dir},
		{"--name", "a", "--mysql", "mysql://x/d"},
		{"--name", "a", "--mysql", "mysql://x/d", "--kv", dir, "--data", dir},
		{"--name", "a", "--mysql", "mysql://x/d", "--postgres", "postgres://x/d", "--data", dir},
		{"--name", "a", "--kv", dir, "--log-level", "loud"},
		{"--name", "a", "--kv", dir, "--kv-max-size", "5"},
		{"--name", "a", "--postgres", "env:X", "--data", dir, "--kv-max-size", "5GiB"},
		{"--name", "a", "--kv", dir, "--sql", "env:X"},
		{"--name", "a", "--postgres", "postgres://h/d", "--data", dir, "--sql", "env:BANK"},
		{"--name", "a", "--postgres", "postgres://h/d", "--data", dir, "--sql-sessions", "0"},
	} {
		args = append([]string{"participant", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"},
			args...)
		clitest.Run(t, args...).Want(t, exit.Usage)
	}
}

// TestRefusals: in the open, a store that is in use, a directory that cannot be made.
func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	clitest.Run(t, "participant", "--name", "a", "--kv", dir, "--grpc", "0.0.0.0:0").
		Want(t, exit.Refused, "--insecure")
	clitest.Run(t, "participant", "--name", "a", "--kv", dir, "--http", "0.0.0.0:0").
		Want(t, exit.Refused, "--insecure")
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	clitest.Run(t, "participant", "--name", "a", "--kv", dir, "--data", filepath.Join(file, "x"),
		"--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0").Want(t, exit.Refused, "--data")
}

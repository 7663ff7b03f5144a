package coordinatorcmd_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/client/remote"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/clitest"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/participant/kv"
	participants "github.com/gavel-tx/gavel/participant/remote"
	"github.com/gavel-tx/gavel/txn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quick are flags that keep politeness short.
var quick = []string{"--grace", "50ms", "--sweep", "20ms"}

func command(c clitest.Crash, more ...string) []string {
	return slices.Concat([]string{"coordinator", "--data", c.Log}, quick, c.Resources(), more)
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

// TestServe: a start takes up what the last one left, says when it is ready, and ends in order.
func TestServe(t *testing.T) {
	c := clitest.MakeCrash(t)
	s := clitest.Start(t, command(c)...)
	for _, line := range []string{"[+]log", "[+]accepting", "[+]resource bank_a: kv"} {
		clitest.Eventually(t, line+" is ready", func() bool {
			code, body := get(t, "http://"+s.HTTP+"/readyz?verbose")
			return code == http.StatusOK && strings.Contains(body, line)
		})
	}
	client, err := remote.Dial(s.GRPC)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for id, want := range map[txn.ID]txn.Outcome{c.Decided: txn.OutcomeCommitted,
		c.Undecided: txn.OutcomeRolledBack} {
		if r, err := client.Outcome(t.Context(), id); err != nil || r.Outcome != want {
			t.Errorf("%s: %+v, %v", id, r, err)
		}
	}
	clitest.Eventually(t, "nothing is prepared", func() bool {
		_, body := get(t, "http://"+s.HTTP+"/metrics")
		return strings.Contains(body, `gavel_in_doubt_branches{resource="bank_a"} 0`) &&
			strings.Contains(body, `gavel_in_doubt_branches{resource="bank_b"} 0`)
	})
	s.Stop(t).Want(t, exit.OK, "gavel ", "epoch 2", "bank_a  kv:"+c.Stores[0], "(plaintext)",
		"stopped")
	if got := c.Has(t, "decided"); got != [2]bool{true, true} {
		t.Errorf("the decided transaction is in %v", got)
	}
	if got := c.Has(t, "undecided"); got != [2]bool{} {
		t.Errorf("the undecided transaction is in %v", got)
	}
}

// TestADeadResourceDoesNotMakeItUnready: the others go on.
func TestADeadResourceDoesNotMakeItUnready(t *testing.T) {
	s := clitest.Start(t, "coordinator", "--data", clitest.Log(t), "--resource",
		"gone=grpc://127.0.0.1:1", "--resource", "here=kv:"+t.TempDir())
	clitest.Eventually(t, "it is ready", func() bool {
		code, _ := get(t, "http://"+s.HTTP+"/readyz")
		return code == http.StatusOK
	})
	_, body := get(t, "http://"+s.HTTP+"/readyz?verbose")
	if !strings.Contains(body, "[-]resource gone") || !strings.Contains(body, "(does not count)") {
		t.Error(body)
	}
	s.Stop(t).Want(t, exit.OK, "resource is not usable")
}

// TestDirectories: what is not a log of its own is not served, and the way on is named.
func TestDirectories(t *testing.T) {
	c := clitest.MakeCrash(t)
	empty := t.TempDir()
	missing := filepath.Join(t.TempDir(), "missing")
	copied := clitest.Copy(t, c.Log)
	damaged := clitest.MakeCrash(t).Log
	name := clitest.Damage(t, damaged, 4096+70)
	for dir, want := range map[string][]string{
		empty:   {"gavel log init " + empty, "must not become a new one silently"},
		missing: {"gavel log init " + missing},
		copied:  {"is a copy of a log", "gavel log adopt " + copied},
		damaged: {name, "offset 4096", "never presume abort over a hole"},
	} {
		clitest.Run(t, "coordinator", "--data", dir, "--grpc", "127.0.0.1:0", "--http",
			"127.0.0.1:0").Want(t, exit.Refused, want...)
	}
	if names, err := os.ReadDir(empty); err != nil || len(names) != 0 {
		t.Errorf("the empty directory holds %v, %v", names, err)
	}
}

// TestTwoCoordinators: the second is refused and names the first.
func TestTwoCoordinators(t *testing.T) {
	dir := clitest.Log(t)
	clitest.Start(t, "coordinator", "--data", dir)
	clitest.Run(t, "coordinator", "--data", dir, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0").
		Want(t, exit.Refused, "is in use by process", "Two coordinators on one log")
}

// TestPlaintext: neither face is open to the network unless that is said.
func TestPlaintext(t *testing.T) {
	dir := clitest.Log(t)
	for _, addrs := range [][2]string{{"0.0.0.0:0", "127.0.0.1:0"}, {"127.0.0.1:0", "0.0.0.0:0"}} {
		for _, more := range [][]string{nil, {"--check"}} {
			args := append([]string{"coordinator", "--data", dir, "--grpc", addrs[0], "--http",
				addrs[1]}, more...)
			clitest.Run(t, args...).Want(t, exit.Refused, "plaintext", "--insecure",
				"Nothing was started.")
		}
	}
	clitest.Run(t, "coordinator", "--data", dir, "--resource", "a=grpc://far.example:1", "--grpc",
		"127.0.0.1:0", "--http", "127.0.0.1:0").Want(t, exit.Refused, "plaintext")
}

// TestADeposedCoordinatorStops: whoever a participant refuses has been replaced. It must not be
// started again by a supervisor, so that its code is not that of a failed log.
func TestADeposedCoordinatorStops(t *testing.T) {
	c := clitest.MakeCrash(t)
	store, err := kv.Open(kv.Config{Dir: c.Stores[0]})
	if err != nil {
		t.Fatal(err)
	}
	newer := txn.Fence{Log: c.Decided.Log(), Epoch: 1000, LSN: 1 << 40}
	if _, err := store.List(t.Context(), newer); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	s := clitest.Start(t, command(c)...)
	s.Wait(t).Want(t, exit.Refused, "the coordinator stopped", "do not start this one again")
}

// TestARestoredLogStops: the epoch goes on, and the positions do not.
func TestARestoredLogStops(t *testing.T) {
	c := clitest.MakeCrash(t)
	store, err := kv.Open(kv.Config{Dir: c.Stores[0]})
	if err != nil {
		t.Fatal(err)
	}
	// Epoch 2 is that of the next start, which knows of no resource; epoch 3 is the restored one.
	clitest.Start(t, "coordinator", "--data", c.Log, "--drain", "10ms").Stop(t).
		Want(t, exit.OK, "epoch 2", "stopping with transactions under way")
	lost := txn.Fence{Log: c.Decided.Log(), Epoch: 2, LSN: 1 << 40}
	if _, err := store.List(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	s := clitest.Start(t, command(c)...)
	s.Wait(t).Want(t, exit.Refused, "the coordinator stopped", "restored from a backup")
}

// finding is the contract of --check -o json.
type finding struct{ Subject, Level, What, Fix string }

// TestCheck: everything that a start needs, with a fix for what is missing, and no serving.
func TestCheck(t *testing.T) {
	c := clitest.MakeCrash(t)
	clitest.Run(t, command(c, "--check")...).Want(t, exit.OK, "log", "bank_a", "ok", "kv")
	args := append(command(c, "--check", "-o", "json", "--call-timeout", "1s"), "--resource",
		"gone=grpc://127.0.0.1:1")
	r := clitest.Run(t, args...).Want(t, exit.No)
	var found []finding
	if err := json.Unmarshal([]byte(r.Out), &found); err != nil {
		t.Fatal(err)
	}
	levels := map[string]string{}
	for _, f := range found {
		if levels[f.Subject] != "FAIL" {
			levels[f.Subject] = f.Level
		}
		if f.Level == "FAIL" && f.Fix == "" {
			t.Errorf("no fix for %+v", f)
		}
	}
	if levels["log"] != "ok" || levels["bank_a"] != "ok" || levels["gone"] != "FAIL" {
		t.Errorf("%+v", found)
	}
	empty := t.TempDir()
	clitest.Run(t, "coordinator", "--data", empty, "--check").Want(t, exit.No, "FAIL",
		"fix: ", "gavel log init "+empty)
	copied := clitest.Copy(t, c.Log)
	clitest.Run(t, "coordinator", "--data", copied, "--check").Want(t, exit.No, "FAIL",
		"gavel log adopt "+copied)
}

// TestConfig: the file says what the flags would, and its faults are shown with a caret.
func TestConfig(t *testing.T) {
	c := clitest.MakeCrash(t)
	file := filepath.Join(t.TempDir(), "gavel.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("data: " + c.Log + "\nresource:\n  bank_a: kv:" + c.Stores[0] + "\n")
	clitest.Run(t, "coordinator", "--config", file, "--check").Want(t, exit.OK, "bank_a")
	write("data: " + c.Log + "\nresources:\n  bank_a: x\n")
	clitest.Run(t, "coordinator", "--config", file, "--check").Want(t, exit.Usage,
		file+" line 2", "^", `Did you mean "resource"?`)
}

// TestUsage: what is missing or contradicts itself is said before anything is opened.
func TestUsage(t *testing.T) {
	dir := clitest.Log(t)
	t.Setenv("BANK", "")
	for _, args := range [][]string{
		{}, {"--data", dir, "--resource", "a"}, {"--data", dir, "--resource", "a=env:BANK"},
		{"--data", dir, "--resource", "a=file:/nope"}, {"--data", dir, "--resource", "a=mysql://x"},
		{"--data", dir, "--accept-foreign", "b"}, {"--data", dir, "--log-level", "loud"},
		{"--data", dir, "--log-format", "xml", "--check"}, {"--data", dir, "--tls-cert", "/nope"},
		{"--data", dir, "extra"}, {"--data", dir, "--drian", "1s"},
	} {
		args = append([]string{"coordinator", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"},
			args...)
		clitest.Run(t, args...).Want(t, exit.Usage)
	}
	clitest.Run(t, "coordinator", "--drian", "1s").Want(t, exit.Usage, "Did you mean --drain?")
}

// TestNoPasswordAnywhere: a database that cannot be reached is talked about at length, and its
// password is not.
func TestNoPasswordAnywhere(t *testing.T) {
	const secret = "hunter2"
	t.Setenv("BANK", "postgres://u:"+secret+"@127.0.0.1:1/d?gavel_owner_role=r")
	dir := clitest.Log(t)
	s := clitest.Start(t, "coordinator", "--data", dir, "--resource", "bank=env:BANK",
		"--log-level", "debug", "--sweep", "20ms")
	clitest.Eventually(t, "the resource was asked", func() bool {
		_, body := get(t, "http://"+s.HTTP+"/readyz?verbose")
		return strings.Contains(body, "[-]resource bank: ")
	})
	_, body := get(t, "http://"+s.HTTP+"/readyz?verbose")
	r := s.Stop(t).Want(t, exit.OK, "postgres://u@127.0.0.1:1/d")
	checked := clitest.Run(t, "coordinator", "--data", dir, "--resource", "bank=env:BANK",
		"--check").Want(t, exit.No, "fix: ")
	if all := r.Out + r.Err + body + checked.Out + checked.Err; strings.Contains(all, secret) {
		t.Errorf("the password is in %s", all)
	}
}

// TestASidecar: a coordinator reaches a store through a participant in another process.
func TestASidecar(t *testing.T) {
	p := clitest.Start(t, "participant", "--name", "bank", "--kv", t.TempDir())
	s := clitest.Start(t, append([]string{"coordinator", "--data", clitest.Log(t), "--resource",
		"bank=grpc://" + p.GRPC, "--drain", "10ms"}, quick...)...)
	client, err := remote.Dial(s.GRPC)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	clitest.Eventually(t, "the resource is registered", func() bool {
		_, err := client.Begin(t.Context(), txn.BeginRequest{Resources: []string{"bank"}})
		return err == nil
	})
	lists, err := participants.Dial(p.GRPC, participants.WithResource("other"))
	if err != nil {
		t.Fatal(err)
	}
	defer lists.Close()
	if _, err := lists.Describe(t.Context()); txn.ReasonOf(err) != txn.ReasonNoResource {
		t.Errorf("a call for another resource: %v", err)
	}
	s.Stop(t).Want(t, exit.OK)
	p.Stop(t).Want(t, exit.OK)
}

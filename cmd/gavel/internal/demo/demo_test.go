package demo_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/cli"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/clitest"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
)

// private gives the demo a directory for its temporary files, and looks afterwards whether anything
// stayed in it.
func private(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	// A server of PostgreSQL runs as another user, who must get to its directory.
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("TMPDIR", dir)
	t.Cleanup(func() {
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("it left %v, %v", left, err)
		}
	})
}

// proof is what a demo says that has come to its end.
var proof = []string{"COMMIT is durable, END is missing", "PREPARED as gavel1.", "nobody helps",
	"is committed in both databases", "nothing that the crash left behind is in doubt any more",
	"400000 before, 400000 after", "each in both ledgers or in none", "all true",
	"no branch is prepared", "every byte verified", "the gavel fell once"}

// TestPostgres is the demo as a newcomer sees it, but shorter.
func TestPostgres(t *testing.T) {
	private(t)
	r := clitest.Run(t, "demo", "--transfers", "200")
	r.Want(t, exit.OK, append(proof, "PostgreSQL")...)
}

// TestKV is the same where there is no PostgreSQL.
func TestKV(t *testing.T) {
	private(t)
	r := clitest.Run(t, "demo", "--kv", "--transfers", "200", "--clients", "8", "--seed", "7")
	r.Want(t, exit.OK, append(proof, "embedded key-value store", "(seed 7)")...)
	if n := len(regexp.MustCompile(`(?m)^\d  `).FindAllString(r.Out, -1)); n != 7 {
		t.Errorf("the story has %d chapters:\n%s", n, r.Out)
	}
}

// TestKeep leaves everything for a look, and says where.
func TestKeep(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	r := clitest.Run(t, "demo", "--kv", "--transfers", "20", "--clients", "4", "--keep")
	r.Want(t, exit.OK, "kept: "+dir)
	_, kept, _ := strings.Cut(r.Out, "kept: ")
	log := strings.TrimSpace(kept) + "/log"
	clitest.Run(t, "log", "verify", log).Want(t, exit.OK)
	clitest.Run(t, "log", "dump", log).Want(t, exit.OK, "COMMIT", "END", "transfer-0000")
}

// TestInterrupt: a Ctrl-C in the middle of it ends everything that it started.
func TestInterrupt(t *testing.T) {
	private(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &trigger{word: "clients move money", pull: cancel}
	io := ui.IO{Out: out, Err: out, Getenv: os.Getenv, Now: time.Now}
	if code := cli.Run(ctx, io, []string{"demo", "--kv"}); code != exit.Interrupted {
		t.Errorf("exit code %d: %s", code, out)
	}
}

// trigger is pulled by a word.
type trigger struct {
	mu   sync.Mutex
	b    bytes.Buffer
	word string
	pull func()
}

func (w *trigger) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.b.Write(p)
	if strings.Contains(w.b.String(), w.word) {
		w.pull()
	}
	return n, err
}

func (w *trigger) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// TestUsage: limits are checked before anything is started.
func TestUsage(t *testing.T) {
	private(t)
	for _, args := range [][]string{{"--transfers", "0"}, {"--transfers", "100001"},
		{"--clients", "0"}, {"--clients", "65"}, {"--seed", "-1"}, {"now"}} {
		clitest.Run(t, append([]string{"demo"}, args...)...).Want(t, exit.Usage)
	}
}

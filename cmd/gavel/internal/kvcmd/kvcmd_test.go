package kvcmd_test

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/clitest"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/participant/kv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCompact(t *testing.T) {
	dir := t.TempDir()
	clitest.Run(t, "kv", "compact", dir).Want(t, exit.Refused, "no store", "Nothing was changed",
		"kv.db")
	s, err := kv.Open(kv.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	clitest.Run(t, "kv", "compact", dir).Want(t, exit.Refused, "in use", "Nothing was changed")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	clitest.Run(t, "kv", "compact", dir).Want(t, exit.OK, "had ", "and has ")
	clitest.Run(t, "kv", "compact", dir, "-o", "json").Want(t, exit.OK, `"bytes_after": `)
	clitest.Run(t, "kv", "compact").Want(t, exit.Usage)
	clitest.Run(t, "kv").Want(t, exit.Usage, "compact")

	next, err := kv.Open(kv.Config{Dir: dir})
	if err != nil || next.Identity() != s.Identity() {
		t.Fatalf("it is another store, %v", err)
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, "kv.db")
	if err := os.WriteFile(broken, make([]byte, 1<<16), 0o600); err != nil {
		t.Fatal(err)
	}
	clitest.Run(t, "kv", "compact", dir).Want(t, exit.Refused, "The store holds what it held",
		"compact "+dir)
}

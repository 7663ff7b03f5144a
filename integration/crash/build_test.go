package crash_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// root is the root of the module, as seen from this package.
const root = "../.."

func goBuild(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"build"}, args...)...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// volume is a size in the source that is too large for a test: a log gets its next segment, or a
// snapshot, once in tens of thousands of transactions.
type volume struct{ file, is, becomes string }

func volumes() []volume {
	return []volume{
		{"txlog/format.go", "DefaultSegmentSize = 64 << 20", "DefaultSegmentSize = 128 << 10"},
		{"coordinator/config.go", "def(&c.SnapshotEvery, 64<<20)", "def(&c.SnapshotEvery, 64<<10)"},
	}
}

// shrink writes an overlay for go build in which the volumes are small, and returns its name. The
// binary differs from the real one by these numbers and by its failpoints.
func shrink(dir string) (string, error) {
	replace := map[string]string{}
	for i, v := range volumes() {
		source, err := filepath.Abs(filepath.Join(root, v.file))
		if err != nil {
			return "", err
		}
		text, err := os.ReadFile(source)
		if err != nil {
			return "", err
		}
		if bytes.Count(text, []byte(v.is)) != 1 {
			return "", fmt.Errorf("%s does not say %q exactly once: say here what it says now",
				v.file, v.is)
		}
		replace[source] = filepath.Join(dir, fmt.Sprintf("overlay%d.go", i))
		small := bytes.Replace(text, []byte(v.is), []byte(v.becomes), 1)
		if err := os.WriteFile(replace[source], small, 0o600); err != nil {
			return "", err
		}
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "overlay.json")
	return name, os.WriteFile(name, text, 0o600)
}

// steps asks the teller, which has the tag that this test binary has not.
func steps(t *testing.T) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), shared.teller, "steps").Output()
	if err != nil {
		t.Fatalf("ask for the steps: %v", err)
	}
	all := strings.Fields(string(out))
	if len(all) == 0 {
		t.Fatal("the build with failpoints knows no steps")
	}
	return all
}

// The release binary reports nothing and waits for nobody: neither the names of the steps nor the
// variable are in it. The same look at the other binary finds all of them, so that it can fail.
func TestBinaryWithoutFailpoints(t *testing.T) {
	release := filepath.Join(t.TempDir(), "gavel")
	if err := goBuild(t.Context(), "-o", release, "./cmd/gavel"); err != nil {
		t.Fatal(err)
	}
	// What only a client does is in the teller.
	words := append(steps(t), "GAVEL_POINTS")
	for _, word := range words {
		if inBinary(t, release, word) {
			t.Errorf("the release binary knows %q", word)
		}
		if !inBinary(t, shared.gavel, word) {
			t.Errorf("the build with failpoints does not know %q", word)
		}
	}
	if hasSymbol(t, release, "txn/point.Hit") {
		t.Error("the release binary has a function for failpoints")
	}
	if !hasSymbol(t, shared.gavel, "txn/point.Hit") {
		t.Error("the build with failpoints has no function for them")
	}
}

func inBinary(t *testing.T, file, word string) bool {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(text, []byte(word))
}

func hasSymbol(t *testing.T, file, symbol string) bool {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "tool", "nm", file).CombinedOutput()
	if err != nil {
		t.Fatalf("go tool nm: %v: %s", err, out)
	}
	return bytes.Contains(out, []byte(symbol))
}

package mutants

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestMutants runs each test of the table without a mutant, and wants it to pass, and with each of
// its mutants, and wants it to fail for the expected reason.
func TestMutants(t *testing.T) {
	builds := &builds{dir: t.TempDir(), of: map[string]*build{}}
	slots := make(chan struct{}, 2)
	killed := make(chan struct{}, len(Kills()))
	t.Run("group", func(t *testing.T) {
		for at, kills := range byTest() {
			t.Run(at.pkg+"/"+at.test, func(t *testing.T) {
				t.Parallel()
				binary := builds.get(t, at.pkg)
				slots <- struct{}{}
				defer func() { <-slots }()
				out, err := run(t.Context(), binary, at, "")
				if err != nil || !bytes.Contains(out, []byte("--- PASS: ")) {
					t.Fatalf("it does not pass without a mutant: %v\n%s", err, tail(out))
				}
				for _, k := range kills {
					out, err := run(t.Context(), binary, at, k.Mutant)
					switch {
					case err == nil:
						t.Errorf("mutant %s survives", k.Mutant)
					case !bytes.Contains(out, []byte(k.Says)):
						t.Errorf("mutant %s is noticed, and not because of %q:\n%s", k.Mutant,
							k.Says, tail(out))
					default:
						killed <- struct{}{}
					}
				}
			})
		}
	})
	t.Logf("mutants: %d of %d killed, in %d tests", len(killed), len(Kills()), len(byTest()))
}

type place struct{ pkg, test string }

func byTest() map[place][]Kill {
	all := map[place][]Kill{}
	for _, k := range Kills() {
		at := place{k.Package, k.Test}
		all[at] = append(all[at], k)
	}
	return all
}

// run runs one test of a binary. A test that hangs on a mutant has noticed it too, but not for the
// expected reason.
func run(ctx context.Context, binary string, at place, mutant string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "-test.v", "-test.timeout=2m",
		"-test.run="+pattern(at.test))
	cmd.Dir = filepath.Join(root, at.pkg)
	cmd.Env = append(os.Environ(), "GAVEL_MUTANT="+mutant)
	return cmd.CombinedOutput()
}

// pattern names exactly one test.
func pattern(test string) string {
	parts := strings.Split(strings.ReplaceAll(test, " ", "_"), "/")
	for i := range parts {
		parts[i] = "^" + regexp.QuoteMeta(parts[i]) + "$"
	}
	return strings.Join(parts, "/")
}

// tail is the end of what a test said.
func tail(out []byte) string { return string(out[max(0, len(out)-2000):]) }

// root is the module's directory, seen from here.
const root = "../.."

// builds makes a test binary of each package once, with every mutant in it.
type builds struct {
	dir string
	mu  sync.Mutex
	of  map[string]*build
}

type build struct {
	once sync.Once
	err  error
}

func (b *builds) get(t *testing.T, pkg string) string {
	t.Helper()
	b.mu.Lock()
	one := b.of[pkg]
	if one == nil {
		one = &build{}
		b.of[pkg] = one
	}
	b.mu.Unlock()
	name := filepath.Join(b.dir, strings.ReplaceAll(pkg, "/", "_")+".test")
	one.once.Do(func() {
		cmd := exec.Command("go", "test", "-c", "-tags=mutants", "-o", name, "./"+pkg)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			one.err = fmt.Errorf("build the tests of %s: %w\n%s", pkg, err, out)
		}
	})
	if one.err != nil {
		t.Fatal(one.err)
	}
	return name
}

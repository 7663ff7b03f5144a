package mutants

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write the table in docs/TESTING.md anew")

const (
	page  = root + "/docs/TESTING.md"
	start = "<!-- the table below is written from integration/mutants/table.go -->\n"
	end   = "<!-- end of the table -->\n"
)

// TestPage: the table in docs/TESTING.md says what the tests run.
func TestPage(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), start)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", page)
	}
	want := before + start + table() + end + after
	if *rewrite {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != string(text) {
		t.Errorf("%s is not what the tests run; write it with -rewrite", page)
	}
}

func table() string {
	var b strings.Builder
	b.WriteString("\n| promise | test | mutant that it kills, and by what |\n|---|---|---|\n")
	for _, p := range Promises() {
		first := fmt.Sprintf("**%s** %s", p.ID, p.Words)
		for _, k := range Kills() {
			if k.Promise == p.ID {
				fmt.Fprintf(&b, "| %s | `%s` %s | `%s`: %s |\n", first, k.Package, k.Test,
					k.Mutant, strings.TrimSuffix(k.Says, ": "))
				first = ""
			}
		}
	}
	b.WriteString("\n")
	return b.String()
}

// words are the mutants' names, from the file that knows them.
func words(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "txn/mutant/on.go"))
	if err != nil {
		t.Fatal(err)
	}
	_, list, ok := strings.Cut(string(text), "names = [count]string{")
	list, _, ok2 := strings.Cut(list, "}")
	if !ok || !ok2 {
		t.Fatal("the list of names is not where it was")
	}
	var all []string
	for _, m := range regexp.MustCompile(`"(\w+)"`).FindAllStringSubmatch(list, -1) {
		all = append(all, m[1])
	}
	return all
}

// TestNamesAreComplete: every mutant has a word. Without one of them, all behind it would stand for
// their neighbours.
func TestNamesAreComplete(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "txn/mutant/mutants.go"))
	if err != nil {
		t.Fatal(err)
	}
	ids := regexp.MustCompile(`(?m)^\t[A-Z]\w+$`).FindAll(text, -1)
	if len(ids) < 40 || len(ids) != len(words(t)) {
		t.Errorf("%d mutants have %d words", len(ids), len(words(t)))
	}
}

// TestTableIsComplete: every promise has a mutant, every mutant a test that kills it, and every
// entry an expected reason.
func TestTableIsComplete(t *testing.T) {
	promised, killed := map[string]bool{}, map[string]bool{}
	all := words(t)
	for _, k := range Kills() {
		promised[k.Promise], killed[k.Mutant] = true, true
		if !slices.Contains(all, k.Mutant) {
			t.Errorf("%s is no mutant", k.Mutant)
		}
		if len(k.Says) < 6 {
			t.Errorf("%s may be killed for any reason", k.Mutant)
		}
	}
	for _, p := range Promises() {
		if !promised[p.ID] {
			t.Errorf("no mutant breaks %s", p.ID)
		}
		delete(promised, p.ID)
	}
	for id := range promised {
		t.Errorf("%s is not promised", id)
	}
	for _, w := range all {
		if !killed[w] {
			t.Errorf("no test kills %s", w)
		}
	}
}

// TestBinaryWithoutMutants: the release binary knows none of them. The same look at a build that
// does finds them, so that it can fail.
func TestBinaryWithoutMutants(t *testing.T) {
	build := func(name string, args ...string) []byte {
		out := filepath.Join(t.TempDir(), name)
		cmd := exec.Command("go", append([]string{"build", "-o", out}, args...)...)
		cmd.Dir = root
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build: %v\n%s", err, text)
		}
		binary, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return binary
	}
	release := build("release", "./cmd/gavel")
	broken := build("broken", "-tags=mutants", "./cmd/gavel")
	for _, w := range append(words(t), "GAVEL_MUTANT") {
		if w == "HEURISTIC" {
			// The product has the word too.
			continue
		}
		if bytes.Contains(release, []byte(w)) {
			t.Errorf("the release binary knows %s", w)
		}
		if !bytes.Contains(broken, []byte(w)) {
			t.Errorf("the build with mutants does not know %s", w)
		}
	}
}

// TestCommandsOfThePage: whatever the page tells people to run exists.
func TestCommandsOfThePage(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	commands := regexp.MustCompile(`go test \./(\S+) -run (Test\w+)`).FindAllSubmatch(text, -1)
	if len(commands) < 5 {
		t.Fatalf("only %d commands are found", len(commands))
	}
	for _, c := range commands {
		files, err := filepath.Glob(filepath.Join(root, string(c[1]), "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, f := range files {
			source, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			found = found || bytes.Contains(source, []byte("func "+string(c[2])+"("))
		}
		if !found {
			t.Errorf("%s has no test %s", c[1], c[2])
		}
	}
}

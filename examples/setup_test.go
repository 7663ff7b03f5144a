package examples

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// shown is an indented block of a document: what is to be typed.
var shown = regexp.MustCompile(`(?m)(?:^ {4,}\S.*\n)+`)

// block returns the one indented block of README in which a word stands.
func block(t *testing.T, word string) string {
	t.Helper()
	var found []string
	for _, b := range shown.FindAllString(readme(t), -1) {
		if strings.Contains(b, word) {
			found = append(found, b)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d blocks of README have %q, want 1", len(found), word)
	}
	return found[0]
}

// checkSetUp does what README says under "Run it next to your databases", at these databases, and
// asks the coordinator whether it could work so.
func (w *world) checkSetUp(t *testing.T) {
	script := block(t, "gavel log init")
	replace := []string{"/var/lib/gavel", filepath.Join(t.TempDir(), "log")}
	for i, b := range w.banks {
		b.exec(t, `CREATE DATABASE bank`)
		b.exec(t, `CREATE ROLE app LOGIN`)
		b.exec(t, `CREATE ROLE gavel LOGIN`)
		for line := range strings.Lines(block(t, "CREATE ROLE")) {
			b.exec(t, line)
		}
		at, err := url.Parse(b.dsn)
		if err != nil {
			t.Fatal(err)
		}
		host := fmt.Sprintf("db-%c/bank?", 'a'+i)
		if strings.Count(script, host) != 1 {
			t.Fatalf("README does not say %s once:\n%s", host, script)
		}
		replace = append(replace, host, "/bank?"+at.RawQuery+"&")
	}
	script = strings.TrimSpace(strings.NewReplacer(replace...).Replace(script)) + " --check"
	env := []string{"PATH=" + w.bin + string(os.PathListSeparator) + os.Getenv("PATH")}
	if s := run(t, env, "sh", "-euc", script); s.code != 0 {
		t.Errorf("exit %d\n%s\n%s", s.code, script, s.text)
	}
}

package conformance

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/participant/participanttest"
	"github.com/gavel-tx/gavel/participant/service/servicetest"
)

const (
	root  = "../../.."
	page  = root + "/docs/ADAPTERS.md"
	start = "<!-- the tables below are written from participant/internal/conformance -->\n\n"
	end   = "\n<!-- end of the tables -->\n"
)

// TestPage: the tables in docs/ADAPTERS.md say what the suites found.
func TestPage(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), start)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the tables", page)
	}
	tables, err := Tables("records")
	if err != nil {
		t.Fatal(err)
	}
	want := before + start + tables + end + after
	if *rewrite {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != string(text) {
		t.Errorf("%s is not what the suites found; write it with -rewrite", page)
	}
}

// TestEveryAdapterHasAColumn: whatever says in the source that it is a resource, or the journal of
// one, is on the page, and whatever has a record too.
func TestEveryAdapterHasAColumn(t *testing.T) {
	var packages, records []string
	for _, a := range Adapters() {
		packages, records = append(packages, a.Packages...), append(records, a.Record+".json")
	}
	says := regexp.MustCompile(`_ +(participant\.Resource|service\.Journal) +=`)
	found := 0
	err := filepath.WalkDir(root+"/participant", func(p string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return err
		}
		source, err := os.ReadFile(p)
		if err != nil || !says.Match(source) {
			return err
		}
		found++
		dir, err := filepath.Rel(root, filepath.Dir(p))
		if !slices.Contains(packages, filepath.ToSlash(dir)) {
			t.Errorf("%s has no column", dir)
		}
		return err
	})
	if err != nil || found < 7 {
		t.Errorf("%d adapters and journals are found, %v", found, err)
	}
	files, err := os.ReadDir("records")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !slices.Contains(records, f.Name()) {
			t.Errorf("%s is the record of no adapter", f.Name())
		}
	}
}

// TestCasesAreToldInFull: each case says what it demands and which promise of docs/TESTING.md it is
// about, and has a name of its own.
func TestCasesAreToldInFull(t *testing.T) {
	text, err := os.ReadFile(root + "/docs/TESTING.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, c := range append(participanttest.Cases(), servicetest.Cases()...) {
		if !strings.Contains(string(text), "\n| **"+c.Promise+"** ") {
			t.Errorf("%s: %q is no promise", c.Name, c.Promise)
		}
		if c.Demands == "" || seen[c.Name] || c.Instead != "" && c.Needs == "" {
			t.Errorf("%+v: it needs a name of its own, a demand, and a trait for another one",
				c.Name)
		}
		seen[c.Name] = true
	}
}

// report is that of a good run, with one answer changed.
func report(at int, answer participanttest.Answer) *participanttest.Report {
	r := &participanttest.Report{Kind: "k", Version: "1"}
	for _, name := range []string{"a", "b", "c"} {
		r.Results = append(r.Results, participanttest.Result{Case: name,
			Answer: participanttest.Passed})
	}
	r.Results[at].Answer = answer
	return r
}

// TestKeep: no mark without a whole run in which the case passed.
func TestKeep(t *testing.T) {
	dir := t.TempDir()
	good := report(0, participanttest.Passed)
	if keep(dir, "x", good, false) == nil {
		t.Error("an adapter without a record passed")
	}
	for _, a := range []participanttest.Answer{participanttest.Failed, participanttest.NotRun} {
		if keep(dir, "x", report(1, a), true) == nil {
			t.Errorf("a run with a case %s became a record", a)
		}
	}
	if err := keep(dir, "x", good, true); err != nil {
		t.Fatal(err)
	}
	shorter, longer := report(0, participanttest.Passed), report(0, participanttest.Passed)
	other, cut := report(0, participanttest.Passed), report(1, participanttest.NotRun)
	shorter.Results = shorter.Results[:2]
	longer.Results = append(longer.Results, participanttest.Result{Case: "d",
		Answer: participanttest.Passed})
	other.Traits.Shared = true
	cut.Kind, cut.Version = "", ""
	for what, c := range map[string]struct {
		r    *participanttest.Report
		fine bool
	}{
		"the same": {good, true}, "a part": {cut, true}, "one is gone": {shorter, false},
		"one is new": {longer, false}, "another trait": {other, false},
		"not asked any more": {report(2, participanttest.NotAsked), false},
	} {
		if err := keep(dir, "x", c.r, false); (err == nil) != c.fine {
			t.Errorf("%s: %v", what, err)
		}
	}
	good.Version = "2"
	if err := keep(dir, "x", good, true); err != nil {
		t.Fatal(err)
	}
	r, err := readRecord(filepath.Join(dir, "x.json"))
	if err != nil || !slices.Equal(r.Versions, []string{"1", "2"}) {
		t.Errorf("versions %v, %v", r.Versions, err)
	}
}

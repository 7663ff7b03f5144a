package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// maxKept bounds what is remembered of one test's output. Of a test that says more, the beginning
// is shown: the first complaint is the one that matters.
const maxKept = 256 << 10

// event is one line of `go test -json`, as `go doc test2json` describes it.
type event struct {
	Action      string
	Package     string
	ImportPath  string
	Test        string
	Elapsed     float64
	Output      string
	FailedBuild string
}

// Summary counts tests by how they ended. Subtests count with the test that holds them; a package
// that fails without a failed test counts as one.
type Summary struct{ Passed, Failed, Skipped int }

// Good says that something ran and that everything passed.
func (s Summary) Good() bool { return s.Passed > 0 && s.Failed == 0 && s.Skipped == 0 }

// String is the closing line.
func (s Summary) String() string {
	line := fmt.Sprintf("tests: %d passed, %d failed", s.Passed, s.Failed)
	if s.Skipped > 0 {
		line += fmt.Sprintf(", %d skipped", s.Skipped)
	}
	return line
}

// report is the state of one run, between events.
type report struct {
	out io.Writer
	sum Summary
	// said is the output so far, by package and test; packages and builds have entries of their
	// own.
	said map[string]*strings.Builder
	// layers are the summary lines of the layers that ran, as their tests logged them.
	layers []string
	// failed counts the failed tests of each package that has not ended yet.
	failed map[string]int
}

// Report copies what matters from the events in r to w and returns the counts. Events that are no
// JSON, and a writer that fails, are errors; what was counted until then is returned with them.
func Report(r io.Reader, w io.Writer) (Summary, error) {
	rep := &report{out: w, said: map[string]*strings.Builder{}, failed: map[string]int{}}
	for dec := json.NewDecoder(r); ; {
		var e event
		err := dec.Decode(&e)
		if errors.Is(err, io.EOF) {
			slices.Sort(rep.layers)
			_, err := fmt.Fprintln(w, strings.Join(append(rep.layers, rep.sum.String()), "\n"))
			return rep.sum, err
		}
		if err != nil {
			return rep.sum, fmt.Errorf("testreport: read the events: %w", err)
		}
		if err := rep.take(e); err != nil {
			return rep.sum, fmt.Errorf("testreport: write the report: %w", err)
		}
	}
}

func (r *report) take(e event) error {
	switch e.Action {
	case "output":
		if m := layer.FindStringSubmatch(e.Output); m != nil {
			r.layers = append(r.layers, m[1])
		}
		r.keep(key(e.Package, e.Test), e.Output)
	case "build-output":
		r.keep(key(e.ImportPath, ""), e.Output)
	case "pass", "fail", "skip":
		return r.end(e)
	}
	return nil
}

// layer is the line in which a layer of the tests sums up what it did: logged by a test, and begun
// with the layer's name.
var layer = regexp.MustCompile(`^(?:\s+\S+\.go:\d+: )?((?:explore|sim|log|crash|mutants): .*)`)

// key files the output of a subtest under the test that holds it.
func key(pkg, test string) string {
	top, _, _ := strings.Cut(test, "/")
	return pkg + " " + top
}

// keep drops the lines that only say that a test is on its way or went well.
func (r *report) keep(key, text string) {
	line := strings.TrimSpace(text)
	noise := strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- PASS")
	b := r.said[key]
	if b == nil {
		b = &strings.Builder{}
		r.said[key] = b
	}
	if !noise && b.Len() < maxKept {
		b.WriteString(text)
	}
}

func (r *report) end(e event) error {
	switch {
	case e.Test == "":
		return r.endPackage(e)
	case strings.Contains(e.Test, "/"):
		return nil
	default:
		return r.endTest(e)
	}
}

func (r *report) endTest(e event) error {
	said := r.takeOut(key(e.Package, e.Test))
	switch e.Action {
	case "pass":
		r.sum.Passed++
		return nil
	case "skip":
		r.sum.Skipped++
	case "fail":
		r.sum.Failed++
		r.failed[e.Package]++
	}
	_, err := io.WriteString(r.out, said)
	return err
}

// endPackage prints one line for a package. Of a failed one it first shows the tests that never
// ended, because the process died in them. What the package itself said is shown only where no test
// of it failed, because then it holds the reason: TestMain, a leaked goroutine, a build error.
func (r *report) endPackage(e event) error {
	own := r.takeOut(key(e.FailedBuild, "")) + r.takeOut(key(e.Package, ""))
	said := r.unfinished(e.Package)
	if e.Action == "fail" && r.failed[e.Package] == 0 {
		r.sum.Failed++
		said += own
	}
	delete(r.failed, e.Package)
	if e.Action != "fail" {
		said = ""
	}
	word := map[string]string{"pass": "ok", "fail": "FAIL", "skip": "none"}[e.Action]
	_, err := fmt.Fprintf(r.out, "%s%-4s  %s  %.1fs\n", said, word, e.Package, e.Elapsed)
	return err
}

// unfinished is what the tests said that have begun in a package and not ended.
func (r *report) unfinished(pkg string) string {
	var all strings.Builder
	for _, k := range slices.Sorted(maps.Keys(r.said)) {
		if strings.HasPrefix(k, key(pkg, "")) {
			all.WriteString(r.takeOut(k))
		}
	}
	return all.String()
}

// takeOut returns what was kept under a key, and forgets it.
func (r *report) takeOut(key string) string {
	b := r.said[key]
	delete(r.said, key)
	if b == nil {
		return ""
	}
	return b.String()
}

// Package conformance ties the table in docs/ADAPTERS.md to what the suites of package
// participanttest found.
//
// Each adapter's test hands its report to [Keep], which holds it against the record of the adapter,
// a file in records. The page is written from the records, and a test holds it against them. So a
// mark on the page was made by a run of the suite in which that case passed, and a case that fails,
// or is not asked any more, fails the adapter's own test:
//
//	suite ── Report ── Keep ──▶ records/kv.json ── Table ──▶ docs/ADAPTERS.md
//
// After a change of the suite or of an adapter:
//
//	go test ./participant/kv -run Conformance -rewrite        (and the others)
//	go test ./participant/internal/conformance -rewrite
//
// An adapter gets its column by its line in [Adapters] and by the call of Keep in its test.
package conformance

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"testing"

	"github.com/gavel-tx/gavel/participant/participanttest"
)

var rewrite = flag.Bool("rewrite", false,
	"write the record of the adapter, or docs/ADAPTERS.md, anew")

// number is what matters of a version: 10.11.19-MariaDB of 10.11.19-MariaDB-0+deb12u1-log.
var number = regexp.MustCompile(`^(format )?[0-9.]+(-MariaDB)?`)

// Record is what the last run with -rewrite found out about an adapter.
type Record struct {
	Kind     string `json:"kind"`
	Proof    string `json:"proof"`
	Shared   bool   `json:"shared"`
	Owners   bool   `json:"owners"`
	OnePhase bool   `json:"one_phase"`
	Delegate bool   `json:"delegate"`
	// Versions are those of the resource that such runs have met. They are not compared: a run on
	// another version shows the same or fails.
	Versions []string `json:"versions"`
	Cases    []Case   `json:"cases"`
}

// Case is a case of the suite and how it went.
type Case struct {
	Case   string                 `json:"case"`
	Answer participanttest.Answer `json:"answer"`
}

// Keep fails the test if a report is not what the adapter's record says. Of a run that the flags of
// go test cut short it compares what was run. With -rewrite it writes the record, of whole runs in
// which every case passed and of no others.
func Keep(t *testing.T, adapter string, r *participanttest.Report) {
	t.Helper()
	if err := keep(filepath.Join(here(), "records"), adapter, r, *rewrite); err != nil {
		t.Error(err)
	}
}

func keep(dir, adapter string, r *participanttest.Report, write bool) error {
	file := filepath.Join(dir, adapter+".json")
	old, err := readRecord(file)
	if err != nil && (!write || !errors.Is(err, os.ErrNotExist)) {
		return fmt.Errorf("the adapter has no record; write it with -rewrite: %w", err)
	}
	if write {
		return writeRecord(file, old, r)
	}
	return compare(old, r)
}

func writeRecord(file string, old Record, r *participanttest.Report) error {
	if !r.Complete() {
		return errors.New("a run that failed or was cut short is no record; run the whole suite")
	}
	next := recordOf(r)
	next.Versions = old.Versions
	v := number.FindString(r.Version)
	if v != "" && !slices.Contains(next.Versions, v) {
		next.Versions = append(next.Versions, v)
		slices.Sort(next.Versions)
	}
	text, err := json.MarshalIndent(next, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// compare holds what was run against the record, and a whole run against all of it.
func compare(old Record, r *participanttest.Report) error {
	var errs []error
	differ := func(what string, now, then any) {
		errs = append(errs, fmt.Errorf("%s: %v, the record says %v; if that is right, write the "+
			"record with -rewrite", what, now, then))
	}
	now := recordOf(r)
	if r.Complete() && len(now.Cases) != len(old.Cases) {
		differ("cases", len(now.Cases), len(old.Cases))
	}
	for _, c := range now.Cases {
		at := slices.IndexFunc(old.Cases, func(o Case) bool { return o.Case == c.Case })
		switch {
		case c.Answer == participanttest.NotRun || c.Answer == participanttest.Failed:
			// Nothing is known of the first, and the second has failed the test.
		case at < 0:
			differ(c.Case, c.Answer, "nothing")
		case old.Cases[at].Answer != c.Answer:
			differ(c.Case, c.Answer, old.Cases[at].Answer)
		}
	}
	now.Cases, now.Versions, old.Cases, old.Versions = nil, nil, nil, nil
	if r.Kind == "" {
		old.Kind = ""
	}
	if fmt.Sprint(now) != fmt.Sprint(old) {
		differ("the adapter", now, old)
	}
	return errors.Join(errs...)
}

func recordOf(r *participanttest.Report) Record {
	out := Record{Kind: r.Kind, Proof: r.Traits.Proof.String(), Shared: r.Traits.Shared,
		Owners: r.Owners, OnePhase: r.Traits.OnePhase, Delegate: r.Traits.Delegate}
	for _, x := range r.Results {
		out.Cases = append(out.Cases, Case{x.Case, x.Answer})
	}
	return out
}

func readRecord(file string) (Record, error) {
	var r Record
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	return r, err
}

// here is the folder of this package. The tests that ask are run where their source is.
func here() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(file)
}

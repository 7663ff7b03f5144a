package conformance

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/gavel-tx/gavel/participant/participanttest"
	"github.com/gavel-tx/gavel/participant/service/servicetest"
)

// Adapter is a column of the page.
type Adapter struct {
	// Record is the name that its test gives to Keep.
	Record string
	// Title heads its column, Packages are its code, Owner says whose its branches are.
	Title    string
	Packages []string
	Owner    string
	// Tested says on what the suite runs.
	Tested string
}

// Adapters are the columns of the page, from left to right.
func Adapters() []Adapter {
	return []Adapter{
		{"postgres", "postgres", []string{"participant/postgres"},
			"the role that prepared it, which should be one for all", "PostgreSQL"},
		{"pgsession", "sessions", []string{"participant/session", "participant/postgres/pgsession"},
			"the role that runs the SQL of clients, or the owner role that it takes",
			"PostgreSQL, in process and over gRPC"},
		{"mysql", "mysql", []string{"participant/mysql"}, "the database in which the " +
			"branch's row is", "MariaDB; no test has ever seen a MySQL"},
		{"kv", "kv", []string{"participant/kv"}, "the store", "bbolt file"},
		{"remote", "remote", []string{"participant/remote"}, "as the resource behind it",
			"gRPC, with kv behind it"},
		{"boltjournal", "service, bolt", []string{"participant/service",
			"participant/service/boltjournal"}, "the service",
			"bbolt file, journal beside and within"},
		{"pgjournal", "service, pg", []string{"participant/service",
			"participant/service/pgjournal"}, "the service", "PostgreSQL"},
	}
}

// marks are the words of the page for answers.
var marks = map[participanttest.Answer]string{
	participanttest.Passed: "✓", participanttest.PassedInstead: "(✓)",
	participanttest.NotAsked: "–",
}

// absent marks a case that is asked of services only.
const absent = "–"

// Tables are the two tables of the page, of the records in a folder.
func Tables(dir string) (string, error) {
	records := map[string]Record{}
	for _, a := range Adapters() {
		r, err := readRecord(filepath.Join(dir, a.Record+".json"))
		if err != nil {
			return "", fmt.Errorf("run the suite of %s with -rewrite: %w", a.Packages, err)
		}
		records[a.Record] = r
	}
	cases, err := casesTable(records)
	return capabilities(records) + "\n" + cases, err
}

func capabilities(records map[string]Record) string {
	var b strings.Builder
	b.WriteString("| adapter | proves ends by | one phase | delegate | several processes | " +
		"who owns a branch | the suite runs on |\n|---|---|---|---|---|---|---|\n")
	for _, a := range Adapters() {
		r := records[a.Record]
		fmt.Fprintf(&b, "| **%s** (`%s`) | %s | %s | %s | %s | %s | %s |\n", a.Title,
			strings.Join(a.Packages, "`, `"), r.Proof, yes(r.OnePhase), yes(r.Delegate),
			yes(r.Shared), a.Owner, a.tested(r))
	}
	return b.String()
}

// tested says what the suite runs on, and which versions it has met.
func (a Adapter) tested(r Record) string {
	if len(r.Versions) == 0 {
		return a.Tested
	}
	return a.Tested + "; seen: " + strings.Join(r.Versions, ", ")
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func casesTable(records map[string]Record) (string, error) {
	var b strings.Builder
	b.WriteString("| case | it demands |")
	for _, a := range Adapters() {
		fmt.Fprintf(&b, " %s |", a.Title)
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---|", len(Adapters())) + "\n")
	common := participanttest.Cases()
	extra := servicetest.Cases()
	var errs []error
	for _, a := range Adapters() {
		errs = append(errs, fits(a, records[a.Record], len(common), len(extra)))
	}
	for i, c := range append(common, extra...) {
		fmt.Fprintf(&b, "| %s | %s |", c.Name, demand(c))
		for _, a := range Adapters() {
			mark := absent
			if cases := records[a.Record].Cases; i < len(cases) {
				if cases[i].Case != c.Name || marks[cases[i].Answer] == "" {
					errs = append(errs, fmt.Errorf("%s has %q (%s) where the suite has %q; run "+
						"it with -rewrite", a.Record, cases[i].Case, cases[i].Answer, c.Name))
				}
				mark = marks[cases[i].Answer]
			}
			fmt.Fprintf(&b, " %s |", mark)
		}
		b.WriteString("\n")
	}
	return b.String(), errors.Join(errs...)
}

// fits makes sure that a record has as many cases as its suite: a row that it lacks must not look
// like one that does not apply.
func fits(a Adapter, r Record, common, extra int) error {
	want := common
	for _, p := range a.Packages {
		if p == "participant/service" {
			want = common + extra
		}
	}
	if len(r.Cases) != want {
		return fmt.Errorf("%s has %d cases, its suite %d; run it with -rewrite", a.Record,
			len(r.Cases), want)
	}
	return nil
}

// demand is what a case demands, of those without its trait too.
func demand(c participanttest.Case) string {
	text := fmt.Sprintf("%s (%s)", c.Demands, c.Promise)
	switch {
	case c.Instead != "":
		text += fmt.Sprintf("; without *%s*: %s", c.Needs, c.Instead)
	case c.Needs != "":
		text += fmt.Sprintf("; needs *%s*", c.Needs)
	}
	return text
}

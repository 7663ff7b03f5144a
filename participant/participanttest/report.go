package participanttest

import (
	"fmt"
	"strings"
	"testing"
)

// Answer is how a case went.
type Answer string

// The answers.
const (
	// Passed: all that the case demands.
	Passed Answer = "passed"
	// PassedInstead: what it demands of a resource without the trait.
	PassedInstead Answer = "passed without the trait"
	// NotAsked: the case demands nothing of a resource without the trait, and was not run.
	NotAsked Answer = "not asked"
	// Failed: it was run, and failed.
	Failed Answer = "failed"
	// NotRun: the flags of go test left it out.
	NotRun Answer = "not run"
)

// Result is a case and how it went.
type Result struct {
	Case   string
	Answer Answer
}

// Report is what the suite found out about one adapter.
type Report struct {
	// Kind and Version are those of the resource that was under test; empty where the case
	// "describe" was not run.
	Kind, Version string
	Traits        Traits
	// Owners says that the resource knows branches that an adapter may not finish.
	Owners  bool
	Results []Result
}

// Complete says whether every case passed that was to be asked, and none was left out.
func (r *Report) Complete() bool {
	for _, x := range r.Results {
		if x.Answer == Failed || x.Answer == NotRun {
			return false
		}
	}
	return true
}

// String is the table of the adapter, a case a line.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: %s, shared %v, owners %v, one phase %v, delegate %v\n", r.Kind,
		r.Version, r.Traits.Proof, r.Traits.Shared, r.Owners, r.Traits.OnePhase, r.Traits.Delegate)
	for _, x := range r.Results {
		fmt.Fprintf(&b, "  %-50s %s\n", x.Case, x.Answer)
	}
	return b.String()
}

// Ask runs one case as a subtest and notes how it went. Suites that ask more of their resources
// than this one, as servicetest does, add their cases by it.
func (r *Report) Ask(t *testing.T, name string, test func(*testing.T)) {
	t.Helper()
	r.ask(t, name, Passed, test)
}

func (r *Report) ask(t *testing.T, name string, good Answer, test func(*testing.T)) {
	t.Helper()
	// Run is true of a subtest that the flags left out.
	ran := false
	ok := t.Run(name, func(t *testing.T) {
		ran = true
		test(t)
	})
	answer := good
	switch {
	case !ran:
		answer = NotRun
	case !ok:
		answer = Failed
	}
	r.Results = append(r.Results, Result{name, answer})
}

// has says whether the resource under test has a trait.
func (h Harness) has(trait Trait) bool {
	switch trait {
	case TraitProof:
		return h.Traits.Proof != ProofNone
	case TraitOwners:
		return h.Foreign != nil
	case TraitShared:
		return h.Traits.Shared
	case TraitDecided:
		return !h.Traits.Undecided
	case TraitOnePhase:
		return h.Traits.OnePhase
	case TraitDelegate:
		return h.Traits.Delegate
	}
	return true
}

//go:build mutants

package explore

import "testing"

// rules are worlds in which the plan is wrong without one of its rules, each with the checker of
// what users would suffer: not of the rule itself, which a checker demands at once.
func rules() []Scenario {
	ab := resources("ab", proves)
	left := append(resources("a", quietly), resources("b", marks)...)
	oneQuiet := append(resources("a", proves), resources("b", quietly)...)
	return []Scenario{
		{Name: "no branch commits before COMMIT is durable", Only: Atomicity,
			Resources: ab, Transactions: announced("a", "b"), Bounds: Bounds{Crashes: 1}},
		{Name: "after an intent an abort is recorded", Only: OneTruth,
			Resources: ab, Transactions: announced("a", "b"),
			Bounds: Bounds{Crashes: 1, Rollbacks: 1}},
		{Name: "nobody is told before the intent is durable", Only: OneTruth,
			Resources: ab, Transactions: announced("a", "b"), Bounds: Bounds{Crashes: 1}},
		{Name: "a branch that only read implies nothing", Only: OneTruth,
			Resources: ab, Transactions: reading("b", announced("a", "b")),
			Bounds: Bounds{Crashes: 1}},
		{Name: "who tells has confirmed that it owns the log", Only: OneTruth,
			Resources: ab, Transactions: announced("a", "b"),
			Bounds: Bounds{Depositions: 1, Lingers: 2}},
		{Name: "who is deposed does not roll back either", Only: OneTruth,
			Resources: ab, Transactions: announced("a", "b"),
			Bounds: Bounds{Depositions: 1, Lingers: 1, Rollbacks: 1}},
		{Name: "what another server has not may be lost", Only: OneTruth,
			Resources: oneQuiet, Transactions: announced("a", "b"),
			Bounds: Bounds{Failovers: 1, LostOps: 1, Crashes: 1}},
		{Name: "nobody hears of a transaction whose delegate is not on the disk",
			Only: Atomicity, Resources: left, Transactions: delegated("a", "b"),
			Bounds: Bounds{Crashes: 1}},
		{Name: "only the marker calls off", Only: Atomicity,
			Resources: left, Transactions: delegated("a", "b"), Bounds: Bounds{Rollbacks: 1}},
		{Name: "what a call did commits once", Only: ExactlyOnce,
			Resources: ab, Transactions: calling(ofClient("a"), "b"), Bounds: Bounds{Retries: 1}},
		{Name: "no part is announced", Only: ExactlyOnce,
			Resources: ab, Transactions: calling(announced("a"), "b"),
			Bounds: Bounds{Retries: 1, Crashes: 1}},
		{Name: "nobody has part after Commit", Only: ExactlyOnce,
			Resources: ab, Transactions: leaving("b", calling(ofClient("a"), "b")),
			Bounds: Bounds{Retries: 1, Losses: 1}},
	}
}

// TestRules goes through the worlds of the rules. TestScenarios sees as much and more, with every
// checker; this is here to show, by mutants, that what the rules are for goes wrong without them.
func TestRules(t *testing.T) {
	for _, sc := range rules() {
		t.Run(sc.Name, func(t *testing.T) {
			r := Run(sc)
			t.Log(r)
			if r.Violation != nil || r.Cut {
				t.Error("not every history is good")
			}
		})
	}
}

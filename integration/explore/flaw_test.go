package explore

import (
	"strings"
	"testing"
)

// flawed is a world with one deliberate mistake, and the checker that must find it.
type flawed struct {
	flaw Flaw
	want Checker
	// says is a part of what the checker says.
	says string
	sc   Scenario
}

func flaws() []flawed {
	client := func(b Bounds) Scenario {
		return Scenario{Resources: resources("ab", proves), Transactions: ofClient("a", "b"),
			Bounds: b}
	}
	quick := client(Bounds{Crashes: 1})
	quick.Transactions = decided(quick.Transactions)
	asked := client(Bounds{Crashes: 1})
	asked.Transactions = ofCoordinator("a", "b")
	shared := client(Bounds{Sweeps: 2, Ticks: 1})
	shared.Resources[0].Decoys = true
	two := client(Bounds{Crashes: 1})
	two.Transactions = append(ofClient("a"), ofClient("a")...)
	left := client(Bounds{Ticks: 1, Noes: 1})
	left.Resources[1].Marks, left.Transactions = true, delegated("a", "b")
	return []flawed{
		{LooksOnly, ClientTruth, "is aborted, and 1.2 is committed", left},
		{DecidesFirst, Atomicity, "is rolled back", left},
		{MissingIsCommitted, NoMaskedHeuristic, "is not committed",
			client(Bounds{Interventions: 1})},
		{AnswerBeforeDone, Forget, "is not finished", client(Bounds{})},
		{VoteBeforeDurable, CommitValidity, "was never prepared", client(Bounds{})},
		{Unilateral, Atomicity, "is rolled back", client(Bounds{})},
		{FenceIgnored, Fencing, "obeys epoch 1 after epoch 2", asked},
		{ForeignTaken, Containment, "which is not ours", shared},
		{SentOnce, Liveness, "never over", client(Bounds{Losses: 1})},
		{SweepBlind, PresumedAbort, "its transaction runs", client(Bounds{Sweeps: 1})},
		{ToldBeforeDurable, LogBeforeSend, "without a durable record", client(Bounds{})},
		{LogLosesCommit, AcknowledgedDurability, "is committed, and 1.1 is not", quick},
		{LogLosesRange, ExactlyOnce, "given out twice", two},
		{FailedAppendAborts, UnknownAppend, "while its commit is in flight", client(Bounds{})},
		{AnswersUnowned, OneTruth, "was told ROLLED_BACK, and now COMMITTED",
			client(Bounds{Asks: 1})},
		{CrashIsRollback, ClientTruth, "after its transaction was rolled back",
			client(Bounds{Crashes: 1})},
		{ClockRunsBack, Assertion, "the clock went backwards", client(Bounds{})},
		{SaysGone, NeedlessAlarm, "a person is called", client(Bounds{})},
		{AbortsAtWill, AbortValidity, "for no reason", client(Bounds{})},
	}
}

// TestFlaws proves that every checker can complain: each of these worlds goes wrong in one way, and
// the checker of that way finds it.
func TestFlaws(t *testing.T) {
	found := map[Checker]bool{}
	for _, f := range flaws() {
		t.Run(f.flaw.String(), func(t *testing.T) {
			f.sc.Name, f.sc.Flaw, f.sc.Only = f.flaw.String(), f.flaw, f.want
			v := Run(f.sc).Violation
			if v == nil {
				t.Fatalf("%q does not complain", f.want)
			}
			t.Logf("%s: %s\n%s", v.Checker, v.What, v.History)
			if v.Checker != f.want || !strings.Contains(v.What, f.says) {
				t.Errorf("%s: %s; want %s: … %s …", v.Checker, v.What, f.want, f.says)
			}
			found[v.Checker] = true
		})
	}
	for _, c := range Checkers() {
		if !found[c] {
			t.Errorf("no flaw is found by %q", c)
		}
	}
}

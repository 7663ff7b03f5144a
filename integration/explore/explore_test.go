package explore

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// depth is what there is time for: little under -short, much if GAVEL_EXPLORE says "deep".
func depth() Depth {
	switch {
	case os.Getenv("GAVEL_EXPLORE") == "deep":
		return Deep
	case testing.Short():
		return Quick
	}
	return Usual
}

// TestScenarios goes through every world, and wants every promise kept in all of its histories.
func TestScenarios(t *testing.T) {
	seen := map[string]bool{}
	states, steps, ran := 0, 0, 0
	all := Scenarios(depth())
	for _, sc := range all {
		t.Run(sc.Name, func(t *testing.T) {
			r := Run(sc)
			t.Log(r)
			if r.Violation != nil || r.Cut {
				t.Error("not every history is good")
			}
			states, steps, ran = states+r.States, steps+r.Steps, ran+1
			for _, s := range r.Sights {
				seen[s] = true
			}
		})
	}
	t.Logf("explore: %d worlds, %d different states, %d steps between them", ran, states, steps)
	if depth() > Quick && ran == len(all) {
		checkReach(t, states, seen)
	}
}

// checkReach wants to have met what the worlds were made for: a promise is kept easily where
// nothing happens.
func checkReach(t *testing.T, states int, seen map[string]bool) {
	t.Helper()
	if states < 50_000 {
		t.Errorf("%d states are too few to mean much", states)
	}
	for _, s := range mustSee() {
		if !seen[s] {
			t.Errorf("no history shows: %s", s)
		}
	}
}

// mustSee lists what the worlds have to show together. A row of the recovery table is here if the
// machine tells people about it.
func mustSee() []string {
	return []string{
		"append protocol.RangeRecord", "append protocol.ResourceRecord",
		"append protocol.CommitRecord", "append protocol.EndRecord",
		"append protocol.HeuristicRecord", "append protocol.HoleRecord",
		"append protocol.MarkRecord", "append protocol.OnePhaseRecord",
		"append protocol.AbortRecord", "append protocol.IntentRecord",
		"append protocol.DelegateRecord", "send DECIDE", "DECIDE answered COMMITTED",
		"DECIDE answered ROLLED_BACK", "tell COMMITTED DELEGATE", "tell ROLLED_BACK DELEGATE",
		"tell UNKNOWN DELEGATE", "tell HEURISTIC_HAZARD DELEGATE", "told by a marker",
		"send PREPARE", "send COMMIT", "send ROLLBACK", "send ONE_PHASE", "send INQUIRE",
		"COMMIT answered COMMITTED", "COMMIT answered ROLLED_BACK", "COMMIT answered GONE",
		"ROLLBACK answered COMMITTED", "ROLLBACK answered ROLLED_BACK", "ROLLBACK answered GONE",
		"ONE_PHASE answered COMMITTED", "ONE_PHASE answered ROLLED_BACK",
		"ONE_PHASE answered GONE", "INQUIRE answered COMMITTED", "INQUIRE answered ROLLED_BACK",
		"INQUIRE answered GONE", "INQUIRE answered PREPARED",
		"label @E", "label @G", "label @I", "label @K",
		"tell COMMITTED CLASSIC", "tell COMMITTED NONE", "tell COMMITTED ONE_PHASE",
		"tell ROLLED_BACK UNSET", "tell ROLLED_BACK ONE_PHASE", "tell UNKNOWN CLASSIC",
		"tell HEURISTIC_MIXED CLASSIC", "tell HEURISTIC_HAZARD CLASSIC",
		"tell HEURISTIC_HAZARD ONE_PHASE", "tell HEURISTIC_MIXED UNSET",
		"tell COMMITTED PARALLEL", "tell ROLLED_BACK PARALLEL", "tell UNKNOWN PARALLEL",
		"tell HEURISTIC_HAZARD PARALLEL", "told ahead of the record", "told by a deposed owner",
		"out of reach in the midst of a transaction",
		"commit what a call did", "roll back what nobody has heard of", "refuse BRANCH_SET_CLOSED",
		"tell OUTCOME_FORGOTTEN UNSET", "key stands for COMMITTED", "refuse ALREADY_COMMITTED",
	}
}

// TestRunsAreAlike: the same scenario gives the same report, whatever the order of maps.
func TestRunsAreAlike(t *testing.T) {
	sc := Scenarios(Quick)[1]
	first, second := Run(sc), Run(sc)
	first.Took, second.Took = 0, 0
	if first.String() != second.String() || !slices.Equal(first.Sights, second.Sights) {
		t.Errorf("two runs differ:\n%s\n%s", first, second)
	}
}

// TestShortestHistory: a violation comes with one of the shortest ways to it, as a history that a
// person can read.
func TestShortestHistory(t *testing.T) {
	sc := Scenario{Name: "told too early", Resources: resources("a", proves),
		Transactions: ofClient("a"), Flaw: ToldBeforeDurable}
	v := Run(sc).Violation
	if v == nil || v.Checker != LogBeforeSend || v.Steps != 3 {
		t.Fatalf("%+v", v)
	}
	want := `
begin resources=(a)
----
reply #1 begun 1 [1=a]

# the client prepares 1.1 at a: YES xid 700

commit seq=1
1 yes
----
force COMMIT 1 {1@1 xid 700}

# faults end here

persist
----
send a COMMIT 1.1

# LOG BEFORE SEND: 1.1 is told to commit without a durable record
`
	if v.History != want {
		t.Errorf("the history is:\n%s", v.History)
	}
	report := Run(sc).String()
	for _, part := range []string{"told too early", "states", "log before send: 1.1 is told",
		"after 3 steps", "    force COMMIT 1"} {
		if !strings.Contains(report, part) {
			t.Errorf("the report does not say %q:\n%s", part, report)
		}
	}
}

// TestBoundOfStates: a search that is cut says so.
func TestBoundOfStates(t *testing.T) {
	sc := Scenarios(Quick)[1]
	sc.MaxStates = 20
	r := Run(sc)
	if !r.Cut || r.States > 60 || !strings.Contains(r.String(), "CUT") {
		t.Errorf("%s", r)
	}
}

// TestOnlyOneChecker: a checker that is not asked for is not heard, and the search goes on.
func TestOnlyOneChecker(t *testing.T) {
	sc := Scenario{Name: "late", Resources: resources("a", proves), Transactions: ofClient("a"),
		Flaw: ToldBeforeDurable, Only: Containment}
	if v := Run(sc).Violation; v != nil {
		t.Errorf("%s: %s", v.Checker, v.What)
	}
}

// TestWorldsAreMadeAnew: a search that keeps no world in memory finds the same as one that does.
func TestWorldsAreMadeAnew(t *testing.T) {
	sc := Scenarios(Quick)[1]
	s := &search{sc: &sc, first: newWorld(&sc), seen: map[[16]byte]struct{}{}}
	s.kept = map[int32]*world{}
	for i := range int32(maxKept) {
		s.kept[-i-1] = nil
	}
	s.explore()
	if want := Run(sc); len(s.nodes) != want.States || s.rep.Steps != want.Steps {
		t.Errorf("%d states and %d steps, want %d and %d", len(s.nodes), s.rep.Steps, want.States,
			want.Steps)
	}
}

func TestScenariosAreSound(t *testing.T) {
	names := map[string]bool{}
	for _, sc := range Scenarios(Deep) {
		if err := sc.validate(); err != nil || names[sc.Name] {
			t.Errorf("%s: %v, or twice", sc.Name, err)
		}
		names[sc.Name] = true
	}
	for name, sc := range map[string]Scenario{
		"nobody":         {},
		"no transaction": {Resources: resources("a", proves)},
		"too many":       {Resources: resources("abcdefghi", proves), Transactions: ofClient("a")},
		"not there":      {Resources: resources("a", proves), Transactions: ofClient("b")},
	} {
		if sc.validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestRunRefuses: a scenario that cannot be is a mistake of its author.
func TestRunRefuses(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("it ran")
		}
	}()
	Run(Scenario{Name: "empty"})
}

// TestEveryStepIsBounded: whatever a bound allows can happen as often, and no more.
func TestEveryStepIsBounded(t *testing.T) {
	b := Bounds{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}
	for k := doBegin; k <= doFlaw; k++ {
		left := b
		if at, _ := left.of(k); at != nil {
			*at--
		}
		_, spoils := left.of(k)
		harmless := slices.Contains([]kind{doBegin, doPrepare, doCommit, doAnnounce,
			doConfirm, doAsk, doEnlist, doCancel, doPersist, doArrive, doAnswer, doGiveUp,
			doPrepareGiveUp, doList, doSweep, doRegister, doOutage, doReturn, doDecide, doRun,
			doRunAgain, doHome, doFlaw}, k)
		if spoils == harmless {
			t.Errorf("step %d: may spoil a commit: %v", k, spoils)
		}
	}
	w := newWorld(&Scenario{Resources: resources("a", proves), Transactions: ofClient("a"),
		Bounds: Bounds{Asks: 1}})
	w.take(choice{kind: doBegin})
	w.take(choice{kind: doAsk})
	for _, c := range w.choices(nil) {
		if c.kind == doAsk || c.kind == doBegin {
			t.Errorf("step %d is possible again", c.kind)
		}
	}
}

// TestFlawsHaveNames keeps the words of the flaws in their order.
func TestFlawsHaveNames(t *testing.T) {
	if AbortsAtWill.String() != "aborts at will" || Flaw(99).String() != "Flaw(99)" ||
		SentOnce.String() != "sent once" {
		t.Error(AbortsAtWill, SentOnce, Flaw(99))
	}
}

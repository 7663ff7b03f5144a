package recovercmd_test

import (
	"encoding/json"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/clitest"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/participant/kv"
	"github.com/gavel-tx/gavel/txn"
)

// answer is the contract of -o json, as a script would read it.
type answer struct {
	Running  bool `json:"coordinator_running"`
	Copy     bool `json:"copy"`
	Applied  bool `json:"applied"`
	Branches []struct {
		Resource    string `json:"resource"`
		Transaction string `json:"transaction_id"`
		Name        string `json:"prepared_name"`
		Verdict     string `json:"verdict"`
		Label       string `json:"label"`
	} `json:"branches"`
	Done        []struct{ Verdict string } `json:"done"`
	Unreachable []string                   `json:"unreachable"`
	NotNamed    []string                   `json:"not_named"`
}

func read(t *testing.T, r clitest.Result) answer {
	t.Helper()
	var a answer
	if err := json.Unmarshal([]byte(r.Out), &a); err != nil {
		t.Fatalf("%v in %s", err, r.Out)
	}
	return a
}

func command(c clitest.Crash, more ...string) []string {
	return slices.Concat([]string{"recover", "--log", c.Log}, c.Resources(), more)
}

// TestThePlanIsRight: the decided one is to be committed, the other one to be rolled back, in both
// stores; and looking changes nothing.
func TestThePlanIsRight(t *testing.T) {
	c := clitest.MakeCrash(t)
	for range 2 {
		r := clitest.Run(t, command(c, "-o", "json")...).Want(t, exit.No)
		verdicts := map[string]int{}
		for _, b := range read(t, r).Branches {
			verdicts[b.Transaction+" "+b.Verdict+" "+b.Label]++
		}
		want := c.Decided.String() + " commit @A"
		if len(verdicts) != 2 || verdicts[want] != 2 ||
			verdicts[c.Undecided.String()+" roll back @E"] != 2 {
			t.Errorf("the plan is %v", verdicts)
		}
	}
	clitest.Run(t, command(c)...).Want(t, exit.No, "XID", "VERDICT", "BECAUSE",
		txn.NameOf(c.Decided, 1).String(), "the log holds its commit", "presumed abort",
		"Run again with --apply")
}

// TestApplyDoesIt: afterwards the decided one is in both stores, the other one in none, and nothing
// is left.
func TestApplyDoesIt(t *testing.T) {
	c := clitest.MakeCrash(t)
	r := clitest.Run(t, command(c, "--apply", "-o", "json")...).Want(t, exit.OK)
	if a := read(t, r); !a.Applied || len(a.Branches) != 0 {
		t.Errorf("the answer is %+v", a)
	}
	if got := c.Has(t, "decided"); got != [2]bool{true, true} {
		t.Errorf("the decided transaction is in %v", got)
	}
	if got := c.Has(t, "undecided"); got != [2]bool{} {
		t.Errorf("the undecided transaction is in %v", got)
	}
	clitest.Run(t, command(c)...).Want(t, exit.OK, "Nothing is in doubt.")
	clitest.Run(t, command(c, "--apply")...).Want(t, exit.OK, "0 finished, 0 branches remain.")
}

// TestApplyTellsWhatItDoes: the plan first, then what was done, and the journal beside it.
func TestApplyTellsWhatItDoes(t *testing.T) {
	c := clitest.MakeCrash(t)
	r := clitest.Run(t, command(c, "--apply")...).Want(t, exit.OK, "0 branches remain.")
	if !strings.Contains(r.Err, "coordinator is open") {
		t.Errorf("the journal is not on stderr: %s", r.Err)
	}
}

// TestALivingCoordinatorIsLeftAlone: --apply is refused and names the holder; looking is not, and
// presumes nothing aborted.
func TestALivingCoordinatorIsLeftAlone(t *testing.T) {
	c := clitest.MakeCrash(t)
	co, err := coordinator.Open(t.Context(), coordinator.Config{Dir: c.Log,
		SegmentSize: clitest.SegmentSize, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer co.Close()
	clitest.Run(t, command(c, "--apply")...).Want(t, exit.Refused, "is in use by process")
	r := clitest.Run(t, command(c, "-o", "json")...).Want(t, exit.No)
	a := read(t, r)
	if !a.Running {
		t.Error("the coordinator is not noticed")
	}
	for _, b := range a.Branches {
		if b.Transaction == c.Undecided.String() && b.Verdict != "leave" {
			t.Errorf("what may be running has the verdict %q", b.Verdict)
		}
	}
}

// TestACopyIsForLooking: what a copy does not know proves nothing.
func TestACopyIsForLooking(t *testing.T) {
	c := clitest.MakeCrash(t)
	c.Log = clitest.Copy(t, c.Log)
	clitest.Run(t, command(c, "--apply")...).Want(t, exit.Refused, "is a copy of a log",
		"gavel log adopt "+c.Log)
	r := clitest.Run(t, command(c, "-o", "json")...).Want(t, exit.No)
	a := read(t, r)
	if !a.Copy || a.Running {
		t.Errorf("the answer is %+v", a)
	}
	for _, b := range a.Branches {
		if b.Transaction == c.Undecided.String() && b.Verdict != "leave" {
			t.Errorf("what the copy does not know has the verdict %q", b.Verdict)
		}
	}
	clitest.Run(t, command(c)...).Want(t, exit.No, "for looking only", "proves nothing")
}

// TestAResourceThatCannotBeAsked: its branches stay, and the exit code says so.
func TestAResourceThatCannotBeAsked(t *testing.T) {
	c := clitest.MakeCrash(t)
	args := []string{"recover", "--log", c.Log, "--timeout", "2s",
		"--resource", clitest.Names[0] + "=grpc://127.0.0.1:1",
		"--resource", clitest.Names[1] + "=kv:" + c.Stores[1]}
	r := clitest.Run(t, append(args, "-o", "json")...).Want(t, exit.Unreachable, clitest.Names[0],
		"stays prepared")
	if a := read(t, r); len(a.Unreachable) != 1 || len(a.Branches) != 2 {
		t.Errorf("the answer is %+v", a)
	}
}

// TestAResourceThatIsNotNamed: an open decision waits for it, so that something is left.
func TestAResourceThatIsNotNamed(t *testing.T) {
	c := clitest.MakeCrash(t)
	clitest.Run(t, "recover", "--log", c.Log, "--resource", c.Resources()[1], "--apply").
		Want(t, exit.No, "bank_b has unfinished decisions")
	r := clitest.Run(t, "recover", "--log", c.Log, "--resource", c.Resources()[1], "-o", "json").
		Want(t, exit.No)
	if a := read(t, r); !slices.Equal(a.NotNamed, []string{"bank_b"}) {
		t.Errorf("the answer is %+v", a)
	}
}

// TestAPersonIsNeeded: a branch that is gone without a trace is nothing that --apply can finish.
func TestAPersonIsNeeded(t *testing.T) {
	c := clitest.MakeCrash(t)
	c.Stores[1] = filepath.Join(t.TempDir(), "another")
	store, err := kv.Open(kv.Config{Dir: c.Stores[1]})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	r := clitest.Run(t, command(c, "-o", "json")...).Want(t, exit.No, "@T")
	if a := read(t, r); len(a.Branches) == 0 {
		t.Errorf("the answer is %+v", a)
	}
}

// TestWhatIsMissing: the command line is checked before anything is opened.
func TestWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{
		{"recover"}, {"recover", "--log", dir}, {"recover", "--resource", "a=kv:" + dir},
		{"recover", "--log", dir, "--resource", "a"},
		{"recover", "--log", dir, "--resource", "a=ftp://x"},
		{"recover", "--log", dir, "--resource", "a=kv:" + dir, "--timeout", "0s"},
	} {
		clitest.Run(t, args...).Want(t, exit.Usage)
	}
	clitest.Run(t, "recover", "--log", dir, "--resource", "a=kv:"+dir).
		Want(t, exit.Refused, "gavel log init "+dir)
}

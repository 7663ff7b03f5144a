package participanttest_test

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"testing"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/participanttest"
)

// faultEnv names the fault with which TestKeptPromises runs the suite.
const faultEnv = "PARTICIPANTTEST_FAULT"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestKeptPromises is the suite over a resource that keeps its promises, and, in a process of its
// own that TestEveryBrokenPromiseIsNoticed starts, over one that breaks one: a test cannot fail on
// behalf of another.
func TestKeptPromises(t *testing.T) {
	participanttest.Run(t, harness(newStore(os.Getenv(faultEnv))))
}

// plain is a resource without any trait but that several processes may have it.
type plain struct {
	participant.Resource
	participant.Closer
	describe func(context.Context) (participant.Description, error)
}

func (p plain) Describe(ctx context.Context) (participant.Description, error) {
	d, err := p.describe(ctx)
	d.OnePhase, d.Delegate = false, false
	return d, err
}

// TestWithoutTraits: a resource that can do nothing special passes as well, and the report says
// what was not asked.
func TestWithoutTraits(t *testing.T) {
	h := harness(newStore("no evidence"))
	open := h.Open
	h.Open = func(t *testing.T) (participant.Resource, error) {
		r, err := open(t)
		a := r.(*adapter)
		return plain{Resource: a, Closer: a, describe: a.Describe}, err
	}
	h.Foreign, h.Decide, h.Mark = nil, nil, nil
	h.Traits = participanttest.Traits{Shared: true, Undecided: true}
	r := participanttest.Run(t, h)
	count := map[participanttest.Answer]int{}
	for _, x := range r.Results {
		count[x.Answer]++
	}
	if !r.Complete() || r.Kind != "fake" || len(r.Results) != len(participanttest.Cases()) ||
		count[participanttest.NotAsked] != 17 || count[participanttest.PassedInstead] != 10 {
		t.Errorf("%v of %s %s:\n%s", count, r.Kind, r.Version, r)
	}
}

// TestReport: the table that a run ends with tells what passed from what failed or was left out.
func TestReport(t *testing.T) {
	for _, c := range []struct{ only, fault, says string }{
		{"", "", "describe +passed\n"},
		{"", "no fix", "describe +failed\n"},
		{"/^describe$", "", "answers are in order +not run\n"},
	} {
		cmd := exec.Command(os.Args[0], "-test.v", "-test.run=^TestKeptPromises$"+c.only)
		cmd.Env = append(os.Environ(), faultEnv+"="+c.fault)
		out, _ := cmd.CombinedOutput()
		if !regexp.MustCompile(c.says).Match(out) {
			t.Errorf("%+v: it said\n%s", c, out)
		}
	}
}

// A suite that accepts everything would pass every adapter. Each promise is broken here once, and
// the test that is about it must say so.
func TestEveryBrokenPromiseIsNoticed(t *testing.T) {
	for fault, test := range faults {
		t.Run(fault, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestKeptPromises$", "-test.timeout=60s")
			cmd.Env = append(os.Environ(), faultEnv+"="+fault)
			out, err := cmd.CombinedOutput()
			if err == nil {
				t.Fatal("the suite passed")
			}
			if !noticed(string(out), test) {
				t.Errorf("%s did not notice:\n%s", test, out)
			}
		})
	}
}

package participanttest_test

import (
	"os"
	"os/exec"
	"testing"

	"go.uber.org/goleak"

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

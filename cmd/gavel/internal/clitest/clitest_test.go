package clitest_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/clitest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestACrashIsOne: the stores hold neither of the two transactions.
func TestACrashIsOne(t *testing.T) {
	c := clitest.MakeCrash(t)
	for _, key := range []string{"decided", "undecided"} {
		if found := c.Has(t, key); found != [2]bool{} {
			t.Errorf("%s is to be seen: %v", key, found)
		}
	}
}

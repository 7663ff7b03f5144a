package mutants

import (
	"flag"
	"os"
	"testing"
)

// TestMain leaves to -short what needs neither a build nor a database: the table and its page.
func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		if err := flag.Set("test.skip", "^Test(Mutants|Binary)"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// Package examples runs what users may copy, as they would: real PostgreSQL servers, a coordinator
// and sidecars as processes, and every example by the command that its first lines name. The
// databases say what became of it.
package examples

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// With -short what needs a database, Python or Node.js is left out.
func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		if err := flag.Set("test.skip", "^Test(Transfers|Refusals|Usage)$"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// Command testreport reads the events of `go test -json` from its standard input and tells a person
// what happened: a line for each package as it finishes, everything that a failed test said and
// nothing that a passed one said, and one closing line with the counts.
//
//	go test -json ./... | go run ./integration/testreport
//
// It exits 1 when a test failed or was skipped, when a package could not be built or died, and when
// no test ran at all: a run that looked at nothing has shown nothing.
package main

import (
	"fmt"
	"os"
)

func main() {
	sum, err := Report(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err != nil || !sum.Good() {
		os.Exit(1)
	}
}

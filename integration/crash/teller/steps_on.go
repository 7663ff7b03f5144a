//go:build failpoints

package main

import (
	"fmt"
	"io"

	"github.com/gavel-tx/gavel/txn/point"
)

func printSteps(out io.Writer) {
	for _, s := range point.Steps() {
		fmt.Fprintln(out, s)
	}
}

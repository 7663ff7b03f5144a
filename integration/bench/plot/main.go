// Command plot draws the report of `gavel bench` as one self-contained SVG: throughput by clients,
// by branches, the distribution of latencies, and where the time of a commit goes.
//
//	go run ./integration/bench/plot -in build/bench/report.json -out build/bench/report.svg
//
// It is a program of its own so that gavel does not link what it draws with.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/gavel-tx/gavel/integration/bench"
)

func main() {
	if err := run(os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run is the program. What it says about its flags goes to says.
func run(args []string, says io.Writer) error {
	fs := flag.NewFlagSet("plot", flag.ContinueOnError)
	fs.SetOutput(says)
	in := fs.String("in", "build/bench/report.json", "the report to draw")
	out := fs.String("out", "build/bench/report.svg", "the picture")
	if err := fs.Parse(args); err != nil {
		return err
	}
	file, err := os.Open(*in)
	if err != nil {
		return fmt.Errorf("plot: %w", err)
	}
	defer file.Close()
	report, err := bench.ReadJSON(file)
	if err != nil {
		return err
	}
	var picture bytes.Buffer
	if err := render(&picture, report); err != nil {
		return fmt.Errorf("plot: %w", err)
	}
	return os.WriteFile(*out, picture.Bytes(), 0o644)
}

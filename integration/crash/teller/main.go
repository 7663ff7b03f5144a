// Command teller is the client of the kill tables: it moves money between two databases, or around
// the ring of four places, several transfers at once, and writes a line for everything that it
// learns about one.
//
// It is told what to do on its standard input, and says on its standard output what it was told by
// the databases and the coordinator (crash.Line):
//
//	go BASE    transfer, with numbers from BASE on, until told otherwise
//	one N      carry out the transfer with this number, once
//	leave      have the caller of that one go away
//	rest       finish what is under way, then write a line that says so
//
// The end of the input ends it. Called as "teller steps" it prints the steps that this build
// reports to a test, one a line, and ends.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/gavel-tx/gavel/integration/crash"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "steps" {
		printSteps(os.Stdout)
		return
	}
	if err := run(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "teller:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, in io.Reader, out io.Writer) error {
	if os.Getenv(crash.EnvService) != "" {
		r, err := openRing(ctx, os.Getenv)
		if err != nil {
			return err
		}
		defer r.close()
		return serve(ctx, &desk{move: r.transfer, out: out}, in)
	}
	b, err := openBank(ctx, os.Getenv)
	if err != nil {
		return err
	}
	defer b.close()
	return serve(ctx, &desk{move: b.transfer, out: out}, in)
}

// serve carries out orders until there are no more.
func serve(ctx context.Context, d *desk, in io.Reader) error {
	orders := bufio.NewScanner(in)
	for orders.Scan() {
		if err := d.order(ctx, orders.Text()); err != nil {
			return err
		}
	}
	d.stop()
	return orders.Err()
}

func (d *desk) order(ctx context.Context, text string) error {
	word, rest, _ := strings.Cut(text, " ")
	switch word {
	case "go", "one":
		n, err := strconv.ParseInt(rest, 10, 64)
		if err != nil {
			return fmt.Errorf("order %q: %w", text, err)
		}
		if word == "one" {
			d.one(ctx, n)
			return nil
		}
		d.stop()
		d.open(ctx, n)
		return nil
	case "leave":
		if d.leave == nil {
			return fmt.Errorf("order %q: nobody is here", text)
		}
		d.leave()
		return nil
	case "rest":
		d.stop()
		return d.rests()
	}
	return fmt.Errorf("order %q is not known", text)
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/txn"
)

// lines reads everything that a desk has written.
func lines(t *testing.T, text []byte) []crash.Line {
	t.Helper()
	var all []crash.Line
	for line := range strings.Lines(string(text)) {
		l, err := crash.ParseLine([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	return all
}

// The desk works between go and rest, with numbers from where it was told, and each number once.
func TestDeskWorksUntilItRests(t *testing.T) {
	var out bytes.Buffer
	enough := make(chan struct{})
	d := &desk{out: &out}
	d.move = func(_ context.Context, n int64, say func(crash.Line)) {
		if n == 120 {
			close(enough)
		}
		say(crash.Line{N: n, Answer: crash.Committed})
	}
	orders, write := io.Pipe()
	done := make(chan error)
	go func() { done <- serve(t.Context(), d, orders) }()
	fmt.Fprintln(write, "go 100")
	<-enough
	fmt.Fprintln(write, "rest")
	write.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	all := lines(t, out.Bytes())
	if last := all[len(all)-1]; !last.Rests {
		t.Errorf("the last line is %+v", last)
	}
	seen := map[int64]bool{}
	for _, l := range all[:len(all)-1] {
		if l.N < 100 || seen[l.N] || l.Rests {
			t.Errorf("line %+v", l)
		}
		seen[l.N] = true
	}
	if len(seen) < 21 {
		t.Errorf("%d transfers", len(seen))
	}
}

func TestDeskCarriesOutOneTransfer(t *testing.T) {
	var out bytes.Buffer
	d := &desk{out: &out}
	d.move = func(_ context.Context, n int64, say func(crash.Line)) { say(crash.Line{N: n}) }
	if err := serve(t.Context(), d, strings.NewReader("one 7\nrest\none 8\n")); err != nil {
		t.Fatal(err)
	}
	all := lines(t, out.Bytes())
	if len(all) != 3 || all[0].N != 7 || !all[1].Rests || all[2].N != 8 {
		t.Errorf("lines %+v", all)
	}
}

func TestCallersLeave(t *testing.T) {
	d := &desk{out: io.Discard}
	d.move = func(ctx context.Context, n int64, _ func(crash.Line)) { <-ctx.Done() }
	if err := serve(t.Context(), d, strings.NewReader("one 7\nleave\nrest\n")); err != nil {
		t.Fatal(err)
	}
}

func TestBadOrdersAreRefused(t *testing.T) {
	for _, text := range []string{"stop", "go", "go x", "one", "leave", ""} {
		d := &desk{out: io.Discard}
		if err := serve(t.Context(), d, strings.NewReader(text+"\n")); err == nil {
			t.Errorf("order %q is obeyed", text)
		}
	}
}

// full is an output whose reader is gone.
type full struct{}

var errFull = errors.New("full")

func (full) Write([]byte) (int, error) { return 0, errFull }

// A teller that nobody hears must not go on to make transfers.
func TestDeskStopsWhenNobodyHears(t *testing.T) {
	d := &desk{out: full{}}
	d.move = func(_ context.Context, n int64, say func(crash.Line)) { say(crash.Line{N: n}) }
	err := serve(t.Context(), d, strings.NewReader("go 1\nrest\n"))
	if !errors.Is(err, errFull) {
		t.Errorf("serve: %v", err)
	}
}

func TestAnswersAreWhatInTxMeant(t *testing.T) {
	id := txn.NewID(1, 2)
	for _, c := range []struct {
		err  error
		want crash.Answer
		id   txn.ID
	}{
		{nil, crash.Committed, txn.ID{}},
		{&client.AbortedError{ID: id, Cause: txn.CauseClient}, crash.RolledBack, id},
		{&client.AbortedError{Err: errFull}, crash.RolledBack, txn.ID{}},
		{&client.InDoubtError{ID: id, Err: errFull}, crash.InDoubt, id},
		{&client.HeuristicError{Result: txn.Result{ID: id}}, crash.Heuristic, id},
		{errFull, crash.InDoubt, txn.ID{}},
	} {
		got := answer(7, c.err)
		if got.N != 7 {
			t.Errorf("the number of the transfer became %d", got.N)
		}
		if got.Answer != c.want || got.ID != c.id || (c.err != nil) != (got.Why != "") {
			t.Errorf("%v: %+v", c.err, got)
		}
	}
}

func TestSomeCallersLeaveEarly(t *testing.T) {
	for _, storm := range []bool{false, true} {
		b, early := &bank{storm: storm}, 0
		for n := range int64(100) {
			ctx, leave := b.stay(t.Context(), n)
			if _, ok := ctx.Deadline(); ok {
				early++
			}
			leave()
		}
		if want := map[bool]int{true: 25}[storm]; early != want {
			t.Errorf("storm %v: %d callers leave early, want %d", storm, early, want)
		}
	}
}

// TestHalfHearEarly: half of the transfers ask for the decision, which is the parallel plan but for
// one in four of them; the first of a round waits for its branches.
func TestHalfHearEarly(t *testing.T) {
	early, classic := 0, 0
	for n := range int64(160) {
		if ackOf(n) != txn.AckDecided {
			continue
		}
		early++
		if planOf(n) == txn.PlanClassic {
			classic++
		}
	}
	if early != 80 || classic != 20 || ackOf(1) != txn.AckApplied {
		t.Errorf("%d of 160, %d of them classic", early, classic)
	}
}

package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// truth is a pair of ledgers and what the clients were told about them, all of it right.
func truth() (books, []heard) {
	b := books{sum: total, ledgers: [2]map[string]int64{
		{"t1": 30, "t2": -5}, {"t1": -30, "t2": 5}}}
	return b, []heard{{key: "t1", answer: committed}, {key: "t2", answer: committed, doubted: true},
		{key: "t3", answer: rolledBack}}
}

// TestAudit: what is right has no fault, and each way to be wrong has one.
func TestAudit(t *testing.T) {
	if b, answers := truth(); len(audit(b, answers)) != 0 {
		t.Error(audit(b, answers))
	}
	for name, c := range map[string]struct {
		spoil func(*books, []heard)
		want  string
	}{
		"lost":    {func(b *books, _ []heard) { b.sum-- }, "the sum of all balances"},
		"only a":  {func(b *books, _ []heard) { delete(b.ledgers[1], "t1") }, "alone"},
		"only b":  {func(b *books, _ []heard) { delete(b.ledgers[0], "t1") }, "alone"},
		"amounts": {func(b *books, _ []heard) { b.ledgers[1]["t1"] = -29 }, "took 30"},
		"denied":  {func(_ *books, h []heard) { h[0].answer = rolledBack }, "rolled back"},
		"claimed": {func(_ *books, h []heard) { h[2].answer = committed }, "committed"},
		"untold":  {func(_ *books, h []heard) { h[1].key = "t3" }, "no client was told"},
		"unknown": {func(_ *books, h []heard) { h[0].answer = unknown }, "unknown"},
	} {
		b, answers := truth()
		c.spoil(&b, answers)
		faults := audit(b, answers)
		if len(faults) == 0 || !strings.Contains(errors.Join(faults...).Error(), c.want) {
			t.Errorf("%s: %v", name, faults)
		}
	}
}

func TestTally(t *testing.T) {
	_, answers := truth()
	if n := tally(answers); n != (counts{committed: 2, rolledBack: 1, doubted: 1}) {
		t.Errorf("%+v", n)
	}
}

// TestTransfer: what one bank loses the other gains, and attempts have keys of their own.
func TestTransfer(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	seen := map[string]bool{}
	for i := range 100 {
		tr := drawTransfer(random, i/2, 1+i%2)
		if tr.change(0)+tr.change(1) != 0 || tr.change(0) == 0 || seen[tr.key] {
			t.Errorf("%+v", tr)
		}
		seen[tr.key] = true
		for _, id := range tr.accountIDs {
			if id < 0 || id >= accounts {
				t.Errorf("account %d", id)
			}
		}
	}
}

// TestAnswers: an answer that was not promised is a fault, and never taken for a rollback.
func TestAnswers(t *testing.T) {
	id := txn.NewID(7, 8)
	for _, c := range []struct {
		err  error
		want answer
		bad  bool
	}{
		{nil, committed, false},
		{&client.AbortedError{ID: id}, rolledBack, false},
		{&client.InDoubtError{ID: id}, unknown, false},
		{&client.HeuristicError{}, unknown, true},
		{context.DeadlineExceeded, unknown, true},
	} {
		got, of, err := readAnswer(c.err)
		if got != c.want || (err != nil) != c.bad || c.want == unknown && !c.bad && of != id {
			t.Errorf("%v: %s, %s, %v", c.err, got, of, err)
		}
	}
	for _, c := range []struct {
		r    txn.Result
		err  error
		want answer
		bad  bool
	}{
		{txn.Result{Outcome: txn.OutcomeCommitted}, nil, committed, false},
		{txn.Result{Outcome: txn.OutcomeRolledBack}, nil, rolledBack, false},
		{txn.Result{Outcome: txn.OutcomeHeuristicMixed}, nil, unknown, true},
		{txn.Result{}, fmt.Errorf("lost: %w", txn.ErrUnknown), unknown, false},
		{txn.Result{}, txn.Refusef(txn.ReasonClosed, "", "no"), rolledBack, false},
	} {
		got, of, err := readResult(id, c.r, c.err)
		if got != c.want || (err != nil) != c.bad || of != id {
			t.Errorf("%+v, %v: %s, %v", c.r, c.err, got, err)
		}
	}
	if committed.String() != "committed" || rolledBack.String() != "rolled back" {
		t.Error("the words are others")
	}
}

// TestAWitness is found by what log and databases say together.
func TestAWitness(t *testing.T) {
	state := protocol.NewState(7)
	id := txn.NewID(7, 3)
	for _, r := range []protocol.Record{protocol.RangeRecord{Low: 1, High: 100},
		protocol.ResourceRecord{RM: 1, Name: bankNames[1]},
		protocol.ResourceRecord{RM: 2, Name: bankNames[0]},
		protocol.CommitRecord{ID: id, Plan: txn.PlanClassic, Label: "t1",
			Branches: []protocol.CommitBranch{{Branch: 1, RM: 1}, {Branch: 2, RM: 2}}}} {
		if err := state.Apply(r); err != nil {
			t.Fatal(err)
		}
	}
	w := witness{prepared: [2]map[txn.Name]bool{{txn.NameOf(id, 2): true}, {}}}
	got := w.of(state.OpenDecision(id), state)
	if got.key != "t1" || got.inside != [2]bool{true, false} ||
		got.names != [2]txn.Name{txn.NameOf(id, 2), txn.NameOf(id, 1)} {
		t.Errorf("%+v", got)
	}
}

// TestAChildThatDoesNotStart is told with what it said, and leaves nothing behind.
func TestAChildThatDoesNotStart(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	var out strings.Builder
	io := ui.IO{Out: &out, Err: &out, Getenv: os.Getenv, Now: time.Now}
	for _, binary := range []string{"/bin/false", "/nope"} {
		o := options{transfers: 1, clients: 1, kv: true, binary: binary}
		err := o.run(t.Context(), io)
		if exit.Of(err).Code != exit.No || !strings.Contains(err.Error(), "key-value store") {
			t.Errorf("%s: %v", binary, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}

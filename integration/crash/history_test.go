package crash_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/txn"
)

// A transaction, to its clients, is a register that is written once:
//
//	ACTIVE ──commit──▶ COMMITTED        only while somebody asks for the commit
//	   └─────────────▶ ROLLED_BACK      at any time, by a No, a deadline, a crash
//
// The history of a storm is checked against it, transaction by transaction: there must be an order
// of all operations, each between its beginning and its end, in which every answer was true.

// asked is an operation of a client.
type asked uint8

const (
	askedCommit asked = iota
	askedOutcome
)

// register is what a transaction is, and what an answer says of it. unanswered is an answer only:
// nobody knows whether the operation had an effect.
type register uint8

const (
	active register = iota
	committed
	rolledBack
	unanswered
)

// operation is what an operation was about.
type operation struct {
	id   txn.ID
	what asked
}

// model is the register, for porcupine.
func model() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Partition: byTransaction,
		Init:      func() []any { return []any{active} },
		Step: func(state, input, output any) []any {
			var next []any
			for _, s := range step(state.(register), input.(operation).what, output.(register)) {
				next = append(next, s)
			}
			return next
		},
		DescribeOperation: func(input, output any) string {
			return fmt.Sprintf("%v: %v", input, output)
		},
	}
	return m.ToModel()
}

// step is what a transaction can be after an operation that had this answer; nothing if it cannot
// have had it. A rollback needs nobody's wish: it may have happened just before it was seen.
func step(s register, what asked, answer register) []register {
	switch {
	case answer == unanswered && what == askedCommit && s == active:
		return []register{active, committed, rolledBack}
	case answer == unanswered, answer == s:
		return []register{s}
	case s == active && answer == rolledBack:
		return []register{rolledBack}
	case s == active && answer == committed && what == askedCommit:
		return []register{committed}
	}
	return nil
}

// byTransaction splits a history: transactions know nothing of each other.
func byTransaction(history []porcupine.Operation) [][]porcupine.Operation {
	parts := map[txn.ID][]porcupine.Operation{}
	for _, o := range history {
		id := o.Input.(operation).id
		parts[id] = append(parts[id], o)
	}
	var all [][]porcupine.Operation
	for _, p := range parts {
		all = append(all, p)
	}
	return all
}

// never is when an operation without an answer ends.
const never = math.MaxInt64

// commits are the operations of the tellers. One that was killed, or that could not learn what came
// of its commit, may have had its effect at any later time. A transfer that never asked for its
// commit is no operation: it may only roll back.
func commits(transfers []crash.Transfer) (history []porcupine.Operation) {
	for _, t := range transfers {
		if t.ID.IsZero() || t.Asked == 0 {
			continue
		}
		o := porcupine.Operation{Input: operation{t.ID, askedCommit}, Call: int64(t.Asked),
			Output: unanswered, Return: never}
		switch t.Answer {
		case crash.Committed:
			o.Output, o.Return = committed, int64(t.Heard)
		case crash.RolledBack:
			o.Output, o.Return = rolledBack, int64(t.Heard)
		}
		history = append(history, o)
	}
	return history
}

// reader asks for outcomes while everything around it breaks, from the transfers that it hears of.
type reader struct {
	g    *rig
	stop context.CancelFunc
	join sync.WaitGroup
	// history belongs to the reader's goroutine until it has ended.
	history []porcupine.Operation
	err     error
}

// maxReads bounds the history of one round.
const maxReads = 5000

func (g *rig) startReader() *reader {
	r := &reader{g: g}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(g.t.Context())
	rng := rand.New(rand.NewPCG(g.rng.Uint64(), 0))
	r.join.Go(func() { r.read(ctx, rng) })
	g.t.Cleanup(r.end)
	return r
}

func (r *reader) end() {
	r.stop()
	r.join.Wait()
}

// fresh is how many of the newest transfers are asked about: those are undecided, or were just now.
const fresh = 12

// read asks about one transfer after the other.
func (r *reader) read(ctx context.Context, rng *rand.Rand) {
	tick := time.NewTicker(again)
	defer tick.Stop()
	for ctx.Err() == nil && len(r.history) < maxReads && r.err == nil {
		all := r.g.slips.all()
		if n := len(all); n > 0 {
			r.ask(ctx, all[n-1-rng.IntN(min(n, fresh))].ID)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// ask asks once. That nobody knows is no news; that somebody who knows refuses to tell is an error.
func (r *reader) ask(ctx context.Context, id txn.ID) {
	if id.IsZero() {
		return
	}
	call := crash.Now()
	result, err := r.g.asking.Outcome(ctx, id)
	switch {
	case err != nil && !errors.Is(err, txn.ErrUnknown) && ctx.Err() == nil:
		r.err = fmt.Errorf("outcome of %s: %w", id, err)
	case err == nil:
		if said, ok := registerOf(result); ok {
			r.history = append(r.history, porcupine.Operation{ClientId: 1, Call: int64(call),
				Input: operation{id, askedOutcome}, Output: said, Return: int64(crash.Now())})
		}
	}
}

// registerOf is what an answer says of the register. A transaction that is being decided may be
// anything.
func registerOf(r txn.Result) (register, bool) {
	switch {
	case r.Outcome == txn.OutcomeCommitted:
		return committed, true
	case r.Outcome == txn.OutcomeRolledBack:
		return rolledBack, true
	case r.State == txn.StateActive:
		return active, true
	}
	return 0, false
}

// checkHistory ends the test if no order of the operations explains all answers.
func (g *rig) checkHistory(r *reader, transfers []crash.Transfer) {
	g.t.Helper()
	g.must(r.err)
	history := append(commits(transfers), r.history...)
	result, _ := porcupine.CheckOperationsVerbose(model(), history, hang)
	if result == porcupine.Ok {
		return
	}
	var b strings.Builder
	for _, part := range byTransaction(history) {
		if !porcupine.CheckOperations(model(), part) {
			for _, o := range part {
				fmt.Fprintf(&b, "%v  %v  %d to %d\n", o.Input, o.Output, o.Call, o.Return)
			}
		}
	}
	g.fatal(fmt.Sprintf("the history of answers is %s:\n%s", result, b.String()))
}

// op is one line of a history for the tests of the model.
func op(what asked, answer register, call, ret int64) porcupine.Operation {
	return porcupine.Operation{Input: operation{txn.NewID(1, 1), what}, Output: answer, Call: call,
		Return: ret}
}

// Every history of lies is found, and what may happen in a crash is none.
func TestHistoriesAreJudged(t *testing.T) {
	type history = []porcupine.Operation
	for _, c := range []struct {
		name string
		ops  history
		want bool
	}{
		{"nothing", nil, true},
		{"committed, and seen so", history{op(askedCommit, committed, 1, 2),
			op(askedOutcome, committed, 3, 4)}, true},
		{"seen before the answer came", history{op(askedCommit, committed, 1, 9),
			op(askedOutcome, active, 2, 3), op(askedOutcome, committed, 4, 5)}, true},
		{"rolled back by itself", history{op(askedOutcome, active, 1, 2),
			op(askedOutcome, rolledBack, 3, 4)}, true},
		{"unanswered, and committed later", history{op(askedCommit, unanswered, 1, never),
			op(askedOutcome, active, 5, 6), op(askedOutcome, committed, 7, 8)}, true},
		{"unanswered, and rolled back", history{op(askedCommit, unanswered, 1, never),
			op(askedOutcome, rolledBack, 7, 8)}, true},

		{"committed, and then rolled back", history{op(askedCommit, committed, 1, 2),
			op(askedOutcome, rolledBack, 3, 4)}, false},
		{"rolled back, and then committed", history{op(askedCommit, rolledBack, 1, 2),
			op(askedOutcome, committed, 3, 4)}, false},
		{"committed, and then active again", history{op(askedCommit, committed, 1, 2),
			op(askedOutcome, active, 3, 4)}, false},
		{"committed before anybody asked", history{op(askedOutcome, committed, 1, 2),
			op(askedCommit, committed, 3, 4)}, false},
		{"committed without a wish", history{op(askedOutcome, committed, 1, 2)}, false},
		{"two readers differ", history{op(askedCommit, unanswered, 1, never),
			op(askedOutcome, committed, 2, 3), op(askedOutcome, rolledBack, 4, 5)}, false},
	} {
		if got := porcupine.CheckOperations(model(), c.ops); got != c.want {
			t.Errorf("%s: good is %v", c.name, got)
		}
	}
}

func TestTransfersBecomeOperations(t *testing.T) {
	id := txn.NewID(1, 1)
	all := []crash.Transfer{
		{N: 1},
		{N: 2, ID: id},
		{N: 3, ID: id, Asked: 5},
		{N: 4, ID: id, Asked: 5, Heard: 7, Answer: crash.Committed},
		{N: 5, ID: id, Asked: 5, Heard: 7, Answer: crash.RolledBack},
		{N: 6, ID: id, Asked: 5, Heard: 7, Answer: crash.InDoubt},
	}
	var got []string
	for _, o := range commits(all) {
		got = append(got, fmt.Sprint(o.Output, o.Call, o.Return == never, o.Return == 7))
	}
	want := []string{"3 5 true false", "1 5 false true", "2 5 false true", "3 5 true false"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q, want %q", got, want)
	}
	for r, want := range map[*txn.Result]register{
		{Outcome: txn.OutcomeCommitted, State: txn.StateCommitting}:   committed,
		{Outcome: txn.OutcomeRolledBack, State: txn.StateRollingBack}: rolledBack,
		{State: txn.StateActive}:                                      active,
	} {
		if got, ok := registerOf(*r); !ok || got != want {
			t.Errorf("%+v is %v", r, got)
		}
	}
	if got, ok := registerOf(txn.Result{State: txn.StateDeciding}); ok {
		t.Errorf("a transaction that is being decided is %v", got)
	}
}

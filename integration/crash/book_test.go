package crash_test

import (
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/txn"
)

// good is a committed transfer about which everybody agrees.
func good() crash.Transfer {
	return crash.Transfer{N: 1, ID: txn.NewID(1, 1), Answer: crash.Committed,
		Rows: [][]int64{{-5}, {5}}, Outcome: txn.OutcomeCommitted, Decided: true}
}

// gone is a transfer that was rolled back, about which everybody agrees.
func gone() crash.Transfer {
	return crash.Transfer{N: 2, ID: txn.NewID(1, 2), Answer: crash.RolledBack,
		Outcome: txn.OutcomeRolledBack}
}

// Every broken promise is named, and nothing else is; and what may happen in a crash is no fault.
//
//tidy:table each line is one history of a transfer
func TestTransfersAreJudged(t *testing.T) {
	for _, c := range []struct {
		name  string
		start func() crash.Transfer
		bend  func(*crash.Transfer)
		want  []crash.Kind
	}{
		{name: "committed", start: good},
		{name: "rolled back", start: gone},
		{name: "refused before it had an id", start: gone,
			bend: func(x *crash.Transfer) { x.ID, x.Outcome = txn.ID{}, txn.OutcomeUnknown }},
		{name: "committed, and the client was killed", start: good,
			bend: func(x *crash.Transfer) { x.Answer = crash.NoAnswer }},
		{name: "rolled back, and the client was killed", start: gone,
			bend: func(x *crash.Transfer) { x.Answer = crash.NoAnswer }},
		{name: "committed, and the client could not learn it", start: good,
			bend: func(x *crash.Transfer) { x.Answer = crash.InDoubt }},
		{name: "rolled back, and the client could not learn it", start: gone,
			bend: func(x *crash.Transfer) { x.Answer = crash.InDoubt }},

		{name: "a row at the first side only", start: good,
			bend: func(x *crash.Transfer) { x.Rows[1] = nil }, want: kinds(crash.HalfTransfer)},
		{name: "a row at the second side only", start: gone,
			bend: func(x *crash.Transfer) { x.Rows = [][]int64{nil, {5}} },
			want: kinds(crash.HalfTransfer)},
		{name: "another amount", start: good,
			bend: func(x *crash.Transfer) { x.Rows[1] = []int64{4} },
			want: kinds(crash.WrongAmount)},
		{name: "amounts that have changed places", start: good, want: kinds(crash.WrongAmount),
			bend: func(x *crash.Transfer) { x.Shares = []int64{5, -5} }},
		{name: "the amounts of its course", start: good,
			bend: func(x *crash.Transfer) { x.Shares = []int64{-5, 5} }},
		{name: "two rows at one side", start: good,
			bend: func(x *crash.Transfer) { x.Rows[1] = []int64{5, 5} },
			want: kinds(crash.TwiceApplied)},
		{name: "two rows at both", start: good, want: kinds(crash.TwiceApplied),
			bend: func(x *crash.Transfer) { x.Rows = [][]int64{{-5, -5}, {5, 5}} }},

		{name: "the client heard committed, and it is not", start: gone,
			bend: func(x *crash.Transfer) { x.Answer = crash.Committed },
			want: kinds(crash.FalseCommit)},
		{name: "the client heard rolled back, and it is not", start: good,
			bend: func(x *crash.Transfer) { x.Answer = crash.RolledBack },
			want: kinds(crash.FalseRollback)},
		{name: "the client heard of a heuristic end", start: good,
			bend: func(x *crash.Transfer) { x.Answer = crash.Heuristic },
			want: kinds(crash.HeuristicEnd)},
		{name: "the coordinator speaks of one", start: good,
			bend: func(x *crash.Transfer) { x.Outcome = txn.OutcomeHeuristicHazard },
			want: kinds(crash.HeuristicEnd)},

		{name: "the coordinator says rolled back", start: good,
			bend: func(x *crash.Transfer) { x.Outcome = txn.OutcomeRolledBack },
			want: kinds(crash.OutcomeDiffers)},
		{name: "the coordinator says committed", start: gone,
			bend: func(x *crash.Transfer) { x.Outcome = txn.OutcomeCommitted },
			want: kinds(crash.OutcomeDiffers)},
		{name: "the coordinator does not know", start: good,
			bend: func(x *crash.Transfer) { x.Outcome = txn.OutcomeUnknown },
			want: kinds(crash.OutcomeOpen)},
		{name: "the coordinator has forgotten", start: gone,
			bend: func(x *crash.Transfer) { x.Outcome = txn.OutcomeForgotten },
			want: kinds(crash.OutcomeOpen)},

		{name: "the log has no decision", start: good,
			bend: func(x *crash.Transfer) { x.Decided = false }, want: kinds(crash.LogDiffers)},
		{name: "the log has a decision", start: gone,
			bend: func(x *crash.Transfer) { x.Decided = true }, want: kinds(crash.LogDiffers)},
		{name: "rows of a transfer that nobody began", start: good, want: kinds(crash.Stranger),
			bend: func(x *crash.Transfer) { x.ID, x.Answer = txn.ID{}, crash.NoAnswer }},
		{name: "committed by one database, which needs no transaction", start: good,
			bend: func(x *crash.Transfer) { x.ID, x.Asked = txn.ID{}, 1 }},
		{name: "one place of four has no row", start: good, want: kinds(crash.HalfTransfer),
			bend: func(x *crash.Transfer) { x.Rows = [][]int64{{-3}, {1}, nil, {2}} }},
		{name: "twice at one place of four", start: good, want: kinds(crash.TwiceApplied),
			bend: func(x *crash.Transfer) { x.Rows = [][]int64{{-3}, {1}, {1, 1}, {1}} }},
		{name: "all of four", start: good,
			bend: func(x *crash.Transfer) { x.Rows = [][]int64{{-3}, {1}, {1}, {1}} }},
		{name: "more than an account has", start: good, want: kinds(crash.NotRefused),
			bend: func(x *crash.Transfer) { x.Refused = true }},
		{name: "more than an account has, and refused", start: gone,
			bend: func(x *crash.Transfer) { x.Refused = true }},
	} {
		x := c.start()
		if c.bend != nil {
			c.bend(&x)
		}
		expectKinds(t, c.name, crash.Book{Transfers: []crash.Transfer{x}}, c.want)
	}
}

func kinds(all ...crash.Kind) []crash.Kind { return all }

// expectKinds compares the kinds of a book's violations, in their order.
func expectKinds(t *testing.T, what string, b crash.Book, want []crash.Kind) {
	t.Helper()
	var words []string
	for _, k := range want {
		words = append(words, string(k))
	}
	if got := kindsOf(b); got != strings.Join(words, ", ") {
		t.Errorf("%s: got %q, want %q", what, got, words)
	}
}

func TestBooksAreJudged(t *testing.T) {
	clean := func() crash.Book {
		return crash.Book{Transfers: []crash.Transfer{good(), gone()}, Sum: 7, Want: 7}
	}
	expectKinds(t, "clean", clean(), nil)
	b := clean()
	b.Sum++
	expectKinds(t, "sum", b, kinds(crash.SumChanged))
	b = clean()
	b.Accounts = []crash.Account{{Place: crash.KV, Changed: 3, Ledger: 3},
		{Place: crash.Service, Changed: 3, Ledger: 2}}
	expectKinds(t, "balances and ledger", b, kinds(crash.LedgerDiffers))
	b = clean()
	b.Prepared = []string{"x", "y"}
	expectKinds(t, "prepared", b, kinds(crash.PreparedRemains, crash.PreparedRemains))
	b = clean()
	b.Alarms, b.Damage = []string{"help"}, "torn"
	expectKinds(t, "alarm and damage", b, kinds(crash.Alarmed, crash.LogDamaged))
	b = clean()
	b.Transfers[0].Rows[1] = nil
	text := b.Check()[0].String()
	for _, part := range []string{string(crash.HalfTransfer), "transfer 1", good().ID.String()} {
		if !strings.Contains(text, part) {
			t.Errorf("%q does not say %q", text, part)
		}
	}
}

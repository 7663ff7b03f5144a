package crash

import (
	"fmt"
	"time"

	"github.com/gavel-tx/gavel/txn"
)

// Transfer is everything that is known about one transfer when a round is over.
type Transfer struct {
	// N is its number, and ID its transaction, which is zero if the teller never learnt of one.
	N  int64
	ID txn.ID
	// Answer is the last word that the teller had, and Why the error behind it.
	Answer Answer
	Why    string
	// Rows are the amounts of its rows at every place where it was to change something, and at
	// every other one that has some: one each, or none at all.
	Rows [][]int64
	// Shares are the amounts that the rows must say, place by place as in Rows; without them, the
	// rows must cancel out and no more.
	Shares []int64
	// Refused says that it asked for what one place must refuse.
	Refused bool
	// Outcome is what the coordinator says now. It is asked about every ID.
	Outcome txn.Outcome
	// Decided says that the log holds a decision to commit ID.
	Decided bool
	// Asked is when the teller was about to ask for the commit, and Heard when it had its answer,
	// by [Now]; zero where it did not.
	Asked, Heard time.Duration
}

// Book is what was found when a round was over.
type Book struct {
	Transfers []Transfer
	// Prepared are the prepared names that are still somewhere.
	Prepared []string
	// Sum is that of all balances everywhere, and Want what it was at the beginning.
	Sum, Want int64
	// Accounts are the balances and the ledger of each place, where they are compared.
	Accounts []Account
	// Trails are what both databases know of their counters.
	Trails [2]Trail
	// Alarms are the errors in the journals of the coordinator and of the processes beside it.
	Alarms []string
	// Damage is what the verification of the log complained of.
	Damage string
}

// Account is by what the balances at one place have changed since the beginning, and by what the
// rows there say that they have.
type Account struct {
	Place           Place
	Changed, Ledger int64
}

// Kind names a broken promise.
type Kind string

// The kinds of violations.
const (
	HalfTransfer    Kind = "half a transfer"
	WrongAmount     Kind = "wrong amount"
	TwiceApplied    Kind = "applied twice"
	Stranger        Kind = "rows of a transfer that never asked for a commit"
	NotRefused      Kind = "committed, and it had to be refused"
	FalseCommit     Kind = "a false answer: committed"
	FalseRollback   Kind = "a false answer: rolled back"
	HeuristicEnd    Kind = "a heuristic outcome"
	OutcomeDiffers  Kind = "the coordinator contradicts the rows"
	OutcomeOpen     Kind = "the coordinator does not know the outcome"
	LogDiffers      Kind = "the log contradicts the rows"
	PreparedRemains Kind = "a branch is still prepared"
	SumChanged      Kind = "the sum of balances changed"
	LedgerDiffers   Kind = "the balances contradict the ledger beside them"
	OrderDiffers    Kind = "the databases disagree about the order"
	Alarmed         Kind = "an error in a journal"
	LogDamaged      Kind = "the log is damaged"
)

// Violation is one broken promise.
type Violation struct {
	Kind Kind
	// Text is what was found, with the transfer where there is one.
	Text string
}

// String is the kind of the violation and what was seen.
func (v Violation) String() string { return string(v.Kind) + ": " + v.Text }

// Check compares everything with everything. A book without violations returns nil.
func (b Book) Check() []Violation {
	var out []Violation
	for _, t := range b.Transfers {
		for _, kind := range t.faults() {
			out = append(out, Violation{kind, t.String()})
		}
	}
	for _, name := range b.Prepared {
		out = append(out, Violation{PreparedRemains, name})
	}
	if b.Sum != b.Want {
		out = append(out, Violation{SumChanged, fmt.Sprintf("%d, was %d", b.Sum, b.Want)})
	}
	for _, a := range b.Accounts {
		if a.Changed != a.Ledger {
			out = append(out, Violation{LedgerDiffers, fmt.Sprintf(
				"%s: changed by %d, the rows say %d", a.Place, a.Changed, a.Ledger)})
		}
	}
	if text := CompareTrails(b.Trails[0], b.Trails[1]); text != "" {
		out = append(out, Violation{OrderDiffers, text})
	}
	for _, a := range b.Alarms {
		out = append(out, Violation{Alarmed, a})
	}
	if b.Damage != "" {
		out = append(out, Violation{LogDamaged, b.Damage})
	}
	return out
}

// String is the whole transfer, for people.
func (t Transfer) String() string {
	return fmt.Sprintf("transfer %d, transaction %s: answer %s, rows %v of %v, outcome %s, "+
		"decided in the log: %v; %s",
		t.N, t.ID, t.Answer, t.Rows, t.Shares, t.Outcome, t.Decided, t.Why)
}

// faults are the promises that one transfer breaks. Where its rows contradict each other, nothing
// else is compared with them.
func (t Transfer) faults() []Kind {
	if kind, broken := t.rowFault(); broken {
		return []Kind{kind}
	}
	var out []Kind
	whole := t.whole()
	switch {
	case t.Answer == Heuristic || t.Outcome.IsHeuristic():
		out = append(out, HeuristicEnd)
	case t.Answer == Committed && !whole:
		out = append(out, FalseCommit)
	case t.Answer == RolledBack && whole:
		out = append(out, FalseRollback)
	}
	if t.Refused && whole {
		out = append(out, NotRefused)
	}
	if t.ID.IsZero() {
		// One that a single database commits has no transaction, and has asked all the same.
		if whole && t.Asked == 0 {
			out = append(out, Stranger)
		}
		return out
	}
	if t.Decided != whole {
		out = append(out, LogDiffers)
	}
	return append(out, t.outcomeFaults(whole)...)
}

// rowFault looks at the rows alone. Twice comes first: a row too many at one side is no half.
func (t Transfer) rowFault() (Kind, bool) {
	least, most, sum, wrong := 0, 0, int64(0), false
	for i, amounts := range t.Rows {
		most = max(most, len(amounts))
		if i == 0 || len(amounts) < least {
			least = len(amounts)
		}
		for _, a := range amounts {
			sum += a
			wrong = wrong || t.Shares != nil && a != t.Shares[i]
		}
	}
	switch {
	case most > 1:
		return TwiceApplied, true
	case least != most:
		return HalfTransfer, true
	case sum != 0, wrong:
		return WrongAmount, true
	}
	return "", false
}

// whole says that it has its rows, where they do not contradict each other.
func (t Transfer) whole() bool { return len(t.Rows) > 0 && len(t.Rows[0]) == 1 }

func (t Transfer) outcomeFaults(whole bool) []Kind {
	switch {
	case t.Outcome == txn.OutcomeUnknown, t.Outcome == txn.OutcomeForgotten:
		return []Kind{OutcomeOpen}
	case t.Outcome.IsHeuristic():
		// Told already.
		return nil
	case (t.Outcome == txn.OutcomeCommitted) != whole:
		return []Kind{OutcomeDiffers}
	}
	return nil
}

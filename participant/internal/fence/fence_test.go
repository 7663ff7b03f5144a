package fence

import (
	"errors"
	"testing"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

func at(epoch txn.Epoch, lsn uint64) txn.Fence { return txn.Fence{Log: 7, Epoch: epoch, LSN: lsn} }

// TestJudge is the table of the package's doc, and its edges.
func TestJudge(t *testing.T) {
	cases := []struct {
		name    string
		seen, f txn.Fence
		hello   bool
		next    txn.Fence
		err     error
	}{
		{"first", txn.Fence{}, at(1, 0), false, at(1, 0), nil},
		{"first hello", txn.Fence{}, at(5, 10), true, at(5, 10), nil},
		{"lower epoch", at(2, 10), at(1, 99), false, at(2, 10), participant.ErrFenced},
		{"lower epoch, hello", at(2, 10), at(1, 99), true, at(2, 10), participant.ErrFenced},
		{"lower epoch, lower LSN", at(2, 10), at(1, 3), false, at(2, 10), participant.ErrFenced},
		{"higher epoch, same LSN", at(2, 10), at(3, 10), false, at(3, 10), nil},
		{"higher epoch, higher LSN", at(2, 10), at(3, 11), false, at(3, 11), nil},
		{"higher epoch, lower LSN", at(2, 10), at(3, 9), false, at(2, 10),
			participant.ErrRegression},
		{"higher epoch, lower LSN, hello", at(2, 10), at(9, 9), true, at(2, 10),
			participant.ErrRegression},
		{"overtaken on the wire", at(2, 10), at(2, 4), false, at(2, 10), nil},
		{"same again", at(2, 10), at(2, 10), true, at(2, 10), nil},
		{"higher LSN", at(2, 10), at(2, 12), false, at(2, 12), nil},
		{"higher LSN, hello", at(2, 10), at(2, 12), true, at(2, 12), nil},
		{"restored on the eve of the epoch", at(2, 10), at(2, 9), true, at(2, 10),
			participant.ErrRegression},
	}
	for _, c := range cases {
		next, err := Judge(c.seen, c.f, c.hello)
		if next != c.next || !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
			t.Errorf("%s: %+v, %v", c.name, next, err)
		}
	}
}

// TestRememberedNeverFalls: whatever the calls and their order, neither the epoch nor the LSN
// ever falls.
func TestRememberedNeverFalls(t *testing.T) {
	var seen txn.Fence
	for i := range uint64(4096) {
		f := at(txn.Epoch(i%7+1), i*2654435761%97)
		next, err := Judge(seen, f, i%3 == 0)
		if next.Epoch < seen.Epoch || next.LSN < seen.LSN {
			t.Fatalf("%+v after %+v made %+v", f, seen, next)
		}
		if err != nil && next != seen {
			t.Fatalf("a refused call changed %+v to %+v", seen, next)
		}
		seen = next
	}
}

// TestHonestProcessIsHeardAgain: the race in the package's doc heals with the next attempt.
func TestHonestProcessIsHeardAgain(t *testing.T) {
	seen := at(4, 20)
	if _, err := Judge(seen, at(4, 10), true); !errors.Is(err, participant.ErrRegression) {
		t.Fatalf("the overtaken Hello: %v", err)
	}
	if _, err := Judge(seen, at(4, 21), true); err != nil {
		t.Errorf("the next Hello: %v", err)
	}
}

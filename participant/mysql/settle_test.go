package mysql

import (
	"testing"

	"github.com/gavel-tx/gavel/txn"
)

// A position that another question has made durable meanwhile is not told as a lower one than was
// asked for.
func TestPureSettleTellsTheNumber(t *testing.T) {
	r := &Resource{past: &past{seen: txn.Position{Timeline: 1, LSN: 9}}}
	for number, want := range map[uint64]uint64{0: 5, 7: 7, 9: 9} {
		at, err := r.settle(t.Context(), nil, txn.Position{Timeline: 1, LSN: 5}, number)
		if err != nil || at.LSN != want || at.Timeline != 1 {
			t.Errorf("at %+v for %d: %v, want %d", at, number, err, want)
		}
	}
}

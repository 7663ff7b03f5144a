package coordinator

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/gavel-tx/gavel/txn"
)

// TestLongList: a list that is longer than the loop looks at in one turn is complete and in order,
// and the loop does other work between two turns.
func TestLongList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		const n = 2*listPage + 500
		ids := make([]txn.ID, n)
		for i := range ids {
			b, err := c.Begin(t.Context(), txn.BeginRequest{})
			if err != nil {
				t.Fatal(err)
			}
			ids[i] = b.ID
		}
		seen := 0
		for r, err := range c.transactions(t.Context(), txn.ID{}) {
			if err != nil || r.ID != ids[seen] {
				t.Fatalf("place %d: %+v, %v", seen, r, err)
			}
			if seen == 0 {
				if _, err := c.Rollback(t.Context(), ids[n-1], ""); err != nil {
					t.Fatal(err)
				}
			}
			seen++
		}
		if seen != n-1 {
			t.Errorf("%d are listed, and one of %d was rolled back meanwhile", seen, n)
		}
		last, err := c.List(t.Context(), txn.ListRequest{After: ids[n-3]})
		if err != nil || len(last) != 1 || last[0].ID != ids[n-2] {
			t.Errorf("the last page is %+v, %v", last, err)
		}
		c.Close()
		if _, err := c.List(t.Context(), txn.ListRequest{}); !errors.Is(err, ErrClosed) {
			t.Errorf("a closed coordinator lists: %v", err)
		}
	})
}

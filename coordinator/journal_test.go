package coordinator

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/gavel-tx/gavel/txn"
)

// TestDurationsInTheJournal: a person reads them, whatever format the journal has.
func TestDurationsInTheJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		b, err := c.Begin(t.Context(), txn.BeginRequest{Timeout: 1500 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		rest()
		for _, line := range w.journal.lines(t) {
			if line["transaction"] == b.ID.String() {
				if line["age"] != "1.5s" {
					t.Errorf("age %v", line["age"])
				}
				return
			}
		}
		t.Error("the journal has no line about a transaction that expired")
	})
}

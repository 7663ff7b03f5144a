package coordinator

import (
	"testing"

	"github.com/gavel-tx/gavel/coordinator/protocol"
)

// TestMailbox: requests are bounded, answers are not, and a closed mailbox hands back what it
// holds.
func TestMailbox(t *testing.T) {
	b := newMailbox()
	caller := &call{reply: make(chan protocol.Reply, 1)}
	for range maxRequests {
		if !b.put(input{call: caller}) {
			t.Fatal("turned away below the limit")
		}
	}
	if b.put(input{call: caller}) {
		t.Error("taken beyond the limit")
	}
	if !b.put(input{call: caller, gone: true}) {
		t.Error("a caller may not go away")
	}
	if !b.put(input{event: protocol.Drain{}}) {
		t.Error("an answer is turned away")
	}
	if got := b.take(nil); len(got) != maxRequests+2 {
		t.Errorf("took %d", len(got))
	}
	if !b.put(input{call: caller}) {
		t.Error("turned away although there is room again")
	}
	if left := b.close(); len(left) != 1 || b.put(input{}) {
		t.Errorf("%d left, and it is still open", len(left))
	}
}

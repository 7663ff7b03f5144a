package coordinator

import (
	"sync"

	"github.com/gavel-tx/gavel/coordinator/protocol"
)

// input is one thing for the loop: an event, with a call if somebody waits for the reply; the word
// that the caller of an event has gone away; or something to do from inside the loop.
type input struct {
	event protocol.Event
	call  *call
	gone  bool
	do    func(*loop)
}

// call is a caller that waits.
type call struct {
	// reply has room for the one reply, so that the loop never waits for a caller.
	reply chan protocol.Reply
	// asked is the event with the core's number on it. Only the loop touches it.
	asked protocol.Event
}

// mailbox is the loop's inbox. Requests of callers are bounded by maxRequests. Nothing else may be
// turned away, and need not be: a caller goes away once, and answers of resources are bounded by
// the questions that were asked, so that the loop, which asks, never waits for itself.
type mailbox struct {
	mu struct {
		sync.Mutex
		inputs   []input
		requests int
		closed   bool
	}
	wake chan struct{}
}

// maxRequests bounds the requests that wait for the loop.
const maxRequests = 65_536

func newMailbox() *mailbox { return &mailbox{wake: make(chan struct{}, 1)} }

// put adds inputs. It is false if a request finds the mailbox full, or if the loop has ended.
func (b *mailbox) put(in ...input) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.closed {
		return false
	}
	for _, i := range in {
		if i.call != nil && !i.gone {
			if b.mu.requests >= maxRequests {
				return false
			}
			b.mu.requests++
		}
	}
	b.mu.inputs = append(b.mu.inputs, in...)
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return true
}

// take empties the mailbox into buf, which it returns.
func (b *mailbox) take(buf []input) []input {
	b.mu.Lock()
	defer b.mu.Unlock()
	buf, b.mu.inputs = b.mu.inputs, buf[:0]
	b.mu.requests = 0
	return buf
}

// close refuses everything from now on and returns what nobody has taken.
func (b *mailbox) close() []input {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.closed = true
	left := b.mu.inputs
	b.mu.inputs = nil
	return left
}

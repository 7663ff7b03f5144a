package demo

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/txn"
)

// The set-up of the books. Enough accounts that clients seldom wait for each other, few enough that
// they sometimes do.
const (
	accounts = 200
	opening  = 1000
)

// transfer is one attempt to move money: out of an account of one bank, into one of the other. Each
// attempt has a key of its own, so that what became of it can be read from the ledgers.
type transfer struct {
	key        string
	amount     int64
	toSecond   bool
	accountIDs [2]int
}

// change is what the transfer does to one of the banks, 0 or 1.
func (t transfer) change(bank int) int64 {
	if (bank == 1) == t.toSecond {
		return t.amount
	}
	return -t.amount
}

// answer is what a client heard about an attempt.
type answer uint8

const (
	unknown answer = iota
	committed
	rolledBack
)

func (a answer) String() string { return [...]string{"unknown", "committed", "rolled back"}[a] }

// decider is the coordinator as clients see it.
type decider interface {
	client.Decider
	client.Rollbacker
}

// banks are the two databases, behind the two kinds of them.
type banks interface {
	// describe is one line for each bank.
	describe() []string
	// urls are their URLs for a coordinator. They may hold secrets.
	urls() [2]string
	// move makes one attempt. The error is of a kind that no client should ever see.
	move(ctx context.Context, c decider, t transfer) (answer, txn.ID, error)
	// prepared are the names of gavel's branches that are prepared at each bank now. It is asked on
	// behalf of f, where a bank answers to nobody else.
	prepared(ctx context.Context, f txn.Fence) ([2]map[txn.Name]bool, error)
	// left counts what is prepared, whoever prepared it.
	left(ctx context.Context, f txn.Fence) (int, error)
	// books are the ledgers and the sum of all balances.
	books(ctx context.Context) (books, error)
	// has says at which banks the attempt is in the ledger.
	has(ctx context.Context, key string) ([2]bool, error)
	// stop ends the servers and removes their files.
	stop(ctx context.Context) error
}

// books are what is written, in both banks.
type books struct {
	sum     int64
	ledgers [2]map[string]int64
}

// total is what all balances add up to, before and after.
const total = 2 * accounts * opening

func accountName(id int) string { return fmt.Sprintf("account-%03d", id) }

// keySet is a set of ledger keys, for many goroutines.
type keySet struct {
	mu   sync.Mutex
	keys []string
}

func (s *keySet) add(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = append(s.keys, key)
}

func (s *keySet) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.keys)
}

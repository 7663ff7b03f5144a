package txn

import (
	"errors"
	"time"
)

// MaxListLimit bounds the transactions of one list answer.
const MaxListLimit = 1000

// DefaultListLimit is the length of a list answer whose caller named none.
const DefaultListLimit = 100

// ErrUnknown is wrapped by every error that leaves the outcome of a transaction open: the caller
// may hold a committed or a rolled back transaction and must ask again before it acts. No other
// error about a Commit leaves that open.
var ErrUnknown = errors.New("txn: outcome unknown")

// ListRequest selects transactions, in the order of their ids. The zero ListRequest selects the
// first DefaultListLimit of all.
type ListRequest struct {
	// States keeps only transactions in one of these states. Defaults to all.
	States []State
	// OlderThan keeps only transactions that began at least this long ago. Defaults to all ages.
	OlderThan time.Duration
	// After continues behind this transaction, the last of the answer before. Defaults to the
	// beginning.
	After ID
	// Limit bounds the answer. Defaults to DefaultListLimit; at most MaxListLimit.
	Limit int
}

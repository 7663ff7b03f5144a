// Package ticket holds what a call of another process says of the transaction that it takes along:
// two short texts, whatever the way of calling has for such.
//
//	the id         its 36 characters
//	the deadline   for how many milliseconds the transaction can still commit, from 1 on
package ticket

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/gavel-tx/gavel/txn"
)

// maxRemaining bounds what a caller may say that remains, so that it can be computed with. No
// coordinator allows a transaction so long a life.
const maxRemaining = 1000 * time.Hour

// Ticket is what a caller says of its transaction.
type Ticket struct {
	ID txn.ID
	// Remaining is zero if it does not say.
	Remaining time.Duration
}

// Deadline is the text of what remains, or empty if that is not known.
func Deadline(remaining time.Duration) string {
	if remaining <= 0 {
		return ""
	}
	return strconv.FormatInt(int64(max(remaining/time.Millisecond, 1)), 10)
}

// Parse reads the values of both entries, of which each must stand there once, or several times
// alike. Without an id it returns nil. An error says what is wrong, and that the call must not be
// served.
func Parse(ids, deadlines []string) (*Ticket, error) {
	id, err := single(ids)
	if err != nil {
		return nil, fmt.Errorf("the transaction's id: %w", err)
	}
	if len(ids) == 0 {
		return nil, nil
	}
	t := &Ticket{}
	if t.ID, err = txn.ParseID(id); err != nil {
		return nil, err
	}
	deadline, err := single(deadlines)
	if err == nil && len(deadlines) > 0 {
		t.Remaining, err = remaining(deadline)
	}
	if err != nil {
		return nil, fmt.Errorf("the transaction's deadline: %w", err)
	}
	return t, nil
}

func single(values []string) (string, error) {
	if len(values) == 0 {
		return "", nil
	}
	if slices.ContainsFunc(values, func(v string) bool { return v != values[0] }) {
		return "", fmt.Errorf("%d different ones came; what came with another call must not be "+
			"handed on", len(values))
	}
	return values[0], nil
}

var errTime = errors.New("not a number of milliseconds from 1 on")

func remaining(text string) (time.Duration, error) {
	ms, err := strconv.ParseUint(text, 10, 63)
	if err != nil || ms == 0 {
		return 0, fmt.Errorf("%.32q is %w", text, errTime)
	}
	return time.Duration(min(ms, uint64(maxRemaining/time.Millisecond))) * time.Millisecond, nil
}

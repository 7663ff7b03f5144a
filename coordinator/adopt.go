package coordinator

import (
	"fmt"
	"iter"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/coordinator/record"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// Init makes a new, empty log in dir and returns its identity. It refuses a directory that holds a
// log.
func Init(fs vfs.FS, dir string) (txn.LogID, error) {
	id, err := txn.NewLogID()
	if err != nil {
		return 0, err
	}
	return id, txlog.Init(fs, dir, id, txlog.InitOptions{})
}

// Adopted says what Adopt did.
type Adopted struct {
	Old, New txn.LogID
	// Aside is where the old log's files are now.
	Aside string
	// Decisions is how many unfinished commits came along.
	Decisions int
}

// Adopt turns the log in dir, usually a copy or a restored backup, into a log of its own. Its
// records are believed: the resources and every unfinished decision to commit come along, and will
// be finished. The absence of a record is not: what the old log does not hold may have been decided
// after the copy was made, so branches under the old id without a decision are left alone, for an
// operator. Outcomes and idempotency keys of the old log stay with it; they can be read in Aside.
//
// It may be interrupted anywhere and called again.
func Adopt(fs vfs.FS, dir string) (Adopted, error) {
	aside, err := txlog.MoveAside(fs, dir)
	if err != nil {
		return Adopted{}, err
	}
	state, info, err := ReadState(fs, aside)
	if err != nil {
		return Adopted{}, fmt.Errorf("read the old log in %s: %w", aside, err)
	}
	id, err := txn.NewLogID()
	if err != nil {
		return Adopted{}, err
	}
	born := txlog.InitOptions{Snapshot: inheritance(state, info.Tail)}
	if err := txlog.Init(fs, dir, id, born); err != nil {
		return Adopted{}, err
	}
	return Adopted{Old: info.ID, New: id, Aside: aside, Decisions: len(state.OpenDecisions())}, nil
}

// inheritance is the bytes of what a log takes over.
func inheritance(old *protocol.State, lsn uint64) iter.Seq[txlog.Record] {
	return func(yield func(txlog.Record) bool) {
		for r := range old.Inheritance(lsn) {
			if !yield(record.Encode(nil, r)) {
				return
			}
		}
	}
}

// Package fence is the rule by which a participant tells a coordinator that still owns its log
// from one that was deposed, and a log from its own backup.
//
// A call carries (epoch, LSN): the epoch rises by one, durably, at every open of the log; the LSN
// is how far the log was durable when the call was made. A participant remembers the highest of
// both per log.
//
//	epoch    call         verdict
//	lower    any          ErrFenced: somebody opened the log after the caller did
//	higher   LSN lower    ErrRegression: see below
//	higher   LSN higher   remember it durably, then act
//	equal    Hello, LSN lower   ErrRegression
//	equal    others       act
//
// # Why a lower LSN is a regression across epochs
//
// Whoever opens a log has first read all of it that was durable, and so its LSN is at least every
// LSN that an earlier epoch of the same log ever put into a call. If it is lower, then the newer
// epoch was opened on less than the older one had: on a backup, a snapshot of a volume, or a
// truncated file. Presumed abort over such a log would roll back committed work.
//
// # Why a lower LSN is nothing within an epoch
//
// A coordinator makes calls concurrently, and they overtake each other on the wire; an older LSN
// behind a newer one is ordinary. Comparing there would refuse honest calls.
//
// Except for Hello. A log restored from the backup of an epoch's eve is opened with that epoch
// again, and no rule about other epochs can see it. Hello is the first call of a coordinator
// process to a participant, made alone, and carries the highest LSN that the caller has used
// towards it. One process says it once per connection object, so an honest second Hello of an
// epoch is lower than a call seen before only if two such objects race in one process; it is then
// refused once, and the next attempt, whose LSN is newer than all that was seen, passes. A
// restored log stays refused until its LSN has overtaken the lost one's. From there on the
// participant cannot tell; the sequence numbers of the names it holds still can.
package fence

import (
	"fmt"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// Judge decides about a call with fence f where seen is the highest remembered of the same log,
// the zero Fence if there is none. It returns what to remember from now on; where its epoch is
// another than seen's, that must be durable before the call acts. An error wraps
// participant.ErrFenced or participant.ErrRegression, and nothing may be done.
func Judge(seen, f txn.Fence, hello bool) (txn.Fence, error) {
	switch {
	case f.Epoch < seen.Epoch && !mutant.On(mutant.FenceIgnored):
		return seen, fmt.Errorf("log %s, epoch %d after epoch %d: %w",
			f.Log, f.Epoch, seen.Epoch, participant.ErrFenced)
	case f.LSN < seen.LSN && (f.Epoch > seen.Epoch || hello):
		return seen, fmt.Errorf("log %s, epoch %d at position %d after epoch %d at position %d: %w",
			f.Log, f.Epoch, f.LSN, seen.Epoch, seen.LSN, participant.ErrRegression)
	}
	f.LSN = max(f.LSN, seen.LSN)
	return f, nil
}

package coordinator

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/coordinator/record"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/point"
)

// snapshots says when the next snapshot may be tried. One is written at a time. While busy is set,
// the other fields belong to whoever writes it; otherwise to the loop.
type snapshots struct {
	busy atomic.Bool
	// failures counts those since the last success; notBefore is when the next may be tried.
	failures  int
	notBefore protocol.Instant
}

// begin says whether a snapshot may be written now, and if so reserves the right to. Only the loop
// calls it.
func (s *snapshots) begin(now protocol.Instant) bool {
	if s.busy.Load() || now < s.notBefore {
		return false
	}
	s.busy.Store(true)
	return true
}

// end notes how the snapshot ended. One that failed is tried again later and later: a snapshot is
// expensive, and with a full disk each group commit would begin another.
func (s *snapshots) end(now protocol.Instant, err error) (wait time.Duration) {
	if err == nil {
		s.failures, s.notBefore = 0, 0
	} else {
		wait = snapshotBackoff(s.failures)
		s.failures++
		s.notBefore = now + protocol.Instant(wait)
	}
	s.busy.Store(false)
	return wait
}

const (
	minSnapshotBackoff = time.Second
	maxSnapshotBackoff = 5 * time.Minute
)

// snapshotBackoff doubles from 1 s to 5 min.
func snapshotBackoff(failures int) time.Duration {
	if failures > 8 {
		return maxSnapshotBackoff
	}
	return min(minSnapshotBackoff<<failures, maxSnapshotBackoff)
}

// maybeSnapshot writes a snapshot, off the loop, when the log has grown enough since the last. The
// machine's state is exactly what the log says up to lsn: both are from the same word of the log.
// The log itself may be durable beyond it already, and what stands there is not in the state yet; a
// snapshot that claimed to hold it would lose it.
func (l *loop) maybeSnapshot(lsn uint64) {
	c := l.c
	if c.log.BytesSinceSnapshot() < c.cfg.SnapshotEvery || !c.snapshots.begin(c.now()) {
		return
	}
	recs := snapshotRecords(l.m.State())
	c.join.Go(func() {
		point.Hit(point.DuringCheckpoint, txn.ID{})
		err := c.log.Snapshot(lsn, slices.Values(recs))
		if wait := c.snapshots.end(c.now(), err); err != nil {
			c.cfg.Logger.Error("snapshot of the log failed; the log keeps growing",
				"next try in", wait.String(), "err", err)
		}
	})
}

// snapshotRecords encodes a state, each record in memory of its own.
func snapshotRecords(s *protocol.State) []txlog.Record {
	var recs []txlog.Record
	for r := range s.Records() {
		recs = append(recs, record.Encode(nil, r))
	}
	return recs
}

package core

import (
	"iter"
	"log/slog"
	"slices"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/coordinator/record"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
	"github.com/gavel-tx/gavel/txn/point"
)

// appender hands the machine's records to the log, and ties the log's indexes to the machine's.
type appender struct {
	// ready is what the machine wants, and is not carried out yet.
	ready protocol.Ready
	// sent are the appends that are not known to be durable, oldest first.
	sent []sent
	buf  []byte
	recs []txlog.Record
}

type sent struct {
	log, machine uint64
	at           protocol.Instant
	// commit is a transaction that this append decides, if it decides any.
	commit txn.ID
}

func (a *appender) empty() bool {
	r := a.ready
	return len(r.Appends)+len(r.Messages)+len(r.Replies)+len(r.Notes) == 0
}

// maxAppend is a quarter of a frame, or what the log takes if that is less.
const maxAppend = 256 << 10

// flush hands the records to the log, in calls of about maxAppend bytes. What the log did not take
// stays.
func (a *appender) flush(log Log, now protocol.Instant) error {
	for len(a.ready.Appends) > 0 {
		n, forced, commit := a.encode(min(maxAppend, log.MaxAppend()))
		index, err := log.Append(a.recs, forced)
		if err != nil {
			return err
		}
		a.sent = append(a.sent, sent{index, a.ready.Appends[n-1].Index, now, commit})
		a.ready.Appends = a.ready.Appends[n:]
	}
	return nil
}

// encode fills recs with the next records, at least one and as many as fit within limit. Their
// slices stay valid while buf grows: each keeps the array that it was cut from.
func (a *appender) encode(limit int) (n int, forced bool, commit txn.ID) {
	a.buf, a.recs = a.buf[:0], a.recs[:0]
	for n < len(a.ready.Appends) {
		next := a.ready.Appends[n]
		at := len(a.buf)
		rec := record.Encode(a.buf, next.Record)
		if n > 0 && len(rec.Data)+(n+1)*recordHead > limit {
			break
		}
		a.buf = rec.Data
		rec.Data = rec.Data[at:]
		a.recs = append(a.recs, rec)
		switch r := next.Record.(type) {
		case protocol.CommitRecord:
			commit = r.ID
			point.Hit(point.BeforeForce, r.ID)
		case protocol.EndRecord:
			point.Hit(point.BeforeEnd, r.IDs[0])
		}
		forced = forced || next.Forced
		n++
	}
	return n, forced, commit
}

// recordHead is what the log adds to a record at most.
const recordHead = 5

// persisted is the machine's index up to which all is durable, or zero, and what was decided with
// it.
func (a *appender) persisted(index uint64) (machine uint64, commits []txn.ID) {
	n := 0
	for n < len(a.sent) && a.sent[n].log <= index {
		machine = a.sent[n].machine
		if id := a.sent[n].commit; point.Enabled && !id.IsZero() {
			commits = append(commits, id)
		}
		n++
	}
	a.sent = slices.Delete(a.sent, 0, n)
	return machine, commits
}

// Snapshot is a state of the log, to be written at LSN.
type Snapshot struct {
	LSN uint64
	// Records are what the log says up to LSN, exactly.
	Records iter.Seq[txlog.Record]
}

// snapshots says when the next snapshot may be written.
type snapshots struct {
	running   bool
	failures  int
	notBefore protocol.Instant
}

// A snapshot that failed is tried again after a while, because writing it takes time and disk: the
// log merely grows until then.
const (
	minSnapshotRetry = protocol.Instant(1e9)
	maxSnapshotRetry = 300 * minSnapshotRetry
)

// maybeSnapshot asks for a snapshot when the log has grown enough since the last. The state is
// exactly what the log says up to lsn.
func (c *Core) maybeSnapshot(lsn uint64) {
	s := &c.snapshot
	if s.running || c.now < s.notBefore || c.log.BytesSinceSnapshot() < c.cfg.SnapshotEvery {
		return
	}
	s.running = true
	if mutant.On(mutant.SnapshotOfTheTail) {
		lsn = c.log.LSN()
	}
	var recs []txlog.Record
	for r := range c.m.State().Records() {
		recs = append(recs, record.Encode(nil, r))
	}
	c.out.Snapshot = &Snapshot{LSN: lsn, Records: slices.Values(recs)}
}

// Snapshotted says how the writing of a snapshot went.
func (c *Core) Snapshotted(err error) {
	s := &c.snapshot
	s.running = false
	if err == nil {
		s.failures = 0
		return
	}
	retry := maxSnapshotRetry
	if s.failures < 9 {
		retry = min(minSnapshotRetry<<s.failures, maxSnapshotRetry)
	}
	s.failures++
	s.notBefore = c.now + retry
	c.line(slog.LevelError, "snapshot of the log failed; the log keeps growing",
		"next try in", txn.Nanoseconds(int64(retry)).String(), "err", err)
}

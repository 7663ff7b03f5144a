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
	// steps are behind this append.
	steps []step
}

// step is a named step of a transaction. Builds without failpoints keep none.
type step struct {
	step point.Step
	id   txn.ID
}

func (a *appender) empty() bool {
	r := a.ready
	return len(r.Appends)+len(r.Messages)+len(r.Replies)+len(r.Notes)+len(r.Removals) == 0 &&
		r.Confirm == 0
}

// maxAppend is a quarter of a frame, or what the log takes if that is less.
const maxAppend = 256 << 10

// flush hands the records to the log, in calls of about maxAppend bytes. What the log did not take
// stays.
func (a *appender) flush(log Log, now protocol.Instant) error {
	for len(a.ready.Appends) > 0 {
		n, forced, steps := a.encode(min(maxAppend, log.MaxAppend()))
		index, err := log.Append(a.recs, forced)
		if err != nil {
			return err
		}
		a.sent = append(a.sent, sent{index, a.ready.Appends[n-1].Index, now, steps})
		a.ready.Appends = a.ready.Appends[n:]
	}
	return nil
}

// encode fills recs with the next records, at least one and as many as fit within limit. Their
// slices stay valid while buf grows: each keeps the array that it was cut from.
func (a *appender) encode(limit int) (n int, forced bool, steps []step) {
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
		if point.Enabled {
			steps = append(steps, passed(next.Record)...)
		}
		forced = forced || next.Forced
		n++
	}
	return n, forced, steps
}

// passed is at the step before a record is written, and returns the one behind it.
func passed(r protocol.Record) []step {
	switch r := r.(type) {
	case protocol.CommitRecord:
		point.Hit(point.BeforeForce, r.ID)
		return []step{{point.AfterForceBeforeSend, r.ID}}
	case protocol.IntentRecord:
		point.Hit(point.BeforeIntent, r.ID)
		return []step{{point.AfterIntent, r.ID}}
	case protocol.DelegateRecord:
		point.Hit(point.BeforeIntent, r.ID)
		return []step{{point.AfterIntent, r.ID}}
	case protocol.EndRecord:
		point.Hit(point.BeforeEnd, r.IDs[0])
	}
	return nil
}

// recordHead is what the log adds to a record at most.
const recordHead = 5

// persisted is the machine's index up to which all is durable, or zero, and the steps up to there.
func (a *appender) persisted(index uint64) (machine uint64, steps []step) {
	n := 0
	for n < len(a.sent) && a.sent[n].log <= index {
		machine = a.sent[n].machine
		steps = append(steps, a.sent[n].steps...)
		n++
	}
	a.sent = slices.Delete(a.sent, 0, n)
	return machine, steps
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

package core

import (
	"errors"
	"testing"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txn"
)

// paper is a log that keeps what it is given, and makes nothing durable by itself.
type paper struct {
	records []txlog.Record
	appends uint64
	full    bool
	grown   int64
}

func (*paper) ID() txn.LogID               { return 7 }
func (*paper) Epoch() txn.Epoch            { return 3 }
func (p *paper) LSN() uint64               { return 4096 + p.appends }
func (*paper) Room() bool                  { return true }
func (p *paper) BytesSinceSnapshot() int64 { return p.grown }

func (p *paper) Append(recs []txlog.Record, _ bool) (uint64, error) {
	if p.full {
		return 0, txlog.ErrBacklog
	}
	for _, r := range recs {
		data := append([]byte(nil), r.Data...)
		p.records = append(p.records, txlog.Record{Type: r.Type, Data: data})
	}
	p.appends++
	return p.appends, nil
}

// TestSnapshotBackoff: one at a time; after failures later and later, after a success at once.
func TestSnapshotBackoff(t *testing.T) {
	d := newDriver(t, 1)
	d.log.grown = 1 << 30
	offered := func() bool {
		before := d.snapshots
		d.core.Opened(protocol.OpenRecord{})
		d.run()
		return d.snapshots > before
	}
	for i := range 20 {
		if !offered() || offered() {
			t.Fatalf("try %d: not exactly one may begin", i)
		}
		d.core.Snapshotted(txlog.ErrNoSpace)
		want := min(minSnapshotRetry<<i, maxSnapshotRetry)
		d.now += want - 1
		d.core.Tick(d.now)
		if offered() {
			t.Errorf("failure %d: tried too early", i)
		}
		d.now++
		d.core.Tick(d.now)
	}
	offered()
	d.core.Snapshotted(nil)
	if !offered() {
		t.Error("a success is held against the next")
	}
}

// TestBacklog: what the log has no memory for waits, with everything behind it, and is not lost.
func TestBacklog(t *testing.T) {
	d := newDriver(t, 1)
	id := d.begin("a")
	had := len(d.log.records)
	d.log.full = true
	commit := d.commit(id)
	ask := ReqOf(d.core.Request(protocol.Ask{ID: id}))
	for range 2 {
		w, err := d.core.Work()
		if !errors.Is(err, txlog.ErrBacklog) || len(w.Replies)+len(w.Calls) > 0 {
			t.Fatalf("%+v, %v", w, err)
		}
	}
	d.log.full = false
	d.run()
	if len(d.log.records) <= had {
		t.Error("the record is lost")
	}
	if d.result(ask).State != txn.StateDeciding || d.result(commit).State != txn.StateCommitting {
		t.Errorf("told %+v and then %+v", d.result(ask), d.result(commit))
	}
}

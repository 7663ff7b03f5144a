package core

import (
	"cmp"
	"errors"
	"slices"
	"testing"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/coordinator/record"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txn"
)

// paper is a log that keeps what it is given, and makes nothing durable by itself.
type paper struct {
	records []txlog.Record
	appends uint64
	full    bool
	grown   int64
	most    int
	largest int
}

func (*paper) ID() txn.LogID               { return 7 }
func (*paper) Epoch() txn.Epoch            { return 3 }
func (p *paper) LSN() uint64               { return 4096 + p.appends }
func (*paper) Room() bool                  { return true }
func (p *paper) BytesSinceSnapshot() int64 { return p.grown }
func (p *paper) MaxAppend() int            { return cmp.Or(p.most, 1<<20) }

func (p *paper) Append(recs []txlog.Record, _ bool) (uint64, error) {
	if p.full {
		return 0, txlog.ErrBacklog
	}
	size := 0
	for _, r := range recs {
		size += len(r.Data) + 5
		data := append([]byte(nil), r.Data...)
		p.records = append(p.records, txlog.Record{Type: r.Type, Data: data})
	}
	p.largest = max(p.largest, size)
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
	if d.result(ask).State != txn.StateDeciding || d.result(commit).State != txn.StateCommitted {
		t.Errorf("told %+v and then %+v", d.result(ask), d.result(commit))
	}
}

// TestAppendsFit: what is too much for one append is handed over in several, in the same order.
func TestAppendsFit(t *testing.T) {
	d := newDriver(t, 1)
	d.log.most, d.log.largest = 1000, 0
	had := len(d.log.records)
	var ids []txn.ID
	for range 50 {
		ids = append(ids, d.begin("a", "b"))
	}
	for _, id := range ids {
		d.commit(id)
	}
	d.run()
	if d.log.largest > 1000 || d.log.largest == 0 {
		t.Errorf("one append has %d bytes", d.log.largest)
	}
	var decided []txn.ID
	for _, r := range d.log.records[had:] {
		if p, err := record.Decode(r); err != nil {
			t.Fatal(err)
		} else if c, ok := p.(protocol.CommitRecord); ok {
			decided = append(decided, c.ID)
		}
	}
	if !slices.Equal(decided, ids) {
		t.Errorf("decided %d of %d, or in another order", len(decided), len(ids))
	}
}

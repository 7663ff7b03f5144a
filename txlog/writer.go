package txlog

import (
	"fmt"
	"time"

	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// writer writes frames at the tail. It belongs to one goroutine at a time: Open's, then the
// flusher's.
type writer struct {
	id    txn.LogID
	epoch txn.Epoch
	now   func() time.Time
	seg   *segment
	off   int64
	// prevSum and prevLen name the frame before the next one.
	prevSum, prevLen uint32
	// synced is the LSN below which everything is known to be durable.
	synced uint64
	clock  int64
	// vouch is set while the last frame written is durable and nothing behind it says so: if it
	// were lost now, nobody could see it.
	vouch bool
	// empty is the buffer of frames without records.
	empty *batch
}

// lsn is where the next frame goes.
func (w *writer) lsn() uint64 { return w.seg.base + uint64(w.off) }

// fits says whether a frame of n bytes may be written here, so that reserve bytes stay free behind
// it.
func (w *writer) fits(n, reserve int) bool {
	return w.off+int64(n)+int64(reserve) <= w.seg.size
}

// write writes b as the next frame, not synced. After an error the writer must not be used again.
func (w *writer) write(b *batch, kind Kind) error {
	h := frameHeader{
		id: w.id, lsn: w.lsn(), prevSum: w.prevSum, prevLen: w.prevLen,
		synced: w.synced, kind: kind, epoch: w.epoch, clock: w.time(),
	}
	raw, sum := b.seal(h)
	if err := writeFull(w.seg.file, raw, w.off); err != nil {
		return fmt.Errorf("txlog: write %s at %d: %w", w.seg.name, w.off, err)
	}
	w.off += int64(len(raw))
	w.prevSum, w.prevLen = sum, uint32(len(raw))
	return nil
}

// writeEmpty writes a frame without records, not synced.
func (w *writer) writeEmpty(kind Kind) error {
	w.empty.reset()
	return w.write(w.empty, kind)
}

// sync makes everything written so far durable. It is the one sync of a group commit.
func (w *writer) sync() error {
	err := w.seg.file.Datasync()
	if err != nil && mutant.On(mutant.FsyncRetry) {
		err = w.seg.file.Datasync()
	}
	if err != nil {
		return fmt.Errorf("txlog: sync %s: %w", w.seg.name, err)
	}
	w.synced = w.lsn()
	w.vouch = true
	return nil
}

// enter goes on at the start of seg. The old segment ends with a durable seal.
func (w *writer) enter(seg *segment) {
	w.seg, w.off = seg, headerSize
	w.prevSum, w.prevLen = seg.sum, headerSize
	w.synced = w.lsn()
}

// time is the wall clock, except that it never goes back within the log.
func (w *writer) time() int64 {
	w.clock = max(w.clock, w.now().UnixNano())
	return w.clock
}

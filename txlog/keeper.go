package txlog

import (
	"errors"
	"time"
)

// spaceRetry is how often the keeper looks for disk space again.
const spaceRetry = time.Second

// reserveShare and reserveScale set the size of the reserve for a snapshot: a share of a segment,
// or a multiple of the last snapshot if that is more.
const (
	reserveShare = 16
	reserveScale = 2
)

// keep is the keeper: the goroutine that keeps one full segment, and the space for one snapshot, in
// stock, off the path of those who wait. A full disk is no failure: room turns false, which keeps
// new work out, and the stock is there for the work that runs. Any other error is one.
func (l *Log) keep() {
	defer close(l.keeperDone)
	for {
		err := l.tend()
		if !l.awaitWork(err != nil) {
			return
		}
	}
}

// tend is one look at the stock. It has dealt with the error that it returns.
func (l *Log) tend() error {
	err := l.stock(l.restock())
	switch {
	case err == nil:
		l.foundRoom()
	case !errors.Is(err, ErrNoSpace) && !errors.Is(err, errStopped):
		l.fail(err)
	}
	return err
}

// stock passes on the error of making something for the stock. With a full disk there is no room,
// and whoever waits for a segment is told that none will come soon.
func (l *Log) stock(err error) error {
	if errors.Is(err, ErrNoSpace) {
		l.room.Store(false)
		signal(l.ready)
	}
	return err
}

// foundRoom lets new work in, unless the log has failed.
func (l *Log) foundRoom() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.room.Store(l.mu.failure == nil)
}

// awaitWork waits until there may be something to restock, with retry at least until spaceRetry has
// passed; false means that the log is being closed.
func (l *Log) awaitWork(retry bool) bool {
	var after <-chan time.Time
	if retry {
		timer := time.NewTimer(spaceRetry)
		defer timer.Stop()
		after = timer.C
	}
	select {
	case <-l.halt:
		return false
	case <-l.work:
	case <-after:
	}
	return true
}

// restock makes what is missing: the next segment first, without which the log would come to a
// halt.
func (l *Log) restock() error {
	if err := l.makeNext(); err != nil {
		return err
	}
	return l.makeReserve()
}

// makeNext makes the segment behind the last one, if it is not there. Only the keeper calls it, and
// Open before there is a keeper, or the one owner of a driven log: nobody else adds segments
// between the look and the act.
func (l *Log) makeNext() error {
	l.mu.Lock()
	last := l.mu.segs[len(l.mu.segs)-1]
	needed := l.mu.next == nil
	l.mu.Unlock()
	if !needed || l.stopped() {
		return nil
	}
	seg, err := l.maker.segment(nextHeader(last, l.opts.SegmentSize, l.opts.Now()))
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.mu.next = seg
	l.mu.segs = append(l.mu.segs, seg.segmentHeader)
	l.mu.Unlock()
	signal(l.ready)
	return nil
}

// makeReserve leaves the reserve alone while a snapshot is being written over it; the snapshot
// signals its end.
func (l *Log) makeReserve() error {
	if !l.snapshots.TryLock() {
		return nil
	}
	defer l.snapshots.Unlock()
	l.mu.Lock()
	size, needed := l.reserveSizeLocked(), !l.mu.reserved
	l.mu.Unlock()
	if !needed || l.stopped() {
		return nil
	}
	if err := l.maker.reserve(size); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.reserved = true
	return nil
}

// reserveSizeLocked is the size of a reserve that counts as one. The callers hold mu, or are Open.
func (l *Log) reserveSizeLocked() int64 {
	return max(l.opts.SegmentSize/reserveShare, reserveScale*l.mu.snapSize)
}

// stopped says that nothing more must be written by the keeper: the log has failed, or is closed
// and the flusher, which may still need a segment, has ended.
func (l *Log) stopped() bool {
	select {
	case <-l.halt:
		return true
	default:
		return l.failure() != nil
	}
}

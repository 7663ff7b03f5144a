package txlog

import (
	"errors"
	"time"
)

// lazyDelay is how long a record that nobody waits for is held back, and how long after the last
// group commit an empty frame follows it.
const lazyDelay = 5 * time.Millisecond

// lazyLimit is how many bytes of such records start a group commit at once.
const lazyLimit = 64 << 10

// flush is the flusher: the one goroutine that writes frames. A forced record starts a group commit
// at once; while its sync runs, the records of the next group gather. So the disk itself sets the
// size of the groups, and no timer ever delays anyone who waits.
//
// The timer serves the others: it takes lazy records along, and when nothing is written for its
// time, it lets an empty frame follow the last group. That frame says that the group was durable;
// from then on even the loss of the group's frame would be seen as damage. It is not synced: if a
// crash loses it, nothing is lost with it.
func (l *Log) flush() {
	defer close(l.flusherDone)
	timer := time.NewTimer(lazyDelay)
	defer timer.Stop()
	armed := true
	for {
		due := false
		select {
		case <-l.closing:
			l.finish()
			return
		case <-timer.C:
			armed, due = false, true
		case <-l.wake:
		}
		wrote, err := l.drain(due)
		if err != nil {
			l.end(err)
			<-l.closing
			return
		}
		if wrote || !armed && l.idleWork() {
			timer.Reset(lazyDelay)
			armed = true
		}
	}
}

// idleWork says whether the timer has something to do: lazy records, or a group that nothing
// vouches for.
func (l *Log) idleWork() bool {
	w := l.waits()
	return w.Group || w.Lazy || w.Vouch
}

// drain takes one step after the other until none is left that somebody waits for. It says whether
// it committed anything.
func (l *Log) drain(due bool) (wrote bool, err error) {
	for more := true; more && err == nil; due = false {
		more, err = l.step(due)
		wrote = wrote || more
	}
	return wrote, err
}

// step commits one group, if there is one that somebody waits for or, if due, any at all. With due
// and nothing to commit it lets the empty frame follow. It says whether it committed a group.
func (l *Log) step(due bool) (wrote bool, err error) {
	if b := l.take(due); b != nil {
		err := l.commit(b)
		return err == nil, err
	}
	if !due || !l.w.vouch || l.failure() != nil {
		return false, nil
	}
	return false, l.vouch()
}

// take removes the next frame to write from the queue.
func (l *Log) take(due bool) *batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.mu.queue
	if l.mu.failure != nil || len(q) == 0 || !due && !l.groupLocked() {
		return nil
	}
	// Frames are written in the order in which they were filled, forced or not: an index is durable
	// only when all lower ones are.
	b := q[0]
	l.mu.queue = q[:copy(q, q[1:])]
	return b
}

// groupLocked says whether the oldest frame is to be written at once: somebody waits for it, or it
// is full, or there is a lot in it. The callers hold mu.
func (l *Log) groupLocked() bool {
	q := l.mu.queue
	return len(q) > 1 || len(q) == 1 && (q[0].forced || q[0].payload >= lazyLimit)
}

// commit makes one frame durable and reports it: one write, one sync.
func (l *Log) commit(b *batch) error {
	size := frameLen(b.payload)
	if err := l.makeRoom(size, tailReserve); err != nil {
		l.putBack(b)
		return err
	}
	// An append without records is a barrier: it costs a group commit and replays as nothing.
	kind := KindData
	if b.count == 0 {
		kind = KindEmpty
	}
	if err := l.w.write(b, kind); err != nil {
		return err
	}
	took, err := l.sync()
	if err != nil {
		return err
	}
	s := Sync{Duration: took, Bytes: size, Records: b.count, Appends: b.appends}
	// The report comes before the buffer is given back, so that Append, which is refused while all
	// buffers are in use, never runs further ahead of what is durable than MaxPending says.
	l.report(s, Persisted{Index: b.index, LSN: l.w.lsn()})
	l.recycle(b)
	return nil
}

// sync is the writer's sync with its duration. The clock is the injected one: tests and the
// simulator measure in their own time.
func (l *Log) sync() (time.Duration, error) {
	start := l.opts.Now()
	err := l.w.sync()
	return l.opts.Now().Sub(start), err
}

// report tells the caller, unless the log has failed meanwhile for another reason: then the frame
// is durable, but nobody is to act any more.
func (l *Log) report(s Sync, p Persisted) {
	l.reports.Lock()
	defer l.reports.Unlock()
	if l.failure() != nil {
		return
	}
	l.groups.Add(1)
	l.records.Add(uint64(s.Records))
	l.appended.Add(uint64(s.Appends))
	l.durable.Store(p.LSN)
	l.persisted.Store(p.Index)
	l.opts.OnSync(s)
	l.opts.OnPersisted(p)
}

// recycle gives a written frame's buffer back.
func (l *Log) recycle(b *batch) {
	b.reset()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.free = append(l.mu.free, b)
	l.mu.tail = l.w.lsn()
}

// putBack returns a frame that was not written, so that Close can say that it is lost.
func (l *Log) putBack(b *batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.queue = append([]*batch{b}, l.mu.queue...)
}

// vouch writes the empty frame behind a durable one.
func (l *Log) vouch() error {
	if err := l.makeRoom(sectorSize, tailReserve); err != nil {
		return err
	}
	// The writer's synced LSN stays: until a later sync covers this frame, no frame may claim that
	// it is there.
	l.w.vouch = false
	err := l.w.writeEmpty(KindEmpty)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.tail = l.w.lsn()
	return err
}

// makeRoom goes on to the next segment if a frame of n bytes does not fit into this one.
func (l *Log) makeRoom(n, reserve int) error {
	for !l.w.fits(n, reserve) {
		next, err := l.awaitNext()
		if err != nil {
			return err
		}
		if err := l.roll(next); err != nil {
			return err
		}
	}
	return nil
}

// roll seals the segment. The next one's header and name have been durable for long; the seal is
// durable before anything is written there, so that at any time only one segment can be torn.
func (l *Log) roll(next *segment) error {
	if err := l.w.writeEmpty(KindSeal); err != nil {
		return err
	}
	if err := l.w.sync(); err != nil {
		return err
	}
	old := l.w.seg
	l.w.enter(next)
	signal(l.work)
	return old.file.Close()
}

// awaitNext takes the next segment. It waits as long as there is none, for disk space if need be;
// only a failure ends that, or Close on a full disk. A driven log has nobody to wait for: it makes
// the segment itself, and on a full disk leaves the frame in the queue for a later step.
func (l *Log) awaitNext() (*segment, error) {
	if l.opts.Driven {
		if err := l.stock(l.makeNext()); err != nil {
			return nil, err
		}
		return l.takeNext()
	}
	for {
		next, err := l.takeNext()
		if next != nil || err != nil {
			return next, err
		}
		select {
		case <-l.ready:
		case <-l.closing:
			// The keeper either is making a segment now, and will tell, or has found the disk full:
			// then there is no use in waiting for somebody to clean up before the process may end.
			if !l.room.Load() {
				return nil, errStopped
			}
			<-l.ready
		}
	}
}

// takeNext takes the next segment out of stock, if there is one. It stays in the list of segments:
// from here on it is a part of the log.
func (l *Log) takeNext() (*segment, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.failure != nil {
		return nil, l.mu.failure
	}
	next := l.mu.next
	l.mu.next = nil
	return next, nil
}

// finish writes what waits, when there will be no more, and ends the log in order.
func (l *Log) finish() { l.end(l.drainAll()) }

// drainAll commits all that waits.
func (l *Log) drainAll() error {
	for l.waiting() {
		if _, err := l.drain(true); err != nil {
			return err
		}
	}
	return nil
}

// waiting says whether frames wait in a log that can still write them.
func (l *Log) waiting() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.mu.queue) > 0 && l.mu.failure == nil
}

// end ends the writing of frames, for the reason err. Unless the log has failed, the last thing
// written is a synced frame that says that it was closed; it finds room even on a full disk, where
// some of what waits may not (errStopped, or ErrNoSpace in a driven log).
func (l *Log) end(err error) {
	if err == nil || errors.Is(err, errStopped) || errors.Is(err, ErrNoSpace) {
		err = l.writeClose()
	}
	if err != nil {
		l.fail(err)
	}
}

// writeClose writes the last frame. It is synced because nothing will follow that could vouch for
// the frames before it: with it, an orderly closed log shows every loss but that of this very
// frame.
func (l *Log) writeClose() error {
	if l.failure() != nil || !l.w.fits(sectorSize, sectorSize) {
		return nil
	}
	if err := l.w.writeEmpty(KindClose); err != nil {
		return err
	}
	_, err := l.sync()
	return err
}

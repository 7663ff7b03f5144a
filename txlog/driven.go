package txlog

import "errors"

// Work is what a driven log waits to have done. The zero Work is a log at rest, one that has failed
// or was closed, or one that does its work itself.
type Work struct {
	// Group says that Step(false) would commit a group: somebody waits for it, or it is full.
	Group bool
	// Lazy says that there are records that nobody waits for, and Vouch that the last group is
	// followed by nothing that says that it was durable: Step(true) takes care of either, the
	// records first.
	Lazy, Vouch bool
	// Stock says that the next segment or the reserve for a snapshot is missing, or that there is
	// no room yet: Tend looks after that.
	Stock bool
}

// errNotDriven refuses to do what the log's own goroutines do.
var errNotDriven = errors.New("txlog: the log was not opened to be driven")

// Work says what waits in a log with [Options].Driven. It follows the rules of [Log.Step].
func (l *Log) Work() Work {
	if !l.opts.Driven {
		return Work{}
	}
	return l.waits()
}

// waits belongs to whoever owns the writer.
func (l *Log) waits() Work {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.failure != nil || l.mu.closed {
		return Work{}
	}
	group := l.groupLocked()
	return Work{
		Group: group,
		Lazy:  len(l.mu.queue) > 0 && !group,
		Vouch: l.w.vouch,
		Stock: l.mu.next == nil || !l.mu.reserved || !l.room.Load(),
	}
}

// Step does, in a log with [Options].Driven, what the flusher does at one turn, and reports to
// OnSync and OnPersisted as ever. It commits at most one group: the oldest that somebody waits for
// or that is full or, if due, any. With due and nothing to commit it lets the empty frame follow
// the last group. wrote says that a group was committed, so that there may be another. A log's own
// flusher calls it due when it has been idle for 5 ms, and again and again otherwise.
//
// An error that wraps [ErrNoSpace] says that the group stays in the queue, because the disk has no
// room for another segment: it is tried again by the next Step. Others are [ErrFailed] and
// [ErrClosed].
//
// Step, Tend, Work, Snapshot and Close of a driven log are to be called by one goroutine, and not
// from within OnPersisted, OnSync or OnFailed. To stop at a crash is to call nothing any more.
func (l *Log) Step(due bool) (wrote bool, err error) {
	if err := l.drivable(); err != nil {
		return false, err
	}
	wrote, err = l.step(due)
	if err == nil || errors.Is(err, ErrNoSpace) {
		return wrote, err
	}
	l.fail(err)
	return false, l.failure()
}

// Tend does, in a log with [Options].Driven, what the keeper does at one turn: it makes the next
// segment and the reserve for a snapshot if they are missing. An error that wraps [ErrNoSpace] says
// that the disk is full, and [Log.Room] is false until a later Tend succeeds; a log's own keeper
// tries every second. Others are [ErrFailed] and [ErrClosed]. It follows the rules of [Log.Step].
func (l *Log) Tend() error {
	if err := l.drivable(); err != nil {
		return err
	}
	err := l.tend()
	if err == nil || errors.Is(err, ErrNoSpace) {
		return err
	}
	return l.failure()
}

// drivable says why the log cannot be driven.
func (l *Log) drivable() error {
	if !l.opts.Driven {
		return errNotDriven
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.usableLocked()
}

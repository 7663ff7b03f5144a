package coordinator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gavel-tx/gavel/coordinator/core"
	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/point"
)

// loop owns the core. Everything else talks to it through the mailbox.
type loop struct {
	c       *Coordinator
	core    *core.Core
	waiting map[protocol.ReqID]*call
}

// run is the loop. It ends when ctx does.
func (l *loop) run(ctx context.Context) {
	defer l.end()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var inputs []input
	for {
		l.core.Tick(l.c.now())
		l.work(ctx)
		timer.Reset(l.untilTimer())
		select {
		case <-ctx.Done():
			return
		case <-l.c.failed.ch:
			return
		case <-l.c.mail.wake:
			inputs = l.c.mail.take(inputs)
			// The process may have been stopped for long: what has expired meanwhile must not be
			// decided on the time of the last tick.
			l.core.Tick(l.c.now())
			l.take(inputs)
		case <-l.c.persisted.wake:
			l.core.Persisted(l.c.persisted.get())
		case <-timer.C:
		}
	}
}

// idleTick is how often the loop looks at the clock and at the disk's room when nothing happens.
const idleTick = 100 * time.Millisecond

func (l *loop) untilTimer() time.Duration {
	next := l.core.Next()
	if next == 0 {
		return idleTick
	}
	return max(0, min(idleTick, time.Duration(next-l.c.now())))
}

func (l *loop) take(inputs []input) {
	for i := range inputs {
		in := inputs[i]
		inputs[i] = input{}
		switch {
		case in.do != nil:
			in.do(l)
		case in.gone:
			l.forget(in.call)
		default:
			in.call.asked = l.core.Request(in.event)
			l.waiting[core.ReqOf(in.call.asked)] = in.call
		}
	}
}

// forget drops a caller that has gone away, here and in the machine. One that was answered
// meanwhile has left nothing behind.
func (l *loop) forget(c *call) {
	req := core.ReqOf(c.asked)
	if l.waiting[req] != nil {
		delete(l.waiting, req)
		l.core.Cancel(c.asked)
	}
}

// work carries out what the core wants. It waits for the disk only when the log's own memory is
// full, and then everything waits with it.
func (l *loop) work(ctx context.Context) {
	for {
		w, err := l.core.Work()
		l.carry(w)
		switch {
		case err == nil:
			return
		case !errors.Is(err, txlog.ErrBacklog):
			l.c.fail(fmt.Errorf("append to the log: %w", err))
			return
		case !l.waitForDisk(ctx):
			return
		}
		l.core.Persisted(l.c.persisted.get())
	}
}

func (l *loop) carry(w core.Work) {
	for _, line := range w.Lines {
		l.c.cfg.Logger.Log(context.Background(), line.Level, line.Message, line.Attrs...)
	}
	for _, call := range w.Calls {
		l.c.workers[call.Resource].calls <- call
	}
	for _, rep := range w.Replies {
		hitReply(rep)
		if c := l.waiting[rep.Req]; c != nil {
			delete(l.waiting, rep.Req)
			c.reply <- rep
		}
	}
	for _, n := range w.Notes {
		l.c.journal(n)
	}
	if w.Snapshot != nil {
		l.c.join.Go(func() { l.c.snapshot(w.Snapshot) })
	}
	if w.Failed != nil {
		l.c.fail(w.Failed)
	}
}

// waitForDisk waits until the log has made something durable. It is false if the log failed, or if
// nobody wants to wait any more.
func (l *loop) waitForDisk(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-l.c.persisted.wake:
		return true
	case <-l.c.failed.ch:
		return false
	}
}

// workers make the calls of one resource and hand the answers to the loop.
type workers struct {
	c *Coordinator
	r participant.Resource
	// calls has room for all that the core lets run at once, so that the loop never waits here.
	calls chan *core.Call
}

// newWorkers makes room for the calls that may run: the configured number, each of which is split
// by the adopted logs, a listing or registration, and a removal of markers.
func newWorkers(c *Coordinator, r Resource, adopted int) *workers {
	return &workers{c: c, r: r.Manager, calls: make(chan *core.Call, c.cfg.Workers*(1+adopted)+2)}
}

// run is one worker, until ctx ends.
func (w *workers) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case call := <-w.calls:
			a := w.ask(ctx, call)
			w.c.mail.put(input{do: func(l *loop) { l.core.Answered(call, a) }})
		}
	}
}

// ask makes one call. Its slice belongs to the answer.
func (w *workers) ask(ctx context.Context, call *core.Call) (a core.Answer) {
	ctx, cancel := context.WithTimeout(ctx, w.c.cfg.CallTimeout)
	defer cancel()
	switch call.What {
	case core.Prepare:
		a.Votes, a.Err = w.r.Prepare(ctx, call.Fence, call.Branches)
	case core.Commit:
		point.Hit(point.BeforeSend, call.Branches[0].Name.ID())
		a.Findings, a.Err = w.r.Commit(ctx, call.Fence, call.Branches)
		if a.Err == nil {
			point.Hit(point.AfterSend, call.Branches[0].Name.ID())
		}
	case core.Rollback:
		a.Findings, a.Err = w.r.Rollback(ctx, call.Fence, call.Branches)
	case core.OnePhase:
		a.Findings, a.Err = w.r.(participant.OnePhaser).
			CommitOnePhase(ctx, call.Fence, call.Branches)
	case core.Inquire:
		a.Findings, a.Err = w.r.Inquire(ctx, call.Fence, call.Branches)
	case core.Decide:
		a.Findings, a.Err = w.decide(ctx, call)
	case core.RemoveMarkers:
		// Only what was described as a Delegate is told to.
		a.Err = w.r.(participant.Delegate).RemoveMarkers(ctx, call.Fence, call.IDs)
	case core.List:
		a.Listing, a.Err = w.r.List(ctx, call.Fence)
	case core.Describe:
		a.Description, a.Err = w.describe(ctx)
	}
	return a
}

// decide asks for markers. The log may hold questions from a time at which the resource kept some.
// That it does not is its answer, and no reason to take it for one that is away.
func (w *workers) decide(
	ctx context.Context, call *core.Call,
) ([]participant.Finding, error) {
	err := participant.ErrNoMarkers
	if d, ok := w.r.(participant.Delegate); ok {
		var found []participant.Finding
		found, err = d.Decide(ctx, call.Fence, call.Branches)
		if !errors.Is(err, participant.ErrNoMarkers) {
			return found, err
		}
	}
	found := make([]participant.Finding, len(call.Branches))
	for i := range found {
		found[i] = participant.Finding{Standing: txn.StandingHeld,
			Reason: err.Error()}
	}
	return found, nil
}

// describe asks who the resource is. It counts as able to do only what it can be asked to.
func (w *workers) describe(ctx context.Context) (participant.Description, error) {
	d, ok := w.r.(participant.Describer)
	if !ok {
		return participant.Description{}, core.ErrNoDescriber
	}
	desc, err := d.Describe(ctx)
	_, can := w.r.(participant.OnePhaser)
	desc.OnePhase = desc.OnePhase && can
	_, can = w.r.(participant.Delegate)
	desc.Delegate = desc.Delegate && can
	return desc, err
}

// snapshot writes a snapshot, beside the loop.
func (c *Coordinator) snapshot(s *core.Snapshot) {
	point.Hit(point.DuringCheckpoint, txn.ID{})
	err := c.log.Snapshot(s.LSN, s.Records)
	c.mail.put(input{do: func(l *loop) { l.core.Snapshotted(err) }})
}

// end answers everybody who still waits: what was asked has an unknown result.
func (l *loop) end() {
	// Nobody may go on calling on behalf of a coordinator that has stopped.
	l.c.stop()
	for _, in := range l.c.mail.close() {
		if in.call != nil && !in.gone {
			in.call.reply <- protocol.Reply{Err: l.c.stopped()}
		}
	}
	for _, c := range l.waiting {
		c.reply <- protocol.Reply{Err: l.c.stopped()}
	}
	close(l.c.loopDone)
}

// hitReply marks the steps of a transaction that a crash test looks for.
func hitReply(r protocol.Reply) {
	switch {
	case r.Begun != nil:
		point.Hit(point.AfterBegin, r.Begun.ID)
	case r.Result != nil:
		point.Hit(point.BeforeAckClient, r.Result.ID)
	}
}

package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/coordinator/record"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/point"
)

// input is one thing for the loop: an event, with a call if somebody waits for the reply; the word
// that the caller of an event has gone away; or a look from inside the loop.
type input struct {
	event protocol.Event
	call  *call
	gone  bool
	look  func(*loop)
}

// call is a caller that waits.
type call struct {
	// reply has room for the one reply, so that the loop never waits for a caller.
	reply chan protocol.Reply
	// req is the loop's number for it. Only the loop touches it.
	req protocol.ReqID
}

// mailbox is the loop's inbox. Requests of callers are bounded by maxRequests. Nothing else may be
// turned away, and need not be: a caller goes away once, and answers of resources are bounded by
// the questions that were asked, so that the loop, which asks, never waits for itself.
type mailbox struct {
	mu struct {
		sync.Mutex
		inputs   []input
		requests int
		closed   bool
	}
	wake chan struct{}
}

// maxRequests bounds the requests that wait for the loop.
const maxRequests = 65_536

func newMailbox() *mailbox { return &mailbox{wake: make(chan struct{}, 1)} }

// put adds inputs. It is false if a request finds the mailbox full, or if the loop has ended.
func (b *mailbox) put(in ...input) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.closed {
		return false
	}
	for _, i := range in {
		if i.call != nil && !i.gone {
			if b.mu.requests >= maxRequests {
				return false
			}
			b.mu.requests++
		}
	}
	b.mu.inputs = append(b.mu.inputs, in...)
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return true
}

// take empties the mailbox into buf, which it returns.
func (b *mailbox) take(buf []input) []input {
	b.mu.Lock()
	defer b.mu.Unlock()
	buf, b.mu.inputs = b.mu.inputs, buf[:0]
	b.mu.requests = 0
	return buf
}

// close refuses everything from now on and returns what nobody has taken.
func (b *mailbox) close() []input {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.closed = true
	left := b.mu.inputs
	b.mu.inputs = nil
	return left
}

// loop owns the machine. Everything else talks to it through the mailbox.
type loop struct {
	c       *Coordinator
	m       *protocol.Machine
	waiting map[protocol.ReqID]*call
	lastReq protocol.ReqID
	// appended ties the log's indexes to the machine's, oldest first.
	appended []appended
	room     bool
	buf      []byte
	recs     []txlog.Record
}

type appended struct {
	log, machine uint64
	// commit is a transaction that this append decides, if it decides any.
	commit txn.ID
}

// run is the loop. It ends when ctx does.
func (l *loop) run(ctx context.Context) {
	defer l.end()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var inputs []input
	for {
		l.tick()
		l.flush()
		timer.Reset(l.untilTimer())
		select {
		case <-ctx.Done():
			return
		case <-l.c.failed.ch:
			return
		case <-l.c.mail.wake:
			inputs = l.c.mail.take(inputs)
			l.take(inputs)
		case <-l.c.persisted.wake:
			l.persisted()
		case <-timer.C:
		}
	}
}

// idleTick is how often the loop looks at the clock and at the disk's room when nothing happens.
const idleTick = 100 * time.Millisecond

func (l *loop) untilTimer() time.Duration {
	next := l.m.NextTimer()
	if next == 0 {
		return idleTick
	}
	return max(0, min(idleTick, time.Duration(next-l.c.now())))
}

func (l *loop) tick() {
	l.m.Step(protocol.Tick{Now: l.c.now()})
	if room := l.c.log.Room(); room != l.room {
		l.room = room
		l.m.Step(protocol.Room{Available: room})
		l.c.cfg.Logger.Warn("the room of the log's disk changed", "room for new transactions", room)
	}
}

func (l *loop) take(inputs []input) {
	for i := range inputs {
		in := inputs[i]
		inputs[i] = input{}
		switch {
		case in.look != nil:
			in.look(l)
			continue
		case in.gone:
			l.forget(in)
			continue
		case in.call != nil:
			l.lastReq++
			in.call.req = l.lastReq
			l.waiting[l.lastReq] = in.call
			in.event = withReq(in.event, l.lastReq)
		}
		l.m.Step(in.event)
		if f, ok := in.event.(protocol.Finished); ok {
			point.Hit(point.AfterAck, f.ID)
		}
	}
}

// forget drops a caller that has gone away, here and in the machine. One that was answered
// meanwhile has left nothing behind.
func (l *loop) forget(in input) {
	req := in.call.req
	if l.waiting[req] != nil {
		delete(l.waiting, req)
		l.m.Step(protocol.Cancel{Of: withReq(in.event, req)})
	}
}

// withReq puts the loop's own number on a request.
func withReq(e protocol.Event, req protocol.ReqID) protocol.Event {
	switch e := e.(type) {
	case protocol.Begin:
		e.Req = req
		return e
	case protocol.Commit:
		e.Req = req
		return e
	case protocol.Rollback:
		e.Req = req
		return e
	case protocol.Ask:
		e.Req = req
		return e
	case protocol.Register:
		e.Req = req
		return e
	}
	panic(fmt.Sprintf("coordinator: nobody replies to %T", e))
}

// flush carries out what the machine wants. Appends go first; nothing that depends on them is among
// the messages and replies, because that comes only out of Persisted.
func (l *loop) flush() {
	for {
		r := l.m.Ready()
		if len(r.Appends)+len(r.Messages)+len(r.Replies)+len(r.Notes) == 0 {
			return
		}
		if !l.append(r.Appends) {
			return
		}
		for _, m := range r.Messages {
			l.c.send(l.m.Name(m.RM), m)
		}
		for _, rep := range r.Replies {
			hitReply(rep)
			if call := l.waiting[rep.Req]; call != nil {
				delete(l.waiting, rep.Req)
				call.reply <- rep
			}
		}
		for _, n := range r.Notes {
			l.c.journal(n, l.m)
		}
	}
}

// append hands records to the log, in calls of at most maxAppend bytes. It waits for the disk only
// when the log's own memory is full, and then everything waits with it.
func (l *loop) append(appends []protocol.Append) bool {
	for len(appends) > 0 {
		l.buf, l.recs = l.buf[:0], l.recs[:0]
		forced, n := false, 0
		var commit txn.ID
		for n < len(appends) && len(l.buf) < maxAppend {
			at := len(l.buf)
			rec := record.Encode(l.buf, appends[n].Record)
			l.buf = rec.Data
			rec.Data = rec.Data[at:]
			l.recs = append(l.recs, rec)
			if c, ok := appends[n].Record.(protocol.CommitRecord); ok {
				commit = c.ID
			}
			hitAppend(appends[n].Record)
			forced = forced || appends[n].Forced
			n++
		}
		index, err := l.c.log.Append(l.recs, forced)
		for errors.Is(err, txlog.ErrBacklog) && l.waitForDisk() {
			index, err = l.c.log.Append(l.recs, forced)
			// The word that ended the wait is still news to the loop.
			defer l.c.persisted.signal()
		}
		if err != nil {
			l.c.fail(fmt.Errorf("append to the log: %w", err))
			return false
		}
		l.appended = append(l.appended, appended{index, appends[n-1].Index, commit})
		appends = appends[n:]
	}
	return true
}

// maxAppend is a quarter of a frame. The slices of recs stay valid while buf grows: each keeps the
// array that it was cut from.
const maxAppend = 256 << 10

// waitForDisk waits until the log has made something durable. It is false if the log failed.
func (l *loop) waitForDisk() bool {
	select {
	case <-l.c.persisted.wake:
		return true
	case <-l.c.failed.ch:
		return false
	}
}

// persisted releases what the log has made durable.
func (l *loop) persisted() {
	p := l.c.persisted.get()
	n := 0
	for n < len(l.appended) && l.appended[n].log <= p.Index {
		n++
	}
	if n == 0 {
		return
	}
	for _, a := range l.appended[:n] {
		if !a.commit.IsZero() {
			point.Hit(point.AfterForceBeforeSend, a.commit)
		}
	}
	l.m.Step(protocol.Persisted{Index: l.appended[n-1].machine})
	l.appended = slices.Delete(l.appended, 0, n)
	l.maybeSnapshot(p.LSN)
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
	for _, call := range l.waiting {
		call.reply <- protocol.Reply{Err: l.c.stopped()}
	}
	close(l.c.loopDone)
}

// hitAppend and hitReply mark the steps of a transaction that a crash test looks for.
func hitAppend(r protocol.Record) {
	switch r := r.(type) {
	case protocol.CommitRecord:
		point.Hit(point.BeforeForce, r.ID)
	case protocol.EndRecord:
		point.Hit(point.BeforeEnd, r.IDs[0])
	}
}

func hitReply(r protocol.Reply) {
	switch {
	case r.Begun != nil:
		point.Hit(point.AfterBegin, r.Begun.ID)
	case r.Result != nil:
		point.Hit(point.BeforeAckClient, r.Result.ID)
	}
}

// fenceFor is the fence for branches of log: ours, or that of a log whose decisions we took over,
// at its last known epoch. Should that log be alive after all, it keeps its right, and we wait.
func (c *Coordinator) fenceFor(log txn.LogID) txn.Fence {
	for _, a := range c.adopted {
		if a.Log == log {
			return txn.Fence{Log: a.Log, Epoch: a.Epoch, LSN: a.LSN}
		}
	}
	return c.fence()
}

// fence says on whose behalf resources are called.
func (c *Coordinator) fence() txn.Fence {
	return txn.Fence{Log: c.log.ID(), Epoch: c.log.Epoch(), LSN: c.log.LSN()}
}

package sim

import (
	"errors"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"github.com/gavel-tx/gavel/coordinator/core"
	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/coordinator/record"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txlog/vfs"
)

// full is core.Core over a log of files. It does what the goroutines of package coordinator and
// those of the log do, each in steps of its own.
type full struct {
	*txlog.Log
	l    *life
	w    *world
	core *core.Core

	// said is the newest word of the log, and news that the core has not heard it.
	said txlog.Persisted
	news bool
	// sent are the appends that were not reported durable.
	sent []sent
	// stepping, idling and tending: such a step of the log is planned.
	stepping, idling, tending bool
	// busy is until when the sync of the last group takes. What is appended meanwhile is the next
	// group.
	busy instant
	// failure is what the log has failed with.
	failure error
}

type sent struct {
	index   uint64
	records []protocol.Record
}

// logDir and logID are the log's of every world. Decoys carry another id.
const (
	logDir     = "/log"
	logID      = 0xabc
	foreignLog = 0x77
	// segment is the smallest there can be, so that the log rolls all the time.
	segment = txlog.MinSegmentSize
)

// blank is a disk with a log on it that was never opened.
func blank() *vfs.Mem {
	mem := vfs.NewMem()
	err := txlog.Init(mem, logDir, logID, txlog.InitOptions{SegmentSize: segment,
		Now: func() time.Time { return time.Unix(0, 0) }})
	if err != nil {
		panic(err)
	}
	return mem
}

// openFull opens the log that is on the world's disk, with the faults that are due. It returns nil
// if there is no life in it: the next try will come.
func (w *world) openFull() *life {
	l := newLife(w, 0)
	f := &full{l: l, w: w}
	state := protocol.NewState(0)
	var found []protocol.Record
	w.disk.began()
	log, err := txlog.Open(f.options(func(e txlog.Entry) error {
		state.Log = e.Log
		r, err := record.Decode(e.Record)
		if err != nil {
			return err
		}
		found = append(found, r)
		return state.Apply(r)
	}))
	if err != nil {
		w.disk.notOpened(err)
		return nil
	}
	f.Log, l.epoch = log, log.Epoch()
	state.Log, state.Epoch = log.ID(), log.Epoch()
	for _, r := range found {
		w.book.durable(r)
	}
	w.checkReplay(state)
	f.core = core.New(state, f, w.coreConfig(), 0)
	f.core.Opened(protocol.OpenRecord{Epoch: l.epoch, Host: "sim", Version: "sim"})
	l.driver = f
	return l
}

func (f *full) options(replay func(txlog.Entry) error) txlog.Options {
	return txlog.Options{
		FS: vfs.Hooked(f.w.disk.mem, f.w.disk.hook), Dir: logDir, SegmentSize: segment,
		MaxPending: f.w.opt.maxPending, Driven: true, Replay: replay,
		Now: func() time.Time { return time.Unix(0, int64(f.w.now)) },
		OnPersisted: func(p txlog.Persisted) {
			f.durable(p.Index)
			f.l.at(f.busy, func() { f.tell(p) })
		},
		OnFailed: func(err error) { f.failure = err },
	}
}

func (w *world) coreConfig() core.Config {
	cfg := core.Config{
		Machine: w.opt.machine, Workers: w.opt.workers,
		SweepEvery:    protocol.Instant(w.opt.sweepEvery),
		SnapshotEvery: w.opt.snapshotEvery,
		Rand:          rand.New(rand.NewPCG(w.rng.Uint64(), 0)),
	}
	for _, d := range w.dbs {
		// Other logs have branches here, and an operator has said that this is on purpose.
		cfg.Resources = append(cfg.Resources, core.Resource{Name: d.name, Kind: "sim",
			AcceptForeign: true})
	}
	return cfg
}

// Append is the log's, with the checkers looking on.
func (f *full) Append(recs []txlog.Record, forced bool) (uint64, error) {
	index, err := f.Log.Append(recs, forced)
	if err != nil {
		return index, err
	}
	s := sent{index: index}
	for _, rec := range recs {
		r, err := record.Decode(rec)
		if err != nil {
			f.w.fail(assertion, "a record cannot be read back: %v", err)
			continue
		}
		f.w.say("append %s", record.Name(rec.Type))
		f.w.book.appended(f.l, r)
		s.records = append(s.records, r)
	}
	f.sent = append(f.sent, s)
	if f.w.opt.flaw == tellsEarly {
		f.tell(txlog.Persisted{Index: index, LSN: f.LSN()})
	}
	return index, nil
}

// tell brings the word of the log to the core. Until it has come the log may be further. The log
// tells in order; only what a held process does late may come in another one.
func (f *full) tell(p txlog.Persisted) {
	if p.Index >= f.said.Index {
		f.said, f.news = p, true
		f.l.wake()
	}
}

// durable notes what the log has reported.
func (f *full) durable(index uint64) {
	for len(f.sent) > 0 && f.sent[0].index <= index {
		for _, r := range f.sent[0].records {
			f.w.book.durable(r)
		}
		f.sent = f.sent[1:]
	}
}

func (f *full) request(e protocol.Event) protocol.Event { return f.core.Request(e) }
func (f *full) cancel(of protocol.Event)                { f.core.Cancel(of) }
func (f *full) next() protocol.Instant                  { return f.core.Next() }
func (f *full) machine() *protocol.Machine              { return f.core.Machine() }

func (f *full) tick(now protocol.Instant) {
	f.core.Tick(now)
	f.l.noRoom = !f.Log.Room()
}

// Room is what the core sees of the log's.
func (f *full) Room() bool { return f.Log.Room() || f.w.opt.flaw == roomUnseen }

func (f *full) hear() bool {
	if !f.news {
		return false
	}
	f.news = false
	f.core.Persisted(f.said)
	return true
}

// work is the loop's: what the core wants is carried out, and a log without memory is waited for.
func (f *full) work() {
	wk, err := f.core.Work()
	f.carry(wk)
	switch {
	case errors.Is(err, txlog.ErrBacklog):
		f.l.full = true
	case err != nil:
		f.w.disk.failed(f, err)
		return
	}
	f.plan()
}

func (f *full) carry(wk core.Work) {
	// A transaction may begin and expire in one turn: the book has to know it first.
	for _, r := range wk.Replies {
		f.l.replied(r)
	}
	for _, c := range wk.Calls {
		f.call(c)
	}
	for _, n := range wk.Notes {
		f.l.noted(n.Note)
	}
	for _, line := range wk.Lines {
		f.w.say("journal: %s", line.Message)
	}
	if wk.Snapshot != nil {
		f.l.after(f.w.disk.latency(), func() { f.snapshot(wk.Snapshot) })
	}
	if wk.Failed != nil {
		f.w.fail(fencing, "the only owner of the log stops: %v", wk.Failed)
	}
}

// call makes a call of the core. A driver that gives up says so of what it should repeat.
func (f *full) call(c *core.Call) {
	d := f.w.dbs[c.Resource[0]-'a']
	f.w.say("%s is asked: %d, %d branches", c.Resource, uint64(c.What), uint64(len(c.Branches)))
	q := question{what: c.What, fence: c.Fence, branches: c.Branches, ids: c.IDs}
	f.l.ask(d, q, func(a core.Answer) {
		if a.Err != nil && c.What == core.Commit && f.w.opt.flaw == givesUp {
			return
		}
		f.core.Answered(c, a)
	})
}

// plan plans what the log's own goroutines would do.
func (f *full) plan() {
	wk := f.Log.Work()
	if wk.Group && !f.stepping {
		f.stepping = true
		f.l.at(f.busy, func() { f.stepping = false; f.step(false) })
	}
	if (wk.Lazy || wk.Vouch) && !wk.Group && !f.idling {
		f.idling = true
		f.l.after(5*millisecond, func() { f.idling = false; f.step(true) })
	}
	if wk.Stock && !f.tending {
		f.tending = true
		f.l.after(f.w.disk.latency(), func() { f.tending = false; f.tend() })
	}
}

// step is a turn of the flusher, as soon as the sync of the last one is done. On a full disk it
// tries again later.
func (f *full) step(due bool) {
	if f.w.now < f.busy {
		f.l.at(f.busy, func() { f.step(due) })
		return
	}
	f.w.disk.maybeTear()
	f.busy = f.w.now + f.w.disk.latency()
	_, err := f.Log.Step(due)
	switch {
	case f.w.disk.broken(f, err):
	case errors.Is(err, txlog.ErrNoSpace) && !f.stepping:
		f.stepping = true
		f.l.after(100*millisecond, func() { f.stepping = false; f.step(due) })
	default:
		f.plan()
	}
}

// tend is a turn of the keeper.
func (f *full) tend() {
	f.w.disk.maybeTear()
	err := f.Log.Tend()
	switch {
	case f.w.disk.broken(f, err):
	case errors.Is(err, txlog.ErrNoSpace):
		f.tending = true
		f.l.after(second, func() { f.tending = false; f.tend() })
	default:
		f.plan()
	}
}

// snapshot is written by a goroutine of its own.
func (f *full) snapshot(s *core.Snapshot) {
	f.w.disk.maybeTear()
	err := f.Log.Snapshot(s.LSN, s.Records)
	if f.w.disk.broken(f, err) {
		return
	}
	if err == nil {
		f.w.count[snapshot]++
	}
	f.w.say("a snapshot is made at %d", "", s.LSN)
	f.l.take(func() { f.core.Snapshotted(err) })
	f.plan()
}

// disk is the machine's, with what is wrong with it.
type disk struct {
	w   *world
	mem *vfs.Mem
	// bad is how many calls of the disk from now on one fails, and cutAt how many changes from now
	// on the power is cut. Zero: never.
	bad, cutAt int
	// tears is how many writes will still be torn.
	tears int
	// errored: a call has failed, by the world's doing.
	errored bool
	// wreck is what the power cut has left.
	wreck *vfs.Mem
	// slow: syncs take long until then.
	slow instant
	// full: there is no space.
	full bool
}

// errPower ends what a dead machine would have done.
var errPower = errors.New("sim: the power is cut")

// latency is how long a sync takes now.
func (d *disk) latency() instant {
	if d.w.now < d.slow && !d.w.healed {
		return d.w.spread(second)
	}
	return d.w.spread(d.w.opt.diskLatency)
}

// hook is asked before each call. Nothing happens after the power is cut.
func (d *disk) hook(c vfs.Call) error {
	if d.wreck != nil {
		return errPower
	}
	if d.cutAt > 0 && slices.Contains(vfs.Mutating(), c.Op) {
		if d.cutAt--; d.cutAt == 0 {
			d.wreck = d.mem.CrashClone(d.w.rng)
			return errPower
		}
	}
	if d.bad > 0 {
		if d.bad--; d.bad == 0 {
			d.errored = true
			d.w.count[ioError]++
			d.w.say("%s fails", c.Op.String())
			return syscall.EIO
		}
	}
	if d.w.opt.flaw == diskLies && c.Op == vfs.OpDatasync && d.w.some(300) {
		return vfs.ErrLost
	}
	return nil
}

// maybeTear cuts the power in the midst of the next step of the log, if that is due.
func (d *disk) maybeTear() {
	if d.tears > 0 && !d.w.healed && d.w.some(200) {
		d.tears--
		d.cutAt = 1 + d.w.rng.IntN(4)
	}
}

// broken says whether a step of the log was its last one, and ends the life then.
func (d *disk) broken(f *full, err error) bool {
	if d.wreck == nil && f.failure == nil {
		// The step had fewer changes than were allowed.
		d.cutAt = 0
		return err != nil && !errors.Is(err, txlog.ErrNoSpace) && d.failed(f, err)
	}
	if d.wreck != nil {
		d.w.count[tornWrite]++
		d.w.say("the power is cut in the midst of a write", "")
		d.w.die(d.takeWreck())
		return true
	}
	return d.failed(f, f.failure)
}

// failed ends a life whose log has failed: the process exits, and the page cache stays. Only a
// broken disk may do that.
func (d *disk) failed(f *full, err error) bool {
	switch {
	case !d.errored && d.full:
		d.w.fail(diskFullGrace, "the log fails on a full disk: %v", err)
	case !d.errored:
		d.w.fail(assertion, "the log fails on a good disk: %v", err)
	}
	d.w.say("the coordinator stops, because its log has failed", "")
	d.w.die(d.mem.KillClone())
	return true
}

// close ends a life in order. What a full disk keeps from being written is lost, and was never
// told.
func (d *disk) close(f *full) {
	err := f.Log.Close()
	if d.wreck == nil && !d.errored && err != nil && !errors.Is(err, txlog.ErrNoSpace) {
		d.w.fail(assertion, "the log does not close: %v", err)
	}
	d.w.die(d.mem.KillClone())
}

func (d *disk) takeWreck() *vfs.Mem {
	left := d.wreck
	d.wreck, d.cutAt = nil, 0
	return left
}

// began prepares the disk for an opening of the log.
func (d *disk) began() {
	d.errored = false
	if d.w.plan(cutInRecovery) {
		d.cutAt = 1 + d.w.rng.IntN(12)
	}
}

// notOpened takes why the log could not be opened. The machine starts again.
func (d *disk) notOpened(err error) {
	switch {
	case d.wreck != nil:
		d.w.count[cutInRecovery]++
		d.w.say("the power is cut during recovery", "")
		d.mem = d.takeWreck()
	case d.errored, d.full && errors.Is(err, txlog.ErrNoSpace):
		d.w.say("the log cannot be opened for now", "")
		d.mem = d.mem.KillClone()
	default:
		d.w.fail(corruptionDetected, "a log that was not damaged is refused: %v", err)
	}
}

// fill leaves hardly any space on the disk for a while.
func (d *disk) fill() {
	d.w.count[fullDisk]++
	d.w.say("the disk is full", "")
	d.full = true
	d.mem.SetCapacity(d.mem.Used() + int64(d.w.rng.IntN(segment)))
	d.w.after(d.w.spread(6*second), d.clean)
}

func (d *disk) clean() {
	d.full = false
	d.mem.SetCapacity(0)
}

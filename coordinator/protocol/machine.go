package protocol

import (
	"fmt"
	"slices"

	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// Machine is one epoch of a coordinator: the durable state, and the transactions that run. It is
// not safe for concurrent use; one event loop owns it.
type Machine struct {
	cfg   Config
	state *State
	now   Instant
	ready Ready

	// The log. inflight holds every append that is not yet known to be durable, oldest first; their
	// effects exist only in persisted.
	index    uint64
	inflight []Append
	// Proofs of ownership: rounds that were asked for, and what the next one is for.
	lastRound   uint64
	rounds      []round
	unconfirmed []txn.ID

	room     bool
	draining bool

	// Sequences. first is this epoch's first; [next, state.High) may be handed out. reserving is
	// the High of a RangeRecord in flight.
	first, next, reserving txn.Seq
	parked                 []Begin
	// holes are on their way to the disk. Nothing behind the first of them is handed out before.
	holes []HoleRecord
	// beginning are those whose Begin or Enlist waits for a DELEGATE record.
	beginning map[ReqID]*transaction
	// left are those of the parked whose callers have gone away.
	left map[ReqID]bool

	live      map[txn.ID]*transaction
	order     []txn.ID // of live, ascending; some may be over already
	active    int      // those of live that are undecided or unfinished, heuristic ones excluded
	timers    timers
	keyed     map[[16]byte]*transaction
	resources []*resource
	byName    map[string]*resource
	ended     []txn.ID
	// recent holds rollbacks, readOnly the transactions that wrote nothing.
	recent, readOnly recent
	// The log had been run for uptime when this epoch began, at started. marks count in this time,
	// which no clock can set.
	started, uptime Instant
	marks           []MarkRecord
	// forgetBelow is how far the retention alone would let outcomes go.
	forgetBelow txn.Seq
	retainAt    Instant
}

// resource is a registered resource manager.
type resource struct {
	ResourceRecord
	// durable: the registration may be relied on. Until then no branch may name it.
	durable  bool
	waiters  []ReqID
	inflight int
	// pending counts branches that wait for phase two.
	pending int
	// seen is the furthest position that any answer showed.
	seen txn.Position
	// recordedAt is when its position was last written down.
	recordedAt Instant
	// suspects are the names that a sweep would act upon.
	suspects map[txn.Name]suspect
	// denied are markers that contradict the log, and of which people were told in this epoch. A
	// listing need not show all of them.
	denied map[txn.ID]bool
	// refused: whoever answers at its address was refused at the last registration.
	refused bool
	// onePhase: it can commit a branch without preparing it.
	onePhase bool
	// delegate: it can keep markers.
	delegate bool
	// evidence: it can prove how a branch ended that is gone. Not known before it has said so.
	evidence bool
	// down: it does not answer at present.
	down bool
	// held: its last listing came from somewhere else, and that has been told.
	held bool
	// swept counts its listings; todo is how many names the last one had a verdict for.
	swept, todo int
	// cleanBelow: the last complete sweep showed no branch of a sequence below it.
	cleanBelow txn.Seq
}

// suspect is a listed name that has a verdict, and since when it has had this one. A name whose
// label changes begins anew: what was an ordinary commit under way a moment ago, and has ended
// since, must be listed again before it counts as brought back.
type suspect struct {
	label Label
	since Instant
}

// New makes the machine of an epoch from what the log says. Its first Ready takes up every commit
// without an end, and reserves sequences; what has no record is, from now on, rolled back.
func New(state *State, cfg Config, now Instant) *Machine {
	m := &Machine{
		cfg: cfg.WithDefaults(), state: state, now: now, room: true,
		first: state.High, next: state.High,
		beginning: map[ReqID]*transaction{},
		live:      map[txn.ID]*transaction{}, keyed: map[[16]byte]*transaction{},
		byName: map[string]*resource{}, started: now, marks: slices.Clone(state.marks),
	}
	if n := len(m.marks); n > 0 {
		m.uptime = m.marks[n-1].Uptime
	}
	for _, r := range state.resources {
		m.addResource(r).durable = true
	}
	for _, d := range state.OpenDecisions() {
		m.resume(d)
	}
	m.leap()
	m.reserve()
	return m
}

// leap leaves out the sequences that lost epochs of this log may have handed out, if it was set
// back to an earlier moment: they lie behind the last one that it knows of, and so does whatever
// this epoch hands out. A log that knows of nothing may have lost everything.
func (m *Machine) leap() {
	if m.cfg.Leap == 0 || mutant.On(mutant.NoLeap) {
		return
	}
	if len(m.state.holes) >= maxHoles || !m.hole(m.next+m.cfg.Leap) {
		m.note(Note{Kind: NoteAlarm, Reason: "this log was opened so often that it can leave " +
			"no sequences out any more: if it is ever set back to an earlier moment, " +
			"adopt it before it is opened"})
	}
	m.first = m.next
}

func (m *Machine) addResource(r ResourceRecord) *resource {
	res := &resource{
		ResourceRecord: r,
		seen:           r.Position,
		suspects:       map[txn.Name]suspect{},
		denied:         map[txn.ID]bool{},
		cleanBelow:     m.state.Low,
	}
	m.resources = append(m.resources, res)
	m.byName[r.Name] = res
	return res
}

// Step takes one event.
func (m *Machine) Step(e Event) {
	switch e := e.(type) {
	case Tick:
		m.tick(e.Now)
	case Begin:
		m.begin(e)
	case Commit:
		m.commit(e)
	case Rollback:
		m.rollback(e)
	case Ask:
		m.ask(e)
	case Voted:
		m.voted(e)
	case Finished:
		m.finished(e)
	case Swept:
		m.swept(e)
	case Register:
		m.register(e)
	case Persisted:
		m.persisted(e.Index)
	case Confirmed:
		m.confirmed(e.Round)
	case Room:
		m.room = e.Available
	case Reached:
		if r := m.byName[e.Name]; r != nil {
			r.down = !e.Up
		}
	case Cancel:
		m.cancel(e.Of)
	case Drain:
		m.draining = true
	default:
		panic(fmt.Sprintf("protocol: event %T", e))
	}
}

// Ready takes what has gathered since the last call. The caller owns the result.
func (m *Machine) Ready() Ready {
	m.end()
	m.askConfirm()
	r := m.ready
	m.ready = Ready{}
	return r
}

// end writes the ends that have gathered.
func (m *Machine) end() {
	for len(m.ended) > 0 {
		n := min(len(m.ended), maxEnds)
		m.append(EndRecord{IDs: slices.Clone(m.ended[:n])}, false)
		m.ended = m.ended[n:]
	}
	m.ended = nil
}

// maxEnds bounds the ids of one EndRecord.
const maxEnds = 250

// Opened notes, in the log, who runs this epoch.
func (m *Machine) Opened(r OpenRecord) { m.append(r, false) }

// RM is the number of a registered resource, or zero.
func (m *Machine) RM(name string) RM {
	if r := m.byName[name]; r != nil {
		return r.RM
	}
	return 0
}

// Name is the name of a registered resource.
func (m *Machine) Name(rm RM) string { return m.resources[rm-1].Name }

// Registered says whether transactions may name the resource.
func (m *Machine) Registered(name string) bool {
	r := m.byName[name]
	return r != nil && r.durable
}

// Unsettled says what there is still to do at a resource, or nothing.
func (m *Machine) Unsettled(name string) string {
	r := m.byName[name]
	switch {
	case r == nil || !r.durable:
		return "it is not registered"
	case r.held:
		return "it is another database, or its history went backwards"
	case r.swept == 0:
		return "it has not been listed"
	case r.pending > 0:
		return fmt.Sprintf("%d branches wait for phase two", r.pending)
	case r.todo > 0:
		return fmt.Sprintf("%d orphans are to be finished", r.todo)
	}
	return ""
}

// Next is the first sequence that has not been handed out.
func (m *Machine) Next() txn.Seq { return m.next }

// State is the durable state. The caller must not change it, nor keep it over the next Step.
func (m *Machine) State() *State { return m.state }

// Active is the number of transactions that are undecided or wait for phase two.
func (m *Machine) Active() int { return m.active }

// Seen is the furthest position that any answer of rm has shown.
func (m *Machine) Seen(rm RM) txn.Position {
	if rm < 1 || int(rm) > len(m.resources) {
		return txn.Position{}
	}
	return m.resources[rm-1].seen
}

// Pending is the number of branches at rm that wait for phase two.
func (m *Machine) Pending(rm RM) int { return m.resources[rm-1].pending }

// append hands a record to the log. What depends on its durability belongs into persisted.
func (m *Machine) append(r Record, forced bool) {
	m.index++
	a := Append{Index: m.index, Record: r, Forced: forced}
	m.inflight = append(m.inflight, a)
	m.ready.Appends = append(m.ready.Appends, a)
}

// persisted releases the effects of every append up to index. It is the only place where a decision
// becomes visible.
func (m *Machine) persisted(index uint64) {
	for len(m.inflight) > 0 && m.inflight[0].Index <= index {
		r := m.inflight[0].Record
		m.inflight = m.inflight[1:]
		if err := m.state.Apply(r); err != nil {
			panic(fmt.Sprintf("protocol: a durable record is impossible: %v", err))
		}
		switch r := r.(type) {
		case CommitRecord:
			if r.Plan == txn.PlanDelegate {
				m.delegateRecorded(m.live[r.ID])
				continue
			}
			m.commitDurable(m.live[r.ID])
		case OnePhaseRecord:
			m.onePhaseDurable(m.live[r.ID])
		case IntentRecord:
			m.intentDurable(m.live[r.ID])
		case DelegateRecord:
			m.delegateDurable(m.live[r.ID])
		case AbortRecord:
			m.abortDurable(m.live[r.ID])
		case RangeRecord:
			m.rangeDurable(r)
		case ResourceRecord:
			m.resourceDurable(r)
		case HeuristicRecord:
			m.heuristicDurable(r)
		case HoleRecord:
			m.holes = m.holes[1:]
		}
	}
}

// reserve asks for the next block of sequences. Nobody waits for it unless the last block is used
// up.
func (m *Machine) reserve() {
	if m.reserving != 0 {
		return
	}
	m.reserving = max(m.state.High, m.next) + m.blockSize()
	m.append(RangeRecord{Low: m.state.Low, High: m.reserving}, true)
}

// blockSize is about a second of use: as many sequences as were handed out since the last retention
// mark would be too much after an idle hour, so it follows the parked and running transactions
// instead.
func (m *Machine) blockSize() txn.Seq {
	return max(m.cfg.Block, txn.Seq(2*(m.active+len(m.parked))))
}

func (m *Machine) rangeDurable(r RangeRecord) {
	if r.High == m.reserving {
		m.reserving = 0
	}
	parked, left := m.parked, m.left
	m.parked, m.left = nil, nil
	for _, b := range parked {
		if !left[b.Req] && (b.Until == 0 || m.now < b.Until) {
			m.begin(b)
		}
	}
}

// register records who a resource is, once; from then on a different identity is refused.
func (m *Machine) register(e Register) {
	if err := checkResourceName("resource", e.Name); err != nil {
		m.reply(Reply{Req: e.Req, Err: err})
		return
	}
	r := m.byName[e.Name]
	rec := ResourceRecord{Name: e.Name, Kind: e.Kind, Identity: e.Identity, Position: e.Position}
	switch {
	case r == nil && len(m.resources) == maxResources:
		m.reply(Reply{Req: e.Req, Err: txn.Refusef(txn.ReasonOverloaded, "resource",
			"%d resources are registered, and %d is the limit", len(m.resources), maxResources)})
		return
	case r == nil:
		r = m.addResource(ResourceRecord{RM: RM(len(m.resources) + 1), Name: e.Name})
	case r.Identity != e.Identity && !e.Accept:
		r.refused = true
		m.reply(Reply{Req: e.Req, Err: identityChanged(r, e.Identity)})
		return
	case e.Position.Before(e.Floor) && !e.Accept:
		r.refused = true
		m.reply(Reply{Req: e.Req, Err: wentBack(r, e.Floor, e.Position)})
		return
	}
	rec.RM = r.RM
	r.refused, r.onePhase, r.delegate, r.evidence = false, e.OnePhase, e.Delegate, e.Evidence
	if r.Identity == e.Identity && !e.Accept {
		rec.Position = later(e.Position, r.seen)
	} else {
		r.durable = false
	}
	if r.durable && rec == r.ResourceRecord {
		m.reply(Reply{Req: e.Req})
		return
	}
	r.waiters = append(r.waiters, e.Req)
	r.seen = rec.Position
	m.record(r, rec, true)
}

// record writes down what is known about a resource now.
func (m *Machine) record(r *resource, rec ResourceRecord, forced bool) {
	r.ResourceRecord, r.recordedAt = rec, m.now
	r.inflight++
	m.append(rec, forced)
}

// maxResources bounds the resources of one log.
const maxResources = 4096

func (m *Machine) resourceDurable(rec ResourceRecord) {
	r := m.resources[rec.RM-1]
	if r.inflight--; r.inflight > 0 {
		return
	}
	r.durable = true
	for _, req := range r.waiters {
		m.reply(Reply{Req: req})
	}
	r.waiters = nil
}

func identityChanged(r *resource, now txn.Identity) error {
	return &txn.Refusal{
		Reason: txn.Reason(txn.CauseIdentity), Field: "resource " + r.Name,
		Message: fmt.Sprintf(
			"its address leads to %s, and %s is registered under this name",
			now,
			r.Identity,
		),
		Effect: "nothing was changed; if the database was replaced on purpose, " +
			"accept the new identity",
	}
}

func wentBack(r *resource, was, now txn.Position) error {
	return &txn.Refusal{
		Reason: txn.Reason(txn.CauseIdentity), Field: "resource " + r.Name,
		Message: fmt.Sprintf(
			"its history went backwards, from timeline %d position %X to timeline %d position %X: "+
				"a restored backup or an old primary",
			was.Timeline,
			was.LSN,
			now.Timeline,
			now.LSN,
		),
		Effect: "nothing was changed, and its prepared branches are held for an operator",
	}
}

func (m *Machine) reply(r Reply) {
	if r.Req != 0 {
		m.ready.Replies = append(m.ready.Replies, r)
	}
}

func (m *Machine) note(n Note) { m.ready.Notes = append(m.ready.Notes, n) }

func (m *Machine) send(act Act, t *transaction, b *branch) {
	m.ready.Messages = append(m.ready.Messages, Message{
		Act: act, RM: b.rm, ID: t.id, Name: txn.NameOf(t.id, b.no), Evidence: b.evidence,
	})
}

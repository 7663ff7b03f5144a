package protocol

import (
	"crypto/sha256"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// begin starts a transaction in memory: no record, no message, no sync. Losing it is a rollback.
func (m *Machine) begin(e Begin) {
	if !e.Request.ID.IsZero() {
		m.enlist(e)
		return
	}
	if err := m.refuseFields(e.Request); err != nil {
		m.reply(Reply{Req: e.Req, Err: err})
		return
	}
	key := keyOf(e.Request)
	if !key.IsZero() && m.knownKey(e, key) {
		return
	}
	if err := m.refuseBegin(e.Request); err != nil {
		m.reply(Reply{Req: e.Req, Err: err})
		return
	}
	if (m.next >= m.state.High || len(m.holes) > 0) && !mutant.On(mutant.IDAboveHighWater) {
		// The next sequence is not durably reserved yet: a restart could hand it out again. Or a
		// hole before it is not: until then nothing behind its beginning is told from what is lost.
		m.reserve()
		m.parked = append(m.parked, e)
		return
	}
	t := &transaction{
		id: txn.NewID(m.state.Log, m.next), label: e.Request.Label, state: txn.StateActive,
		begun: m.now, deadline: m.now + m.timeout(Instant(e.Request.Timeout)), key: key,
	}
	m.next++
	if m.state.High-m.next < m.blockSize()/2 {
		m.reserve()
	}
	m.enter(t)
	m.active++
	if !key.IsZero() {
		m.keyed[key.Hash] = t
	}
	e.Request.Part = ""
	m.join(t, e.Request)
	m.arm(t)
	if m.delegate(t, e.Request.Delegate) {
		m.waitBegun(t, e.Req)
		return
	}
	m.reply(Reply{Req: e.Req, Begun: m.begun(t, e.Request.Part)})
}

// enlist adds resources to a transaction that runs. A resource that the part has already keeps its
// branch.
func (m *Machine) enlist(e Begin) {
	t := m.live[e.Request.ID]
	deciding := t != nil && (t.state == txn.StateDeciding || t.asking())
	if t == nil || !deciding && (!t.undecided() || m.expired(t)) {
		m.reply(Reply{Req: e.Req, Err: m.notRunning(e.Request.ID, "enlist")})
		return
	}
	if t.closed && !mutant.On(mutant.PartsLate) {
		m.reply(Reply{Req: e.Req, Err: txn.Refusef(txn.ReasonClosed, "transaction_id",
			"%s is being committed, and its set of branches is closed", t.id)})
		return
	}
	if n := len(e.Request.Part); n > txn.MaxPartLen || !printable(e.Request.Part) {
		m.reply(Reply{Req: e.Req, Err: invalid("part",
			"it has %d bytes, and %d printable ones are the limit", n, txn.MaxPartLen)})
		return
	}
	if err := m.refuseResources(e.Request.Resources, t, e.Request.Part); err != nil {
		m.reply(Reply{Req: e.Req, Err: err})
		return
	}
	if err := m.refuseStranger(t, e.Request); err != nil {
		m.reply(Reply{Req: e.Req, Err: err})
		return
	}
	m.join(t, e.Request)
	if t.plan == txn.PlanDelegate {
		if t.intended < len(t.branches) {
			m.recordDelegate(t)
		}
		if t.recording > 0 {
			m.waitBegun(t, e.Req)
			return
		}
	}
	m.reply(Reply{Req: e.Req, Begun: m.begun(t, e.Request.Part)})
}

func (m *Machine) join(t *transaction, r txn.BeginRequest) {
	for _, name := range r.Resources {
		rm := m.byName[name].RM
		if !t.has(rm, r.Part) {
			no := txn.BranchNo(len(t.branches) + 1)
			t.branches = append(t.branches,
				branch{no: no, rm: rm, part: r.Part, state: txn.BranchEnlisted})
		}
	}
}

// has says whether a part has a branch at a resource. Two parts must never share one: both would
// prepare it, and one vote would stand for the work of two.
func (t *transaction) has(rm RM, part string) bool {
	return slices.ContainsFunc(t.branches, func(b branch) bool {
		return b.rm == rm && (b.part == part || mutant.On(mutant.PartsShare))
	})
}

// hasParts says whether others than the client that began t have branches in it.
func (t *transaction) hasParts() bool {
	return slices.ContainsFunc(t.branches, func(b branch) bool { return b.part != "" })
}

// begun is what a part hears of its branches.
func (m *Machine) begun(t *transaction, part string) *txn.Begun {
	b := &txn.Begun{ID: t.id, Delegate: t.delegateNo,
		Timeout: txn.Nanoseconds(int64(t.deadline - m.now))}
	for _, x := range t.branches {
		if x.part != part && !mutant.On(mutant.PartsShare) {
			continue
		}
		b.Branches = append(b.Branches, txn.Enlisted{
			Branch: x.no, Resource: m.resources[x.rm-1].Name, Name: txn.NameOf(t.id, x.no),
			At: x.evidence,
		})
	}
	return b
}

// knownKey answers a Begin whose key was used before. A committed transaction answers for it; one
// that runs makes it wait; one that was rolled back did nothing and leaves the key free.
func (m *Machine) knownKey(e Begin, key Key) bool {
	if k, ok := m.state.keys[key.Hash]; ok {
		if k.Key.Body != key.Body {
			m.reply(Reply{Req: e.Req, Err: keyReused()})
			return true
		}
		m.reply(Reply{Req: e.Req, Begun: &txn.Begun{ID: k.ID, Existing: m.known(k.ID)}})
		return true
	}
	t := m.keyed[key.Hash]
	switch {
	case t == nil:
		return false
	case t.key.Body != key.Body:
		m.reply(Reply{Req: e.Req, Err: keyReused()})
	case t.state == txn.StateHeuristic:
		m.reply(Reply{Req: e.Req, Begun: &txn.Begun{ID: t.id, Existing: m.result(t)}})
	case len(t.keyWaiters) >= m.cfg.MaxWaiters:
		m.reply(Reply{Req: e.Req, Err: txn.Refusef(txn.ReasonKeyBusy, "idempotency_key",
			"its transaction %s is still running, and %d callers wait for it already (the limit)",
			t.id, len(t.keyWaiters))})
	default:
		t.keyWaiters = append(t.keyWaiters, e)
	}
	return true
}

func keyReused() error {
	return txn.Refusef(txn.ReasonKeyReused, "idempotency_key",
		"it was used before for a request with another body")
}

// releaseKey lets those go on who wait for the key of t, which has just been decided.
func (m *Machine) releaseKey(t *transaction) {
	if t.key.IsZero() || m.keyed[t.key.Hash] != t {
		return
	}
	delete(m.keyed, t.key.Hash)
	waiting := t.keyWaiters
	t.keyWaiters = nil
	for _, e := range waiting {
		if e.Until == 0 || m.now < e.Until {
			m.begin(e)
		}
	}
}

func keyOf(r txn.BeginRequest) Key {
	if r.Key == "" {
		return Key{}
	}
	var k Key
	key, body := sha256.Sum256([]byte(r.Key)), sha256.Sum256(r.Body)
	copy(k.Hash[:], key[:])
	copy(k.Body[:], body[:])
	return k
}

func (m *Machine) timeout(d Instant) Instant {
	if mutant.On(mutant.NoDeadline) {
		return 1 << 60
	}
	if d == 0 {
		return m.cfg.DefaultTimeout
	}
	return d
}

// refuseFields names the first thing that is wrong with r itself.
func (m *Machine) refuseFields(r txn.BeginRequest) error {
	switch {
	case len(r.Label) > txn.MaxLabelLen:
		return invalid(
			"label",
			"it has %d bytes, and %d is the limit",
			len(r.Label),
			txn.MaxLabelLen,
		)
	case !printable(r.Label):
		return invalid("label", "it holds characters that cannot be printed")
	case len(r.Key) > txn.MaxKeyLen:
		return invalid(
			"idempotency_key",
			"it has %d bytes, and %d is the limit",
			len(r.Key),
			txn.MaxKeyLen,
		)
	case r.Timeout < 0:
		return invalid("timeout", "%v is negative", r.Timeout)
	case Instant(r.Timeout) > m.cfg.MaxTimeout:
		return invalid(
			"timeout",
			"%v is longer than the limit of %v",
			r.Timeout,
			txn.Nanoseconds(int64(m.cfg.MaxTimeout)),
		)
	}
	return nil
}

// refuseBegin names the first thing that is in the way of a new transaction.
func (m *Machine) refuseBegin(r txn.BeginRequest) error {
	switch {
	case m.draining:
		return txn.Refusef(txn.ReasonShutdown, "", "the coordinator is shutting down")
	case !m.room && !mutant.On(mutant.RoomIgnored):
		return txn.Refusef(txn.ReasonLogFull, "",
			"the disk of the log is full; what is left is kept for decisions under way")
	case m.active+len(m.parked) >= m.cfg.MaxActive:
		return txn.Refusef(txn.ReasonOverloaded, "",
			"%d transactions are running, and %d is the limit", m.active, m.cfg.MaxActive)
	case r.Key != "" && len(m.state.keys)+len(m.keyed) >= m.cfg.MaxKeys:
		return txn.Refusef(
			txn.ReasonOverloaded,
			"idempotency_key",
			"%d keys are retained, and %d is the limit",
			len(m.state.keys)+len(m.keyed),
			m.cfg.MaxKeys,
		)
	}
	return m.refuseResources(r.Resources, nil, "")
}

func (m *Machine) refuseResources(names []string, t *transaction, part string) error {
	fresh := map[string]bool{}
	for _, name := range names {
		if err := checkResourceName("resources", name); err != nil {
			return err
		}
		r := m.byName[name]
		switch {
		case r == nil:
			return txn.Refusef(
				txn.ReasonNoResource,
				"resources",
				"no resource %q is registered",
				name,
			)
		case !r.durable:
			return txn.Refusef(txn.ReasonNotReady, "resources", "%q is being registered", name)
		case r.refused || r.held:
			return txn.Refusef(txn.ReasonNotReady, "resources", "whoever answers as %q is not the "+
				"database that was registered, or its history went backwards", name)
		case r.pending >= m.cfg.MaxPending && !mutant.On(mutant.NoLimit):
			return txn.Refusef(
				txn.ReasonNotReady,
				"resources",
				"%d branches wait for %q to finish them, and %d is the limit",
				r.pending,
				name,
				m.cfg.MaxPending,
			)
		}
		fresh[name] = t == nil || !t.has(r.RM, part)
	}
	n := 0
	for _, f := range fresh {
		if f {
			n++
		}
	}
	if t != nil {
		n += len(t.branches)
	}
	if n > txn.MaxBranches {
		return txn.Refusef(txn.ReasonTooMany, "resources",
			"it would have %d branches, and %d is the limit", n, txn.MaxBranches)
	}
	return nil
}

func checkResourceName(field, name string) error {
	if name == "" || len(name) > txn.MaxResourceNameLen || !printable(name) {
		return invalid(
			field,
			"%.80q is not a resource name: 1 to %d printable bytes",
			name,
			txn.MaxResourceNameLen,
		)
	}
	return nil
}

func invalid(field, format string, args ...any) error {
	return txn.Refusef(txn.ReasonInvalid, field, format, args...)
}

func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

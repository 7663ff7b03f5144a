package core

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txn"
)

// driver carries between a core, a log on paper, and the resources a and b, of which a can commit
// in one phase. Calls are answered at once, in their order, and the log is durable at once.
type driver struct {
	t     *testing.T
	core  *Core
	log   *paper
	now   protocol.Instant
	trace []string
	// snapshots, replies and failed are what the work has said so far.
	snapshots int
	replies   []protocol.Reply
	failed    error
	// bend may replace the answer of a good resource.
	bend func(*Call, *Answer)
}

func newDriver(t *testing.T, seed uint64) *driver {
	t.Helper()
	d := &driver{t: t, log: &paper{}, bend: func(*Call, *Answer) {}}
	d.core = New(protocol.NewState(7), d.log, Config{
		Resources: []Resource{{Name: "a"}, {Name: "b"}}, Workers: 2, SweepEvery: 1e9,
		SnapshotEvery: 1 << 20, Rand: rand.New(rand.NewPCG(seed, 0)),
	}, 0)
	d.run()
	for _, r := range d.core.Resources() {
		if !r.Registered || !r.Up {
			t.Fatalf("%s is not up: %+v", r.Name, r)
		}
	}
	return d
}

// run carries until there is nothing left to carry.
func (d *driver) run() {
	d.t.Helper()
	for d.step() {
	}
}

func (d *driver) step() (more bool) {
	d.t.Helper()
	w, err := d.core.Work()
	if err != nil {
		d.t.Fatal(err)
	}
	for _, rep := range w.Replies {
		d.trace = append(d.trace, fmt.Sprintf("reply %d %+v", rep.Req, rep.Err))
	}
	for _, l := range w.Lines {
		d.trace = append(d.trace, l.Message)
	}
	d.replies = append(d.replies, w.Replies...)
	if w.Snapshot != nil {
		d.snapshots++
	}
	if w.Failed != nil {
		d.failed = w.Failed
	}
	for _, call := range w.Calls {
		d.trace = append(d.trace, fmt.Sprintf("%d %s %s at %d, %d branches", call.ID,
			call.Resource, call.What, d.now, len(call.Branches)))
		d.core.Answered(call, d.answer(call))
	}
	waits := len(d.core.appender.sent) > 0
	d.core.Persisted(txlog.Persisted{Index: d.log.appends, LSN: d.log.LSN()})
	return len(w.Calls) > 0 || waits
}

// answer is what a good resource says, or what bend makes of it.
func (d *driver) answer(call *Call) (a Answer) {
	identity := txn.Identity{System: uint64(call.Resource[0]), Database: 1}
	position := txn.Position{Timeline: 1, LSN: 100}
	switch call.What {
	case Describe:
		a.Description = participant.Description{Kind: "paper", Identity: identity,
			Position: position, Evidence: true, OnePhase: call.Resource == "a"}
	case List:
		a.Listing = participant.Listing{Identity: identity, Position: position}
	case Prepare:
		for range call.Branches {
			a.Votes = append(a.Votes, participant.Vote{Vote: txn.VoteYes,
				Evidence: txn.Evidence{Identity: identity, Position: position, XID: 9}})
		}
	case Rollback:
		a.Findings = findings(len(call.Branches), txn.StandingRolledBack)
	default:
		a.Findings = findings(len(call.Branches), txn.StandingCommitted)
	}
	d.bend(call, &a)
	return a
}

func findings(n int, s txn.Standing) []participant.Finding {
	found := make([]participant.Finding, n)
	for i := range found {
		found[i].Standing = s
	}
	return found
}

// tick moves the clock and carries.
func (d *driver) tick(by protocol.Instant) {
	d.now += by
	d.core.Tick(d.now)
	d.run()
}

// begin starts a transaction.
func (d *driver) begin(resources ...string) txn.ID {
	d.t.Helper()
	e := d.core.Request(protocol.Begin{Request: txn.BeginRequest{Resources: resources}})
	d.run()
	for _, rep := range d.replies {
		if rep.Req == ReqOf(e) && rep.Begun != nil {
			return rep.Begun.ID
		}
	}
	d.t.Fatalf("nothing was begun: %+v", d.replies)
	return txn.ID{}
}

// commit leaves every vote to the resources.
func (d *driver) commit(id txn.ID) protocol.ReqID {
	return ReqOf(d.core.Request(protocol.Commit{Request: txn.CommitRequest{ID: id}}))
}

// result is the reply to req.
func (d *driver) result(req protocol.ReqID) *txn.Result {
	d.t.Helper()
	for _, rep := range d.replies {
		if rep.Req == req && rep.Err == nil {
			return rep.Result
		}
	}
	d.t.Fatalf("no answer to request %d", req)
	return nil
}

// asked counts the calls of the trace.
func (d *driver) asked(resource string, what What) (n int) {
	for _, line := range d.trace {
		if strings.Contains(line, fmt.Sprintf(" %s %s at", resource, what)) {
			n++
		}
	}
	return n
}

// TestPlans: two branches are prepared and committed; one whose resource can do without is
// committed in one phase; one whose resource cannot is prepared.
func TestPlans(t *testing.T) {
	d := newDriver(t, 1)
	for _, c := range []struct {
		resources []string
		plan      txn.Plan
	}{
		{[]string{"a", "b"}, txn.PlanClassic}, {[]string{"a"}, txn.PlanOnePhase},
		{[]string{"b"}, txn.PlanClassic}, {nil, txn.PlanNone},
	} {
		req := d.commit(d.begin(c.resources...))
		d.run()
		if r := d.result(req); r.Outcome != txn.OutcomeCommitted || r.Plan != c.plan {
			t.Errorf("%v: %s, plan %s, want %s", c.resources, r.Outcome, r.Plan, c.plan)
		}
	}
	if d.asked("a", Prepare) != 1 || d.asked("a", OnePhase) != 1 || d.asked("b", Prepare) != 2 {
		t.Errorf("calls: %q", d.trace)
	}
}

// TestOnePhaseAgain: an answer that proves nothing is asked for again, and nobody is told anything
// before one that does.
func TestOnePhaseAgain(t *testing.T) {
	d := newDriver(t, 1)
	left := 3
	d.bend = func(call *Call, a *Answer) {
		if call.What == OnePhase && left > 0 {
			left--
			*a = []Answer{
				{Findings: findings(1, txn.StandingUnknown)}, {Err: errors.New("cut off")},
				{Findings: findings(2, txn.StandingCommitted)},
			}[left]
		}
	}
	req := d.commit(d.begin("a"))
	d.run()
	for range 40 {
		if len(d.replies) > 1 {
			break
		}
		d.tick(100e6)
	}
	if r := d.result(req); left != 0 || r.Outcome != txn.OutcomeCommitted {
		t.Errorf("%d bad answers are left, outcome %s", left, r.Outcome)
	}
}

// TestSameSteps: the same events give the same work, retries included.
func TestSameSteps(t *testing.T) {
	run := func(seed uint64) []string {
		d := newDriver(t, seed)
		rng := rand.New(rand.NewPCG(5, 5))
		d.bend = func(_ *Call, a *Answer) {
			if rng.IntN(3) == 0 {
				*a = Answer{Err: errors.New("cut off")}
			}
		}
		for i := range 30 {
			d.commit(d.begin([]string{"a", "b"}[:1+i%2]...))
			d.tick(7e6)
		}
		for range 2000 {
			d.tick(10e6)
		}
		if n := d.core.Machine().Active(); n != 0 {
			t.Errorf("%d transactions are left", n)
		}
		return d.trace
	}
	one, two, other := run(1), run(1), run(2)
	if strings.Join(one, "\n") != strings.Join(two, "\n") {
		t.Error("the same seed took other steps")
	}
	if strings.Join(one, "\n") == strings.Join(other, "\n") {
		t.Error("the seed does not matter")
	}
}

// TestDeposed: a resource that has seen a newer epoch of our log ends this one, and nothing is
// asked any more.
func TestDeposed(t *testing.T) {
	for _, what := range []What{List, Prepare, Commit, OnePhase} {
		d := newDriver(t, 1)
		d.bend = func(call *Call, a *Answer) {
			if call.What == what {
				*a = Answer{Err: participant.ErrFenced}
			}
		}
		both, one := d.begin("a", "b"), d.begin("a")
		d.commit(both)
		d.commit(one)
		d.tick(2e9)
		if !errors.Is(d.failed, participant.ErrFenced) {
			t.Errorf("%s is fenced, and it goes on: %v", what, d.failed)
		}
		calls := len(d.trace)
		d.core.Tick(d.now + 10e9)
		d.step()
		if len(d.trace) != calls {
			t.Errorf("after a fenced %s: %q", what, d.trace[calls:])
		}
	}
}

// TestAskedAnewAfterSilence: a resource that comes back after a silence is asked again what it is:
// it may be able to do less.
func TestAskedAnewAfterSilence(t *testing.T) {
	d := newDriver(t, 1)
	silent := true
	d.bend = func(call *Call, a *Answer) {
		if call.Resource != "a" {
			return
		}
		a.Description.OnePhase = false
		if silent {
			*a = Answer{Err: errors.New("cut off")}
		}
	}
	d.commit(d.begin("a"))
	d.run()
	silent = false
	for range 100 {
		d.tick(100e6)
	}
	before := d.asked("a", OnePhase)
	req := d.commit(d.begin("a"))
	d.run()
	if r := d.result(req); r.Plan != txn.PlanClassic || d.asked("a", OnePhase) != before {
		t.Errorf("plan %s, and %d one-phase calls, %d before", r.Plan,
			d.asked("a", OnePhase), before)
	}
}

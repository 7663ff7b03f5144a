package explore

import (
	"fmt"
	"slices"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// choice is one possible next step of a world. Its numbers are places in the world's lists, which
// are in the same order in every run.
type choice struct {
	kind kind
	a, b int16
	// former says that it is the deposed owner's.
	former bool
}

type kind uint8

const (
	doBegin kind = iota
	doPrepare
	doPrepareNo
	doPrepareGiveUp
	doStray
	doCommit
	doAnnounce
	doRollback
	doAsk
	doEnlist
	doCancel
	doPersist
	doConfirm
	doCrash
	doDepose
	doArrive
	doArriveNo
	doAnswer
	doGiveUp
	doList
	doSweep
	doRegister
	doTick
	doSessionLoss
	doFailover
	doHumanCommit
	doHumanRollback
	doOutage
	doReturn
	doDecide
	doDecideNo
	doDecideGiveUp
	doCallOff
	doRun
	doRunAgain
	doHome
	doLost
	doFlaw
)

// choices appends everything that can happen next.
func (w *world) choices(all []choice) []choice {
	for i := range w.clients {
		all = w.clientChoices(all, i)
	}
	all = w.coordinatorChoices(all)
	all = w.callChoices(all)
	for i := range w.resources {
		all = w.resourceChoices(all, i)
	}
	all = w.formerChoices(all)
	return w.flawChoices(all)
}

// some appends a choice if it is allowed to happen.
func some(all []choice, ok bool, k kind, a, b int) []choice {
	if ok {
		all = append(all, choice{kind: k, a: int16(a), b: int16(b)})
	}
	return all
}

func (w *world) clientChoices(all []choice, i int) []choice {
	c := &w.clients[i]
	all = some(all, !c.begun, doBegin, i, 0)
	if c.entry >= 0 && !c.over {
		for _, b := range w.unvoted(i) {
			all = some(all, true, doPrepare, i, b)
			all = some(all, w.left.Noes > 0, doPrepareNo, i, b)
			all = some(all, w.left.Losses > 0 && w.givesUp(i, b), doPrepareGiveUp, i, b)
			all = some(all, w.left.Strays > 0, doStray, i, b)
		}
		all = w.deciderChoices(all, i)
		all = w.answerChoices(all, i)
	}
	return w.requestChoices(all, i)
}

// requestChoices are what a client with a transaction may ask for.
func (w *world) requestChoices(all []choice, i int) []choice {
	c := &w.clients[i]
	if c.entry < 0 || c.over {
		return all
	}
	e := w.entryOf(i)
	first := c.commits == 0 && w.isReady(i) && (e.delegate == 0 || c.voted(e.delegate))
	all = some(all, first || c.commits > 0 && w.left.Repeats > 0, doCommit, i, 0)
	all = some(all, w.sc.Transactions[i].Announces && (!c.announced || w.left.Repeats > 0),
		doAnnounce, i, 0)
	all = some(all, w.left.Rollbacks > 0, doRollback, i, 0)
	all = some(all, w.left.Asks > 0, doAsk, i, 0)
	all = some(all, w.left.Enlists > 0, doEnlist, i, 0)
	return w.runChoices(all, i)
}

// givesUp says whether a client's PREPARE can stay unanswered: the session must be there.
func (w *world) givesUp(i, b int) bool {
	e := w.entryOf(i)
	n := txn.NameOf(e.id, txn.BranchNo(b+1))
	at := e.branches[b].resource
	return !w.sc.Resources[at].Quiet && w.resources[at].active(n)
}

func (w *world) coordinatorChoices(all []choice) []choice {
	all = some(all, len(w.inflight) > 0, doPersist, 0, 0)
	for i := range w.confirms {
		all = some(all, true, doConfirm, i, 0)
	}
	for keep := range len(w.inflight) + 1 {
		all = some(all, w.left.Crashes > 0 && len(w.entries) > 0, doCrash, keep, 0)
		depose := w.left.Depositions > 0 && w.left.Lingers > 0 && len(w.entries) > 0
		all = some(all, depose, doDepose, keep, 0)
		all = some(all, depose && len(w.confirms) > 0, doDepose, keep, 1)
	}
	for i := range w.requests {
		all = some(all, w.left.Cancels > 0, doCancel, i, 0)
	}
	return w.tickChoices(all)
}

func (w *world) tickChoices(all []choice) []choice {
	if w.left.Ticks > 0 {
		for i := range w.instants() {
			all = some(all, true, doTick, i, 0)
		}
	}
	return all
}

// instants are the moments to which the clock may jump: the machine's next timer, a grace time
// further, and the scenario's own jump.
func (w *world) instants() []protocol.Instant {
	var all []protocol.Instant
	add := func(ok bool, at protocol.Instant) {
		if ok && at > w.now && (at < maxClock || w.sc.Retained) && !slices.Contains(all, at) {
			all = append(all, at)
		}
	}
	add(true, w.m.NextTimer())
	add(w.sc.Bounds.Sweeps > 0 && !w.sc.Retained, w.now+w.sc.machine().Grace)
	add(w.sc.Jump > 0, w.now+w.sc.Jump)
	return all
}

func (w *world) callChoices(all []choice) []choice {
	for i, c := range w.calls {
		own := c.epoch == w.epoch
		if c.done {
			all = some(all, own, doAnswer, i, 0)
			continue
		}
		all = some(all, true, doArrive, i, 0)
		if c.stale || !own {
			continue
		}
		asks := c.msg.Act == protocol.ActPrepare || c.msg.Act == protocol.ActOnePhase
		r := &w.resources[c.msg.RM-1]
		no := asks && w.left.Noes > 0 && !w.byClient(c.msg.Name) && r.active(c.msg.Name)
		all = some(all, no, doArriveNo, i, 0)
		quiet := w.sc.Resources[c.msg.RM-1].Quiet
		all = some(all, w.left.Losses > 0 && !quiet, doGiveUp, i, 0)
	}
	return all
}

func (w *world) resourceChoices(all []choice, i int) []choice {
	r := &w.resources[i]
	all = some(all, w.listings[i].taken, doSweep, i, 0)
	all = some(all, w.sc.registers() && !r.registered, doRegister, i, 0)
	if w.sc.Resources[i].Quiet {
		return all
	}
	all = some(all, w.left.Outages > 0 && !r.down, doOutage, i, 0)
	all = some(all, r.down, doReturn, i, 0)
	all = some(all, w.left.Sweeps > 0 && w.shows(i) && !w.listings[i].taken, doList, i, 0)
	for s := range r.sessions {
		all = some(all, w.left.SessionLosses > 0 && !r.sessions[s].ended, doSessionLoss, i, s)
	}
	if w.left.Failovers > 0 {
		for lost := range min(w.sc.Bounds.LostOps, len(r.wal)) + 1 {
			all = some(all, true, doFailover, i, lost)
		}
	}
	if w.left.Interventions > 0 {
		for p := range r.prepared() {
			all = some(all, true, doHumanCommit, i, p)
			all = some(all, true, doHumanRollback, i, p)
		}
	}
	return all
}

// shows says whether a listing of a resource would tell anything new.
func (w *world) shows(i int) bool {
	r := &w.resources[i]
	return w.sc.ListAlways || len(r.decoys) > 0 || len(r.prepared()) > 0 || len(r.markers()) > 0 ||
		w.m.Seen(rm(i)).Timeline != r.timeline
}

// flawChoices are the steps that only a deliberate mistake takes.
func (w *world) flawChoices(all []choice) []choice {
	switch w.sc.Flaw {
	case Unilateral:
		for i := range w.resources {
			for p := range w.resources[i].prepared() {
				all = some(all, true, doFlaw, i, p)
			}
		}
	case FailedAppendAborts, AbortsAtWill, ClockRunsBack:
		for i := range w.clients {
			all = some(all, w.clients[i].entry >= 0, doFlaw, i, 0)
		}
	}
	return all
}

// take does one step.
func (w *world) take(c choice) {
	a, b := int(c.a), int(c.b)
	if c.former {
		c.former = false
		w.linger(c)
		return
	}
	w.spend(c.kind)
	switch c.kind {
	case doBegin:
		w.begin(a)
	case doPrepare, doPrepareNo:
		w.prepareByClient(a, b, c.kind == doPrepareNo)
	case doPrepareGiveUp:
		w.giveUpPrepare(a, b)
	case doStray:
		w.stray(a, b)
	case doCommit:
		w.commit(a)
	case doAnnounce:
		w.announce(a)
	case doRollback:
		w.rollback(a)
	case doAsk:
		w.inquire(a)
	case doEnlist:
		w.enlist(a)
	case doCancel:
		w.cancel(a)
	case doPersist:
		w.persist()
	case doConfirm:
		w.confirmed(a)
	case doCrash:
		w.crash(a)
	case doDepose:
		w.depose(a, b == 1)
	case doArrive, doArriveNo:
		w.arrive(a, c.kind == doArriveNo)
	case doAnswer:
		w.answer(a)
	case doGiveUp:
		w.giveUp(a)
	case doList:
		w.list(a)
	case doSweep:
		w.sweep(a)
	case doRegister:
		w.register(a)
	case doTick:
		w.tick(w.instants()[a])
	case doSessionLoss:
		w.loseSession(a, b)
	case doFailover:
		w.failover(a, b)
	case doHumanCommit, doHumanRollback:
		w.intervene(a, b, c.kind == doHumanCommit)
	case doOutage, doReturn:
		w.reached(a, c.kind == doReturn)
	case doDecide, doDecideNo, doCallOff, doDecideGiveUp:
		w.takeDecision(a, c.kind)
	case doRun, doRunAgain, doHome, doLost:
		w.takeCall(a, b, c.kind)
	case doFlaw:
		w.goWrong(a, b)
	default:
		panic(fmt.Sprintf("explore: step %d", c.kind))
	}
}

// repeats counts what a client says again.
func (w *world) repeats(again bool) {
	if again {
		w.left.Repeats--
	}
}

// spend counts a step against its bound, and notes the ones that may spoil a commit.
func (w *world) spend(k kind) {
	left, spoils := w.left.of(k)
	if left != nil {
		*left--
	}
	w.faulty = w.faulty || spoils
}

// of is the bound that a kind of step is counted against, if there is one, and whether the step may
// spoil a commit.
func (b *Bounds) of(k kind) (left *int, spoils bool) {
	switch k {
	case doPrepareNo, doArriveNo, doDecideNo:
		return &b.Noes, true
	case doDecideGiveUp, doLost:
		return &b.Losses, true
	case doCallOff:
		return nil, true
	case doPrepareGiveUp, doGiveUp:
		// Whoever does not answer is asked again: only the clock makes a rollback of it.
		return &b.Losses, false
	case doStray:
		return &b.Strays, true
	case doRollback:
		return &b.Rollbacks, true
	case doAsk:
		return &b.Asks, false
	case doEnlist, doRunAgain:
		return &b.Enlists, false
	case doCancel:
		return &b.Cancels, false
	case doCrash:
		return &b.Crashes, true
	case doDepose:
		return &b.Depositions, true
	case doList:
		return &b.Sweeps, false
	case doTick:
		return &b.Ticks, true
	case doSessionLoss:
		return &b.SessionLosses, true
	case doFailover:
		return &b.Failovers, true
	case doHumanCommit, doHumanRollback:
		return &b.Interventions, true
	case doOutage:
		return &b.Outages, false
	}
	return nil, false
}

// loseSession ends a session before its branch is prepared, with nobody left who saw it.
func (w *world) loseSession(i, s int) {
	r := &w.resources[i]
	n := r.sessions[s].name
	w.trace.say("the session of %s at %s is lost", describeName(n), r.name)
	r.drop(n)
	w.endSession(n)
}

func (w *world) endSession(n txn.Name) {
	if t := w.truth(n); t != nil {
		t.ended = true
	}
	w.checkAtomicity(n.ID())
}

func (w *world) failover(i, lost int) {
	r := &w.resources[i]
	w.trace.say("%s fails over to a standby that lacks %d operations", r.name, lost)
	sessions := slices.Clone(r.sessions)
	cut := r.failover(lost)
	w.noteCut(r, cut)
	for _, s := range sessions {
		w.endSession(s.name)
	}
}

// intervene is a person who ends a prepared branch.
func (w *world) intervene(i, p int, commit bool) {
	r := &w.resources[i]
	n := r.prepared()[p]
	t := w.truth(n)
	e := w.entry(n.ID())
	e.meddled = e.meddled || !e.committed && !w.sc.Resources[i].OnePhase
	word := "rolls back"
	if commit {
		word = "commits"
		r.write(opCommit, n)
		t.humanCommit = true
	} else {
		r.write(opRollback, n)
		t.humanRollback = true
	}
	w.trace.say("a person %s %s at %s", word, describeName(n), r.name)
}

// goWrong does what only a flaw would do.
func (w *world) goWrong(a, b int) {
	switch w.sc.Flaw {
	case Unilateral:
		r := &w.resources[a]
		n := r.prepared()[b]
		w.trace.say("%s rolls %s back by itself", r.name, describeName(n))
		r.write(opRollback, n)
		w.noteRolledBack(n)
		w.checkAtomicity(n.ID())
	case AbortsAtWill:
		w.step(protocol.Rollback{ID: w.entryOf(a).id})
	case ClockRunsBack:
		w.tick(start)
	case FailedAppendAborts:
		w.failAppend(w.entryOf(a))
	}
}

// failAppend is a driver that has no answer from its disk and takes that for a No.
func (w *world) failAppend(e *entry) {
	if !w.deciding(e.id) {
		return
	}
	w.trace.say("the append of %d is not answered, and the driver aborts", e.id.Seq())
	w.checkResult(&txn.Result{ID: e.id, Outcome: txn.OutcomeRolledBack})
}

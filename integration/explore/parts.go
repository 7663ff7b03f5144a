package explore

import (
	"fmt"
	"slices"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// parts are worlds in which the client calls another process, which works in a part of its own and
// sends its votes home.
func parts() []Scenario {
	ab := resources("ab", proves)
	aQuiet := append(resources("a", quietly), resources("b", proves)...)
	bQuiet := append(resources("a", proves), resources("b", quietly)...)
	twice := calling(ofClient("a"), "b")
	return []Scenario{
		{Name: "parts, a call made twice", Resources: ab, Transactions: twice,
			Bounds: Bounds{Retries: 1, Losses: 1, Repeats: 1}},
		{Name: "parts, a call made twice, and a crash", Resources: aQuiet, Transactions: twice,
			Bounds: Bounds{Retries: 1, Crashes: 1, Enlists: 1}},
		{Name: "parts, an answer that is lost", Resources: resources("ab", quietly),
			Transactions: calling(ofClient("a"), "b", "b"),
			Bounds:       Bounds{Losses: 1, Rollbacks: 1}},
		{Name: "parts, a refusal and a crash", Resources: bQuiet, Transactions: twice,
			Bounds: Bounds{Losses: 1, Noes: 1, Crashes: 1}},
		{Name: "parts, late PREPARE, deadline, sweep", Resources: aQuiet, Transactions: twice,
			Bounds: Bounds{Retries: 1, Ticks: 1, Sweeps: 1}},
		{Name: "parts, failover to a standby that lags", Resources: aQuiet, Transactions: twice,
			Bounds: Bounds{Retries: 1, Failovers: 1, LostOps: 1}},
		{Name: "parts, a deposed owner goes on", Resources: aQuiet, Transactions: twice,
			Bounds: Bounds{Retries: 1, Depositions: 1, Lingers: 3}},
		{Name: "parts, votes that are not complete", Resources: ab,
			Transactions: incomplete(twice),
			Bounds:       Bounds{Retries: 1, Losses: 1}},
		{Name: "parts, parallel, announced", Resources: ab,
			Transactions: calling(announced("a"), "b"),
			Bounds:       Bounds{Retries: 1, Crashes: 1}},
		{Name: "parts, parallel, votes asked for",
			Resources:    append(resources("a", proves), resources("b", commitsPlainly)...),
			Transactions: leaving("b", calling(decided(ofClient("a")), "b")),
			Bounds:       Bounds{Retries: 1, Crashes: 1}},
		{Name: "parts, one phase",
			Resources:    append(resources("a", proves), resources("b", commitsPlainly)...),
			Transactions: leaving("b", reading("a", calling(ofClient("a"), "b"))),
			Bounds:       Bounds{Retries: 1, Losses: 1, Crashes: 1}},
		{Name: "parts, delegate",
			Resources:    append(resources("a", quietly), resources("b", marks)...),
			Transactions: calling(delegated("a", "b"), "a"),
			Bounds:       Bounds{Retries: 1, Crashes: 1}},
	}
}

// partsDeeper are such worlds for a long run.
func partsDeeper() []Scenario {
	ab := resources("ab", proves)
	aQuiet := append(resources("a", quietly), resources("b", proves)...)
	twice := calling(ofClient("a"), "b")
	return []Scenario{
		{Name: "deep: parts, two calls, one made twice", Resources: resources("ab", quietly),
			Transactions: calling(ofClient("a"), "b", "b"),
			Bounds:       Bounds{Retries: 1, Losses: 1}},
		{Name: "deep: parts, one call at two resources, a crash and a loss", Resources: aQuiet,
			Transactions: wide(twice, "a", "b"),
			Bounds:       Bounds{Retries: 1, Crashes: 1, Losses: 1}},
		{Name: "deep: parts, two crashes and a loss", Resources: ab, Transactions: twice,
			Bounds: Bounds{Retries: 1, Crashes: 2, Losses: 1}},
		{Name: "deep: parts, a crash, deadline and sweeps", Resources: aQuiet,
			Transactions: twice,
			Bounds:       Bounds{Retries: 1, Crashes: 1, Ticks: 1, Sweeps: 2}},
		{Name: "deep: parts, failover and a crash", Resources: aQuiet, Transactions: twice,
			Bounds: Bounds{Retries: 1, Failovers: 1, LostOps: 2, Crashes: 1}},
		{Name: "deep: parts, a person and a crash", Resources: ab, Transactions: twice,
			Bounds: Bounds{Retries: 1, Interventions: 1, Crashes: 1}},
		{Name: "deep: parts, a deposed owner and a rollback", Resources: ab,
			Transactions: decided(calling(ofClient("a"), "b")),
			Bounds:       Bounds{Retries: 1, Depositions: 1, Lingers: 4, Rollbacks: 1}},
		{Name: "deep: parts, one phase, two crashes",
			Resources:    append(resources("a", proves), resources("b", commitsPlainly)...),
			Transactions: leaving("b", reading("a", calling(ofClient("a"), "b"))),
			Bounds:       Bounds{Retries: 1, Losses: 1, Crashes: 2}},
	}
}

// wide has each call work at all of some resources.
func wide(ts []Transaction, resources ...string) []Transaction {
	ts = slices.Clone(ts)
	for i := range ts {
		ts[i].Calls = slices.Repeat([][]string{resources}, len(ts[i].Calls))
	}
	return ts
}

// calling has the client call another process for each of some resources, and send complete votes.
// They prepare their branches as the client does.
func calling(ts []Transaction, resources ...string) []Transaction {
	for i := range ts {
		for _, r := range resources {
			ts[i].Calls = append(ts[i].Calls, []string{r})
		}
		ts[i].ByClient = slices.Concat(ts[i].ByClient, resources)
		ts[i].Complete = true
	}
	return ts
}

// incomplete has clients leave branches without a vote to the coordinator.
func incomplete(ts []Transaction) []Transaction {
	ts = slices.Clone(ts)
	for i := range ts {
		ts[i].Complete = false
	}
	return ts
}

// run is one time that a call is carried out by another process, in a part of its own. The process
// that did it before may still be at work.
type run struct {
	// call is which of the transaction's calls it is.
	call int
	// refused: the coordinator gives it no branches.
	refused bool
	// votes are of the branches that it has prepared.
	votes []txn.BranchVote
}

// partOf is the name of a run's part, and runOf the run that has asked, or zero.
func partOf(run int) string { return fmt.Sprint("run", run) }

func runOf(e protocol.Event) (run int) {
	if b, ok := e.(protocol.Begin); ok && b.Request.Part != "" {
		_, _ = fmt.Sscanf(b.Request.Part, "run%d", &run)
	}
	return run
}

// votesOf is where the votes of a run are kept, or those of the client itself and of all answers.
func (c *client) votesOf(run int) *[]txn.BranchVote {
	if run == 0 {
		return &c.votes
	}
	return &c.runs[run-1].votes
}

// ran says whether a call was carried out.
func (c *client) ran(call int) bool {
	return slices.ContainsFunc(c.runs, func(r run) bool { return r.call == call })
}

// isReady says whether a client has all votes for which it waits.
func (w *world) isReady(i int) bool {
	calls := len(w.sc.Transactions[i].Calls)
	return w.clients[i].answered == 1<<calls-1 && len(w.unvotedBy(i, 0)) == 0
}

// unvotedBy are the branches that a run, or the client itself, has still to prepare.
func (w *world) unvotedBy(i, run int) []int {
	return slices.DeleteFunc(w.unvoted(i), func(b int) bool {
		return w.entryOf(i).branches[b].run != run
	})
}

// runChoices are the calls that reach another process, and its requests that reach the coordinator.
// One that is made again, or that the client has given up, may be late.
func (w *world) runChoices(all []choice, i int) []choice {
	c := &w.clients[i]
	for call := range w.sc.Transactions[i].Calls {
		all = some(all, !c.ran(call) || w.left.Retries > 0, doRun, i, call)
	}
	for r := range c.runs {
		all = some(all, w.left.Enlists > 0, doRunAgain, i, r+1)
	}
	return all
}

// answerChoices are the answers of called processes, as long as the client waits for them. One is
// ready when every branch is prepared, or is left to the coordinator.
func (w *world) answerChoices(all []choice, i int) []choice {
	c := &w.clients[i]
	for r := range c.runs {
		waits := c.answered&(1<<c.runs[r].call) == 0
		all = some(all, waits && len(w.unvotedBy(i, r+1)) == 0, doHome, i, r+1)
	}
	for call := range w.sc.Transactions[i].Calls {
		waits := c.answered&(1<<call) == 0
		all = some(all, waits && w.left.Losses > 0, doLost, i, call)
	}
	return all
}

// takeCall does one of these steps, for a call or for a run of one.
func (w *world) takeCall(i, at int, k kind) {
	switch k {
	case doRun:
		w.carryOut(i, at)
	case doRunAgain:
		w.enlistRun(i, at)
	case doHome:
		w.bringHome(i, at)
	default:
		w.giveUpCall(i, at)
	}
}

// carryOut lets another process do what it is called for: it begins with its branches. To do so
// twice spoils the commit.
func (w *world) carryOut(i, call int) {
	c := &w.clients[i]
	if c.ran(call) {
		w.left.Retries--
		w.faulty = true
	}
	c.runs = append(c.runs, run{call: call})
	w.trace.say("call %d of the client is carried out", call+1)
	w.enlistRun(i, len(c.runs))
}

// enlistRun asks for the branches of a run. Who asks again is told of the same ones.
func (w *world) enlistRun(i, run int) {
	req := w.newReq()
	call := w.clients[i].runs[run-1].call
	w.ask(i, req, protocol.Begin{Req: req, Request: txn.BeginRequest{ID: w.entryOf(i).id,
		Part: partOf(run), Resources: w.sc.Transactions[i].Calls[call]}})
}

// bringHome is the answer of a run, with its votes. That of a branch which the coordinator is to
// prepare is not known.
func (w *world) bringHome(i, run int) {
	c, e := &w.clients[i], w.entryOf(i)
	r := c.runs[run-1]
	c.answered |= 1 << r.call
	votes := slices.Clone(r.votes)
	for b := range e.branches {
		if no := txn.BranchNo(b + 1); e.branches[b].run == run {
			e.branches[b].heard = true
			if !votedOf(votes, no) {
				votes = append(votes, txn.BranchVote{Branch: no})
			}
		}
	}
	c.votes = inOrder(append(c.votes, votes...))
	w.trace.say("call %d is answered from %s, with %d votes", r.call+1, partOf(run), len(votes))
}

// giveUpCall is a client that waits for an answer no more, and goes on without the votes.
func (w *world) giveUpCall(i, call int) {
	w.clients[i].answered |= 1 << call
	w.trace.say("the answer of call %d is lost", call+1)
}

// withUnknown adds to a client's votes those of its own branches that the coordinator is to
// prepare: the client has heard of them.
func (w *world) withUnknown(i int, votes []txn.BranchVote) []txn.BranchVote {
	e := w.entryOf(i)
	for b := range e.branches {
		if no := txn.BranchNo(b + 1); e.branches[b].run == 0 && !votedOf(votes, no) {
			votes = append(votes, txn.BranchVote{Branch: no})
		}
	}
	return inOrder(votes)
}

// checkHeard wants the client to have heard of every branch before its transaction is decided, if
// its votes are complete.
func (w *world) checkHeard(e *entry) {
	for i := range e.branches {
		if w.sc.Transactions[e.client].Complete && !e.branches[i].heard {
			w.fail(CommitValidity, "%d is committed, and its client has not heard of branch %d",
				e.id.Seq(), i+1)
		}
	}
}

// checkOnce wants what a call did to commit in one of its parts alone.
func (w *world) checkOnce(e *entry, t *truth) {
	runs := w.clients[e.client].runs
	for i := range e.branches {
		o := &e.branches[i]
		if !w.sc.Transactions[e.client].Complete || o.run == 0 || t.run == 0 || o.run == t.run {
			continue
		}
		if o.committed && runs[o.run-1].call == runs[t.run-1].call {
			w.fail(ExactlyOnce, "call %d of %d has committed twice", runs[t.run-1].call+1,
				e.id.Seq())
		}
	}
}

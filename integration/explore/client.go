package explore

import (
	"slices"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// client is one caller with one transaction. It may stop at any moment: that is a history in which
// its steps do not come.
type client struct {
	// begun: Begin was sent. entry is the place of the transaction in the world's book, or -1.
	begun bool
	entry int
	// votes are those that it has gathered. commits counts its Commits, up to two.
	votes   []txn.BranchVote
	commits int
	// runs are its calls of other processes, as often as they were carried out, and answered has
	// the bits of those calls for whose answer it waits no more.
	runs     []run
	answered uint64
	// announced: it has said that it is preparing.
	announced bool
	// over: it has heard that its key's transaction has ended already.
	over bool
}

// newReq is the lowest number that no waiting caller has.
func (w *world) newReq() protocol.ReqID {
	for req := protocol.ReqID(1); ; req++ {
		if !slices.ContainsFunc(w.requests, func(r request) bool { return r.req == req }) {
			return req
		}
	}
}

// ask sends an event on behalf of a client. The event holds the number that newReq gave.
func (w *world) ask(i int, req protocol.ReqID, e protocol.Event) {
	w.requests = append(w.requests, request{req, i, e})
	w.step(e)
}

func (w *world) begin(i int) {
	spec := w.sc.Transactions[i]
	w.clients[i].begun = true
	req := w.newReq()
	w.ask(i, req, protocol.Begin{Req: req,
		Request: txn.BeginRequest{Resources: spec.Resources, Key: spec.Key,
			Delegate: spec.Delegate}})
}

// begunReply starts the work at every resource of the answer, which a run of a call has asked for,
// or the client itself.
func (w *world) begunReply(i, run int, b *txn.Begun) {
	c := &w.clients[i]
	if b.Existing != nil {
		c.over = true
		w.checkResult(b.Existing)
		return
	}
	e := w.entry(b.ID)
	if e != nil && e.unheard {
		w.heard(i, e, b)
		return
	}
	if e != nil && c.entry < 0 {
		w.fail(ExactlyOnce, "the id of transaction %d is given out twice", e.id.Seq())
		return
	}
	if e == nil {
		c.entry = len(w.entries)
		w.entries = append(w.entries, entry{id: b.ID, client: i, epoch: w.epoch})
		e = &w.entries[c.entry]
	}
	for _, x := range b.Branches {
		w.enlisted(e, run, x)
	}
}

// enlisted opens the session of a branch of which a part is told for the first time.
func (w *world) enlisted(e *entry, run int, x txn.Enlisted) {
	switch n := int(x.Branch); {
	case n <= len(e.branches) && e.branches[n-1].run != run:
		w.fail(ExactlyOnce, "branch %d of %d is given to two parts", n, e.id.Seq())
		return
	case n <= len(e.branches):
		return
	}
	at := w.sc.resource(x.Resource)
	e.branches = append(e.branches, truth{resource: at, run: run, heard: run == 0,
		reader: slices.Contains(w.sc.Transactions[e.client].Readers, x.Resource)})
	w.resources[at].open(x.Name)
}

// heard is the answer to a Begin of a transaction whose decision is left to a branch.
func (w *world) heard(i int, e *entry, b *txn.Begun) {
	w.checkTold(e)
	e.unheard = false
	w.clients[i].entry = slices.IndexFunc(w.entries, func(o entry) bool { return o.id == b.ID })
	if b.Delegate != e.delegate || len(b.Branches) != len(e.branches) {
		w.fail(ClientTruth, "%d is told of other branches than the log", e.id.Seq())
		return
	}
	for _, x := range b.Branches {
		w.resources[w.sc.resource(x.Resource)].open(x.Name)
	}
}

// byClient says whether a branch is prepared by its client.
func (w *world) byClient(n txn.Name) bool {
	e, t := w.entry(n.ID()), w.truth(n)
	return t != nil && w.preparesItself(e.client, t)
}

func (w *world) preparesItself(i int, t *truth) bool {
	return slices.Contains(w.sc.Transactions[i].ByClient, w.sc.Resources[t.resource].Name)
}

func (w *world) entryOf(i int) *entry {
	if w.clients[i].entry < 0 {
		return nil
	}
	return &w.entries[w.clients[i].entry]
}

// unvoted are the branches that a client, or whom it has called, has still to prepare.
func (w *world) unvoted(i int) []int {
	e := w.entryOf(i)
	if e == nil {
		return nil
	}
	var left []int
	for b := range e.branches {
		if !w.preparesItself(i, &e.branches[b]) || int(e.delegate) == b+1 {
			continue
		}
		if !votedOf(*w.clients[i].votesOf(e.branches[b].run), txn.BranchNo(b+1)) {
			left = append(left, b)
		}
	}
	return left
}

// prepareByClient runs PREPARE on the client's own session and takes the vote: what the session
// saw.
func (w *world) prepareByClient(i, b int, refuse bool) {
	e := w.entryOf(i)
	n := txn.NameOf(e.id, txn.BranchNo(b+1))
	t := &e.branches[b]
	r := &w.resources[t.resource]
	v := txn.BranchVote{Branch: n.Branch}
	switch {
	case !r.active(n):
		v.Vote = txn.VoteNo
		t.ended = true
	case refuse:
		v.Vote = txn.VoteNo
		t.ended = true
		r.drop(n)
	case t.reader:
		v.Vote = txn.VoteReadOnly
		t.readOnly = true
		r.drop(n)
	default:
		v.Vote, v.Evidence = txn.VoteYes, w.prepareNow(r, n)
	}
	w.vote(i, v)
	if w.trace != nil {
		w.trace.say("the client prepares %s at %s: %s", describeName(n), r.name, describeVote(v))
	}
	w.checkAtomicity(e.id)
}

// giveUpPrepare is a client whose PREPARE does not answer. It may still succeed.
func (w *world) giveUpPrepare(i, b int) {
	e := w.entryOf(i)
	n := txn.NameOf(e.id, txn.BranchNo(b+1))
	w.addCall(call{stale: true, client: true, msg: protocol.Message{
		Act: protocol.ActPrepare, RM: rm(e.branches[b].resource), ID: e.id, Name: n}})
	w.vote(i, txn.BranchVote{Branch: n.Branch})
	w.trace.say("the PREPARE of %s does not answer", describeName(n))
}

// stray is a client whose address leads to another server: what it prepares there is a real Yes,
// and worth nothing here.
func (w *world) stray(i, b int) {
	e := w.entryOf(i)
	n := txn.NameOf(e.id, txn.BranchNo(b+1))
	r := &w.resources[e.branches[b].resource]
	elsewhere := txn.Identity{System: 99, Database: 7}
	w.vote(i, txn.BranchVote{Branch: n.Branch, Vote: txn.VoteYes, Evidence: txn.Evidence{
		Identity: elsewhere, Position: r.position(), XID: firstXID}})
	r.drop(n)
	e.branches[b].ended = true
	w.trace.say("the client prepares %s at server %s, not at %s", describeName(n), elsewhere,
		r.name)
	w.checkAtomicity(e.id)
}

// vote keeps a vote for whoever prepares the branch.
func (w *world) vote(i int, v txn.BranchVote) {
	votes := w.clients[i].votesOf(w.entryOf(i).branches[v.Branch-1].run)
	*votes = inOrder(append(*votes, v))
}

// inOrder sorts votes by their branches.
func inOrder(votes []txn.BranchVote) []txn.BranchVote {
	slices.SortFunc(votes, func(a, b txn.BranchVote) int { return int(a.Branch) - int(b.Branch) })
	return votes
}

func votedOf(votes []txn.BranchVote, no txn.BranchNo) bool {
	return slices.ContainsFunc(votes, func(v txn.BranchVote) bool { return v.Branch == no })
}

func (w *world) commit(i int) {
	c := &w.clients[i]
	w.repeats(c.commits > 0)
	c.commits = min(c.commits+1, 2)
	req := w.newReq()
	votes, e := slices.Clone(c.votes), w.entryOf(i)
	if w.sc.Transactions[i].Terse {
		votes = slices.DeleteFunc(votes, func(v txn.BranchVote) bool {
			return v.Branch != e.delegate
		})
	}
	complete := w.sc.Transactions[i].Complete
	if complete {
		votes = w.withUnknown(i, votes)
	}
	w.ask(i, req, protocol.Commit{Req: req, Request: txn.CommitRequest{ID: e.id, Votes: votes,
		Complete: complete, Ack: w.sc.Transactions[i].Ack}})
}

// announce says that the branches are being prepared. When it is heard, if ever, depends on nothing
// but the network: before the votes, after them, or by another epoch.
func (w *world) announce(i int) {
	w.repeats(w.clients[i].announced)
	w.clients[i].announced = true
	req := w.newReq()
	w.ask(i, req, protocol.Commit{Req: req, Request: txn.CommitRequest{ID: w.entryOf(i).id,
		Intent: true, Ack: w.sc.Transactions[i].Ack}})
}

func (w *world) rollback(i int) {
	req := w.newReq()
	w.ask(i, req, protocol.Rollback{Req: req, ID: w.entryOf(i).id})
}

func (w *world) inquire(i int) {
	req := w.newReq()
	if w.sc.Flaw == AnswersUnowned {
		w.answerUnowned(i)
		return
	}
	w.ask(i, req, protocol.Ask{Req: req, ID: w.entryOf(i).id})
}

// answerUnowned is an answer from the durable log by somebody who does not own it, as a follower
// would give it: no record means rolled back.
func (w *world) answerUnowned(i int) {
	id := w.entryOf(i).id
	r := txn.Result{ID: id, Outcome: txn.OutcomeRolledBack}
	if w.m.State().Committed(id) {
		r.Outcome = txn.OutcomeCommitted
	}
	w.trace.say("somebody else answers for %d: %s", id.Seq(), r.Outcome)
	w.checkResult(&r)
}

// enlist asks once more for the resources that are in the transaction already.
func (w *world) enlist(i int) {
	req := w.newReq()
	w.ask(i, req, protocol.Begin{Req: req, Request: txn.BeginRequest{ID: w.entryOf(i).id,
		Resources: w.sc.Transactions[i].Resources}})
}

// cancel is a caller that goes away.
func (w *world) cancel(at int) {
	r := w.requests[at]
	w.requests = slices.Delete(w.requests, at, at+1)
	if b, ok := r.event.(protocol.Begin); ok && b.Request.Delegate != "" {
		// Nobody will ever know of what it began, and the log does.
		w.faulty = true
	}
	w.step(protocol.Cancel{Of: r.event})
}

// replied takes a reply to its client.
func (w *world) replied(rep protocol.Reply) {
	at := slices.IndexFunc(w.requests, func(r request) bool { return r.req == rep.Req })
	if at < 0 {
		w.fail(ClientTruth, "a reply to #%d, and nobody waits for it", rep.Req)
		return
	}
	r := w.requests[at]
	w.requests = slices.Delete(w.requests, at, at+1)
	run := runOf(r.event)
	switch {
	case rep.Err != nil && run != 0:
		w.clients[r.client].runs[run-1].refused = true
		w.checkRefusal(r, rep.Err)
	case rep.Err != nil:
		w.checkRefusal(r, rep.Err)
	case rep.Begun != nil:
		w.begunReply(r.client, run, rep.Begun)
	case rep.Result != nil:
		w.checkResult(rep.Result)
	}
}

// answerOnCrash tells the callers that wait what a process that dies may tell: nothing. The flaw is
// to take that for a rollback.
func (w *world) answerOnCrash() {
	if w.sc.Flaw != CrashIsRollback {
		return
	}
	for _, r := range w.requests {
		if c, ok := r.event.(protocol.Commit); ok {
			w.trace.say("the caller of #%d is told that it was rolled back", r.req)
			w.checkResult(&txn.Result{ID: c.Request.ID, Outcome: txn.OutcomeRolledBack})
		}
	}
}

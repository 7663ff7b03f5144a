package sim

import (
	"fmt"
	"slices"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// Calls of other processes that take a transaction along: what the callers do, what those do whom
// they call, and what is checked.

// call is one call, as its client sees it.
type call struct {
	k *work
	// tries counts how often it was made, and runs how often it was carried out.
	tries, runs int
	// over: the client waits no more; failed: it has no votes.
	over, failed bool
}

// callOut calls other processes, if this client does, and ends the transaction when all have
// answered. Where the decision is left to a branch nobody else has part.
func (k *work) callOut() {
	w := k.c.w
	if k.delegate != 0 || !w.drawn(w.opt.call) {
		k.end()
		return
	}
	w.book.entry(k.id).complete = true
	for range 1 + w.rng.IntN(2) {
		k.calls = append(k.calls, &call{k: k})
	}
	for _, c := range k.calls {
		w.count[called]++
		c.send()
	}
}

// send makes a call, and once more if there is no answer soon: some have a policy for that. Whoever
// carries it out already goes on with it, and if the network doubles it there are two.
func (c *call) send() {
	w := c.k.c.w
	c.tries++
	w.travel(between, there, c.carryOut)
	if w.opt.calm {
		return
	}
	wait, again := min(w.opt.patience, second), c.tries < 3 && w.drawn(w.opt.again)
	if again {
		wait = w.spread(wait)
	}
	w.after(wait, func() {
		switch {
		case c.over || !c.k.c.survives():
		case again:
			c.send()
		default:
			w.count[givenUp]++
			c.failed = true
			c.end()
		}
	})
}

// carryOut is another process that does what it is called for, at some of the resources, in a part
// of its own. It lives and dies by itself.
func (c *call) carryOut() {
	w := c.k.c.w
	e := w.book.entry(c.k.id)
	if c.runs++; c.runs > 1 {
		w.count[calledAgain]++
	}
	part := fmt.Sprint("part ", len(e.callOf)+1)
	if e.callOf == nil {
		e.callOf = map[string]*call{}
	}
	e.callOf[part] = c
	h := &work{c: &client{w: w, no: c.k.c.no}, id: c.k.id, part: part, cause: c}
	h.c.open = h
	from := len(c.k.names)
	if !w.opt.calm {
		from = len(w.dbs)
	}
	for _, i := range w.rng.Perm(from)[:1+w.rng.IntN(from)] {
		name := w.dbs[i].name
		if w.opt.calm {
			// Another one may not be registered yet.
			name = c.k.names[i]
		}
		h.names = append(h.names, name)
	}
	h.c.think(h.enlistPart)
}

// enlistPart asks for the branches of a part, until there is an answer.
func (k *work) enlistPart() {
	r := txn.BeginRequest{ID: k.id, Part: k.part, Resources: k.names}
	k.c.w.request(protocol.Begin{Request: r}, func(rep protocol.Reply, ok bool) {
		switch {
		case ok && rep.Err == nil:
			k.workAt(rep.Begun, func() { k.c.think(k.preparePart) })
		case ok && final(rep.Err):
			k.c.w.count[partRefused]++
			k.refused = true
			k.goHome()
		default:
			k.again(k.enlistPart)
		}
	})
}

// preparePart ends the work of a part.
func (k *work) preparePart() {
	for _, b := range k.branches {
		k.prepare(b)
	}
	if k.waiting == 0 {
		k.goHome()
	}
}

// goHome is the answer of a called process, with the votes of its part.
func (k *work) goHome() {
	c, votes := k.cause, k.allVotes()
	k.c.w.travel(between, back, func() { c.answered(k, votes) })
}

// allVotes are the votes of a client, or of a part, with one for each of its branches. Those that
// it leaves to the coordinator are not known.
func (k *work) allVotes() []txn.BranchVote {
	votes := slices.Clone(k.votes)
	for _, b := range k.branches {
		voted := slices.ContainsFunc(votes, func(v txn.BranchVote) bool {
			return v.Branch == b.name.Branch
		})
		if !voted {
			votes = append(votes, txn.BranchVote{Branch: b.name.Branch})
		}
	}
	return inOrder(votes)
}

// answered takes the first answer of a call. Later ones are of others who have done the same.
func (c *call) answered(by *work, votes []txn.BranchVote) {
	if c.over || c.k.c.dead {
		return
	}
	e := c.k.c.w.book.entry(c.k.id)
	for i := range e.branches {
		e.branches[i].heard = e.branches[i].heard || e.branches[i].part == by.part
	}
	c.failed = by.refused
	c.k.votes = inOrder(append(c.k.votes, votes...))
	c.end()
}

// end is the end of a call. After the last one the transaction goes on; but a client whose call has
// failed gives it up, unless it does not care.
func (c *call) end() {
	k, w := c.k, c.k.c.w
	c.over = true
	failed := false
	for _, o := range k.calls {
		if !o.over {
			return
		}
		failed = failed || o.failed
	}
	if failed && w.rng.IntN(4) > 0 {
		k.c.think(k.rollback)
		return
	}
	k.c.think(k.end)
}

// checkHeard wants the client to have heard of every branch before its transaction is decided, if
// its votes are complete.
func (w *world) checkHeard(e *entry) {
	for i := range e.branches {
		if e.complete && !e.branches[i].heard {
			w.fail(commitValidity, "%d is committed, and its client has not heard of branch %d",
				e.id.Seq(), i+1)
		}
	}
}

// checkOnce wants what a call did to commit in one of its parts alone.
func (w *world) checkOnce(e *entry, t *truth) {
	if t.part == "" {
		return
	}
	w.count[callCommitted]++
	for i := range e.branches {
		o := &e.branches[i]
		if o.committed && o.part != t.part && e.callOf[o.part] == e.callOf[t.part] {
			w.fail(exactlyOnce, "a call of %d has committed twice", e.id.Seq())
		}
	}
}

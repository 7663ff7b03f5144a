package sim

import (
	"fmt"
	"slices"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// client is an application: it runs one transaction after the other, on sessions of its own or of a
// sidecar, and may die at any step.
type client struct {
	w    *world
	no   int
	left int
	dead bool
	// open is the transaction that it works on, or nil.
	open *work
}

// work is one transaction of a client.
type work struct {
	c *client
	// names are the resources; key is empty for most.
	names []string
	key   string
	id    txn.ID

	branches []*branch
	votes    []txn.BranchVote
	waiting  int
	ack      txn.AckLevel
	plan     txn.Plan
	// announces: it lets the intent be written down while it prepares the branches.
	announces bool
	// leaves: it asks for leaving the decision to one of its resources, and delegate is the branch
	// to which that was done, or zero.
	leaves   bool
	delegate txn.BranchNo
	tries    int
	// calls are those of other processes. part is the name of what such a process has of the
	// transaction, for the call that is its cause; both are empty for the client's own work.
	calls []*call
	part  string
	cause *call
	// refused: the coordinator gives the part no branches.
	refused bool
	// over: the client knows how it ended, or that nobody will tell.
	over bool
}

// branch is one part of a transaction, as its client sees it.
type branch struct {
	name    txn.Name
	d       *database
	server  *server
	session *session
	// self: the client prepares it, and leaves it to the coordinator to find that out.
	self, asked, voted bool
	// at is where it has to be, if the decision is left to one of the branches.
	at txn.Evidence
}

// think plans a client's next step, if it lives that long.
func (c *client) think(do func()) {
	c.w.after(c.w.spread(c.w.opt.think), func() {
		if c.w.broken == nil && c.survives() {
			do()
		}
	})
}

// survives decides whether a client dies now. Its sessions end with it, sooner or later; what it
// has sent is on its way.
func (c *client) survives() bool {
	if c.dead {
		return false
	}
	if c.w.healed || c.w.opt.die == 0 || !c.w.some(c.w.opt.die) {
		return true
	}
	c.dead = true
	c.w.count[clientDeath]++
	c.w.say("client %d dies", "", uint64(c.no))
	if c.open != nil {
		c.open.release()
	}
	return false
}

// start begins the next transaction, unless this was the last.
func (c *client) start() {
	c.open = nil
	if c.left == 0 || c.w.healed {
		return
	}
	c.left--
	k := &work{c: c, ack: txn.AckLevel(c.w.rng.IntN(2)), announces: c.w.some(c.w.opt.announce)}
	switch {
	case k.announces && c.w.rng.IntN(4) > 0:
		k.ack = txn.AckDecided
	case c.w.some(c.w.opt.classic):
		k.plan = txn.PlanClassic
	}
	c.open = k
	for _, i := range c.w.rng.Perm(len(c.w.dbs))[:1+c.w.rng.IntN(len(c.w.dbs))] {
		k.names = append(k.names, c.w.dbs[i].name)
	}
	if c.w.some(c.w.opt.keys) {
		k.key = fmt.Sprint("key ", c.w.rng.IntN(3))
		if c.w.opt.calm {
			k.key = fmt.Sprint("key ", c.no, c.left)
		}
	}
	if k.leaves = c.w.drawn(c.w.opt.leave); k.leaves {
		k.announces, k.plan = false, txn.PlanUnset
	}
	// Transactions are spread over the time in which things go wrong.
	gap := c.w.opt.horizon / instant(c.w.opt.perClient)
	pause := instant(c.w.rng.Int64N(int64(gap)))
	c.w.trouble(c.w.now + pause + c.w.opt.think)
	c.w.after(pause, func() { c.think(k.begin) })
}

// drawn is a thing that some worlds know and others do not: those draw nothing.
func (w *world) drawn(rate int) bool { return rate > 0 && w.some(rate) }

// begin asks for a transaction, perhaps with some of its resources now and the others later.
func (k *work) begin() {
	w := k.c.w
	first := 1 + w.rng.IntN(len(k.names))
	if w.opt.calm {
		// Some resource may not be registered yet, and enlisting it later would fail.
		first = len(k.names)
	}
	r := txn.BeginRequest{Resources: k.names[:first], Key: k.key, Body: []byte(k.key)}
	k.leave(&r)
	w.request(protocol.Begin{Request: r}, func(rep protocol.Reply, ok bool) {
		switch {
		case ok && rep.Err == nil && rep.Begun.Existing != nil:
			k.finish()
		case ok && rep.Err == nil:
			k.id = rep.Begun.ID
			k.took(rep.Begun)
		case ok && final(rep.Err):
			k.finish()
		default:
			k.again(k.begin)
		}
	})
}

// took starts the work of the branches that the coordinator has acknowledged.
func (k *work) took(b *txn.Begun) {
	k.delegate = b.Delegate
	k.workAt(b, func() {
		if len(k.branches) < len(k.names) {
			k.enlist()
			return
		}
		k.c.think(k.callOut)
	})
}

// workAt does the work of the branches that were acknowledged, and then goes on.
func (k *work) workAt(b *txn.Begun, then func()) {
	for _, x := range b.Branches[len(k.branches):] {
		d := k.c.w.dbs[x.Resource[0]-'a']
		self := k.c.w.some(k.c.w.opt.self)
		k.branches = append(k.branches, &branch{name: x.Name, d: d, at: x.At,
			self: self && b.Delegate == 0})
		k.c.w.book.truth(x.Name).reader = k.c.w.some(k.c.w.opt.read)
	}
	k.c.think(func() {
		for _, b := range k.branches {
			k.run(b)
		}
		then()
	})
}

// enlist asks for the resources that are still missing.
func (k *work) enlist() {
	r := txn.BeginRequest{ID: k.id, Resources: k.names}
	if k.delegate != 0 {
		// Only who decides may enlist more.
		r.Delegate = k.branches[k.delegate-1].d.name
	}
	k.c.w.request(protocol.Begin{Request: r}, func(rep protocol.Reply, ok bool) {
		if ok && rep.Err == nil {
			k.took(rep.Begun)
			return
		}
		// It cannot do all that it wanted, and gives the transaction up.
		k.c.think(k.rollback)
	})
}

// run does the SQL of a branch: it opens the session. What cannot be reached has no session, and
// never gets one.
func (k *work) run(b *branch) {
	w := k.c.w
	if b.server != nil || w.now < 0 {
		return
	}
	b.server = b.d.front()
	kind := b.server.rows[b.name].kind
	if !b.d.up || kind != 0 || w.net.cut[beside(b.d.no)][there] {
		return
	}
	epoch := txn.Epoch(0)
	if e := w.book.entry(k.id); e.life != nil {
		epoch = e.life.epoch
	}
	if b.d.spec.hosted && epoch < b.d.fence.Epoch {
		return
	}
	b.session = b.server.open(b.name, epoch)
}

// end decides how the transaction is to end.
func (k *work) end() {
	w := k.c.w
	if w.some(w.opt.abort) {
		w.count[rollbackAsked]++
		k.rollback()
		return
	}
	// Beside the PREPAREs that are sent, or with the votes that are known before any is answered.
	early := w.rng.IntN(2) == 0
	if k.announces && early {
		k.announce()
	}
	if k.delegate != 0 && w.opt.flaw == decidesFirst {
		k.decide()
	}
	for _, b := range k.branches {
		if b.name.Branch != k.delegate {
			k.prepare(b)
		}
	}
	if k.announces && !early {
		k.announce()
	}
	if k.waiting == 0 {
		k.c.think(k.conclude)
	}
}

// announce lets the coordinator write the intent down. Nothing depends on its answer, nor on
// whether it arrives.
func (k *work) announce() {
	r := txn.CommitRequest{ID: k.id, Votes: slices.Clone(k.votes), Ack: k.ack, Plan: k.plan,
		Intent: true}
	k.c.w.request(protocol.Commit{Request: r}, func(protocol.Reply, bool) {})
}

// conclude asks for the decision, unless the client thinks better of what it has announced.
func (k *work) conclude() {
	w := k.c.w
	switch {
	case k.cause != nil:
		k.goHome()
		return
	case k.delegate != 0:
		k.decide()
		return
	}
	if k.announces && w.some(w.opt.abort) {
		w.count[rollbackAsked]++
		k.rollback()
		return
	}
	k.commit()
}

// prepare gets the vote of a branch, unless the coordinator is to do that.
func (k *work) prepare(b *branch) {
	w := k.c.w
	lost := b.session == nil || b.session.gone
	switch {
	case b.d.spec.hosted && k.delegate != 0:
		k.sendPrepare(b)
		return
	case b.d.spec.hosted:
		return
	}
	t := w.book.truth(b.name)
	switch {
	case lost:
		// It was never prepared, and never will be: its session saw to that.
		t.ended = true
		k.vote(b, txn.VoteNo, txn.Evidence{})
	case t.reader:
		b.server.drop(b.session)
		b.session.ended = true
		w.book.readOnly(b.name)
		k.vote(b, txn.VoteReadOnly, txn.Evidence{})
	case w.some(w.opt.refuse):
		w.count[voteNo]++
		k.endSession(b)
		k.vote(b, txn.VoteNo, txn.Evidence{})
	default:
		k.sendPrepare(b)
	}
}

// endSession rolls back what is not prepared.
func (k *work) endSession(b *branch) {
	b.server.drop(b.session)
	b.d.end(b.session)
}

// sendPrepare sends PREPARE and waits for the answer, but not for ever. What is late prepares all
// the same.
func (k *work) sendPrepare(b *branch) {
	w := k.c.w
	b.asked = true
	if b.self {
		// It is for the coordinator to find out, and to be asked too early.
		w.travel(beside(b.d.no), there, func() { k.arrive(b, func(txn.Vote, txn.Evidence) {}) })
		w.count[selfPrepared]++
		return
	}
	k.waiting++
	// Where the number of rows matters nobody but the client can say Yes, and nothing is announced.
	counts := !k.announces && w.drawn(w.opt.regret)
	answer := func(v txn.Vote, ev txn.Evidence) {
		if b.voted {
			return
		}
		switch {
		case counts && v == txn.VoteUnknown:
			v = txn.VoteNo
			w.count[uncounted]++
		case counts && v == txn.VoteYes && w.rng.IntN(2) == 0:
			v = txn.VoteNo
			w.count[regret]++
		}
		b.voted = true
		k.waiting--
		if v != txn.VoteUnknown {
			k.vote(b, v, ev)
		}
		if k.waiting == 0 {
			k.c.think(k.conclude)
		}
	}
	w.travel(beside(b.d.no), there, func() { k.arrive(b, answer) })
	w.after(w.opt.callTimeout, func() { answer(txn.VoteUnknown, txn.Evidence{}) })
}

// arrive is the server's part of a PREPARE. It may be stuck there for a while, behind a lock.
func (k *work) arrive(b *branch, answer func(txn.Vote, txn.Evidence)) {
	w := k.c.w
	if !w.healed && w.some(w.opt.stuck) {
		w.under++
		w.after(w.spread(4*second), func() { w.under--; k.execute(b, answer) })
		return
	}
	k.execute(b, answer)
}

func (k *work) execute(b *branch, answer func(txn.Vote, txn.Evidence)) {
	w := k.c.w
	if b.d.spec.hosted {
		if v := b.d.hostedVote(b.name); v.Vote != txn.VoteUnknown {
			w.travel(beside(b.d.no), back, func() { answer(v.Vote, v.Evidence) })
		}
		return
	}
	again := w.opt.flaw == repeats && b.server.isPrepared(b.name)
	if b.session.gone && !again || !b.d.up {
		// The connection is broken. Whether it had been prepared before is not known to anybody.
		return
	}
	vote, ev := txn.VoteYes, txn.Evidence{}
	at := b.d.at
	// A session is that of its server, wherever the address leads by now.
	b.d.at = b.server
	if b.d.full() {
		vote = txn.VoteNo
		w.count[voteNo]++
		k.endSession(b)
	} else {
		ev = b.d.prepare(b.session)
	}
	b.d.at = at
	w.travel(beside(b.d.no), back, func() { answer(vote, ev) })
}

// vote keeps a vote for the Commit, in the order of the branches.
func (k *work) vote(b *branch, v txn.Vote, ev txn.Evidence) {
	k.votes = inOrder(append(k.votes,
		txn.BranchVote{Branch: b.name.Branch, Vote: v, Evidence: ev}))
}

// inOrder sorts votes by their branches.
func inOrder(votes []txn.BranchVote) []txn.BranchVote {
	slices.SortFunc(votes, func(a, b txn.BranchVote) int { return int(a.Branch) - int(b.Branch) })
	return votes
}

// commit asks for the decision. From here on the client finishes no branch by itself. Some ask
// twice at once, as two threads of one application might, and some for the opposite.
func (k *work) commit() {
	k.settle()
	w := k.c.w
	if !w.some(w.opt.twins) {
		return
	}
	w.after(w.spread(w.opt.latency), func() {
		if w.rng.IntN(3) == 0 && !w.opt.calm {
			w.count[rollbackAsked]++
			w.request(protocol.Rollback{ID: k.id}, func(protocol.Reply, bool) {})
			return
		}
		w.count[twin]++
		k.askCommit(func(protocol.Reply, bool) {})
	})
}

func (k *work) askCommit(done func(protocol.Reply, bool)) {
	k.c.w.request(protocol.Commit{Request: k.commitRequest()}, done)
}

func (k *work) commitRequest() txn.CommitRequest {
	r := txn.CommitRequest{ID: k.id, Votes: slices.Clone(k.votes), Ack: k.ack, Plan: k.plan}
	if len(k.calls) > 0 {
		r.Votes, r.Complete = k.allVotes(), k.c.w.opt.flaw != saysLess
	}
	return r
}

// settle repeats the Commit until the outcome is known. If the votes are refused for good, what
// became of the transaction can still be asked.
func (k *work) settle() {
	k.askCommit(func(rep protocol.Reply, ok bool) {
		switch {
		case ok && rep.Err == nil && known(rep.Result):
			k.finish()
		case ok && rep.Err != nil && final(rep.Err):
			k.ask()
		default:
			k.again(k.settle)
		}
	})
}

func (k *work) ask() {
	k.c.w.request(protocol.Ask{ID: k.id}, func(rep protocol.Reply, ok bool) {
		switch {
		case ok && rep.Err == nil && known(rep.Result), ok && rep.Err != nil && final(rep.Err):
			k.finish()
		default:
			k.again(k.ask)
		}
	})
}

// rollback gives the transaction up.
func (k *work) rollback() {
	k.release()
	k.c.w.request(protocol.Rollback{ID: k.id, Reason: "no"}, func(rep protocol.Reply, ok bool) {
		switch {
		case ok && rep.Err == nil && known(rep.Result), ok && rep.Err != nil && final(rep.Err):
			k.finish()
		default:
			k.again(k.ask)
		}
	})
}

// release rolls back the sessions that the client still has, and that are not about to prepare.
func (k *work) release() {
	for _, b := range k.branches {
		if s := b.session; s != nil && !s.gone && !s.ended && !b.asked {
			k.endSession(b)
		}
	}
}

// again repeats a question after a pause that grows.
func (k *work) again(do func()) {
	k.tries++
	w := k.c.w
	pause := min(20*millisecond<<min(k.tries, 10), second)
	w.after(pause/2+instant(w.rng.Int64N(int64(pause/2))), func() {
		if k.c.survives() {
			do()
		}
	})
}

func (k *work) finish() {
	k.over = true
	k.release()
	k.c.start()
}

// known says whether a result is final.
func known(r *txn.Result) bool { return r.Outcome != txn.OutcomeUnknown }

// final says whether a coordinator has refused for good. The other refusals pass.
func final(err error) bool {
	switch txn.ReasonOf(err) {
	case "", txn.ReasonOverloaded, txn.ReasonNotReady, txn.ReasonLogFull, txn.ReasonShutdown,
		txn.ReasonFailed, txn.ReasonFenced, txn.ReasonKeyBusy:
		return false
	}
	return true
}

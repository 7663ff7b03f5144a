package protocol

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// commit closes the set of branches, takes the votes that came along, asks for the missing ones,
// and decides when there are none missing. A repeated Commit waits for the same decision.
func (m *Machine) commit(e Commit) {
	r := e.Request
	t := m.live[r.ID]
	if t == nil && mutant.On(mutant.ResumeVoting) {
		t = m.resumeVoting(r)
	}
	if t == nil {
		m.replyKnown(e.Req, r.ID)
		return
	}
	if err := m.refuseCommit(t, r); err != nil {
		m.reply(Reply{Req: e.Req, Err: err})
		return
	}
	if t.plan == txn.PlanDelegate {
		m.commitDelegate(t, e)
		return
	}
	if t.undecided() && m.expired(t) {
		m.expire(t)
	}
	if r.Intent {
		m.announced(t, e)
		return
	}
	m.wait(t, waiter{req: e.Req, ack: r.Ack, wait: waitBound(r)})
	if !t.undecided() {
		m.confirm(t)
		m.answer(t)
		m.arm(t)
		return
	}
	if m.close(t); t.votesBy == 0 {
		t.votesBy = m.now + m.cfg.VoteTimeout
	}
	m.takeVotes(t, r.Votes)
	if r.Complete {
		m.missVotes(t, r.Votes)
	}
	if !m.onePhase(t) {
		if r.Ack == txn.AckDecided && r.Plan != txn.PlanClassic {
			m.intend(t)
		}
		m.askVotes(t)
		m.decide(t)
	}
	m.arm(t)
}

// announced writes the intent down while its client prepares the branches. The votes come with a
// second request, and until the deadline nothing bounds the wait for it.
//
// None is written where others have a part: a later epoch would commit all that it finds prepared,
// also for a call that was made twice, and the client has not said yet of which it has heard.
func (m *Machine) announced(t *transaction, e Commit) {
	if t.undecided() && !t.closed {
		m.close(t)
		m.takeVotes(t, e.Request.Votes)
		if !t.hasParts() || mutant.On(mutant.PartsAnnounced) {
			m.intend(t)
		}
		m.arm(t)
	}
	m.reply(Reply{Req: e.Req, Result: m.result(t)})
}

// close makes the set of branches final.
func (m *Machine) close(t *transaction) {
	if !t.closed {
		t.closed, t.state = true, txn.StatePreparing
	}
}

func (m *Machine) takeVotes(t *transaction, votes []txn.BranchVote) {
	for _, v := range votes {
		if t.undecided() {
			m.takeVote(t, v, true)
		}
	}
}

// missVotes calls off what has a branch of which its client has not heard. Whoever enlisted it may
// be preparing it at this moment, on the order of a call that was made again since: what that call
// did must not commit twice.
func (m *Machine) missVotes(t *transaction, votes []txn.BranchVote) {
	for _, b := range t.branches {
		heard := slices.ContainsFunc(votes, func(v txn.BranchVote) bool {
			return v.Branch == b.no
		})
		if t.undecided() && !heard && !mutant.On(mutant.UnheardCommits) {
			m.abort(t, abortReason{txn.CauseVoteUnknown, fmt.Sprintf(
				"branch %d was enlisted by a call of which its client has heard no vote", b.no),
				m.resources[b.rm-1].Name, ""})
		}
	}
}

func waitBound(r txn.CommitRequest) Instant {
	if r.Wait == 0 {
		return Instant(txn.DefaultWait)
	}
	return Instant(r.Wait)
}

// refuseCommit names what is wrong with the request; nothing of a refused request takes effect.
func (m *Machine) refuseCommit(t *transaction, r txn.CommitRequest) error {
	if len(t.waiters) >= m.cfg.MaxWaiters {
		return txn.Refusef(txn.ReasonOverloaded, "transaction_id",
			"%d callers wait for %s already, and that is the limit", len(t.waiters), t.id)
	}
	if r.Wait < 0 {
		return invalid("wait", "%v is negative", r.Wait)
	}
	if r.Plan != txn.PlanUnset && r.Plan != txn.PlanClassic {
		return invalid("plan", "%s cannot be asked for", r.Plan)
	}
	if !t.undecided() {
		// The votes have been taken. What the log has kept of the branches need not be all.
		return nil
	}
	seen := map[txn.BranchNo]bool{}
	for _, v := range r.Votes {
		if t.branch(v.Branch) == nil {
			return invalid("votes", "%s has no branch %d", t.id, v.Branch)
		}
		if seen[v.Branch] {
			return invalid("votes", "branch %d votes twice", v.Branch)
		}
		seen[v.Branch] = true
	}
	return refuseDelegateVotes(t, r.Votes)
}

// voted takes a resource's own answer to a Prepare message.
func (m *Machine) voted(e Voted) {
	t := m.live[e.ID]
	if t == nil || t.state != txn.StatePreparing {
		return
	}
	b := t.branch(e.Vote.Branch)
	if b == nil || !b.asked {
		return
	}
	b.asked = false
	m.takeVote(t, e.Vote, false)
	if t.state == txn.StatePreparing && b.state == txn.BranchEnlisted && t.askAt == 0 {
		t.askAt = m.now + m.cfg.VoteRetry
	}
	m.decide(t)
	m.arm(t)
}

// takeVote notes one vote. Yes counts only with the identity that the resource was registered with:
// a client's Yes without evidence is no proof, and its resource is asked. A branch votes once.
func (m *Machine) takeVote(t *transaction, v txn.BranchVote, fromClient bool) {
	b := t.branch(v.Branch)
	if b.state != txn.BranchEnlisted {
		return
	}
	r := m.resources[b.rm-1]
	switch v.Vote {
	case txn.VoteNo:
		b.state = txn.BranchRolledBack
		if !v.Evidence.IsZero() {
			// Prepared, and its client will not have it: it is told to roll back like the others.
			b.state, b.evidence = txn.BranchPrepared, v.Evidence
		}
		m.abort(t, abortReason{txn.CauseVotedNo, clip(v.Reason), r.Name, v.SQLState})
	case txn.VoteReadOnly:
		b.state = txn.BranchReadOnly
	case txn.VoteYes:
		switch {
		case fromClient && (v.Evidence.IsZero() || v.Evidence.Timeline > r.seen.Timeline):
			// No proof, or a failover that nobody else has seen: the resource is asked.
			return
		case v.Evidence.Identity != r.Identity && !mutant.On(mutant.VoteIdentityUnchecked):
			m.abort(t, abortReason{txn.CauseIdentity, fmt.Sprintf(
				"the branch was prepared at %s, and %s is registered",
				v.Evidence.Identity,
				r.Identity,
			), r.Name, ""})
			return
		case v.Evidence.Timeline < r.seen.Timeline:
			m.abort(t, abortReason{txn.CauseIdentity, fmt.Sprintf(
				"the branch was prepared on timeline %d, and the resource has been seen on %d: "+
					"an old primary",
				v.Evidence.Timeline,
				r.seen.Timeline,
			), r.Name, ""})
			return
		}
		if !fromClient {
			// A client's word about the position must not make the resource look like an old one
			// later.
			r.seen = later(r.seen, v.Evidence.Position)
		}
		b.state, b.evidence = txn.BranchPrepared, v.Evidence
	default:
		b.attempts++
		b.lastErr = clip(v.Reason)
		if mutant.On(mutant.SoftNoIsDefinitive) {
			m.abort(t, abortReason{txn.CauseVotedNo, b.lastErr, r.Name, v.SQLState})
		}
	}
}

// askVotes sends Prepare to every branch whose vote is not known.
func (m *Machine) askVotes(t *transaction) {
	if t.state != txn.StatePreparing {
		return
	}
	t.askAt = 0
	for i := range t.branches {
		if b := &t.branches[i]; b.state == txn.BranchEnlisted && !b.asked {
			b.asked = true
			m.send(ActPrepare, t, b)
		}
	}
}

// decide hands the decision to the log once every branch has voted. From here until the record is
// durable the transaction is DECIDING: the append may reach the disk whatever happens to this
// process, so nothing may call it off.
func (m *Machine) decide(t *transaction) {
	if t.state != txn.StatePreparing {
		return
	}
	c := CommitRecord{ID: t.id, Label: t.label, Key: t.key}
	if mutant.On(mutant.KeyNotLogged) {
		c.Key = Key{}
	}
	for _, b := range t.branches {
		switch b.state {
		case txn.BranchEnlisted:
			if !mutant.On(mutant.CommitOnMissingVote) {
				return
			}
		case txn.BranchPrepared:
			c.Branches = append(
				c.Branches,
				CommitBranch{Branch: b.no, RM: b.rm, Evidence: b.evidence},
			)
		}
	}
	if t.plan == txn.PlanUnset {
		t.plan = txn.PlanClassic
	}
	c.Plan = t.plan
	if len(c.Branches) == 0 && t.key.IsZero() && t.plan == txn.PlanClassic {
		// Nobody wrote anything and nobody will ask again: there is nothing to make durable.
		t.plan = txn.PlanNone
		t.state = txn.StateCommitting
		m.settle(t)
		return
	}
	t.state = txn.StateDeciding
	if mutant.On(mutant.NoLog) {
		m.commitDurable(t)
		return
	}
	m.append(c, true)
	m.confirm(t)
	if mutant.On(mutant.AckBeforeLog) {
		t.state = txn.StateCommitting
		m.answer(t)
		t.state = txn.StateDeciding
	}
	if mutant.On(mutant.Phase2BeforeDurable) {
		m.phaseTwo(t)
	}
}

// commitDurable is the commit point: the decision may be told, and phase two begins.
func (m *Machine) commitDurable(t *transaction) {
	if t != nil && t.asking() {
		m.onePhaseCommitted(t)
		return
	}
	if t == nil || t.state != txn.StateDeciding {
		panic("protocol: a commit became durable that nobody decided")
	}
	t.state = txn.StateCommitting
	m.phaseTwo(t)
	for i := range t.waiters {
		t.waiters[i].until = m.now + t.waiters[i].wait
	}
	m.releaseKey(t)
	m.settle(t)
	m.arm(t)
}

// phaseTwo sends COMMIT to every prepared branch of a durable decision, and to no other.
func (m *Machine) phaseTwo(t *transaction) {
	for i := range t.branches {
		if b := &t.branches[i]; b.state == txn.BranchPrepared {
			m.resources[b.rm-1].pending++
			m.send(ActCommit, t, b)
		}
	}
}

// resume takes up a decision that an earlier epoch made durable.
func (m *Machine) resume(d *Decided) {
	t := &transaction{
		id: d.Commit.ID, label: d.Commit.Label, state: txn.StateCommitting, plan: d.Commit.Plan,
		begun: m.now, closed: true, resumed: true, key: d.Commit.Key,
		intended: len(d.Commit.Branches),
	}
	state := txn.BranchPrepared
	switch {
	case d.Asking:
		t.state, state = txn.StateInDoubt, txn.BranchEnlisted
	case t.plan == txn.PlanOnePhase:
		// Its resource had proven the commit before the record was written.
		state = txn.BranchCommitted
	}
	for _, c := range d.Commit.Branches {
		t.grow(c.Branch)
		*t.branch(c.Branch) = branch{
			no:       c.Branch,
			rm:       c.RM,
			state:    state,
			evidence: c.Evidence,
		}
	}
	for _, h := range d.Heuristics {
		t.grow(max(h.Branch, txn.BranchNo(bits.Len64(h.Wrote))))
		b := t.branch(h.Branch)
		b.rm, b.state, b.lastErr = h.RM, h.What, h.Reason
	}
	if t.plan == txn.PlanUnset {
		// An abort that somebody contradicted: whatever is not recorded otherwise was rolled back,
		// or only read.
		for i := range t.branches {
			b := &t.branches[i]
			if b.state == txn.BranchReadOnly && d.Heuristics[0].Wrote>>i&1 == 1 {
				b.state = txn.BranchRolledBack
			}
		}
	}
	m.enter(t)
	m.active++
	switch {
	case d.Asking && t.plan == txn.PlanParallel:
		m.resumeIntent(t)
		return
	case d.Asking && t.plan == txn.PlanDelegate:
		m.resumeDelegate(t, d.Commit.Branches[0])
		return
	}
	t.recorded = true
	if t.asking() {
		m.inquire(t)
	}
	m.phaseTwo(t)
	m.settle(t)
}

// grow makes room for branch no. Branches that the record does not list had nothing to commit; they
// keep the RM zero, because the log does not say whose they were.
func (t *transaction) grow(no txn.BranchNo) {
	for len(t.branches) < int(no) {
		t.branches = append(t.branches,
			branch{no: txn.BranchNo(len(t.branches) + 1), state: txn.BranchReadOnly})
	}
}

func clip(s string) string {
	if len(s) > txn.MaxReasonLen {
		return s[:txn.MaxReasonLen]
	}
	return s
}

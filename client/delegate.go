package client

import (
	"context"
	"fmt"
	"slices"

	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
	"github.com/gavel-tx/gavel/txn/point"
)

// Where the decision is left to one of the branches, the delegate, this process makes it, by one
// COMMIT there:
//
//	PREPARE the others ─▶ all Yes or ReadOnly ─▶ Decide ─┬─▶ Committed ─▶ Commit(votes)
//	        │                                            ├─▶ RolledBack ─▶ Commit(votes, a No)
//	        ▼ one is not                                 └─▶ Unknown ───▶ Commit(votes), and ask
//	roll the delegate back ─▶ Commit(votes, a No)
//
// The transaction is committed if and only if a marker with the votes exists. Three rules keep what
// is told of it true:
//
//   - The marker is sent after every other branch has voted Yes or ReadOnly, and once. What was not
//     prepared could not follow it.
//   - Until the marker may have left, this process alone could write it. If it never will, because
//     the session that would have is rolled back, a No for the delegate is a proof for everybody,
//     whether that ROLLBACK was answered or not.
//   - Once the marker may have left, the transaction may be committed, whatever follows: a lost
//     connection, a deadline, a refusal by the coordinator. From then on this process says "rolled
//     back" by itself only if the database has refused the COMMIT; and it is the coordinator that
//     says "committed", because only its resolver makes sure that the marker was not lost since.

// commitByDelegate has the branch decide that the coordinator has left the decision to.
func (t *transaction) commitByDelegate(
	ctx, call context.Context, begun txn.Begun, all []*part,
) error {
	d, others, err := delegateOf(all, begun)
	if err != nil {
		return t.abort(ctx, entries(all), t.refused(err))
	}
	first := mutant.On(mutant.DelegateDecidesFirst)
	if first {
		d.decide(call, begun.ID, nil)
	}
	each(others, func(p *part) {
		p.cast(call, begun.ID)
		p.compare()
	})
	if no := unfit(others); no != nil {
		t.callOff(ctx, d, no)
		return t.rollBackByVote(ctx, t.request(begun.ID, all), no)
	}
	if !first {
		d.decide(call, begun.ID, others)
	}
	if d.vote.Vote == txn.VoteNo {
		return t.rollBackByVote(ctx, t.request(begun.ID, all), d.part)
	}
	result, err := t.settle(ctx, t.request(begun.ID, all))
	if err != nil {
		return err
	}
	t.report(result)
	if d.vote.Vote == txn.VoteCommitted && result.Outcome == txn.OutcomeRolledBack {
		result.Reason = fmt.Sprintf("%s committed with its marker, and the coordinator answered "+
			"%s (%s)", d.resource, result.Outcome, result.Reason)
		return &HeuristicError{Result: result}
	}
	return outcomeError(result)
}

// delegate is the part that decides.
type delegate struct {
	*part
	branch DelegateBranch
}

// delegateOf tells the branch that decides from the others. An error means that nothing was left to
// any branch as yet: no marker can be sent.
func delegateOf(all []*part, begun txn.Begun) (d delegate, others []*part, err error) {
	others = slices.Clone(all)
	at := slices.IndexFunc(all, func(p *part) bool { return p.no == begun.Delegate })
	switch {
	case at < 0:
		return d, nil, fmt.Errorf("client: the coordinator leaves the decision to branch %d, "+
			"which is none of this transaction's", begun.Delegate)
	case len(begun.Branches) != len(all):
		// The marker must speak for every branch, and nobody here could say how that one stands.
		return d, nil, fmt.Errorf("client: another process has enlisted a branch, of %d, in a "+
			"transaction whose decision is left to %s", len(begun.Branches), all[at].resource)
	}
	if i := slices.IndexFunc(all, func(p *part) bool { return p.review.Elsewhere }); i >= 0 {
		return d, nil, fmt.Errorf("client: the work at %s is kept there, and only the coordinator "+
			"asks for its vote, too late for a marker; take the option Delegate away, or begin "+
			"the transaction with %s", all[i].resource, all[i].resource)
	}
	d.part = all[at]
	d.decides = true
	var able bool
	if d.branch, able = all[at].branch.(DelegateBranch); !able {
		return d, nil, fmt.Errorf("client: the decision was left to %s, whose branch cannot "+
			"commit with a marker; take the option Delegate away, or name another resource",
			all[at].resource)
	}
	return d, slices.Delete(others, at, at+1), nil
}

// compare makes sure that a branch was prepared where its resource was registered, and not in its
// past. With the other plans the coordinator does so, before it decides; here it is asked too late.
// The branch is prepared, which its evidence says, and waits for being rolled back.
func (p *part) compare() {
	ev := p.vote.Evidence
	if p.vote.Vote != txn.VoteYes ||
		ev.Identity == p.at.Identity && ev.Timeline >= p.at.Timeline {
		return
	}
	p.vote.Vote, p.cause = txn.VoteNo, txn.CauseIdentity
	p.vote.Reason = fmt.Sprintf("it was prepared at %s, timeline %d, and %s was registered as %s, "+
		"timeline %d", ev.Identity, ev.Timeline, p.resource, p.at.Identity, p.at.Timeline)
}

// unfit is a branch over which the decision cannot be to commit, or nil. A No says best why.
func unfit(others []*part) *part {
	var found *part
	for _, p := range others {
		switch p.vote.Vote {
		case txn.VoteNo:
			return p
		case txn.VoteYes, txn.VoteReadOnly:
		default:
			found, p.cause = p, txn.CauseVoteUnknown
		}
	}
	return found
}

// callOff rolls the delegate's session back, because of another branch, before anybody hears of it:
// its No then speaks of a branch that has ended, as every other No does.
func (t *transaction) callOff(ctx context.Context, d delegate, no *part) {
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	d.branch.Finish(back, false)
	d.take(txn.VoteNo, Ending{Reason: fmt.Sprintf("its client rolled it back, because %s voted "+
		"%s: %s", no.resource, no.vote.Vote, no.vote.Reason)})
}

// decide commits the branch with its marker, which holds the votes of the others.
func (d delegate) decide(ctx context.Context, id txn.ID, others []*part) {
	votes := make([]txn.BranchVote, len(others))
	for i, p := range others {
		votes[i] = p.vote
	}
	e := d.branch.Decide(ctx, id, d.at, txn.AppendDecision(nil, votes))
	point.Hit(point.AfterVote, id)
	switch e.Standing {
	case txn.StandingCommitted:
		d.take(txn.VoteCommitted, e)
	case txn.StandingRolledBack:
		d.take(txn.VoteNo, e)
	default:
		d.take(txn.VoteUnknown, e)
	}
}

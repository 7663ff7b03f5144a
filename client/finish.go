package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
	"github.com/gavel-tx/gavel/txn/point"
)

// part is one branch on its way to a vote.
type part struct {
	*entry
	review Review
	no     txn.BranchNo
	name   txn.Name
	// at is what the coordinator knows of the resource, if the decision is left to a branch.
	at   txn.Evidence
	vote txn.BranchVote
	// err is behind a vote that is not Yes or ReadOnly, and cause is its class.
	err   error
	cause txn.Cause
	// decides says that the decision is left to it.
	decides bool
}

// finish ends the transaction after its function has returned.
func (t *transaction) finish(ctx context.Context, ended, fnErr error) error {
	open, failed := t.end()
	why := failed
	switch {
	case fnErr != nil:
		why = fnErr
	case ended != nil:
		why = fmt.Errorf("client: the context ended before the transaction did: %w", ended)
	}
	if why != nil {
		a := abortedBy(txn.CauseClient, "", why)
		a.learn(failed)
		return t.abort(ctx, open, a)
	}
	return t.commit(ctx, open)
}

// abort rolls back and says so. It is true because no Commit was sent, no PREPARE and no marker.
func (t *transaction) abort(ctx context.Context, open []*entry, a *AbortedError) error {
	t.abandon(ctx, open)
	a.ID = t.registrar.known()
	t.report(txn.Result{
		ID: a.ID, State: txn.StateRolledBack, Outcome: txn.OutcomeRolledBack, Label: t.set.label,
		Reason: a.Reason, Cause: a.Cause, SQLState: a.SQLState, Resource: a.Resource,
	})
	return a
}

// abandon rolls the sessions back, on a context that the end of ctx does not shorten: it has
// probably ended already. Then the coordinator may forget the transaction, if it ever heard of it.
func (t *transaction) abandon(ctx context.Context, open []*entry) {
	rollBack(ctx, open)
	t.tell(ctx, txn.VoteNo, "its client rolled back")
}

// tell closes a transaction at the coordinator that was decided without it, so that it need not
// wait for the deadline. Only memory is at stake, so that errors are of no interest: nothing is
// prepared, and a coordinator that hears nothing rolls back what it knows nothing of.
//
// Where the decision was left to a branch, a coordinator that hears nothing has to ask that
// branch's database, and so it has if it is only asked to roll back: it cannot know that no marker
// is under way. This process can, since nobody else could have sent one, and votes No for it.
func (t *transaction) tell(ctx context.Context, vote txn.Vote, reason string) {
	if !t.registrar.used() {
		return
	}
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), courtesy)
	defer cancel()
	begun, _ := t.registrar.wait(call)
	if begun.ID.IsZero() || begun.Existing != nil {
		return
	}
	d, ok := t.client.decider.(Rollbacker)
	if ok && vote == txn.VoteNo && begun.Delegate == 0 {
		_, _ = d.Rollback(call, begun.ID, reason)
		return
	}
	r := txn.CommitRequest{ID: begun.ID, Ack: txn.AckDecided}
	for _, b := range begun.Branches {
		r.Votes = append(r.Votes, txn.BranchVote{Branch: b.Branch, Vote: vote, Reason: reason})
	}
	// Without a branch there is nobody to vote No, and a Commit would commit.
	if len(r.Votes) > 0 {
		_, _ = t.client.decider.Commit(call, r)
	}
}

// each calls f for every element at once, and waits.
func each[T any](all []T, f func(T)) {
	if len(all) == 0 {
		return
	}
	var join sync.WaitGroup
	// Also if the first one panics.
	defer join.Wait()
	for _, x := range all[1:] {
		join.Go(func() { f(x) })
	}
	f(all[0])
}

// commit ends a transaction whose function has succeeded.
func (t *transaction) commit(ctx context.Context, open []*entry) error {
	t.mu.Lock()
	registered, pinned := t.mu.registered, t.mu.pinned
	t.mu.Unlock()
	call, cancel := settling(ctx, t.set.undecided())
	defer cancel()
	if !registered {
		return t.commitPlainly(ctx, call, nil, parts(open))
	}
	all := parts(open)
	if a := reviewAll(call, all); a != nil {
		return t.abort(ctx, open, a)
	}
	begun, err := t.registrar.wait(ctx)
	if err == nil {
		err = name(all, begun)
	}
	if votes, _ := t.foreign(); err == nil {
		err = apart(all, votes)
	}
	if err != nil {
		return t.abort(ctx, open, t.refused(err))
	}
	if begun.Delegate != 0 {
		return t.commitByDelegate(ctx, call, begun, all)
	}
	readers, writers := split(all)
	if !pinned && len(writers) < 2 {
		return t.commitPlainly(ctx, call, readers, writers)
	}
	return t.commitByVote(ctx, call, begun.ID, readers, writers)
}

func parts(open []*entry) []*part {
	all := make([]*part, len(open))
	for i, e := range open {
		all[i] = &part{entry: e}
	}
	return all
}

// reviewAll reviews every branch, before anything is ended or prepared: what can only roll back
// makes all of it do so.
func reviewAll(ctx context.Context, all []*part) *AbortedError {
	each(all, func(p *part) { p.review = p.branch.Review(ctx) })
	for _, p := range all {
		if r := p.review; r.Finding == FoundFailed {
			return aborted(p.resource, r.Reason, r.SQLState, r.Err)
		}
	}
	return nil
}

func aborted(resource, reason, code string, err error) *AbortedError {
	return &AbortedError{
		Cause: txn.CauseVotedNo, Reason: reason, Resource: resource, SQLState: code,
		Retryable: retryableState(code), Err: err,
	}
}

// name gives every branch the name that the coordinator has acknowledged.
func name(all []*part, begun txn.Begun) error {
	byResource := make(map[string]txn.Enlisted, len(begun.Branches))
	for _, b := range begun.Branches {
		byResource[b.Resource] = b
	}
	for _, p := range all {
		b, ok := byResource[p.resource]
		if !ok {
			return fmt.Errorf("client: the coordinator did not acknowledge the branch at %s",
				p.resource)
		}
		p.no, p.name, p.at = b.Branch, b.Name, b.At
	}
	return nil
}

func split(all []*part) (readers, writers []*part) {
	for _, p := range all {
		if p.review.Finding == FoundReader {
			readers = append(readers, p)
		} else {
			writers = append(writers, p)
		}
	}
	return readers, writers
}

// commitPlainly ends a transaction with at most one writer. The readers commit first: a
// serialization failure among them must still be able to stop the writer, whose COMMIT is the
// decision.
//
// The coordinator may know the transaction, as one with nothing prepared. It can never commit it by
// itself, and nobody outside knows its id, so that its presumption of abort has no listener.
func (t *transaction) commitPlainly(ctx, call context.Context, readers, writers []*part) error {
	each(readers, func(p *part) { p.leave(call) })
	plan := txn.PlanNone
	for _, p := range readers {
		if p.vote.Vote != txn.VoteReadOnly {
			return t.abort(ctx, entries(writers), p.refusal())
		}
	}
	for _, p := range writers {
		plan = txn.PlanOnePhase
		switch e := p.branch.Finish(call, true); e.Standing {
		case txn.StandingCommitted:
		case txn.StandingRolledBack:
			return t.abort(ctx, nil, aborted(p.resource, e.Reason, e.SQLState, e.Err))
		default:
			// The id stays unsaid: the coordinator's answer to it would be worthless.
			t.report(txn.Result{Outcome: txn.OutcomeUnknown, Plan: plan, Label: t.set.label})
			return &InDoubtError{Resource: p.resource, Err: because(e.Reason, e.Err)}
		}
	}
	t.tell(ctx, txn.VoteReadOnly, "it was committed in one phase")
	t.report(txn.Result{
		State: txn.StateCommitted, Outcome: txn.OutcomeCommitted, Plan: plan, Label: t.set.label,
	})
	return nil
}

func entries(all []*part) []*entry {
	out := make([]*entry, len(all))
	for i, p := range all {
		out[i] = p.entry
	}
	return out
}

// because joins a reason in words with the error that it explains.
func because(reason string, err error) error {
	switch {
	case err == nil:
		return errors.New(reason)
	case reason == "":
		return err
	}
	return fmt.Errorf("%s: %w", reason, err)
}

// leave commits a reader. A COMMIT whose reply was lost counts as No: the branch wrote nothing and
// can never be prepared, and whether its reads were serializable is not known.
func (p *part) leave(ctx context.Context) {
	e := p.branch.Finish(ctx, true)
	vote := txn.VoteNo
	if e.Standing == txn.StandingCommitted {
		vote = txn.VoteReadOnly
	}
	p.take(vote, e)
}

// prepare prepares a writer and takes its vote.
func (p *part) prepare(ctx context.Context) {
	e := p.branch.Prepare(ctx, p.name)
	switch e.Standing {
	case txn.StandingPrepared:
		p.take(txn.VoteYes, e)
	case txn.StandingRolledBack:
		p.take(txn.VoteNo, e)
	default:
		p.take(txn.VoteUnknown, e)
	}
}

func (p *part) take(v txn.Vote, e Ending) {
	p.err = e.Err
	p.vote = txn.BranchVote{
		Branch: p.no, Vote: v, Evidence: e.Evidence, Reason: e.Reason, SQLState: e.SQLState,
	}
	if e.Reason == "" && e.Err != nil {
		p.vote.Reason = e.Err.Error()
	}
}

// cast has a branch vote: a reader by its plain COMMIT, a writer by PREPARE.
func (p *part) cast(ctx context.Context, id txn.ID) {
	if p.review.Finding == FoundReader {
		p.leave(ctx)
		return
	}
	point.Hit(point.BeforePrepareSend, id)
	p.prepare(ctx)
	point.Hit(point.AfterVote, id)
}

func (p *part) refusal() *AbortedError {
	a := aborted(p.resource, p.vote.Reason, p.vote.SQLState, p.err)
	a.Cause = cmp.Or(p.cause, a.Cause)
	return a
}

// commitByVote is two-phase commit. PREPARE goes out on all writers at once; their sessions are
// free again when it returns; one Commit carries all votes. From here on the prepared branches are
// the coordinator's, whatever happens to this process or to its Commit.
func (t *transaction) commitByVote(
	ctx, call context.Context, id txn.ID, readers, writers []*part,
) error {
	all := append(append([]*part{}, readers...), writers...)
	defer t.announce(call, id, readers, writers)()
	each(all, func(p *part) { p.cast(call, id) })
	r := t.request(id, all)
	no := slices.IndexFunc(all, func(p *part) bool { return p.vote.Vote == txn.VoteNo })
	if no >= 0 {
		return t.rollBackByVote(ctx, r, all[no])
	}
	result, err := t.settle(ctx, r)
	if err != nil && mutant.On(mutant.ClientRollsBack) {
		each(writers, func(p *part) { p.branch.Finish(call, false) })
	}
	if err != nil {
		return err
	}
	t.report(result)
	return outcomeError(result)
}

// request is the one Commit with all votes. Where other processes were called their votes are among
// them, and no branch commits whose vote did not come home: it could be that of a call which was
// made twice.
func (t *transaction) request(id txn.ID, all []*part) txn.CommitRequest {
	r := txn.CommitRequest{ID: id, Ack: t.set.ack, Wait: t.set.wait, Plan: t.set.plan}
	votes, called := t.foreign()
	for _, p := range all {
		if p.review.Elsewhere && !called {
			// A branch without a vote is asked for at its resource. After calls it has one, which
			// is unknown, and does the same.
			continue
		}
		r.Votes = append(r.Votes, p.vote)
	}
	if called {
		r.Votes = append(r.Votes, votes...)
		r.Complete, r.Plan = true, txn.PlanClassic
	}
	return r
}

// settle sends the votes until the outcome is known. If asking ends before, it is in doubt.
func (t *transaction) settle(ctx context.Context, r txn.CommitRequest) (txn.Result, error) {
	asked, cancel := settling(ctx, t.set.asking()+max(t.set.wait, txn.DefaultWait))
	defer cancel()
	result, err := t.client.settle(ctx, asked, r)
	if err != nil {
		t.report(txn.Result{ID: r.ID, Outcome: txn.OutcomeUnknown, Label: t.set.label})
		return result, &InDoubtError{ID: r.ID, Err: err}
	}
	return result, nil
}

// announce tells the coordinator, beside the PREPAREs, that they are being sent, so that it can
// write that down meanwhile: the parallel plan. Whether it is heard decides nothing, so that nobody
// waits for it; what is returned ends the call if the coordinator has never answered. Where a
// branch only reads the coordinator would have to write the decision down all the same. A branch
// that may be regretted after its PREPARE must not be found by a coordinator that knows the intent.
func (t *transaction) announce(
	ctx context.Context, id txn.ID, readers, writers []*part,
) (done func()) {
	s := t.set
	_, called := t.foreign()
	unsure := slices.ContainsFunc(writers, func(p *part) bool { return p.review.Unsure })
	if s.ack != txn.AckDecided || s.plan != txn.PlanUnset || len(readers) > 0 || unsure ||
		called || len(writers) < 2 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var join sync.WaitGroup
	join.Go(func() {
		_, _ = t.client.decider.Commit(ctx, txn.CommitRequest{ID: id, Intent: true, Ack: s.ack})
	})
	return func() {
		cancel()
		join.Wait()
	}
}

// rollBackByVote sends votes with a No among them, which is a rollback. That branch was seen to end
// and was never prepared, or nobody but this process could say Yes to it, and no intent was
// announced; so that no coordinator can ever commit: the answer is certain even if the call is not,
// and the prepared branches are rolled back by the coordinator, now or when the deadline has
// passed. Why is told by the branch that is given, which is usually the one with the No.
func (t *transaction) rollBackByVote(
	ctx context.Context, r txn.CommitRequest, no *part,
) error {
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	result, err := t.client.settle(ctx, call, r)
	if err == nil && result.Outcome != txn.OutcomeRolledBack {
		result.Reason = fmt.Sprintf("%s voted %s (%s), and the coordinator answered %s",
			no.resource, no.vote.Vote, no.vote.Reason, result.Outcome)
		return &HeuristicError{Result: result}
	}
	a := no.refusal()
	a.ID = r.ID
	if err == nil && no.decides && result.Cause != txn.CauseVotedNo {
		// The coordinator was the one who decided before, and knows why.
		a.Cause, a.Reason = cmp.Or(result.Cause, a.Cause), cmp.Or(result.Reason, a.Reason)
	}
	if err != nil {
		result = txn.Result{
			ID: r.ID, State: txn.StateRolledBack, Outcome: txn.OutcomeRolledBack, Cause: a.Cause,
			Label: t.set.label, Reason: a.Reason, Resource: a.Resource, SQLState: a.SQLState,
		}
	}
	t.report(result)
	return a
}

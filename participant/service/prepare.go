package service

import (
	"context"
	"errors"
	"fmt"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// Prepare implements participant.Resource.
func (r *Resource) Prepare(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Vote, error) {
	return each(r, ctx, f, b, func(
		ctx context.Context, s *slot, _ participant.Branch,
	) (participant.Vote, error) {
		return r.prepare(ctx, f, s)
	})
}

// prepare is the vote of one branch:
//
//	another log's                         unknown
//	prepared already, or committed since  the same yes, the same evidence
//	has ended, or a rollback came first   no; read only if that was its vote
//	preparing, by a process that is gone  no, and it is rolled back
//	not at work in this process           unknown: the work was lost, or never came
//	failed, given up, epoch over          no, and it is rolled back
//	otherwise                             what the service says
func (r *Resource) prepare(
	ctx context.Context, f txn.Fence, s *slot,
) (participant.Vote, error) {
	if s.name.Log != f.Log {
		return participant.Vote{Reason: "the branch belongs to another log"}, nil
	}
	vote, known, left, err := r.known(ctx, s.name)
	switch {
	case err != nil:
		return participant.Vote{}, err
	case known:
		s.work = nil
		return vote, nil
	case s.work == nil && left:
		return r.refuse(ctx, f, s, No("the service ended while it prepared the branch"))
	case s.work == nil:
		return participant.Vote{Reason: "no work of this branch is known here"}, nil
	case s.work.vote == nil && s.work.stale(f.Epoch):
		s.work.fail(No("its coordinator's epoch is over"))
	}
	if s.work.vote != nil {
		return r.refuse(ctx, f, s, *s.work.vote)
	}
	s.work.closed = true
	if r.journal.Joins() {
		vote, err = r.prepareWithin(ctx, f, s)
	} else {
		vote, err = r.prepareBeside(ctx, f, s)
	}
	switch {
	case err != nil:
		return participant.Vote{}, err
	case vote.Vote == txn.VoteNo, vote.Vote == txn.VoteReadOnly:
		return r.refuse(ctx, f, s, s.work.fail(vote))
	case vote.Vote == txn.VoteYes:
		s.work = nil
	}
	return vote, nil
}

// known is the vote that the journal knows, and whether it knows of a prepare that was begun.
func (r *Resource) known(
	ctx context.Context, n txn.Name,
) (v participant.Vote, known, left bool, err error) {
	err = r.view(ctx, func(b *book) error {
		if v, known, err = b.vote(n); err != nil {
			return err
		}
		e, err := b.branch(n)
		left = e.phase == phasePreparing
		return err
	})
	return v, known, left, err
}

// errNotYes takes back what a service did for a branch that did not vote Yes.
var errNotYes = errors.New("service: the vote is not yes")

// prepareWithin has the service prepare in the transaction that says so. After another vote than
// Yes all of it is taken back.
func (r *Resource) prepareWithin(
	ctx context.Context, f txn.Fence, s *slot,
) (v participant.Vote, err error) {
	err = r.change(ctx, &f, func(ctx context.Context, b *book) error {
		if v = r.room(b, s.name); v.Vote != txn.VoteNo {
			v = r.ask(ctx, s.name)
		}
		if v.Vote != txn.VoteYes {
			return errNotYes
		}
		e, err := b.keep(s.name, phasePrepared, f.Epoch, r.cfg.Now())
		v.Evidence = b.evidence(e)
		return err
	})
	if errors.Is(err, errNotYes) {
		err = nil
	}
	return v, err
}

// prepareBeside has the service prepare between two transactions. The first one keeps a branch from
// being forgotten that the service has prepared and nobody heard of.
func (r *Resource) prepareBeside(
	ctx context.Context, f txn.Fence, s *slot,
) (v participant.Vote, err error) {
	var e entry
	err = r.change(ctx, &f, func(_ context.Context, b *book) (err error) {
		if v = r.room(b, s.name); v.Vote == txn.VoteNo {
			return nil
		}
		e, err = b.keep(s.name, phasePreparing, f.Epoch, r.cfg.Now())
		return err
	})
	if err != nil || v.Vote == txn.VoteNo {
		return v, err
	}
	if v = r.ask(ctx, s.name); v.Vote != txn.VoteYes {
		return v, nil
	}
	err = r.change(ctx, &f, func(_ context.Context, b *book) (err error) {
		v.Evidence = b.evidence(e)
		if mutant.On(mutant.VoteBeforeDurable) {
			return nil
		}
		_, err = b.keep(s.name, phasePrepared, f.Epoch, r.cfg.Now())
		return err
	})
	return v, err
}

// room is No if there is none for another prepared branch.
func (r *Resource) room(b *book, n txn.Name) participant.Vote {
	if e, err := b.branch(n); err == nil && e.phase != phaseNone ||
		int(b.meta.branches) < r.cfg.MaxPrepared {
		return participant.Vote{}
	}
	return No(fmt.Sprintf("%d branches are prepared, and no more are allowed", r.cfg.MaxPrepared))
}

// ask is the service's vote, in the bounds of what a vote may be. It is not asked where the call
// has ended meanwhile, since nobody waits for it any more.
func (r *Resource) ask(ctx context.Context, n txn.Name) participant.Vote {
	if err := ctx.Err(); err != nil {
		return participant.Vote{Reason: "the call has ended: " + err.Error()}
	}
	v, err := r.svc.Prepare(ctx, n)
	if err != nil {
		return participant.Vote{Reason: cut("the service could not say: " + err.Error())}
	}
	switch v.Vote {
	case txn.VoteYes, txn.VoteReadOnly:
		return participant.Vote{Vote: v.Vote}
	case txn.VoteNo:
		v.Reason, v.SQLState = cut(v.Reason), v.SQLState[:min(len(v.SQLState), maxState)]
		if v.Reason == "" {
			v.Reason = "the service said no"
		}
		return participant.Vote{Vote: v.Vote, Reason: v.Reason, SQLState: v.SQLState}
	}
	return participant.Vote{Reason: "the service said neither yes nor no"}
}

// refuse ends a branch without effect, for good, and then votes so. Where that fails nobody can say
// yet that the branch has ended.
func (r *Resource) refuse(
	ctx context.Context, f txn.Fence, s *slot, v participant.Vote,
) (participant.Vote, error) {
	how := endNo
	if v.Vote == txn.VoteReadOnly {
		how = endReadOnly
	}
	err := r.conclude(ctx, &f, s, ended{end: how, reason: v.Reason, sqlState: v.SQLState})
	if _, ok := errors.AsType[stepError](err); ok {
		return participant.Vote{Reason: cut("it could not be rolled back: " + err.Error())}, nil
	}
	return v, err
}

// conclude rolls a branch back at the service and notes its end.
func (r *Resource) conclude(ctx context.Context, f *txn.Fence, s *slot, e ended) error {
	err := r.act(ctx, f, func(ctx context.Context) error {
		return r.svc.Rollback(ctx, s.name)
	}, func(b *book) error { return b.conclude(s.name, e, r.cfg.MaxEnded) })
	if err == nil {
		s.work = nil
	}
	return err
}

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
		if s.name.Log != f.Log {
			return participant.Vote{Reason: "the branch belongs to another log"}, nil
		}
		return looking(ctx, r, s, func(seen sight) (participant.Vote, error) {
			return r.prepare(ctx, f, s, seen)
		})
	})
}

// prepare is the vote of one branch:
//
//	prepared already, or committed since  the same yes, the same evidence
//	has ended, or a rollback came first   no; read only if that was its vote
//	preparing, by a process that is gone  no, and it is rolled back
//	not at work in this process           unknown: the work was lost, or never came
//	failed, given up, epoch over          no, and it is rolled back
//	otherwise                             what the service says
func (r *Resource) prepare(
	ctx context.Context, f txn.Fence, s *slot, seen sight,
) (vote participant.Vote, err error) {
	switch {
	case seen.closed():
		return r.voted(seen), nil
	case s.work == nil && seen.entry.phase == phasePreparing:
		return r.refuse(ctx, f, s, seen, No("the service ended while it prepared the branch"))
	case s.work == nil:
		return participant.Vote{Reason: "no work of this branch is known here"}, nil
	case s.work.vote == nil && s.work.stale(f.Epoch):
		s.work.fail(No("its coordinator's epoch is over"))
	}
	if s.work.vote != nil {
		return r.refuse(ctx, f, s, seen, *s.work.vote)
	}
	s.work.closed = true
	if r.journal.Joins() {
		vote, err = r.prepareWithin(ctx, f, s, seen)
	} else {
		vote, seen.entry, err = r.prepareBeside(ctx, f, s, seen)
	}
	switch {
	case err != nil:
		return participant.Vote{}, err
	case vote.Vote == txn.VoteNo, vote.Vote == txn.VoteReadOnly:
		return r.refuse(ctx, f, s, seen, s.work.fail(vote))
	case vote.Vote == txn.VoteYes:
		s.work = nil
	}
	return vote, nil
}

// voted is the vote of a branch that the journal knows to be prepared, or to have ended.
func (r *Resource) voted(seen sight) participant.Vote {
	if seen.entry.phase == phasePrepared {
		return participant.Vote{Vote: txn.VoteYes, Evidence: evidence(r.identity, seen.entry.xid)}
	}
	switch seen.ended.end {
	case endCommitted:
		return participant.Vote{Vote: txn.VoteYes, Evidence: evidence(r.identity, seen.ended.xid)}
	case endReadOnly:
		return participant.Vote{Vote: txn.VoteReadOnly}
	case endNo:
		return participant.Vote{Vote: txn.VoteNo, Reason: seen.ended.reason,
			SQLState: seen.ended.sqlState}
	default:
		return participant.Vote{Vote: txn.VoteNo, Reason: "the branch was rolled back"}
	}
}

// errNotYes takes back what a service did for a branch that did not vote Yes.
var errNotYes = errors.New("service: the vote is not yes")

// prepareWithin has the service prepare in the transaction that says so. After another vote than
// Yes all of it is taken back.
func (r *Resource) prepareWithin(
	ctx context.Context, f txn.Fence, s *slot, seen sight,
) (v participant.Vote, err error) {
	err = r.change(ctx, &f, func(ctx context.Context, b *book) error {
		if err := b.still(s.name, seen); err != nil {
			return err
		}
		if v = r.room(b, seen); v.Vote != txn.VoteNo {
			v = r.ask(ctx, s.name)
		}
		if v.Vote != txn.VoteYes {
			return errNotYes
		}
		e, err := b.keep(s.name, phasePrepared, f.Epoch, r.cfg.Now())
		v.Evidence = evidence(r.identity, e.xid)
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
	ctx context.Context, f txn.Fence, s *slot, seen sight,
) (v participant.Vote, e entry, err error) {
	e = seen.entry
	if !mutant.On(mutant.PrepareUnannounced) {
		err = r.change(ctx, &f, func(_ context.Context, b *book) (err error) {
			if v = r.room(b, seen); v.Vote == txn.VoteNo {
				return nil
			}
			if err := b.still(s.name, seen); err != nil {
				return err
			}
			e, err = b.keep(s.name, phasePreparing, f.Epoch, r.cfg.Now())
			return err
		})
	}
	if err != nil || v.Vote == txn.VoteNo {
		return v, e, err
	}
	if v = r.ask(ctx, s.name); v.Vote != txn.VoteYes {
		return v, e, nil
	}
	if !mutant.On(mutant.VoteBeforeDurable) {
		err = r.change(ctx, &f, func(_ context.Context, b *book) (err error) {
			e, err = b.keep(s.name, phasePrepared, f.Epoch, r.cfg.Now())
			return err
		})
	}
	v.Evidence = evidence(r.identity, e.xid)
	return v, e, err
}

// room is No if there is none for another prepared branch.
func (r *Resource) room(b *book, seen sight) participant.Vote {
	if seen.entry.phase != phaseNone || int(b.meta.branches) < r.cfg.MaxPrepared {
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
	ctx context.Context, f txn.Fence, s *slot, seen sight, v participant.Vote,
) (participant.Vote, error) {
	how := endNo
	if v.Vote == txn.VoteReadOnly {
		how = endReadOnly
	}
	err := r.conclude(ctx, &f, s, seen, ended{end: how, reason: v.Reason, sqlState: v.SQLState})
	if _, ok := errors.AsType[stepError](err); ok {
		return participant.Vote{Reason: cut("it could not be rolled back: " + err.Error())}, nil
	}
	return v, err
}

// conclude rolls a branch back at the service and notes its end.
func (r *Resource) conclude(
	ctx context.Context, f *txn.Fence, s *slot, seen sight, e ended,
) error {
	err := r.act(ctx, f, s.name, seen, r.svc.Rollback, e)
	if err == nil {
		s.work = nil
	}
	return err
}

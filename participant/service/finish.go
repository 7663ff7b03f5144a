package service

import (
	"context"
	"errors"
	"fmt"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// examine makes sure that a branch is the caller's, and that this journal is the one that voted. A
// finding with a standing is the answer.
func (r *Resource) examine(f txn.Fence, b participant.Branch, s sight) participant.Finding {
	e := b.Evidence
	switch {
	case b.Name.Log != f.Log:
		return found(txn.StandingForeign, "the branch belongs to another log")
	case e.IsZero():
		return participant.Finding{}
	case e.Identity != r.identity:
		return found(txn.StandingHeld,
			"the branch was prepared with another journal, "+e.Identity.String())
	case e.LSN > s.position.LSN:
		return found(txn.StandingHeld, "the journal went backwards: it was restored from a backup")
	case s.entry.phase == phasePrepared && e.XID != 0 && e.XID != s.entry.xid:
		return found(txn.StandingHeld, fmt.Sprintf(
			"the branch is prepared with number %d, and voted with %d", s.entry.xid, e.XID))
	}
	return participant.Finding{}
}

// finish is Commit, Rollback or Inquire of a batch.
func (r *Resource) finish(
	ctx context.Context, f txn.Fence, b []participant.Branch,
	one func(context.Context, txn.Fence, *slot, sight) (participant.Finding, error),
) ([]participant.Finding, error) {
	return each(r, ctx, f, b, func(
		ctx context.Context, s *slot, b participant.Branch,
	) (participant.Finding, error) {
		finding, err := looking(ctx, r, s, func(seen sight) (participant.Finding, error) {
			if no := r.examine(f, b, seen); no.Standing != txn.StandingUnknown {
				return no, nil
			}
			return one(ctx, f, s, seen)
		})
		if step, ok := errors.AsType[stepError](err); ok {
			return found(txn.StandingUnknown, cut("the service failed: "+step.Error())), nil
		}
		return finding, err
	})
}

// Commit implements participant.Resource.
func (r *Resource) Commit(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return r.finish(ctx, f, b, r.commit)
}

// commit has the service commit a prepared branch. What the service has failed to do, or what the
// journal could not note, leaves the branch prepared, and the coordinator asks again.
func (r *Resource) commit(
	ctx context.Context, f txn.Fence, s *slot, seen sight,
) (participant.Finding, error) {
	if seen.entry.phase != phasePrepared {
		return seen.ended.finding(), nil
	}
	if mutant.On(mutant.EndBeforeEffect) {
		err := r.change(ctx, &f, func(_ context.Context, b *book) error {
			return b.conclude(s.name, ended{end: endCommitted}, r.cfg.MaxEnded)
		})
		if err != nil {
			return participant.Finding{}, err
		}
	}
	err := r.act(ctx, &f, s.name, seen, r.svc.Commit, ended{end: endCommitted})
	return found(txn.StandingCommitted, ""), err
}

// Rollback implements participant.Resource. A branch that is not known yet is refused from now on:
// work that comes late is turned away, and a late prepare votes no.
func (r *Resource) Rollback(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return r.finish(ctx, f, b, r.rollback)
}

func (r *Resource) rollback(
	ctx context.Context, f txn.Fence, s *slot, seen sight,
) (participant.Finding, error) {
	switch {
	case seen.ended.end != endNone:
		return seen.ended.finding(), nil
	case seen.entry.phase != phaseNone || s.work != nil:
		return found(txn.StandingRolledBack, ""),
			r.conclude(ctx, &f, s, seen, ended{end: endRolledBack})
	case mutant.On(mutant.LatePrepareTaken):
		return ended{end: endRefused}.finding(), nil
	}
	// The service knows nothing of it, and is not asked.
	err := r.change(ctx, &f, func(_ context.Context, b *book) error {
		if err := b.still(s.name, seen); err != nil {
			return err
		}
		return b.conclude(s.name, ended{end: endRefused}, r.cfg.MaxEnded)
	})
	return ended{end: endRefused}.finding(), err
}

// Inquire implements participant.Resource.
func (r *Resource) Inquire(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return r.finish(ctx, f, b, r.inquire)
}

// inquire tells where a branch stands:
//
//	prepared                              prepared
//	has ended                             how, as far as that is proven
//	at work for this epoch                unknown: it may still be prepared
//	at work for an older one, or left     rolled back now, and so it says
//	behind by a process that is gone
//	nothing is known                      gone
func (r *Resource) inquire(
	ctx context.Context, f txn.Fence, s *slot, seen sight,
) (participant.Finding, error) {
	here := txn.Evidence{Identity: r.identity, Position: seen.position, XID: seen.ended.xid}
	finding := seen.ended.finding()
	var err error
	switch {
	case seen.entry.phase == phasePrepared:
		finding, here.XID = found(txn.StandingPrepared, ""), seen.entry.xid
		here.LSN = seen.entry.xid
	case s.work != nil && s.work.vote == nil && !s.work.stale(f.Epoch):
		finding = found(txn.StandingUnknown, "the branch is not prepared yet")
	case s.work != nil || seen.entry.phase == phasePreparing:
		finding = found(txn.StandingRolledBack, "it was never prepared")
		err = r.conclude(ctx, &f, s, seen, ended{end: endRolledBack})
	}
	finding.Evidence = here
	return finding, err
}

// List implements participant.Resource. It also names branches that the service was asked to
// prepare without being heard: it may have done so. The coordinator lists often, and so this is
// where branches that were left alone are given up.
func (r *Resource) List(ctx context.Context, f txn.Fence) (participant.Listing, error) {
	leave, err := r.enter(ctx)
	if err != nil {
		return participant.Listing{}, err
	}
	defer leave()
	if err := r.admit(ctx, f, false); err != nil {
		return participant.Listing{}, err
	}
	r.expire(ctx)
	var l participant.Listing
	err = r.view(ctx, func(b *book) (err error) {
		l, err = r.list(b)
		return err
	})
	if err != nil {
		return participant.Listing{}, fmt.Errorf("service: list: %w", err)
	}
	return l, nil
}

func (r *Resource) list(b *book) (participant.Listing, error) {
	used, now := int(b.meta.branches), r.cfg.Now()
	l := participant.Listing{
		Identity: r.identity, Position: b.position(), Used: used, Limit: r.cfg.MaxPrepared,
		Truncated: used > participant.MaxListed,
	}
	err := b.tx.Scan([]byte("b"), func(k, v []byte) (bool, error) {
		name, err := txn.ParseName(string(k[1:]))
		if err != nil {
			return false, fmt.Errorf("branch %.64q: %w", k[1:], err)
		}
		e, err := decodeEntry(v)
		if err != nil {
			return false, fmt.Errorf("branch %s: %w", name, err)
		}
		if e.phase == phasePreparing && r.branches.busy(name) {
			return true, nil // it is being asked at this moment
		}
		l.Branches = append(l.Branches, participant.Listed{
			Name: name, Ours: true, Age: max(0, now.Sub(e.at)),
			Evidence: evidence(r.identity, e.xid),
		})
		return len(l.Branches) < participant.MaxListed, nil
	})
	return l, err
}

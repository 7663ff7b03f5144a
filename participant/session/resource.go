package session

import (
	"context"
	"fmt"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/internal/fence"
	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// retryState is the SQLSTATE of a vote that is No because of what went on around the branch: a
// serialization failure, so that clients know that running the work again may succeed.
const retryState = "40001"

// admit is what every call passes first. When it returns, no branch of an older epoch has a session
// that could be prepared. One that was just being prepared has voted.
func (k *Keeper) admit(ctx context.Context, f txn.Fence, hello bool) error {
	older, err := k.judge(f, hello)
	if err != nil {
		return err
	}
	if mutant.On(mutant.SessionOutlivesEpoch) {
		return nil
	}
	for _, b := range older {
		b.end(participant.Vote{Vote: txn.VoteNo, SQLState: retryState,
			Reason: "its coordinator was restarted, or replaced"})
	}
	for _, b := range older {
		if err := b.await(ctx); err != nil {
			return err
		}
	}
	return nil
}

// judge refuses a deposed caller, and tells the branches that are older than an admitted one. They
// are looked for in every call: that of the epoch's first may have given up waiting for them.
func (k *Keeper) judge(f txn.Fence, hello bool) ([]*branch, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	seen, known := k.mu.fences[f.Log]
	if !known && len(k.mu.fences) >= maxLogs {
		return nil, txn.Refusef(txn.ReasonOverloaded, "fence.log_id",
			"%d logs are remembered already, and no more are allowed", maxLogs)
	}
	next, err := fence.Judge(seen, f, hello)
	if err != nil {
		return nil, fmt.Errorf("session: %w", err)
	}
	k.mu.fences[f.Log] = next
	var older []*branch
	for _, b := range k.mu.live {
		if b.name.Log == f.Log && b.stale(f.Epoch) {
			older = append(older, b)
		}
	}
	return older, nil
}

// Hello drops unprepared work of older epochs, before the first call of a coordinator.
func (k *Keeper) Hello(ctx context.Context, f txn.Fence) error {
	if err := k.admit(ctx, f, true); err != nil {
		return err
	}
	if g, ok := k.cfg.Resource.(interface {
		Hello(context.Context, txn.Fence) error
	}); ok {
		return g.Hello(ctx, f)
	}
	return nil
}

// Prepare implements participant.Resource. A branch with an idle session is prepared; one with a
// running statement votes No, and is rolled back; of one without the resource is asked.
func (k *Keeper) Prepare(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Vote, error) {
	if len(b) > participant.MaxBatch {
		return k.cfg.Resource.Prepare(ctx, f, b)
	}
	if err := k.admit(ctx, f, false); err != nil {
		return nil, err
	}
	votes := make([]participant.Vote, len(b))
	ours := make([]*branch, len(b))
	var rest []participant.Branch
	var places []int
	for i := range b {
		known := (*participant.Vote)(nil)
		if b[i].Name.Log == f.Log {
			ours[i], known = k.find(b[i].Name)
		}
		switch {
		case ours[i] != nil:
			ours[i].prepare()
		case known != nil:
			votes[i] = *known
		default:
			rest, places = append(rest, b[i]), append(places, i)
		}
	}
	others, err := k.cfg.Resource.Prepare(ctx, f, rest)
	if err == nil && len(others) != len(rest) {
		err = fmt.Errorf("session: the resource gave %d votes for %d branches", len(others),
			len(rest))
	}
	if err != nil {
		return nil, err
	}
	for i, v := range others {
		votes[places[i]] = v
	}
	for i, s := range ours {
		if s == nil {
			continue
		}
		if err := s.await(ctx); err != nil {
			return nil, err
		}
		votes[i] = s.last()
	}
	return votes, nil
}

// Commit implements participant.Resource. Only what is prepared is committed, and that is the
// resource's.
func (k *Keeper) Commit(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	if err := k.admit(ctx, f, false); err != nil {
		return nil, err
	}
	return k.cfg.Resource.Commit(ctx, f, b)
}

// Rollback implements participant.Resource. A session ends first, and its name is not attached any
// more. If the resource does not know of the branch, the end of its session is the proof.
func (k *Keeper) Rollback(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	if len(b) > participant.MaxBatch {
		return k.cfg.Resource.Rollback(ctx, f, b)
	}
	if err := k.admit(ctx, f, false); err != nil {
		return nil, err
	}
	ended, err := k.endAll(ctx, f, b)
	if err != nil {
		return nil, err
	}
	findings, err := k.cfg.Resource.Rollback(ctx, f, b)
	if err != nil {
		return nil, err
	}
	for i := range findings {
		if findings[i].Standing == txn.StandingGone && i < len(ended) && ended[i] {
			findings[i].Standing = txn.StandingRolledBack
		}
	}
	return findings, nil
}

// endAll ends the sessions of branches of the caller's log, and says which of them have ended
// without effect by it.
func (k *Keeper) endAll(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]bool, error) {
	ended, ours := make([]bool, len(b)), make([]*branch, len(b))
	for i := range b {
		if b[i].Name.Log != f.Log {
			continue
		}
		if ours[i] = k.refuse(b[i].Name); ours[i] != nil {
			ours[i].end(participant.Vote{Vote: txn.VoteNo,
				Reason: "its coordinator has rolled it back"})
		}
	}
	for i, s := range ours {
		if s == nil {
			continue
		}
		if err := s.await(ctx); err != nil {
			return nil, err
		}
		ended[i] = s.last().Vote == txn.VoteNo
	}
	return ended, nil
}

// refuse is the live branch of a name; where there is none, there will be none.
func (k *Keeper) refuse(n txn.Name) *branch {
	k.mu.Lock()
	defer k.mu.Unlock()
	if b := k.mu.live[n]; b != nil {
		return b
	}
	k.remember(n, participant.Vote{})
	return nil
}

// Inquire implements participant.Resource. A branch that is being prepared is waited for; one that
// could still be prepared is Unknown.
func (k *Keeper) Inquire(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	if err := k.admit(ctx, f, false); err != nil {
		return nil, err
	}
	open := make([]bool, len(b))
	for i := range b {
		s, _ := k.find(b[i].Name)
		switch {
		case s == nil || b[i].Name.Log != f.Log:
		case s.atWork():
			open[i] = true
		default:
			if err := s.await(ctx); err != nil {
				return nil, err
			}
		}
	}
	findings, err := k.cfg.Resource.Inquire(ctx, f, b)
	if err != nil {
		return nil, err
	}
	for i := range findings {
		if findings[i].Standing == txn.StandingGone && i < len(open) && open[i] {
			findings[i] = participant.Finding{Reason: "the branch is at work, and not prepared"}
		}
	}
	return findings, nil
}

// List implements participant.Resource.
func (k *Keeper) List(ctx context.Context, f txn.Fence) (participant.Listing, error) {
	if err := k.admit(ctx, f, false); err != nil {
		return participant.Listing{}, err
	}
	return k.cfg.Resource.List(ctx, f)
}

// Decide implements participant.Delegate, where the resource does. Sessions write no markers.
func (k *Keeper) Decide(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	d, ok := k.cfg.Resource.(participant.Delegate)
	if !ok {
		return nil, participant.ErrNoMarkers
	}
	if err := k.admit(ctx, f, false); err != nil {
		return nil, err
	}
	return d.Decide(ctx, f, b)
}

// RemoveMarkers implements participant.Delegate, where the resource does.
func (k *Keeper) RemoveMarkers(ctx context.Context, f txn.Fence, ids []txn.ID) error {
	d, ok := k.cfg.Resource.(participant.Delegate)
	if !ok {
		return participant.ErrNoMarkers
	}
	if err := k.admit(ctx, f, false); err != nil {
		return err
	}
	return d.RemoveMarkers(ctx, f, ids)
}

// Forget passes on that branches will not be asked about again.
func (k *Keeper) Forget(ctx context.Context, f txn.Fence, b []participant.Branch) error {
	if err := k.admit(ctx, f, false); err != nil {
		return err
	}
	if g, ok := k.cfg.Resource.(interface {
		Forget(context.Context, txn.Fence, []participant.Branch) error
	}); ok {
		return g.Forget(ctx, f, b)
	}
	return nil
}

// Describe implements participant.Describer: what the resource says, and whether sessions could be
// opened.
func (k *Keeper) Describe(ctx context.Context) (participant.Description, error) {
	describer, ok := k.cfg.Resource.(participant.Describer)
	if !ok {
		return participant.Description{}, fmt.Errorf("session: the resource cannot describe itself")
	}
	d, err := describer.Describe(ctx)
	if err != nil {
		return d, err
	}
	_, can := k.cfg.Resource.(participant.Delegate)
	d.Delegate, d.OnePhase = d.Delegate && can, false
	d.Checks = append(d.Checks, k.cfg.Database.Checks(ctx)...)
	return d, nil
}

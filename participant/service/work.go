package service

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/gavel-tx/gavel/txn"
)

// ErrBranchLost is returned by Work for a branch that can take no more work: it is prepared or has
// ended, its earlier work failed or is lost, or its epoch is over. It will not be committed with
// what the call was to do.
var ErrBranchLost = errors.New("service: the branch takes no more work")

// ErrRepeated is returned by Work for a copy of the branch's last call. The work was done by the
// first one, and stands; the service gives its answer again.
var ErrRepeated = errors.New("service: this call of the branch was made before")

// Work runs do as a part of the branch of that name. The client numbers its calls within a branch
// from 1: a service that was restarted notices by the number that earlier ones are missing. While
// do runs nothing else happens to the branch; it must not call the Resource. Nothing is durable
// before the branch is prepared.
//
// ErrBranchLost, ErrRepeated and a *txn.Refusal mean that do was not run. An error of do is
// returned as it is, and spoils the branch: it votes No, since an application that overlooks the
// error would otherwise commit a part of its work.
func (r *Resource) Work(
	ctx context.Context, name txn.Name, call uint64, do func(context.Context) error,
) error {
	if call == 0 {
		return txn.Refusef(txn.ReasonInvalid, "call", "it is 0, and the first of a branch is 1")
	}
	leave, err := r.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	r.expire(ctx)
	s, err := r.branches.take(ctx, name)
	if err != nil {
		return fmt.Errorf("service: not begun: %w", err)
	}
	defer r.branches.release(s)
	if err := r.join(ctx, s, call); err != nil {
		return err
	}
	defer func() { r.branches.touch(s, r.cfg.Now()) }()
	return s.work.run(ctx, call, do)
}

// join makes the branch of a call one at work, if it still may be. Its name was perhaps refused, or
// has ended: the journal knows, and where it may have forgotten, it knows that.
func (r *Resource) join(ctx context.Context, s *slot, call uint64) error {
	var epoch txn.Epoch
	over := false
	err := r.view(ctx, func(b *book) error {
		log, known, err := b.log(s.name.Log)
		if err == nil && !known {
			err = b.roomForLog()
		}
		if err != nil {
			return err
		}
		e, err := b.branch(s.name)
		if err != nil {
			return err
		}
		done, err := b.endOf(s.name)
		epoch = log.fence.Epoch
		over = e.phase != phaseNone || done.end != endNone || s.name.Seq <= log.dropped
		return err
	})
	switch {
	case err != nil:
		return fmt.Errorf("service: look up the branch: %w", err)
	case over || s.work != nil && s.work.closed:
		return fmt.Errorf("%w: it is prepared, or has ended", ErrBranchLost)
	case s.work == nil && call > 1:
		return fmt.Errorf("%w: call %d is the first that is known here", ErrBranchLost, call)
	case s.work == nil:
		return r.branches.begin(s, epoch)
	case s.work.stale(epoch):
		return fmt.Errorf("%w: its coordinator's epoch is over", ErrBranchLost)
	}
	return nil
}

// run makes one call.
func (w *work) run(ctx context.Context, call uint64, do func(context.Context) error) error {
	switch {
	case w.vote != nil:
		return fmt.Errorf("%w: %s", ErrBranchLost, w.vote.Reason)
	case call == w.calls:
		return ErrRepeated
	case call < w.calls:
		// A copy of an older call, which its caller does not wait for any more.
		return fmt.Errorf("%w: call %d comes after call %d", ErrBranchLost, call, w.calls)
	case call > w.calls+1:
		v := w.fail(No(fmt.Sprintf("call %d follows call %d", call, w.calls)))
		return fmt.Errorf("%w: %s", ErrBranchLost, v.Reason)
	}
	// Failed unless it returns: a panic must not leave a half of it behind as good work.
	failed := No("an earlier call of the branch failed")
	w.vote = &failed
	if err := do(ctx); err != nil {
		failed.Reason = cut("an earlier call of the branch failed: " + err.Error())
		return err
	}
	w.vote, w.calls = nil, call
	return nil
}

// cut keeps a reason within its limit.
func cut(reason string) string {
	return strings.ToValidUTF8(reason[:min(len(reason), txn.MaxReasonLen)], "")
}

// Abandon rolls back a branch at work, because its client is known to be gone. One that is
// prepared, or not at work here, stays as it is.
func (r *Resource) Abandon(ctx context.Context, name txn.Name) error {
	leave, err := r.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return r.giveUp(ctx, name, "its client is gone", func(*work) bool { return true })
}

// expire gives branches up that were left alone.
func (r *Resource) expire(ctx context.Context) {
	limit := r.cfg.Now().Add(-r.cfg.IdleAfter)
	for _, n := range r.branches.expired(limit) {
		err := r.giveUp(ctx, n, "it was left alone for too long", func(*work) bool { return true })
		if err != nil {
			// It stays marked, so that it is not prepared, and is tried again behind the others.
			r.branches.postpone(n, r.cfg.Now())
		}
	}
}

// giveUp rolls a branch at work back, if it still is at work and due.
func (r *Resource) giveUp(
	ctx context.Context, name txn.Name, reason string, due func(*work) bool,
) error {
	s, err := r.branches.take(ctx, name)
	if err != nil {
		return err
	}
	defer r.branches.release(s)
	_, err = looking(ctx, r, s, func(seen sight) (struct{}, error) {
		if s.work == nil || !due(s.work) {
			return struct{}{}, nil
		}
		v := s.work.fail(No(reason))
		return struct{}{}, r.conclude(ctx, nil, s, seen,
			ended{end: endNo, reason: v.Reason, sqlState: v.SQLState})
	})
	return err
}

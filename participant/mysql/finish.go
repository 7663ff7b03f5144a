package mysql

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/txn"
)

const (
	// minChunk is the least number of branches of one call that are worth a connection of their
	// own.
	minChunk = 4
	// detachAfter is how long a session may keep a decided branch to itself before it is ended.
	detachAfter = 100 * time.Millisecond
	// detachWait bounds the wait for sessions to end; who has not ended then is asked about again.
	detachWait = time.Second
	// minPoll and maxPoll bound the pauses between two looks.
	minPoll, maxPoll = time.Millisecond, 20 * time.Millisecond
)

// Commit finishes branches whose COMMIT is durable in the caller's log.
func (r *Resource) Commit(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return r.finish(ctx, f, b, true)
}

// Rollback finishes branches that will never commit. One that is not listed is judged by its row,
// if there is evidence: somebody may have committed it against the decision.
func (r *Resource) Rollback(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return r.finish(ctx, f, b, false)
}

// finishing is one call of Commit or Rollback.
type finishing struct {
	r        *Resource
	fence    txn.Fence
	branches []participant.Branch
	commit   bool

	right    *right
	findings []participant.Finding
}

func (r *Resource) finish(
	ctx context.Context, f txn.Fence, b []participant.Branch, commit bool,
) ([]participant.Finding, error) {
	if err := r.admit(f, len(b)); err != nil {
		return nil, err
	}
	call := &finishing{r: r, fence: f, branches: b, commit: commit,
		findings: make([]participant.Finding, len(b))}
	todo := call.ownLog()
	if len(todo) == 0 {
		return call.findings, nil
	}
	err := r.rightly(ctx, f, func(t *right) error {
		call.right = t
		return call.run(ctx, call.open(todo))
	})
	return heldFindings(call.findings, err)
}

// ownLog answers for the branches of other logs, which are not the caller's to finish, and returns
// the places of the rest.
func (c *finishing) ownLog() []int {
	var todo []int
	for i, b := range c.branches {
		if b.Name.Log == c.fence.Log && b.Name.Log != 0 {
			todo = append(todo, i)
			continue
		}
		c.findings[i] = participant.Finding{Standing: txn.StandingForeign,
			Reason: "the branch belongs to another log"}
	}
	return todo
}

// rightly takes the right of the fence's log and acts by it; once more if the right was lost on the
// way, which can only be if this process' control connection had ended.
func (r *Resource) rightly(ctx context.Context, f txn.Fence, act func(*right) error) error {
	for again := range 2 {
		t, err := r.rights.get(ctx, f)
		if err != nil {
			return err
		}
		if err = act(t); !errors.Is(err, errRightLost) {
			return err
		}
		r.rights.drop(t)
		if again == 1 {
			return fmt.Errorf("%w: %w", err, participant.ErrNotResolver)
		}
	}
	return nil
}

// open are the places that have no answer yet.
func (c *finishing) open(todo []int) []int {
	var rest []int
	for _, i := range todo {
		if c.findings[i].Standing == txn.StandingUnknown {
			rest = append(rest, i)
		}
	}
	return rest
}

// run finishes over several connections at once: each XA COMMIT waits for the disk, and those of
// several connections share the wait.
func (c *finishing) run(ctx context.Context, todo []int) error {
	size := max((len(todo)+c.r.config.MaxConns-1)/c.r.config.MaxConns, minChunk)
	if len(todo) <= size {
		return c.some(ctx, todo)
	}
	var errs []error
	var mu sync.Mutex
	var wg sync.WaitGroup
	for len(todo) > 0 {
		chunk := todo[:min(size, len(todo))]
		todo = todo[len(chunk):]
		wg.Go(func() {
			err := c.some(ctx, chunk)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// some finishes branches over one connection. If that is lost, another one looks at what is left:
// each round begins with a look, so that nothing is done twice.
func (c *finishing) some(ctx context.Context, todo []int) error {
	return c.r.reading(ctx, func(s *session) error {
		if err := c.right.join(ctx, s); err != nil {
			return err
		}
		return c.rounds(ctx, s, c.open(todo))
	})
}

// rounds looks and acts until all branches are answered, or have been waited for long enough.
func (c *finishing) rounds(ctx context.Context, s *session, todo []int) error {
	began, poll := time.Now(), minPoll
	for {
		waited := time.Since(began)
		waiting, err := c.round(ctx, s, todo, waited > detachAfter)
		if err != nil || len(waiting) == 0 || waited > detachWait || !pause(ctx, poll) {
			return err
		}
		todo, poll = waiting, min(2*poll, maxPoll)
	}
}

// round looks at branches, finishes those that can be finished, judges those that are gone, and
// returns those that are worth another round.
func (c *finishing) round(
	ctx context.Context, s *session, todo []int, detach bool,
) (waiting []int, err error) {
	names := make([]txn.Name, len(todo))
	for n, i := range todo {
		names[n] = c.branches[i].Name
	}
	began := time.Now()
	seen, err := xabranch.Sight(ctx, s.Conn, names)
	if err != nil {
		return nil, err
	}
	settle := xabranch.Settle + time.Since(began)
	var free, gone []int
	for _, i := range todo {
		switch at := seen[c.branches[i].Name]; c.place(s, i, at) {
		case toFinish:
			free = append(free, i)
		case toJudge:
			gone = append(gone, i)
		case toWait:
			waiting = append(waiting, i)
			if detach && at.State == xabranch.StateAttached {
				if err := s.note(xabranch.Detach(ctx, s.Conn, at.Session)); err != nil {
					c.findings[i].Reason += ": " + err.Error()
				}
			}
		}
	}
	if err := c.r.judge(ctx, s, c.branches, gone, c.findings); err != nil {
		return nil, err
	}
	if len(free) == 0 || !pause(ctx, settle) {
		return waiting, nil
	}
	// The server may have become a replica since this session was opened.
	if _, err := c.r.connector.look(ctx, s); err != nil {
		return nil, err
	}
	again, err := c.send(ctx, s, free, seen)
	return append(waiting, again...), err
}

// step is what is to be done about a branch.
type step uint8

const (
	toLeave step = iota
	toFinish
	toJudge
	toWait
)

// place sorts a branch by what was seen of it, and notes why it has to wait or be left.
func (c *finishing) place(s *session, i int, at xabranch.Seen) step {
	switch {
	case at.State == xabranch.StateAbsent || at.State == xabranch.StateHidden:
		return toJudge
	case at.HasRow && at.Row.Database != s.database:
		c.findings[i] = foreign(at.Row.Database)
		return toLeave
	case c.commit && at.HasRow && c.branches[i].Evidence.XID != 0 &&
		at.Row.Number != c.branches[i].Evidence.XID:
		c.findings[i] = participant.Finding{Reason: fmt.Sprintf("the branch is prepared with "+
			"number %d, and voted with %d", at.Row.Number, c.branches[i].Evidence.XID)}
		return toLeave
	case !at.HasRow && c.commit:
		c.findings[i] = participant.Finding{Reason: withoutRow}
		return toLeave
	case at.State == xabranch.StateFree:
		return toFinish
	}
	c.findings[i] = participant.Finding{Reason: fmt.Sprintf(
		"its session, connection %d, has not ended", at.Row.Connection)}
	return toWait
}

// send finishes branches, and returns those about which the server knew nothing: one that was
// prepared without a user lock may be attached, and one may have been finished by another session.
func (c *finishing) send(
	ctx context.Context, s *session, free []int, seen map[txn.Name]xabranch.Seen,
) (again []int, err error) {
	names := make([]txn.Name, len(free))
	for n, i := range free {
		names[n] = c.branches[i].Name
	}
	done := xabranch.Finish(ctx, s.Conn, c.commit, names)
	if !c.commit {
		// InnoDB does not sync a rollback: a crash would bring the branch back. This write does.
		if _, err := xabranch.Vouch(ctx, s.Conn, 0); err != nil {
			return nil, s.note(err)
		}
	}
	for n, f := range done {
		i := free[n]
		switch {
		case f.Result == xabranch.FinishDone && c.commit:
			c.findings[i] = participant.Finding{Standing: txn.StandingCommitted}
		case f.Result == xabranch.FinishDone && !seen[names[n]].HasRow:
			// That no row is left proves nothing where there was none.
			c.findings[i] = participant.Finding{Standing: txn.StandingGone, Reason: "the server " +
				"says that it is rolled back, and it had no row to prove that by"}
		case f.Result == xabranch.FinishDone:
			c.findings[i] = participant.Finding{Standing: txn.StandingRolledBack}
		default:
			c.findings[i] = participant.Finding{Reason: f.Err.Error()}
			if f.Result == xabranch.FinishMissing {
				again = append(again, i)
			}
			if s.note(f.Err) != nil && s.broken {
				err = f.Err
			}
		}
	}
	return again, err
}

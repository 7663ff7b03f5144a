package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

// minChunk is the least number of branches of one call that are worth a connection of their own:
// each COMMIT PREPARED waits for the disk, and several connections share one wait. A coordinator
// spreads what it has over several calls already, so that only a large one is cut.
const minChunk = 2

// Commit finishes branches whose COMMIT is durable in the caller's log.
func (r *Resource) Commit(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return r.finish(ctx, f, b, true)
}

// Rollback finishes branches that will never commit. One that is not listed is judged by its
// evidence, if there is any: somebody may have committed it against the decision.
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

// finish works in two stages. The first assumes the ordinary case, that all branches are there and
// belong to the owner role, and costs one round trip. The second looks at the list for what the
// first has not settled, and is where "does not exist", other owners and lost connections are
// judged.
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
	err := call.run(ctx, todo)
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

// run does both stages for what is left.
func (c *finishing) run(ctx context.Context, todo []int) error {
	return c.r.rightly(ctx, c.fence, func(t *right) error {
		c.right = t
		if err := c.firstStage(ctx, c.open(todo)); err != nil {
			return err
		}
		return c.secondStage(ctx, c.open(todo))
	})
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
		if !settled(c.findings[i]) {
			rest = append(rest, i)
		}
	}
	return rest
}

// firstStage finishes over several connections at once. An error of one is that of the call only if
// it says that nothing may be done at all; otherwise the second stage sees what is left.
func (c *finishing) firstStage(ctx context.Context, todo []int) error {
	chunks := split(todo, c.r.config.MaxConns)
	if len(chunks) == 1 {
		return c.finishSome(ctx, todo)
	}
	errs := make([]error, len(chunks))
	var wg sync.WaitGroup
	for n, chunk := range chunks {
		wg.Go(func() { errs[n] = c.finishSome(ctx, chunk) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// split cuts work into at most n pieces of at least minChunk.
func split(todo []int, n int) [][]int {
	size := max((len(todo)+n-1)/n, minChunk)
	var chunks [][]int
	for len(todo) > size {
		chunks, todo = append(chunks, todo[:size]), todo[size:]
	}
	return append(chunks, todo)
}

func (c *finishing) finishSome(ctx context.Context, places []int) error {
	s, err := c.r.pool.acquire(ctx)
	if err != nil {
		return err
	}
	defer c.r.pool.release(s)
	if err := c.right.join(ctx, s); err != nil {
		if s.IsClosed() {
			return nil // an idle connection that was dead: the second stage uses a fresh one
		}
		return err
	}
	c.send(ctx, s, c.r.config.OwnerRole, places)
	return nil
}

// send finishes branches as a role, and notes what is settled by the answer itself.
func (c *finishing) send(ctx context.Context, s *session, role string, places []int) {
	names := make([]txn.Name, len(places))
	for n, i := range places {
		names[n] = c.branches[i].Name
	}
	for n, f := range pgbranch.Finish(ctx, s.PgConn, role, c.commit, names) {
		c.findings[places[n]] = c.noted(f)
	}
}

func (c *finishing) noted(f pgbranch.Finished) participant.Finding {
	switch {
	case f.Result == pgbranch.FinishDone && c.commit:
		return participant.Finding{Standing: txn.StandingCommitted}
	case f.Result == pgbranch.FinishDone:
		return participant.Finding{Standing: txn.StandingRolledBack}
	}
	return participant.Finding{Reason: f.Err.Error()}
}

// secondStage looks at the list for what is left. It holds one session for all of it, so that the
// list, the second attempt and the judgement speak of the same server.
func (c *finishing) secondStage(ctx context.Context, rest []int) error {
	if len(rest) == 0 {
		return nil
	}
	return c.r.reading(ctx, func(s *session) error {
		if err := c.right.join(ctx, s); err != nil {
			return err
		}
		return c.lookAgain(ctx, s, c.open(rest))
	})
}

func (c *finishing) lookAgain(ctx context.Context, s *session, rest []int) error {
	names := make([]txn.Name, len(rest))
	for n, i := range rest {
		names[n] = c.branches[i].Name
	}
	found, err := c.r.find(ctx, s, names)
	if err != nil {
		return err
	}
	byOwner := map[string][]int{}
	for _, i := range rest {
		listed, there := found[c.branches[i].Name]
		switch {
		case there && listed.Ours:
			byOwner[listed.Owner] = append(byOwner[listed.Owner], i)
		case there:
			c.findings[i] = foreign(listed.Owner)
		default:
			finding, err := c.r.judge(ctx, s, c.branches[i].Evidence)
			if err != nil {
				return err
			}
			c.findings[i] = finding
		}
	}
	for owner, places := range byOwner {
		c.send(ctx, s, owner, places)
	}
	return nil
}

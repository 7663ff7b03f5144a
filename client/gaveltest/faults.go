package gaveltest

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// Op is a step of a transaction that a test may have fail.
type Op uint8

const (
	// Begin: the coordinator refuses the transaction, as one whose resource is not available.
	Begin Op = iota + 1
	// Prepare: the branch votes no, with SQLSTATE 40001, so that the transaction may be retried.
	Prepare
	// Commit: what is decided does not reach the resource the first time. The coordinator tries
	// again, and nobody hears of it unless they look at what is pending.
	Commit
	// Answer: the decision is made, and its answer gets lost on the way to the client, which asks.
	Answer
)

// String is the word for the operation in test output.
func (o Op) String() string { return [...]string{"", "begin", "prepare", "commit", "answer"}[o] }

const (
	testsReason   = "the test has this branch vote no"
	serialization = "40001"
	maxFaults     = 1000
)

var (
	errCommit  = errors.New("gaveltest: the test has this commit not arrive")
	errNotAble = errors.New("gaveltest: the resource cannot commit in one phase")
)

// faults are those that are still to happen.
type faults struct {
	mu   sync.Mutex
	next []fault
}

type fault struct {
	op       Op
	resource string
}

// FailNext has an operation fail the next time that it meets the resource. Several calls add up, to
// 1,000 at most.
func (g *Gavel) FailNext(op Op, resource string) {
	g.t.Helper()
	g.faults.mu.Lock()
	defer g.faults.mu.Unlock()
	if op < Begin || op > Answer || len(g.faults.next) == maxFaults {
		g.t.Fatalf("gaveltest: FailNext(%d, %q) is no operation, or one too many", op, resource)
	}
	for _, r := range g.resources {
		if r.Name == resource {
			g.faults.next = append(g.faults.next, fault{op, resource})
			return
		}
	}
	g.t.Fatalf("gaveltest: %q is none of the test's resources", resource)
}

// Unhappened are the failures that FailNext has asked for and that did not happen, as text.
func (g *Gavel) Unhappened() (left []string) {
	g.faults.mu.Lock()
	defer g.faults.mu.Unlock()
	for _, f := range g.faults.next {
		left = append(left, f.op.String()+" "+f.resource)
	}
	return left
}

// take says whether to fail, and that it happens now.
func (f *faults) take(op Op, resource string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.Index(f.next, fault{op, resource})
	if i >= 0 {
		f.next = slices.Delete(f.next, i, i+1)
	}
	return i >= 0
}

func (f *faults) takeAny(op Op, branches []txn.Enlisted) bool {
	return slices.ContainsFunc(branches, func(b txn.Enlisted) bool {
		return f.take(op, b.Resource)
	})
}

func (f *faults) waits(op Op, resource string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.next, fault{op, resource})
}

// faulty is a resource whose calls may fail. Its optional methods are for those resources that say,
// when they are described, that they have them.
type faulty struct {
	participant.Resource
	name   string
	faults *faults
}

var (
	_ participant.OnePhaser = (*faulty)(nil)
	_ participant.Delegate  = (*faulty)(nil)
	_ participant.Describer = (*faulty)(nil)
)

func (r *faulty) Describe(ctx context.Context) (participant.Description, error) {
	who, ok := r.Resource.(participant.Describer)
	if !ok {
		return participant.Description{}, errors.New("gaveltest: the resource has no Describe")
	}
	d, err := who.Describe(ctx)
	_, one := r.Resource.(participant.OnePhaser)
	_, delegate := r.Resource.(participant.Delegate)
	d.OnePhase, d.Delegate = d.OnePhase && one, d.Delegate && delegate
	return d, err
}

// Prepare has branches vote no that were prepared already only after their rollback.
func (r *faulty) Prepare(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Vote, error) {
	if !r.faults.take(Prepare, r.name) {
		return r.Resource.Prepare(ctx, f, b)
	}
	if _, err := r.Rollback(ctx, f, b[:1]); err != nil {
		return nil, err
	}
	no := participant.Vote{Vote: txn.VoteNo, Reason: testsReason, SQLState: serialization}
	if len(b) == 1 {
		return []participant.Vote{no}, nil
	}
	rest, err := r.Resource.Prepare(ctx, f, b[1:])
	return append([]participant.Vote{no}, rest...), err
}

func (r *faulty) Commit(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	if r.faults.take(Commit, r.name) {
		return nil, errCommit
	}
	return r.Resource.Commit(ctx, f, b)
}

// CommitOnePhase is the vote as well.
func (r *faulty) CommitOnePhase(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	one, ok := r.Resource.(participant.OnePhaser)
	switch {
	case !ok:
		return nil, errNotAble
	case r.faults.take(Commit, r.name):
		return nil, errCommit
	case len(b) == 1 && r.faults.take(Prepare, r.name):
		if _, err := r.Rollback(ctx, f, b); err != nil {
			return nil, err
		}
		return []participant.Finding{{Standing: txn.StandingRolledBack, Reason: testsReason,
			SQLState: serialization}}, nil
	}
	return one.CommitOnePhase(ctx, f, b)
}

func (r *faulty) Decide(
	ctx context.Context, f txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	if d, ok := r.Resource.(participant.Delegate); ok {
		return d.Decide(ctx, f, b)
	}
	return nil, participant.ErrNoMarkers
}

func (r *faulty) RemoveMarkers(ctx context.Context, f txn.Fence, ids []txn.ID) error {
	if d, ok := r.Resource.(participant.Delegate); ok {
		return d.RemoveMarkers(ctx, f, ids)
	}
	return participant.ErrNoMarkers
}

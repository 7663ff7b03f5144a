package client

import (
	"context"
	"fmt"
	"time"

	"github.com/gavel-tx/gavel/txn"
)

// Branch is one resource's part of a transaction, open at one session that nobody else uses. Branch
// packages implement it; applications never see it. After the function has returned, a transaction
// calls Review at most once and then exactly one of Prepare and Finish, which release the session,
// whatever they answer. No two calls overlap. The application may still call the branch's own
// methods from a goroutine that it forgot; the branch must refuse those.
type Branch interface {
	// Review tells whether the branch can commit and whether it wrote. It ends nothing.
	Review(ctx context.Context) Review
	// Prepare prepares the branch under name. Its Ending is Prepared only on positive proof and
	// with evidence, RolledBack if the branch has provably ended, else Unknown. After a Review that
	// was Unsure it is RolledBack in place of Unknown, and also if the branch is prepared and must
	// not commit, with the evidence of that. What is prepared is durable, and is the coordinator's
	// from now on. Never called before the coordinator has acknowledged name.
	Prepare(ctx context.Context, name txn.Name) Ending
	// Finish ends a branch that is not prepared, by the database's plain COMMIT or ROLLBACK. A
	// commit's Ending is Committed or RolledBack on proof, else Unknown; a lost reply is first
	// asked for, until ctx ends. A branch that cannot commit is rolled back instead.
	Finish(ctx context.Context, commit bool) Ending
}

// DelegateBranch is implemented by branches that the decision can be left to: see [Delegate]. One
// of Prepare, Finish and Decide is called then, exactly once.
type DelegateBranch interface {
	Branch
	// Decide commits the branch together with the marker of id, which holds decision, at the
	// resource that at is of: in another one it rolls the branch back. Its Ending is Committed on
	// positive proof that both are durable, with evidence; RolledBack if the branch has provably
	// ended without effect, and the marker with it, above all because the coordinator has written
	// another marker before; else Unknown. Decision stays the caller's, and must not change before
	// Decide returns.
	Decide(ctx context.Context, id txn.ID, at txn.Evidence, decision []byte) Ending
}

// Review is the answer to [Branch.Review].
type Review struct {
	Finding Finding
	// Reason says, for people, why the branch can only roll back. SQLState is the database's code
	// and Err the error behind it, if there was one.
	Reason   string
	SQLState string
	Err      error
	// Elsewhere says of a writer that its work is kept by its resource, under the name that
	// [NameFrom] gave. The coordinator asks there for the vote, and has it ended there: Prepare and
	// Finish only let go of what the branch has here, and their Ending says nothing.
	Elsewhere bool
	// Unsure says of a writer that Prepare may turn out to be a No although the branch is
	// prepared. Nobody hears of the PREPAREs before their votes then.
	Unsure bool
}

// Finding is what a Review found.
type Finding uint8

// The findings of a Review. FoundWriter is the one to give in doubt: it is correct for every sound
// branch.
const (
	// FoundFailed: a statement failed, or the session is lost. It can only roll back.
	FoundFailed Finding = iota
	// FoundWriter: it wrote, or may have.
	FoundWriter
	// FoundReader: it certainly wrote nothing, here or anywhere else, so that its plain COMMIT is a
	// vote.
	FoundReader
)

// String is the word for the finding in messages.
func (f Finding) String() string {
	return [...]string{"failed", "writer", "reader"}[f]
}

// Ending is how a branch ended, as far as it is proven.
type Ending struct {
	// Standing is Prepared, Committed, RolledBack or Unknown.
	Standing txn.Standing
	// Evidence belongs to Prepared, to a RolledBack that is prepared, and to the Committed of a
	// Decide.
	Evidence txn.Evidence
	// Reason, SQLState and Err explain RolledBack and Unknown, as in a Review.
	Reason   string
	SQLState string
	Err      error
}

// OpenOptions tell an [Opener] how to begin a branch.
type OpenOptions struct {
	// Level and ReadOnly are the options of the same names.
	Level    Level
	ReadOnly bool
	// IdleTimeout is how long a session may stay idle in the branch before the database may end it.
	IdleTimeout time.Duration
	// ID is the transaction, if it is known already.
	ID txn.ID
}

// Opener begins a branch of the transaction on a session that it takes from the application's
// database object. On an error it has released what it took.
type Opener func(ctx context.Context, o OpenOptions) (Branch, error)

// Join is how a database object takes part in the transaction of ctx: it returns the transaction's
// branch at resource, and opens it at the first call. A transaction has one branch for each
// resource name, whichever object asked first. From the second resource on the coordinator hears of
// it, while SQL runs.
//
// Without a transaction in ctx the error is [ErrNoTransaction], after its end [ErrFinished]. If
// open fails, so do all later calls for the resource, and the transaction can only roll back. Safe
// for concurrent use.
func Join(ctx context.Context, resource string, open Opener) (Branch, error) {
	t := from(ctx)
	if t == nil {
		return nil, ErrNoTransaction
	}
	return t.join(ctx, resource, open)
}

// Fail makes the transaction of ctx roll back in the end, with err as the reason, whatever its
// function returns. The first failure counts. Without a transaction it does nothing.
func Fail(ctx context.Context, err error) {
	if t := from(ctx); t != nil {
		t.fail(err)
	}
}

// entry is one resource of a transaction. ready is closed once branch or err is set.
type entry struct {
	resource string
	ready    chan struct{}
	branch   Branch
	err      error
}

// await waits for the goroutine that opens the branch. A branch that is open is returned whatever
// became of ctx: the statement itself must fail then, at its branch.
func (e *entry) await(ctx context.Context) (Branch, error) {
	select {
	case <-e.ready:
		return e.branch, e.err
	default:
	}
	select {
	case <-e.ready:
		return e.branch, e.err
	case <-ctx.Done():
		return nil, fmt.Errorf("client: wait for the branch at %s: %w",
			e.resource, context.Cause(ctx))
	}
}

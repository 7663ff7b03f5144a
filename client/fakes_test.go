package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/txn"
)

const testLog txn.LogID = 7

// registered is what the coordinator knows of every resource, and evidence what its branches show.
var (
	registered = txn.Evidence{
		Identity: txn.Identity{System: 1, Database: 2},
		Position: txn.Position{Timeline: 2, LSN: 100},
	}
	evidence = txn.Evidence{Identity: registered.Identity, Position: registered.Position, XID: 3}
)

// decider is a coordinator of one test. It decides as a real one does, unless the test says
// otherwise.
type decider struct {
	onBegin   func(ctx context.Context, r txn.BeginRequest) (txn.Begun, error)
	onCommit  func(ctx context.Context, r txn.CommitRequest) (txn.Result, error)
	onOutcome func(ctx context.Context, id txn.ID) (txn.Result, error)
	// leaves says that it leaves the decision to a branch where it is asked to.
	leaves bool

	mu        sync.Mutex
	seq       txn.Seq
	branches  map[txn.ID][]txn.Enlisted
	delegates map[txn.ID]txn.BranchNo
	begins    []txn.BeginRequest
	commits   []txn.CommitRequest
	outcomes  []txn.ID
	rollbacks []txn.ID
}

func (d *decider) Begin(ctx context.Context, r txn.BeginRequest) (txn.Begun, error) {
	d.mu.Lock()
	r.Resources = slices.Clone(r.Resources)
	d.begins = append(d.begins, r)
	d.mu.Unlock()
	if d.onBegin != nil {
		return d.onBegin(ctx, r)
	}
	return d.enlist(r), nil
}

// enlist is what a real Begin does.
func (d *decider) enlist(r txn.BeginRequest) txn.Begun {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.branches == nil {
		d.branches = map[txn.ID][]txn.Enlisted{}
		d.delegates = map[txn.ID]txn.BranchNo{}
	}
	id := r.ID
	if id.IsZero() {
		d.seq++
		id = txn.NewID(testLog, d.seq)
	}
	for _, name := range r.Resources {
		no := txn.BranchNo(len(d.branches[id]) + 1)
		d.branches[id] = append(d.branches[id],
			txn.Enlisted{Branch: no, Resource: name, Name: txn.NameOf(id, no), At: registered})
		if d.leaves && r.ID.IsZero() && name == r.Delegate {
			d.delegates[id] = no
		}
	}
	return txn.Begun{ID: id, Delegate: d.delegates[id], Branches: slices.Clone(d.branches[id])}
}

func (d *decider) Commit(ctx context.Context, r txn.CommitRequest) (txn.Result, error) {
	d.mu.Lock()
	d.commits = append(d.commits, r)
	d.mu.Unlock()
	if d.onCommit != nil {
		return d.onCommit(ctx, r)
	}
	return decided(r), nil
}

// decided is what a real Commit answers to votes that are all known.
func decided(r txn.CommitRequest) txn.Result {
	for _, v := range r.Votes {
		if v.Vote == txn.VoteNo {
			return txn.Result{ID: r.ID, State: txn.StateRolledBack, Outcome: txn.OutcomeRolledBack,
				Cause: txn.CauseVotedNo, Reason: v.Reason, SQLState: v.SQLState}
		}
	}
	return committed(r.ID)
}

func committed(id txn.ID) txn.Result {
	return txn.Result{ID: id, State: txn.StateCommitted, Outcome: txn.OutcomeCommitted,
		Plan: txn.PlanClassic}
}

func (d *decider) Outcome(ctx context.Context, id txn.ID) (txn.Result, error) {
	d.mu.Lock()
	d.outcomes = append(d.outcomes, id)
	d.mu.Unlock()
	if d.onOutcome != nil {
		return d.onOutcome(ctx, id)
	}
	return committed(id), nil
}

func (d *decider) calls() (begins []txn.BeginRequest, commits []txn.CommitRequest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.begins), slices.Clone(d.commits)
}

// rollbacker is a decider with the optional Rollback.
type rollbacker struct{ *decider }

func (d rollbacker) Rollback(ctx context.Context, id txn.ID, reason string) (txn.Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rollbacks = append(d.rollbacks, id)
	return txn.Result{ID: id, Outcome: txn.OutcomeRolledBack}, nil
}

// database is a resource of one test, and the branch of its one transaction at a time.
type database struct {
	// as, if not nil, stands for the branch.
	as        client.Branch
	name      string
	openErr   error
	onOpen    func(ctx context.Context)
	review    client.Review
	prepared  client.Ending
	onLeave   func(ctx context.Context)
	onPrepare func()
	finished  client.Ending

	mu     sync.Mutex
	opened []client.OpenOptions
	acts   []string
	// cut counts the endings whose context had ended already.
	cut int
}

// writer, reader and broken are databases whose branch is found to be that.
func writer(name string) *database {
	return &database{
		name:     name,
		review:   client.Review{Finding: client.FoundWriter},
		prepared: client.Ending{Standing: txn.StandingPrepared, Evidence: evidence},
		finished: client.Ending{Standing: txn.StandingCommitted},
	}
}

func unsure(name string) *database {
	db := writer(name)
	db.review.Unsure = true
	return db
}

func reader(name string) *database {
	db := writer(name)
	db.review.Finding = client.FoundReader
	return db
}

func broken(name string, err error) *database {
	db := writer(name)
	db.review = client.Review{Finding: client.FoundFailed, Reason: "a statement failed", Err: err}
	return db
}

// do stands for a statement.
func (db *database) do(ctx context.Context) error {
	_, err := client.Join(ctx, db.name, db.open)
	return err
}

func (db *database) open(ctx context.Context, o client.OpenOptions) (client.Branch, error) {
	if db.onOpen != nil {
		db.onOpen(ctx)
	}
	if db.openErr != nil {
		return nil, db.openErr
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	db.opened = append(db.opened, o)
	if db.as != nil {
		return db.as, nil
	}
	return db, nil
}

func (db *database) act(ctx context.Context, what string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.acts = append(db.acts, what)
	if ctx.Err() != nil {
		db.cut++
	}
}

func (db *database) Review(ctx context.Context) client.Review {
	db.act(ctx, "review")
	return db.review
}

func (db *database) Prepare(ctx context.Context, name txn.Name) client.Ending {
	if db.onPrepare != nil {
		db.onPrepare()
	}
	db.act(ctx, "prepare "+name.String())
	return db.prepared
}

func (db *database) Finish(ctx context.Context, commit bool) client.Ending {
	if db.onLeave != nil {
		db.onLeave(ctx)
	}
	if !commit {
		db.act(ctx, "rollback")
		return client.Ending{Standing: txn.StandingRolledBack}
	}
	db.act(ctx, "commit")
	return db.finished
}

// history is what happened to the branches of db.
func (db *database) history() []string {
	db.mu.Lock()
	defer db.mu.Unlock()
	return slices.Clone(db.acts)
}

func wantHistory(t *testing.T, db *database, want ...string) {
	t.Helper()
	if got := db.history(); !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", db.name, got, want)
	}
}

// all uses every database once.
func all(dbs ...*database) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, db := range dbs {
			if err := db.do(ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

// state is a database error, as every driver has one.
type state string

func (s state) Error() string    { return "database error " + string(s) }
func (s state) SQLState() string { return string(s) }

func wantAborted(t *testing.T, err error) *client.AbortedError {
	t.Helper()
	a, ok := errors.AsType[*client.AbortedError](err)
	if !ok {
		t.Fatalf("error %v (%T), want an AbortedError", err, err)
	}
	return a
}

func wantInDoubt(t *testing.T, err error, id txn.ID) {
	t.Helper()
	if !errors.Is(err, client.ErrInDoubt) || !errors.Is(err, txn.ErrUnknown) {
		t.Fatalf("error %v, want ErrInDoubt", err)
	}
	if got := client.IDOf(err); got != id {
		t.Errorf("in doubt about %s, want %s", got, id)
	}
}

// firstID is the id that a decider gives to the first transaction.
func firstID() txn.ID { return txn.NewID(testLog, 1) }

func prepareOf(branch txn.BranchNo) string {
	return fmt.Sprintf("prepare %s", txn.NameOf(firstID(), branch))
}

package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// transaction is what the context carries while a function runs.
//
//	running ── fn returns, or panics ──▶ ended: no branch and no failure is taken any more
type transaction struct {
	client    *Client
	set       settings
	registrar *registrar

	mu struct {
		sync.Mutex
		ended   bool
		entries []*entry
		// failure is the first reason to roll back.
		failure error
		// registered says that every resource is told to the coordinator, from the first on.
		registered bool
		// pinned says that somebody outside may ask the coordinator for the outcome, so that the
		// coordinator must be the one who decides it.
		pinned bool
		// called says that another process was called, calls counts the calls that have not ended,
		// and votes are those of the calls that have.
		called bool
		calls  int
		votes  []txn.BranchVote
	}
}

// contextKey is where a context holds its transaction.
type contextKey struct{}

func from(ctx context.Context) *transaction {
	t, _ := ctx.Value(contextKey{}).(*transaction)
	return t
}

// Detach returns a context without the transaction of ctx, for work and for calls of other
// processes that shall stay whatever becomes of it.
func Detach(ctx context.Context) context.Context {
	return context.WithValue(ctx, contextKey{}, (*transaction)(nil))
}

// IDFrom is the id of the transaction of ctx. A transaction that has none yet gets one from the
// coordinator now; and since its outcome may be asked for from now on, its coordinator decides it
// even if a single database takes part. Without a transaction the error is [ErrNoTransaction].
func IDFrom(ctx context.Context) (txn.ID, error) {
	t := from(ctx)
	if t == nil {
		return txn.ID{}, ErrNoTransaction
	}
	if err := t.pin(); err != nil {
		return txn.ID{}, err
	}
	begun, err := t.registrar.wait(ctx)
	return begun.ID, err
}

// NameFrom is the name under which the branch of ctx's transaction at resource will be prepared,
// for a resource that keeps the work of a branch itself. The transaction has joined the resource:
// this is called from an [Opener] or later. It waits for the coordinator, which is the one who
// decides from then on, as after [IDFrom]. Without a transaction the error is [ErrNoTransaction].
func NameFrom(ctx context.Context, resource string) (txn.Name, error) {
	t := from(ctx)
	if t == nil {
		return txn.Name{}, ErrNoTransaction
	}
	t.registrar.undelegate()
	if err := t.pin(); err != nil {
		return txn.Name{}, err
	}
	begun, err := t.registrar.wait(ctx)
	if err != nil {
		return txn.Name{}, err
	}
	for _, b := range begun.Branches {
		if b.Resource == resource {
			return b.Name, nil
		}
	}
	return txn.Name{}, fmt.Errorf("client: the transaction has no branch at %.80q", resource)
}

func newTransaction(ctx context.Context, c *Client, s settings) *transaction {
	return &transaction{client: c, set: s, registrar: newRegistrar(ctx, c.decider, txn.BeginRequest{
		Timeout: s.timeout, Label: s.label, Key: s.key, Body: s.body, Delegate: s.decides(),
	})}
}

// context is the one that the function gets.
func (t *transaction) context(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx = context.WithValue(ctx, contextKey{}, t)
	if t.set.timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, t.set.timeout)
}

// pin makes the coordinator the one who decides.
func (t *transaction) pin() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.ended {
		return ErrFinished
	}
	t.mu.pinned = true
	t.register()
	return nil
}

// register tells the coordinator of the resources so far, once, and so of the transaction. Those
// that come later are told one by one. The caller holds the lock.
func (t *transaction) register() {
	if t.mu.registered {
		return
	}
	t.mu.registered = true
	names := make([]string, len(t.mu.entries))
	for i, e := range t.mu.entries {
		names[i] = e.resource
	}
	t.registrar.want(names...)
}

func (t *transaction) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.failure == nil && !t.mu.ended {
		t.mu.failure = err
	}
}

// join finds or opens the branch at a resource. Opening happens outside of the lock: branches at
// other resources open meanwhile.
func (t *transaction) join(ctx context.Context, name string, open Opener) (Branch, error) {
	e, isNew, err := t.enter(name)
	if err != nil {
		t.fail(err)
		return nil, err
	}
	if isNew {
		t.open(ctx, e, open)
	}
	b, err := e.await(ctx)
	if err != nil {
		t.fail(err)
	}
	return b, err
}

// enter finds or makes the entry of a resource. The second resource is what makes the coordinator
// needed, so it is told then; the request runs beside the opening of the branch and the SQL that
// follows.
func (t *transaction) enter(name string) (*entry, bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.ended {
		return nil, false, ErrFinished
	}
	for _, e := range t.mu.entries {
		if e.resource == name {
			return e, false, nil
		}
	}
	if err := checkResource(name, len(t.mu.entries)); err != nil {
		return nil, false, err
	}
	e := &entry{resource: name, ready: make(chan struct{})}
	t.mu.entries = append(t.mu.entries, e)
	switch {
	case t.mu.registered:
		t.registrar.want(name)
	case len(t.mu.entries) == 2:
		t.register()
	}
	return e, true, nil
}

func checkResource(name string, others int) error {
	switch {
	case name == "" || len(name) > txn.MaxResourceNameLen:
		return fmt.Errorf("client: %.80q is not the name of a resource: 1 to %d bytes",
			name, txn.MaxResourceNameLen)
	case others == txn.MaxBranches:
		return fmt.Errorf("client: a branch at %s would be one more than %d, the limit",
			name, txn.MaxBranches)
	}
	return nil
}

// open opens the branch of an entry. If the function returned meanwhile, the end of the transaction
// has passed this branch by, and its own opener rolls it back.
func (t *transaction) open(ctx context.Context, e *entry, open Opener) {
	b, err := open(ctx, OpenOptions{
		Level: t.set.level, ReadOnly: t.set.readOnly, IdleTimeout: t.set.undecided(),
		ID: t.registrar.known(),
	})
	if _, able := b.(DelegateBranch); e.resource == t.set.delegate && !able {
		t.registrar.undelegate()
	}
	t.mu.Lock()
	late := t.mu.ended
	e.branch, e.err = b, err
	if late {
		e.branch, e.err = nil, ErrFinished
	}
	close(e.ready)
	t.mu.Unlock()
	if late && err == nil {
		back, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		b.Finish(back, false)
	}
}

// end closes the transaction to its function, and returns its open branches with the reason to roll
// back, if there is one. It takes effect once: the caller owns the branches.
func (t *transaction) end() ([]*entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.ended = true
	why := t.mu.failure
	var open []*entry
	for _, e := range t.mu.entries {
		select {
		case <-e.ready:
			if e.err == nil {
				open = append(open, e)
			}
			why = cmp.Or(why, e.err)
		default:
			why = cmp.Or(why, errUnfinished)
		}
	}
	if t.mu.calls > 0 && !mutant.On(mutant.CallUnderWay) {
		why = cmp.Or(why, errUnderWay)
	}
	return open, why
}

// nested runs the function of an inner InTx in the outer transaction. A panic needs no care of its
// own: either it ends the outer function too, or the outer function recovers, and then the failure
// stands.
func (t *transaction) nested(
	ctx context.Context, c *Client, s settings, fn func(context.Context) error,
) error {
	if err := t.refuseNested(c, s); err != nil {
		t.fail(err)
		return err
	}
	returned := false
	defer func() {
		if !returned {
			t.fail(errors.New("client: an inner InTx did not return"))
		}
	}()
	err := fn(ctx)
	returned = true
	if err != nil {
		t.fail(err)
	}
	return err
}

func (t *transaction) refuseNested(c *Client, s settings) error {
	switch {
	case t.client != c:
		return fmt.Errorf("%w: it belongs to another Client; see Detach", ErrNested)
	case s.key != "" && s.key != t.set.key:
		return fmt.Errorf("%w: IdempotencyKey", ErrNested)
	case s.level != "" && s.level != t.set.level:
		return fmt.Errorf("%w: Isolation", ErrNested)
	case s.readOnly && !t.set.readOnly:
		return fmt.Errorf("%w: ReadOnly", ErrNested)
	}
	return nil
}

// beginKeyed asks for the key before any work is done. It is done if the key's transaction has
// ended.
func (t *transaction) beginKeyed(ctx context.Context) (done bool, err error) {
	if err := t.pin(); err != nil {
		return false, err
	}
	begun, err := t.registrar.wait(ctx)
	switch {
	case err != nil:
		_, _ = t.end()
		return false, t.refused(err)
	case begun.Existing == nil:
		return false, nil
	}
	_, _ = t.end()
	t.report(*begun.Existing)
	return true, outcomeError(*begun.Existing)
}

// refused is the end of a transaction that the coordinator did not take: it can never commit,
// because a Commit was never sent.
func (t *transaction) refused(err error) *AbortedError {
	a := abortedBy(txn.CauseClient, "", err)
	a.ID = t.registrar.known()
	return a
}

func (t *transaction) report(r txn.Result) {
	if t.set.report != nil {
		*t.set.report = r
	}
}

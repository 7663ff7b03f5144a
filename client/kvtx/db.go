package kvtx

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/participant/kv"
	"github.com/gavel-tx/gavel/txn"
)

// Store is where the operations of branches are run. A kv.Store of this process is one.
type Store interface {
	// Apply is that of kv.Store.
	Apply(ctx context.Context, name txn.Name, sequence uint64, ops []kv.Op) ([]kv.Entry, error)
}

// DB is a store as a resource of transactions. It is safe for concurrent use.
type DB struct {
	resource string
	store    Store
}

// New makes a DB of a store, which stays the caller's, and the name under which it is registered at
// the coordinator.
func New(resource string, store Store) *DB { return &DB{resource: resource, store: store} }

// Resource is the name under which the store is registered.
func (db *DB) Resource() string { return db.resource }

// Get reads a key, in the transaction of ctx. A key that does not exist has no value and is no
// error.
func (db *DB) Get(ctx context.Context, key string) (value []byte, found bool, err error) {
	e, err := db.one(ctx, kv.Op{Kind: kv.OpRead, Key: []byte(key)})
	return e.Value, e.Found, err
}

// Put writes a key, in the transaction of ctx.
func (db *DB) Put(ctx context.Context, key string, value []byte) error {
	_, err := db.one(ctx, kv.Op{Kind: kv.OpPut, Key: []byte(key), Value: value})
	return err
}

// Delete removes a key, in the transaction of ctx. One that does not exist is no error.
func (db *DB) Delete(ctx context.Context, key string) error {
	_, err := db.one(ctx, kv.Op{Kind: kv.OpDelete, Key: []byte(key)})
	return err
}

// Bound is a condition of [DB.Add].
type Bound func(*kv.Op)

// AtLeast refuses a sum below n: the error of Add wraps kv.ErrBelowMinimum, and the transaction can
// only roll back.
func AtLeast(n int64) Bound { return func(op *kv.Op) { op.Minimum = &n } }

// Add adds to a decimal number of 64 bits, in the transaction of ctx, and returns the sum. A key
// that does not exist counts as 0.
func (db *DB) Add(ctx context.Context, key string, delta int64, bounds ...Bound) (int64, error) {
	op := kv.Op{Kind: kv.OpAdd, Key: []byte(key), Delta: delta}
	for _, b := range bounds {
		b(&op)
	}
	e, err := db.one(ctx, op)
	if err != nil {
		return 0, err
	}
	sum, err := strconv.ParseInt(string(e.Value), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("kvtx: %s: the sum: %w", db.resource, err)
	}
	return sum, nil
}

func (db *DB) one(ctx context.Context, op kv.Op) (kv.Entry, error) {
	entries, err := db.Apply(ctx, op)
	if err != nil {
		return kv.Entry{}, err
	}
	return entries[0], nil
}

// Apply runs operations in the transaction of ctx, all or none, at most kv.MaxOps, and returns an
// entry for each, as the transaction sees it afterwards. After an error the transaction can only
// roll back.
func (db *DB) Apply(ctx context.Context, ops ...kv.Op) ([]kv.Entry, error) {
	joined, err := client.Join(ctx, db.resource, db.open)
	if err != nil {
		return nil, err
	}
	b, ok := joined.(*branch)
	if !ok {
		err := fmt.Errorf("kvtx: %s is used by another kind of database object in this "+
			"transaction", db.resource)
		client.Fail(ctx, err)
		return nil, err
	}
	return b.apply(ctx, ops)
}

func (db *DB) open(ctx context.Context, _ client.OpenOptions) (client.Branch, error) {
	name, err := client.NameFrom(ctx, db.resource)
	if err != nil {
		return nil, fmt.Errorf("kvtx: %s: begin a branch: %w", db.resource, err)
	}
	return &branch{db: db, name: name, turn: make(chan struct{}, 1)}, nil
}

// branch is one transaction's part at a store.
type branch struct {
	db   *DB
	name txn.Name

	// turn holds a token while somebody uses the rest.
	turn chan struct{}
	// sequence is that of the last call.
	sequence uint64
	closed   bool
	failure  *failure
}

var (
	errBroken    = errors.New("a call was broken off by a panic")
	errStraggler = errors.New("a call was still running when the function of InTx returned")
)

// apply makes one call after the other: the store takes them in the order of their numbers.
func (b *branch) apply(ctx context.Context, ops []kv.Op) ([]kv.Entry, error) {
	select {
	case b.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("kvtx: %s: %w", b.db.resource, context.Cause(ctx))
	}
	defer func() { <-b.turn }()
	switch {
	case b.closed:
		return nil, client.ErrFinished
	case b.failure != nil:
		return nil, b.failure
	}
	b.sequence++
	// Failed unless it returns.
	b.failure = &failure{b.db.resource, errBroken}
	entries, err := b.db.store.Apply(ctx, b.name, b.sequence, ops)
	if err == nil && len(entries) != len(ops) {
		err = fmt.Errorf("%d answers to %d operations", len(entries), len(ops))
	}
	if err != nil {
		b.failure.err = err
		return nil, b.failure
	}
	b.failure = nil
	return entries, nil
}

// close ends what the application may do, and says why the branch can only roll back. A call that
// runs on is not waited for longer than ctx.
func (b *branch) close(ctx context.Context) *failure {
	select {
	case b.turn <- struct{}{}:
	case <-ctx.Done():
		return &failure{b.db.resource, errStraggler}
	}
	defer func() { <-b.turn }()
	b.closed = true
	return b.failure
}

// failure is an error of a store. That it has lost the work says SQLState, as a conflict does: the
// work may succeed when it is done again.
type failure struct {
	resource string
	err      error
}

func (f *failure) Error() string { return fmt.Sprintf("kvtx: %s: %v", f.resource, f.err) }

func (f *failure) Unwrap() error { return f.err }

// SQLState is 40001 if the work can be done again, and otherwise empty.
func (f *failure) SQLState() string {
	if errors.Is(f.err, kv.ErrBranchLost) {
		return "40001"
	}
	return ""
}

// Review implements client.Branch.
func (b *branch) Review(ctx context.Context) client.Review {
	if f := b.close(ctx); f != nil {
		return client.Review{Finding: client.FoundFailed, Reason: f.Error(), Err: f,
			SQLState: f.SQLState()}
	}
	return client.Review{Finding: client.FoundWriter, Elsewhere: true}
}

// Prepare implements client.Branch. The coordinator asks the store.
func (b *branch) Prepare(ctx context.Context, _ txn.Name) client.Ending { return b.elsewhere(ctx) }

// Finish implements client.Branch. The coordinator tells the store.
func (b *branch) Finish(ctx context.Context, _ bool) client.Ending { return b.elsewhere(ctx) }

func (b *branch) elsewhere(ctx context.Context) client.Ending {
	_ = b.close(ctx)
	return client.Ending{Reason: "its store keeps the work, and the coordinator asks there"}
}

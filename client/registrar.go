package client

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/gavel-tx/gavel/txn"
)

// registrar tells the coordinator, beside the application's SQL, which resources take part. One
// goroutine does so, while there is something to tell, one request at a time: a Begin first, which
// makes the id that every later request needs.
type registrar struct {
	decider Decider
	// request is the first one, but for its Resources. Its Delegate belongs to mu.
	request txn.BeginRequest
	// ctx ends with the transaction; stop ends it.
	ctx  context.Context
	stop context.CancelFunc
	join sync.WaitGroup

	mu struct {
		sync.Mutex
		// sent says that a request has left, so that the coordinator may know the transaction.
		sent    bool
		running bool
		wanted  []string
		begun   txn.Begun
		err     error
		// idle is closed while nothing is wanted; a new one is made when something is.
		idle chan struct{}
		// until is when an undecided transaction is rolled back, or zero if that is not known.
		until time.Time
	}
}

// newRegistrar keeps the values of ctx, but not its end: to tell the coordinator that a cancelled
// transaction is over, its id must arrive.
func newRegistrar(ctx context.Context, d Decider, r txn.BeginRequest) *registrar {
	reg := &registrar{decider: d, request: r}
	reg.ctx, reg.stop = context.WithCancel(context.WithoutCancel(ctx))
	return reg
}

// joins makes the registrar one of a transaction that is known already, before its first use.
func (r *registrar) joins(id txn.ID, remaining time.Duration) {
	r.mu.begun.ID = id
	r.mu.idle = make(chan struct{})
	close(r.mu.idle)
	r.setUntil(remaining)
}

// setUntil notes what remains. The caller holds the lock.
func (r *registrar) setUntil(remaining time.Duration) {
	if remaining > 0 {
		r.mu.until = time.Now().Add(remaining)
	}
}

// want has the resources enlisted. It does not wait. With no names it only makes the transaction
// known.
func (r *registrar) want(names ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.wanted = append(r.mu.wanted, names...)
	r.mu.sent = true
	if !r.mu.running {
		r.mu.running = true
		r.mu.idle = make(chan struct{})
		r.join.Go(r.run)
	}
}

// undelegate has the coordinator not be asked to leave the decision to a branch, unless it was.
func (r *registrar) undelegate() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.request.Delegate = ""
}

// run sends requests until everything that is wanted was told, or one failed: the transaction can
// only roll back then, and later wishes are void.
func (r *registrar) run() {
	for first := true; ; first = false {
		req, ok := r.next(first)
		if !ok {
			return
		}
		begun, err := r.decider.Begin(r.ctx, req)
		switch {
		case err == nil && begun.ID.IsZero():
			err = fmt.Errorf("client: the coordinator gave no id")
		case err == nil && !req.ID.IsZero() && begun.ID != req.ID:
			err = fmt.Errorf("client: the coordinator answers for %s, and %s was meant",
				begun.ID, req.ID)
		}
		r.took(begun, err)
	}
}

// next is the next request. The first of a run is sent also if it names no resource.
func (r *registrar) next(first bool) (txn.BeginRequest, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := !r.mu.begun.ID.IsZero()
	if r.mu.err != nil || len(r.mu.wanted) == 0 && (known || !first) {
		r.mu.running = false
		close(r.mu.idle)
		return txn.BeginRequest{}, false
	}
	req := r.request
	switch {
	case known:
		// Only who decides may enlist more, where that was left to a branch.
		req = txn.BeginRequest{ID: r.mu.begun.ID, Part: r.request.Part,
			Delegate: resourceOfDelegate(r.mu.begun)}
	case !slices.Contains(r.mu.wanted, req.Delegate):
		req.Delegate = ""
	}
	req.Resources = r.mu.wanted
	r.mu.wanted = nil
	return req, true
}

// resourceOfDelegate is the resource to which the decision was left, or empty.
func resourceOfDelegate(begun txn.Begun) string {
	for _, b := range begun.Branches {
		if b.Branch == begun.Delegate {
			return b.Resource
		}
	}
	return ""
}

func (r *registrar) took(begun txn.Begun, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.mu.err = err
		return
	}
	r.mu.begun = begun
	r.setUntil(begun.Timeout)
}

// known is the id, if the coordinator has given one.
func (r *registrar) known() txn.ID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.begun.ID
}

// until is when the transaction is rolled back if it is still undecided, or zero if that is not
// known.
func (r *registrar) until() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.until
}

// used says whether the coordinator may know the transaction.
func (r *registrar) used() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.sent
}

// wait returns once everything that is wanted is enlisted: from then on, and not earlier, its
// branches may be prepared. An error is the coordinator's, or ctx has ended.
func (r *registrar) wait(ctx context.Context) (txn.Begun, error) {
	r.mu.Lock()
	idle := r.mu.idle
	r.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
		return txn.Begun{}, fmt.Errorf("client: wait for the coordinator: %w", context.Cause(ctx))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.begun, r.mu.err
}

// close ends a request that is still under way, and joins the goroutine.
func (r *registrar) close() {
	r.stop()
	r.join.Wait()
}

package session_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/session"
	"github.com/gavel-tx/gavel/txn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ownLog, otherLog txn.LogID = 7, 8

func name(seq txn.Seq) txn.Name { return txn.Name{Log: ownLog, Seq: seq, Branch: 1} }

func at(epoch txn.Epoch) txn.Fence {
	return txn.Fence{Log: ownLog, Epoch: epoch, LSN: uint64(epoch) * 10}
}

func one(n txn.Name) []participant.Branch { return []participant.Branch{{Name: n}} }

// inner is a resource that knows what is prepared.
type inner struct {
	participant.Resource
	mu       sync.Mutex
	prepared map[txn.Name]bool
	calls    []string
	closed   bool
}

func (r *inner) called(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, what)
}

func (r *inner) Prepare(
	_ context.Context, _ txn.Fence, b []participant.Branch,
) ([]participant.Vote, error) {
	r.called("prepare")
	votes := make([]participant.Vote, len(b))
	for i := range b {
		votes[i] = participant.Vote{Reason: "it is not listed"}
		if r.listed(b[i].Name) {
			votes[i] = participant.Vote{Vote: txn.VoteYes, Evidence: evidence()}
		}
	}
	return votes, nil
}

func (r *inner) Commit(
	_ context.Context, _ txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return r.finish("commit", txn.StandingCommitted, b), nil
}

func (r *inner) Rollback(
	_ context.Context, _ txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return r.finish("rollback", txn.StandingRolledBack, b), nil
}

func (r *inner) Inquire(
	_ context.Context, _ txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return r.finish("inquire", txn.StandingPrepared, b), nil
}

func (r *inner) finish(
	what string, standing txn.Standing, b []participant.Branch,
) []participant.Finding {
	r.called(what)
	out := make([]participant.Finding, len(b))
	for i := range b {
		out[i].Standing = txn.StandingGone
		if r.listed(b[i].Name) {
			out[i].Standing = standing
		}
	}
	return out
}

func (r *inner) List(context.Context, txn.Fence) (participant.Listing, error) {
	r.called("list")
	return participant.Listing{}, nil
}

func (r *inner) Close() error { r.closed = true; return nil }

func (r *inner) listed(n txn.Name) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.prepared[n]
}

func evidence() txn.Evidence {
	return txn.Evidence{Identity: identity, Position: txn.Position{Timeline: 1, LSN: 5}, XID: 9}
}

var identity = txn.Identity{System: 1, Database: 2}

// database is one whose sessions do what the test says.
type database struct {
	inner *inner
	// open, if not nil, is waited for while a session is being opened; opening gets a token then.
	open, opening chan struct{}
	// run and prepare, if not nil, are waited for, as open is.
	run, running       chan struct{}
	prepare, preparing chan struct{}
	// vote is that of PREPARE. Defaults to Yes.
	vote   *participant.Vote
	refuse error
	// panics: Open does.
	panics bool
	mu     sync.Mutex
	did    []string
}

func (d *database) do(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.did = append(d.did, what)
}

func (d *database) done(what string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Contains(d.did, what)
}

func gate(ctx context.Context, told, wait chan struct{}) error {
	if wait == nil {
		return nil
	}
	told <- struct{}{}
	select {
	case <-wait:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (d *database) Open(
	ctx context.Context, n txn.Name, _ session.Options,
) (session.Conn, error) {
	if err := gate(ctx, d.opening, d.open); err != nil {
		return nil, err
	}
	if d.refuse != nil {
		return nil, d.refuse
	}
	if d.panics {
		panic("inside")
	}
	d.do("open")
	return &conn{d, n}, nil
}

func (d *database) Checks(context.Context) []participant.Check {
	return []participant.Check{{What: "the SQL of clients runs"}}
}

func (d *database) Close() error { d.do("close"); return nil }

type conn struct {
	d *database
	n txn.Name
}

func (c *conn) Identity() txn.Identity { return identity }

func (c *conn) Run(
	ctx context.Context, s session.Statement, sink session.Sink,
) (session.Result, error) {
	if err := gate(ctx, c.d.running, c.d.run); err != nil {
		return session.Result{}, &session.Error{Reason: "was cancelled", Err: err}
	}
	switch s.SQL {
	case "panic":
		panic("inside")
	case "fail":
		return session.Result{}, session.Failed(errors.New("boom"), "boom", "23505")
	case "select":
		err := sink([]string{"a"}, [][]any{{int64(1)}})
		return session.Result{Rows: 1, Read: true}, err
	}
	return session.Result{Rows: 1}, nil
}

func (c *conn) Prepare(ctx context.Context) participant.Vote {
	if err := gate(ctx, c.d.preparing, c.d.prepare); err != nil {
		return participant.Vote{Reason: "nobody knows"}
	}
	c.d.do("prepare")
	if c.d.vote != nil {
		return *c.d.vote
	}
	c.d.inner.mu.Lock()
	defer c.d.inner.mu.Unlock()
	c.d.inner.prepared[c.n] = true
	return participant.Vote{Vote: txn.VoteYes, Evidence: evidence()}
}

func (c *conn) Rollback(context.Context) { c.d.do("rollback") }

// keeper makes one around d, which is closed with the test. Within a bubble of synctest it must be.
func keeper(t *testing.T, d *database, cfg session.Config) *session.Keeper {
	t.Helper()
	d.inner = &inner{prepared: map[txn.Name]bool{}}
	cfg.Resource, cfg.Database = d.inner, d
	k, err := session.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil || !d.inner.closed || !d.done("close") {
			t.Errorf("close: %v", err)
		}
	})
	return k
}

func attach(t *testing.T, k *session.Keeper, n txn.Name) session.Branch {
	t.Helper()
	b, err := k.Attach(t.Context(), session.Attachment{Name: n})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// worked is a branch that has run a statement.
func worked(t *testing.T, k *session.Keeper, n txn.Name) session.Branch {
	t.Helper()
	b := attach(t, k, n)
	if r, err := b.Execute(t.Context(), session.Statement{SQL: "update"}, nil); err != nil ||
		r.Rows != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	return b
}

func vote(t *testing.T, k *session.Keeper, f txn.Fence, n txn.Name) participant.Vote {
	t.Helper()
	votes, err := k.Prepare(t.Context(), f, one(n))
	if err != nil {
		t.Fatal(err)
	}
	return votes[0]
}

// wantVote asserts a vote and a part of its reason.
func wantVote(t *testing.T, got participant.Vote, want txn.Vote, reason string) {
	t.Helper()
	if got.Vote != want || !strings.Contains(got.Reason, reason) {
		t.Errorf("vote %v (%s), want %v (%s)", got.Vote, got.Reason, want, reason)
	}
}

// bubble runs a test in virtual time.
func bubble(t *testing.T, f func(*testing.T)) { synctest.Test(t, f) }

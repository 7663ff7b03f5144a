package servicetest

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/participanttest"
	"github.com/gavel-tx/gavel/txn"
)

// cutLog is the log of the calls that are cut off.
const cutLog txn.LogID = 0x0246_8ace_0135_79b

// fuse is a context that ends when it has been looked at so many times: by the n of a loop, a call
// is cut off at each place where anybody looks, also between what the service makes durable and the
// entry that says so.
type fuse struct {
	context.Context
	end chan struct{}

	mu   sync.Mutex
	left int
}

func newFuse(ctx context.Context, looks int) *fuse {
	return &fuse{Context: ctx, end: make(chan struct{}), left: looks}
}

func (f *fuse) look() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left--; f.left == 0 {
		close(f.end)
	}
}

func (f *fuse) burnt() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.left <= 0
}

// Done implements context.Context.
func (f *fuse) Done() <-chan struct{} {
	f.look()
	return f.end
}

// Err implements context.Context.
func (f *fuse) Err() error {
	f.look()
	if f.burnt() {
		return context.Canceled
	}
	return nil
}

// maxLooks bounds the places at which one call is cut off.
const maxLooks = 1000

// cuts are the tests that cut calls off.
type cuts struct {
	*site
	seq   txn.Seq
	fence txn.Fence
	open  *resource
}

// Cases are those that this suite asks of a service besides participanttest's. They need no trait.
func Cases() []participanttest.Case {
	var all []participanttest.Case
	for _, c := range cutCases() {
		all = append(all, participanttest.Case{Name: c.name, Promise: "S14", Demands: c.demands})
	}
	return all
}

type cutCase struct {
	name, demands string
	one           func(*cuts, *testing.T, context.Context, func())
}

func cutCases() []cutCase {
	return []cutCase{
		{"a prepare that is cut off", "at each place where anybody looks at its context; then " +
			"Yes as heard, or no work is left", (*cuts).cutPrepare},
		{"a commit that is cut off", "likewise; then it is committed, once", (*cuts).cutCommit},
		{"a rollback that is cut off", "likewise; then nothing is left, and what it held is free",
			(*cuts).cutRollback},
	}
}

// runCuts cuts each call off at each place, in a process that ends then and in one that goes on,
// and repeats it as a coordinator would. In the end there is one effect or none, nothing is in
// doubt, and what was let go can be had again.
func (s *site) runCuts(t *testing.T, report *participanttest.Report) {
	for _, c := range cutCases() {
		report.Ask(t, c.name, func(t *testing.T) {
			for what, ends := range map[string]bool{"the process ends": true, "it goes on": false} {
				t.Run(what, func(t *testing.T) { s.runCut(t, c, ends) })
			}
		})
	}
}

func (s *site) runCut(t *testing.T, c cutCase, ends bool) {
	s.epoch++
	k := &cuts{site: s, fence: txn.Fence{Log: cutLog, Epoch: s.epoch, LSN: 1},
		seq: txn.Seq(s.epoch) * maxLooks * 4}
	k.reopen(t)
	defer k.shut(t)
	k.each(t, ends, c.one)
}

// each runs a test with longer and longer fuses, until one is left over. The longer they are, the
// more places are left out between two of them: a database's driver looks several times at each
// statement.
func (k *cuts) each(
	t *testing.T, ends bool, one func(*cuts, *testing.T, context.Context, func()),
) {
	t.Helper()
	for n := 1; ; n += 1 + n/12 {
		f := newFuse(context.Background(), n)
		one(k, t, f, func() {
			if ends {
				k.shut(t)
				k.reopen(t)
			}
		})
		if t.Failed() {
			t.Fatalf("cut off at look %d", n)
		}
		if !f.burnt() {
			return
		}
		if n >= maxLooks {
			t.Fatalf("a call that looks at its context %d times", n)
		}
	}
}

func (k *cuts) shut(t *testing.T) {
	t.Helper()
	if err := k.open.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

func (k *cuts) reopen(t *testing.T) {
	t.Helper()
	r, err := k.opened(t)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	k.open = r.(*resource)
	if err := k.open.Hello(t.Context(), k.fence); err != nil {
		t.Fatalf("hello: %v", err)
	}
}

// begin works in a new branch.
func (k *cuts) begin(t *testing.T, key string) []participant.Branch {
	t.Helper()
	k.seq++
	n := txn.Name{Log: cutLog, Seq: k.seq, Branch: 1}
	if err := k.open.instance.Work(t.Context(), n, 1, key); err != nil {
		t.Fatalf("work: %v", err)
	}
	return []participant.Branch{{Name: n}}
}

func (k *cuts) prepared(t *testing.T, key string) []participant.Branch {
	t.Helper()
	b := k.begin(t, key)
	votes, err := k.open.Prepare(t.Context(), k.fence, b)
	if err != nil || votes[0].Vote != txn.VoteYes {
		t.Fatalf("ordinary work: votes %+v, %v", votes, err)
	}
	b[0].Evidence = votes[0].Evidence
	return b
}

func (k *cuts) key() string { return fmt.Sprintf("cut%d", k.seq) }

type finisher func(context.Context, txn.Fence, []participant.Branch) ([]participant.Finding, error)

// finish repeats a call, and wants the same answer each time.
func (k *cuts) finish(
	t *testing.T, call finisher, b []participant.Branch, want txn.Standing,
) {
	t.Helper()
	for range 2 {
		findings, err := call(t.Context(), k.fence, b)
		if err != nil || findings[0].Standing != want {
			t.Errorf("findings %+v, %v, want %v", findings, err, want)
		}
	}
}

// over asserts how it all ended.
func (k *cuts) over(t *testing.T, key string, want bool) {
	t.Helper()
	there, err := k.open.instance.Effect(t.Context(), key)
	if err != nil || there != want {
		t.Errorf("effect visible: %v, %v, want %v", there, err, want)
	}
	l, err := k.open.List(t.Context(), k.fence)
	if err != nil || len(l.Branches) != 0 {
		t.Errorf("in doubt: %+v, %v", l.Branches, err)
	}
}

// again asserts that what a branch has let go can be had by another one.
func (k *cuts) again(t *testing.T, key string) {
	t.Helper()
	k.over(t, key, false)
	b := k.prepared(t, key)
	k.finish(t, k.open.Commit, b, txn.StandingCommitted)
	k.over(t, key, true)
}

func (k *cuts) cutPrepare(t *testing.T, ctx context.Context, end func()) {
	key := k.key()
	b := k.begin(t, key)
	heard, err := k.open.Prepare(ctx, k.fence, b)
	end()
	if err == nil && heard[0].Vote == txn.VoteYes {
		b[0].Evidence = heard[0].Evidence
		k.finish(t, k.open.Commit, b, txn.StandingCommitted)
		k.over(t, key, true)
		return
	}
	findings, err := k.open.Rollback(t.Context(), k.fence, b)
	if err != nil || findings[0].Standing != txn.StandingRolledBack &&
		findings[0].Standing != txn.StandingGone {
		t.Errorf("rolled back: findings %+v, %v", findings, err)
	}
	votes, err := k.open.Prepare(t.Context(), k.fence, b)
	if err != nil || votes[0].Vote != txn.VoteNo {
		t.Errorf("a late prepare: votes %+v, %v, want NO", votes, err)
	}
	k.again(t, key)
}

func (k *cuts) cutCommit(t *testing.T, ctx context.Context, end func()) {
	key := k.key()
	b := k.prepared(t, key)
	findings, err := k.open.Commit(ctx, k.fence, b)
	if err == nil && findings[0].Standing != txn.StandingCommitted &&
		findings[0].Standing != txn.StandingUnknown {
		t.Errorf("cut off: findings %+v", findings)
	}
	end()
	k.finish(t, k.open.Commit, b, txn.StandingCommitted)
	k.over(t, key, true)
}

func (k *cuts) cutRollback(t *testing.T, ctx context.Context, end func()) {
	key := k.key()
	b := k.prepared(t, key)
	findings, err := k.open.Rollback(ctx, k.fence, b)
	if err == nil && findings[0].Standing != txn.StandingRolledBack &&
		findings[0].Standing != txn.StandingUnknown {
		t.Errorf("cut off: findings %+v", findings)
	}
	end()
	k.finish(t, k.open.Rollback, b, txn.StandingRolledBack)
	k.again(t, key)
}

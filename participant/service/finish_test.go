package service_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/service"
	"github.com/gavel-tx/gavel/participant/service/boltjournal"
	"github.com/gavel-tx/gavel/txn"
)

// TestACommitIsToldOnlyWhenItIsDone: the service fails, before and after its own change is durable,
// and the process ends. The branch stays in doubt until the service has succeeded.
func TestACommitIsToldOnlyWhenItIsDone(t *testing.T) {
	o := open(t, service.Config{})
	b := o.prepared(t, name(1), "k")
	fail := func(method string) error {
		if method == "commit" {
			return errDrawer
		}
		return nil
	}
	o.drawer.before = fail
	for range 2 {
		findings, err := o.Commit(t.Context(), first, []participant.Branch{b})
		if err != nil || findings[0].Standing != txn.StandingUnknown || findings[0].Reason == "" {
			t.Errorf("commit that failed: %+v, %v, want UNKNOWN", findings, err)
		}
		if l := o.listed(t, first); len(l) != 1 {
			t.Errorf("listed %v", l)
		}
		o = o.crash(t)
		o.drawer.after = fail
	}
	o.drawer.after = nil
	for range 2 {
		stands(t, o.Commit, first, b, txn.StandingCommitted)
		o = o.crash(t)
	}
	if got := o.disk.effect("k"); got != 1 {
		t.Errorf("%d effects, want 1", got)
	}
}

// TestARollbackIsRepeatedUntilItIsDone, likewise.
func TestARollbackIsRepeatedUntilItIsDone(t *testing.T) {
	o := open(t, service.Config{})
	b := o.prepared(t, name(1), "k")
	o.drawer.before = func(string) error { return errDrawer }
	stands(t, o.Rollback, first, b, txn.StandingUnknown)
	stands(t, o.Inquire, first, b, txn.StandingPrepared)
	o = o.crash(t)
	stands(t, o.Rollback, first, b, txn.StandingRolledBack)
	stands(t, o.Commit, first, b, txn.StandingRolledBack)
	if o.disk.holds(b.Name) || o.disk.effect("k") != 0 {
		t.Error("the service keeps something")
	}
}

// TestFencesOutliveACrash: the older coordinator is still refused, and so is a restored log.
func TestFencesOutliveACrash(t *testing.T) {
	o := open(t, service.Config{})
	b := o.prepared(t, name(1), "k")
	if err := o.Hello(t.Context(), fenceAt(3, 30)); err != nil {
		t.Fatal(err)
	}
	o = o.crash(t)
	for _, call := range []finisher{o.Commit, o.Rollback, o.Inquire} {
		_, err := call(t.Context(), fenceAt(2, 20), []participant.Branch{b})
		if !errors.Is(err, participant.ErrFenced) {
			t.Errorf("the older epoch after the crash: %v, want ErrFenced", err)
		}
	}
	if err := o.Hello(t.Context(), fenceAt(4, 20)); !errors.Is(err, participant.ErrRegression) {
		t.Errorf("a newer epoch of a shorter log: %v, want ErrRegression", err)
	}
	if err := o.Hello(t.Context(), fenceAt(3, 20)); !errors.Is(err, participant.ErrRegression) {
		t.Errorf("the same epoch of a shorter log: %v, want ErrRegression", err)
	}
	stands(t, o.Commit, fenceAt(3, 30), b, txn.StandingCommitted)
}

// TestEndsAreBounded: of a branch whose end was dropped nothing is proven, and its name cannot come
// to life again.
func TestEndsAreBounded(t *testing.T) {
	o := open(t, service.Config{MaxEnded: 2})
	var all []participant.Branch
	for seq := range txn.Seq(4) {
		b := o.prepared(t, name(seq+1), "k")
		stands(t, o.Commit, first, b, txn.StandingCommitted)
		all = append(all, b)
	}
	o = o.crash(t)
	want := []txn.Standing{txn.StandingGone, txn.StandingGone, txn.StandingCommitted,
		txn.StandingCommitted}
	for i, b := range all {
		stands(t, o.Commit, first, b, want[i])
		if err := o.try(t, b.Name, 1, "again"); !errors.Is(err, service.ErrBranchLost) {
			t.Errorf("a late copy of the work of %s: %v, want ErrBranchLost", b.Name, err)
		}
	}
	o.work(t, name(5), 1, "k")
	if got := o.disk.effect("k"); got != 4 {
		t.Errorf("%d effects", got)
	}
}

// TestWhoeverVotedIsHeld: another journal, or one that went backwards, finishes nothing.
func TestWhoeverVotedIsHeld(t *testing.T) {
	o := open(t, service.Config{})
	b := o.prepared(t, name(1), "k")
	other, later, again := b, b, b
	other.Evidence.System++
	later.Evidence.LSN += 100
	again.Evidence.XID++
	for what, b := range map[string]participant.Branch{"another journal": other,
		"a later position": later, "another number": again} {
		for _, call := range []finisher{o.Commit, o.Rollback, o.Inquire} {
			if got := stands(t, call, first, b, txn.StandingHeld); got.Reason == "" {
				t.Errorf("%s: held without a reason", what)
			}
		}
	}
	stands(t, o.Commit, first, b, txn.StandingCommitted)
}

// TestCallsOfWorkAreNumbered: what is missing is noticed, and what is a copy is not done twice.
func TestCallsOfWorkAreNumbered(t *testing.T) {
	o, n := open(t, service.Config{}), name(1)
	if err := o.try(t, n, 0, "a"); err == nil {
		t.Error("call 0 was made")
	}
	if err := o.try(t, n, 2, "b"); !errors.Is(err, service.ErrBranchLost) {
		t.Errorf("call 2 as the first: %v, want ErrBranchLost", err)
	}
	o.work(t, n, 1, "a")
	if err := o.try(t, n, 1, "a"); !errors.Is(err, service.ErrRepeated) {
		t.Errorf("a copy: %v, want ErrRepeated", err)
	}
	o.work(t, n, 2, "b")
	if err := o.try(t, n, 1, "a"); !errors.Is(err, service.ErrBranchLost) {
		t.Errorf("an old copy: %v, want ErrBranchLost", err)
	}
	if keys := o.drawer.keys(n); len(keys) != 2 {
		t.Errorf("the work is %v", keys)
	}
	if err := o.try(t, n, 4, "d"); !errors.Is(err, service.ErrBranchLost) {
		t.Errorf("a gap: %v, want ErrBranchLost", err)
	}
	if v := o.votes(t, first, n); v.Vote != txn.VoteNo {
		t.Errorf("a branch with a gap: %v, want NO", v.Vote)
	}
}

// TestOneBranchOneCall: calls about one branch wait for each other, and for no longer than their
// context.
func TestOneBranchOneCall(t *testing.T) {
	o, n := open(t, service.Config{}), name(1)
	inside, leave := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		err := o.Work(context.Background(), n, 1, func(context.Context) error {
			close(inside)
			<-leave
			o.drawer.put(n, "k")
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-inside
	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() { cancel() })
	if _, err := o.Prepare(ctx, first, branchOf(n)); !errors.Is(err, context.Canceled) {
		t.Errorf("a prepare beside work: %v", err)
	}
	// Another branch does not wait.
	o.prepared(t, name(2), "other")
	close(leave)
	wg.Wait()
	if v := o.votes(t, first, n); v.Vote != txn.VoteYes {
		t.Errorf("then %v (%s)", v.Vote, v.Reason)
	}
}

// TestLogsAreBounded: a stranger cannot fill the journal.
func TestLogsAreBounded(t *testing.T) {
	o := open(t, service.Config{})
	for i := range service.MaxLogs {
		f := txn.Fence{Log: txn.LogID(i + 1), Epoch: 1}
		if err := o.Hello(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	var refusal *txn.Refusal
	if err := o.Hello(t.Context(), first); !errors.As(err, &refusal) {
		t.Errorf("one log more: %v, want a refusal", err)
	}
	if err := o.try(t, name(1), 1, "k"); !errors.As(err, &refusal) {
		t.Errorf("work for one log more: %v, want a refusal", err)
	}
	if err := o.Hello(t.Context(), txn.Fence{Log: 1, Epoch: 2}); err != nil {
		t.Errorf("a known one: %v", err)
	}
}

// TestConfigIsChecked: all faults at once.
func TestConfigIsChecked(t *testing.T) {
	_, err := service.Open(service.Config{MaxEnded: -1})
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 3 {
		t.Errorf("faults: %v", err)
	}
}

// TestAJournalOfAnotherFormatIsRefused, and one that another process has open.
func TestAJournalOfAnotherFormatIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, err := boltjournal.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := boltjournal.Open(path); err == nil {
		t.Error("opened twice")
	}
	err = j.Update(t.Context(), func(_ context.Context, tx service.Tx) error {
		return tx.Put([]byte("m"), []byte("something else"))
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg := service.Config{Service: newDrawer(newDisk()), Journal: j}
	if _, err := service.Open(cfg); err == nil {
		t.Error("a journal of another format was opened")
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

package kv

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"go.etcd.io/bbolt"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// ask makes a call about one branch on behalf of a fence.
func ask(
	t *testing.T, call finisher, f txn.Fence, n txn.Name, e txn.Evidence,
) (participant.Finding, error) {
	t.Helper()
	findings, err := call(t.Context(), f, branchOf(n, e))
	if err != nil {
		return participant.Finding{}, err
	}
	return findings[0], nil
}

// floor is the evidence about a branch that was never prepared.
func floor(s *Store, lsn uint64) txn.Evidence {
	return txn.Evidence{Identity: s.identity, Position: txn.Position{Timeline: 1, LSN: lsn}}
}

// TestOnePhaseLife: the commit, a power cut before its answer is heard, and everything that may be
// asked or tried afterwards.
func TestOnePhaseLife(t *testing.T) {
	s := open(t, Config{})
	commitAll(t, s, name(9), put("k", "old"), put("gone", "v"))
	apply(t, s, name(1), 1, read("k"), put("k", "new"))
	apply(t, s, name(1), 2, del("gone"))
	got := standing(t, s.CommitOnePhase, name(1), floor(s, 2))
	if got != txn.StandingCommitted {
		t.Fatalf("one phase: %v", got)
	}
	if len(s.branches.byKey) != 0 {
		t.Error("the branch is still in memory")
	}
	for range 2 {
		for _, call := range []finisher{s.CommitOnePhase, s.Inquire, s.Commit, s.Rollback} {
			for _, e := range []txn.Evidence{{}, floor(s, 2)} {
				if got := standing(t, call, name(1), e); got != txn.StandingCommitted {
					t.Errorf("asked again: %v", got)
				}
			}
		}
		if v := prepare(t, s, name(1)); v.Vote != txn.VoteYes || v.Evidence.IsZero() {
			t.Errorf("a late prepare: %+v", v)
		}
		if _, err := s.Apply(t.Context(), name(1), 1, []Op{put("k", "late")}); !errors.Is(err,
			ErrBranchLost) {
			t.Errorf("a late copy of the first call: %v", err)
		}
		if got := value(t, s, "k") + value(t, s, "gone"); got != "new-" {
			t.Errorf("the values are %s", got)
		}
		s = crash(t, s)
	}
	commitAll(t, s, name(2), put("k", "free"))
}

// TestOnePhaseCutShort: a power cut before the change is durable leaves nothing of it, and the
// store that comes back can say so.
func TestOnePhaseCutShort(t *testing.T) {
	s := open(t, Config{})
	commitAll(t, s, name(9), put("k", "old"))
	apply(t, s, name(1), 1, put("k", "new"))
	g := gated(t, s)
	answer := make(chan error, 1)
	go func() {
		_, err := s.CommitOnePhase(t.Context(), first, branchOf(name(1), txn.Evidence{}))
		answer <- err
	}()
	<-g.entered
	for _, call := range []func(*Store) finisher{
		func(s *Store) finisher { return s.CommitOnePhase },
		func(s *Store) finisher { return s.Inquire },
	} {
		cut := crash(t, s)
		for range 2 {
			if got := standing(t, call(cut), name(1), txn.Evidence{}); got !=
				txn.StandingRolledBack {
				t.Errorf("after the cut: %v", got)
			}
			if got := value(t, cut, "k"); got != "old" {
				t.Errorf("after the cut: the value is %s", got)
			}
			cut = crash(t, cut)
		}
	}
	// The same disk, but alive: it refuses to sync, and the store answers nothing.
	g.proceed <- errors.New("fdatasync: input/output error")
	if err := <-answer; !errors.Is(err, ErrFailed) {
		t.Errorf("the call whose sync failed: %v", err)
	}
	if _, err := s.Inquire(t.Context(), first, branchOf(name(1), txn.Evidence{})); !errors.Is(err,
		ErrFailed) {
		t.Errorf("asked of a failed store: %v", err)
	}
}

// TestOnePhaseConflicts: what a prepare would vote no for rolls back, for good, and says that
// running it again may help.
func TestOnePhaseConflicts(t *testing.T) {
	for what, interfere := range map[string]func(*testing.T, *Store){
		"what it read was changed": func(t *testing.T, s *Store) {
			commitAll(t, s, name(2), put("read", "other"))
		},
		"what it read was changed in one phase": func(t *testing.T, s *Store) {
			apply(t, s, name(2), 1, put("read", "other"))
			standing(t, s.CommitOnePhase, name(2), txn.Evidence{})
		},
		"what it read is being changed": func(t *testing.T, s *Store) {
			prepared(t, s, name(2), put("read", "other"))
		},
		"what it writes is being read": func(t *testing.T, s *Store) {
			prepared(t, s, name(2), read("written"), put("third", "other"))
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := open(t, Config{})
			apply(t, s, name(1), 1, read("read"), put("written", "mine"))
			interfere(t, s)
			for range 2 {
				got, err := ask(t, s.CommitOnePhase, first, name(1), txn.Evidence{})
				if err != nil || got.Standing != txn.StandingRolledBack ||
					got.SQLState != conflictState || got.Reason == "" {
					t.Errorf("%+v, %v", got, err)
				}
				if v := prepare(t, s, name(1)); v.Vote != txn.VoteNo ||
					v.SQLState != conflictState {
					t.Errorf("a late prepare: %+v", v)
				}
				if got := value(t, s, "written"); got != "-" {
					t.Errorf("it wrote %s", got)
				}
				s = crash(t, s)
				// The other is out of the way now, and the answer stays what it was.
				standing(t, s.Rollback, name(2), txn.Evidence{})
			}
		})
	}
}

// TestOnePhaseOfEndedWork: a branch that has given its last vote, or whose call failed, is told to
// commit all the same.
func TestOnePhaseOfEndedWork(t *testing.T) {
	s := open(t, Config{})
	commitAll(t, s, name(9), put("text", "abc"))
	failed, no, readOnly, refused := name(1), name(2), name(3), name(4)
	apply(t, s, failed, 1, put("a", "v"))
	if _, err := s.Apply(t.Context(), failed, 2, []Op{add("text", 1)}); err == nil {
		t.Fatal("a text was added to")
	}
	apply(t, s, no, 1, read("text"), put("b", "v"))
	apply(t, s, readOnly, 1, read("quiet"))
	commitAll(t, s, name(8), put("text", "abd"))
	if v := prepare(t, s, no); v.Vote != txn.VoteNo {
		t.Fatalf("%+v", v)
	}
	if v := prepare(t, s, readOnly); v.Vote != txn.VoteReadOnly {
		t.Fatalf("%+v", v)
	}
	standing(t, s.Rollback, refused, txn.Evidence{})
	for range 2 {
		for n, want := range map[txn.Name]txn.Standing{
			failed: txn.StandingRolledBack, no: txn.StandingRolledBack,
			readOnly: txn.StandingCommitted, refused: txn.StandingRolledBack,
		} {
			if got := standing(t, s.CommitOnePhase, n, txn.Evidence{}); got != want {
				t.Errorf("%s: %v, want %v", n, got, want)
			}
		}
		if got := value(t, s, "a") + value(t, s, "b"); got != "--" {
			t.Errorf("the values are %s", got)
		}
		s = crash(t, s)
	}
}

// TestInquireOfEndedWork: whoever has written down an intent, and no vote, must see of a branch
// that voted No, or only read, that it was never prepared: it has no number, and has had no effect.
// Else its transaction would need a person.
func TestInquireOfEndedWork(t *testing.T) {
	s := open(t, Config{})
	commitAll(t, s, name(9), put("k", "a"))
	intended := floor(s, 1)
	no, readOnly := name(1), name(2)
	apply(t, s, no, 1, read("k"), put("b", "v"))
	apply(t, s, readOnly, 1, read("quiet"))
	commitAll(t, s, name(8), put("k", "b"))
	for n, want := range map[txn.Name]txn.Vote{no: txn.VoteNo, readOnly: txn.VoteReadOnly} {
		if v := prepare(t, s, n); v.Vote != want {
			t.Fatalf("%+v", v)
		}
	}
	for range 2 {
		for _, n := range []txn.Name{no, readOnly} {
			got, err := s.Inquire(t.Context(), fenceAt(2, 2),
				[]participant.Branch{{Name: n, Evidence: intended}})
			if err != nil || got[0].Standing != txn.StandingRolledBack ||
				got[0].Evidence.XID != 0 || got[0].Evidence.Identity != intended.Identity {
				t.Errorf("%s: %+v, %v", n, got, err)
			}
		}
		s = crash(t, s)
	}
}

// TestOnePhaseReader: one that only read commits if what it read still holds.
func TestOnePhaseReader(t *testing.T) {
	s := open(t, Config{})
	apply(t, s, name(1), 1, read("quiet"))
	apply(t, s, name(2), 1, read("loud"))
	commitAll(t, s, name(3), put("loud", "v"))
	if got := standing(t, s.CommitOnePhase, name(1), txn.Evidence{}); got !=
		txn.StandingCommitted {
		t.Errorf("a reader: %v", got)
	}
	if got := standing(t, s.CommitOnePhase, name(2), txn.Evidence{}); got !=
		txn.StandingRolledBack {
		t.Errorf("a reader of what has changed: %v", got)
	}
}

// TestOnePhaseOfPrepared: nothing is left to decide, and the branch is committed.
func TestOnePhaseOfPrepared(t *testing.T) {
	for _, number := range []bool{true, false} {
		s := open(t, Config{})
		e := prepared(t, s, name(1), put("k", "v"))
		if !number {
			e = floor(s, e.LSN)
		}
		s = crash(t, s)
		if got := standing(t, s.CommitOnePhase, name(1), e); got != txn.StandingCommitted {
			t.Errorf("%+v: %v", e, got)
		}
		if got := value(t, s, "k"); got != "v" {
			t.Errorf("the value is %s", got)
		}
		commitAll(t, s, name(2), put("k", "free"))
	}
}

// TestOnePhaseOfLostWork: what was never committed is proven to have rolled back, and cannot come
// back to life afterwards.
func TestOnePhaseOfLostWork(t *testing.T) {
	s := open(t, Config{})
	apply(t, s, name(1), 1, put("k", "v"))
	apply(t, s, name(2), 1, put("k", "w"))
	s = crash(t, s)
	calls := map[txn.Name]func() finisher{
		name(1): func() finisher { return s.CommitOnePhase },
		name(2): func() finisher { return s.Inquire },
		name(3): func() finisher { return s.CommitOnePhase }, // never heard of
		name(4): func() finisher { return s.Inquire },
	}
	for range 2 {
		for n, call := range calls {
			if got := standing(t, call(), n, txn.Evidence{}); got != txn.StandingRolledBack {
				t.Errorf("%s: %v", n, got)
			}
			if _, err := s.Apply(t.Context(), n, 1, []Op{put("k", "x")}); !errors.Is(err,
				ErrBranchLost) {
				t.Errorf("%s begins again: %v", n, err)
			}
			if n := len(s.branches.byKey); n != 0 {
				t.Errorf("%d branches that cannot commit are in memory", n)
			}
			got := standing(t, s.CommitOnePhase, n, txn.Evidence{})
			if got != txn.StandingRolledBack || value(t, s, "k") != "-" {
				t.Errorf("%s: %v, and left %s", n, got, value(t, s, "k"))
			}
		}
		s = crash(t, s)
	}
}

// TestOnePhaseHeld: no proof comes from a store that is another one, or was restored.
func TestOnePhaseHeld(t *testing.T) {
	s := open(t, Config{})
	backup := crash(t, s)
	apply(t, s, name(1), 1, put("k", "v"))
	standing(t, s.CommitOnePhase, name(1), txn.Evidence{})
	reached := floor(s, 1)
	for what, other := range map[string]*Store{
		"restored from a backup": backup, "replaced": open(t, Config{}),
	} {
		for _, call := range []finisher{other.CommitOnePhase, other.Inquire} {
			if got := standing(t, call, name(1), reached); got != txn.StandingHeld {
				t.Errorf("%s: %v", what, got)
			}
		}
	}
	// A branch that voted was prepared. That it is not there now proves that something is wrong,
	// and nothing else.
	commitAll(t, backup, name(2), put("k", "other"))
	voted := reached
	voted.XID = 1
	for _, call := range []finisher{backup.CommitOnePhase, backup.Inquire} {
		if got := standing(t, call, name(1), voted); got != txn.StandingGone {
			t.Errorf("a branch that voted, restored and overtaken: %v", got)
		}
	}
}

// newer are all the calls by which a store can hear of a new epoch.
func newer(t *testing.T, s *Store) map[string]func(txn.Fence) error {
	ctx, other := t.Context(), branchOf(name(77), txn.Evidence{})
	return map[string]func(txn.Fence) error{
		"hello":   func(f txn.Fence) error { return s.Hello(ctx, f) },
		"forget":  func(f txn.Fence) error { return s.Forget(ctx, f, other) },
		"list":    func(f txn.Fence) error { _, err := s.List(ctx, f); return err },
		"prepare": func(f txn.Fence) error { _, err := s.Prepare(ctx, f, other); return err },
		"commit":  func(f txn.Fence) error { _, err := s.Commit(ctx, f, other); return err },
		"inquire": func(f txn.Fence) error { _, err := s.Inquire(ctx, f, other); return err },
		"one phase": func(f txn.Fence) error {
			_, err := s.CommitOnePhase(ctx, f, other)
			return err
		},
		"none before": func(txn.Fence) error { return nil },
	}
}

// TestOnePhaseFenced: whatever the newer epoch's first call was, the older one's has no effect
// after it, and the newer one hears so at once.
func TestOnePhaseFenced(t *testing.T) {
	for _, heard := range []bool{true, false} {
		for what := range newer(t, nil) {
			t.Run(fmt.Sprint(what, heard), func(t *testing.T) {
				s := open(t, Config{})
				old, current := fenceAt(3, 3), fenceAt(4, 4)
				if heard {
					if err := s.Hello(t.Context(), old); err != nil {
						t.Fatal(err)
					}
				}
				apply(t, s, name(1), 1, put("k", "v"))
				if err := newer(t, s)[what](current); err != nil {
					t.Fatal(err)
				}
				for range 2 {
					got, err := ask(t, s.Inquire, current, name(1), txn.Evidence{})
					if err != nil || got.Standing != txn.StandingRolledBack {
						t.Errorf("inquire: %+v, %v", got, err)
					}
					_, err = ask(t, s.CommitOnePhase, old, name(1), txn.Evidence{})
					if !errors.Is(err, participant.ErrFenced) {
						t.Errorf("the late call: %v", err)
					}
					got, err = ask(t, s.CommitOnePhase, current, name(1), txn.Evidence{})
					if err != nil || got.Standing != txn.StandingRolledBack {
						t.Errorf("the newer epoch's own: %+v, %v", got, err)
					}
					if got := value(t, s, "k"); got != "-" {
						t.Errorf("the value is %s", got)
					}
					s = crash(t, s)
				}
			})
		}
	}
}

// TestOnePhaseStaleWork: the newer epoch may itself be told to commit what the older one left.
func TestOnePhaseStaleWork(t *testing.T) {
	s := open(t, Config{})
	if err := s.Hello(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	apply(t, s, name(1), 1, put("k", "v"))
	got, err := ask(t, s.CommitOnePhase, fenceAt(2, 2), name(1), txn.Evidence{})
	if err != nil || got.Standing != txn.StandingRolledBack || value(t, s, "k") != "-" {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = s.Apply(t.Context(), name(1), 2, []Op{put("k", "w")})
	if !errors.Is(err, ErrBranchLost) {
		t.Errorf("it goes on: %v", err)
	}
}

// TestOnePhaseOvertaken: a call that was let in, and waits for the disk when the newer epoch's
// comes, is judged where it would commit: behind it.
func TestOnePhaseOvertaken(t *testing.T) { synctest.Test(t, testOnePhaseOvertaken) }

func testOnePhaseOvertaken(t *testing.T) {
	s := open(t, Config{})
	if err := s.Hello(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	for i := range txn.Seq(2) {
		apply(t, s, name(i+1), 1, put(fmt.Sprint(i+1), "v"))
	}
	g := gated(t, s)
	var wg sync.WaitGroup
	run := func(call finisher, f txn.Fence, n txn.Name, want txn.Standing, fails error) {
		wg.Go(func() {
			got, err := ask(t, call, f, n, txn.Evidence{})
			if !errors.Is(err, fails) || got.Standing != want {
				t.Errorf("%s of epoch %d: %+v, %v", n, f.Epoch, got, err)
			}
		})
		synctest.Wait()
	}
	run(s.CommitOnePhase, first, name(1), txn.StandingCommitted, nil)
	<-g.entered
	run(s.Inquire, fenceAt(2, 2), name(1), txn.StandingCommitted, nil)
	run(s.Inquire, fenceAt(2, 2), name(2), txn.StandingRolledBack, nil)
	run(s.CommitOnePhase, first, name(2), txn.StandingUnknown, participant.ErrFenced)
	g.proceed <- nil
	<-g.entered
	g.proceed <- nil
	wg.Wait()
	if got := value(t, s, "1") + value(t, s, "2"); got != "v-" {
		t.Errorf("the values are %s", got)
	}
}

// TestOnePhaseOnce: copies of the call, at once, add once.
func TestOnePhaseOnce(t *testing.T) {
	const branches, copies = 20, 8
	s := open(t, Config{})
	for i := range branches {
		apply(t, s, name(txnSeq(i+1)), 1, put(fmt.Sprint("own", i), "v"))
	}
	apply(t, s, name(99), 1, add("sum", 1))
	var wg sync.WaitGroup
	for range copies {
		for i := range branches {
			wg.Go(func() {
				batch := []participant.Branch{{Name: name(txnSeq(i + 1))}, {Name: name(99)}}
				got, err := s.CommitOnePhase(t.Context(), first, batch)
				if err != nil || got[0].Standing != txn.StandingCommitted ||
					got[1].Standing != txn.StandingCommitted {
					t.Errorf("%+v, %v", got, err)
				}
			})
		}
	}
	wg.Wait()
	if got := number(t, s, "sum"); got != 1 {
		t.Errorf("added up to %d", got)
	}
}

// TestOnePhaseTakenBack: a damaged record takes the group back, and the branch that shared it is
// committed all the same, with what it had when it was told to.
func TestOnePhaseTakenBack(t *testing.T) { synctest.Test(t, testOnePhaseTakenBack) }

func testOnePhaseTakenBack(t *testing.T) {
	s := open(t, Config{})
	prepared(t, s, name(1), put("a", "1"))
	apply(t, s, name(2), 1, put("b", "1"))
	damage(t, s, "prepared", name(1).String())
	g := gated(t, s)
	var wg sync.WaitGroup
	run := func(call finisher, n txn.Name, want txn.Standing, fails error) {
		wg.Go(func() {
			got, err := ask(t, call, first, n, txn.Evidence{})
			if got.Standing != want || !errors.Is(err, fails) {
				t.Errorf("%s: %+v, %v", n, got, err)
			}
		})
		synctest.Wait()
	}
	run(s.Inquire, name(2), txn.StandingUnknown, nil)
	<-g.entered
	run(s.CommitOnePhase, name(2), txn.StandingCommitted, nil)
	run(s.CommitOnePhase, name(1), txn.StandingUnknown, errDamaged)
	run(s.Inquire, name(2), txn.StandingCommitted, nil)
	go func() {
		for range 5 { // the first, the group of three, and each of these alone
			g.proceed <- nil
		}
	}()
	wg.Wait()
	if got := value(t, s, "b"); got != "1" {
		t.Errorf("the value is %s", got)
	}
}

// TestOnePhaseTakesNoMoreWork: a call that comes while the commit is on its way to the disk could
// not become part of it any more.
func TestOnePhaseTakesNoMoreWork(t *testing.T) {
	s := open(t, Config{})
	apply(t, s, name(1), 1, put("k", "v"))
	s.writer.close()
	applied, proceed := make(chan struct{}), make(chan struct{})
	s.writer = newWriter(func(f func(*bbolt.Tx) error) error {
		return s.db.Update(func(tx *bbolt.Tx) error {
			err := f(tx)
			applied <- struct{}{}
			<-proceed
			return err
		})
	})
	answer := make(chan participant.Finding, 1)
	go func() {
		got, err := ask(t, s.CommitOnePhase, first, name(1), txn.Evidence{})
		if err != nil {
			t.Error(err)
		}
		answer <- got
	}()
	<-applied
	if _, err := s.Apply(t.Context(), name(1), 2, []Op{put("k", "w")}); !errors.Is(err,
		ErrBranchLost) {
		t.Errorf("a call behind the commit: %v", err)
	}
	close(proceed)
	if got := <-answer; got.Standing != txn.StandingCommitted || value(t, s, "k") != "v" {
		t.Errorf("%+v, and the value is %s", got, value(t, s, "k"))
	}
}

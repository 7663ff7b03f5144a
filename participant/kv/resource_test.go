package kv

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// TestLifeAcrossCrashes goes through the life of a branch, with a power cut after every step.
func TestLifeAcrossCrashes(t *testing.T) {
	for _, commit := range []bool{true, false} {
		s := open(t, Config{})
		commitAll(t, s, name(9), put("k", "old"))
		e := prepared(t, s, name(1), put("k", "new"), read("other"))
		s = crash(t, s)
		if v := prepare(t, s, name(1)); v.Vote != txn.VoteYes || v.Evidence != e {
			t.Fatalf("repeated prepare: %+v, first %+v", v, e)
		}
		if got := standing(t, s.Inquire, name(1), e); got != txn.StandingPrepared {
			t.Fatalf("inquire: %v", got)
		}
		if value(t, s, "k") != "old" {
			t.Fatal("a prepared write is seen")
		}
		call, want, left := s.Rollback, txn.StandingRolledBack, "old"
		if commit {
			call, want, left = s.Commit, txn.StandingCommitted, "new"
		}
		if got := standing(t, call, name(1), e); got != want {
			t.Fatalf("finish: %v", got)
		}
		s = crash(t, s)
		for _, call := range []finisher{s.Commit, s.Rollback, s.Inquire} {
			for _, evidence := range []txn.Evidence{e, {}} {
				if got := standing(t, call, name(1), evidence); got != want {
					t.Errorf("asked again: %v, want %v", got, want)
				}
			}
		}
		if got := value(t, s, "k"); got != left {
			t.Errorf("the value is %s", got)
		}
		if v := s.branches; len(v.byKey) != 0 {
			t.Errorf("%d branches in memory", len(v.byKey))
		}
		commitAll(t, s, name(2), put("k", "free"), put("other", "free"))
	}
}

// TestVoteStands: once a branch voted, it votes the same again, and evidence does not change.
func TestVoteStands(t *testing.T) {
	s := open(t, Config{})
	commitAll(t, s, name(9), put("k", "1"))
	yes, no, readOnly := name(1), name(2), name(3)
	prepared(t, s, yes, put("k", "2"))
	apply(t, s, no, 1, put("k", "3"))
	apply(t, s, readOnly, 1, read("quiet"))
	var votes []participant.Vote
	for _, n := range []txn.Name{yes, no, readOnly} {
		votes = append(votes, prepare(t, s, n))
	}
	if votes[0].Vote != txn.VoteYes || votes[1].Vote != txn.VoteNo ||
		votes[1].SQLState != "40001" ||
		votes[2].Vote != txn.VoteReadOnly {
		t.Fatalf("%+v", votes)
	}
	standing(t, s.Commit, yes, txn.Evidence{})
	for i, n := range []txn.Name{yes, no, readOnly} {
		if again := prepare(t, s, n); again != votes[i] {
			t.Errorf("%s: %+v, then %+v", n, votes[i], again)
		}
	}
}

// TestConflicts is the table of what two branches may do to one key. The first is prepared; the
// second prepares while the first waits, or after it has committed or rolled back.
func TestConflicts(t *testing.T) {
	type step func(string) Op
	writes := func(key string) Op { return put(key, "w") }
	reads := func(key string) Op { return read(key) }
	cases := []struct {
		name          string
		first, second step
		waits         txn.Vote
		committed     txn.Vote
		rolledBack    txn.Vote
	}{
		{"write, write", writes, writes, txn.VoteNo, txn.VoteYes, txn.VoteYes},
		{"write, read", writes, reads, txn.VoteNo, txn.VoteNo, txn.VoteYes},
		{"read, write", reads, writes, txn.VoteNo, txn.VoteYes, txn.VoteYes},
		{"read, read", reads, reads, txn.VoteYes, txn.VoteYes, txn.VoteYes},
	}
	seq := txn.Seq(0)
	s := open(t, Config{})
	for _, c := range cases {
		for when, want := range []txn.Vote{c.waits, c.committed, c.rolledBack} {
			seq += 2
			key := fmt.Sprint("k", seq)
			one, two := name(seq), name(seq+1)
			// Each also writes a key of its own, so that none is read only.
			apply(t, s, one, 1, c.first(key), put(key+"one", "x"))
			apply(t, s, two, 1, c.second(key), put(key+"two", "x"))
			if v := prepare(t, s, one); v.Vote != txn.VoteYes {
				t.Fatalf("%s: the first voted %+v", c.name, v)
			}
			switch when {
			case 1:
				standing(t, s.Commit, one, txn.Evidence{})
			case 2:
				standing(t, s.Rollback, one, txn.Evidence{})
			}
			if v := prepare(t, s, two); v.Vote != want {
				t.Errorf("%s, case %d: the second voted %+v, want %v", c.name, when, v, want)
			}
		}
	}
}

// TestWriteSkew: two branches that each read what the other writes must not both commit.
func TestWriteSkew(t *testing.T) {
	s := open(t, Config{})
	commitAll(t, s, name(1), put("a", "1"), put("b", "1"))
	apply(t, s, name(2), 1, read("a"), put("b", "0"))
	apply(t, s, name(3), 1, read("b"), put("a", "0"))
	if v := prepare(t, s, name(2)); v.Vote != txn.VoteYes {
		t.Fatalf("%+v", v)
	}
	if v := prepare(t, s, name(3)); v.Vote != txn.VoteNo {
		t.Errorf("%+v", v)
	}
}

// TestRepeatedRead: the first version that a branch saw counts, not the latest.
func TestRepeatedRead(t *testing.T) {
	s := open(t, Config{})
	apply(t, s, name(1), 1, read("k"))
	commitAll(t, s, name(2), put("k", "changed"))
	apply(t, s, name(1), 2, read("k"))
	if v := prepare(t, s, name(1)); v.Vote != txn.VoteNo {
		t.Errorf("a reader that saw two versions voted %+v", v)
	}
}

// TestMoneyIsKept: transfers from many goroutines, some rolled back; the sum never changes.
func TestMoneyIsKept(t *testing.T) {
	const accounts, workers, transfers = 5, 6, 40
	s := open(t, Config{})
	for i := range accounts {
		commitAll(t, s, name(txnSeq(i+1)), put(fmt.Sprint("acct", i), "100"))
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(7, uint64(w)))
			for i := range transfers {
				n := name(txnSeq(1000 + w*transfers + i))
				from, to := rng.IntN(accounts), rng.IntN(accounts)
				ops := []Op{add(fmt.Sprint("acct", from), -7), add(fmt.Sprint("acct", to), 7)}
				if _, err := s.Apply(t.Context(), n, 1, ops); err != nil {
					t.Error(err)
					return
				}
				votes, err := s.Prepare(t.Context(), first, branchOf(n, txn.Evidence{}))
				if err != nil {
					t.Error(err)
					return
				}
				finish := s.Commit
				if votes[0].Vote != txn.VoteYes || rng.IntN(4) == 0 {
					finish = s.Rollback
				}
				if _, err := finish(t.Context(), first, branchOf(n, txn.Evidence{})); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	sum := 0
	for i := range accounts {
		sum += number(t, s, fmt.Sprint("acct", i))
	}
	if sum != 100*accounts {
		t.Errorf("the sum is %d", sum)
	}
	listing, err := s.List(t.Context(), first)
	if err != nil || len(listing.Branches) != 0 || listing.Used != 0 {
		t.Errorf("%+v, %v", listing, err)
	}
}

// TestRollbackFirst: a prepare that comes after its rollback votes no, also after a crash in
// between.
func TestRollbackFirst(t *testing.T) {
	s := open(t, Config{})
	never, live := name(1), name(2)
	apply(t, s, live, 1, put("k", "v"))
	if got := standing(t, s.Rollback, never, txn.Evidence{}); got != txn.StandingGone {
		t.Errorf("a branch that never came: %v", got)
	}
	if got := standing(t, s.Rollback, live, txn.Evidence{}); got != txn.StandingRolledBack {
		t.Errorf("an unprepared branch: %v", got)
	}
	for range 2 {
		for n, want := range map[txn.Name]txn.Standing{
			never: txn.StandingGone, live: txn.StandingRolledBack,
		} {
			if v := prepare(t, s, n); v.Vote != txn.VoteNo {
				t.Errorf("late prepare of %s: %+v", n, v)
			}
			if got := standing(t, s.Rollback, n, txn.Evidence{}); got != want {
				t.Errorf("repeated rollback of %s: %v", n, got)
			}
			if got := standing(t, s.Commit, n, txn.Evidence{}); got != want {
				t.Errorf("commit of %s: %v", n, got)
			}
		}
		s = crash(t, s)
	}
}

func TestRollbackOfVotes(t *testing.T) {
	s := open(t, Config{})
	commitAll(t, s, name(1), put("k", "v"))
	prepared(t, s, name(2), put("k", "w"))
	apply(t, s, name(3), 1, put("k", "x"))
	apply(t, s, name(4), 1, read("quiet"))
	prepare(t, s, name(3))
	prepare(t, s, name(4))
	if got := standing(t, s.Rollback, name(3), txn.Evidence{}); got != txn.StandingRolledBack {
		t.Errorf("a branch that voted no: %v", got)
	}
	if got := standing(t, s.Rollback, name(4), txn.Evidence{}); got != txn.StandingGone {
		t.Errorf("a branch that only read: %v", got)
	}
}

// TestMemoryIsBounded: the oldest ends are dropped, and then the answer is Gone, never a guess.
func TestMemoryIsBounded(t *testing.T) {
	s := open(t, Config{MaxFinished: 3})
	for i := range 5 {
		commitAll(t, s, name(txnSeq(i+1)), put("k", fmt.Sprint(i)))
	}
	for i := range 5 {
		want := txn.StandingCommitted
		if i < 2 {
			want = txn.StandingGone
		}
		if got := standing(t, s.Inquire, name(txnSeq(i+1)), txn.Evidence{}); got != want {
			t.Errorf("branch %d: %v, want %v", i+1, got, want)
		}
	}
	err := s.view(t.Context(), func(v view) error {
		order := v.bucket("finished-order").Stats().KeyN
		if v.count("finished") != 3 || order != 3 || v.bucket("finished").Stats().KeyN != 3 {
			return fmt.Errorf("%d counted, %d in order", v.count("finished"), order)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestRefusalsAreBounded(t *testing.T) {
	c := newClock()
	s := open(t, Config{Now: c.Now, MaxRefused: 3, RefusedAge: time.Hour})
	refused := func(seq txn.Seq) (yes bool) {
		t.Helper()
		err := s.view(t.Context(), func(v view) error {
			e, err := v.endOf(name(seq).String())
			yes = e.end == endRefused
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return yes
	}
	for i := range 5 {
		standing(t, s.Rollback, name(txnSeq(i+1)), txn.Evidence{})
	}
	if refused(1) || refused(2) || !refused(3) || !refused(5) {
		t.Error("other refusals than the last three are remembered")
	}
	c.advance(2 * time.Hour)
	standing(t, s.Rollback, name(6), txn.Evidence{})
	if refused(3) || refused(5) || !refused(6) {
		t.Error("refusals are remembered by other than their age")
	}
	for i := range 10 { // the same one again takes no more room
		standing(t, s.Rollback, name(7), txn.Evidence{})
		if i == 9 && !refused(6) {
			t.Error("a repeated rollback pushed others out")
		}
	}
}

func TestPreparedIsBounded(t *testing.T) {
	s := open(t, Config{MaxPrepared: 2})
	prepared(t, s, name(1), put("a", "1"))
	prepared(t, s, name(2), put("b", "1"))
	apply(t, s, name(3), 1, put("c", "1"))
	v := prepare(t, s, name(3))
	if v.Vote != txn.VoteNo {
		t.Fatalf("voted %+v", v)
	}
	standing(t, s.Commit, name(1), txn.Evidence{})
	if again := prepare(t, s, name(3)); again != v {
		t.Errorf("votes %+v once there is room", again)
	}
	prepared(t, s, name(4), put("d", "1"))
}

// TestHeld: a store that is not the one that voted, or lost a part of its history, finishes
// nothing.
func TestHeld(t *testing.T) {
	s := open(t, Config{})
	backup := crash(t, s)
	e := prepared(t, s, name(1), put("k", "v"))
	otherStore := e
	otherStore.System++
	reused := e
	reused.XID++
	for what, evidence := range map[string]txn.Evidence{
		"another store": otherStore, "another number": reused,
	} {
		for _, call := range []finisher{s.Commit, s.Rollback, s.Inquire} {
			if got := standing(t, call, name(1), evidence); got != txn.StandingHeld {
				t.Errorf("%s: %v", what, got)
			}
		}
	}
	for _, call := range []finisher{backup.Commit, backup.Rollback, backup.Inquire} {
		if got := standing(t, call, name(1), e); got != txn.StandingHeld {
			t.Errorf("restored from a backup: %v", got)
		}
	}
	if got := standing(t, s.Inquire, name(1), e); got != txn.StandingPrepared {
		t.Errorf("the held branch is %v", got)
	}
	// Once the restored store has overtaken the evidence, its memory alone must speak.
	commitAll(t, backup, name(2), put("k", "other"))
	if got := standing(t, backup.Commit, name(1), e); got != txn.StandingGone {
		t.Errorf("restored and overtaken: %v", got)
	}
}

// TestOtherLogs: a coordinator finishes no branch of another log, and sees it in the listing.
func TestOtherLogs(t *testing.T) {
	s := open(t, Config{})
	e := prepared(t, s, name(1), put("k", "v"))
	other := txn.Fence{Log: 99, Epoch: 1}
	for _, call := range []finisher{s.Commit, s.Rollback, s.Inquire} {
		findings, err := call(t.Context(), other, branchOf(name(1), e))
		if err != nil || findings[0].Standing != txn.StandingForeign {
			t.Errorf("%v, %v", findings, err)
		}
	}
	votes, err := s.Prepare(t.Context(), other, branchOf(name(1), e))
	if err != nil || votes[0].Vote != txn.VoteUnknown {
		t.Errorf("%v, %v", votes, err)
	}
	if err := s.Forget(t.Context(), other, branchOf(name(1), e)); err != nil {
		t.Error(err)
	}
	listing, err := s.List(t.Context(), other)
	if err != nil || len(listing.Branches) != 1 || listing.Branches[0].Name != name(1) {
		t.Errorf("%+v, %v", listing, err)
	}
}

func TestList(t *testing.T) {
	c := newClock()
	s := open(t, Config{Now: c.Now, MaxPrepared: 50})
	e := prepared(t, s, name(1), put("a", "1"))
	c.advance(time.Minute)
	prepared(t, s, name(2), put("b", "1"))
	apply(t, s, name(3), 1, put("c", "1"))
	listing, err := s.List(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	if len(listing.Branches) != 2 || listing.Used != 2 || listing.Limit != 50 ||
		listing.Identity != s.Identity() || listing.Position.LSN != 2 || listing.Truncated {
		t.Errorf("%+v", listing)
	}
	got := listing.Branches[0]
	if got.Name != name(1) || !got.Ours || got.Age != time.Minute || got.Evidence != e {
		t.Errorf("%+v", got)
	}
}

// TestFences: as every participant, and durable with the change that brought them.
func TestFences(t *testing.T) {
	s := open(t, Config{})
	ctx := t.Context()
	commit := func(s *Store, f txn.Fence) error {
		_, err := s.Commit(ctx, f, branchOf(name(1), txn.Evidence{}))
		return err
	}
	if err := commit(s, fenceAt(3, 100)); err != nil {
		t.Fatal(err)
	}
	s = crash(t, s)
	if err := commit(s, fenceAt(2, 200)); !errors.Is(err, participant.ErrFenced) {
		t.Errorf("a deposed coordinator: %v", err)
	}
	if err := s.Hello(ctx, fenceAt(4, 99)); !errors.Is(err, participant.ErrRegression) {
		t.Errorf("a shorter log: %v", err)
	}
	if err := s.Hello(ctx, fenceAt(3, 99)); !errors.Is(err, participant.ErrRegression) {
		t.Errorf("restored to the eve: %v", err)
	}
	if err := commit(s, fenceAt(3, 50)); err != nil {
		t.Errorf("overtaken on the wire: %v", err)
	}
	// A call that only reads makes a new epoch durable too.
	if _, err := s.List(ctx, fenceAt(5, 100)); err != nil {
		t.Fatal(err)
	}
	s = crash(t, s)
	if _, err := s.Inquire(ctx, fenceAt(4, 300), nil); !errors.Is(err, participant.ErrFenced) {
		t.Errorf("a deposed coordinator asks: %v", err)
	}
	if _, err := s.List(ctx, fenceAt(4, 300)); !errors.Is(err, participant.ErrFenced) {
		t.Errorf("a deposed coordinator lists: %v", err)
	}
	if err := s.Forget(ctx, fenceAt(4, 300), nil); !errors.Is(err, participant.ErrFenced) {
		t.Errorf("a deposed coordinator forgets: %v", err)
	}
}

// TestRefusedCallDoesNothing: neither to the branch nor to its memory.
func TestRefusedCallDoesNothing(t *testing.T) {
	s := open(t, Config{})
	e := prepared(t, s, name(1), put("k", "v"))
	apply(t, s, name(2), 1, put("l", "v"))
	if err := s.Hello(t.Context(), fenceAt(1, 10)); err != nil {
		t.Fatal(err)
	}
	old := txn.Fence{Log: testLog, Epoch: 0}
	for _, call := range []finisher{s.Commit, s.Rollback} {
		if _, err := call(t.Context(), old, branchOf(name(1), e)); err == nil {
			t.Error("a refused call succeeded")
		}
	}
	if _, err := s.Prepare(t.Context(), old, branchOf(name(2), e)); err == nil {
		t.Error("a refused prepare succeeded")
	}
	if got := standing(t, s.Inquire, name(1), e); got != txn.StandingPrepared {
		t.Errorf("the branch is %v", got)
	}
	if v := prepare(t, s, name(2)); v.Vote != txn.VoteYes {
		t.Errorf("the other voted %+v", v)
	}
}

// TestNewEpochDropsUnpreparedWork: its coordinator is gone and will never ask for the vote.
func TestNewEpochDropsUnpreparedWork(t *testing.T) {
	s := open(t, Config{})
	early := name(1) // before any coordinator was heard of: it counts as of the first epoch
	apply(t, s, early, 1, put("a", "1"))
	if err := s.Hello(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	apply(t, s, early, 2, put("a", "2"))
	old := name(2)
	apply(t, s, old, 1, put("b", "1"))
	kept := prepared(t, s, name(3), put("c", "1"))
	otherLog := txn.NameOf(txn.NewID(99, 1), 1)
	apply(t, s, otherLog, 1, put("d", "1"))
	if err := s.Hello(t.Context(), fenceAt(2, 5)); err != nil {
		t.Fatal(err)
	}
	votes, err := s.Prepare(t.Context(), fenceAt(2, 5),
		[]participant.Branch{{Name: early}, {Name: old}})
	if err != nil || votes[0].Vote != txn.VoteUnknown || votes[1].Vote != txn.VoteUnknown {
		t.Errorf("%+v, %v", votes, err)
	}
	findings, err := s.Inquire(t.Context(), fenceAt(2, 5), branchOf(name(3), kept))
	if err != nil || findings[0].Standing != txn.StandingPrepared {
		t.Errorf("%+v, %v", findings, err)
	}
	if _, err := s.Apply(t.Context(), old, 2, []Op{put("b", "2")}); !errors.Is(err, ErrBranchLost) {
		t.Errorf("the dropped branch goes on: %v", err)
	}
	apply(t, s, otherLog, 2, put("d", "2"))
}

func TestInquireOfUnprepared(t *testing.T) {
	s := open(t, Config{})
	apply(t, s, name(1), 1, put("k", "v"))
	if got := standing(t, s.Inquire, name(1), txn.Evidence{}); got != txn.StandingUnknown {
		t.Errorf("not prepared yet: %v", got)
	}
	if got := standing(t, s.Inquire, name(2), txn.Evidence{}); got != txn.StandingRolledBack {
		t.Errorf("never heard of: %v", got)
	}
	if v := prepare(t, s, name(1)); v.Vote != txn.VoteYes {
		t.Errorf("an inquiry changed the branch: %+v", v)
	}
}

func TestForget(t *testing.T) {
	s := open(t, Config{})
	commitAll(t, s, name(1), put("k", "v"))
	standing(t, s.Rollback, name(2), txn.Evidence{})
	prepared(t, s, name(3), put("l", "v"))
	all := []participant.Branch{{Name: name(1)}, {Name: name(2)}, {Name: name(3)}, {Name: name(4)}}
	for range 2 {
		if err := s.Forget(t.Context(), first, all); err != nil {
			t.Fatal(err)
		}
	}
	// Of the first a commit was forgotten, and no absence up to it is a proof any more.
	want := []txn.Standing{txn.StandingGone, txn.StandingRolledBack, txn.StandingPrepared,
		txn.StandingRolledBack}
	for i, b := range all {
		if got := standing(t, s.Inquire, b.Name, txn.Evidence{}); got != want[i] {
			t.Errorf("%s: %v, want %v", b.Name, got, want[i])
		}
	}
}

// TestBatch: one call, one durable change, an answer per branch in their order, also for one
// named twice.
func TestBatch(t *testing.T) {
	s := open(t, Config{})
	apply(t, s, name(1), 1, put("a", "1"))
	apply(t, s, name(2), 1, put("a", "2"))
	apply(t, s, name(3), 1, read("b"))
	names := []participant.Branch{
		{Name: name(1)}, {Name: name(2)}, {Name: name(3)}, {Name: name(4)}, {Name: name(1)},
		{Name: name(2)},
	}
	votes, err := s.Prepare(t.Context(), first, names)
	if err != nil {
		t.Fatal(err)
	}
	want := []txn.Vote{
		txn.VoteYes, txn.VoteNo, txn.VoteReadOnly, txn.VoteUnknown, txn.VoteYes, txn.VoteNo,
	}
	for i := range want {
		if votes[i].Vote != want[i] {
			t.Errorf("%d: %+v, want %v", i, votes[i], want[i])
		}
	}
	if votes[0] != votes[4] || votes[1] != votes[5] {
		t.Errorf("the same branch votes twice in one call: %+v", votes)
	}
	many := make([]participant.Branch, participant.MaxBatch+1)
	_, prep := s.Prepare(t.Context(), first, many)
	_, com := s.Commit(t.Context(), first, many)
	_, inq := s.Inquire(t.Context(), first, many)
	for _, err := range []error{prep, com, inq, s.Forget(t.Context(), first, many)} {
		if txn.ReasonOf(err) != txn.ReasonInvalid {
			t.Errorf("too many: %v", err)
		}
	}
}

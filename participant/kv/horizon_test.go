package kv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"go.etcd.io/bbolt"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// damage overwrites a value in the file.
func damage(t *testing.T, s *Store, bucket, key string) {
	t.Helper()
	err := s.db.Update(func(tx *bbolt.Tx) error {
		return viewOf(tx).bucket(bucket).Put([]byte(key), []byte("damaged"))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// onePhase commits a branch in one step that must succeed.
func onePhase(t *testing.T, s *Store, n txn.Name, ops ...Op) {
	t.Helper()
	apply(t, s, n, 1, ops...)
	if got := standing(t, s.CommitOnePhase, n, txn.Evidence{}); got != txn.StandingCommitted {
		t.Fatalf("one phase of %s: %v", n, got)
	}
}

// TestHorizon: once ends were dropped, what is not there might have been among them. It is told as
// Gone, and its name is not given work again.
func TestHorizon(t *testing.T) {
	s := open(t, Config{MaxFinished: 3})
	for _, seq := range []txn.Seq{10, 20, 30, 40, 50} {
		onePhase(t, s, name(seq), put("k", fmt.Sprint(seq)))
	}
	// Of 10 and 20 the ends are dropped now.
	for range 2 {
		for seq, want := range map[txn.Seq]txn.Standing{
			5: txn.StandingGone, 10: txn.StandingGone, 20: txn.StandingGone,
			30: txn.StandingCommitted, 50: txn.StandingCommitted,
		} {
			for _, call := range []finisher{s.Inquire, s.CommitOnePhase} {
				if got := standing(t, call, name(seq), txn.Evidence{}); got != want {
					t.Errorf("%d: %v, want %v", seq, got, want)
				}
			}
		}
		for _, seq := range []txn.Seq{5, 10, 20} {
			if _, err := s.Apply(t.Context(), name(seq), 1, []Op{put("k", "x")}); !errors.Is(err,
				ErrBranchLost) {
				t.Errorf("%d begins again: %v", seq, err)
			}
		}
		s = crash(t, s)
	}
	other := txn.NameOf(txn.NewID(99, 1), 1)
	apply(t, s, other, 1, put("other", "v"))
	got, err := ask(t, s.CommitOnePhase, txn.Fence{Log: 99, Epoch: 1}, other, txn.Evidence{})
	if err != nil || got.Standing != txn.StandingCommitted {
		t.Errorf("another log: %+v, %v", got, err)
	}
	// That one had its end remembered in the place of 30's.
	if got := standing(t, s.Inquire, name(30), txn.Evidence{}); got != txn.StandingGone {
		t.Errorf("dropped for another log's: %v", got)
	}
	if got := standing(t, s.Inquire, name(31), txn.Evidence{}); got != txn.StandingRolledBack {
		t.Errorf("just above: %v", got)
	}
}

// TestHorizonOfLongBranches: a branch that began above the horizon goes on when it has passed.
func TestHorizonOfLongBranches(t *testing.T) {
	s := open(t, Config{MaxFinished: 1})
	long, stale := name(1), name(2)
	apply(t, s, long, 1, put("long", "v"))
	apply(t, s, stale, 1, put("stale", "v"))
	for seq := range txn.Seq(3) {
		onePhase(t, s, name(10+seq), put("k", "v"))
	}
	apply(t, s, long, 2, put("long", "w"))
	if got := standing(t, s.CommitOnePhase, long, txn.Evidence{}); got != txn.StandingCommitted {
		t.Errorf("the long branch: %v", got)
	}
	// That it is still here proves that it has not committed.
	got, err := ask(t, s.Inquire, fenceAt(2, 2), stale, txn.Evidence{})
	if err != nil || got.Standing != txn.StandingRolledBack {
		t.Errorf("an older epoch's: %+v, %v", got, err)
	}
}

// TestHorizonOfForgotten: to forget is no promise to remember what was not forgotten, and it keeps
// no slower transaction from beginning.
func TestHorizonOfForgotten(t *testing.T) {
	s := open(t, Config{})
	onePhase(t, s, name(20), put("k", "v"))
	all := []participant.Branch{{Name: name(10)}, {Name: name(20)}, {Name: name(30)}}
	if err := s.Forget(t.Context(), first, all); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for seq, want := range map[txn.Seq]txn.Standing{
			10: txn.StandingGone, 20: txn.StandingGone, 21: txn.StandingRolledBack,
			30: txn.StandingRolledBack,
		} {
			if got := standing(t, s.Inquire, name(seq), txn.Evidence{}); got != want {
				t.Errorf("%d: %v, want %v", seq, got, want)
			}
		}
		s = crash(t, s)
	}
	onePhase(t, s, name(11), put("k", "slow"))
}

// TestHorizonMovesWithTheEnd: whatever a crash leaves, an end is there or the horizon says that it
// may have been.
func TestHorizonMovesWithTheEnd(t *testing.T) {
	s := open(t, Config{MaxFinished: 1})
	onePhase(t, s, name(1), put("k", "1"))
	apply(t, s, name(2), 1, put("k", "2"))
	g := gated(t, s)
	answer := make(chan error, 1)
	go func() {
		_, err := s.CommitOnePhase(t.Context(), first, branchOf(name(2), txn.Evidence{}))
		answer <- err
	}()
	<-g.entered
	before := crash(t, s)
	g.proceed <- nil
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	after := crash(t, s)
	for want, s := range map[txn.Standing]*Store{
		txn.StandingCommitted: before, txn.StandingGone: after,
	} {
		if got := standing(t, s.Inquire, name(1), txn.Evidence{}); got != want {
			t.Errorf("%v, want %v", got, want)
		}
	}
}

// TestUnreadableName: an end that cannot be told whose it was takes the proof from all.
func TestUnreadableName(t *testing.T) {
	s := open(t, Config{MaxFinished: 1})
	onePhase(t, s, name(1), put("k", "1"))
	err := s.db.Update(func(tx *bbolt.Tx) error {
		v := viewOf(tx)
		e := ended{end: endCommitted}
		return errors.Join(v.add("finished", "not a name", e.encode()),
			v.bucket("finished-order").Put(orderKey(0), []byte("not a name")))
	})
	if err != nil {
		t.Fatal(err)
	}
	onePhase(t, s, name(2), put("k", "2"))
	for _, n := range []txn.Name{name(50), txn.NameOf(txn.NewID(99, 50), 1)} {
		got, err := ask(t, s.Inquire, txn.Fence{Log: n.Log, Epoch: 1, LSN: 1}, n, txn.Evidence{})
		if err != nil || got.Standing != txn.StandingGone {
			t.Errorf("%s: %+v, %v", n, got, err)
		}
	}
}

func TestDamagedHorizon(t *testing.T) {
	s := open(t, Config{})
	damage(t, s, "horizon", string(horizonKey(testLog)))
	ctx, b := t.Context(), branchOf(name(1), txn.Evidence{})
	_, inquire := s.Inquire(ctx, first, b)
	_, commit := s.CommitOnePhase(ctx, first, b)
	_, begin := s.Apply(ctx, name(1), 1, []Op{put("k", "v")})
	for i, err := range []error{inquire, commit, begin} {
		if !errors.Is(err, errDamaged) {
			t.Errorf("%d: %v", i, err)
		}
	}
}

// TestFirstFormat: a file of the first format has dropped ends without a trace, so that no absence
// in it is a proof, ever. Everything else goes on.
func TestFirstFormat(t *testing.T) {
	s := open(t, Config{})
	onePhase(t, s, name(1), put("k", "v"))
	if d, err := s.Describe(t.Context()); err != nil || !d.OnePhase {
		t.Errorf("a new store: %+v, %v", d, err)
	}
	e := prepared(t, s, name(2), put("l", "v"))
	err := s.db.Update(func(tx *bbolt.Tx) error {
		return errors.Join(tx.DeleteBucket([]byte("horizon")),
			tx.Bucket([]byte("meta")).Put([]byte("format"), []byte{firstFormat}))
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s = crash(t, s)
		if d, err := s.Describe(t.Context()); err != nil || d.OnePhase {
			t.Errorf("it can prove no absence, and offers one phase: %+v, %v", d, err)
		}
		for _, call := range []finisher{s.Inquire, s.CommitOnePhase} {
			if got := standing(t, call, name(3), txn.Evidence{}); got != txn.StandingGone {
				t.Errorf("never heard of: %v", got)
			}
		}
		if got := standing(t, s.Inquire, name(1), txn.Evidence{}); got != txn.StandingCommitted {
			t.Errorf("remembered: %v", got)
		}
	}
	if got := standing(t, s.Commit, name(2), e); got != txn.StandingCommitted {
		t.Errorf("prepared: %v", got)
	}
	onePhase(t, s, name(4), put("k", "w"))
}

func TestHorizonRoundTrip(t *testing.T) {
	in := horizon{dropped: 1 << 40, forgotten: txn.MaxSeq}
	if out := decodeHorizon(in.encode()); out != in || len(in.encode()) != horizonLen {
		t.Errorf("%+v became %+v", in, out)
	}
	if binary.BigEndian.Uint64(horizonKey(testLog)) != uint64(testLog) {
		t.Errorf("key %x", horizonKey(testLog))
	}
}

// TestAnswersWaitForTheDisk: bbolt shows a commit before it has synced it. What is listed, or told
// as the store's position, must not be taken back by a power cut.
func TestAnswersWaitForTheDisk(t *testing.T) { synctest.Test(t, testAnswersWaitForTheDisk) }

func testAnswersWaitForTheDisk(t *testing.T) {
	s := open(t, Config{})
	if err := s.Hello(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	apply(t, s, name(1), 1, put("k", "v"))
	g := gated(t, s)
	answer := make(chan error, 3)
	go func() {
		_, err := s.Prepare(t.Context(), first, branchOf(name(1), txn.Evidence{}))
		answer <- err
	}()
	<-g.entered
	go func() {
		_, err := s.List(t.Context(), first)
		answer <- err
	}()
	go func() {
		_, err := s.Describe(t.Context())
		answer <- err
	}()
	synctest.Wait()
	if len(answer) != 0 {
		t.Error("an answer came before the disk's")
	}
	g.proceed <- errors.New("fdatasync: input/output error")
	for range 3 {
		if err := <-answer; !errors.Is(err, ErrFailed) {
			t.Errorf("after a failed sync: %v", err)
		}
	}
}

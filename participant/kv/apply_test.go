package kv

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

func txnSeq(i int) txn.Seq { return txn.Seq(i) }

func TestOperations(t *testing.T) {
	s := open(t, Config{})
	commitAll(t, s, name(1), put("old", "1"), put("gone", "x"), put("n", "-5"))
	n := name(2)
	entry := func(key, value string) Entry {
		return Entry{Key: []byte(key), Value: []byte(value), Found: true}
	}
	none := func(key string) Entry { return Entry{Key: []byte(key)} }
	got := apply(t, s, n, 1,
		read("old"), put("old", "2"), read("old"), del("gone"), read("gone"), read("never"),
		add("n", 7), add("n", -2), add("fresh", 3), del("never"), put("empty", ""))
	want := []Entry{
		entry("old", "1"), entry("old", "2"), entry("old", "2"), none("gone"), none("gone"),
		none("never"), entry("n", "2"), entry("n", "0"), entry("fresh", "3"), none("never"),
		entry("empty", ""),
	}
	equal := cmp.Comparer(func(a, b Entry) bool {
		return string(a.Key) == string(b.Key) && string(a.Value) == string(b.Value) &&
			a.Found == b.Found
	})
	if diff := cmp.Diff(want, got, equal); diff != "" {
		t.Error(diff)
	}
	if value(t, s, "old") != "1" || value(t, s, "fresh") != "-" {
		t.Error("the work of a branch is seen outside of it")
	}
	if v := prepare(t, s, n); v.Vote != txn.VoteYes {
		t.Fatalf("%+v", v)
	}
	if value(t, s, "old") != "1" {
		t.Error("the work of a prepared branch is seen outside of it")
	}
	if got := standing(t, s.Commit, n, txn.Evidence{}); got != txn.StandingCommitted {
		t.Fatal(got)
	}
	for key, want := range map[string]string{
		"old": "2", "gone": "-", "n": "0", "fresh": "3", "never": "-", "empty": "",
	} {
		if got := value(t, s, key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
}

// TestSequence: a call may be repeated; a gap means that work was lost, and the branch must never
// be prepared with what is left of it.
func TestSequence(t *testing.T) {
	s := open(t, Config{})
	n := name(1)
	for range 3 {
		if got := apply(t, s, n, 1, add("n", 10)); string(got[0].Value) != "10" {
			t.Errorf("the repeated call gives %s", got[0].Value)
		}
	}
	apply(t, s, n, 2, add("n", 1))
	_, err := s.Apply(t.Context(), n, 1, []Op{add("n", 10)})
	if !errors.Is(err, ErrBranchLost) {
		t.Errorf("a late copy: %v", err)
	}
	if v := prepare(t, s, n); v.Vote != txn.VoteYes {
		t.Errorf("after a late copy: %+v", v)
	}
	gap := name(2)
	apply(t, s, gap, 1, put("k", "v"))
	if _, err := s.Apply(t.Context(), gap, 3, []Op{put("l", "v")}); !errors.Is(err, ErrBranchLost) {
		t.Errorf("a gap: %v", err)
	}
	if v := prepare(t, s, gap); v.Vote != txn.VoteNo {
		t.Errorf("after a gap: %+v", v)
	}
}

// TestRestartLosesTheBranch: what is left after a restart must not be taken for the whole.
func TestRestartLosesTheBranch(t *testing.T) {
	s := open(t, Config{})
	n := name(1)
	apply(t, s, n, 1, put("a", "1"))
	again := crash(t, s)
	if _, err := again.Apply(t.Context(), n, 2, []Op{put("b", "1")}); !errors.Is(err,
		ErrBranchLost) {
		t.Errorf("its next call: %v", err)
	}
	if v := prepare(t, again, n); v.Vote != txn.VoteUnknown || v.Reason == "" {
		t.Errorf("its vote: %+v", v)
	}
}

// TestFailedCallEndsTheBranch: an application that overlooks the error must not commit the rest.
func TestFailedCallEndsTheBranch(t *testing.T) {
	zero := int64(0)
	big := make([]Op, MaxOps)
	for i := range big {
		big[i] = put(fmt.Sprint(i), strings.Repeat("x", MaxValueLen))
	}
	cases := map[string]struct {
		ops  []Op
		want error
	}{
		"below minimum": {[]Op{put("z", "1"),
			{Kind: OpAdd, Key: []byte("n"), Delta: -11, Minimum: &zero}}, ErrBelowMinimum},
		"not a number":  {[]Op{add("text", 1)}, ErrNotNumber},
		"overflow":      {[]Op{add("n", math.MaxInt64)}, ErrNotNumber},
		"underflow":     {[]Op{add("m", math.MinInt64)}, ErrNotNumber},
		"empty key":     {[]Op{put("", "v")}, nil},
		"long key":      {[]Op{read(strings.Repeat("k", MaxKeyLen+1))}, nil},
		"long value":    {[]Op{put("k", strings.Repeat("v", MaxValueLen+1))}, nil},
		"no kind":       {[]Op{{Key: []byte("k")}}, nil},
		"unknown kind":  {[]Op{{Kind: OpAdd + 1, Key: []byte("k")}}, nil},
		"no operation":  {nil, nil},
		"too many":      {make([]Op, MaxOps+1), nil},
		"too much data": {big, nil},
	}
	seq := txn.Seq(0)
	s := open(t, Config{})
	commitAll(t, s, name(1000), put("text", "abc"), put("n", "10"), put("m", "-10"))
	for what, c := range cases {
		seq++
		n := name(seq)
		apply(t, s, n, 1, put("kept"+fmt.Sprint(seq), "v"))
		_, err := s.Apply(t.Context(), n, 2, c.ops)
		if c.want != nil && !errors.Is(err, c.want) ||
			c.want == nil && txn.ReasonOf(err) != txn.ReasonInvalid {
			t.Errorf("%s: %v", what, err)
		}
		v := prepare(t, s, n)
		if v.Vote != txn.VoteNo || !strings.Contains(v.Reason, "failed") || v.SQLState != "" {
			t.Errorf("%s: voted %+v", what, v)
		}
		if again := prepare(t, s, n); again != v {
			t.Errorf("%s: votes %+v the second time", what, again)
		}
		if value(t, s, "kept"+fmt.Sprint(seq)) != "-" {
			t.Errorf("%s: the rest of the branch is there", what)
		}
	}
}

func TestFailedFirstCall(t *testing.T) {
	s := open(t, Config{})
	if _, err := s.Apply(t.Context(), name(1), 0, []Op{put("k", "v")}); txn.ReasonOf(err) !=
		txn.ReasonInvalid {
		t.Errorf("call 0: %v", err)
	}
	if v := prepare(t, s, name(1)); v.Vote == txn.VoteYes || v.Vote == txn.VoteReadOnly {
		t.Errorf("voted %+v", v)
	}
	minimum := int64(1)
	ops := []Op{{Kind: OpAdd, Key: []byte("n"), Minimum: &minimum}}
	if _, err := s.Apply(t.Context(), name(2), 1, ops); !errors.Is(err, ErrBelowMinimum) {
		t.Error(err)
	}
	if _, err := s.Apply(t.Context(), name(2), 1, ops[:1]); !errors.Is(err, ErrBranchLost) {
		t.Errorf("the failed branch goes on: %v", err)
	}
	if v := prepare(t, s, name(2)); v.Vote != txn.VoteNo {
		t.Errorf("voted %+v", v)
	}
}

// TestCancelledCallMayBeRepeated: it was not begun, and so is no failure of the branch.
func TestCancelledCallMayBeRepeated(t *testing.T) {
	s := open(t, Config{})
	apply(t, s, name(1), 1, put("a", "1"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Apply(ctx, name(1), 2, []Op{put("b", "1")}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	apply(t, s, name(1), 2, put("b", "1"))
	if v := prepare(t, s, name(1)); v.Vote != txn.VoteYes {
		t.Errorf("voted %+v", v)
	}
}

func TestApplyAfterTheEnd(t *testing.T) {
	s := open(t, Config{})
	finish := func(call finisher) func(txn.Name) {
		return func(n txn.Name) { standing(t, call, n, txn.Evidence{}) }
	}
	ends := map[string]func(txn.Name){
		"prepared":  func(n txn.Name) { prepare(t, s, n) },
		"committed": func(n txn.Name) { prepare(t, s, n); finish(s.Commit)(n) },
		"aborted":   func(n txn.Name) { prepare(t, s, n); finish(s.Rollback)(n) },
		"refused":   finish(s.Rollback),
	}
	seq := txn.Seq(0)
	for what, end := range ends {
		seq++
		apply(t, s, name(seq), 1, put(what, "v"))
		end(name(seq))
		for sequence := range uint64(3) {
			_, err := s.Apply(t.Context(), name(seq), sequence+1, []Op{put("late", "v")})
			if !errors.Is(err, ErrBranchLost) {
				t.Errorf("%s, call %d: %v", what, sequence+1, err)
			}
		}
	}
	readOnly := name(100)
	apply(t, s, readOnly, 1, read("x"))
	prepare(t, s, readOnly)
	if _, err := s.Apply(t.Context(), readOnly, 1, []Op{put("x", "v")}); !errors.Is(err,
		ErrBranchLost) {
		t.Errorf("read only: %v", err)
	}
}

// TestIdleBranchesAreDropped: in the order of their last use, and their next call finds the gap.
func TestIdleBranchesAreDropped(t *testing.T) {
	c := newClock()
	s := open(t, Config{Now: c.Now, MaxBranches: 2, IdleAfter: time.Minute})
	apply(t, s, name(1), 1, put("a", "1"))
	c.advance(40 * time.Second)
	apply(t, s, name(2), 1, put("b", "1"))
	_, err := s.Apply(t.Context(), name(3), 1, []Op{put("c", "1")})
	if txn.ReasonOf(err) != txn.ReasonOverloaded {
		t.Fatalf("a third branch: %v", err)
	}
	apply(t, s, name(1), 2, put("a", "2"))
	c.advance(50 * time.Second) // 2 is idle for 50 s, 1 as well
	c.advance(11 * time.Second) // both for 61 s
	apply(t, s, name(3), 1, put("c", "1"))
	apply(t, s, name(4), 1, put("d", "1"))
	for _, n := range []txn.Name{name(1), name(2)} {
		if v := prepare(t, s, n); v.Vote != txn.VoteUnknown {
			t.Errorf("%s voted %+v", n, v)
		}
	}
	if _, err := s.Apply(t.Context(), name(1), 3, []Op{put("a", "3")}); !errors.Is(err,
		ErrBranchLost) {
		t.Error(err)
	}
}

func TestGetIsBounded(t *testing.T) {
	s := open(t, Config{})
	for _, keys := range [][][]byte{make([][]byte, MaxOps+1), {nil}, {make([]byte, MaxKeyLen+1)}} {
		if _, err := s.Get(t.Context(), keys); txn.ReasonOf(err) != txn.ReasonInvalid {
			t.Errorf("%d keys: %v", len(keys), err)
		}
	}
}

// TestAnswersBelongToTheCaller: changing them, or the operations, must not change the branch.
func TestAnswersBelongToTheCaller(t *testing.T) {
	s := open(t, Config{})
	op := put("k", "value")
	answer := apply(t, s, name(1), 1, op)
	copy(op.Value, "XXXXX")
	copy(answer[0].Value, "YYYYY")
	if got := apply(t, s, name(1), 1, op); string(got[0].Value) != "value" {
		t.Errorf("repeated: %s", got[0].Value)
	}
	got := apply(t, s, name(1), 2, read("k"))
	if string(got[0].Value) != "value" {
		t.Errorf("read: %s", got[0].Value)
	}
	copy(got[0].Value, "ZZZZZ")
	prepare(t, s, name(1))
	standing(t, s.Commit, name(1), txn.Evidence{})
	if got := value(t, s, "k"); got != "value" {
		t.Errorf("committed: %s", got)
	}
}

// TestFirstVoteStands: the coordinator may have heard it.
func TestFirstVoteStands(t *testing.T) {
	b := &branch{}
	no := participant.Vote{Vote: txn.VoteNo, Reason: "a conflict"}
	if got := b.end(no); got != no || !b.closed {
		t.Errorf("ended with %+v, closed %v", got, b.closed)
	}
	if got := b.end(participant.Vote{Vote: txn.VoteReadOnly}); got != no {
		t.Errorf("then with %+v", got)
	}
	b.spoil(errors.New("too late"))
	if *b.vote != no {
		t.Errorf("then with %+v", *b.vote)
	}
}

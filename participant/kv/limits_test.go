package kv

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// usedBytes is what the file holds at this moment.
func usedBytes(t *testing.T, s *Store) (used int64) {
	t.Helper()
	err := s.view(t.Context(), func(v view) error {
		used = v.used()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return used
}

// TestOperationsAtTheirLimits: what is allowed is taken, and one byte or one operation more is not.
func TestOperationsAtTheirLimits(t *testing.T) {
	many := func(n int) []Op {
		ops := make([]Op, n)
		for i := range ops {
			ops[i] = put(fmt.Sprint(i), "v")
		}
		return ops
	}
	for what, ops := range map[string]func(more int) []Op{
		"key": func(n int) []Op { return []Op{put(strings.Repeat("k", MaxKeyLen+n), "v")} },
		"value": func(n int) []Op {
			return []Op{put("k", strings.Repeat("v", MaxValueLen+n))}
		},
		"operations": func(n int) []Op { return many(MaxOps + n) },
		"branch": func(n int) (ops []Op) {
			// 16 values of 64 KiB with their keys, the last one cut so that it fits.
			for i := range MaxBranchBytes / MaxValueLen {
				ops = append(ops, put(string(rune('a'+i)), strings.Repeat("v", MaxValueLen)))
			}
			last := &ops[len(ops)-1]
			last.Value = last.Value[:MaxValueLen-len(ops)+n]
			return ops
		},
	} {
		s := open(t, Config{})
		apply(t, s, name(1), 1, ops(0)...)
		if v := prepare(t, s, name(1)); v.Vote != txn.VoteYes {
			t.Errorf("%s at its limit: %+v", what, v)
		}
		_, err := s.Apply(t.Context(), name(2), 1, ops(1))
		if txn.ReasonOf(err) != txn.ReasonInvalid {
			t.Errorf("%s one beyond its limit: %v", what, err)
		}
	}
}

// TestFullStore: at the limit a branch is taken, one byte beyond it votes no, and says what to do.
// What does not make the store larger is taken all the same, and what was prepared commits.
func TestFullStore(t *testing.T) {
	s := open(t, Config{})
	commitAll(t, s, name(1), put("n", "7"), put("x", strings.Repeat("x", 1000)))
	before := prepared(t, s, name(2), put("early", "1"))
	value1 := strings.Repeat("v", 1000)
	grows := int64(len("k") + versionLen + len(value1))

	s.cfg.MaxBytes = usedBytes(t, s) + grows - 1
	apply(t, s, name(3), 1, put("k", value1))
	v := prepare(t, s, name(3))
	if v.Vote != txn.VoteNo || v.SQLState != fullState ||
		!strings.Contains(v.Reason, "delete keys") {
		t.Errorf("beyond the limit: %+v", v)
	}
	apply(t, s, name(4), 1, put("k", value1))
	got, err := s.CommitOnePhase(t.Context(), first, branchOf(name(4), txn.Evidence{}))
	if err != nil || got[0].Standing != txn.StandingRolledBack ||
		!strings.Contains(got[0].Reason, "full") {
		t.Errorf("beyond the limit, in one phase: %+v, %v", got, err)
	}
	s.cfg.MaxBytes = usedBytes(t, s) + grows
	prepared(t, s, name(5), put("k", value1))

	s.cfg.MaxBytes = 1
	if got := standing(t, s.Commit, name(2), before); got != txn.StandingCommitted {
		t.Errorf("what was prepared before: %v", got)
	}
	if got := standing(t, s.Commit, name(5), txn.Evidence{}); got != txn.StandingCommitted {
		t.Errorf("what was prepared at the limit: %v", got)
	}
	commitAll(t, s, name(6), add("n", 2))
	commitAll(t, s, name(7), put("x", strings.Repeat("y", 1000)))
	commitAll(t, s, name(8), del("x"), put("y", strings.Repeat("y", 1000)))
	commitAll(t, s, name(9), del("early"))
	apply(t, s, name(10), 1, put("n", "10"))
	if v := prepare(t, s, name(10)); v.Vote != txn.VoteNo {
		t.Errorf("one byte more in a full store: %+v", v)
	}
	if value(t, s, "n") != "9" || value(t, s, "y") == "-" || value(t, s, "early") != "-" {
		t.Error("a full store does not do what makes it no larger")
	}
}

// TestFullInAGroup: branches that are prepared in one bbolt transaction share the room.
func TestFullInAGroup(t *testing.T) {
	s := open(t, Config{})
	grows := int64(len("a") + versionLen + 100)
	for i := range 4 {
		apply(t, s, name(txnSeq(i+1)), 1, put(string(rune('a'+i)), strings.Repeat("v", 100)))
	}
	s.cfg.MaxBytes = usedBytes(t, s) + 3*grows
	var batch []participant.Branch
	for i := range 4 {
		batch = append(batch, participant.Branch{Name: name(txnSeq(i + 1))})
	}
	votes, err := s.Prepare(t.Context(), first, batch)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range votes {
		if yes := v.Vote == txn.VoteYes; yes != (i < 3) {
			t.Errorf("branch %d: %+v", i, v)
		}
	}
}

// TestWorkInMemoryIsBounded: all unprepared branches together, answers included. What ends makes
// room again, and so does what is idle.
func TestWorkInMemoryIsBounded(t *testing.T) {
	c := newClock()
	const work = 2 * (1 + 99) // keys and values, and the answer that repeats them
	s := open(t, Config{Now: c.Now, IdleAfter: time.Minute, MaxWorkingBytes: 3 * work})
	op := func(i int) Op { return put(string(rune('a'+i)), strings.Repeat("v", 99)) }
	for i := range 3 {
		apply(t, s, name(txnSeq(i+1)), 1, op(i))
	}
	refused := func(n txn.Name, ops ...Op) {
		t.Helper()
		_, err := s.Apply(t.Context(), n, 1, ops)
		if txn.ReasonOf(err) != txn.ReasonOverloaded || !strings.Contains(err.Error(), "run this") {
			t.Errorf("beyond the limit: %v", err)
		}
	}
	refused(name(4), put("d", ""))
	if v := prepare(t, s, name(4)); v.Vote != txn.VoteNo {
		t.Errorf("a branch whose work was refused: %+v", v)
	}
	standing(t, s.Rollback, name(1), txn.Evidence{})
	apply(t, s, name(5), 1, op(4))
	refused(name(6), put("d", ""))
	if v := prepare(t, s, name(2)); v.Vote != txn.VoteYes {
		t.Fatalf("%+v", v)
	}
	apply(t, s, name(7), 1, op(5))
	apply(t, s, name(7), 1, op(5)) // repeated, and charged once
	c.advance(time.Hour)
	apply(t, s, name(8), 1, op(6))
	if s.branches.bytes != work {
		t.Errorf("%d bytes are charged, want %d", s.branches.bytes, work)
	}
}

// TestLogsAreBounded: one log more than are remembered is refused, and none of these is forgotten.
func TestLogsAreBounded(t *testing.T) {
	s := open(t, Config{})
	err := s.db.Update(func(tx *bbolt.Tx) error {
		for i := range MaxLogs - 1 {
			v := viewOf(tx)
			if err := v.remember(txn.Fence{Log: txn.LogID(i + 1), Epoch: 3, LSN: 9}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Hello(t.Context(), first); err != nil {
		t.Errorf("the last log that is allowed: %v", err)
	}
	for range 2 {
		err := s.Hello(t.Context(), txn.Fence{Log: 1 << 40, Epoch: 1, LSN: 1})
		if txn.ReasonOf(err) != txn.ReasonOverloaded {
			t.Errorf("one log more: %v", err)
		}
		_, err = s.List(t.Context(), txn.Fence{Log: 1 << 40, Epoch: 1, LSN: 1})
		if txn.ReasonOf(err) != txn.ReasonOverloaded {
			t.Errorf("a listing of one log more: %v", err)
		}
	}
	if err := s.Hello(t.Context(), txn.Fence{Log: 1, Epoch: 4, LSN: 9}); err != nil {
		t.Errorf("a known log: %v", err)
	}
	err = s.Hello(t.Context(), txn.Fence{Log: 2, Epoch: 2, LSN: 9})
	if !errors.Is(err, participant.ErrFenced) {
		t.Errorf("an old epoch of a known log: %v", err)
	}
}

// TestLimitsOfThePage: docs/KV.md says what the constants and the defaults are.
func TestLimitsOfThePage(t *testing.T) {
	text, err := os.ReadFile("../../docs/KV.md")
	if err != nil {
		t.Fatal(err)
	}
	c := Config{}.withDefaults()
	number := func(n int) string {
		s := fmt.Sprint(n)
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s
	}
	for row, says := range map[string]string{
		"key": "1 to " + number(MaxKeyLen) + " bytes", "value": number(MaxValueLen) + " bytes",
		"operations of one call, keys of one Get": number(MaxOps),
		"keys and values of one branch":           fmt.Sprintf("%d MiB", MaxBranchBytes>>20),
		"branches that are not prepared":          number(c.MaxBranches),
		"their keys, values and last answers together, in memory": fmt.Sprintf("%d MiB",
			c.MaxWorkingBytes>>20),
		"prepared branches":   number(c.MaxPrepared),
		"what the file holds": fmt.Sprintf("%d GiB", c.MaxBytes>>30),
		"remembered ends":     number(c.MaxFinished),
		"remembered rollbacks of what never came": fmt.Sprintf("%s, %.0f h", number(c.MaxRefused),
			c.RefusedAge.Hours()),
		"coordinators' logs":                    number(MaxLogs),
		"branches of one call of a coordinator": number(participant.MaxBatch),
	} {
		if want := "| " + row + " | " + says + " |"; !strings.Contains(string(text), want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

// fillAndEmpty leaves a file of some size with hardly anything in it.
func fillAndEmpty(t *testing.T, s *Store, megabytes int) {
	t.Helper()
	err := s.db.Update(func(tx *bbolt.Tx) error {
		for i := range megabytes {
			v := viewOf(tx)
			big := write{key: fmt.Sprintf("big%d", i), value: make([]byte, 1<<20)}
			if err := v.put(big, 1); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.db.Update(func(tx *bbolt.Tx) error {
		for i := range megabytes {
			if err := tx.Bucket([]byte("data")).Delete(fmt.Appendf(nil, "big%d", i)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestSizeIsDescribed: nearly full, and mostly empty, are told with what to do.
func TestSizeIsDescribed(t *testing.T) {
	s := open(t, Config{})
	commitAll(t, s, name(1), put("k", "v"))
	used := usedBytes(t, s)
	check := func(at int, level participant.Level, fix string) {
		t.Helper()
		d, err := s.Describe(t.Context())
		if err != nil || len(d.Checks) <= at {
			t.Fatalf("%+v, %v", d, err)
		}
		if c := d.Checks[at]; c.Level != level || !strings.Contains(c.Fix, fix) {
			t.Errorf("%+v, want %s %q", c, level, fix)
		}
	}
	s.cfg.MaxBytes = used*5/4 + 5
	check(1, participant.LevelOK, "")
	s.cfg.MaxBytes = used * 5 / 4
	check(1, participant.LevelWarn, "--kv-max-size")
	s.cfg.MaxBytes = 1
	check(1, participant.LevelWarn, "--kv-max-size")

	s.cfg.MaxBytes = 1 << 30
	fillAndEmpty(t, s, roomyFile>>20)
	check(2, participant.LevelWarn, "gavel kv compact "+s.cfg.Dir)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := Compact(s.cfg.Dir, time.Second)
	if err != nil || c.After >= 1<<20 || c.Before < roomyFile {
		t.Errorf("%+v, %v", c, err)
	}
	was := s.Identity()
	s = open(t, s.cfg)
	if d, err := s.Describe(t.Context()); err != nil || len(d.Checks) != 2 {
		t.Errorf("compacted: %+v, %v", d, err)
	}
	if s.Identity() != was || value(t, s, "k") != "v" {
		t.Error("the compacted store is another one")
	}
}

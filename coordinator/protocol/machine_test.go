package protocol

import (
	"testing"

	"github.com/gavel-tx/gavel/txn"
)

// newTestMachine has a and b registered, and a block of sequences.
func newTestMachine(t *testing.T, cfg Config) (*Machine, *history) {
	t.Helper()
	h := &history{t: t, m: New(NewState(testLog), cfg, 0)}
	for i, name := range []string{"a", "b"} {
		h.m.Step(
			Register{
				Name:     name,
				Kind:     "test",
				Identity: txn.Identity{System: uint64(i + 1), Database: 7},
				Evidence: true,
			},
		)
	}
	h.ready()
	h.persist()
	h.ready()
	return h.m, h
}

func begin(m *Machine, names ...string) txn.ID {
	m.Step(Begin{Req: 1, Request: txn.BeginRequest{Resources: names}})
	return m.Ready().Replies[0].Begun.ID
}

func yes(no txn.BranchNo) txn.BranchVote {
	return txn.BranchVote{Branch: no, Vote: txn.VoteYes, Evidence: txn.Evidence{
		Identity: txn.Identity{System: uint64(no), Database: 7}, XID: 1}}
}

// TestBeginAndAbortAppendNothing: presumed abort costs the log nothing, except that sequences are
// reserved a block at a time.
func TestBeginAndAbortAppendNothing(t *testing.T) {
	m, _ := newTestMachine(t, Config{Block: 1 << 20})
	for range 1000 {
		id := begin(m, "a", "b")
		m.Step(Rollback{Req: 2, ID: id})
		if r := m.Ready(); len(r.Appends) != 0 {
			t.Fatalf("appends %+v", r.Appends)
		}
	}
}

// TestDecidingCannotBeAborted: between the append of a commit and its durability no deadline and no
// client may call it off, and nobody hears an outcome.
func TestDecidingCannotBeAborted(t *testing.T) {
	m, _ := newTestMachine(t, Config{})
	id := begin(m, "a", "b")
	m.Step(
		Commit{Req: 2, Request: txn.CommitRequest{ID: id, Votes: []txn.BranchVote{yes(1), yes(2)}}},
	)
	m.Ready()
	m.Step(Tick{Now: 1 << 50})
	m.Step(Rollback{Req: 3, ID: id})
	m.Step(Voted{ID: id, Vote: txn.BranchVote{Branch: 1, Vote: txn.VoteNo}})
	m.Step(Finished{ID: id, Branch: 1, Act: ActRollback, Standing: txn.StandingRolledBack})
	r := m.Ready()
	if len(r.Messages)+len(r.Replies) != 0 {
		t.Fatalf("something came out while the decision was on its way: %+v", r)
	}
}

// TestNothingLeavesBeforePersisted: messages and replies that tell a commit come out of Persisted
// alone.
func TestNothingLeavesBeforePersisted(t *testing.T) {
	m, _ := newTestMachine(t, Config{})
	id := begin(m, "a", "b")
	m.Step(Commit{Req: 2, Request: txn.CommitRequest{ID: id, Ack: txn.AckDecided,
		Votes: []txn.BranchVote{yes(1), yes(2)}}})
	r := m.Ready()
	if len(r.Appends) != 1 || !r.Appends[0].Forced || len(r.Messages)+len(r.Replies) != 0 {
		t.Fatalf("before: %+v", r)
	}
	m.Step(Persisted{Index: r.Appends[0].Index})
	r = m.Ready()
	if len(r.Messages) != 2 || len(r.Replies) != 1 ||
		r.Replies[0].Result.Outcome != txn.OutcomeCommitted {
		t.Fatalf("after: %+v", r)
	}
}

// TestTimersStayBounded: a long deadline costs nothing once its transaction is over.
// TestParkedCallersThatLeave: those who have gone, or are too late, get no sequence, and to go is
// cheap.
func TestParkedCallersThatLeave(t *testing.T) {
	m := New(NewState(testLog), Config{Block: 8, MaxActive: 1 << 20}, 0)
	m.Ready()
	var parked []Begin
	for i := range 20_000 {
		b := Begin{Req: ReqID(i + 1)}
		if i%4 == 1 {
			b.Until = 5
		}
		parked = append(parked, b)
		m.Step(b)
	}
	for i, b := range parked {
		if i%2 == 0 {
			m.Step(Cancel{Of: b})
		}
	}
	m.Step(Tick{Now: 5})
	served := 0
	for more := true; more; {
		r := m.Ready()
		for _, rep := range r.Replies {
			if i := rep.Req - 1; i >= 8 && i%4 != 3 {
				t.Fatalf("request %d is served", rep.Req)
			}
			served++
		}
		if more = len(r.Appends) > 0; more {
			m.Step(Persisted{Index: r.Appends[len(r.Appends)-1].Index})
		}
	}
	if served < 4_900 || served > 5_008 {
		t.Errorf("%d callers were served, want a quarter of 20,000", served)
	}
}

func TestTimersStayBounded(t *testing.T) {
	m, h := newTestMachine(t, Config{Block: 1 << 20})
	for range 20_000 {
		id := begin(m)
		m.Step(Rollback{Req: 2, ID: id})
		h.ready()
		h.persist()
	}
	if len(m.timers) > 4096 || len(m.live) != 0 || len(m.recent.byID) > maxRecent {
		t.Errorf("%d timers, %d live, %d recent", len(m.timers), len(m.live), len(m.recent.byID))
	}
}

// TestManyEndsShareRecords: acknowledgements that come together are written together.
func TestManyEndsShareRecords(t *testing.T) {
	m, h := newTestMachine(t, Config{Block: 1 << 20})
	var ids []txn.ID
	for range maxEnds + 5 {
		id := begin(m, "a")
		m.Step(Commit{Request: txn.CommitRequest{ID: id, Votes: []txn.BranchVote{yes(1)}}})
		ids = append(ids, id)
	}
	h.ready()
	h.persist()
	h.ready()
	for _, id := range ids {
		m.Step(Finished{ID: id, Branch: 1, Act: ActCommit, Standing: txn.StandingCommitted})
	}
	r := m.Ready()
	if len(r.Appends) != 2 || len(r.Appends[0].Record.(EndRecord).IDs) != maxEnds ||
		r.Appends[0].Forced {
		t.Fatalf("%d appends", len(r.Appends))
	}
}

// TestTooManyBranches: the 65th branch is refused, and the transaction goes on with the 64 it has.
func TestTooManyBranches(t *testing.T) {
	m, h := newTestMachine(t, Config{})
	names := []string{}
	for i := range txn.MaxBranches + 1 {
		name := "r" + string(rune('A'+i/26)) + string(rune('a'+i%26))
		m.Step(Register{Name: name, Identity: txn.Identity{System: uint64(100 + i)}})
		names = append(names, name)
	}
	h.ready()
	h.persist()
	h.ready()
	id := begin(m, names[:txn.MaxBranches]...)
	m.Step(Begin{Req: 5, Request: txn.BeginRequest{ID: id, Resources: names[txn.MaxBranches:]}})
	if err := m.Ready().Replies[0].Err; txn.ReasonOf(err) != txn.ReasonTooMany {
		t.Errorf("error %v", err)
	}
	m.Step(Begin{Req: 6, Request: txn.BeginRequest{Resources: names}})
	if err := m.Ready().Replies[0].Err; txn.ReasonOf(err) != txn.ReasonTooMany {
		t.Errorf("error %v", err)
	}
	if got := m.live[id]; len(got.branches) != txn.MaxBranches {
		t.Errorf("%d branches", len(got.branches))
	}
}

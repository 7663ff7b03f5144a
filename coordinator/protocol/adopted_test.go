package protocol

import (
	"testing"

	"github.com/gavel-tx/gavel/txn"
)

// TestOnePhaseOfAnAdoptedLog: the log of a one-phase commit was adopted, and its coordinator may
// still run. The inquiry is on its behalf and fences nothing, so that a branch that is found
// prepared may yet commit: it is left. What its resource proves is taken.
func TestOnePhaseOfAnAdoptedLog(t *testing.T) {
	old := txn.NewID(0xdef, 5)
	for _, c := range []struct {
		standing txn.Standing
		want     string
	}{
		{txn.StandingPrepared, "note ALARM 5.1: its one-phase commit is held: found\n"},
		{txn.StandingUnknown, ""},
		{txn.StandingCommitted, "force COMMIT 5 {1@1 xid 0}\n"},
		{txn.StandingRolledBack, "force ABORT 5\n"},
		{txn.StandingGone, "force HEURISTIC 5.1 HEURISTIC_HAZARD: found\n"},
	} {
		s := NewState(testLog)
		mustApply(t, s, AdoptedRecord{Log: 0xdef, Epoch: 3, LSN: 9},
			ResourceRecord{RM: 1, Name: "a"},
			OnePhaseRecord{ID: old, Branch: CommitBranch{Branch: 1, RM: 1}})
		h := &history{t: t, m: New(s, Config{}, 0)}
		if got, want := h.ready(), "force RANGE [1, 1025)\nsend a INQUIRE 5.1\n"; got != want {
			t.Fatalf("%q, want %q", got, want)
		}
		h.m.Step(Finished{ID: old, Branch: 1, Act: ActInquire, Standing: c.standing,
			Reason: "found"})
		if got := h.ready(); got != c.want {
			t.Errorf("%s: %q, want %q", c.standing, got, c.want)
		}
	}
}

// TestDelegateOfAnAdoptedLog: a marker that is there decides, whoever asks. One that is not may
// have been removed by the coordinator of the log that was adopted, after it had ended the
// transaction: then a person has to look.
func TestDelegateOfAnAdoptedLog(t *testing.T) {
	old := txn.NewID(0xdef, 5)
	for standing, want := range map[txn.Standing]string{
		txn.StandingUnknown:   "",
		txn.StandingForeign:   "note ALARM 5.2: its decision is held: FOREIGN: found\n",
		txn.StandingCommitted: "lazy COMMIT 5 {1@1 xid 7}\nsend a COMMIT 5.1 xid 7\n",
		txn.StandingRolledBack: "force HEURISTIC 5.2 HEURISTIC_HAZARD: its log was adopted, and " +
			"may have ended it, and removed its marker, after it was copied; found\n",
	} {
		s := NewState(testLog)
		mustApply(t, s, AdoptedRecord{Log: 0xdef, Epoch: 3, LSN: 9},
			ResourceRecord{RM: 1, Name: "a"}, ResourceRecord{RM: 2, Name: "b"},
			DelegateRecord{ID: old, Branches: []CommitBranch{{Branch: 2, RM: 2},
				{Branch: 1, RM: 1}}})
		h := &history{t: t, m: New(s, Config{}, 0)}
		if got, want := h.ready(), "force RANGE [1, 1025)\nsend b DECIDE 5.2\n"; got != want {
			t.Fatalf("%q, want %q", got, want)
		}
		h.m.Step(Finished{ID: old, Branch: 2, Act: ActDecide, Standing: standing,
			Reason: "found", Votes: []txn.BranchVote{{Branch: 1, Vote: txn.VoteYes,
				Evidence: txn.Evidence{XID: 7}}}})
		if got := h.ready(); got != want {
			t.Errorf("%s: %q, want %q", standing, got, want)
		}
	}
}

package txn

import (
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func drawVote(t *rapid.T) BranchVote {
	v := BranchVote{Branch: BranchNo(rapid.IntRange(1, MaxBranches).Draw(t, "branch")),
		Vote: VoteReadOnly}
	if rapid.Bool().Draw(t, "writer") {
		v.Vote = VoteYes
		v.Evidence = Evidence{
			Identity: Identity{rapid.Uint64().Draw(t, "system"), rapid.Uint32().Draw(t, "db")},
			Position: Position{rapid.Uint32().Draw(t, "timeline"), rapid.Uint64().Draw(t, "lsn")},
			XID:      rapid.Uint64().Draw(t, "xid"),
		}
	}
	return v
}

// TestDecisionRoundTrip: what a marker holds is read back as it was, and nothing else is read.
func TestDecisionRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		votes := rapid.SliceOfN(rapid.Custom(drawVote), 0, MaxBranches).Draw(t, "votes")
		b := AppendDecision(nil, votes)
		if len(b) > 3+50*len(votes) {
			t.Fatalf("%d bytes for %d votes", len(b), len(votes))
		}
		got, err := ParseDecision(b)
		if err != nil || !cmp.Equal(got, votes) {
			t.Fatalf("%v\n%s", err, cmp.Diff(votes, got))
		}
		cut := rapid.IntRange(0, len(b)-1).Draw(t, "cut")
		for _, wrong := range [][]byte{b[:cut], append(b, 0)} {
			if _, err := ParseDecision(wrong); !errors.Is(err, ErrDecision) {
				t.Fatalf("%x: %v", wrong, err)
			}
		}
	})
}

// TestDecisionRefuses: what nobody writes is no decision.
func TestDecisionRefuses(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":            nil,
		"a newer version":    {2, 0},
		"too many votes":     {1, MaxBranches + 1},
		"a No":               {1, 1, 1, byte(VoteNo), 0, 0, 0, 0, 0},
		"a vote of nobody":   {1, 1, 0, byte(VoteYes), 0, 0, 0, 0, 0},
		"a branch too many":  {1, 1, MaxBranches + 1, byte(VoteYes), 0, 0, 0, 0, 0},
		"a database too big": {1, 1, 1, byte(VoteYes), 0, 255, 255, 255, 255, 255, 1, 0, 0, 0},
	} {
		if _, err := ParseDecision(b); !errors.Is(err, ErrDecision) {
			t.Errorf("%s: %v", name, err)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("a No was taken for a decision to commit")
		}
	}()
	AppendDecision(nil, []BranchVote{{Branch: 1, Vote: VoteNo}})
}

// FuzzDecision: whatever is read is what would be written, number by number.
func FuzzDecision(f *testing.F) {
	f.Add(AppendDecision(nil, nil))
	f.Add(AppendDecision(nil, []BranchVote{{Branch: 64, Vote: VoteYes, Evidence: Evidence{
		Identity: Identity{math.MaxUint64, math.MaxUint32},
		Position: Position{math.MaxUint32, math.MaxUint64}, XID: math.MaxUint64}},
		{Branch: 1, Vote: VoteReadOnly}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		votes, err := ParseDecision(b)
		if err != nil {
			return
		}
		again, err := ParseDecision(AppendDecision(nil, votes))
		if err != nil || !cmp.Equal(again, votes) {
			t.Fatalf("%v: %v, then %v", err, votes, again)
		}
	})
}

package txn

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func someVotes() []BranchVote {
	return []BranchVote{
		{Branch: 2, Vote: VoteYes, Evidence: Evidence{
			Identity: Identity{System: 1<<64 - 1, Database: 1<<32 - 1},
			Position: Position{Timeline: 3, LSN: 1 << 60}, XID: 1 << 50,
		}},
		{Branch: 1, Vote: VoteReadOnly},
		{Branch: 64, Vote: VoteNo, Reason: "bank_b: zu wenig Geld für Böb", SQLState: "23514"},
		{Branch: 7, Reason: "the connection was lost"},
	}
}

func TestVotesComeBack(t *testing.T) {
	for _, votes := range [][]BranchVote{{}, someVotes()} {
		got, err := ParseVotes(AppendVotes(nil, votesOf, votes), votesOf)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(votes, got); diff != "" {
			t.Error(diff)
		}
	}
}

// The longest votes of all branches fit into what their reader takes; reasons are left out for it.
func TestVotesAreBounded(t *testing.T) {
	var votes []BranchVote
	for i := range MaxBranches {
		votes = append(votes, BranchVote{
			Branch: BranchNo(i + 1), Vote: VoteNo, SQLState: "23514 and more",
			Reason: strings.Repeat("ä", MaxReasonLen),
			Evidence: Evidence{
				Identity: Identity{System: 1<<64 - 1, Database: 1<<32 - 1},
				Position: Position{Timeline: 1<<32 - 1, LSN: 1<<64 - 1}, XID: 1<<64 - 1,
			},
		})
	}
	b := AppendVotes(nil, votesOf, votes)
	got, err := ParseVotes(b, votesOf)
	if err != nil || len(got) != MaxBranches {
		t.Fatalf("%d bytes: %d votes, %v", len(b), len(got), err)
	}
	if len(got[0].Reason) != MaxReasonLen || got[63].Reason != "" {
		t.Errorf("reasons of %d and %d bytes", len(got[0].Reason), len(got[63].Reason))
	}
	if got[63].SQLState != "23514" || got[63].Evidence != votes[63].Evidence {
		t.Errorf("the last vote is %+v", got[63])
	}
}

func TestWhatIsNoVotes(t *testing.T) {
	whole := AppendVotes(nil, votesOf, someVotes())
	for n := range whole {
		if _, err := ParseVotes(whole[:n], votesOf); !errors.Is(err, ErrVotes) {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
	for name, b := range map[string][]byte{
		"another version":        append([]byte{2}, whole[1:]...),
		"bytes behind":           append(append([]byte{}, whole...), 0),
		"too long":               make([]byte, MaxVotesLen+1),
		"too many":               {1, MaxBranches + 1},
		"twice":                  AppendVotes(nil, votesOf, []BranchVote{{Branch: 1}, {Branch: 1}}),
		"no branch":              AppendVotes(nil, votesOf, []BranchVote{{}}),
		"a vote that decides":    one(VoteCommitted),
		"a vote of another kind": one(77),
	} {
		if votes, err := ParseVotes(b, votesOf); !errors.Is(err, ErrVotes) {
			t.Errorf("%s: %v, %v", name, votes, err)
		}
	}
}

func one(v Vote) []byte { return AppendVotes(nil, votesOf, []BranchVote{{Branch: 1, Vote: v}}) }

func TestTooManyVotesAreABrokenInvariant(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	AppendVotes(nil, votesOf, make([]BranchVote, MaxBranches+1))
}

func FuzzVotes(f *testing.F) {
	f.Add(AppendVotes(nil, votesOf, someVotes()))
	f.Fuzz(func(t *testing.T, b []byte) {
		votes, err := ParseVotes(b, votesOf)
		if err != nil {
			return
		}
		again, err := ParseVotes(AppendVotes(nil, votesOf, votes), votesOf)
		if err != nil || len(again) != len(votes) {
			t.Errorf("%d votes, and then %d: %v", len(votes), len(again), err)
		}
	})
}

// votesOf is the transaction of all votes here.
var votesOf = NewID(7, 42)

// TestVotesOfAnotherTransaction are none.
func TestVotesOfAnotherTransaction(t *testing.T) {
	b := AppendVotes(nil, votesOf, someVotes())
	if votes, err := ParseVotes(b, NewID(7, 43)); !errors.Is(err, ErrVotes) {
		t.Errorf("%+v, %v", votes, err)
	}
}

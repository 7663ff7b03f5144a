package remote

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/txn"
)

func two() txn.Result {
	return txn.Result{ID: testID(), Branches: []txn.BranchStatus{
		{Branch: 1, Resource: "bank_a", Name: txn.NameOf(testID(), 1)},
		{Branch: 2, Resource: "bank_b", Name: txn.NameOf(testID(), 2)},
	}}
}

func somewhere() txn.Evidence {
	return txn.Evidence{Identity: txn.Identity{System: 7, Database: 8},
		Position: txn.Position{Timeline: 1, LSN: 99}}
}

// TestDelegate: what a client asks for arrives, and so does what the coordinator agrees to, in a
// begin and in an enlistment.
func TestDelegate(t *testing.T) {
	for _, agreed := range []txn.BranchNo{0, 2} {
		run(t, []line{{result: two()}}, func(t *testing.T, c *Client, s *scripted) {
			s.delegate = uint32(agreed)
			if agreed != 0 {
				s.at = somewhere()
			}
			want := txn.Begun{ID: testID(), Delegate: agreed, Branches: []txn.Enlisted{
				{Branch: 1, Resource: "bank_a", Name: txn.NameOf(testID(), 1), At: s.at},
				{Branch: 2, Resource: "bank_b", Name: txn.NameOf(testID(), 2), At: s.at},
			}}
			all := []string{"bank_a", "bank_b"}
			begun, err := c.Begin(t.Context(),
				txn.BeginRequest{Resources: all, Delegate: "bank_b"})
			if diff := cmp.Diff(want, begun); err != nil || diff != "" {
				t.Errorf("%v\n%s", err, diff)
			}
			if s.begin.GetDelegate() != "bank_b" {
				t.Errorf("sent %v", s.begin)
			}
			enlisted, err := c.Begin(t.Context(), txn.BeginRequest{ID: testID(), Resources: all})
			if diff := cmp.Diff(want, enlisted); err != nil || diff != "" {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
}

// TestDelegateOfAnotherTransaction: a client that took such an answer for one without a delegate
// would prepare what nobody commits then.
func TestDelegateOfAnotherTransaction(t *testing.T) {
	for _, no := range []uint32{3, 1<<16 + 2} {
		run(t, []line{{result: two()}}, func(t *testing.T, c *Client, s *scripted) {
			s.delegate = no
			for _, id := range []txn.ID{{}, testID()} {
				begun, err := c.Begin(t.Context(),
					txn.BeginRequest{ID: id, Resources: []string{"bank_a"}})
				if err == nil || begun.Delegate != 0 || begun.Branches != nil {
					t.Errorf("branch %d: %+v, %v", no, begun, err)
				}
			}
			if s.calls != 2 {
				t.Errorf("%d calls", s.calls)
			}
		})
	}
}

// TestCommitOfTheDelegate is the table of what a Commit makes of what it hears once the delegate
// has committed: nothing but an outcome ends the question.
func TestCommitOfTheDelegate(t *testing.T) {
	votes := []txn.BranchVote{
		{Branch: 1, Vote: txn.VoteYes, Evidence: somewhere()},
		{Branch: 2, Vote: txn.VoteCommitted, Evidence: somewhere()},
	}
	for name, c := range map[string]struct {
		lines []line
		want  string
		calls int
	}{
		"committed":              {[]line{{result: committed()}}, "COMMITTED", 1},
		"lost, then committed":   {[]line{{err: lost()}, {result: committed()}}, "COMMITTED", 2},
		"its marker is lost":     {[]line{{err: outcome(rolledBack())}}, "ROLLED_BACK", 1},
		"refused as rolled back": {[]line{{err: refuse(txn.ReasonRolledBack)}}, "refused", 1},
		"not found":              {[]line{{err: refuse(txn.ReasonNotFound)}}, "open", 1},
		"invalid":                {[]line{{err: refuse(txn.ReasonInvalid)}}, "open", 1},
		"closed":                 {[]line{{err: refuse(txn.ReasonClosed)}}, "open", 1},
		"overloaded, then committed": {
			[]line{{err: refuse(txn.ReasonOverloaded)}, {result: committed()}}, "COMMITTED", 2},
		"lost, then not found": {
			[]line{{err: lost()}, {err: refuse(txn.ReasonNotFound)}}, "open", 2},
		"no such service": {[]line{{err: status.Error(codes.Unimplemented, "")}}, "open", 1},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, c.lines, func(t *testing.T, client *Client, s *scripted) {
				got := heard(client.Commit(t.Context(),
					txn.CommitRequest{ID: testID(), Votes: votes}))
				if got != c.want || s.calls != c.calls {
					t.Errorf("%s after %d calls, want %s after %d", got, s.calls, c.want, c.calls)
				}
				sent := s.commit.GetVotes()
				if len(sent) != 2 || sent[1].GetVote() != gavelv1.Vote_VOTE_COMMITTED {
					t.Errorf("sent %v", sent)
				}
			})
		})
	}
}

// TestCommitOfTheDelegateIsNotSent: the transaction is committed all the same, as far as anybody
// here knows; and so it is open when the time is over.
func TestCommitOfTheDelegateIsNotSent(t *testing.T) {
	r := txn.CommitRequest{ID: testID(), Votes: []txn.BranchVote{
		{Branch: 2, Vote: txn.VoteCommitted},
	}}
	run(t, []line{{err: refuse(txn.ReasonOverloaded)}},
		func(t *testing.T, c *Client, s *scripted) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := c.Commit(ctx, r)
			if !errors.Is(err, txn.ErrUnknown) || !errors.Is(err, context.Canceled) ||
				s.calls != 0 {
				t.Errorf("%d calls: %v", s.calls, err)
			}
			ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			_, err = c.Commit(ctx, r)
			if !errors.Is(err, txn.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v", err)
			}
		})
}

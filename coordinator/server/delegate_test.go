package server

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/txn"
)

func somewhere() txn.Evidence {
	return txn.Evidence{Identity: txn.Identity{System: 7, Database: 8},
		Position: txn.Position{Timeline: 1, LSN: 99}, XID: 5}
}

// TestDelegate: whom a client would leave the decision to reaches the coordinator, and what that
// agrees to reaches the client, in a begin and in an enlistment.
func TestDelegate(t *testing.T) { eachWay(t, testDelegate) }

func testDelegate(t *testing.T, connect connector) {
	for _, agreed := range []txn.BranchNo{0, 2} {
		branches := []txn.Enlisted{
			{Branch: 1, Resource: "a", Name: txn.NameOf(testID(), 1)},
			{Branch: 2, Resource: "b", Name: txn.NameOf(testID(), 2), At: somewhere()},
		}
		var got txn.BeginRequest
		client := connect(t, &fake{begin: func(r txn.BeginRequest) (txn.Begun, error) {
			got = r
			return txn.Begun{ID: testID(), Delegate: agreed, Branches: branches,
				Timeout: time.Second}, nil
		}}, Options{})
		begun, err := client.BeginTransaction(t.Context(), &gavelv1.BeginTransactionRequest{
			Resources: []string{"a", "b"}, Delegate: "b",
		})
		if err != nil || got.Delegate != "b" {
			t.Errorf("asked %+v: %v", got, err)
		}
		heardDelegate(t, begun.GetDelegate(), begun.GetBranches(), agreed, branches)
		enlisted, err := client.EnlistBranch(t.Context(), &gavelv1.EnlistBranchRequest{
			TransactionId: testID().String(), Resources: []string{"c"}, Delegate: "b",
		})
		if err != nil || got.Delegate != "b" {
			t.Errorf("asked %+v: %v", got, err)
		}
		heardDelegate(t, enlisted.GetDelegate(), enlisted.GetBranches(), agreed, branches)
	}
}

func heardDelegate(
	t *testing.T, no uint32, branches []*gavelv1.Branch, agreed txn.BranchNo, want []txn.Enlisted,
) {
	t.Helper()
	got, err := wire.DecodeEnlisted(branches)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if no != uint32(agreed) {
		t.Errorf("the delegate is branch %d, want %d", no, agreed)
	}
}

// TestDelegateCommitted: the votes arrive as they are, and whether they can be is the
// coordinator's to say.
func TestDelegateCommitted(t *testing.T) { eachWay(t, testDelegateCommitted) }

func testDelegateCommitted(t *testing.T, connect connector) {
	votes := []txn.BranchVote{
		{Branch: 1, Vote: txn.VoteYes, Evidence: somewhere()},
		{Branch: 2, Vote: txn.VoteCommitted, Evidence: somewhere()},
		{Branch: 3, Vote: txn.VoteReadOnly},
	}
	var got txn.CommitRequest
	var fault error
	client := connect(t, &fake{commit: func(r txn.CommitRequest) (txn.Result, error) {
		got = r
		result := committed()
		result.Plan = txn.PlanDelegate
		return result, fault
	}}, Options{})
	request := &gavelv1.CommitTransactionRequest{
		TransactionId: testID().String(), Votes: wire.EncodeBranchVotes(votes),
	}
	answer, err := client.CommitTransaction(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(txn.CommitRequest{ID: testID(), Votes: votes}, got); diff != "" {
		t.Error(diff)
	}
	if p := answer.GetTransaction().GetPlan(); p != gavelv1.Plan_PLAN_DELEGATE {
		t.Errorf("the plan is %v", p)
	}
	fault = txn.Refusef(txn.ReasonInvalid, "votes", "branch 2 must not vote COMMITTED")
	_, err = client.CommitTransaction(t.Context(), request)
	refused(t, "the vote of another branch", err, txn.ReasonInvalid, "votes")
}

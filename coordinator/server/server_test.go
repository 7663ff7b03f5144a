package server

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/proto/wire/transport"
	"github.com/gavel-tx/gavel/txn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testID() txn.ID { return txn.NewID(0x123456789abcdef, 42) }

// fake is a coordinator that answers what the test says and remembers what it was asked.
type fake struct {
	begin    func(txn.BeginRequest) (txn.Begun, error)
	commit   func(txn.CommitRequest) (txn.Result, error)
	rollback func(txn.ID, string) (txn.Result, error)
	outcome  func(txn.ID) (txn.Result, error)
	list     func(txn.ListRequest) ([]txn.Result, error)
}

func (f *fake) Begin(_ context.Context, r txn.BeginRequest) (txn.Begun, error) { return f.begin(r) }

func (f *fake) Commit(_ context.Context, r txn.CommitRequest) (txn.Result, error) {
	return f.commit(r)
}

func (f *fake) Rollback(_ context.Context, id txn.ID, reason string) (txn.Result, error) {
	return f.rollback(id, reason)
}

func (f *fake) Outcome(_ context.Context, id txn.ID) (txn.Result, error) { return f.outcome(id) }

func (f *fake) List(_ context.Context, r txn.ListRequest) ([]txn.Result, error) { return f.list(r) }

// alone serves c over an in-memory connection, to calls by themselves.
func alone(t *testing.T, c Coordinator, o Options) gavelv1.TransactionServiceClient {
	t.Helper()
	client, _ := serve(t, c, o)
	return client
}

// serve serves c over an in-memory connection.
func serve(
	t *testing.T, c Coordinator, o Options,
) (gavelv1.TransactionServiceClient, *running) {
	t.Helper()
	plain := insecure.NewCredentials()
	g := grpc.NewServer(transport.ServerOptions(transport.Limits{}, plain, nil)...)
	r := &running{Server: New(c, o), grpc: g}
	r.Register(g)
	lis := bufconn.Listen(1 << 20)
	done := make(chan error, 1)
	go func() { done <- g.Serve(lis) }()
	dialer := func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }
	conn, err := grpc.NewClient("passthrough:///bufconn",
		append(transport.DialOptions(plain), grpc.WithContextDialer(dialer))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return gavelv1.NewTransactionServiceClient(conn), r
}

// running is a server with what serves it.
type running struct {
	*Server
	grpc *grpc.Server
}

func committed() txn.Result {
	return txn.Result{
		ID: testID(), State: txn.StateCommitting, Outcome: txn.OutcomeCommitted,
		Plan: txn.PlanClassic,
		Branches: []txn.BranchStatus{
			{Branch: 1, Resource: "bank_a", Name: txn.NameOf(testID(), 1),
				State: txn.BranchCommitted},
			{Branch: 2, Resource: "bank_b", Name: txn.NameOf(testID(), 2),
				State: txn.BranchPrepared},
		},
	}
}

func TestBegin(t *testing.T) { eachWay(t, testBegin) }

func testBegin(t *testing.T, connect connector) {
	var got txn.BeginRequest
	existing := committed()
	f := &fake{begin: func(r txn.BeginRequest) (txn.Begun, error) {
		got = r
		return txn.Begun{
			ID:       testID(),
			Branches: []txn.Enlisted{{Branch: 1, Resource: "a", Name: txn.NameOf(testID(), 1)}},
			Timeout:  7 * time.Second, Existing: &existing,
		}, nil
	}}
	answer, err := connect(t, f, Options{}).BeginTransaction(t.Context(),
		&gavelv1.BeginTransactionRequest{
			Resources: []string{"bank_a", "b.2-x"}, Timeout: durationpb.New(5 * time.Second),
			Label: "transfer für alle", IdempotencyKey: "order-42", Body: []byte("body"),
		})
	if err != nil {
		t.Fatal(err)
	}
	want := txn.BeginRequest{Resources: []string{"bank_a", "b.2-x"}, Timeout: 5 * time.Second,
		Label: "transfer für alle", Key: "order-42", Body: []byte("body")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if answer.GetTransactionId() != testID().String() || len(answer.GetBranches()) != 1 ||
		answer.GetTimeout().AsDuration() != 7*time.Second ||
		answer.GetExisting().GetOutcome() != gavelv1.Outcome_OUTCOME_COMMITTED {
		t.Errorf("answered %v", answer)
	}
}

func TestEnlist(t *testing.T) { eachWay(t, testEnlist) }

func testEnlist(t *testing.T, connect connector) {
	var got txn.BeginRequest
	f := &fake{begin: func(r txn.BeginRequest) (txn.Begun, error) {
		got = r
		return txn.Begun{ID: r.ID, Timeout: time.Second, Branches: []txn.Enlisted{
			{Branch: 1, Resource: "a", Name: txn.NameOf(r.ID, 1)},
			{Branch: 2, Resource: "b", Name: txn.NameOf(r.ID, 2)},
		}}, nil
	}}
	answer, err := connect(t, f, Options{}).EnlistBranch(t.Context(), &gavelv1.EnlistBranchRequest{
		TransactionId: testID().String(), Resources: []string{"b"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != testID() || len(got.Resources) != 1 || len(answer.GetBranches()) != 2 ||
		answer.GetBranches()[1].GetPreparedName() != txn.NameOf(testID(), 2).String() {
		t.Errorf("asked %+v, answered %v", got, answer)
	}
}

func TestCommitted(t *testing.T) { eachWay(t, testCommitted) }

func testCommitted(t *testing.T, connect connector) {
	var got txn.CommitRequest
	f := &fake{commit: func(r txn.CommitRequest) (txn.Result, error) {
		got = r
		return committed(), nil
	}}
	answer, err := connect(t, f, Options{}).CommitTransaction(t.Context(),
		&gavelv1.CommitTransactionRequest{
			TransactionId: testID().String(), AckLevel: gavelv1.AckLevel_ACK_LEVEL_DECIDED,
			Wait: durationpb.New(time.Second), Plan: gavelv1.Plan_PLAN_CLASSIC,
			Votes: []*gavelv1.BranchVote{
				{Branch: 1, Vote: gavelv1.Vote_VOTE_YES, Evidence: &gavelv1.Evidence{Xid: 9}},
				{Branch: 2, Vote: gavelv1.Vote_VOTE_NO, Sqlstate: "40001",
					Reason: strings.Repeat("ä", txn.MaxReasonLen)},
			},
		})
	if err != nil {
		t.Fatal(err)
	}
	want := txn.CommitRequest{ID: testID(), Ack: txn.AckDecided, Wait: time.Second,
		Plan: txn.PlanClassic,
		Votes: []txn.BranchVote{
			{Branch: 1, Vote: txn.VoteYes, Evidence: txn.Evidence{XID: 9}},
			{Branch: 2, Vote: txn.VoteNo, SQLState: "40001",
				Reason: strings.Repeat("ä", txn.MaxReasonLen/2)},
		}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"bank_b"}, answer.GetPendingResources()); diff != "" {
		t.Error(diff)
	}
}

// TestIntent: an intent is answered with OK, whatever is known of the outcome.
func TestIntent(t *testing.T) { eachWay(t, testIntent) }

func testIntent(t *testing.T, connect connector) {
	f := &fake{commit: func(r txn.CommitRequest) (txn.Result, error) {
		return txn.Result{ID: r.ID, State: txn.StatePreparing, Plan: txn.PlanParallel},
			map[bool]error{false: errors.New("no intent")}[r.Intent]
	}}
	client := connect(t, f, Options{})
	answer, err := client.CommitTransaction(t.Context(),
		&gavelv1.CommitTransactionRequest{TransactionId: testID().String(), Intent: true})
	if err != nil || answer.GetTransaction().GetPlan() != gavelv1.Plan_PLAN_PARALLEL ||
		answer.GetTransaction().GetOutcome() != gavelv1.Outcome_OUTCOME_UNKNOWN {
		t.Errorf("%v, %v", answer, err)
	}
	_, err = client.CommitTransaction(t.Context(),
		&gavelv1.CommitTransactionRequest{TransactionId: testID().String(), Plan: 77})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("an unknown plan: %v", err)
	}
}

// TestCommitAnswers is the table of what a commit can end in. OK is for committed alone, ABORTED
// for rolled back alone.
func TestCommitAnswers(t *testing.T) { eachWay(t, testCommitAnswers) }

func testCommitAnswers(t *testing.T, connect connector) {
	cases := []struct {
		name   string
		result txn.Result
		err    error
		code   codes.Code
		reason string
	}{
		{"committed", txn.Result{Outcome: txn.OutcomeCommitted}, nil, codes.OK, ""},
		{"voted no", txn.Result{Outcome: txn.OutcomeRolledBack, Cause: txn.CauseVotedNo}, nil,
			codes.Aborted, "PARTICIPANT_VOTED_NO"},
		{"expired", txn.Result{Outcome: txn.OutcomeRolledBack, Cause: txn.CauseExpired}, nil,
			codes.Aborted, "TRANSACTION_EXPIRED"},
		{"rolled back, no cause", txn.Result{Outcome: txn.OutcomeRolledBack}, nil,
			codes.Aborted, "ROLLED_BACK"},
		{"deciding", txn.Result{State: txn.StateDeciding}, nil,
			codes.Unavailable, wire.ReasonOutcomeUnknown},
		{"in doubt", txn.Result{State: txn.StateInDoubt}, nil,
			codes.Unavailable, wire.ReasonOutcomeUnknown},
		{"mixed", txn.Result{Outcome: txn.OutcomeHeuristicMixed}, nil,
			codes.DataLoss, wire.ReasonHeuristic},
		{"hazard", txn.Result{Outcome: txn.OutcomeHeuristicHazard}, nil,
			codes.DataLoss, wire.ReasonHeuristic},
		{"forgotten", txn.Result{Outcome: txn.OutcomeForgotten}, nil,
			codes.NotFound, "OUTCOME_FORGOTTEN"},
		{"log failed", txn.Result{}, errors.New("fdatasync: input/output error"),
			codes.Internal, wire.ReasonOutcomeUnknown},
		{"unknown", txn.Result{}, txn.ErrUnknown, codes.Unavailable, wire.ReasonOutcomeUnknown},
		{"deadline", txn.Result{}, context.DeadlineExceeded,
			codes.DeadlineExceeded, wire.ReasonOutcomeUnknown},
		{"refused", txn.Result{}, txn.Refusef(txn.ReasonNotFound, "transaction_id", "no such"),
			codes.NotFound, "TRANSACTION_NOT_FOUND"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.result.ID = testID()
			f := &fake{commit: func(txn.CommitRequest) (txn.Result, error) {
				return c.result,
					c.err
			}}
			answer, err := connect(t, f, Options{}).CommitTransaction(t.Context(),
				&gavelv1.CommitTransactionRequest{TransactionId: testID().String()})
			if status.Code(err) != c.code || wire.ReasonOf(err) != c.reason {
				t.Errorf("%v with reason %q", err, wire.ReasonOf(err))
			}
			if c.code == codes.OK && answer.GetTransaction() == nil {
				t.Error("no transaction in the answer")
			}
		})
	}
}

func TestRollbackAnswers(t *testing.T) { eachWay(t, testRollbackAnswers) }

func testRollbackAnswers(t *testing.T, connect connector) {
	cases := []struct {
		name   string
		result txn.Result
		err    error
		code   codes.Code
		reason string
	}{
		{"rolled back", txn.Result{Outcome: txn.OutcomeRolledBack, Cause: txn.CauseClient}, nil,
			codes.OK, ""},
		{"committed", committed(), nil, codes.FailedPrecondition, "ALREADY_COMMITTED"},
		{"deciding", txn.Result{State: txn.StateDeciding}, nil,
			codes.Unavailable, wire.ReasonOutcomeUnknown},
		{"hazard", txn.Result{Outcome: txn.OutcomeHeuristicHazard}, nil,
			codes.DataLoss, wire.ReasonHeuristic},
		{"refused", txn.Result{}, txn.Refusef(txn.ReasonAlreadyDecided, "", "it is committed"),
			codes.FailedPrecondition, "ALREADY_COMMITTED"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.result.ID = testID()
			f := &fake{rollback: func(_ txn.ID, reason string) (txn.Result, error) {
				if len(reason) > txn.MaxReasonLen {
					t.Errorf("a reason of %d bytes got through", len(reason))
				}
				return c.result, c.err
			}}
			_, err := connect(t, f, Options{}).RollbackTransaction(t.Context(),
				&gavelv1.RollbackTransactionRequest{
					TransactionId: testID().String(), Reason: strings.Repeat("x", 9999),
				})
			if status.Code(err) != c.code || wire.ReasonOf(err) != c.reason {
				t.Errorf("%v with reason %q", err, wire.ReasonOf(err))
			}
		})
	}
}

// TestGetAnswersOK: asking is no commit, so every outcome is an answer.
func TestGetAnswersOK(t *testing.T) { eachWay(t, testGetAnswersOK) }

func testGetAnswersOK(t *testing.T, connect connector) {
	for o := txn.OutcomeUnknown; o <= txn.OutcomeForgotten; o++ {
		f := &fake{outcome: func(id txn.ID) (txn.Result, error) {
			return txn.Result{ID: id, Outcome: o}, nil
		}}
		answer, err := connect(t, f, Options{}).GetTransaction(t.Context(),
			&gavelv1.GetTransactionRequest{TransactionId: testID().String()})
		if err != nil {
			t.Fatal(err)
		}
		if r, err := wire.DecodeResult(answer.GetTransaction()); err != nil || r.Outcome != o {
			t.Errorf("%v came as %+v, %v", o, r, err)
		}
	}
	f := &fake{outcome: func(txn.ID) (txn.Result, error) {
		return txn.Result{}, txn.Refusef(txn.ReasonForeign, "transaction_id", "of another log")
	}}
	_, err := connect(t, f, Options{}).GetTransaction(t.Context(),
		&gavelv1.GetTransactionRequest{TransactionId: testID().String()})
	if status.Code(err) != codes.FailedPrecondition {
		t.Error(err)
	}
}

func TestListPages(t *testing.T) {
	var asked []txn.ListRequest
	const total = 5
	f := &fake{list: func(r txn.ListRequest) ([]txn.Result, error) {
		asked = append(asked, r)
		var out []txn.Result
		var from txn.Seq
		if !r.After.IsZero() {
			from = r.After.Seq()
		}
		for seq := from + 1; seq <= total && len(out) < r.Limit; seq++ {
			out = append(out, txn.Result{ID: txn.NewID(testID().Log(), seq)})
		}
		return out, nil
	}}
	client := alone(t, f, Options{})
	req := &gavelv1.ListTransactionsRequest{
		PageSize: 2, OlderThan: durationpb.New(time.Minute),
		States: []gavelv1.TransactionState{gavelv1.TransactionState_TRANSACTION_STATE_IN_DOUBT},
	}
	var seen []string
	for {
		answer, err := client.ListTransactions(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, tx := range answer.GetTransactions() {
			seen = append(seen, tx.GetTransactionId())
		}
		if req.PageToken = answer.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	if len(seen) != total || len(asked) != 3 {
		t.Errorf("saw %v in %d pages", seen, len(asked))
	}
	want := txn.ListRequest{States: []txn.State{txn.StateInDoubt}, OlderThan: time.Minute, Limit: 2}
	if diff := cmp.Diff(want, asked[0]); diff != "" {
		t.Error(diff)
	}
	if _, err := client.ListTransactions(t.Context(),
		&gavelv1.ListTransactionsRequest{}); err != nil {
		t.Fatal(err)
	}
	if last := asked[len(asked)-1]; last.Limit != txn.DefaultListLimit {
		t.Errorf("default page size %d", last.Limit)
	}
}

func TestCoordinatorErrorsPass(t *testing.T) { eachWay(t, testCoordinatorErrorsPass) }

func testCoordinatorErrorsPass(t *testing.T, connect connector) {
	busy := txn.Refusef(txn.ReasonOverloaded, "", "100000 transactions run")
	f := &fake{
		begin: func(txn.BeginRequest) (txn.Begun, error) { return txn.Begun{}, busy },
		list:  func(txn.ListRequest) ([]txn.Result, error) { return nil, busy },
	}
	client := connect(t, f, Options{})
	_, beginErr := client.BeginTransaction(t.Context(), &gavelv1.BeginTransactionRequest{})
	_, enlistErr := client.EnlistBranch(t.Context(), &gavelv1.EnlistBranchRequest{
		TransactionId: testID().String(), Resources: []string{"a"},
	})
	_, listErr := client.ListTransactions(t.Context(), &gavelv1.ListTransactionsRequest{})
	for _, err := range []error{beginErr, enlistErr, listErr} {
		if status.Code(err) != codes.ResourceExhausted || wire.ReasonOf(err) != "OVERLOADED" {
			t.Error(err)
		}
	}
}

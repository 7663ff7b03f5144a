package server

import (
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/txn"
)

// refused checks that an error names the field and its reason and promises that nothing was
// changed. The fakes of these tests have no methods: a request that got through would panic.
func refused(t *testing.T, name string, err error, reason txn.Reason, field string) {
	t.Helper()
	got, ok := wire.TransactionError(err).(*txn.Refusal)
	if !ok || got.Reason != reason || got.Field != field {
		t.Errorf("%s: %v is not the refusal of %q", name, err, field)
		return
	}
	text := status.Convert(err).Message()
	if !strings.HasPrefix(text, field+": ") || !strings.Contains(text, "nothing was changed") {
		t.Errorf("%s: the text is %q", name, text)
	}
}

func seconds(n int64) *durationpb.Duration { return &durationpb.Duration{Seconds: n} }

func TestBeginIsChecked(t *testing.T) { eachWay(t, testBeginIsChecked) }

func testBeginIsChecked(t *testing.T, connect connector) {
	client := connect(t, &fake{}, Options{MaxTimeout: time.Hour})
	many := strings.Split(strings.Repeat("a ", txn.MaxBranches), " ")
	cases := []struct {
		name   string
		req    *gavelv1.BeginTransactionRequest
		reason txn.Reason
		field  string
	}{
		{"too many", &gavelv1.BeginTransactionRequest{Resources: many},
			txn.ReasonTooMany, "resources"},
		{"empty name", &gavelv1.BeginTransactionRequest{Resources: []string{"a", ""}},
			txn.ReasonInvalid, "resources[1]"},
		{"long name", &gavelv1.BeginTransactionRequest{Resources: []string{strings.Repeat("a",
			64)}},
			txn.ReasonInvalid, "resources[0]"},
		{"odd name", &gavelv1.BeginTransactionRequest{Resources: []string{"bank a"}},
			txn.ReasonInvalid, "resources[0]"},
		{"negative", &gavelv1.BeginTransactionRequest{Timeout: seconds(-1)},
			txn.ReasonInvalid, "timeout"},
		{"too long", &gavelv1.BeginTransactionRequest{Timeout: seconds(3601)},
			txn.ReasonInvalid, "timeout"},
		{"beyond all", &gavelv1.BeginTransactionRequest{Timeout: seconds(math.MaxInt64)},
			txn.ReasonInvalid, "timeout"},
		{"odd nanos", &gavelv1.BeginTransactionRequest{
			Timeout: &durationpb.Duration{Seconds: 1, Nanos: -1}}, txn.ReasonInvalid, "timeout"},
		{"label", &gavelv1.BeginTransactionRequest{Label: strings.Repeat("x", 129)},
			txn.ReasonInvalid, "label"},
		{"label of escapes", &gavelv1.BeginTransactionRequest{Label: "\x1b[2J"},
			txn.ReasonInvalid, "label"},
		{"label of lines", &gavelv1.BeginTransactionRequest{Label: "a\nb"},
			txn.ReasonInvalid, "label"},
		{"key", &gavelv1.BeginTransactionRequest{IdempotencyKey: strings.Repeat("k", 256)},
			txn.ReasonInvalid, "idempotency_key"},
		{"body", &gavelv1.BeginTransactionRequest{
			IdempotencyKey: "k", Body: make([]byte, MaxBodyLen+1)}, txn.ReasonInvalid, "body"},
		{"body without key", &gavelv1.BeginTransactionRequest{Body: []byte("x")},
			txn.ReasonInvalid, "body"},
		{"delegate of nothing", &gavelv1.BeginTransactionRequest{Delegate: "a"},
			txn.ReasonInvalid, "delegate"},
		{"another delegate", &gavelv1.BeginTransactionRequest{Resources: []string{"a", "b"},
			Delegate: "A"}, txn.ReasonInvalid, "delegate"},
		{"long delegate", &gavelv1.BeginTransactionRequest{Resources: []string{"a"},
			Delegate: strings.Repeat("a", 10_000)}, txn.ReasonInvalid, "delegate"},
	}
	for _, c := range cases {
		_, err := client.BeginTransaction(t.Context(), c.req)
		refused(t, c.name, err, c.reason, c.field)
	}
}

func TestLimitsAreReached(t *testing.T) { eachWay(t, testLimitsAreReached) }

func testLimitsAreReached(t *testing.T, connect connector) {
	f := &fake{begin: func(r txn.BeginRequest) (txn.Begun, error) {
		return txn.Begun{ID: testID()}, nil
	}}
	resources := make([]string, txn.MaxBranches)
	for i := range resources {
		resources[i] = strings.Repeat("r", txn.MaxResourceNameLen)
	}
	_, err := connect(t, f, Options{}).BeginTransaction(t.Context(),
		&gavelv1.BeginTransactionRequest{
			Resources: resources, Timeout: seconds(24 * 3600),
			Label:          strings.Repeat("l", txn.MaxLabelLen),
			IdempotencyKey: strings.Repeat("k", txn.MaxKeyLen), Body: make([]byte, MaxBodyLen),
		})
	if err != nil {
		t.Errorf("a request at every limit: %v", err)
	}
}

func TestIDsAreChecked(t *testing.T) { eachWay(t, testIDsAreChecked) }

func testIDsAreChecked(t *testing.T, connect connector) {
	client := connect(t, &fake{}, Options{})
	ids := map[string]string{
		"none": "", "text": "order-981", "version 4": "6d1b4e5a-3f0c-4c1e-9b1a-0123456789ab",
		"upper half": testID().String()[:18], "zero": "00000000-0000-8000-8000-000000000000",
		"urn": "urn:uuid:" + testID().String(), "long": strings.Repeat("a", 10_000),
	}
	for name, id := range ids {
		_, enlist := client.EnlistBranch(t.Context(),
			&gavelv1.EnlistBranchRequest{TransactionId: id})
		_, commit := client.CommitTransaction(t.Context(),
			&gavelv1.CommitTransactionRequest{TransactionId: id})
		_, rollback := client.RollbackTransaction(t.Context(),
			&gavelv1.RollbackTransactionRequest{TransactionId: id})
		_, get := client.GetTransaction(t.Context(),
			&gavelv1.GetTransactionRequest{TransactionId: id})
		for _, err := range []error{enlist, commit, rollback, get} {
			refused(t, name, err, txn.ReasonInvalid, "transaction_id")
		}
	}
}

func TestEnlistIsChecked(t *testing.T) { eachWay(t, testEnlistIsChecked) }

func testEnlistIsChecked(t *testing.T, connect connector) {
	client := connect(t, &fake{}, Options{})
	id := testID().String()
	_, err := client.EnlistBranch(t.Context(), &gavelv1.EnlistBranchRequest{TransactionId: id})
	refused(t, "none", err, txn.ReasonInvalid, "resources")
	_, err = client.EnlistBranch(t.Context(), &gavelv1.EnlistBranchRequest{
		TransactionId: id, Resources: []string{"ä"},
	})
	refused(t, "odd", err, txn.ReasonInvalid, "resources[0]")
	_, err = client.EnlistBranch(t.Context(), &gavelv1.EnlistBranchRequest{
		TransactionId: id, Resources: []string{"a"},
		Part: strings.Repeat("x", txn.MaxPartLen+1),
	})
	refused(t, "long part", err, txn.ReasonInvalid, "part")
}

func TestVotesAreChecked(t *testing.T) { eachWay(t, testVotesAreChecked) }

func testVotesAreChecked(t *testing.T, connect connector) {
	client := connect(t, &fake{}, Options{})
	yes := func(branch uint32) *gavelv1.BranchVote {
		return &gavelv1.BranchVote{Branch: branch, Vote: gavelv1.Vote_VOTE_YES}
	}
	var many []*gavelv1.BranchVote
	for i := range uint32(txn.MaxBranches + 1) {
		many = append(many, yes(i+1))
	}
	cases := []struct {
		name   string
		votes  []*gavelv1.BranchVote
		reason txn.Reason
		field  string
	}{
		{"too many", many, txn.ReasonTooMany, "votes"},
		{"branch 0", []*gavelv1.BranchVote{yes(0)}, txn.ReasonInvalid, "votes[0].branch"},
		{"branch 65537", []*gavelv1.BranchVote{yes(65537)}, txn.ReasonInvalid, "votes[0].branch"},
		{"twice", []*gavelv1.BranchVote{yes(1), yes(2), yes(1)}, txn.ReasonInvalid,
			"votes[2].branch"},
		{"no vote", []*gavelv1.BranchVote{{Branch: 1}}, txn.ReasonInvalid, "votes[0].vote"},
		{"vote 6", []*gavelv1.BranchVote{{Branch: 1, Vote: 6}}, txn.ReasonInvalid, "votes[0].vote"},
		{"vote 9", []*gavelv1.BranchVote{{Branch: 1, Vote: 9}}, txn.ReasonInvalid, "votes[0].vote"},
		{"sqlstate", []*gavelv1.BranchVote{{Branch: 1, Vote: 3, Sqlstate: "4000"}},
			txn.ReasonInvalid, "votes[0].sqlstate"},
		{"sqlstate of escapes", []*gavelv1.BranchVote{{Branch: 1, Vote: 3, Sqlstate: "\x1b[2Ja"}},
			txn.ReasonInvalid, "votes[0].sqlstate"},
	}
	for _, c := range cases {
		_, err := client.CommitTransaction(t.Context(), &gavelv1.CommitTransactionRequest{
			TransactionId: testID().String(), Votes: c.votes,
		})
		refused(t, c.name, err, c.reason, c.field)
	}
	_, err := client.CommitTransaction(t.Context(), &gavelv1.CommitTransactionRequest{
		TransactionId: testID().String(), Wait: seconds(-1),
	})
	refused(t, "wait", err, txn.ReasonInvalid, "wait")
	_, err = client.CommitTransaction(t.Context(), &gavelv1.CommitTransactionRequest{
		TransactionId: testID().String(), AckLevel: 7,
	})
	refused(t, "ack", err, txn.ReasonInvalid, "ack_level")
}

func TestListIsChecked(t *testing.T) {
	client := alone(t, &fake{}, Options{})
	cases := []struct {
		field string
		req   *gavelv1.ListTransactionsRequest
	}{
		{"page_size", &gavelv1.ListTransactionsRequest{PageSize: -1}},
		{"page_size", &gavelv1.ListTransactionsRequest{PageSize: txn.MaxListLimit + 1}},
		{"page_token", &gavelv1.ListTransactionsRequest{PageToken: "next"}},
		{"older_than", &gavelv1.ListTransactionsRequest{OlderThan: seconds(-1)}},
		{"states[1]", &gavelv1.ListTransactionsRequest{
			States: []gavelv1.TransactionState{1, 0}}},
		{"states", &gavelv1.ListTransactionsRequest{
			States: make([]gavelv1.TransactionState, 50)}},
	}
	for _, c := range cases {
		_, err := client.ListTransactions(t.Context(), c.req)
		refused(t, c.field, err, txn.ReasonInvalid, c.field)
	}
}

// TestHugeMessages: a message beyond the server's limit never reaches it, and is nobody's
// definite answer.
func TestHugeMessages(t *testing.T) {
	client := alone(t, &fake{}, Options{})
	_, err := client.BeginTransaction(t.Context(), &gavelv1.BeginTransactionRequest{
		IdempotencyKey: "k", Body: make([]byte, 1<<20),
	})
	if status.Code(err) != codes.ResourceExhausted || !wire.Hopeless(err) {
		t.Errorf("1 MiB: %v", err)
	}
}

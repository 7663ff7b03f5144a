package execcmd_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/clitest"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/serve"
	"github.com/gavel-tx/gavel/coordinator/server"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/txn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake answers every transaction in the same way, and remembers what it was asked.
type fake struct {
	gavelv1.UnimplementedTransactionServiceServer
	answer *gavelv1.ExecuteTransactionResponse
	err    error
	last   *gavelv1.ExecuteTransactionRequest
}

func (f *fake) ExecuteTransaction(
	_ context.Context, r *gavelv1.ExecuteTransactionRequest,
) (*gavelv1.ExecuteTransactionResponse, error) {
	f.last = r
	return f.answer, wire.Status(f.err)
}

// start serves the fake, and returns the flag that leads to it.
func start(t *testing.T, f *fake) string {
	t.Helper()
	l, err := serve.Face{GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Service: server.Service,
		Logger: slog.New(slog.DiscardHandler)}.Listen()
	if err != nil {
		t.Fatal(err)
	}
	addr, _ := l.Addrs()
	s := l.Serve(func(r grpc.ServiceRegistrar) {
		gavelv1.RegisterTransactionServiceServer(r, f)
	}, http.NotFoundHandler())
	t.Cleanup(func() { s.Stop(context.Background()) })
	return "--coordinator=" + addr
}

func id() txn.ID { return txn.NewID(7, 42) }

func committed() *gavelv1.ExecuteTransactionResponse {
	return &gavelv1.ExecuteTransactionResponse{
		Transaction: wire.EncodeResult(txn.Result{ID: id(), State: txn.StateCommitting,
			Outcome: txn.OutcomeCommitted}),
		PendingResources: []string{"bank_b"},
		Results: []*gavelv1.StatementResult{
			{RowsAffected: 2, Columns: []string{"id", "name\x1b[2J"}, Rows: wire.EncodeRows([][]any{
				{int64(1), "a\x1b[2Jb"}, {nil, []byte{1, 255}}})},
			{RowsAffected: 1},
		},
	}
}

// TestCommitted: the rows, what each statement did, and the transaction.
func TestCommitted(t *testing.T) {
	f := &fake{answer: committed()}
	at := start(t, f)
	r := clitest.Run(t, "exec", at, "--expect", "2", "--label", "x", "--timeout", "7s", "bank_a",
		"select", "bank_b", "update").Want(t, exit.OK, "ID    NAME\uFFFD", "NULL  \\x01ff",
		"STATEMENT  RESOURCE  ROWS", "2          bank_b    1", "COMMITTED  "+id().String(),
		"still to be finished, without anybody's help: bank_b")
	if strings.ContainsRune(r.Out, '\x1b') {
		t.Errorf("the data steers the terminal: %q", r.Out)
	}
	got := f.last
	if got.GetLabel() != "x" || got.GetTimeout().GetSeconds() != 7 ||
		got.GetIdempotencyKey() == "" || len(got.GetStatements()) != 2 ||
		got.GetStatements()[0].GetExpectRows() != 2 ||
		got.GetStatements()[1].ExpectRows != nil ||
		got.GetStatements()[1].GetSql() != "update" {
		t.Errorf("asked %v", got)
	}
	f.answer.Results = nil
	clitest.Run(t, "exec", at, "--key", "k", "bank_a", "x").Want(t, exit.OK, "done before")
	if f.last.GetIdempotencyKey() != "k" {
		t.Errorf("asked %v", f.last)
	}
}

// TestJSON is the API's message.
func TestJSON(t *testing.T) {
	r := clitest.Run(t, "exec", start(t, &fake{answer: committed()}), "-o", "json", "bank_a", "x").
		Want(t, exit.OK)
	var m struct {
		Results []struct{ RowsAffected string }
	}
	if err := json.Unmarshal([]byte(r.Out), &m); err != nil || m.Results[0].RowsAffected != "2" {
		t.Errorf("%+v, %v", m, err)
	}
}

// TestOutcomes: the exit code tells what became of it, and the text what to do.
func TestOutcomes(t *testing.T) {
	for _, c := range []struct {
		err  error
		code exit.Code
		says []string
	}{
		{&wire.OutcomeError{Result: txn.Result{ID: id(), Outcome: txn.OutcomeRolledBack,
			Cause: txn.CauseVotedNo, Reason: "statement 1 on bank_a changed 0 rows, expected 1"}},
			exit.Aborted, []string{"changed 0 rows, expected 1", "nothing of the transaction"}},
		{txn.Refusef(txn.ReasonNotAllowed, "", "not here"), exit.Refused,
			[]string{"--execute NAME"}},
		{txn.Refusef(txn.ReasonKeyReused, "", "used"), exit.Refused, []string{"used"}},
	} {
		at := start(t, &fake{err: c.err})
		clitest.Run(t, "exec", at, "bank_a", "x").Want(t, c.code, c.says...)
	}
	clitest.Run(t, "exec", "--coordinator=127.0.0.1:1", "--timeout", "50ms", "bank_a", "x").
		Want(t, exit.Unreachable, "127.0.0.1:1 does not answer")
}

// TestUsage: statements are pairs.
func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{}, {"bank_a"}, {"bank_a", "x", "bank_b"}, {"bank a", "x"},
		{"--expect", "1,1", "bank_a", "x"}, {"--timeout", "-1s", "bank_a", "x"},
		{"--expect", "one", "bank_a", "x"},
	} {
		clitest.Run(t, append([]string{"exec"}, args...)...).Want(t, exit.Usage)
	}
}

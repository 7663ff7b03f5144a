package txcmd_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/clitest"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/serve"
	"github.com/gavel-tx/gavel/coordinator/server"
	"github.com/gavel-tx/gavel/txn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a coordinator with a fixed set of transactions.
type fake struct {
	server.Coordinator
	all  []txn.Result
	err  error
	last txn.ListRequest
}

func (f *fake) Outcome(_ context.Context, id txn.ID) (txn.Result, error) {
	for _, r := range f.all {
		if r.ID == id {
			return r, nil
		}
	}
	if f.err != nil {
		return txn.Result{}, f.err
	}
	return txn.Result{}, txn.Refusef(txn.ReasonNotFound, "", "no transaction %s", id)
}

func (f *fake) List(_ context.Context, r txn.ListRequest) ([]txn.Result, error) {
	f.last = r
	return f.all[:min(len(f.all), r.Limit)], f.err
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
	s := l.Serve(func(r grpc.ServiceRegistrar) { server.New(f, server.Options{}).Register(r) },
		http.NotFoundHandler())
	t.Cleanup(func() { s.Stop(context.Background()) })
	return "--coordinator=" + addr
}

const log txn.LogID = 7

func id(seq txn.Seq) txn.ID { return txn.NewID(log, seq) }

// branch is one at bank_a or bank_b.
func branch(seq txn.Seq, no txn.BranchNo, state txn.BranchState, last string) txn.BranchStatus {
	return txn.BranchStatus{Branch: no, Resource: []string{"bank_a", "bank_b"}[no-1],
		Name: txn.NameOf(id(seq), no), State: state, LastError: last, Attempts: len(last)}
}

// transactions has one of each kind.
func transactions() []txn.Result {
	return []txn.Result{
		{ID: id(1), State: txn.StateActive, Label: "import", Age: 1500 * time.Millisecond,
			Branches: []txn.BranchStatus{branch(1, 1, txn.BranchEnlisted, "")}},
		{ID: id(2), State: txn.StateCommitting, Outcome: txn.OutcomeCommitted, Label: "transfer",
			Plan: txn.PlanClassic, Age: 192 * time.Second, Branches: []txn.BranchStatus{
				branch(2, 1, txn.BranchCommitted, ""),
				branch(2, 2, txn.BranchPrepared, "connection refused")}},
		{ID: id(3), State: txn.StateHeuristic, Outcome: txn.OutcomeHeuristicMixed,
			Reason: "bank_b was rolled back by hand", Branches: []txn.BranchStatus{
				branch(3, 1, txn.BranchCommitted, ""),
				branch(3, 2, txn.BranchHeuristicRollback, "")}},
		{ID: id(4), State: txn.StateRolledBack, Outcome: txn.OutcomeRolledBack,
			Cause: txn.CauseVotedNo, Resource: "bank_a", SQLState: "40001"},
		{ID: id(5), State: txn.StateCommitted, Outcome: txn.OutcomeCommitted},
		{ID: id(6), State: txn.StatePreparing}, {ID: id(7), State: txn.StateDeciding},
		{ID: id(8), Outcome: txn.OutcomeForgotten},
		{ID: id(9), State: txn.StateCommitting, Outcome: txn.OutcomeCommitted,
			Branches: []txn.BranchStatus{branch(9, 1, txn.BranchPrepared, "")}},
		{ID: id(10), State: txn.StateRolledBack, Outcome: txn.OutcomeRolledBack,
			Cause: "SOMETHING_NEW", Reason: "for a reason of the future"},
	}
}

// TestList: a line for each, with what it waits for.
func TestList(t *testing.T) {
	f := &fake{all: transactions()}
	at := start(t, f)
	r := clitest.Run(t, "tx", "ls", at, "--state", "committing,ACTIVE", "--older-than", "1s").
		Want(t, exit.OK, "ID", "WAITING FOR", id(1).String(), "import", "1.5s", "bank_a…",
			"its client", "3m12s", "bank_a✓ bank_b…", "bank_b: connection refused (attempt 18)",
			"a person: bank_b was rolled back by hand", "bank_b!", "votes", "the log")
	if n := strings.Count(r.Out, "\n"); n != 1+len(f.all) {
		t.Errorf("%d lines", n)
	}
	want := []txn.State{txn.StateCommitting, txn.StateActive}
	if f.last.OlderThan != time.Second || len(f.last.States) != 2 || f.last.States[0] != want[0] ||
		f.last.States[1] != want[1] || f.last.Limit != txn.DefaultListLimit {
		t.Errorf("asked for %+v", f.last)
	}
	clitest.Run(t, "tx", "ls", at, "--limit", "2").Want(t, exit.OK, "the first 2")
	clitest.Run(t, "tx", "ls", start(t, &fake{})).Want(t, exit.OK, "no transaction runs")
}

// TestListJSON is the API's message.
func TestListJSON(t *testing.T) {
	at := start(t, &fake{all: transactions()})
	r := clitest.Run(t, "tx", "ls", at, "-o", "json", "--limit", "3").Want(t, exit.OK)
	var m struct {
		Transactions []struct {
			TransactionID string `json:"transactionId"`
			State         string
			Branches      []struct{ Resource, State, LastError, PreparedName string }
		}
		NextPageToken string
	}
	if err := json.Unmarshal([]byte(r.Out), &m); err != nil {
		t.Fatal(err)
	}
	second := m.Transactions[1]
	if len(m.Transactions) != 3 || second.TransactionID != id(2).String() ||
		second.State != "TRANSACTION_STATE_COMMITTING" ||
		second.Branches[1].LastError != "connection refused" || m.NextPageToken != id(3).String() {
		t.Errorf("%+v", m)
	}
}

// TestShow: the page says why and what to do, and the code says the outcome.
func TestShow(t *testing.T) {
	at := start(t, &fake{all: transactions()})
	for seq, c := range map[txn.Seq]struct {
		code exit.Code
		said []string
	}{
		1: {exit.Unknown, []string{"ACTIVE", "its client", "Nothing is decided"}},
		2: {exit.OK, []string{"transfer  " + id(2).String(), "COMMITTING", "CLASSIC", "3m12s",
			txn.NameOf(id(2), 2).String(), "bank_b: connection refused, after 18 attempts",
			"The decision is durable", "hold their locks", "once the resource answers again"}},
		3: {exit.No, []string{"HEURISTIC_MIXED", "rolled back by hand", "repair the data by hand"}},
		4: {exit.Aborted, []string{"bank_a: ", "(SQLSTATE 40001)",
			"nothing of the transaction remains", "Run the whole transaction again"}},
		5: {exit.OK, []string{"COMMITTED"}},
		6: {exit.Unknown, []string{"votes"}},
		7: {exit.Unknown, []string{"the log"}},
		8: {exit.No, []string{"OUTCOME_FORGOTTEN", "retention"}},
		9: {exit.OK, []string{"why   bank_a"}},
		10: {exit.Aborted, []string{"for a reason of the future",
			"nothing of the transaction remains"}},
		11: {exit.No, []string{"no transaction " + id(11).String()}},
	} {
		clitest.Run(t, "tx", "show", at, id(seq).String()).Want(t, c.code, c.said...)
	}
	r := clitest.Run(t, "tx", "show", at, id(4).String(), "-o", "json").Want(t, exit.Aborted)
	var m struct {
		Transaction struct{ Outcome, Cause, Sqlstate string }
	}
	if err := json.Unmarshal([]byte(r.Out), &m); err != nil || m.Transaction.Sqlstate != "40001" ||
		m.Transaction.Outcome != "OUTCOME_ROLLED_BACK" {
		t.Errorf("%+v, %v", m, err)
	}
}

// TestRefused: what the coordinator refuses keeps its reason's code.
func TestRefused(t *testing.T) {
	for reason, code := range map[txn.Reason]exit.Code{txn.ReasonForeign: exit.Refused,
		txn.ReasonForgotten: exit.No, txn.ReasonRegression: exit.Refused} {
		at := start(t, &fake{err: txn.Refusef(reason, "", "so it is")})
		clitest.Run(t, "tx", "show", at, id(1).String()).Want(t, code, "so it is")
	}
}

// TestUnreachable is a code of its own, and names the address.
func TestUnreachable(t *testing.T) {
	for _, args := range [][]string{{"tx", "ls"}, {"tx", "show", id(1).String()}} {
		args = append(args, "--coordinator", "127.0.0.1:1", "--timeout", "50ms")
		clitest.Run(t, args...).Want(t, exit.Unreachable, "127.0.0.1:1", "Check the address")
	}
	clitest.Run(t, "tx", "ls", "--coordinator", "far.example:7440").
		Want(t, exit.Refused, "plaintext")
}

// TestUsage: nothing is asked with a wrong question.
func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"show"}, {"show", "7"}, {"show", "a", "b"}, {"ls", "x"},
		{"ls", "--limit", "0"}, {"ls", "--limit", "1001"}, {"ls", "--older-than", "-1s"},
		{"ls", "-o", "yaml"}, {"ls", "--coordinator", "127.0.0.1:1", "--tls-cert", "/nope",
			"--tls-key", "/nope", "--state", "DONE"}} {
		clitest.Run(t, append([]string{"tx"}, args...)...).Want(t, exit.Usage)
	}
	clitest.Run(t, "tx", "ls", "--state", "comitting").Want(t, exit.Usage,
		`Did you mean "COMMITTING"?`)
}

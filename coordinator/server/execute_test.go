package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	sessions "github.com/gavel-tx/gavel/participant/session"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/txn"
)

// runner is a resource whose statements do what their text says.
type runner struct {
	mu     sync.Mutex
	did    []string
	asked  []sessions.Attachment
	refuse error
	// cancel, if not nil, is called by the statement "hang", which then waits for its end.
	cancel context.CancelFunc
}

func (r *runner) do(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.did = append(r.did, what)
}

func (r *runner) Attach(
	_ context.Context, a sessions.Attachment,
) (sessions.Branch, error) {
	r.asked = append(r.asked, a)
	if r.refuse != nil {
		return nil, r.refuse
	}
	r.do("attach")
	return &ran{r}, nil
}

type ran struct{ r *runner }

func (b *ran) Identity() txn.Identity { return txn.Identity{System: 1, Database: 1} }
func (b *ran) Done() <-chan struct{}  { return nil }
func (b *ran) Close()                 { b.r.do("close") }

func (b *ran) Finish() error {
	if slices.Contains(b.r.did, "die") {
		return &sessions.Error{Reason: "was not run: the branch was rolled back, because of that"}
	}
	b.r.do("finish")
	return nil
}

func (b *ran) Execute(
	ctx context.Context, s sessions.Statement, sink sessions.Sink,
) (sessions.Result, error) {
	b.r.do(s.SQL)
	switch s.SQL {
	case "none":
		return sessions.Result{}, &sessions.Error{Reason: "changed 0 rows, expected 1"}
	case "fail":
		return sessions.Result{}, sessions.Failed(errors.New("x"), "could not serialize", "40001")
	case "lost":
		return sessions.Result{}, errors.New("transport is closing")
	case "hang":
		b.r.cancel()
		<-ctx.Done()
		return sessions.Result{}, &sessions.Error{Reason: "was cancelled", Err: ctx.Err()}
	case "select", "many":
		n := map[string]int{"select": 2, "many": wire.MaxResultRows + 1}[s.SQL]
		rows := slices.Repeat([][]any{{int64(7), nil}}, n)
		return sessions.Result{Rows: int64(n), Read: true}, sink([]string{"a", "b"}, rows)
	case "large":
		return sessions.Result{}, sink([]string{"a"},
			[][]any{{strings.Repeat("x", wire.MaxResultBytes)}})
	}
	return sessions.Result{Rows: 1}, nil
}

// decided is a coordinator that decides as the votes say.
type decided struct {
	Coordinator
	begun    []txn.BeginRequest
	existing *txn.Result
	commits  []txn.CommitRequest
	err      error
}

func (d *decided) Begin(_ context.Context, r txn.BeginRequest) (txn.Begun, error) {
	d.begun = append(d.begun, r)
	b := txn.Begun{ID: testID(), Timeout: 1 << 40, Existing: d.existing}
	for i, name := range r.Resources {
		no := txn.BranchNo(i + 1)
		b.Branches = append(b.Branches, txn.Enlisted{Branch: no, Resource: name,
			Name: txn.NameOf(testID(), no)})
	}
	return b, nil
}

func (d *decided) Commit(ctx context.Context, r txn.CommitRequest) (txn.Result, error) {
	d.commits = append(d.commits, r)
	if err := cmpErr(ctx.Err(), d.err); err != nil {
		return txn.Result{}, err
	}
	if len(r.Votes) == 0 {
		return committed(), nil
	}
	return txn.Result{ID: testID(), State: txn.StateRolledBack, Outcome: txn.OutcomeRolledBack,
		Cause: txn.CauseVotedNo, Reason: r.Votes[0].Reason, SQLState: r.Votes[0].SQLState,
		Resource: fmt.Sprint("branch ", r.Votes[0].Branch)}, nil
}

func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func statements(all ...string) *gavelv1.ExecuteTransactionRequest {
	r := &gavelv1.ExecuteTransactionRequest{}
	for _, s := range all {
		resource, sql, _ := strings.Cut(s, ": ")
		r.Statements = append(r.Statements, &gavelv1.TransactionStatement{
			Resource: resource, Sql: sql})
	}
	return r
}

// executor is a server over both, with the runners a and b.
func executor() (*Server, *decided, *runner, *runner) {
	d, a, b := &decided{}, &runner{}, &runner{}
	return New(d, Options{Epoch: 4, SQL: map[string]sessions.Runner{"a": a, "b": b}}), d, a, b
}

// TestExecute: one branch for each resource, statements in their order, results in theirs.
func TestExecute(t *testing.T) {
	s, d, a, b := executor()
	r := statements("b: x", "a: select", "b: y")
	r.AckLevel, r.Isolation = gavelv1.AckLevel_ACK_LEVEL_DECIDED,
		gavelv1.Isolation_ISOLATION_SERIALIZABLE
	r.Label, r.Timeout = "transfer", durationpb.New(7e9)
	got, err := s.ExecuteTransaction(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if got.GetTransaction().GetTransactionId() != testID().String() || len(got.GetResults()) != 3 ||
		got.GetResults()[0].GetRowsAffected() != 1 || len(got.GetResults()[1].GetRows()) != 2 ||
		!slices.Equal(got.GetResults()[1].GetColumns(), []string{"a", "b"}) {
		t.Errorf("%v", got)
	}
	if !slices.Equal(a.did, []string{"attach", "select", "finish", "close"}) ||
		!slices.Equal(b.did, []string{"attach", "x", "y", "finish", "close"}) {
		t.Errorf("a did %v, b did %v", a.did, b.did)
	}
	if at := a.asked[0]; at.Name != txn.NameOf(testID(), 2) || at.Epoch != 4 ||
		at.Isolation != sessions.Serializable {
		t.Errorf("attached %+v", at)
	}
	begin := d.begun[0]
	if !slices.Equal(begin.Resources, []string{"b", "a"}) || begin.Label != "transfer" ||
		begin.Timeout != 7e9 || begin.Key != "" || begin.Body != nil {
		t.Errorf("begun %+v", begin)
	}
	if c := d.commits[0]; c.Ack != txn.AckDecided || c.Plan != txn.PlanClassic {
		t.Errorf("commit %+v", c)
	}
}

// TestExecuteThatFails: a No vote of its branch, with the database's words; no session is left.
func TestExecuteThatFails(t *testing.T) {
	for sql, want := range map[string]struct{ says, state string }{
		"none":  {"statement 2 on b changed 0 rows, expected 1; nothing of the transaction", ""},
		"fail":  {"statement 2 on b failed: could not serialize", "40001"},
		"lost":  {"statement 2 on b was not run: transport is closing", ""},
		"many":  {"statement 2 on b returned too much: all results", ""},
		"large": {"statement 2 on b returned too much: all results", ""},
		"die":   {"the end of the statements on b was not run", ""},
	} {
		s, d, a, b := executor()
		_, err := s.ExecuteTransaction(t.Context(), statements("a: x", "b: "+sql))
		if status.Code(err) != codes.Aborted || !strings.Contains(err.Error(), want.says) ||
			wire.ReasonOf(err) != string(txn.CauseVotedNo) {
			t.Errorf("%s: %v", sql, err)
		}
		o, ok := errors.AsType[*wire.OutcomeError](wire.TransactionError(err))
		if !ok || o.Result.SQLState != want.state || o.Result.Resource != "branch 2" {
			t.Errorf("%s: %+v", sql, o)
		}
		if len(d.commits) != 1 || len(d.commits[0].Votes) != 1 {
			t.Errorf("%s: commits %+v", sql, d.commits)
		}
		if !slices.Contains(a.did, "close") || !slices.Contains(b.did, "close") {
			t.Errorf("%s: a did %v, b did %v", sql, a.did, b.did)
		}
	}
}

// TestExecuteWithoutASession: a branch that cannot be attached votes No.
func TestExecuteWithoutASession(t *testing.T) {
	s, _, a, _ := executor()
	a.refuse = txn.Refusef(txn.ReasonNotReady, "", "too many clients")
	_, err := s.ExecuteTransaction(t.Context(), statements("a: x"))
	if status.Code(err) != codes.Aborted || !strings.Contains(err.Error(),
		"statement 1 on a was not run: too many clients") {
		t.Errorf("%v", err)
	}
}

// TestExecuteWhoseCallerLeaves is called off all the same, and never committed.
func TestExecuteWhoseCallerLeaves(t *testing.T) {
	s, d, a, _ := executor()
	ctx, cancel := context.WithCancel(t.Context())
	a.cancel = cancel
	_, err := s.ExecuteTransaction(ctx, statements("a: hang"))
	if status.Code(err) != codes.Aborted || len(d.commits) != 1 || len(d.commits[0].Votes) != 1 {
		t.Errorf("%v, %+v", err, d.commits)
	}
}

// TestExecuteOfUnknownOutcome: what the coordinator does not answer is not claimed, neither of a
// commit nor of a transaction that is called off.
func TestExecuteOfUnknownOutcome(t *testing.T) {
	for _, sql := range []string{"a: x", "a: fail"} {
		s, d, _, _ := executor()
		d.err = txn.Refusef(txn.ReasonOverloaded, "", "too many wait")
		if sql == "a: x" {
			d.err = txn.ErrUnknown
		}
		_, err := s.ExecuteTransaction(t.Context(), statements(sql))
		if status.Code(err) != codes.Unavailable ||
			wire.ReasonOf(err) != wire.ReasonOutcomeUnknown {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// TestExecuteAgain: a key that was used answers with what became of it, and does nothing.
func TestExecuteAgain(t *testing.T) {
	done, open := committed(), txn.Result{ID: testID(), State: txn.StateDeciding}
	for _, c := range []struct {
		existing txn.Result
		code     codes.Code
	}{{done, codes.OK}, {open, codes.Unavailable}} {
		s, d, a, _ := executor()
		d.existing = &c.existing
		r := statements("a: x")
		r.IdempotencyKey = "order-42"
		got, err := s.ExecuteTransaction(t.Context(), r)
		if status.Code(err) != c.code || len(a.did) > 0 || len(got.GetResults()) > 0 {
			t.Errorf("%v: %v, %v", c.existing.State, got, err)
		}
	}
}

// TestExecuteKeyStandsForTheStatements, and not for how they are waited for.
func TestExecuteKeyStandsForTheStatements(t *testing.T) {
	body := func(change func(*gavelv1.ExecuteTransactionRequest)) string {
		s, d, _, _ := executor()
		r := statements("a: x", "b: y")
		r.IdempotencyKey = "k"
		change(r)
		if _, err := s.ExecuteTransaction(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		return string(d.begun[0].Body)
	}
	one := int64(1)
	first := body(func(*gavelv1.ExecuteTransactionRequest) {})
	if same := body(func(r *gavelv1.ExecuteTransactionRequest) {
		r.Label, r.Timeout, r.AckLevel = "l", durationpb.New(1e9),
			gavelv1.AckLevel_ACK_LEVEL_DECIDED
	}); same != first || first == "" {
		t.Errorf("%x and %x", first, same)
	}
	for name, change := range map[string]func(*gavelv1.ExecuteTransactionRequest){
		"sql":      func(r *gavelv1.ExecuteTransactionRequest) { r.Statements[0].Sql = "z" },
		"resource": func(r *gavelv1.ExecuteTransactionRequest) { r.Statements[0].Resource = "b" },
		"rows": func(r *gavelv1.ExecuteTransactionRequest) {
			r.Statements[0].ExpectRows = &one
		},
		"args": func(r *gavelv1.ExecuteTransactionRequest) {
			r.Statements[0].Args = []*gavelv1.SqlValue{wire.EncodeValue("1")}
		},
		"isolation": func(r *gavelv1.ExecuteTransactionRequest) {
			r.Isolation = gavelv1.Isolation_ISOLATION_SERIALIZABLE
		},
	} {
		if body(change) == first {
			t.Errorf("the key stands for two: %s", name)
		}
	}
}

// TestExecuteRefusals: nothing is begun, and the statement is named.
func TestExecuteRefusals(t *testing.T) {
	minus := int64(-1)
	for name, c := range map[string]struct {
		r     *gavelv1.ExecuteTransactionRequest
		code  codes.Code
		field string
	}{
		"none": {statements(), codes.InvalidArgument, "statements"},
		"many": {statements(slices.Repeat([]string{"a: x"}, wire.MaxStatements+1)...),
			codes.InvalidArgument, "statements"},
		"not allowed": {statements("a: x", "c: x"), codes.PermissionDenied,
			"statements[1].resource"},
		"no name": {statements("a b: x"), codes.InvalidArgument, "statements[0].resource"},
		"long":    {statements("a: " + strings.Repeat("x", 65537)), codes.InvalidArgument, ".sql"},
		"isolation": {&gavelv1.ExecuteTransactionRequest{Isolation: 9,
			Statements: statements("a: x").Statements}, codes.InvalidArgument, "isolation"},
		"ack": {&gavelv1.ExecuteTransactionRequest{AckLevel: 9,
			Statements: statements("a: x").Statements}, codes.InvalidArgument, "ack_level"},
		"rows": {&gavelv1.ExecuteTransactionRequest{Statements: []*gavelv1.TransactionStatement{
			{Resource: "a", ExpectRows: &minus}}}, codes.InvalidArgument, ".expect_rows"},
		"key": {&gavelv1.ExecuteTransactionRequest{IdempotencyKey: strings.Repeat("k", 256),
			Statements: statements("a: x").Statements}, codes.InvalidArgument, "idempotency_key"},
	} {
		s, d, _, _ := executor()
		_, err := s.ExecuteTransaction(t.Context(), c.r)
		if status.Code(err) != c.code || !strings.Contains(err.Error(), c.field) ||
			len(d.begun) > 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	none := New(&decided{}, Options{})
	if _, err := none.ExecuteTransaction(t.Context(), statements("a: x")); status.Code(err) !=
		codes.PermissionDenied {
		t.Errorf("without any: %v", err)
	}
}

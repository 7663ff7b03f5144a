package wire

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/session"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/txn"
)

var update = flag.Bool("update", false, "write the golden files")

// constants reads the constants of a string type out of package txn, so that a reason added there
// without a text here fails a test.
func constants(t *testing.T, typeName string) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", "..", "txn", "api.go"),
		nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if id, ok := spec.Type.(*ast.Ident); ok && id.Name == typeName {
			for _, v := range spec.Values {
				text, err := strconv.Unquote(v.(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, text)
			}
		}
		return true
	})
	if len(out) < 5 {
		t.Fatalf("found only %d constants of %s", len(out), typeName)
	}
	sort.Strings(out)
	return out
}

func testID() txn.ID { return txn.NewID(0x123456789abcdef, 42) }

// specimens has one error for each reason that can be sent.
func specimens(t *testing.T) map[string]error {
	out := map[string]error{}
	for _, r := range constants(t, "Reason") {
		out["refusal "+r] = &txn.Refusal{Reason: txn.Reason(r)}
	}
	for _, c := range constants(t, "Cause") {
		out["rolled back "+c] = &OutcomeError{Result: txn.Result{
			ID: testID(), State: txn.StateRolledBack, Outcome: txn.OutcomeRolledBack,
			Cause: txn.Cause(c), Resource: "bank_b",
		}}
	}
	for o := txn.OutcomeHeuristicCommit; o <= txn.OutcomeForgotten; o++ {
		out["outcome "+o.String()] = &OutcomeError{Result: txn.Result{
			ID: testID(), State: txn.StateHeuristic, Outcome: o,
		}}
	}
	out["outcome UNKNOWN"] = &OutcomeError{Result: txn.Result{
		ID: testID(), State: txn.StateDeciding, Outcome: txn.OutcomeUnknown,
	}}
	out["voted no with words"] = &OutcomeError{Result: txn.Result{
		ID: testID(), State: txn.StateRollingBack, Outcome: txn.OutcomeRolledBack,
		Cause: txn.CauseVotedNo, Resource: "bank_a", SQLState: "40001",
		Reason: "could not serialize access due to concurrent update",
	}}
	out["refusal with words"] = txn.Refusef(txn.ReasonInvalid, "timeout",
		"-3s is negative, and the least is 0s")
	out["refusal with effect"] = &txn.Refusal{Reason: txn.ReasonAlreadyDecided,
		Message: "the transaction is committed", Effect: "it stays committed everywhere"}
	for _, r := range []string{ReasonNotResolver, ReasonNoMarkers, ReasonBranchLost,
		ReasonBelowMinimum, ReasonNotNumber} {
		out["named "+r] = Refuse(r, "what happened at key %q", "alice")
	}
	out["statement"] = session.Failed(errors.New("x"), "duplicate key value", "23505")
	out["fenced"] = participant.ErrFenced
	out["regression"] = participant.ErrRegression
	out["not resolver"] = fmt.Errorf("bank_a: %w", participant.ErrNotResolver)
	out["no markers"] = fmt.Errorf("bank_a: %w", participant.ErrNoMarkers)
	out["any error"] = errors.New("dial tcp: connection refused")
	out["unknown"] = fmt.Errorf("commit: %w", txn.ErrUnknown)
	out["deadline"] = context.DeadlineExceeded
	out["cancelled"] = context.Canceled
	return out
}

// TestTexts pins code, reason, metadata and text of every status. They are part of the API: a
// change here is a change of what programs and people see.
func TestTexts(t *testing.T) {
	errs := specimens(t)
	names := make([]string, 0, len(errs))
	for n := range errs {
		names = append(names, n)
	}
	sort.Strings(names)
	var b strings.Builder
	for _, n := range names {
		s := status.Convert(Status(errs[n]))
		fmt.Fprintf(&b, "== %s\n%s: %s\n", n, s.Code(), s.Message())
		for _, d := range s.Details() {
			switch d := d.(type) {
			case *errdetails.ErrorInfo:
				fmt.Fprintf(&b, "   %s %s %v\n", d.GetDomain(), d.GetReason(), d.GetMetadata())
			case *errdetails.RetryInfo:
				fmt.Fprintf(&b, "   retry after %v\n", d.GetRetryDelay().AsDuration())
			case *gavelv1.Transaction:
				fmt.Fprintf(&b, "   %s %s\n", d.GetTransactionId(), d.GetOutcome())
			default:
				t.Errorf("%s: unexpected detail %T", n, d)
			}
		}
	}
	golden := filepath.Join("testdata", "reasons.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("statuses changed (run with -update if that is meant):\n%s", diff)
	}
}

// TestEveryReasonIsExplained also checks that no text is empty: each says what, data and what to
// do.
func TestEveryReasonIsExplained(t *testing.T) {
	for _, r := range constants(t, "Reason") {
		e, ok := Explain(r)
		if !ok || e.What == "" || e.Data == "" || e.Do == "" || e.Code == codes.OK {
			t.Errorf("reason %s: %+v, %v", r, e, ok)
		}
	}
	for _, c := range constants(t, "Cause") {
		if c == "" {
			continue
		}
		e, ok := ExplainCause(txn.Cause(c))
		if !ok || e.What == "" || e.Data == "" || e.Do == "" || e.Code != codes.Aborted {
			t.Errorf("cause %s: %+v, %v", c, e, ok)
		}
	}
	if _, ok := Explain("NO_SUCH_REASON"); ok {
		t.Error("a reason that does not exist is explained")
	}
}

// TestAbortedOnlyForRolledBack: no status but that of a transaction of which nothing remains may
// be ABORTED, since clients take it for the outcome.
func TestAbortedOnlyForRolledBack(t *testing.T) {
	for name, err := range specimens(t) {
		s := status.Convert(Status(err))
		rolledBack := strings.HasPrefix(name, "rolled back") || name == "voted no with words" ||
			name == "refusal ROLLED_BACK"
		if (s.Code() == codes.Aborted) != rolledBack {
			t.Errorf("%s has code %s", name, s.Code())
		}
	}
}

func TestRefusalsComeBack(t *testing.T) {
	for _, r := range constants(t, "Reason") {
		in := txn.Refusef(txn.Reason(r), "label", "it is %d bytes long", 200)
		if r == string(txn.ReasonForgotten) {
			in.Effect = "gone"
		}
		out, ok := errors.AsType[*txn.Refusal](TransactionError(Status(in)))
		if !ok {
			t.Errorf("%s came back as %v", r, TransactionError(Status(in)))
			continue
		}
		if out.Reason != in.Reason || out.Field != in.Field || out.Message != in.Message {
			t.Errorf("%s came back as %+v", r, out)
		}
		if in.Effect != "" && out.Effect != in.Effect {
			t.Errorf("%s came back with effect %q", r, out.Effect)
		}
	}
}

func TestOutcomesComeBack(t *testing.T) {
	for name, err := range specimens(t) {
		in, ok := errors.AsType[*OutcomeError](err)
		if !ok {
			continue
		}
		got := TransactionError(Status(err))
		out, ok := errors.AsType[*OutcomeError](got)
		if !ok {
			t.Errorf("%s came back as %v", name, got)
			continue
		}
		if diff := cmp.Diff(in.Result, out.Result); diff != "" {
			t.Errorf("%s came back changed:\n%s", name, diff)
		}
		if open := in.Result.Outcome == txn.OutcomeUnknown; errors.Is(got, txn.ErrUnknown) != open {
			t.Errorf("%s: open is %v", name, !open)
		}
		if !strings.Contains(got.Error(), testID().String()) {
			t.Errorf("%s: %q does not name the transaction", name, got)
		}
	}
}

// TestBranchesStayBehind: 64 branches would not fit the 8 KiB of headers that some clients allow.
func TestBranchesStayBehind(t *testing.T) {
	r := txn.Result{ID: testID(), Outcome: txn.OutcomeHeuristicMixed, State: txn.StateHeuristic,
		Reason: strings.Repeat("x", 100_000)}
	for i := range txn.BranchNo(txn.MaxBranches) {
		r.Branches = append(r.Branches, txn.BranchStatus{
			Branch: i + 1, Resource: strings.Repeat("r", txn.MaxResourceNameLen),
			Name: txn.NameOf(testID(), i+1), LastError: strings.Repeat("e", 500),
		})
	}
	s := status.Convert(Status(&OutcomeError{Result: r}))
	size := len(s.Message())
	for _, d := range s.Proto().GetDetails() {
		size += len(d.GetValue())
	}
	if size > 4096 {
		t.Errorf("the status has %d bytes", size)
	}
}

// TestNothingElseIsDefinite: whatever does not come from gavel, or contradicts itself, leaves the
// outcome open.
func TestNothingElseIsDefinite(t *testing.T) {
	rolledBack := EncodeResult(txn.Result{ID: testID(), Outcome: txn.OutcomeRolledBack})
	committed := EncodeResult(txn.Result{ID: testID(), Outcome: txn.OutcomeCommitted})
	noID := &gavelv1.Transaction{Outcome: gavelv1.Outcome_OUTCOME_ROLLED_BACK}
	info := func(domain, reason string) *errdetails.ErrorInfo {
		return &errdetails.ErrorInfo{Domain: domain, Reason: reason}
	}
	with := func(code codes.Code, info *errdetails.ErrorInfo, t *gavelv1.Transaction) error {
		s, err := status.New(code, "text").WithDetails(info)
		if err == nil && t != nil {
			s, err = s.WithDetails(t)
		}
		if err != nil {
			panic(err)
		}
		return s.Err()
	}
	cases := map[string]error{
		"plain":                 errors.New("broken pipe"),
		"context":               context.DeadlineExceeded,
		"proxy says aborted":    status.Error(codes.Aborted, "aborted"),
		"proxy says not found":  status.Error(codes.NotFound, "no route"),
		"unavailable":           status.Error(codes.Unavailable, "transport is closing"),
		"other domain":          with(codes.Aborted, info("example.com", "EXPIRED"), rolledBack),
		"aborted, no result":    with(codes.Aborted, info(Domain, "PARTICIPANT_VOTED_NO"), nil),
		"aborted but committed": with(codes.Aborted, info(Domain, "EXPIRED"), committed),
		"rolled back, no id":    with(codes.Aborted, info(Domain, "EXPIRED"), noID),
		"rolled back, code unavailable": with(codes.Unavailable,
			info(Domain, "PARTICIPANT_VOTED_NO"), rolledBack),
		"committed, unknown": with(codes.Unavailable, info(Domain, ReasonOutcomeUnknown),
			committed),
		"refusal with the wrong code": with(codes.Aborted,
			info(Domain, string(txn.ReasonNotFound)), nil),
		"reason of the future": with(codes.FailedPrecondition, info(Domain, "FUTURE"), nil),
	}
	for name, err := range cases {
		for side, got := range map[string]error{
			"transaction": TransactionError(err), "participant": ParticipantError(err),
		} {
			if !errors.Is(got, txn.ErrUnknown) || !errors.Is(got, err) &&
				status.Code(got) != status.Code(err) {
				t.Errorf("%s: %s error is %v", name, side, got)
			}
		}
	}
}

// TestCauseOfTheFuture: an older client must still hear that the transaction is rolled back.
func TestCauseOfTheFuture(t *testing.T) {
	r := txn.Result{ID: testID(), Outcome: txn.OutcomeRolledBack, Cause: "CLIENT_GONE"}
	s, err := status.New(codes.Aborted, "").WithDetails(
		&errdetails.ErrorInfo{Domain: Domain, Reason: "CLIENT_GONE"}, EncodeResult(r))
	if err != nil {
		t.Fatal(err)
	}
	o, ok := errors.AsType[*OutcomeError](TransactionError(s.Err()))
	if !ok || o.Result.Outcome != txn.OutcomeRolledBack || o.Result.Cause != "CLIENT_GONE" {
		t.Errorf("came back as %v", TransactionError(s.Err()))
	}
}

func TestSentinelsComeBack(t *testing.T) {
	for _, want := range []error{
		participant.ErrFenced, participant.ErrRegression, participant.ErrNotResolver,
	} {
		got := ParticipantError(Status(fmt.Errorf("bank_a: %w", want)))
		if !errors.Is(got, want) || errors.Is(got, txn.ErrUnknown) {
			t.Errorf("%v came back as %v", want, got)
		}
	}
	for _, reason := range []string{ReasonBranchLost, ReasonBelowMinimum, ReasonNotNumber} {
		got := ParticipantError(Status(Refuse(reason, "key %s", "k")))
		if ReasonOf(got) != reason || got.Error() != "key k" {
			t.Errorf("%s came back as %v", reason, got)
		}
	}
	failed := &session.Error{Reason: "changed 0 rows, expected 1", SQLState: "02000"}
	back, ok := errors.AsType[*session.Error](ParticipantError(Status(failed)))
	if !ok || *back != *failed {
		t.Errorf("a failed statement came back as %+v", back)
	}
	got := ParticipantError(Status(txn.Refusef(txn.ReasonNoResource, "resource", "not here")))
	if txn.ReasonOf(got) != txn.ReasonNoResource {
		t.Errorf("a refusal came back as %v", got)
	}
}

func TestNilStaysNil(t *testing.T) {
	if Status(nil) != nil || TransactionError(nil) != nil || ParticipantError(nil) != nil {
		t.Error("nil became an error")
	}
}

func TestStatusKeepsStatus(t *testing.T) {
	in := status.Error(codes.Unauthenticated, "no certificate")
	if Status(in) != in {
		t.Errorf("became %v", Status(in))
	}
}

func TestReasonOf(t *testing.T) {
	cases := map[string]error{
		"FENCED":                 Status(participant.ErrFenced),
		ReasonBranchLost:         Refuse(ReasonBranchLost, "gone"),
		string(txn.ReasonClosed): fmt.Errorf("x: %w", txn.Refusef(txn.ReasonClosed, "", "closed")),
		"":                       errors.New("other"),
		ReasonOutcomeUnknown:     TransactionError(Status(errors.New("x"))),
	}
	for want, err := range cases {
		if got := ReasonOf(err); got != want {
			t.Errorf("reason of %v is %q, want %q", err, got, want)
		}
	}
}

// TestTextsAreBounded: database errors may be long, and need not be UTF-8.
func TestTextsAreBounded(t *testing.T) {
	long := strings.Repeat("\xff\u00e4", 50_000)
	for _, err := range []error{
		errors.New(long), Refuse(ReasonBranchLost, "%s", long),
		fmt.Errorf("%s %w", long, txn.ErrUnknown),
		&txn.Refusal{Reason: txn.ReasonInvalid, Message: long, Effect: long},
	} {
		s := status.Convert(Status(err))
		if len(s.Message()) > maxMessage || len(s.Proto().GetDetails()) == 0 {
			t.Errorf("%d bytes, %d details", len(s.Message()), len(s.Proto().GetDetails()))
		}
	}
}

func TestRetryable(t *testing.T) {
	type c struct {
		cause txn.Cause
		state string
	}
	yes := []c{
		{txn.CauseVotedNo, "40001"}, {txn.CauseVotedNo, "40P01"}, {txn.CauseVotedNo, "55P03"},
		{txn.CauseVoteUnknown, ""}, {txn.CausePresumed, ""}, {txn.CauseShutdown, ""},
		{txn.CausePrepareLimit, ""},
	}
	no := []c{
		{txn.CauseVotedNo, ""}, {txn.CauseVotedNo, "23505"}, {txn.CauseVotedNo, "40"},
		{txn.CauseExpired, "40001"}, {txn.CauseClient, ""}, {txn.CauseNone, ""},
	}
	for _, c := range yes {
		if !Retryable(c.cause, c.state) {
			t.Errorf("%+v is not retryable", c)
		}
	}
	for _, c := range no {
		if Retryable(c.cause, c.state) {
			t.Errorf("%+v is retryable", c)
		}
	}
}

func TestHopeless(t *testing.T) {
	hopeless := []codes.Code{codes.Unimplemented, codes.Unauthenticated, codes.PermissionDenied,
		codes.InvalidArgument, codes.ResourceExhausted}
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		got := Hopeless(unknownError(status.Error(code, "from elsewhere")))
		if got != slices.Contains(hopeless, code) {
			t.Errorf("%s: %v", code, got)
		}
	}
	if Hopeless(Status(txn.Refusef(txn.ReasonOverloaded, "", "busy"))) {
		t.Error("an answer of gavel's own is called hopeless")
	}
}

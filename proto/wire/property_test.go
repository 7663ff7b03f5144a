package wire

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/gavel-tx/gavel/participant"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/txn"
)

// draw makes random values of gavel's words.
type draw struct{ *rand.Rand }

func newDraw(seed uint64) draw { return draw{rand.New(rand.NewPCG(seed, 99))} }

func (d draw) id() txn.ID {
	log := txn.LogID(d.Uint64N(uint64(txn.MaxLogID))) + 1
	return txn.NewID(log, txn.Seq(d.Uint64N(uint64(txn.MaxSeq)))+1)
}

func (d draw) text() string {
	letters := []rune("ab ä€\U0001F600;:\n\x00")
	out := make([]rune, d.IntN(20))
	for i := range out {
		out[i] = letters[d.IntN(len(letters))]
	}
	return string(out)
}

func (d draw) evidence() txn.Evidence {
	if d.IntN(3) == 0 {
		return txn.Evidence{}
	}
	return txn.Evidence{
		Identity: txn.Identity{System: d.Uint64(), Database: d.Uint32()},
		Position: txn.Position{Timeline: d.Uint32(), LSN: d.Uint64()}, XID: d.Uint64(),
	}
}

func (d draw) result() txn.Result {
	r := txn.Result{
		ID: d.id(), State: txn.State(d.IntN(10)), Outcome: txn.Outcome(d.IntN(8)),
		Plan: txn.Plan(d.IntN(6)), Label: d.text(), Age: time.Duration(d.Int64N(1 << 50)),
		Reason: d.text(), Cause: txn.Cause(d.text()), SQLState: "40001", Resource: d.text(),
	}
	for i := range d.IntN(5) {
		no := txn.BranchNo(i + 1)
		r.Branches = append(r.Branches, txn.BranchStatus{
			Branch: no, Resource: d.text(), Name: txn.NameOf(r.ID, no),
			State: txn.BranchState(d.IntN(9)), Attempts: d.IntN(1000), LastError: d.text(),
		})
	}
	return r
}

// TestRandomResults: whatever a coordinator can say comes out as it went in.
func TestRandomResults(t *testing.T) {
	for seed := range uint64(500) {
		in := newDraw(seed).result()
		out, err := DecodeResult(relay(t, EncodeResult(in), &gavelv1.Transaction{}))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if diff := cmp.Diff(in, out); diff != "" {
			t.Fatalf("seed %d:\n%s", seed, diff)
		}
	}
}

func TestRandomBranches(t *testing.T) {
	for seed := range uint64(200) {
		d := newDraw(seed)
		in := make([]participant.Branch, d.IntN(participant.MaxBatch+1))
		for i := range in {
			in[i] = participant.Branch{
				Name: txn.NameOf(d.id(), txn.BranchNo(d.IntN(1<<16-1)+1)), Evidence: d.evidence(),
			}
		}
		msg := &gavelv1.InquireRequest{Branches: EncodeBranches(in)}
		out, err := DecodeBranches(relay(t, msg, &gavelv1.InquireRequest{}).GetBranches())
		if err != nil || !slices.Equal(in, out) {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// TestRandomStatuses puts codes, domains, reasons and results together at random. Whoever made
// such a status, a client may take it for a rollback only under the one combination that says so,
// and for committed never.
func TestRandomStatuses(t *testing.T) {
	reasons := append(constants(t, "Reason"), constants(t, "Cause")...)
	reasons = append(reasons, ReasonOutcomeUnknown, ReasonHeuristic, ReasonNotResolver, "FUTURE")
	definite := 0
	for seed := range uint64(20_000) {
		d := newDraw(seed)
		code := codes.Code(d.IntN(16) + 1)
		domain := []string{Domain, Domain, Domain, "example.com"}[d.IntN(4)]
		reason := reasons[d.IntN(len(reasons))]
		r := d.result()
		r.Branches = nil
		s, err := status.New(code, d.text()).WithDetails(
			&errdetails.ErrorInfo{Domain: domain, Reason: reason}, EncodeResult(r))
		if err != nil {
			t.Fatal(err)
		}
		what := fmt.Sprintf("seed %d: %v, %s, %s, %v", seed, code, domain, reason, r.Outcome)
		got := TransactionError(s.Err())
		o, isOutcome := errors.AsType[*OutcomeError](got)
		_, isRefusal := errors.AsType[*txn.Refusal](got)
		switch {
		case domain != Domain && !errors.Is(got, txn.ErrUnknown):
			t.Fatalf("%s: believed: %v", what, got)
		case isOutcome && o.Result.Outcome == txn.OutcomeCommitted:
			t.Fatalf("%s: an error says committed", what)
		case isOutcome && o.Result.Outcome == txn.OutcomeRolledBack && code != codes.Aborted:
			t.Fatalf("%s: taken for a rollback", what)
		case !isOutcome && !isRefusal && !errors.Is(got, txn.ErrUnknown):
			t.Fatalf("%s: neither definite nor open: %v", what, got)
		}
		if isOutcome && o.Result.Outcome == txn.OutcomeRolledBack {
			definite++
		}
	}
	if definite == 0 {
		t.Error("no rollback was ever believed: the test tests nothing")
	}
}

// FuzzDecode: no bytes from a network make a decoder panic, or give a branch that has no name.
func FuzzDecode(f *testing.F) {
	seed, err := proto.Marshal(EncodeResult(newDraw(1).result()))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var transaction gavelv1.Transaction
		if proto.Unmarshal(b, &transaction) == nil {
			if r, err := DecodeResult(&transaction); err == nil && r.ID.IsZero() {
				t.Error("a result about nothing")
			}
		}
		var listing gavelv1.ListInDoubtResponse
		if proto.Unmarshal(b, &listing) == nil {
			listed, err := DecodeListed(listing.GetBranches())
			for _, l := range listed {
				if err == nil && l.Name.Seq == 0 {
					t.Error("a branch of nothing")
				}
			}
		}
		var commit gavelv1.CommitRequest
		if proto.Unmarshal(b, &commit) == nil {
			if fence, err := DecodeFence(commit.GetFence()); err == nil && fence.Epoch == 0 {
				t.Error("a call without an epoch")
			}
			if got, err := DecodeBranches(commit.GetBranches()); err == nil &&
				len(got) > participant.MaxBatch {
				t.Error("too many branches")
			}
		}
	})
}

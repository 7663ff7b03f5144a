package wire

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/gavel-tx/gavel/participant"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/txn"
)

// checkTable proves that a table is one to one and complete on both sides: words counts from 0 up
// to the first that prints as INVALID.
func checkTable[W interface {
	comparable
	String() string
}, P interface {
	comparable
	String() string
}](t *testing.T, name string, tab table[W, P], words []W, wires map[int32]string) {
	t.Helper()
	seenW, seenP := map[W]bool{}, map[P]bool{}
	for _, p := range tab {
		if seenW[p.word] || seenP[p.wire] {
			t.Errorf("%s: %v or %v twice", name, p.word, p.wire)
		}
		seenW[p.word], seenP[p.wire] = true, true
		if !strings.HasSuffix(p.wire.String(), p.word.String()) && !renamed(p.word.String()) {
			t.Errorf("%s: %v is paired with %v", name, p.word, p.wire)
		}
	}
	for _, w := range words {
		if !seenW[w] {
			t.Errorf("%s: %v is not in the table", name, w)
		}
	}
	// All numbers but UNSPECIFIED, which may or may not have a word.
	if len(seenP) != len(wires) && len(seenP) != len(wires)-1 {
		t.Errorf("%s: %d words for %d numbers", name, len(seenP), len(wires))
	}
}

// renamed lists the words that have another name on the wire.
func renamed(word string) bool {
	return word == "UNKNOWN" || word == "UNSET" || word == "OUTCOME_FORGOTTEN"
}

func all[W ~uint8](n int) []W {
	out := make([]W, n)
	for i := range out {
		out[i] = W(i)
	}
	return out
}

func TestTables(t *testing.T) {
	checkTable(t, "vote", votes(), all[txn.Vote](5), gavelv1.Vote_name)
	checkTable(t, "outcome", outcomes(), all[txn.Outcome](8), gavelv1.Outcome_name)
	checkTable(t, "state", states(), all[txn.State](10), gavelv1.TransactionState_name)
	checkTable(t, "branch", branchStates(), all[txn.BranchState](9), gavelv1.BranchState_name)
	checkTable(t, "plan", plans(), all[txn.Plan](6), gavelv1.Plan_name)
	checkTable(t, "ack", ackLevels(), all[txn.AckLevel](2), gavelv1.AckLevel_name)
	checkTable(t, "standing", standings(), all[txn.Standing](7), gavelv1.Standing_name)
	if len(levels()) != len(gavelv1.CheckLevel_name)-1 {
		t.Errorf("%d check levels", len(levels()))
	}
}

// TestWordsOfTheFuture: a number that this version does not know is the unknown of its kind.
func TestWordsOfTheFuture(t *testing.T) {
	if v := DecodeVote(99); v != txn.VoteUnknown {
		t.Errorf("vote %v", v)
	}
	if v := DecodeVote(gavelv1.Vote_VOTE_UNSPECIFIED); v != txn.VoteUnknown {
		t.Errorf("vote %v", v)
	}
	r, err := DecodeResult(&gavelv1.Transaction{
		TransactionId: testID().String(), Outcome: 99, State: 99, Plan: 99,
	})
	if err != nil || r.Outcome != txn.OutcomeUnknown || r.State != txn.StateUnknown {
		t.Errorf("result %+v, %v", r, err)
	}
	f, err := DecodeFindings([]*gavelv1.Finding{{Standing: 99}, {}}, 2)
	if err != nil || f[0].Standing != txn.StandingUnknown || f[1].Standing != txn.StandingUnknown {
		t.Errorf("findings %+v, %v", f, err)
	}
	d := DecodeDescription(&gavelv1.DescribeResponse{Checks: []*gavelv1.Check{{Level: 99}, {}}})
	if d.Checks[0].Level != participant.LevelFail || d.Checks[1].Level != participant.LevelFail {
		t.Errorf("checks %+v", d.Checks)
	}
	if DecodeAckLevel(99) != txn.AckApplied {
		t.Error("an unknown acknowledgement level is not the strongest")
	}
}

// relay sends a message through its bytes.
func relay[M proto.Message](t *testing.T, in, out M) M {
	t.Helper()
	b, err := proto.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(b, out); err != nil {
		t.Fatal(err)
	}
	return out
}

func evidence() txn.Evidence {
	return txn.Evidence{
		Identity: txn.Identity{System: 7711061285840545772, Database: 16384},
		Position: txn.Position{Timeline: 3, LSN: 1 << 40},
		XID:      998877,
	}
}

func TestResultRoundTrip(t *testing.T) {
	in := txn.Result{
		ID: testID(), State: txn.StateCommitting, Outcome: txn.OutcomeCommitted,
		Plan: txn.PlanClassic, Label: "transfer", Age: 3 * time.Second,
		Branches: []txn.BranchStatus{
			{Branch: 1, Resource: "bank_a", Name: txn.NameOf(testID(), 1),
				State: txn.BranchCommitted},
			{Branch: 2, Resource: "bank_b", Name: txn.NameOf(testID(), 2),
				State:    txn.BranchPrepared,
				Attempts: 19, LastError: "connection refused"},
		},
		Reason: "why", Cause: txn.CauseVotedNo, SQLState: "40001", Resource: "bank_b",
	}
	got, err := DecodeResult(relay(t, EncodeResult(in), &gavelv1.Transaction{}))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in, got); diff != "" {
		t.Error(diff)
	}
}

// TestResultOfForeignBytes: texts that are not UTF-8 must not make the answer impossible to send.
func TestResultOfForeignBytes(t *testing.T) {
	in := txn.Result{ID: testID(), Label: "\xfflabel", Reason: "M\xfcnchen"}
	got, err := DecodeResult(relay(t, EncodeResult(in), &gavelv1.Transaction{}))
	if err != nil || !strings.Contains(got.Reason, "nchen") {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestResultMustNameATransaction(t *testing.T) {
	if _, err := DecodeResult(nil); err == nil {
		t.Error("nil is an answer")
	}
	if _, err := DecodeResult(&gavelv1.Transaction{}); !errors.Is(err, txn.ErrBadID) {
		t.Errorf("no id: %v", err)
	}
	other := EncodeResult(txn.Result{ID: testID(), Branches: []txn.BranchStatus{
		{Branch: 1, Name: txn.NameOf(testID(), 2)},
	}})
	if _, err := DecodeResult(other); err == nil {
		t.Error("a branch with the name of another is accepted")
	}
}

func TestEnlistedRoundTrip(t *testing.T) {
	in := []txn.Enlisted{
		{Branch: 1, Resource: "bank_a", Name: txn.NameOf(testID(), 1)},
		{Branch: 65535, Resource: "bank_b", Name: txn.NameOf(testID(), 65535), At: evidence()},
	}
	msg := &gavelv1.EnlistBranchResponse{Branches: EncodeEnlisted(in)}
	got, err := DecodeEnlisted(relay(t, msg, &gavelv1.EnlistBranchResponse{}).GetBranches())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in, got); diff != "" {
		t.Error(diff)
	}
	if _, err := DecodeEnlisted([]*gavelv1.Branch{{Branch: 1}}); !errors.Is(err, txn.ErrBadName) {
		t.Errorf("a branch without a name: %v", err)
	}
	bad := EncodeEnlisted(in)
	bad[0].Branch = 65537 // the same in 16 bits
	if _, err := DecodeEnlisted(bad); err == nil {
		t.Error("a branch with the name of another is accepted")
	}
}

func TestBranchVotesRoundTrip(t *testing.T) {
	in := []txn.BranchVote{
		{Branch: 1, Vote: txn.VoteYes, Evidence: evidence()},
		{Branch: 2, Vote: txn.VoteNo, Reason: "conflict", SQLState: "40001"},
		{Branch: 3, Vote: txn.VoteReadOnly},
		{Branch: 4, Vote: txn.VoteUnknown, Reason: "lost"},
		{Branch: 5, Vote: txn.VoteCommitted, Evidence: evidence()},
	}
	msg := &gavelv1.CommitTransactionRequest{Votes: EncodeBranchVotes(in)}
	got, err := DecodeBranchVotes(relay(t, msg, &gavelv1.CommitTransactionRequest{}).GetVotes())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in, got); diff != "" {
		t.Error(diff)
	}
	if _, err := DecodeBranchVotes([]*gavelv1.BranchVote{{Branch: 65537}}); err == nil {
		t.Error("branch 65537 is accepted, as 1")
	}
}

func TestFenceRoundTrip(t *testing.T) {
	in := txn.Fence{Log: 0x123456789abcdef, Epoch: 7, LSN: 99, Low: 1 << 20}
	got, err := DecodeFence(relay(t, EncodeFence(in), &gavelv1.Fence{}))
	if err != nil || got != in {
		t.Errorf("%+v, %v", got, err)
	}
	for name, f := range map[string]*gavelv1.Fence{
		"none": nil, "no epoch": {LogId: in.Log.String()}, "no log": {Epoch: 1},
		"short": {LogId: "abc", Epoch: 1},
	} {
		if _, err := DecodeFence(f); txn.ReasonOf(err) != txn.ReasonInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBranchesRoundTrip(t *testing.T) {
	in := []participant.Branch{
		{Name: txn.NameOf(testID(), 1), Evidence: evidence()},
		{Name: txn.NameOf(testID(), 2)},
	}
	msg := &gavelv1.CommitRequest{Branches: EncodeBranches(in)}
	got, err := DecodeBranches(relay(t, msg, &gavelv1.CommitRequest{}).GetBranches())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in, got); diff != "" {
		t.Error(diff)
	}
	_, err = DecodeBranches([]*gavelv1.BranchRef{{PreparedName: "order_981"}})
	if r, ok := errors.AsType[*txn.Refusal](err); !ok || r.Field != "branches[0].prepared_name" {
		t.Errorf("a foreign name: %v", err)
	}
	many := make([]*gavelv1.BranchRef, participant.MaxBatch+1)
	if _, err = DecodeBranches(many); txn.ReasonOf(err) != txn.ReasonInvalid {
		t.Errorf("too many: %v", err)
	}
}

func TestAnswersMustMatchTheirBranches(t *testing.T) {
	for _, n := range []int{0, 1, 3} {
		if _, err := DecodeFindings(make([]*gavelv1.Finding, n), 2); err == nil {
			t.Errorf("%d findings for 2 branches", n)
		}
		if _, err := DecodePreparedVotes(make([]*gavelv1.PreparedVote, n), 2); err == nil {
			t.Errorf("%d votes for 2 branches", n)
		}
	}
}

func TestAnswersRoundTrip(t *testing.T) {
	votes := []participant.Vote{
		{Vote: txn.VoteYes, Evidence: evidence()},
		{Vote: txn.VoteNo, Reason: "duplicate", SQLState: "23505"},
	}
	gotV, err := DecodePreparedVotes(EncodePreparedVotes(votes), 2)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(votes, gotV); diff != "" {
		t.Error(diff)
	}
	findings := []participant.Finding{
		{Standing: txn.StandingRolledBack, Reason: "conflict", SQLState: "40001"},
		{Standing: txn.StandingHeld, Reason: "restored", Evidence: evidence()},
		{Standing: txn.StandingCommitted, Evidence: evidence(), Votes: []txn.BranchVote{
			{Branch: 1, Vote: txn.VoteYes, Evidence: evidence()},
			{Branch: txn.MaxBranches, Vote: txn.VoteReadOnly},
		}},
	}
	answer := &gavelv1.DecideResponse{Findings: EncodeFindings(findings)}
	gotF, err := DecodeFindings(relay(t, answer, &gavelv1.DecideResponse{}).GetFindings(), 3)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(findings, gotF); diff != "" {
		t.Error(diff)
	}
}

func TestListingRoundTrip(t *testing.T) {
	in := participant.Listing{
		Identity: evidence().Identity, Position: evidence().Position,
		Unknown: 3, Truncated: true, Used: 9, Limit: 64,
	}
	header := relay(t, EncodeListing(in), &gavelv1.ListingHeader{})
	if diff := cmp.Diff(in, DecodeListing(header)); diff != "" {
		t.Error(diff)
	}
	in.Branches, in.Markers = make([]participant.Listed, 3), make([]txn.ID, 2)
	if h := EncodeListing(in); h.GetCount() != 3 || h.GetMarkers() != 2 {
		t.Errorf("%v announces another listing", h)
	}
	listed := []participant.Listed{{
		Name: txn.NameOf(testID(), 1), Ours: true, Owner: "gavel_owner",
		Age: time.Minute, Evidence: evidence(),
	}}
	got, err := DecodeListed(EncodeListed(listed))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(listed, got); diff != "" {
		t.Error(diff)
	}
	if _, err := DecodeListed([]*gavelv1.ListedBranch{{PreparedName: "x"}}); err == nil {
		t.Error("a foreign name is listed")
	}
}

func TestDescriptionRoundTrip(t *testing.T) {
	in := participant.Description{
		Kind: "postgres", Version: "15.18", Identity: evidence().Identity,
		Position: evidence().Position, Used: 5, Limit: 64, Evidence: true, OnePhase: true,
		Delegate: true,
		Checks: []participant.Check{
			{Level: participant.LevelOK, What: "fine"},
			{Level: participant.LevelWarn, What: "close", Fix: "ALTER SYSTEM"},
			{Level: participant.LevelFail, What: "off", Fix: "restart"},
		},
	}
	got := DecodeDescription(relay(t, EncodeDescription(in), &gavelv1.DescribeResponse{}))
	if diff := cmp.Diff(in, got); diff != "" {
		t.Error(diff)
	}
}

func TestCut(t *testing.T) {
	for in, want := range map[string]string{"": "", "abc": "abc", "abcd": "abc", "abä": "ab",
		"ääää": "ä"} {
		if got := Cut(in, 3); got != want {
			t.Errorf("Cut(%q) = %q, want %q", in, got, want)
		}
	}
}

package wire

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/gavel-tx/gavel/participant"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/txn"
)

// read is a message from bytes of a network, or false.
func read[T any, M interface {
	*T
	proto.Message
}](b []byte) (M, bool) {
	m := M(new(T))
	return m, proto.Unmarshal(b, m) == nil
}

// FuzzParticipantCalls: whatever arrives at a participant's side, what is handed on has been
// checked: a fence that is whole, names that were written as they are read, no more branches than
// fit into one call, and markers of the log that calls.
func FuzzParticipantCalls(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, ok := read[gavelv1.RemoveMarkersRequest](b); ok {
			log, err := txn.ParseLogID(m.GetFence().GetLogId())
			if err == nil {
				checkMarkers(t, m.GetMarkers(), log)
			}
		}
		m, ok := read[gavelv1.CommitRequest](b)
		if !ok {
			return
		}
		got := m.GetFence()
		fence, err := DecodeFence(got)
		if err == nil && (fence.Log.String() != got.GetLogId() || fence.Epoch == 0 ||
			uint32(fence.Epoch) != got.GetEpoch() || fence.LSN != got.GetLsn()) {
			t.Errorf("%v is read as %+v", got, fence)
		}
		branches, err := DecodeBranches(m.GetBranches())
		if _, refused := errors.AsType[*txn.Refusal](err); err != nil && !refused {
			t.Errorf("refused with %v", err)
		}
		if err != nil {
			return
		}
		if len(branches) != len(m.GetBranches()) || len(branches) > participant.MaxBatch {
			t.Errorf("%d branches of %d", len(branches), len(m.GetBranches()))
		}
		for i, ref := range EncodeBranches(branches) {
			if got := m.GetBranches()[i]; ref.GetPreparedName() != got.GetPreparedName() ||
				DecodeEvidence(got.GetEvidence()) != branches[i].Evidence {
				t.Errorf("%v is read as %+v", got, branches[i])
			}
		}
	})
}

// checkMarkers: markers are read whole or not at all, and only those of the log.
func checkMarkers(t *testing.T, markers [][]byte, log txn.LogID) {
	t.Helper()
	ids, err := DecodeMarkers(markers, log)
	if err != nil {
		return
	}
	if len(ids) > MaxMarkers || !slices.EqualFunc(EncodeMarkers(ids), markers, bytes.Equal) {
		t.Errorf("%x are read as %v", markers, ids)
	}
	for _, id := range ids {
		if !id.Valid() || id.Log() != log {
			t.Errorf("%s is a marker of log %s", id, log)
		}
	}
}

// FuzzParticipantAnswers: whatever a participant answers, a word that is not known is never taken
// for a Yes, a commit or a rollback, and another number of answers answers nothing.
func FuzzParticipantAnswers(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte, want uint8) {
		if m, ok := read[gavelv1.PrepareResponse](b); ok {
			checkVotes(t, m.GetVotes(), int(want))
		}
		if m, ok := read[gavelv1.CommitResponse](b); ok {
			checkFindings(t, m.GetFindings(), int(want))
		}
		if m, ok := read[gavelv1.ListInDoubtResponse](b); ok {
			DecodeListing(m.GetHeader())
			checkMarkers(t, m.GetMarkers(), testID().Log())
			listed, err := DecodeListed(m.GetBranches())
			for i, l := range listed {
				name := m.GetBranches()[i].GetPreparedName()
				if err == nil && l.Name.String() != name {
					t.Errorf("%q is read as %s", name, l.Name)
				}
			}
		}
		if m, ok := read[gavelv1.DescribeResponse](b); ok {
			d := DecodeDescription(m)
			for i, c := range d.Checks {
				level := m.GetChecks()[i].GetLevel()
				if c.Level == participant.LevelOK && level != gavelv1.CheckLevel_CHECK_LEVEL_OK {
					t.Errorf("%v is taken for good", level)
				}
			}
		}
	})
}

func checkVotes(t *testing.T, votes []*gavelv1.PreparedVote, want int) {
	t.Helper()
	got, err := DecodePreparedVotes(votes, want)
	if (err == nil) != (len(votes) == want) {
		t.Errorf("%d votes for %d branches: %v", len(votes), want, err)
	}
	for i, v := range got {
		yes := votes[i].GetVote() == gavelv1.Vote_VOTE_YES
		if (v.Vote == txn.VoteYes) != yes || v.Vote == txn.VoteCommitted {
			t.Errorf("%v is read as %v", votes[i].GetVote(), v.Vote)
		}
		checkReason(t, v.Reason)
	}
}

func checkFindings(t *testing.T, findings []*gavelv1.Finding, want int) {
	t.Helper()
	got, err := DecodeFindings(findings, want)
	if (err == nil) != (len(findings) == want) {
		t.Errorf("%d findings for %d branches: %v", len(findings), want, err)
	}
	for i, f := range got {
		says := findings[i].GetStanding()
		committed := says == gavelv1.Standing_STANDING_COMMITTED && whole(findings[i].GetVotes())
		rolledBack := says == gavelv1.Standing_STANDING_ROLLED_BACK
		if (f.Standing == txn.StandingCommitted) != committed ||
			(f.Standing == txn.StandingRolledBack) != rolledBack {
			t.Errorf("%v is read as %v", says, f.Standing)
		}
		held := findings[i].GetVotes()
		if committed && len(f.Votes) != len(held) || !committed && f.Votes != nil {
			t.Errorf("%v are read as %v", held, f.Votes)
		}
		checkReason(t, f.Reason)
	}
}

// whole says whether a marker can hold these votes: in another order they would be one Yes or
// ReadOnly for each of some branches from 1 to 64.
func whole(votes []*gavelv1.MarkerVote) bool {
	seen := map[uint32]bool{}
	for _, v := range votes {
		if v.GetVote() != gavelv1.Vote_VOTE_YES && v.GetVote() != gavelv1.Vote_VOTE_READ_ONLY ||
			v.GetBranch()-1 >= 64 {
			return false
		}
		seen[v.GetBranch()] = true
	}
	return len(seen) == len(votes)
}

// checkReason: a text from elsewhere is short, and no character of it was cut in two.
func checkReason(t *testing.T, s string) {
	t.Helper()
	if len(s) > txn.MaxReasonLen || !utf8.ValidString(s) {
		t.Errorf("a reason of %d bytes: %q", len(s), s)
	}
}

// FuzzTransactionCalls: whatever arrives at a coordinator or comes back from it, a vote that is
// not known is never a Yes, every branch has the name that is its own, and what is known about a
// transaction is written as it was read.
func FuzzTransactionCalls(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, ok := read[gavelv1.CommitTransactionRequest](b); ok {
			votes, err := DecodeBranchVotes(m.GetVotes())
			for i, v := range votes {
				wire := m.GetVotes()[i]
				says := wire.GetVote()
				if err == nil && (uint32(v.Branch) != wire.GetBranch() ||
					(v.Vote == txn.VoteYes) != (says == gavelv1.Vote_VOTE_YES) ||
					(v.Vote == txn.VoteCommitted) != (says == gavelv1.Vote_VOTE_COMMITTED)) {
					t.Errorf("%v is read as %+v", wire, v)
				}
				checkReason(t, v.Reason)
			}
			level := DecodeAckLevel(m.GetAckLevel())
			decided := m.GetAckLevel() == gavelv1.AckLevel_ACK_LEVEL_DECIDED
			if (level == txn.AckDecided) != decided {
				t.Errorf("%v is read as %v", m.GetAckLevel(), level)
			}
		}
		if m, ok := read[gavelv1.BeginTransactionResponse](b); ok {
			checkBegun(t, m)
		}
		if m, ok := read[gavelv1.Transaction](b); ok {
			checkResult(t, m)
		}
	})
}

// checkBegun: the delegate is a branch that the client knows, or there is none.
func checkBegun(t *testing.T, m *gavelv1.BeginTransactionResponse) {
	t.Helper()
	branches, err := DecodeEnlisted(m.GetBranches())
	if err != nil {
		return
	}
	no, err := DecodeDelegate(m.GetDelegate(), branches)
	if err != nil {
		return
	}
	same := func(b txn.Enlisted) bool { return b.Branch == no }
	if uint32(no) != m.GetDelegate() || no != 0 && !slices.ContainsFunc(branches, same) {
		t.Errorf("the delegate %d of %v is read as %d", m.GetDelegate(), branches, no)
	}
}

func checkResult(t *testing.T, m *gavelv1.Transaction) {
	t.Helper()
	r, err := DecodeResult(m)
	if err != nil {
		return
	}
	says := m.GetOutcome()
	if (r.Outcome == txn.OutcomeCommitted) != (says == gavelv1.Outcome_OUTCOME_COMMITTED) ||
		(r.Outcome == txn.OutcomeRolledBack) != (says == gavelv1.Outcome_OUTCOME_ROLLED_BACK) {
		t.Errorf("%v is read as %v", says, r.Outcome)
	}
	for _, b := range r.Branches {
		if b.Name.Branch != b.Branch || b.Name.Seq == 0 {
			t.Errorf("branch %d has the name %s", b.Branch, b.Name)
		}
	}
	again, err := DecodeResult(EncodeResult(r))
	if diff := cmp.Diff(r, again); err != nil || diff != "" {
		t.Errorf("%v is read differently when written again: %v\n%s", m, err, diff)
	}
}

// FuzzErrors: whatever status arrives, an error of a call never says committed, says rolled back
// only with the code for it, and says anything definite only in gavel's own words.
func FuzzErrors(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		m, ok := read[spb.Status](b)
		if !ok || m.GetCode() == int32(codes.OK) {
			return
		}
		in := status.FromProto(m).Err()
		for _, err := range []error{TransactionError(in), ParticipantError(in)} {
			if err == nil {
				t.Fatalf("%v is taken for success", in)
			}
			definite := !errors.Is(err, txn.ErrUnknown)
			if definite && infoOf(in) == nil {
				t.Errorf("%v is believed: %v", in, err)
			}
			o, isOutcome := errors.AsType[*OutcomeError](err)
			if isOutcome && (o.Result.Outcome == txn.OutcomeCommitted ||
				o.Result.Outcome == txn.OutcomeRolledBack && m.GetCode() != int32(codes.Aborted)) {
				t.Errorf("%v is read as %v", in, o.Result.Outcome)
			}
			if Hopeless(in) && definite {
				t.Errorf("%v is hopeless and definite", in)
			}
		}
	})
}

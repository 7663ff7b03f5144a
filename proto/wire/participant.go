package wire

import (
	"fmt"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gavel-tx/gavel/participant"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/txn"
)

func standings() table[txn.Standing, gavelv1.Standing] {
	return table[txn.Standing, gavelv1.Standing]{
		{txn.StandingUnknown, gavelv1.Standing_STANDING_UNKNOWN},
		{txn.StandingPrepared, gavelv1.Standing_STANDING_PREPARED},
		{txn.StandingCommitted, gavelv1.Standing_STANDING_COMMITTED},
		{txn.StandingRolledBack, gavelv1.Standing_STANDING_ROLLED_BACK},
		{txn.StandingGone, gavelv1.Standing_STANDING_GONE},
		{txn.StandingHeld, gavelv1.Standing_STANDING_HELD},
		{txn.StandingForeign, gavelv1.Standing_STANDING_FOREIGN},
	}
}

func levels() table[participant.Level, gavelv1.CheckLevel] {
	return table[participant.Level, gavelv1.CheckLevel]{
		{participant.LevelOK, gavelv1.CheckLevel_CHECK_LEVEL_OK},
		{participant.LevelWarn, gavelv1.CheckLevel_CHECK_LEVEL_WARN},
		{participant.LevelFail, gavelv1.CheckLevel_CHECK_LEVEL_FAIL},
	}
}

// EncodeFence writes a fence.
func EncodeFence(f txn.Fence) *gavelv1.Fence {
	return &gavelv1.Fence{LogId: f.Log.String(), Epoch: uint32(f.Epoch), Lsn: f.LSN,
		Low: uint64(f.Low)}
}

// DecodeFence reads a fence. A call without a whole one cannot be fenced, and is an error.
func DecodeFence(f *gavelv1.Fence) (txn.Fence, error) {
	log, err := txn.ParseLogID(f.GetLogId())
	if err != nil {
		return txn.Fence{}, txn.Refusef(txn.ReasonInvalid, "fence.log_id",
			"%.32q is not a log id of 12 characters", f.GetLogId())
	}
	if f.GetEpoch() == 0 {
		return txn.Fence{}, txn.Refusef(txn.ReasonInvalid, "fence.epoch",
			"it is 0, and epochs begin at 1")
	}
	if f.GetLow() > uint64(txn.MaxSeq) {
		return txn.Fence{}, txn.Refusef(txn.ReasonInvalid, "fence.low",
			"%d is no sequence, which is at most %d", f.GetLow(), txn.MaxSeq)
	}
	return txn.Fence{Log: log, Epoch: txn.Epoch(f.GetEpoch()), LSN: f.GetLsn(),
		Low: txn.Seq(f.GetLow())}, nil
}

// EncodeBranches writes the branches of a participant call.
func EncodeBranches(branches []participant.Branch) []*gavelv1.BranchRef {
	out := make([]*gavelv1.BranchRef, len(branches))
	for i, b := range branches {
		out[i] = &gavelv1.BranchRef{
			PreparedName: b.Name.String(),
			Evidence:     EncodeEvidence(b.Evidence),
		}
	}
	return out
}

// DecodeBranches reads the branches of a participant call, at most participant.MaxBatch of them.
func DecodeBranches(refs []*gavelv1.BranchRef) ([]participant.Branch, error) {
	if len(refs) > participant.MaxBatch {
		return nil, txn.Refusef(txn.ReasonInvalid, "branches",
			"%d branches in one call, at most %d are allowed", len(refs), participant.MaxBatch)
	}
	out := make([]participant.Branch, len(refs))
	for i, r := range refs {
		name, err := txn.ParseName(r.GetPreparedName())
		if err != nil {
			return nil, txn.Refusef(txn.ReasonInvalid, fmt.Sprintf("branches[%d].prepared_name", i),
				"%.64q is not a prepared name of gavel", r.GetPreparedName())
		}
		out[i] = participant.Branch{Name: name, Evidence: DecodeEvidence(r.GetEvidence())}
	}
	return out, nil
}

// EncodePreparedVotes writes the answer of Prepare.
func EncodePreparedVotes(votes []participant.Vote) []*gavelv1.PreparedVote {
	out := make([]*gavelv1.PreparedVote, len(votes))
	for i, v := range votes {
		out[i] = &gavelv1.PreparedVote{
			Vote:     EncodeVote(v.Vote),
			Evidence: EncodeEvidence(v.Evidence),
			Reason:   clean(Cut(v.Reason, txn.MaxReasonLen)),
			Sqlstate: clean(v.SQLState),
		}
	}
	return out
}

// DecodePreparedVotes reads the answer of Prepare for want branches. Another number of answers
// answers nothing: an error. Who is asked to prepare cannot commit: VoteCommitted is VoteUnknown.
func DecodePreparedVotes(votes []*gavelv1.PreparedVote, want int) ([]participant.Vote, error) {
	if len(votes) != want {
		return nil, fmt.Errorf("wire: %d votes for %d branches", len(votes), want)
	}
	out := make([]participant.Vote, len(votes))
	for i, v := range votes {
		out[i] = participant.Vote{
			Vote:     DecodeVote(v.GetVote()),
			Evidence: DecodeEvidence(v.GetEvidence()),
			Reason:   Cut(v.GetReason(), txn.MaxReasonLen),
			SQLState: v.GetSqlstate(),
		}
		if out[i].Vote == txn.VoteCommitted {
			out[i].Vote = txn.VoteUnknown
		}
	}
	return out, nil
}

// EncodeFindings writes the answer of Commit, Rollback, Inquire and Decide.
func EncodeFindings(findings []participant.Finding) []*gavelv1.Finding {
	out := make([]*gavelv1.Finding, len(findings))
	for i, f := range findings {
		out[i] = &gavelv1.Finding{
			Standing: standings().toWire(f.Standing, gavelv1.Standing_STANDING_UNKNOWN),
			Reason:   clean(Cut(f.Reason, txn.MaxReasonLen)),
			Sqlstate: clean(f.SQLState),
			Evidence: EncodeEvidence(f.Evidence),
			Votes:    encodeMarkerVotes(f.Votes),
		}
	}
	return out
}

// DecodeFindings reads the answer of Commit, Rollback, Inquire and Decide for want branches.
// Another number of answers answers nothing: an error. A commit whose votes cannot be those of a
// marker is StandingUnknown, with a reason that says what is wrong.
func DecodeFindings(findings []*gavelv1.Finding, want int) ([]participant.Finding, error) {
	if len(findings) != want {
		return nil, fmt.Errorf("wire: %d findings for %d branches", len(findings), want)
	}
	out := make([]participant.Finding, len(findings))
	for i, f := range findings {
		out[i] = decodeFinding(f)
	}
	return out, nil
}

func decodeFinding(f *gavelv1.Finding) participant.Finding {
	out := participant.Finding{
		Standing: standings().fromWire(f.GetStanding(), txn.StandingUnknown),
		Reason:   Cut(f.GetReason(), txn.MaxReasonLen),
		SQLState: f.GetSqlstate(),
		Evidence: DecodeEvidence(f.GetEvidence()),
	}
	if out.Standing != txn.StandingCommitted {
		return out
	}
	votes, err := decodeMarkerVotes(f.GetVotes())
	if err != nil {
		// To commit over votes that are only half understood could leave a branch behind.
		return participant.Finding{Standing: txn.StandingHeld, Reason: err.Error()}
	}
	out.Votes = votes
	return out
}

// EncodeListed writes prepared branches of a listing.
func EncodeListed(listed []participant.Listed) []*gavelv1.ListedBranch {
	out := make([]*gavelv1.ListedBranch, len(listed))
	for i, l := range listed {
		out[i] = &gavelv1.ListedBranch{
			PreparedName: l.Name.String(),
			Ours:         l.Ours,
			Owner:        clean(l.Owner),
			Age:          durationpb.New(l.Age),
			Evidence:     EncodeEvidence(l.Evidence),
		}
	}
	return out
}

// DecodeListed reads prepared branches of a listing. A name that does not parse spoils the whole
// listing: the other side promised to send only names of gavel.
func DecodeListed(listed []*gavelv1.ListedBranch) ([]participant.Listed, error) {
	out := make([]participant.Listed, len(listed))
	for i, l := range listed {
		name, err := txn.ParseName(l.GetPreparedName())
		if err != nil {
			return nil, fmt.Errorf("wire: listed branch %.64q: %w", l.GetPreparedName(), err)
		}
		out[i] = participant.Listed{
			Name:     name,
			Ours:     l.GetOurs(),
			Owner:    l.GetOwner(),
			Age:      l.GetAge().AsDuration(),
			Evidence: DecodeEvidence(l.GetEvidence()),
		}
	}
	return out, nil
}

// EncodeListing writes all of a listing but its branches and its markers.
func EncodeListing(l participant.Listing) *gavelv1.ListingHeader {
	return &gavelv1.ListingHeader{
		Identity:  EncodeIdentity(l.Identity),
		Position:  EncodePosition(l.Position),
		Count:     uint32(len(l.Branches)),
		Unknown:   uint32(l.Unknown),
		Truncated: l.Truncated,
		Used:      uint32(l.Used),
		Limit:     uint32(l.Limit),
		Markers:   uint32(len(l.Markers)),
	}
}

// DecodeListing reads all of a listing but its branches and its markers.
func DecodeListing(h *gavelv1.ListingHeader) participant.Listing {
	return participant.Listing{
		Identity:  DecodeIdentity(h.GetIdentity()),
		Position:  DecodePosition(h.GetPosition()),
		Unknown:   int(h.GetUnknown()),
		Truncated: h.GetTruncated(),
		Used:      int(h.GetUsed()),
		Limit:     int(h.GetLimit()),
	}
}

// EncodeDescription writes what a resource says about itself.
func EncodeDescription(d participant.Description) *gavelv1.DescribeResponse {
	out := &gavelv1.DescribeResponse{
		Kind:     clean(d.Kind),
		Version:  clean(d.Version),
		Identity: EncodeIdentity(d.Identity),
		Position: EncodePosition(d.Position),
		Used:     uint32(d.Used),
		Limit:    uint32(d.Limit),
		Evidence: d.Evidence,
		OnePhase: d.OnePhase,
		Delegate: d.Delegate,
		Checks:   make([]*gavelv1.Check, len(d.Checks)),
	}
	for i, c := range d.Checks {
		out.Checks[i] = &gavelv1.Check{
			Level: levels().toWire(c.Level, gavelv1.CheckLevel_CHECK_LEVEL_FAIL),
			What:  clean(c.What),
			Fix:   clean(c.Fix),
		}
	}
	return out
}

// DecodeDescription reads what a resource says about itself. A level that it does not know is
// LevelFail.
func DecodeDescription(d *gavelv1.DescribeResponse) participant.Description {
	out := participant.Description{
		Kind:     d.GetKind(),
		Version:  d.GetVersion(),
		Identity: DecodeIdentity(d.GetIdentity()),
		Position: DecodePosition(d.GetPosition()),
		Used:     int(d.GetUsed()),
		Limit:    int(d.GetLimit()),
		Evidence: d.GetEvidence(),
		OnePhase: d.GetOnePhase(),
		Delegate: d.GetDelegate(),
	}
	for _, c := range d.GetChecks() {
		out.Checks = append(out.Checks, participant.Check{
			Level: levels().fromWire(c.GetLevel(), participant.LevelFail),
			What:  c.GetWhat(),
			Fix:   c.GetFix(),
		})
	}
	return out
}

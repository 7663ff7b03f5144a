package wire

import (
	"fmt"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/txn"
)

// MaxMarkers bounds the markers in one message. A listing goes on in further messages, and a
// removal in further calls: each stays well below the 64 KiB that a server accepts.
const MaxMarkers = 2000

// encodeMarkerVotes writes what a marker holds. Reasons are not of it.
func encodeMarkerVotes(votes []txn.BranchVote) []*gavelv1.MarkerVote {
	out := make([]*gavelv1.MarkerVote, len(votes))
	for i, v := range votes {
		out[i] = &gavelv1.MarkerVote{
			Branch:   uint32(v.Branch),
			Vote:     EncodeVote(v.Vote),
			Evidence: EncodeEvidence(v.Evidence),
		}
	}
	return out
}

// decodeMarkerVotes reads what a marker holds. Whatever no marker can hold is an error: the votes
// say which branches must be committed, and each of them must be understood.
func decodeMarkerVotes(votes []*gavelv1.MarkerVote) ([]txn.BranchVote, error) {
	if len(votes) > txn.MaxBranches {
		return nil, fmt.Errorf("wire: a marker with %d votes, at most %d are allowed", len(votes),
			txn.MaxBranches)
	}
	var out []txn.BranchVote
	var seen [txn.MaxBranches + 1]bool
	for _, v := range votes {
		no, vote := v.GetBranch(), DecodeVote(v.GetVote())
		switch {
		case no == 0 || no > txn.MaxBranches:
			return nil, fmt.Errorf("wire: a marker with a vote of branch %d, which is not within "+
				"1 and %d", no, txn.MaxBranches)
		case seen[no]:
			return nil, fmt.Errorf("wire: a marker with two votes of branch %d", no)
		case vote != txn.VoteYes && vote != txn.VoteReadOnly:
			return nil, fmt.Errorf("wire: a marker with a vote of branch %d that is no yes: %d", no,
				v.GetVote())
		}
		seen[no] = true
		out = append(out, txn.BranchVote{
			Branch: txn.BranchNo(no), Vote: vote, Evidence: DecodeEvidence(v.GetEvidence()),
		})
	}
	return out, nil
}

// EncodeMarkers writes the transactions that have a marker. The result shares nothing with ids.
func EncodeMarkers(ids []txn.ID) [][]byte {
	out := make([][]byte, len(ids))
	all := make([]byte, 0, len(ids)*len(txn.ID{}))
	for i, id := range ids {
		start := len(all)
		all = append(all, id[:]...)
		out[i] = all[start:len(all):len(all)]
	}
	return out
}

// DecodeMarkers reads the transactions that have a marker, all of them of log and at most
// [MaxMarkers]. An error names the first that cannot be one, and spoils them all. The result shares
// nothing with markers.
func DecodeMarkers(markers [][]byte, log txn.LogID) ([]txn.ID, error) {
	if len(markers) > MaxMarkers {
		return nil, fmt.Errorf("wire: %d markers in one message, at most %d are allowed",
			len(markers), MaxMarkers)
	}
	out := make([]txn.ID, len(markers))
	for i, m := range markers {
		if len(m) != len(out[i]) {
			return nil, fmt.Errorf("wire: marker %d has %d bytes, not %d", i, len(m), len(out[i]))
		}
		out[i] = txn.ID(m)
		if !out[i].Valid() || out[i].Log() != log {
			return nil, fmt.Errorf("wire: marker %d, %s, is not of a transaction of log %s", i,
				out[i], log)
		}
	}
	return out, nil
}

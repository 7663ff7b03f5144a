package wire

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/gavel-tx/gavel/participant"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/txn"
)

func yes(branch uint32) *gavelv1.MarkerVote {
	return &gavelv1.MarkerVote{Branch: branch, Vote: gavelv1.Vote_VOTE_YES}
}

// TestMarkerVotesAreChecked: a commit over votes that no marker can hold is not known to be one,
// and the others of the same answer are what they were.
func TestMarkerVotesAreChecked(t *testing.T) {
	var many []*gavelv1.MarkerVote
	for i := range uint32(txn.MaxBranches + 1) {
		many = append(many, yes(i+1))
	}
	for want, votes := range map[string][]*gavelv1.MarkerVote{
		"branch 0":      {yes(1), yes(0)},
		"branch 65,":    {yes(txn.MaxBranches + 1)},
		"branch 65537":  {yes(1<<16 + 1)},
		"two votes":     {yes(2), yes(3), yes(2)},
		"65 votes":      many,
		"is no yes: 0":  {{Branch: 1}},
		"is no yes: 1":  {{Branch: 1, Vote: gavelv1.Vote_VOTE_UNKNOWN}},
		"is no yes: 3":  {{Branch: 1, Vote: gavelv1.Vote_VOTE_NO}},
		"is no yes: 5":  {{Branch: 1, Vote: gavelv1.Vote_VOTE_COMMITTED}},
		"is no yes: 99": {{Branch: 1, Vote: 99}},
		"of branch 0":   {nil},
	} {
		committed := gavelv1.Standing_STANDING_COMMITTED
		got, err := DecodeFindings([]*gavelv1.Finding{
			{Standing: committed, Votes: votes, Evidence: EncodeEvidence(evidence())},
			{Standing: committed, Votes: many[:txn.MaxBranches]},
		}, 2)
		if err != nil {
			t.Fatal(err)
		}
		if got[0].Standing != txn.StandingHeld || got[0].Votes != nil ||
			!got[0].Evidence.IsZero() || !strings.Contains(got[0].Reason, want) {
			t.Errorf("%s: %+v", want, got[0])
		}
		if got[1].Standing != txn.StandingCommitted || len(got[1].Votes) != txn.MaxBranches {
			t.Errorf("%s spoils %+v", want, got[1])
		}
	}
}

// TestMarkerVotesOfOthers: only a commit has them.
func TestMarkerVotesOfOthers(t *testing.T) {
	for standing := range gavelv1.Standing_name {
		got, err := DecodeFindings([]*gavelv1.Finding{{
			Standing: gavelv1.Standing(standing), Votes: []*gavelv1.MarkerVote{yes(1)},
		}}, 1)
		committed := gavelv1.Standing(standing) == gavelv1.Standing_STANDING_COMMITTED
		if err != nil || (len(got[0].Votes) == 1) != committed {
			t.Errorf("%v: %+v, %v", gavelv1.Standing(standing), got, err)
		}
	}
}

// TestPreparedVotesNeverCommit: who is asked to prepare has no decision to tell.
func TestPreparedVotesNeverCommit(t *testing.T) {
	got, err := DecodePreparedVotes([]*gavelv1.PreparedVote{
		{Vote: gavelv1.Vote_VOTE_COMMITTED}, {Vote: gavelv1.Vote_VOTE_YES},
	}, 2)
	if err != nil || got[0].Vote != txn.VoteUnknown || got[1].Vote != txn.VoteYes {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestDelegate(t *testing.T) {
	branches := []txn.Enlisted{{Branch: 1}, {Branch: 2}}
	for no, ok := range map[uint32]bool{0: true, 1: true, 2: true, 3: false, 1 << 16: false,
		1<<16 + 1: false} {
		got, err := DecodeDelegate(no, branches)
		if (err == nil) != ok || ok && uint32(got) != no || !ok && got != 0 {
			t.Errorf("%d is read as %d, %v", no, got, err)
		}
	}
}

func markers(n int) []txn.ID {
	out := make([]txn.ID, n)
	for i := range out {
		out[i] = txn.NewID(testID().Log(), txn.Seq(i+1))
	}
	return out
}

// TestMarkersRoundTrip: as many as a message may have come through, and none at all.
func TestMarkersRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, MaxMarkers} {
		in := markers(n)
		msg := relay(t, &gavelv1.RemoveMarkersRequest{Markers: EncodeMarkers(in)},
			&gavelv1.RemoveMarkersRequest{})
		got, err := DecodeMarkers(msg.GetMarkers(), testID().Log())
		if err != nil || !slices.Equal(in, got) {
			t.Errorf("%d markers: %v", n, err)
		}
	}
}

// TestMarkersAreNotShared: what is written is of its own, and an append to one marker does not
// reach into the next.
func TestMarkersAreNotShared(t *testing.T) {
	in := markers(2)
	want := slices.Clone(in)
	out := EncodeMarkers(in)
	_ = append(out[0], 0xff)
	out[0][15]++
	got, err := DecodeMarkers(out[1:], testID().Log())
	if err != nil || got[0] != want[1] || !slices.Equal(in, want) {
		t.Errorf("%v, %v; %v", got, err, in)
	}
	out[1][15]++
	if got[0] != want[1] {
		t.Error("what was read changes with its message")
	}
}

// TestMarkersAreChecked: one that cannot be a marker of the log spoils them all.
func TestMarkersAreChecked(t *testing.T) {
	good := testID()
	foreign := txn.NewID(good.Log()+1, good.Seq())
	var version4 txn.ID
	copy(version4[:], good[:])
	version4[6] = 4 << 4
	for name, bad := range map[string][]byte{
		"empty": {}, "nil": nil, "short": good[:15], "half": good[:8],
		"long": append(good[:], 0), "of another log": foreign[:], "zero": make([]byte, 16),
		"of another make": version4[:], "text": []byte(good.String()),
	} {
		got, err := DecodeMarkers([][]byte{good[:], bad}, good.Log())
		if err == nil || got != nil || !strings.Contains(err.Error(), "marker 1") {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if _, err := DecodeMarkers(EncodeMarkers(markers(MaxMarkers+1)), good.Log()); err == nil {
		t.Error("too many are accepted")
	}
}

// TestMarkerMessagesFit: the largest call and the largest answers stay within what servers, and
// clients, accept.
func TestMarkerMessagesFit(t *testing.T) {
	largest := txn.NewID(txn.MaxLogID, txn.MaxSeq)
	far := txn.Evidence{
		Identity: txn.Identity{System: 1<<64 - 1, Database: 1<<32 - 1},
		Position: txn.Position{Timeline: 1<<32 - 1, LSN: 1<<64 - 1}, XID: 1<<64 - 1,
	}
	call := &gavelv1.RemoveMarkersRequest{
		Fence:    EncodeFence(txn.Fence{Log: txn.MaxLogID, Epoch: 1<<32 - 1, LSN: 1<<64 - 1}),
		Resource: strings.Repeat("x", txn.MaxResourceNameLen),
		Markers:  EncodeMarkers(slices.Repeat([]txn.ID{largest}, MaxMarkers)),
	}
	if n := proto.Size(call); n > 64<<10 {
		t.Errorf("a removal of %d bytes", n)
	}
	finding := participant.Finding{Standing: txn.StandingCommitted, Evidence: far,
		Reason: strings.Repeat("x", txn.MaxReasonLen)}
	for i := range txn.MaxBranches {
		finding.Votes = append(finding.Votes, txn.BranchVote{
			Branch: txn.BranchNo(i + 1), Vote: txn.VoteYes, Evidence: far})
	}
	full := slices.Repeat([]participant.Finding{finding}, participant.MaxBatch)
	answer := &gavelv1.DecideResponse{Findings: EncodeFindings(full)}
	if n := proto.Size(answer); n > 4<<20 {
		t.Errorf("decisions of %d bytes", n)
	}
}

// TestRandomFindings: whatever a delegate can say comes out as it went in.
func TestRandomFindings(t *testing.T) {
	for seed := range uint64(300) {
		d := newDraw(seed)
		in := make([]participant.Finding, d.IntN(10))
		for i := range in {
			in[i] = participant.Finding{
				Standing: txn.Standing(d.IntN(7)), Reason: d.text(), Evidence: d.evidence()}
			if in[i].Standing != txn.StandingCommitted {
				continue
			}
			for _, no := range d.Perm(txn.MaxBranches)[:d.IntN(txn.MaxBranches)] {
				vote := []txn.Vote{txn.VoteYes, txn.VoteReadOnly}[d.IntN(2)]
				in[i].Votes = append(in[i].Votes, txn.BranchVote{
					Branch: txn.BranchNo(no + 1), Vote: vote, Evidence: d.evidence()})
			}
		}
		msg := &gavelv1.DecideResponse{Findings: EncodeFindings(in)}
		got, err := DecodeFindings(relay(t, msg, &gavelv1.DecideResponse{}).GetFindings(), len(in))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if diff := cmp.Diff(in, got); diff != "" {
			t.Fatalf("seed %d:\n%s", seed, diff)
		}
	}
}

package remote

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gavel-tx/gavel/participant"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/txn"
)

func (f *fake) Decide(
	_ context.Context, fence txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return f.findings, f.called("decide", fence, b)
}

func (f *fake) RemoveMarkers(_ context.Context, fence txn.Fence, ids []txn.ID) error {
	err := f.called("remove", fence, nil)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.removed = append(f.removed, ids)
	return err
}

func ids(n int) []txn.ID {
	out := make([]txn.ID, n)
	for i := range out {
		out[i] = txn.NewID(testLog, txn.Seq(i+1))
	}
	return out
}

// votesOf is what a marker holds that was written for n branches beside the delegate's.
func votesOf(n int) []txn.BranchVote {
	out := make([]txn.BranchVote, n)
	for i := range out {
		out[i] = txn.BranchVote{
			Branch: txn.BranchNo(i + 1), Vote: txn.VoteYes, Evidence: branch(1).Evidence}
	}
	return out
}

// TestDecidePasses: a full call comes back with everything that its markers hold.
func TestDecidePasses(t *testing.T) {
	f := &fake{}
	in := make([]participant.Branch, participant.MaxBatch)
	for i := range in {
		in[i] = participant.Branch{Name: txn.NameOf(ids(i + 1)[i], 1), Evidence: branch(1).Evidence}
		f.findings = append(f.findings, participant.Finding{
			Standing: txn.StandingCommitted, Evidence: branch(1).Evidence,
			Votes: votesOf(txn.MaxBranches - 1)[:i%txn.MaxBranches],
		})
		if i%txn.MaxBranches == 0 {
			f.findings[i].Standing, f.findings[i].Votes = txn.StandingRolledBack, nil
		}
	}
	c, _ := over(t, f)
	got, err := c.Decide(t.Context(), at(1, 5), in)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(f.findings, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(in, f.branches); diff != "" {
		t.Error(diff)
	}
	if !slices.Equal(f.calls, []string{"hello", "decide"}) || f.fences[1] != at(1, 5) {
		t.Errorf("calls %v with %v", f.calls, f.fences)
	}
	if _, err := c.Decide(t.Context(), at(1, 5), append(in, in[0])); txn.ReasonOf(err) !=
		txn.ReasonInvalid || len(f.calls) != 2 {
		t.Errorf("one too many: %v", err)
	}
}

// TestRemoveMarkers: all of them arrive, in their order, however many calls that takes.
func TestRemoveMarkers(t *testing.T) {
	for _, n := range []int{
		0, 1, wire.MaxMarkers, wire.MaxMarkers + 1, participant.MaxMarkers,
	} {
		f := &fake{}
		c, _ := over(t, f)
		if err := c.RemoveMarkers(t.Context(), at(1, 1), ids(n)); err != nil {
			t.Fatal(err)
		}
		got := slices.Concat(f.removed...)
		if !slices.Equal(got, ids(n)) || len(f.removed) != (n+wire.MaxMarkers-1)/wire.MaxMarkers {
			t.Errorf("%d of %d were removed in %d calls", len(got), n, len(f.removed))
		}
	}
}

// TestRemoveTooManyMarkers: beyond the limit nothing is removed, and nobody is called.
func TestRemoveTooManyMarkers(t *testing.T) {
	f := &fake{}
	c, _ := over(t, f)
	err := c.RemoveMarkers(t.Context(), at(1, 1), ids(participant.MaxMarkers+1))
	if txn.ReasonOf(err) != txn.ReasonInvalid || len(f.calls) != 0 {
		t.Errorf("%v, calls %v", err, f.calls)
	}
}

// TestRemovalEndsWithAnError: what comes behind a call that failed stays.
func TestRemovalEndsWithAnError(t *testing.T) {
	f := &fake{}
	c, _ := over(t, f)
	if err := c.RemoveMarkers(t.Context(), at(1, 1), ids(1)); err != nil {
		t.Fatal(err)
	}
	f.err, f.removed = errors.New("connection refused"), nil
	err := c.RemoveMarkers(t.Context(), at(1, 1), ids(3*wire.MaxMarkers))
	if !errors.Is(err, txn.ErrUnknown) || len(f.removed) != 1 {
		t.Errorf("%v after %d calls", err, len(f.removed))
	}
}

// TestBadRemovals come from other clients than ours. A log has its own markers removed alone.
func TestBadRemovals(t *testing.T) {
	f := &fake{}
	c, _ := over(t, f)
	fence := &gavelv1.Fence{LogId: testLog.String(), Epoch: 1}
	foreign := txn.NewID(testLog+1, 1)
	for name, r := range map[string]*gavelv1.RemoveMarkersRequest{
		"no fence":       {Markers: wire.EncodeMarkers(ids(1))},
		"too many":       {Fence: fence, Markers: wire.EncodeMarkers(ids(wire.MaxMarkers + 1))},
		"short":          {Fence: fence, Markers: [][]byte{foreign[:15]}},
		"of another log": {Fence: fence, Markers: [][]byte{foreign[:]}},
		"one of many": {Fence: fence,
			Markers: append(wire.EncodeMarkers(ids(2)), foreign[:])},
	} {
		_, err := c.service.RemoveMarkers(t.Context(), r)
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(f.calls) != 0 {
		t.Errorf("bad removals got through: %v", f.calls)
	}
}

// TestListingOfMarkers: markers travel beside the branches, and go on when those are over.
func TestListingOfMarkers(t *testing.T) {
	for _, n := range []struct{ branches, markers int }{
		{0, 1}, {1, wire.MaxMarkers}, {0, wire.MaxMarkers + 1}, {3*listChunk + 7, 5},
		{listChunk + 1, participant.MaxMarkers},
	} {
		f := &fake{listing: participant.Listing{Identity: txn.Identity{System: 9, Database: 8}}}
		for i := range n.branches {
			f.listing.Branches = append(f.listing.Branches,
				participant.Listed{Name: txn.NameOf(txn.NewID(testLog, txn.Seq(i+1)), 1)})
		}
		f.listing.Markers = ids(n.markers)
		c, _ := over(t, f)
		got, err := c.List(t.Context(), at(1, 1))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(f.listing, got); diff != "" {
			t.Errorf("%+v: %s", n, diff)
		}
	}
}

// TestBrokenListingsOfMarkers: a marker too few would stay for ever, one of another log would be
// removed from under it, and one too many is of another listing.
func TestBrokenListingsOfMarkers(t *testing.T) {
	header := func(n uint32) *gavelv1.ListingHeader { return &gavelv1.ListingHeader{Markers: n} }
	foreign := txn.NewID(testLog+1, 1)
	two, rest := wire.EncodeMarkers(ids(2)), wire.EncodeMarkers(ids(wire.MaxMarkers))
	type message = gavelv1.ListInDoubtResponse
	const messages = participant.MaxMarkers/wire.MaxMarkers + 1
	endless := []*message{{Header: header(messages * wire.MaxMarkers)}}
	for range messages {
		endless = append(endless, &message{Markers: rest})
	}
	cases := map[string]*broken{
		"too few":        {messages: []*message{{Header: header(3), Markers: two}}},
		"too many":       {messages: []*message{{Header: header(1), Markers: two}}},
		"later too many": {messages: []*message{{Header: header(1)}, {Markers: two}}},
		"unannounced":    {messages: []*message{{Header: header(0), Markers: two}}},
		"of another log": {messages: []*message{{Header: header(1),
			Markers: [][]byte{foreign[:]}}}},
		"half":    {messages: []*message{{Header: header(1), Markers: [][]byte{foreign[:8]}}}},
		"endless": {messages: endless},
		"broken off": {err: status.Error(codes.Unavailable, "reset"),
			messages: []*message{{Header: header(2), Markers: two}}},
	}
	for name, b := range cases {
		got, err := serve(t, b).List(t.Context(), at(1, 1))
		if !errors.Is(err, txn.ErrUnknown) || txn.ReasonOf(err) != "" || len(got.Markers) != 0 {
			t.Errorf("%s: %d markers, %v", name, len(got.Markers), err)
		}
	}
}

// keepsNone says that somebody has to see to a decision, though the resource answers.
func keepsNone(t *testing.T, c *Client) {
	t.Helper()
	_, decide := c.Decide(t.Context(), at(1, 1), []participant.Branch{branch(1)})
	remove := c.RemoveMarkers(t.Context(), at(1, 1), ids(1))
	for _, err := range []error{decide, remove} {
		if !errors.Is(err, participant.ErrNoMarkers) {
			t.Errorf("%v", err)
		}
	}
}

// TestDelegateRefused: a resource that keeps no markers is asked for none, whatever it says of
// itself.
func TestDelegateRefused(t *testing.T) {
	f := &fake{findings: make([]participant.Finding, 1)}
	c, _ := over(t, boastful{plain{f}})
	if d, err := c.Describe(t.Context()); err != nil || d.Delegate {
		t.Errorf("%+v, %v", d, err)
	}
	keepsNone(t, c)
	if !slices.Equal(f.calls, []string{"describe"}) {
		t.Errorf("calls %v", f.calls)
	}
}

// TestDelegateOfOlderParticipants: one that does not know the methods leaves everything open, and
// the resource is not taken for one that does not answer.
func TestDelegateOfOlderParticipants(t *testing.T) {
	c := serve(t, &broken{})
	keepsNone(t, c)
}

// TestDelegateFencing: the server remembers the fence of a decision, and refuses the deposed
// coordinator and the wrong address before it asks for one.
func TestDelegateFencing(t *testing.T) {
	f := &fake{findings: make([]participant.Finding, 1)}
	old, s := over(t, f)
	ctx, in := t.Context(), []participant.Branch{branch(1)}
	if _, err := old.Decide(ctx, at(1, 100), in); err != nil {
		t.Fatal(err)
	}
	if err := serve(t, s).RemoveMarkers(ctx, at(2, 99), ids(1)); !errors.Is(err,
		participant.ErrRegression) {
		t.Errorf("a newer epoch of a shorter log: %v", err)
	}
	if _, err := serve(t, s).Decide(ctx, at(2, 100), in); err != nil {
		t.Fatal(err)
	}
	calls := len(f.calls)
	_, decide := old.Decide(ctx, at(1, 101), in)
	remove := old.RemoveMarkers(ctx, at(1, 101), ids(1))
	for _, err := range []error{decide, remove} {
		if !errors.Is(err, participant.ErrFenced) {
			t.Errorf("the deposed coordinator: %v", err)
		}
	}
	lost := serve(t, s, WithResource("bank_b"))
	_, decide = lost.Decide(ctx, at(2, 101), in)
	remove = lost.RemoveMarkers(ctx, at(2, 101), ids(1))
	for _, err := range []error{decide, remove} {
		if txn.ReasonOf(err) != txn.ReasonNoResource {
			t.Errorf("another resource: %v", err)
		}
	}
	if len(f.calls) != calls {
		t.Errorf("refused calls reached the resource: %v", f.calls[calls:])
	}
}

// table is a resource with markers: whoever is first to write one decides.
type table struct {
	fake
	rows map[txn.ID][]txn.BranchVote
}

// commit is the client's: it commits the delegate's branch with its marker, unless there is one.
func (r *table) commit(id txn.ID, votes []txn.BranchVote) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, there := r.rows[id]; there {
		return false
	}
	r.rows[id] = votes
	return true
}

func (r *table) Decide(
	_ context.Context, _ txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]participant.Finding, len(b))
	for i, x := range b {
		votes, there := r.rows[x.Name.ID()]
		if !there {
			r.rows[x.Name.ID()] = nil
		}
		out[i] = participant.Finding{Standing: txn.StandingRolledBack, Evidence: x.Evidence}
		if votes != nil {
			out[i].Standing, out[i].Votes = txn.StandingCommitted, votes
		}
	}
	return out, nil
}

// TestOneDecision: over the wire too, a client that commits and many that ask at the same time
// hear of one decision.
func TestOneDecision(t *testing.T) {
	const rounds, askers = 50, 4
	r := &table{rows: map[txn.ID][]txn.BranchVote{}}
	c, _ := over(t, r)
	for i, id := range ids(rounds) {
		in := []participant.Branch{{Name: txn.NameOf(id, 2), Evidence: branch(1).Evidence}}
		var committed bool
		heard := make([]participant.Finding, askers)
		var wg sync.WaitGroup
		wg.Go(func() { committed = r.commit(id, votesOf(3)) })
		for a := range askers {
			wg.Go(func() {
				got, err := c.Decide(t.Context(), at(1, uint64(i+1)), in)
				if err != nil {
					t.Error(err)
					return
				}
				heard[a] = got[0]
			})
		}
		wg.Wait()
		want := participant.Finding{Standing: txn.StandingRolledBack, Evidence: branch(1).Evidence}
		if committed {
			want.Standing, want.Votes = txn.StandingCommitted, votesOf(3)
		}
		for a, got := range heard {
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("round %d, asker %d:\n%s", i, a, diff)
			}
		}
	}
}

package protocol

import (
	"slices"
	"testing"

	"github.com/gavel-tx/gavel/txn"
)

// pages lists everything in pages of n.
func pages(m *Machine, n int) (all []txn.ID) {
	var after txn.ID
	for {
		page, next := m.List(after, n)
		for _, t := range page {
			all = append(all, t.ID)
		}
		if next.IsZero() {
			return all
		}
		after = next
	}
}

// TestList: pages of any size show every live transaction once, in order, with those of an adopted
// log on either side, and what has ended takes no memory.
func TestList(t *testing.T) {
	s := NewState(testLog)
	var want []txn.ID
	for _, r := range []Record{
		RangeRecord{Low: 1, High: 100_000}, ResourceRecord{RM: 1, Name: "a"},
		AdoptedRecord{Log: testLog - 1, Epoch: 1}, AdoptedRecord{Log: testLog + 1, Epoch: 1},
	} {
		if err := s.Apply(r); err != nil {
			t.Fatal(err)
		}
	}
	for _, log := range []txn.LogID{testLog - 1, testLog, testLog + 1} {
		id := txn.NewID(log, 5)
		c := CommitRecord{ID: id, Plan: txn.PlanClassic,
			Branches: []CommitBranch{{Branch: 1, RM: 1}}}
		if err := s.Apply(c); err != nil {
			t.Fatal(err)
		}
		want = append(want, id)
	}
	m := New(s, Config{}, 0)
	m.Step(Persisted{Index: m.index})
	for range 10_000 {
		m.Step(Begin{Req: 1})
		m.Step(Persisted{Index: m.index})
		id := m.Ready().Replies[0].Begun.ID
		if len(m.order) > 2*len(m.live)+1024 {
			t.Fatalf("%d ids for %d transactions", len(m.order), len(m.live))
		}
		if id.Seq()%1000 == 7 {
			want = append(want, id)
			continue
		}
		m.Step(Rollback{ID: id})
	}
	slices.SortFunc(want, compareIDs)
	if len(want) < 12 {
		t.Fatalf("only %d transactions run", len(want))
	}
	for _, n := range []int{1, 2, 7, 1000, 100_000} {
		if got := pages(m, n); !slices.Equal(got, want) {
			t.Errorf("pages of %d show %d of %d", n, len(got), len(want))
		}
	}
	for i, id := range want {
		if page, _ := m.List(id, 100_000); len(page) != len(want)-i-1 {
			t.Errorf("behind %s are %d", id, len(page))
		}
	}
	if page, _ := m.List(txn.NewID(testLog, 6), 100_000); len(page) != len(want)-2 {
		t.Errorf("behind an id that is nowhere are %d of %d", len(page), len(want))
	}
}

package protocol

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/gavel-tx/gavel/txn"
)

func id(seq txn.Seq) txn.ID { return txn.NewID(testLog, seq) }

func mustApply(t interface{ Fatalf(string, ...any) }, s *State, records ...Record) {
	for _, r := range records {
		if err := s.Apply(r); err != nil {
			t.Fatalf("apply %+v: %v", r, err)
		}
	}
}

func twoResources() []Record {
	return []Record{
		RangeRecord{Low: 1, High: 1000},
		ResourceRecord{RM: 1, Name: "a", Identity: txn.Identity{System: 1}},
		ResourceRecord{RM: 2, Name: "b", Identity: txn.Identity{System: 2}},
	}
}

func commitOf(seq txn.Seq) CommitRecord {
	return CommitRecord{
		ID:       id(seq),
		Plan:     txn.PlanClassic,
		Branches: []CommitBranch{{Branch: 1, RM: 1}, {Branch: 2, RM: 2}},
	}
}

// TestContradictions: records that cannot follow what the log says are refused, each by its own
// name.
func TestContradictions(t *testing.T) {
	ended := EndRecord{IDs: []txn.ID{id(5)}}
	stranger := CommitRecord{ID: id(5), Plan: txn.PlanClassic,
		Branches: []CommitBranch{{Branch: 1, RM: 3}}}
	upTo := func(low, high txn.Seq) Record { return RangeRecord{Low: low, High: high} }
	for name, r := range map[string][]Record{
		"a commit twice":                   {commitOf(5), commitOf(5)},
		"a commit after its end":           {commitOf(5), ended, commitOf(5)},
		"an end without a commit":          {ended},
		"a commit beyond the range":        {commitOf(1000)},
		"a commit below the range":         {upTo(6, 1000), commitOf(5)},
		"a range that shrinks":             {upTo(1, 999)},
		"a range that forgets less":        {upTo(6, 1000), upTo(5, 1000)},
		"a resource out of order":          {ResourceRecord{RM: 4, Name: "d"}},
		"a resource that changes its name": {ResourceRecord{RM: 1, Name: "z"}},
		"a commit of an unknown resource":  {stranger},
		"an outcome outside the range":     {OutcomesRecord{First: 960, Bits: []byte{5: 1}}},
		"a record of no type":              {nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewState(testLog)
			mustApply(t, s, twoResources()...)
			mustApply(t, s, r[:len(r)-1]...)
			if err := s.Apply(r[len(r)-1]); !errors.Is(err, ErrContradiction) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestSnapshotIsTheState: whatever a log says, the records of its snapshot say the same to a new
// state, and to every question about a name.
func TestSnapshotIsTheState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := randomState(t)
		again := NewState(testLog)
		for r := range s.Records() {
			if err := again.Apply(r); err != nil {
				t.Fatalf("apply %+v: %v", r, err)
			}
		}
		if diff := cmp.Diff(render(s), render(again)); diff != "" {
			t.Fatalf("the snapshot says something else:\n%s", diff)
		}
	})
}

// randomState plays a random, legal log.
func randomState(t *rapid.T) *State {
	s := NewState(testLog)
	mustApply(t, s, twoResources()...)
	var open []txn.ID
	next := txn.Seq(1)
	for range rapid.IntRange(0, 60).Draw(t, "steps") {
		switch rapid.IntRange(0, 6).Draw(t, "step") {
		case 0, 1:
			next += txn.Seq(rapid.IntRange(1, 14).Draw(t, "skip"))
			c := commitOf(next)
			if rapid.Bool().Draw(t, "keyed") {
				c.Key = Key{Hash: [16]byte{byte(next), byte(next >> 8)}, Body: [16]byte{1}}
			}
			mustApply(t, s, c)
			open = append(open, c.ID)
		case 2, 3:
			if len(open) > 0 {
				i := rapid.IntRange(0, len(open)-1).Draw(t, "end")
				if len(s.OpenDecision(open[i]).Heuristics) > 0 {
					continue
				}
				mustApply(t, s, EndRecord{IDs: []txn.ID{open[i]}})
				open = append(open[:i], open[i+1:]...)
			}
		case 4:
			low := next
			for _, o := range open {
				low = min(low, o.Seq())
			}
			mustApply(t, s, RangeRecord{Low: max(low, s.Low), High: s.High})
		case 5:
			if len(open) > 0 {
				i := rapid.IntRange(0, len(open)-1).Draw(t, "hurt")
				mustApply(
					t,
					s,
					HeuristicRecord{
						ID:     open[i],
						Branch: 2,
						RM:     2,
						What:   txn.BranchHeuristicHazard,
						Reason: "gone",
					},
				)
			}
		case 6:
			next = s.High + txn.Seq(rapid.IntRange(1, 200).Draw(t, "leap"))
			mustApply(t, s, HoleRecord{From: s.High, To: next},
				RangeRecord{Low: s.Low, High: next + 900})
		}
	}
	return s
}

// render is everything that a state can be asked.
func render(s *State) []string {
	out := []string{fmt.Sprintf("range [%d, %d) keys %d", s.Low, s.High, s.Keys())}
	for _, r := range s.Resources() {
		out = append(out, fmt.Sprintf("%+v", r))
	}
	for _, d := range s.OpenDecisions() {
		out = append(out, fmt.Sprintf("%+v", *d))
	}
	for q := txn.Seq(1); q < s.High+3; q++ {
		says, listed := s.Says(txn.NameOf(id(q), 1), txn.Identity{System: 1}, s.High)
		out = append(out, fmt.Sprintf("%d: %v %v %v", q, says, listed, s.Committed(id(q))))
	}
	for _, k := range s.keyOrder {
		out = append(out, fmt.Sprintf("key %x of %s", k.Key.Hash[:2], k.ID))
	}
	return out
}

// TestBitmap compares the set with a map.
func TestBitmap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, model := bitmap{first: 1}, map[txn.Seq]bool{}
		for range rapid.IntRange(0, 100).Draw(t, "steps") {
			// An epoch later things are far away, and now and then in a run of their own.
			q := b.first + txn.Seq(rapid.IntRange(0, 300).Draw(t, "q")) +
				txn.Seq(rapid.IntRange(0, 3).Draw(t, "epoch"))*(maxGap*64-150)
			if rapid.IntRange(0, 9).Draw(t, "drop") == 0 {
				b.dropBelow(q)
				for k := range model {
					if k < q {
						delete(model, k)
					}
				}
				continue
			}
			b.set(q)
			model[q] = true
		}
		again := bitmap{first: b.first}
		b.records(func(r Record) bool {
			o := r.(OutcomesRecord)
			for i := range txn.Seq(len(o.Bits)) * 8 {
				if o.Bits[i/8]>>(i%8)&1 == 1 {
					again.set(o.First + i)
				}
			}
			return true
		})
		for q := range model {
			for _, near := range []txn.Seq{q - min(q, 64), q - 1, q, q + 1, q + 64, q + 128} {
				if b.has(near) != model[near] || again.has(near) != model[near] {
					t.Fatalf("%d: %v, and %v as records, want %v",
						near, b.has(near), again.has(near), model[near])
				}
			}
		}
	})
}

// TestBitmapOfEpochs: what lies between two epochs costs no memory, and does not survive in it.
func TestBitmapOfEpochs(t *testing.T) {
	b := bitmap{first: 1}
	for epoch := range txn.Seq(3) {
		b.set(1 + epoch*MinLeap)
		b.set(1000 + epoch*MinLeap)
	}
	words := 0
	for _, r := range b.runs {
		words += len(r.words)
	}
	if len(b.runs) != 3 || words > 3*16 {
		t.Errorf("%d runs of %d words for three epochs", len(b.runs), words)
	}
	b.set(MinLeap - 5000*64)
	if b.dropBelow(500 + MinLeap); b.has(1000) || b.has(MinLeap-5000*64) || b.has(1+MinLeap) ||
		!b.has(1000+MinLeap) || !b.has(1+2*MinLeap) || len(b.runs) != 2 {
		t.Errorf("after a drop: %v", b.runs)
	}
}

// TestSequencesAreNeverUsedUp: neither many epochs nor forged names make a record that cannot be
// applied.
func TestSequencesAreNeverUsedUp(t *testing.T) {
	s := NewState(testLog)
	mustApply(t, s, ResourceRecord{RM: 1, Name: "a"}, RangeRecord{Low: 1, High: lastHole - 10})
	m := New(s, Config{Leap: MinLeap}, 0)
	r := m.Ready()
	if m.next != lastHole-10 || len(r.Notes) != 1 || r.Notes[0].Kind != NoteAlarm {
		t.Errorf("the epoch begins at %d, %v", m.next, r.Notes)
	}
	m.Step(Swept{RM: 1, Names: []SweptName{
		{Ours: true, Name: txn.Name{Log: testLog, Seq: lastHole + 1, Branch: 1}}}})
	for _, a := range m.Ready().Appends {
		if _, ok := a.Record.(HoleRecord); ok {
			t.Errorf("record %+v", a.Record)
		}
	}
}

// TestHoleAcrossTheLowWaterMark: what is left of a hole stays one, in the state and in its
// snapshot, and goes when the range has passed it.
func TestHoleAcrossTheLowWaterMark(t *testing.T) {
	s := NewState(testLog)
	mustApply(t, s, HoleRecord{From: 5, To: 20}, RangeRecord{Low: 12, High: 30})
	again := NewState(testLog)
	for r := range s.Records() {
		mustApply(t, again, r)
	}
	for name, s := range map[string]*State{"state": s, "snapshot": again} {
		for q, want := range map[txn.Seq]Says{
			12: SaysNever, 19: SaysNever, 20: SaysNothing,
		} {
			if says, _ := s.Says(txn.NameOf(id(q), 1), txn.Identity{}, s.High); says != want {
				t.Errorf("%s: %d says %d, want %d", name, q, says, want)
			}
		}
		mustApply(t, s, RangeRecord{Low: 20, High: 30})
		if s.Lost(19) || s.Lost(20) {
			t.Errorf("%s: the hole outlives the range", name)
		}
	}
}

// TestHolesMeet: epochs that end before they begin to work leave one hole, holes come in order, and
// their number is bounded.
func TestHolesMeet(t *testing.T) {
	s := NewState(testLog)
	mustApply(t, s, RangeRecord{Low: 1, High: 5}, HoleRecord{From: 5, To: 20},
		HoleRecord{From: 20, To: 30}, RangeRecord{Low: 1, High: 40}, HoleRecord{From: 40, To: 50})
	if len(s.holes) != 2 {
		t.Errorf("holes %v, want [5, 30) and [40, 50)", s.holes)
	}
	for q, lost := range map[txn.Seq]bool{
		4: false, 5: true, 29: true, 30: false, 39: false, 40: true, 49: true, 50: false,
	} {
		if s.Lost(q) != lost {
			t.Errorf("%d: lost is %v", q, s.Lost(q))
		}
	}
	if err := s.Apply(HoleRecord{From: 45, To: 60}); !errors.Is(err, ErrContradiction) {
		t.Errorf("a hole within a hole: %v", err)
	}
	for len(s.holes) < maxHoles {
		mustApply(t, s, HoleRecord{From: s.High + 1, To: s.High + 3})
	}
	m := New(s, Config{Leap: 100}, 0)
	if notes := m.Ready().Notes; m.next != s.High || len(notes) != 1 {
		t.Errorf("with %d holes an epoch begins with %d and says %v", maxHoles, m.next, notes)
	}
}

// TestOnePhaseRecords: a ONE_PHASE is ended once, by what its resource said, and nothing else ends
// it.
func TestOnePhaseRecords(t *testing.T) {
	id := txn.NewID(testLog, 1)
	branch := CommitBranch{Branch: 1, RM: 1}
	one := OnePhaseRecord{ID: id, Label: "l", Key: Key{Hash: [16]byte{1}}, Branch: branch}
	commit := CommitRecord{ID: id, Plan: txn.PlanOnePhase, Branches: []CommitBranch{branch}}
	classic := commit
	classic.Plan = txn.PlanClassic
	unknown := OnePhaseRecord{ID: id, Branch: CommitBranch{Branch: 1, RM: 2}}
	beyond := OnePhaseRecord{ID: txn.NewID(testLog, 99), Branch: branch}
	hazard := HeuristicRecord{ID: id, Branch: 1, RM: 1, What: txn.BranchHeuristicHazard}
	end := EndRecord{IDs: []txn.ID{id}}
	for name, c := range map[string]struct {
		records []Record
		ok      bool
	}{
		"committed":              {[]Record{one, commit, end}, true},
		"aborted":                {[]Record{one, AbortRecord{id}}, true},
		"hazard":                 {[]Record{one, hazard}, true},
		"twice":                  {[]Record{one, one}, false},
		"classic":                {[]Record{one, classic}, false},
		"ended without a word":   {[]Record{one, end}, false},
		"aborted without asking": {[]Record{AbortRecord{id}}, false},
		"aborted and committed":  {[]Record{one, commit, AbortRecord{id}}, false},
		"committed twice":        {[]Record{one, commit, commit}, false},
		"a hazard is final":      {[]Record{one, hazard, AbortRecord{id}}, false},
		"not even committed":     {[]Record{one, hazard, commit}, false},
		"unknown resource":       {[]Record{unknown}, false},
		"beyond the range":       {[]Record{beyond}, false},
	} {
		s := NewState(testLog)
		var err error
		for _, r := range append([]Record{
			RangeRecord{Low: 1, High: 9}, ResourceRecord{RM: 1, Name: "a"},
		}, c.records...) {
			if err = s.Apply(r); err != nil {
				break
			}
		}
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		again := NewState(testLog)
		for r := range s.Records() {
			if err := again.Apply(r); err != nil {
				t.Fatalf("%s: snapshot: %v", name, err)
			}
		}
		if diff := cmp.Diff(s.open, again.open); diff != "" {
			t.Errorf("%s: a snapshot changes it: %s", name, diff)
		}
	}
}

// TestMarks: what a log remembers about age is bounded, survives a snapshot, and never makes
// anything look older than it is.
func TestMarks(t *testing.T) {
	s := NewState(testLog)
	apply := func(r Record) {
		t.Helper()
		if err := s.Apply(r); err != nil {
			t.Fatal(err)
		}
	}
	apply(RangeRecord{Low: 1, High: 1_000_000})
	for i := range 10_000 {
		apply(MarkRecord{Uptime: Instant(i), Next: txn.Seq(10 * (i + 1))})
		if len(s.marks) > maxMarks+1 {
			t.Fatalf("%d marks", len(s.marks))
		}
	}
	for _, m := range s.marks {
		if m.Next != txn.Seq(10*(m.Uptime+1)) {
			t.Errorf("mark %+v was never made", m)
		}
	}
	if last := s.marks[len(s.marks)-1]; last.Uptime != 9999 {
		t.Errorf("the last mark is %+v", last)
	}
	if err := s.Apply(MarkRecord{Uptime: 9998, Next: 200_000}); !errors.Is(err, ErrContradiction) {
		t.Errorf("time runs backwards: %v", err)
	}
	apply(RangeRecord{Low: 99_990, High: 1_000_000})
	apply(MarkRecord{Uptime: 10_000, Next: 100_010})
	if s.marks[0].Uptime < 9_900 {
		t.Errorf("%d marks are left, the first %+v", len(s.marks), s.marks[0])
	}
}

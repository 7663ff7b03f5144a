package txn

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

func drawParts(t *rapid.T) (LogID, Seq) {
	return LogID(rapid.Uint64Range(1, uint64(MaxLogID)).Draw(t, "log")),
		Seq(rapid.Uint64Range(1, uint64(MaxSeq)).Draw(t, "seq"))
}

// TestIDRoundTrip: an id holds its log and sequence, is a UUID of version 8, and sorts by age.
func TestIDRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log, seq := drawParts(t)
		id := NewID(log, seq)
		if id.Log() != log || id.Seq() != seq || !id.Valid() {
			t.Fatalf("%s holds %x and %d, want %x and %d", id, id.Log(), id.Seq(), log, seq)
		}
		if u := uuid.UUID(id); u.Version() != 8 || u.Variant() != uuid.RFC4122 {
			t.Fatalf("%s is version %d of %v", u, u.Version(), u.Variant())
		}
		back, err := ParseID(id.String())
		if err != nil || back != id {
			t.Fatalf("%s is read as %s, %v", id, back, err)
		}
		if seq < MaxSeq {
			if next := NewID(log, seq+1); slices.Compare(id[:], next[:]) >= 0 {
				t.Fatalf("%s does not sort before %s", id, next)
			}
		}
	})
}

// TestParseIDRefuses: strings that no coordinator made, each with what is wrong.
func TestParseIDRefuses(t *testing.T) {
	good := NewID(1, 1).String()
	for _, s := range []string{
		"", "x", strings.Repeat("0", 36), uuid.NewString(), "zz" + strings.Repeat("a", 34),
		"{" + good + "}", "urn:uuid:" + good, good + " ",
	} {
		if id, err := ParseID(s); !errors.Is(err, ErrBadID) {
			t.Errorf("%q is read as %s, %v", s, id, err)
		}
	}
}

// TestNewIDPanics: an id from nothing is a broken invariant, not bad input.
func TestNewIDPanics(t *testing.T) {
	for _, c := range []struct {
		log LogID
		seq Seq
	}{{0, 1}, {1, 0}, {MaxLogID + 1, 1}, {1, MaxSeq + 1}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("an id from log %d and sequence %d", c.log, c.seq)
				}
			}()
			NewID(c.log, c.seq)
		}()
	}
}

func drawName(t *rapid.T) Name {
	log, seq := drawParts(t)
	return Name{Log: log, Seq: seq, Branch: BranchNo(rapid.Uint16Min(1).Draw(t, "branch")),
		Decider: rapid.Uint16().Draw(t, "decider")}
}

// TestNameRoundTrip: a name is short, plain, and read back as it was.
func TestNameRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := drawName(t)
		s := n.String()
		if len(s) > MaxNameLen || strings.Trim(s, "0123456789abcdefghijklmnopqrstuvwxyz.") != "" {
			t.Fatalf("%q is no plain name", s)
		}
		if back, err := ParseName(s); err != nil || back != n {
			t.Fatalf("%q is read as %+v, %v; want %+v", s, back, err, n)
		}
		if n.ID().Log() != n.Log || n.ID().Seq() != n.Seq ||
			NameOf(n.ID(), n.Branch).String() != (Name{n.Log, n.Seq, n.Branch, 0}).String() {
			t.Fatalf("%q belongs to %s", s, n.ID())
		}
	})
}

// TestNamesSortBySequence: a range of names is a range of sequences, so a sweep can ask for one.
func TestNamesSortBySequence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log, a := drawParts(t)
		_, b := drawParts(t)
		x, y := Name{Log: log, Seq: a, Branch: 1}, Name{Log: log, Seq: b, Branch: 1}
		if (a < b) != (x.String() < y.String()) {
			t.Fatalf("%d and %d sort as %q and %q", a, b, x, y)
		}
	})
}

// TestParseNameRefuses: a name that we would not write byte for byte is somebody else's.
func TestParseNameRefuses(t *testing.T) {
	good := Name{Log: 5, Seq: 9, Branch: 2}.String()
	for _, s := range []string{
		"", "gavel1.", "order_981", strings.ToUpper(good), "gavel2" + good[6:],
		good[:len(good)-1], good + ".", good + ".d", good + ".d0", good + ".x2", good + "'",
		good + ".d2.d2", strings.Replace(good, "5", "i", 1),
		strings.Replace(good, ".2", ".02", 1), strings.Replace(good, ".2", ".0", 1),
		"gavel1.000000000000.0000000000009.2", "gavel1.000000000005.0000000000000.2",
		"gavel1.zzzzzzzzzzzz.zzzzzzzzzzzzz.2",
	} {
		if n, err := ParseName(s); !errors.Is(err, ErrBadName) {
			t.Errorf("%q is read as %+v", s, n)
		}
	}
}

// FuzzParseName: what is accepted is exactly what is written.
func FuzzParseName(f *testing.F) {
	f.Add(Name{Log: 5, Seq: 9, Branch: 2}.String())
	f.Add(Name{Log: MaxLogID, Seq: MaxSeq, Branch: 65535, Decider: 65535}.String())
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ParseName(s); err == nil && n.String() != s {
			t.Errorf("%q is written as %q", s, n)
		}
	})
}

// TestLogIDText: the text of a log id is the one inside its names.
func TestLogIDText(t *testing.T) {
	log, err := NewLogID()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseLogID(log.String())
	if err != nil || back != log ||
		!strings.Contains(Name{Log: log, Seq: 1, Branch: 1}.String(), log.String()) {
		t.Errorf("%s is read as %s, %v", log, back, err)
	}
	for _, s := range []string{"", "000000000000", "00000000000", "00000000000u", "zzzzzzzzzzzzz"} {
		if l, err := ParseLogID(s); err == nil {
			t.Errorf("%q is read as %s", s, l)
		}
	}
}

// TestTexts: ids and names travel through JSON as their text.
func TestTexts(t *testing.T) {
	type both struct {
		ID   ID
		Name Name
	}
	want := both{NewID(7, 8), Name{Log: 7, Seq: 8, Branch: 1}}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got both
	if err := json.Unmarshal(b, &got); err != nil || got != want {
		t.Errorf("%s is read as %+v, %v", b, got, err)
	}
	for _, bad := range []string{`{"ID":"x"}`, `{"Name":"x"}`} {
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

// TestWords: every value has a word of its own, and a value out of range says that it is one.
func TestWords(t *testing.T) {
	check := func(n int, word func(int) string) {
		t.Helper()
		seen := map[string]bool{}
		for i := range n {
			w := word(i)
			if seen[w] || strings.HasPrefix(w, "INVALID") {
				t.Errorf("value %d is %q", i, w)
			}
			seen[w] = true
		}
		if w := word(n); w != fmt.Sprintf("INVALID(%d)", n) {
			t.Errorf("value %d is %q", n, w)
		}
	}
	check(int(VoteCommitted)+1, func(i int) string { return Vote(i).String() })
	check(int(StandingForeign)+1, func(i int) string { return Standing(i).String() })
	check(int(OutcomeForgotten)+1, func(i int) string { return Outcome(i).String() })
	check(int(StateHeuristic)+1, func(i int) string { return State(i).String() })
	check(int(BranchHeuristicHazard)+1, func(i int) string { return BranchState(i).String() })
	check(int(PlanDelegate)+1, func(i int) string { return Plan(i).String() })
	check(int(AckDecided)+1, func(i int) string { return AckLevel(i).String() })
	for o := OutcomeUnknown; o <= OutcomeForgotten; o++ {
		if o.IsHeuristic() != strings.HasPrefix(o.String(), "HEURISTIC") {
			t.Errorf("%s heuristic: %v", o, o.IsHeuristic())
		}
	}
}

// TestRefusal: a refusal names the field, what is wrong, and what it means for the data.
func TestRefusal(t *testing.T) {
	err := fmt.Errorf("begin: %w", Refusef(ReasonTooMany, "resources", "%d is the limit", 64))
	if got := err.Error(); got != "begin: resources: 64 is the limit; nothing was changed" {
		t.Error(got)
	}
	if ReasonOf(err) != ReasonTooMany || ReasonOf(errors.New("x")) != "" {
		t.Errorf("reason %q", ReasonOf(err))
	}
	other := &Refusal{Reason: ReasonClosed, Message: "closed", Effect: "the commit stands"}
	if got := other.Error(); got != "closed; the commit stands" {
		t.Error(got)
	}
}

// TestPending: the branches that are not at their end.
func TestPending(t *testing.T) {
	r := Result{
		Branches: []BranchStatus{
			{Resource: "a", State: BranchCommitted},
			{Resource: "b", State: BranchPrepared},
			{Resource: "c", State: BranchReadOnly},
		},
	}
	if got := r.Pending(); !slices.Equal(got, []string{"b"}) {
		t.Errorf("pending %v", got)
	}
}

// TestEvidenceIsZero: none is none, and anything is something.
func TestEvidenceIsZero(t *testing.T) {
	if !(Evidence{}).IsZero() || (Evidence{XID: 1}).IsZero() || !(Identity{}).IsZero() ||
		(Identity{Database: 1}).String() != "0/1" {
		t.Error("evidence or identity mistakes itself for nothing")
	}
}

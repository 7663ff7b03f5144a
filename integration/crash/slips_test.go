package crash_test

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/txn"
)

// slips are what tellers have said, of one round. A teller that was killed said what it said.
type slips struct {
	mu sync.Mutex
	// from is the first number of the round: what is said about lower ones comes too late to count.
	from      int64
	transfers map[int64]*crash.Transfer
	committed int
	rests     bool
	bad       error
}

func (s *slips) begin(from int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.from, s.transfers = from, map[int64]*crash.Transfer{}
	s.committed, s.rests = 0, false
}

// take reads one line of a teller.
func (s *slips) take(text []byte) {
	l, err := crash.ParseLine(text)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil:
		s.bad = err
	case l.Rests:
		s.rests = true
	case l.N >= s.from:
		s.note(l)
	}
}

func (s *slips) note(l crash.Line) {
	t := s.transfers[l.N]
	if t == nil {
		t = &crash.Transfer{N: l.N}
		s.transfers[l.N] = t
	}
	if !l.ID.IsZero() {
		t.ID = l.ID
	}
	t.Answer, t.Why = l.Answer, l.Why
	if l.Answer == crash.NoAnswer {
		t.Asked = l.At
	} else {
		t.Heard = l.At
	}
	if l.Answer == crash.Committed {
		s.committed++
	}
}

// state is how many commits were heard of, and whether the teller rests.
func (s *slips) state() (committed int, rests bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.committed, s.rests, s.bad
}

// all are the transfers, by number.
func (s *slips) all() []crash.Transfer {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []crash.Transfer
	for _, n := range slices.Sorted(maps.Keys(s.transfers)) {
		out = append(out, *s.transfers[n])
	}
	return out
}

// enter puts the rows of all places to their transfers. A transfer is about the places at
// which its share is to move something, or about all where share is nil, and about every other one
// that has a row of it. Rows of transfers of which no teller has spoken are transfers too.
func enter(
	transfers []crash.Transfer, share func(n int64, place int) crash.Share, places ...[]row,
) []crash.Transfer {
	found := make([]map[int64][]int64, len(places))
	known := map[int64]bool{}
	for _, t := range transfers {
		known[t.N] = true
	}
	for i, rows := range places {
		found[i] = map[int64][]int64{}
		for _, r := range rows {
			found[i][r.N] = append(found[i][r.N], r.Amount)
			if !known[r.N] {
				known[r.N] = true
				transfers = append(transfers, crash.Transfer{N: r.N})
			}
		}
	}
	for k := range transfers {
		t := &transfers[k]
		for i := range places {
			rows := found[i][t.N]
			if share == nil {
				t.Rows = append(t.Rows, rows)
			} else if s := share(t.N, i); s.Role == crash.Moves || rows != nil {
				t.Rows, t.Shares = append(t.Rows, rows), append(t.Shares, s.Amount)
			}
		}
	}
	return transfers
}

func sayTo(t *testing.T, s *slips, l crash.Line) {
	t.Helper()
	text, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	s.take(text[:len(text)-1])
}

func TestSlipsKeepTheLastWord(t *testing.T) {
	s := &slips{}
	s.begin(100)
	id := txn.NewID(1, 2)
	sayTo(t, s, crash.Line{N: 99, Answer: crash.Committed})
	sayTo(t, s, crash.Line{N: 101, ID: id})
	sayTo(t, s, crash.Line{N: 100, Answer: crash.RolledBack, Why: "because"})
	sayTo(t, s, crash.Line{N: 101, Answer: crash.Committed})
	sayTo(t, s, crash.Line{N: 102, ID: id})
	want := []crash.Transfer{
		{N: 100, Answer: crash.RolledBack, Why: "because"},
		{N: 101, ID: id, Answer: crash.Committed},
		{N: 102, ID: id},
	}
	if got := s.all(); !slices.EqualFunc(got, want, sameTransfer) {
		t.Errorf("got %v, want %v", got, want)
	}
	if n, rests, err := s.state(); n != 1 || rests || err != nil {
		t.Errorf("committed %d, rests %v, %v", n, rests, err)
	}
	sayTo(t, s, crash.Line{Rests: true})
	if _, rests, _ := s.state(); !rests {
		t.Error("the teller rests, and nobody knows")
	}
	s.take([]byte("garbage"))
	if _, _, err := s.state(); err == nil {
		t.Error("garbage is taken for a line")
	}
}

func sameTransfer(a, b crash.Transfer) bool { return a.String() == b.String() }

func TestRowsAreEntered(t *testing.T) {
	known := []crash.Transfer{{N: 1}, {N: 2}}
	a, b := []row{{1, -5}, {7, -1}}, []row{{1, 5}, {2, 3}, {2, 3}}
	got := enter(known, nil, a, b)
	want := []crash.Transfer{
		{N: 1, Rows: [][]int64{{-5}, {5}}},
		{N: 2, Rows: [][]int64{nil, {3, 3}}},
		{N: 7, Rows: [][]int64{{-1}, nil}},
	}
	if !slices.EqualFunc(got, want, sameTransfer) {
		t.Errorf("got %v, want %v", got, want)
	}
	first := func(_ int64, place int) crash.Share {
		return [...]crash.Share{{Role: crash.Moves, Amount: -5}, {Role: crash.Reads}}[place]
	}
	some := enter([]crash.Transfer{{N: 1}, {N: 3}, {N: 7}}, first, a, b)
	if len(some) != 4 || len(some[0].Rows) != 2 || len(some[1].Rows) != 1 ||
		len(some[2].Rows) != 1 || len(some[3].Rows) != 2 {
		t.Errorf("about the first place: %v", some)
	}
	if !slices.Equal(some[0].Shares, []int64{-5, 0}) || !slices.Equal(some[2].Shares, []int64{-5}) {
		t.Errorf("what the rows are to say: %v", some)
	}
	if kinds := kindsOf(crash.Book{Transfers: got}); !strings.Contains(kinds, "half") {
		t.Errorf("violations: %s", kinds)
	}
}

// kindsOf joins the kinds of all violations of a book.
func kindsOf(b crash.Book) string {
	var kinds []string
	for _, v := range b.Check() {
		kinds = append(kinds, string(v.Kind))
	}
	return strings.Join(kinds, ", ")
}

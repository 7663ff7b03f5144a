package kv

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/gavel-tx/gavel/txn"
)

// model is what a store must do, in the simplest words: a map of values, and branches with locks on
// keys. It knows nothing of files, buckets or groups.
type model struct {
	values   map[string]string
	versions map[string]int
	commits  int
	branches map[txn.Name]*modelBranch
}

type modelBranch struct {
	state    txn.Standing // Unknown stands for unprepared
	lost     bool         // by a crash, before it was prepared
	reads    map[string]int
	writes   map[string]string
	sequence uint64
}

const deletedValue = "-"

func (m *model) read(b *modelBranch, key string) {
	if _, own := b.writes[key]; own {
		return
	}
	if _, seen := b.reads[key]; !seen {
		b.reads[key] = m.versions[key]
	}
}

// vote predicts the vote of an unprepared branch, by comparing it with every other one.
func (m *model) vote(n txn.Name) txn.Vote {
	b := m.branches[n]
	for key, version := range b.reads {
		if m.versions[key] != version {
			return txn.VoteNo
		}
	}
	for other, o := range m.branches {
		if other == n || o.state != txn.StandingPrepared {
			continue
		}
		for key := range o.writes {
			_, reads := b.reads[key]
			_, writes := b.writes[key]
			if reads || writes {
				return txn.VoteNo
			}
		}
		for key := range o.reads {
			if _, writes := b.writes[key]; writes {
				return txn.VoteNo
			}
		}
	}
	if len(b.writes) == 0 {
		return txn.VoteReadOnly
	}
	return txn.VoteYes
}

func (m *model) commit(b *modelBranch) {
	m.commits++
	for key, value := range b.writes {
		m.values[key], m.versions[key] = value, m.commits
		if value == deletedValue {
			delete(m.values, key)
			m.versions[key] = 0
		}
	}
	b.state = txn.StandingCommitted
}

// history drives a store and its model through the same random steps.
type history struct {
	t     *testing.T
	rng   *rand.Rand
	store *Store
	model *model
	next  txn.Seq
	steps []string
}

func (h *history) log(format string, args ...any) {
	h.steps = append(h.steps, fmt.Sprintf(format, args...))
}

func (h *history) fail(format string, args ...any) {
	h.t.Helper()
	for _, s := range h.steps {
		h.t.Log(s)
	}
	h.t.Fatalf(format, args...)
}

// pick is a random branch in a state, or none.
func (h *history) pick(state txn.Standing) (txn.Name, *modelBranch) {
	for seq := range h.next {
		n := name(seq + 1)
		if b := h.model.branches[n]; b != nil && b.state == state && h.rng.IntN(2) == 0 {
			return n, b
		}
	}
	return txn.Name{}, nil
}

func (h *history) work() {
	n, b := h.pick(txn.StandingUnknown)
	if b == nil || b.lost {
		h.next++
		n = name(h.next)
		b = &modelBranch{reads: map[string]int{}, writes: map[string]string{}}
		h.model.branches[n] = b
	}
	key := string(rune('a' + h.rng.IntN(4)))
	b.sequence++
	var op Op
	switch h.rng.IntN(3) {
	case 0:
		op = read(key)
		h.model.read(b, key)
	case 1:
		value := fmt.Sprintf("%d.%d", n.Seq, b.sequence)
		op, b.writes[key] = put(key, value), value
	default:
		op, b.writes[key] = del(key), deletedValue
	}
	h.log("%s: operation %d on %s", n, op.Kind, key)
	apply(h.t, h.store, n, b.sequence, op)
}

func (h *history) prepare() {
	n, b := h.pick(txn.StandingUnknown)
	if b == nil {
		return
	}
	want := h.model.vote(n)
	if b.lost {
		want = txn.VoteUnknown
	}
	got := prepare(h.t, h.store, n)
	h.log("%s: votes %v", n, got.Vote)
	if got.Vote != want {
		h.fail("%s voted %+v, want %v", n, got, want)
	}
	switch {
	case want == txn.VoteYes:
		b.state = txn.StandingPrepared
	case !b.lost:
		delete(h.model.branches, n)
	}
}

func (h *history) finish() {
	n, b := h.pick(txn.StandingPrepared)
	if b == nil {
		return
	}
	call, want := h.store.Rollback, txn.StandingRolledBack
	if h.rng.IntN(3) > 0 {
		call, want = h.store.Commit, txn.StandingCommitted
		h.model.commit(b)
	}
	b.state = want
	h.log("%s: %v", n, want)
	if got := standing(h.t, call, n, txn.Evidence{}); got != want {
		h.fail("%s is %v, want %v", n, got, want)
	}
}

// onePhase tells a branch to commit, prepared or not, and sometimes tells it twice.
func (h *history) onePhase() {
	n, b := h.pick([]txn.Standing{
		txn.StandingUnknown, txn.StandingPrepared, txn.StandingCommitted, txn.StandingRolledBack,
	}[h.rng.IntN(4)])
	if b == nil {
		return
	}
	unprepared := b.state == txn.StandingUnknown
	conflict := unprepared && (b.lost || h.model.vote(n) == txn.VoteNo)
	switch {
	case conflict:
		b.state = txn.StandingRolledBack
	case unprepared, b.state == txn.StandingPrepared:
		h.model.commit(b)
	}
	for range 1 + h.rng.IntN(2) {
		h.log("%s: one phase %v", n, b.state)
		if got := standing(h.t, h.store.CommitOnePhase, n, txn.Evidence{}); got != b.state {
			h.fail("%s is %v, want %v", n, got, b.state)
		}
	}
}

func (h *history) crash() {
	h.log("crash")
	h.store = crash(h.t, h.store)
	for _, b := range h.model.branches {
		b.lost = b.lost || b.state == txn.StandingUnknown
	}
}

// check compares every value, every branch and the listing.
func (h *history) check() {
	for _, key := range []string{"a", "b", "c", "d"} {
		want, ok := h.model.values[key]
		if !ok {
			want = deletedValue
		}
		if got := value(h.t, h.store, key); got != want {
			h.fail("%s is %q, want %q", key, got, want)
		}
	}
	waiting := map[txn.Name]bool{}
	for seq := range h.next {
		n := name(seq + 1)
		b := h.model.branches[n]
		if b == nil {
			continue
		}
		if b.state == txn.StandingPrepared {
			waiting[n] = true
		}
		if b.lost && b.state == txn.StandingUnknown {
			// To ask for lost work ends it, so that others must find some as well.
			if h.rng.IntN(3) > 0 {
				continue
			}
			b.state = txn.StandingRolledBack
		}
		want := b.state
		if got := standing(h.t, h.store.Inquire, n, txn.Evidence{}); got != want {
			h.fail("%s is %v, want %v", n, got, want)
		}
	}
	listing, err := h.store.List(h.t.Context(), first)
	if err != nil {
		h.t.Fatal(err)
	}
	listed := map[txn.Name]bool{}
	for _, l := range listing.Branches {
		listed[l.Name] = true
	}
	if !maps.Equal(waiting, listed) || listing.Used != len(waiting) {
		h.fail("listed are %v, want %v", listed, waiting)
	}
}

// TestHistories runs random histories of several branches over few keys, with crashes, against
// the model.
func TestHistories(t *testing.T) {
	commits := 0
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			h := &history{
				t: t, rng: rand.New(rand.NewPCG(seed, 1)), store: open(t, Config{}),
				model: &model{
					values: map[string]string{}, versions: map[string]int{},
					branches: map[txn.Name]*modelBranch{},
				},
			}
			for range 60 {
				switch step := h.rng.IntN(24); {
				case step < 10:
					h.work()
				case step < 14:
					h.prepare()
				case step < 19:
					h.finish()
				case step < 23:
					h.onePhase()
				default:
					h.crash()
				}
				h.check()
			}
			commits += h.model.commits
		})
	}
	if commits < 12 {
		t.Errorf("only %d commits: the histories test nothing", commits)
	}
}

package explore

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gavel-tx/gavel/coordinator/protocol"
)

type knot struct {
	name  string
	next  *knot
	list  []*knot
	table map[string][]int
	at    protocol.Instant
	wait  protocol.Instant
	what  any
	note  string
	tries int
}

func knots() *deep {
	return newDeep(map[string]rule{"explore.knot.note": skipped, "explore.knot.wait": raw,
		"explore.knot.tries": few})
}

func text(d *deep, k *knot, now protocol.Instant) string { return string(dump(d, nil, k, now)) }

// TestCopiesShareNothing changes everything that a value leads to, and looks at its copy.
func TestCopiesShareNothing(t *testing.T) {
	build := func() *knot {
		inner := &knot{name: "inner", table: map[string][]int{"x": {1}, "y": nil}}
		return &knot{name: "outer", next: inner, list: []*knot{inner, nil}, what: 7,
			table: map[string][]int{}}
	}
	d := knots()
	old := build()
	fresh := clone(d, old)
	before := text(d, fresh, 0)
	if before != text(d, build(), 0) {
		t.Error("the copy is another value")
	}
	old.next.table["x"][0] = 2
	old.next.table["z"] = []int{3}
	old.list[1] = old
	old.table["new"] = nil
	old.next.name = "changed"
	if text(d, fresh, 0) != before {
		t.Error("a change of the original shows in the copy")
	}
}

// TestCopiesKeepTheirShape: what was one thing stays one thing, and circles stay circles.
func TestCopiesKeepTheirShape(t *testing.T) {
	d := knots()
	k := &knot{name: "a"}
	k.next, k.list = k, []*knot{k, {name: "b"}}
	fresh := clone(d, k)
	// The copy itself is new; whatever led back to the original is one further copy.
	if fresh.next == k || fresh.next != fresh.list[0] || fresh.next.next != fresh.next {
		t.Error("pointers that were equal are not any more, or lead to the original")
	}
	if fresh.list[1] == k.list[1] || fresh.list[1].name != "b" {
		t.Error("a pointer is shared, or its value lost")
	}
}

// TestCopiesDoNotGrowIntoEachOther: an empty slice with room would be one array for both.
func TestCopiesDoNotGrowIntoEachOther(t *testing.T) {
	d := knots()
	old := &knot{list: make([]*knot, 0, 4)}
	fresh := clone(d, old)
	old.list = append(old.list, &knot{name: "old"})
	fresh.list = append(fresh.list, &knot{name: "fresh"})
	if old.list[0].name != "old" {
		t.Error("the copy has written into the original")
	}
}

// TestDumpsAreCanonical: the order of a map, the time of day and skipped fields do not show;
// everything else does.
func TestDumpsAreCanonical(t *testing.T) {
	d := knots()
	build := func() *knot {
		k := &knot{name: "n", table: map[string][]int{}, at: 50, wait: 5, what: "w", tries: 2}
		for _, i := range rand.Perm(20) {
			k.table[fmt.Sprint(i)] = []int{i}
		}
		return k
	}
	base := text(d, build(), 40)
	same := build()
	same.at, same.note, same.tries = 60, "for people", 7
	if text(d, build(), 40) != base || text(d, same, 50) != base {
		t.Error("values that are alike are written differently")
	}
	for name, change := range map[string]func(*knot){
		"name":     func(k *knot) { k.name = "m" },
		"pointer":  func(k *knot) { k.next = &knot{} },
		"list":     func(k *knot) { k.list = []*knot{nil} },
		"key":      func(k *knot) { delete(k.table, "3") },
		"value":    func(k *knot) { k.table["3"] = nil },
		"instant":  func(k *knot) { k.at++ },
		"never":    func(k *knot) { k.at = 0 },
		"duration": func(k *knot) { k.wait++ },
		"held":     func(k *knot) { k.what = "v" },
		"type":     func(k *knot) { k.what = []byte("w") },
		"nothing":  func(k *knot) { k.what = nil },
		"once":     func(k *knot) { k.tries = 1 },
		"not once": func(k *knot) { k.tries = 0 },
	} {
		k := build()
		change(k)
		if text(d, k, 40) == base {
			t.Errorf("a change of %s does not show", name)
		}
	}
}

// TestRulesMeetTheirFields: a rule for a field that is gone would silently do nothing.
func TestRulesMeetTheirFields(t *testing.T) {
	for _, sc := range Scenarios(Deep) {
		w := newWorld(&sc)
		w.digest(nil)
		if left := w.deep.unused(); len(left) > 0 {
			t.Fatalf("%s: no such fields: %v", sc.Name, left)
		}
	}
}

// TestCopiesAreHistories walks at random, with a copy at every step that goes its own way for a
// while, and runs the same history anew: the copied world must be the one that history leads to.
func TestCopiesAreHistories(t *testing.T) {
	for i, sc := range Scenarios(depth()) {
		rng := rand.New(rand.NewPCG(uint64(i), 4))
		for range 4 {
			walk(t, sc, rng)
		}
	}
}

func walk(t *testing.T, sc Scenario, rng *rand.Rand) {
	t.Helper()
	w := newWorld(&sc)
	var path []choice
	for range 30 {
		all := w.choices(nil)
		if len(all) == 0 {
			break
		}
		aside := w.copy()
		for range 3 {
			if other := aside.choices(nil); len(other) > 0 {
				aside.take(other[rng.IntN(len(other))])
			}
		}
		aside.settle()
		c := all[rng.IntN(len(all))]
		path = append(path, c)
		w = w.copy()
		w.take(c)
	}
	anew := newWorld(&sc)
	anew.trace = &trace{}
	for _, c := range path {
		anew.take(c)
	}
	one, _ := w.digest(nil)
	two, _ := anew.digest(nil)
	if one != two {
		t.Fatalf("%s: the copies differ from the history\n%s", sc.Name, anew.trace.b.String())
	}
}

// TestDigestSeesTheMachine: what the machine alone knows tells worlds apart.
func TestDigestSeesTheMachine(t *testing.T) {
	sc := Scenarios(Quick)[1]
	w := newWorld(&sc)
	w.take(choice{kind: doBegin})
	other := w.copy()
	other.m.Step(protocol.Drain{})
	one, first := w.digest(nil)
	two, second := other.digest(nil)
	if one == two || bytes.Equal(first, second) {
		t.Error("a machine that drains looks like one that does not")
	}
	again, _ := w.copy().digest(nil)
	if one != again {
		t.Error("a copy looks different")
	}
}

// TestUnknownTypesAreRefused: a value that cannot be copied must not be shared by mistake.
func TestUnknownTypesAreRefused(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a function was copied")
		}
	}()
	function := func() {}
	clone(knots(), &function)
}

// TestEmptyMapIsCopied: a map without entries is still one that two would both write into.
func TestEmptyMapIsCopied(t *testing.T) {
	d := knots()
	old := &knot{table: map[string][]int{}}
	fresh := clone(d, old)
	old.table["x"] = nil
	if len(fresh.table) != 0 {
		t.Error("both write into one map")
	}
	if diff := cmp.Diff([]string{"explore.knot.note"}, slices.Sorted(slices.Values(
		newDeep(map[string]rule{"explore.knot.note": skipped}).unused()))); diff != "" {
		t.Errorf("rules without a use: %s", diff)
	}
}

package explore

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Report is what a Run has found.
type Report struct {
	Scenario string
	// States is the number of different worlds, Steps the number of steps between them, Depth the
	// length of the longest shortest history.
	States, Steps, Depth int
	// Took is for people.
	Took time.Duration
	// Sights are the different things that the machine was seen to do: records, messages, answers,
	// labels. A scenario that shows nothing of what it is for proves nothing about it.
	Sights []string
	// Cut says that the bound of states was reached before everything was seen.
	Cut bool
	// Violation is the first broken promise, or nil.
	Violation *Violation
}

// Violation is a broken promise with one of the shortest histories that lead to it.
type Violation struct {
	Checker Checker
	What    string
	// Steps is the length of the history.
	Steps int
	// History is what happened, event by event, in the form of the protocol's own histories.
	History string
}

// String is the line of a scenario, and the history of its violation if there is one.
func (r Report) String() string {
	s := fmt.Sprintf("%-44s %8d states %9d steps %3d deep %6.1f s", r.Scenario, r.States, r.Steps,
		r.Depth, r.Took.Seconds())
	if r.Cut {
		s += "  CUT"
	}
	if r.Violation != nil {
		s += fmt.Sprintf("\n%s: %s, after %d steps:\n%s", r.Violation.Checker, r.Violation.What,
			r.Violation.Steps, indent(r.Violation.History))
	}
	return s
}

func indent(s string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n    ")
}

// maxKept bounds the worlds that wait for their turn as they are; the others are made again from
// their histories.
const maxKept = 4096

// node is one world: the step that leads to it from its parent. The first has itself as parent.
type node struct {
	parent int32
	choice choice
}

// search is one Run.
type search struct {
	sc    *Scenario
	first *world
	nodes []node
	seen  map[[16]byte]struct{}
	// kept holds the worlds of nodes that wait, as long as there is room.
	kept map[int32]*world
	buf  []byte
	rep  Report
}

// Run explores a scenario. It ends at the first violation, or when every state within the bounds
// has been seen. The same scenario gives the same report, but for the time it took.
func Run(sc Scenario) Report {
	if err := sc.validate(); err != nil {
		panic(err)
	}
	began := time.Now()
	s := &search{sc: &sc, first: newWorld(&sc), seen: map[[16]byte]struct{}{},
		kept: map[int32]*world{}, rep: Report{Scenario: sc.Name}}
	s.explore()
	s.rep.States, s.rep.Took = len(s.nodes), time.Since(began)
	s.rep.Sights = slices.Sorted(maps.Keys(s.first.sights))
	return s.rep
}

// explore goes breadth first: nodes is both what was found and the queue of what is to be expanded.
func (s *search) explore() {
	s.add(s.first.copy(), node{})
	end, depth := len(s.nodes), 0
	for at := 0; at < len(s.nodes) && s.rep.Violation == nil; at++ {
		if len(s.nodes) > s.sc.maxStates() {
			s.rep.Cut = true
			return
		}
		if at == end {
			end, depth = len(s.nodes), depth+1
		}
		s.rep.Depth = depth
		s.expand(int32(at))
	}
}

// expand takes every step from one node.
func (s *search) expand(at int32) {
	w := s.kept[at]
	delete(s.kept, at)
	if w == nil {
		w = s.remake(at)
	}
	all := w.choices(nil)
	for i, c := range all {
		next := w
		if i < len(all)-1 {
			next = w.copy()
		}
		dead := next.attempt(func() { next.take(c) })
		s.rep.Steps++
		if next.broken != nil {
			s.found(at, &c, false)
			return
		}
		if dead {
			continue
		}
		s.add(next, node{at, c})
		if s.rep.Violation != nil {
			return
		}
	}
}

// attempt does something to a world, and takes a panic for a failed assertion. Dead says that there
// was one: such a world has no future.
func (w *world) attempt(do func()) (dead bool) {
	defer func() {
		if p := recover(); p != nil {
			dead = true
			w.fail(Assertion, "%v", p)
		}
	}()
	do()
	return false
}

// add keeps a world that was not seen before, and looks whether it would come to rest.
func (s *search) add(w *world, n node) {
	var d [16]byte
	d, s.buf = w.digest(s.buf)
	if _, ok := s.seen[d]; ok {
		return
	}
	s.seen[d] = struct{}{}
	s.nodes = append(s.nodes, n)
	at := int32(len(s.nodes) - 1)
	rest := w.copy()
	rest.attempt(rest.settle)
	if rest.broken != nil {
		s.found(at, nil, true)
		return
	}
	if len(s.kept) < maxKept {
		s.kept[at] = w
	}
}

// path is the history that leads to a node.
func (s *search) path(at int32) []choice {
	var steps []choice
	for ; at != 0; at = s.nodes[at].parent {
		steps = append(steps, s.nodes[at].choice)
	}
	slices.Reverse(steps)
	return steps
}

func (s *search) remake(at int32) *world {
	w := s.first.copy()
	for _, c := range s.path(at) {
		w.take(c)
	}
	return w
}

// found writes the violation's history down, by going through it once more.
func (s *search) found(at int32, last *choice, atRest bool) {
	steps := s.path(at)
	if last != nil {
		steps = append(steps, *last)
	}
	w := s.first.copy()
	w.trace = &trace{}
	w.attempt(func() {
		for _, c := range steps {
			w.take(c)
		}
		if atRest {
			w.settle()
		}
	})
	if w.broken == nil {
		panic("explore: a violation does not happen again")
	}
	s.rep.Violation = &Violation{w.broken.Checker, w.broken.What, len(steps), w.trace.b.String()}
}

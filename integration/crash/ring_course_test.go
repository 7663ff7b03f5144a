package crash_test

import (
	"testing"

	"github.com/gavel-tx/gavel/integration/crash"
)

// Every kind of transfer comes to every place in every part, no money is made or lost by any, and
// half of all go to all four.
func TestCoursesGoAround(t *testing.T) {
	type at struct {
		kind  crash.Traffic
		place int
		share crash.Role
	}
	seen, payers := map[at]int{}, map[crash.Traffic]map[crash.Place]bool{}
	for k := range crash.Traffic(crash.Traffics) {
		payers[k] = map[crash.Place]bool{}
	}
	for n := range int64(480) {
		c, sum := crash.CourseOf(n), int64(0)
		payers[c.Traffic][c.Payer] = true
		for p, s := range c.Shares {
			sum += s.Amount
			seen[at{c.Traffic, p, s.Role}]++
			if (s.Role != crash.Moves) && s.Amount != 0 {
				t.Errorf("transfer %d moves %d where it does not move", n, s.Amount)
			}
			moved := int64(0)
			for _, l := range s.Legs(3, 2) {
				moved += l.Amount
			}
			if moved != s.Amount {
				t.Errorf("the legs of %+v move %d", s, moved)
			}
		}
		if sum != 0 || c.Shares[c.Payer].Amount > 0 || !c.Moves(c.Payer) {
			t.Errorf("transfer %d: %+v", n, c)
		}
		if c.Refused() != (c.Shares[c.Payer].Amount < -crash.Balance) {
			t.Errorf("transfer %d takes %d", n, -c.Shares[c.Payer].Amount)
		}
	}
	for p := range crash.Places {
		for _, want := range []at{
			{crash.FourMove, p, crash.Moves}, {crash.OneAlone, p, crash.Moves},
			{crash.OneMoves, p, crash.Moves}, {crash.OneMoves, p, crash.Reads},
			{crash.TwoMove, p, crash.Moves}, {crash.TwoMove, p, crash.Away},
			{crash.OneRefuses, p, crash.Moves}, {crash.ThreeMove, p, crash.Reads},
		} {
			if seen[want] == 0 {
				t.Errorf("never: %s, role %d at place %d", want.kind, want.share, p)
			}
		}
	}
	for k, all := range payers {
		if len(all) != crash.Places {
			t.Errorf("%s is paid by %d places", k, len(all))
		}
	}
	if n := seen[at{crash.FourMove, 0, crash.Moves}]; n != 240 {
		t.Errorf("%d of 480 go to all four", n)
	}
}

// What a single database can commit by itself has no transaction at the coordinator.
func TestPlainCourses(t *testing.T) {
	plain := 0
	for n := range int64(480) {
		c := crash.CourseOf(n)
		want := c.Traffic == crash.OneAlone && c.Payer == crash.PostgreSQL
		if c.Plain() != want {
			t.Errorf("transfer %d is plain: %v; %+v", n, c.Plain(), c)
		}
		if want {
			plain++
		}
	}
	if plain == 0 {
		t.Error("no transfer is plain")
	}
}

package crash_test

import (
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/integration/crash"
)

// path is a trail of transfers that have added one, two, three, and so on.
func path(transfers ...int64) crash.Trail {
	var t crash.Trail
	for i, n := range transfers {
		t.Counter += int64(i + 1)
		t.Marks = append(t.Marks, crash.Mark{N: n, Value: t.Counter})
	}
	return t
}

func TestTrailsAreCompared(t *testing.T) {
	overwritten, behind := path(7, 8), path(7, 8)
	overwritten.Marks[1].Value = 1
	behind.Counter++
	for _, c := range []struct {
		name string
		a, b crash.Trail
		want string
	}{
		{"nothing", path(), path(), ""},
		{"the same", path(7, 8, 9), path(7, 8, 9), ""},
		{"another order", path(7, 8), path(8, 7), "place 0"},
		{"one is missing in the middle", path(7, 8, 9), path(7, 9), "place 1"},
		{"one is missing at the end", path(7, 8), path(7), "2 transfers"},
		{"a lost update", overwritten, overwritten, "from 1 to 1"},
		{"a counter without a mark", path(7, 8), behind, "side 1"},
	} {
		got := crash.CompareTrails(c.a, c.b)
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	book := crash.Book{Trails: [2]crash.Trail{path(7, 8), path(8, 7)}}
	expectKinds(t, "a book with trails", book, kinds(crash.OrderDiffers))
}

package crash

import "fmt"

// Mark is one row of a trail: a transfer has added to the counter, and made it Value.
type Mark struct{ N, Value int64 }

// Trail is what one database knows of the counter, in the order of its values.
type Trail struct {
	Counter int64
	Marks   []Mark
}

// CompareTrails looks for the first difference between the trails of both databases.
//
// Every transfer that counts adds the same amount to one row at either database, and holds both
// rows until it has ended. So the databases agree on who came after whom; and a transfer that one
// of them has and the other has not shifts every value behind it. The empty text means that they
// agree.
func CompareTrails(a, b Trail) string {
	for i, t := range []Trail{a, b} {
		if text := t.fault(); text != "" {
			return fmt.Sprintf("side %d: %s", i, text)
		}
	}
	for i := range min(len(a.Marks), len(b.Marks)) {
		if a.Marks[i] != b.Marks[i] {
			return fmt.Sprintf("place %d: transfer %d made the counter %d at one side, and "+
				"transfer %d made it %d at the other", i, a.Marks[i].N, a.Marks[i].Value,
				b.Marks[i].N, b.Marks[i].Value)
		}
	}
	if len(a.Marks) != len(b.Marks) || a.Counter != b.Counter {
		return fmt.Sprintf("%d transfers and a counter of %d at one side, %d and %d at the other",
			len(a.Marks), a.Counter, len(b.Marks), b.Counter)
	}
	return ""
}

// fault is what is wrong with a trail by itself: values that do not rise have overwritten each
// other, and the last must be what the counter is.
func (t Trail) fault() string {
	last := int64(0)
	for i, m := range t.Marks {
		if m.Value <= last {
			return fmt.Sprintf("place %d: the counter went from %d to %d", i, last, m.Value)
		}
		last = m.Value
	}
	if last != t.Counter {
		return fmt.Sprintf("the counter is %d, and its last mark says %d", t.Counter, last)
	}
	return ""
}

package ticket

import (
	"testing"
	"time"

	"github.com/gavel-tx/gavel/txn"
)

func TestParse(t *testing.T) {
	id := txn.NewID(5, 7)
	one, other := id.String(), txn.NewID(5, 8).String()
	for _, tc := range []struct {
		name           string
		ids, deadlines []string
		want           time.Duration
		none, bad      bool
	}{
		{name: "nothing", none: true},
		{name: "a deadline alone", deadlines: []string{"x"}, none: true},
		{name: "an id", ids: []string{one}},
		{name: "an id twice", ids: []string{one, one}},
		{name: "both", ids: []string{one}, deadlines: []string{"1500"},
			want: 1500 * time.Millisecond},
		{name: "too long", ids: []string{one}, deadlines: []string{"9000000000000000"},
			want: 1000 * time.Hour},
		{name: "two ids", ids: []string{one, other}, bad: true},
		{name: "no id", ids: []string{"x"}, bad: true},
		{name: "an empty id", ids: []string{""}, bad: true},
		{name: "no time", ids: []string{one}, deadlines: []string{"0"}, bad: true},
		{name: "less", ids: []string{one}, deadlines: []string{"-1"}, bad: true},
		{name: "an empty time", ids: []string{one}, deadlines: []string{""}, bad: true},
		{name: "beyond all numbers", ids: []string{one}, bad: true,
			deadlines: []string{"99999999999999999999"}},
		{name: "two times", ids: []string{one}, deadlines: []string{"1", "2"}, bad: true},
	} {
		got, err := Parse(tc.ids, tc.deadlines)
		switch {
		case tc.bad != (err != nil), (tc.none || tc.bad) != (got == nil):
			t.Errorf("%s: %v, %v", tc.name, got, err)
		case got != nil && *got != Ticket{ID: id, Remaining: tc.want}:
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

func TestDeadline(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "", -1: "", 1: "1", time.Millisecond: "1", 2500 * time.Microsecond: "2",
		time.Minute: "60000",
	} {
		if got := Deadline(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

package crash_test

import (
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/txn"
)

func TestLinesComeBackAsTheyWere(t *testing.T) {
	for _, l := range []crash.Line{
		{N: 1, ID: txn.NewID(3, 4)},
		{N: 2, Answer: crash.Committed, At: crash.Now()},
		{N: 3, Answer: crash.RolledBack, Why: "two\nlines and a \" mark"},
		{N: 4, Answer: crash.InDoubt, ID: txn.NewID(3, 5)},
		{N: 5, Answer: crash.Heuristic},
		{Rests: true},
	} {
		text, err := l.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(string(text), "\n") != 1 || !strings.HasSuffix(string(text), "\n") {
			t.Errorf("%q is not one line", text)
		}
		back, err := crash.ParseLine(text)
		if err != nil || back != l {
			t.Errorf("%q came back as %+v, %v", text, back, err)
		}
	}
}

func TestBadLinesAreRefused(t *testing.T) {
	for _, text := range []string{
		"", "x", `{"n":1,"answer":"maybe"}`, `{"n":1,"id":"7"}`, `{"n":"1"}`,
	} {
		if l, err := crash.ParseLine([]byte(text)); err == nil {
			t.Errorf("%q is read as %+v", text, l)
		}
	}
	if got := crash.Answer(99).String(); got != "INVALID(99)" {
		t.Errorf("an answer that is none prints as %q", got)
	}
}

package guess

import "testing"

func TestClosest(t *testing.T) {
	words := []string{"init", "verify", "dump", "stat", "adopt", "resource", "accept-foreign"}
	for typed, want := range map[string]string{
		"verfy": "verify", "vreify": "verify", "dmup": "dump", "start": "stat",
		"ressource":      "resource",
		"accept-foriegn": "accept-foreign", "int": "init", "zzz": "", "x": "", "": "",
		"completely-else": "",
	} {
		if got := Closest(typed, words); got != want {
			t.Errorf("%q: %q, want %q", typed, got, want)
		}
	}
	if got := DidYouMean("verfy", words); got != `Did you mean "verify"?` {
		t.Error(got)
	}
	if got := DidYouMean("zzz", words); got != "" {
		t.Error(got)
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0}, {"abc", "acb", 1},
		{"abc", "abd", 1}, {"abc", "ab", 1}, {"kitten", "sitting", 3}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("%q to %q: %d, want %d", c.a, c.b, got, c.want)
		}
		if got := distance(c.b, c.a); got != c.want {
			t.Errorf("%q to %q: %d, want %d", c.b, c.a, got, c.want)
		}
	}
}

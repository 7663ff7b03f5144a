package tidy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// packageCase is a package of two files, its code and its tests, and what one rule says about it.
type packageCase struct {
	name, code, tests string
	want              []string
}

func runPackageCases(t *testing.T, rule string, cases []packageCase) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			tree := snippets(t, map[string]string{
				"a/a.go": "package a\n" + c.code, "a/a_test.go": "package a\n" + c.tests,
			})
			if diff := cmp.Diff(c.want, texts(ruleNamed(t, rule).Check(tree))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLeaks(t *testing.T) {
	const imports = "import \"go.uber.org/goleak\"\n"
	const guard = imports + "func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }\n"
	want := []string{"a:0: starts goroutines (a/a.go), but no TestMain asks goleak"}
	runPackageCases(t, "leaks", []packageCase{
		{name: "no goroutine", code: "func f() {}\n"},
		{name: "a go statement", code: "func f() { go g() }\n", want: want},
		{name: "a wait group", code: "func f() { wg.Go(func() {}) }\n", want: want},
		{name: "an error group in a method", code: "func (T) f() { x.group.Go(g) }\n", want: want},
		{name: "guarded", code: "func f() { go g() }\n", tests: guard},
		{name: "goleak in one test only", code: "func f() { go g() }\n",
			tests: imports + "func TestX(t *testing.T) { goleak.VerifyNone(t) }\n", want: want},
		{name: "a TestMain that does not ask", code: "func f() { go g() }\n",
			tests: "func TestMain(m *testing.M) { m.Run() }\n", want: want},
		{name: "a method named TestMain", code: "func f() { go g() }\n",
			tests: imports + "func (s) TestMain() { goleak.Find() }\n", want: want},
		{name: "goroutines of tests alone", tests: "func f() { go g() }\n"},
	})
}

func TestShort(t *testing.T) {
	const servers = "import \"example.org/m/participant/postgres/pghost\"\nvar _ = pghost.Start\n"
	runPackageCases(t, "short", []packageCase{
		{name: "no databases", tests: "func TestX(t *testing.T) {}\n"},
		{name: "databases in every run", tests: servers,
			want: []string{"a/a_test.go:0: starts databases for every run; " +
				"TestMain must leave them out under -short"}},
		{name: "databases of the other kind",
			tests: "import \"example.org/m/participant/mysql/mariahost\"\n" +
				"var _ = mariahost.Find\n",
			want: []string{"a/a_test.go:0: starts databases for every run; " +
				"TestMain must leave them out under -short"}},
		{name: "databases without -short", tests: servers +
			"func TestMain(m *testing.M) { if testing.Short() { pure() }; m.Run() }\n"},
		{name: "the product starts databases",
			code: "import \"example.org/m/participant/postgres/pghost\"\nvar _ = pghost.Start\n"},
	})
}

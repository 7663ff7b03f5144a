package tidy

import (
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// TestPath holds the path of one transfer in ARCHITECTURE.md against the code.
func TestPath(t *testing.T) {
	tree := loadRoot(t)
	i := slices.IndexFunc(tree.Texts, func(x Text) bool { return x.Path == "ARCHITECTURE.md" })
	if i < 0 {
		t.Fatal("there is no ARCHITECTURE.md")
	}
	report(t, CheckPath(tree, string(tree.Texts[i].Source)))
}

func TestCheckPathFindsFaults(t *testing.T) {
	files := map[string]string{
		"a/a.go": "package a\nfunc F() {}\n" +
			"type T struct{}\nfunc (t *T) M() {}\nfunc (t T) N() {}\n",
		"b/b.go": "package b\nfunc G() {}\n",
	}
	long := ""
	for _, name := range []string{"c", "d", "e", "f", "g", "h", "i", "j"} {
		files[name+"/x.go"] = "package " + name + "\nfunc X() {}\n"
		long += " `" + name + "/x.go:X`"
	}
	tree := snippets(t, files)
	for _, c := range []struct {
		name, document string
		want           []string
	}{
		{"good", "`a/a.go:F` `a/a.go:T.M` `a/a.go:T.N` `b/b.go:G`", nil},
		{"no such function", "`a/a.go:H`", []string{"ARCHITECTURE.md:0: a/a.go declares no H"}},
		{"no such method", "`a/a.go:T.F`", []string{"ARCHITECTURE.md:0: a/a.go declares no T.F"}},
		{"no such file", "`z/z.go:F`", []string{"ARCHITECTURE.md:0: z/z.go declares no F"}},
		{"back", "`a/a.go:F` `b/b.go:G` `a/a.go:T.M`",
			[]string{"ARCHITECTURE.md:0: the path jumps back to a/a.go"}},
		{"empty", "nothing", []string{
			"ARCHITECTURE.md:0: the path goes through 0 files; it must go through 1 to 9"}},
		{"long", "`a/a.go:F` `b/b.go:G`" + long, []string{
			"ARCHITECTURE.md:0: the path goes through 10 files; it must go through 1 to 9"}},
	} {
		if diff := gocmp.Diff(c.want, texts(CheckPath(tree, c.document))); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

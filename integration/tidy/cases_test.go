package tidy

import (
	"fmt"
	"strings"
)

// fileCase is one file and what one rule says about it. Without a path it is a file of package a.
type fileCase struct {
	name, path, source string
	want               []string
}

// fileCases returns the cases of every rule that looks at one file, by the rule's name.
func fileCases() map[string][]fileCase {
	return map[string][]fileCase{
		"files":         fileLengthCases(),
		"lines":         columnCases(),
		"functions":     append(functionCases(), tableCases()...),
		"words":         wordCases(),
		"package docs":  packageCases(),
		"exported docs": exportCases(),
		"skips":         skipCases(),
		"sleeps":        sleepCases(),
	}
}

// lines is n lines of text.
func lines(n int, text string) string { return strings.Repeat(text+"\n", n) }

// function has n lines, of which the body's last but one are text.
func function(n int, text string) string {
	return "func f(i int) {\n" + lines(n-2, text) + "}\n"
}

// table is a function of n lines that are one switch, but for other lines in front of it.
func table(n, other int) string {
	body := lines(other, "\ti++") + "\tswitch i {\n" + lines(n-other-4, "\tcase 1:") + "\t}\n"
	return "func f(i int) {\n" + body + "}\n"
}

func fileLengthCases() []fileCase {
	return []fileCase{
		{name: "600 lines", source: "package a\n" + lines(599, "")},
		{name: "601 lines", source: "package a\n" + lines(600, ""),
			want: []string{"a/a.go:0: 601 lines, more than 600"}},
	}
}

func columnCases() []fileCase {
	wide := "// " + strings.Repeat("a ", 48)
	return []fileCase{
		{name: "100 columns", source: "package a\n" + wide + "a\n"},
		{name: "101 columns", source: "package a\n" + wide + "aa\n",
			want: []string{"a/a.go:2: 101 columns, more than 100"}},
		{name: "runes, not bytes", source: "package a\n" + wide + "é\n"},
		{name: "a tab counts four", source: "package a\n\t" + wide + "\n",
			want: []string{"a/a.go:2: 103 columns, more than 100"}},
		{name: "an address cannot be folded",
			source: "package a\n// https://" + strings.Repeat("a", 100) + "\n"},
		{name: "a directive cannot be folded",
			source: "package a\n//go:generate " + strings.Repeat("a ", 100) + "\n"},
	}
}

func functionCases() []fileCase {
	return []fileCase{
		{name: "70 lines", source: "package a\n" + function(70, "")},
		{name: "71 lines", source: "package a\n" + function(71, ""),
			want: []string{"a/a.go:2: f has 71 lines, more than 70"}},
	}
}

func tableCases() []fileCase {
	const head, because = "package a\n\n// f decides.\n//tidy:table", " one line for each case"
	mark := func(reason string) string { return head + reason + "\n" }
	literal := "func f() any {\n\treturn []int{\n" + lines(80, "\t\t1,") + "\t}\n}\n"
	fault := func(text string) []string { return []string{"a/a.go:5: f " + text} }
	return []fileCase{
		{name: "a long table with a reason", source: mark(because) + table(90, 5)},
		{name: "a long table without a mark",
			source: "package a\n\n\n\n" + table(90, 5),
			want:   fault("has 90 lines, more than 70")},
		{name: "a mark without a reason", source: mark("") + table(90, 5),
			want: fault("//tidy:table does not say why")},
		{name: "a mark on what is no table", source: mark(because) + table(90, 60),
			want: fault("is marked as a table, but most of it is not one switch, " +
				"select or literal")},
		{name: "a mark on a short function", source: mark(because) + table(20, 1),
			want: fault("carries //tidy:table but has only 20 lines")},
		{name: "a long literal is a table", source: mark(because) + literal},
	}
}

func wordCases() []fileCase {
	var out []fileCase
	for _, word := range []string{"TO" + "DO", "FIX" + "ME", "X" + "XX"} {
		mark := fmt.Sprintf("%s: finish it, or say what holds now", word)
		out = append(out,
			fileCase{name: "in code " + word, source: "package a // " + word + ": x\n",
				want: []string{"a/a.go:1: " + mark}},
			fileCase{name: "in a page " + word, path: "a.md",
				source: "a\n(" + word + ")\n",
				want:   []string{"a.md:2: " + mark}},
			fileCase{name: "in a script " + word, path: ".ci/run", source: "# " + word + "\n",
				want: []string{".ci/run:1: " + mark}},
			fileCase{name: "part of a word " + word,
				source: "package a // Mas" + word + "n\n"},
		)
	}
	return out
}

func packageCases() []fileCase {
	missing := []string{"a:0: package a has no package comment"}
	return []fileCase{
		{name: "a package comment", source: "// Package a is.\npackage a\n"},
		{name: "none", source: "package a\n", want: missing},
		{name: "in another form", source: "// This is a.\npackage a\n",
			want: missing},
		{name: "cut off by a blank line",
			source: "// Package a is.\n\npackage a\n", want: missing},
		{name: "of another package", source: "// Package ab is.\npackage a\n",
			want: missing},
		{name: "a command", source: "// Command a does.\npackage main\n"},
		{name: "a command without", source: "package main\n",
			want: []string{"a:0: package main has no package comment"}},
		{name: "a folder of tests alone", path: "a/a_test.go",
			source: "// Package a is.\npackage a_test\n"},
	}
}

func exportCases() []fileCase {
	src := func(text string) string { return "package a\n" + text }
	missing := func(name string) []string {
		return []string{"a/a.go:2: " + name + " has no comment"}
	}
	return []fileCase{
		{name: "a function", source: src("func F() {}\n"), want: missing("F")},
		{name: "an unexported one", source: src("func f() {}\n")},
		{name: "a commented one", source: src("// F is.\nfunc F() {}\n")},
		{name: "a method", source: src("func (T) M() {}\n"), want: missing("M")},
		{name: "of a pointer", source: src("func (*T) M() {}\n"),
			want: missing("M")},
		{name: "of a generic type", source: src("func (*T[K]) M() {}\n"),
			want: missing("M")},
		{name: "of two parameters", source: src("func (t T[K, V]) M() {}\n"),
			want: missing("M")},
		{name: "of a type without a name outside",
			source: src("func (t) M() {}\n")},
		{name: "a type", source: src("type T int\n"), want: missing("T")},
		{name: "a type in a commented group",
			source: "package a\n\n// All.\ntype (\n\tT int\n)\n",
			want:   []string{"a/a.go:5: T has no comment"}},
		{name: "a constant", source: src("const A, B = 1, 2\n"),
			want: []string{"a/a.go:2: A has no comment", "a/a.go:2: B has no comment"}},
		{name: "a commented group",
			source: src("// All.\nvar (\n\tA = 1\n)\n")},
		{name: "a comment for two",
			source: "package a\n\nvar (\n\t// A and B are.\n\tA = 1\n\tB = 2\n\tC = 3\n)\n",
			want:   []string{"a/a.go:7: C has no comment"}},
		{name: "a name inside a longer word",
			source: "package a\n\nvar (\n\t// AB is.\n\tAB = 1\n\tB = 2\n)\n",
			want:   []string{"a/a.go:6: B has no comment"}},
		{name: "a method that says all",
			source: src("func (T) String() string { return \"\" }\n")},
		{name: "a function of that name",
			source: src("func String() string { return \"\" }\n"), want: missing("String")},
		{name: "a comment behind", source: src("var (\n\tA = 1 // one\n)\n")},
		{name: "a test", path: "a/a_test.go", source: src("func F() {}\n")},
		{name: "a program", source: "package main\nfunc F() {}\n"},
	}
}

// inTest is a test with one statement, in the third line of its file.
func inTest(statement string) string {
	return "package a\nfunc TestX(t *testing.T) {\n" + statement + "\n}\n"
}

func skipCases() []fileCase {
	const path = "a/a_test.go"
	skip := []string{"a/a_test.go:3: skips a test"}
	short := []string{"a/a_test.go:3: leaves a test because of -short; choose in TestMain"}
	return []fileCase{
		{name: "Skip", path: path, source: inTest(`t.Skip("no")`), want: skip},
		{name: "Skipf of a field", path: path, source: inTest(`h.t.Skipf("no")`), want: skip},
		{name: "SkipNow in a benchmark", path: path, source: inTest(`b.SkipNow()`), want: skip},
		{name: "a reader that skips", path: path, source: inTest(`r.Skip(4)`)},
		{name: "outside tests", source: inTest(`t.Skip("no")`)},
		{name: "return under -short", path: path,
			source: inTest("if testing.Short() && x { log(); return }"), want: short},
		{name: "less under -short", path: path, source: inTest("if testing.Short() { n = 10 }")},
		{name: "nothing under -short", path: path, source: inTest("if testing.Short() {}")},
		{name: "return without -short", path: path, source: inTest("if done() { return }")},
	}
}

func sleepCases() []fileCase {
	const path = "a/a_test.go"
	sleep := []string{"a/a_test.go:3: sleeps on the real clock; wait for an event"}
	return []fileCase{
		{name: "a sleep", path: path, source: inTest("time.Sleep(1)"), want: sleep},
		{name: "of another package", path: path, source: inTest("clock.Sleep(1)")},
		{name: "outside tests", source: inTest("time.Sleep(1)")},
		{name: "in synctest", path: path, source: "package a\nimport \"testing/synctest\"\n" +
			"func f() { time.Sleep(1); synctest.Wait() }\n"},
	}
}

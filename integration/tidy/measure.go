package tidy

import (
	"bytes"
	"fmt"
	"go/ast"
	"io"
	"slices"
	"text/tabwriter"
)

// Measure is what a package looks like from afar. Blank lines count nowhere, generated code
// neither.
type Measure struct {
	Dir string
	// SourceLines and TestLines hold something; Comments are the source lines that hold only a
	// comment.
	SourceLines, TestLines, Comments int
	// Functions holds the length of every function outside tests, in lines.
	Functions []int
}

// Density is the share of source lines that are comments.
func (m Measure) Density() float64 { return ratio(m.Comments, m.SourceLines) }

// TestRatio is how many test lines stand behind each source line.
func (m Measure) TestRatio() float64 { return ratio(m.TestLines, m.SourceLines) }

// Median is the length of the function in the middle, 0 without functions.
func (m Measure) Median() int {
	if len(m.Functions) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(m.Functions))[len(m.Functions)/2]
}

func ratio(a, b int) float64 { return float64(a) / float64(max(b, 1)) }

// Measures returns one measure for each package and a last one, named "all", for the tree.
func (t *Tree) Measures() []Measure {
	all := Measure{Dir: "all"}
	var out []Measure
	for _, dir := range t.dirs() {
		m := Measure{Dir: dir}
		for _, f := range t.in(dir) {
			m.add(f)
			all.add(f)
		}
		out = append(out, m)
	}
	return append(out, all)
}

func (m *Measure) add(f *File) {
	switch {
	case f.Generated:
	case f.Test():
		m.TestLines += filled(f.Source)
	default:
		m.SourceLines += filled(f.Source)
		m.Comments += commentLines(f)
		m.Functions = append(m.Functions, functionLengths(f)...)
	}
}

// filled counts the lines that hold something.
func filled(src []byte) int {
	n := 0
	for line := range bytes.Lines(src) {
		if len(bytes.TrimSpace(line)) > 0 {
			n++
		}
	}
	return n
}

// commentLines counts the lines that start with a comment; one at the end of a statement is not
// counted.
func commentLines(f *File) int {
	n := 0
	for line := range bytes.Lines(f.Source) {
		if bytes.HasPrefix(bytes.TrimSpace(line), []byte("//")) {
			n++
		}
	}
	return n
}

func functionLengths(f *File) []int {
	var out []int
	for _, decl := range f.AST.Decls {
		if d, ok := decl.(*ast.FuncDecl); ok {
			out = append(out, f.lines(d))
		}
	}
	return out
}

// Print writes the measures as a table.
func Print(w io.Writer, measures []Measure) error {
	tab := tabwriter.NewWriter(w, 0, 4, 2, ' ', tabwriter.AlignRight)
	head := "package\tsource\ttests\ttests/source\tcomments\tmedian function\t\n"
	rows := bytes.NewBufferString(head)
	for _, m := range measures {
		fmt.Fprintf(rows, "%s\t%d\t%d\t%.2f\t%.0f %%\t%d\t\n", m.Dir, m.SourceLines, m.TestLines,
			m.TestRatio(), 100*m.Density(), m.Median())
	}
	if _, err := rows.WriteTo(tab); err != nil {
		return err
	}
	return tab.Flush()
}

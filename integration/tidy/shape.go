package tidy

import (
	"fmt"
	"go/ast"
	"slices"
	"strings"
)

// The limits of shape. A tab counts as TabColumns, wherever it stands.
const (
	MaxFileLines     = 600
	MaxColumns       = 100
	MaxFunctionLines = 70
	TabColumns       = 4

	tableMark = "//tidy:table"
)

func checkFileLength(f *File) []Finding {
	n := strings.Count(string(f.Source), "\n")
	if n <= MaxFileLines {
		return nil
	}
	return []Finding{{f.Path, 0, fmt.Sprintf("%d lines, more than %d", n, MaxFileLines)}}
}

func checkColumns(f *File) []Finding {
	var out []Finding
	line := 0
	for text := range strings.Lines(string(f.Source)) {
		line++
		if n := columns(text); n > MaxColumns && breakable(text) {
			msg := fmt.Sprintf("%d columns, more than %d", n, MaxColumns)
			out = append(out, Finding{f.Path, line, msg})
		}
	}
	return out
}

func columns(line string) int {
	line = strings.TrimRight(line, "\r\n")
	return len([]rune(line)) + (TabColumns-1)*strings.Count(line, "\t")
}

// breakable is false for directives, which end only with their line, and for a line that holds a
// single word: an address in a comment cannot be folded.
func breakable(line string) bool {
	text := strings.TrimSpace(line)
	if strings.HasPrefix(text, "//go:") {
		return false
	}
	return len(strings.Fields(strings.TrimPrefix(text, "//"))) > 1
}

func checkFunctions(f *File) []Finding {
	var out []Finding
	for _, decl := range f.AST.Decls {
		d, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		if fault := functionFault(f, d); fault != "" {
			out = append(out, f.at(d, "%s %s", d.Name.Name, fault))
		}
	}
	return out
}

// functionFault judges one function. The mark excuses length only where it tells the truth: it
// gives a reason, it is needed, and one table makes up most of the function.
func functionFault(f *File, d *ast.FuncDecl) string {
	lines := f.lines(d)
	reason, marked := tableReason(d.Doc)
	switch {
	case lines <= MaxFunctionLines && !marked:
		return ""
	case lines <= MaxFunctionLines:
		return fmt.Sprintf("carries %s but has only %d lines", tableMark, lines)
	case !marked:
		return fmt.Sprintf("has %d lines, more than %d", lines, MaxFunctionLines)
	case len(strings.Fields(reason)) < 3:
		return tableMark + " does not say why"
	case 2*largestTable(f, d) < lines:
		return "is marked as a table, but most of it is not one switch, select or literal"
	}
	return ""
}

func tableReason(doc *ast.CommentGroup) (reason string, marked bool) {
	if doc == nil {
		return "", false
	}
	last := doc.List[len(doc.List)-1].Text
	return strings.CutPrefix(last, tableMark)
}

// largestTable is the length, in lines, of the longest switch, select or composite literal.
func largestTable(f *File, d *ast.FuncDecl) int {
	sizes := []int{0}
	ast.Inspect(d, func(n ast.Node) bool {
		switch n.(type) {
		case *ast.SwitchStmt, *ast.TypeSwitchStmt, *ast.SelectStmt, *ast.CompositeLit:
			sizes = append(sizes, f.lines(n))
		}
		return true
	})
	return slices.Max(sizes)
}

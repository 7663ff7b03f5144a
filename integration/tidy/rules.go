package tidy

import (
	"cmp"
	"slices"
)

// Rule is one thing that the tree promises about its own source.
type Rule struct {
	Name  string
	Check func(*Tree) []Finding
}

// Rules returns every rule that needs nothing but the source, with the import graph in force.
func Rules(graph []Row) []Rule {
	return []Rule{
		{"imports", func(t *Tree) []Finding { return checkImports(t, graph) }},
		{"files", handWritten(checkFileLength)},
		{"lines", handWritten(checkColumns)},
		{"functions", handWritten(checkFunctions)},
		{"words", checkWords},
		{"package docs", checkPackageDocs},
		{"exported docs", handWritten(checkExported)},
		{"skips", handWritten(checkSkips)},
		{"sleeps", handWritten(checkSleeps)},
		{"leaks", checkLeaks},
		{"short", checkShort},
	}
}

// handWritten lifts a check of one file to the tree, past generated code.
func handWritten(check func(*File) []Finding) func(*Tree) []Finding {
	return func(t *Tree) []Finding {
		var out []Finding
		for _, f := range t.Files {
			if !f.Generated {
				out = append(out, check(f)...)
			}
		}
		return out
	}
}

// sorted puts findings in the order in which a person would walk the tree.
func sorted(fs []Finding) []Finding {
	slices.SortFunc(fs, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Text, b.Text))
	})
	return fs
}

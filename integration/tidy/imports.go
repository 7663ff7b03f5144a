package tidy

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// everything, as a pattern, matches every folder or import path.
const everything = "..."

// Row says what the code of one package, its tests aside, may import. Patterns are folders of this
// module or import paths; one that ends in "/..." takes in what lies below.
type Row struct {
	// Packages is the folder, or pattern of folders, that the row is about. Folders below an
	// internal folder belong to the row of the folder that holds it.
	Packages string
	// Files, where it is set, narrows the row to files of that name, a pattern of path.Match. The
	// package's other files have a row without.
	Files string
	// Inside lists the folders of this module that may be imported.
	Inside []string
	// Outside lists the import paths of other modules, each with what lies below it.
	Outside []string
	// Without lists packages of the standard library, each with what lies below it, that may not
	// be.
	Without []string
}

// checkImports holds every package to its row, and the table to the tree: a package without a row
// and a row without a package are findings.
func checkImports(t *Tree, graph []Row) []Finding {
	out := staleRows(t, graph)
	for _, f := range t.Files {
		if f.Test() {
			continue
		}
		row, ok := rowOf(graph, f.Dir(), path.Base(f.Path))
		if !ok {
			out = append(out, Finding{f.Path, 0, "the import graph has no row for this package"})
			continue
		}
		out = append(out, importFaults(t.Module, graph, row, f)...)
	}
	return out
}

func staleRows(t *Tree, graph []Row) []Finding {
	var out []Finding
	for _, row := range graph {
		used := func(f *File) bool { return row.about(f.Dir(), path.Base(f.Path)) }
		if !slices.ContainsFunc(t.Files, used) {
			msg := "the import graph names what is not there"
			out = append(out, Finding{path.Join(row.Packages, row.Files), 0, msg})
		}
	}
	return out
}

// rowOf finds the row of a file: the closest pattern, and of two for one package that which names
// the file. Without a file it finds the row of the package. An internal package shares the row of
// the folder that it serves, unless it has one of its own.
func rowOf(graph []Row, dir, file string) (Row, bool) {
	owner := ownerOf(dir)
	if slices.ContainsFunc(graph, func(r Row) bool { return r.Packages == dir }) {
		owner = dir
	}
	best := Row{}
	found := false
	for _, row := range graph {
		if row.about(owner, file) && (!found || row.closer(best)) {
			best, found = row, true
		}
	}
	return best, found
}

func (r Row) about(dir, file string) bool {
	named, err := path.Match(r.Files, file)
	return match(r.Packages, dir) && (r.Files == "" || named && err == nil)
}

// closer compares two rows that both match: the deeper folder is closer, a package closer than its
// tree, a file closer than its package.
func (r Row) closer(than Row) bool {
	return slices.Compare(r.rank(), than.rank()) > 0
}

func (r Row) rank() []int {
	dir, isTree := strings.CutSuffix(r.Packages, "/"+everything)
	rank := []int{len(dir), 1, len(r.Files)}
	if isTree {
		rank[1] = 0
	}
	return rank
}

// ownerOf is the folder that an internal package serves: x for x/internal/y.
func ownerOf(dir string) string {
	owner, _, _ := strings.Cut(dir+"/", "/internal/")
	return strings.TrimSuffix(owner, "/")
}

func match(pattern, dir string) bool {
	above, isTree := strings.CutSuffix(pattern, "/...")
	switch {
	case pattern == everything:
		return true
	case isTree:
		return below(above, dir)
	default:
		return pattern == dir
	}
}

// below tells whether path is root or lies under it.
func below(root, path string) bool {
	return path == root || strings.HasPrefix(path, root+"/")
}

func importFaults(module string, graph []Row, row Row, f *File) []Finding {
	var out []Finding
	for _, spec := range f.AST.Imports {
		if fault := importFault(module, graph, row, f.Dir(), importPath(spec)); fault != "" {
			out = append(out, f.at(spec, "%s", fault))
		}
	}
	return out
}

// importFault judges one import. A path whose first element has no dot is the standard library's.
func importFault(module string, graph []Row, row Row, dir, path string) string {
	first, _, _ := strings.Cut(path, "/")
	switch {
	case below(module, path):
		return insideFault(graph, row, dir, strings.TrimPrefix(path, module+"/"))
	case !strings.Contains(first, "."):
		return listed(row.Without, path, dir+" must not import %s: it stays pure")
	case slices.Contains(row.Outside, everything) || listed(row.Outside, path, "%s") != "":
		return ""
	}
	return fmt.Sprintf("%s must not import %s: its row names no such module", dir, path)
}

// listed gives a text about the path when the list holds it or something above it.
func listed(list []string, path, format string) string {
	if slices.ContainsFunc(list, func(root string) bool { return below(root, path) }) {
		return fmt.Sprintf(format, path)
	}
	return ""
}

// insideFault judges an import within the module. The compiler lets everything below x import
// x/internal/y; here only x and its other internals may, or a helper would carry x's imports down
// into a purer package.
func insideFault(graph []Row, row Row, dir, target string) string {
	mine := strings.Contains(target+"/", "/internal/") && ownerOf(target) == ownerOf(dir)
	named := slices.ContainsFunc(row.Inside, func(p string) bool { return match(p, target) })
	if mine || named {
		return ""
	}
	if _, known := rowOf(graph, target, ""); !known {
		return fmt.Sprintf("%s imports %s, which the import graph does not know", dir, target)
	}
	return fmt.Sprintf("%s must not import %s: imports point down only", dir, target)
}

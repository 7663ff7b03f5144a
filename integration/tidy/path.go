package tidy

import (
	"fmt"
	"go/ast"
	"regexp"
	"slices"
	"strings"
)

// maxPathFiles bounds the files that one transfer's way through the code may touch.
const maxPathFiles = 9

// pathStep is a row of the path table: a file, and a function or method that is declared in it.
var pathStep = regexp.MustCompile("`([a-z0-9_/]+\\.go):([A-Za-z.]+)`")

// CheckPath holds the table of a transfer's path, in a document, against the tree: every function
// exists where it is said to be, the way goes forward only (a file that was left is not entered
// again), and it is short.
func CheckPath(t *Tree, document string) []Finding {
	var out []Finding
	bad := func(format string, args ...any) {
		out = append(out, Finding{Path: "ARCHITECTURE.md", Text: fmt.Sprintf(format, args...)})
	}
	var files []string
	for _, m := range pathStep.FindAllStringSubmatch(document, -1) {
		path, name := m[1], m[2]
		if !declares(t, path, name) {
			bad("%s declares no %s", path, name)
		}
		switch {
		case len(files) > 0 && files[len(files)-1] == path:
		case slices.Contains(files, path):
			bad("the path jumps back to %s", path)
		default:
			files = append(files, path)
		}
	}
	if len(files) == 0 || len(files) > maxPathFiles {
		bad("the path goes through %d files; it must go through 1 to %d", len(files), maxPathFiles)
	}
	return out
}

// declares says whether the file has a function of that name, or a method written Type.Name.
func declares(t *Tree, path, name string) bool {
	for _, f := range t.Files {
		if f.Path != path {
			continue
		}
		return slices.ContainsFunc(f.AST.Decls, func(d ast.Decl) bool {
			fn, ok := d.(*ast.FuncDecl)
			return ok && funcName(fn) == name
		})
	}
	return false
}

func funcName(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return fn.Name.Name
	}
	recv := fn.Recv.List[0].Type
	if star, ok := recv.(*ast.StarExpr); ok {
		recv = star.X
	}
	if id, ok := recv.(*ast.Ident); ok {
		return strings.Join([]string{id.Name, fn.Name.Name}, ".")
	}
	return fn.Name.Name
}

package tidy

import (
	"go/ast"
	"slices"
	"strings"
)

// checkSkips finds tests that report success without having looked: a call of Skip, and a test that
// leaves at once because of -short. What -short leaves out is chosen in TestMain, where it is one
// list.
func checkSkips(f *File) []Finding {
	if !f.Test() {
		return nil
	}
	var out []Finding
	ast.Inspect(f.AST, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if isSkip(n) {
				out = append(out, f.at(n, "skips a test"))
			}
		case *ast.IfStmt:
			if leavesWhenShort(n) {
				out = append(out, f.at(n, "leaves a test because of -short; choose in TestMain"))
			}
		}
		return true
	})
	return out
}

// isSkip goes by the names that test handles have everywhere: t, b, f, tb, or a field of such a
// name.
func isSkip(call *ast.CallExpr) bool {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || !slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
		return false
	}
	handles := []string{"t", "b", "f", "tb"}
	return slices.Contains(handles, strings.ToLower(lastName(sel.X)))
}

func lastName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

func leavesWhenShort(s *ast.IfStmt) bool {
	if len(s.Body.List) == 0 || !calls(s.Cond, "testing", "Short") {
		return false
	}
	_, leaves := s.Body.List[len(s.Body.List)-1].(*ast.ReturnStmt)
	return leaves
}

// calls tells whether a node contains a call of pkg.name.
func calls(n ast.Node, pkg, name string) bool {
	found := false
	ast.Inspect(n, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		found = found || ok && isSelector(call.Fun, pkg, name)
		return !found
	})
	return found
}

func isSelector(e ast.Expr, pkg, name string) bool {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != name {
		return false
	}
	x, ok := sel.X.(*ast.Ident)
	return ok && x.Name == pkg
}

// checkSleeps finds tests that hope instead of waiting for an event. In a file that uses
// testing/synctest the clock is the test's own, and sleeping on it is exact.
func checkSleeps(f *File) []Finding {
	if !f.Test() || f.imports("testing/synctest") {
		return nil
	}
	var out []Finding
	ast.Inspect(f.AST, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && isSelector(call.Fun, "time", "Sleep") {
			out = append(out, f.at(n, "sleeps on the real clock; wait for an event"))
		}
		return true
	})
	return out
}

// checkLeaks wants goleak in the TestMain of every package whose own code starts goroutines.
func checkLeaks(t *Tree) []Finding {
	var out []Finding
	for _, dir := range t.dirs() {
		files := t.in(dir)
		start := slices.IndexFunc(files, startsGoroutines)
		if start >= 0 && !slices.ContainsFunc(files, verifiesLeaks) {
			msg := "starts goroutines (" + files[start].Path + "), but no TestMain asks goleak"
			out = append(out, Finding{dir, 0, msg})
		}
	}
	return out
}

// startsGoroutines sees go statements and the Go method of wait groups and error groups.
func startsGoroutines(f *File) bool {
	if f.Test() || f.Generated {
		return false
	}
	found := false
	ast.Inspect(f.AST, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			found = true
		case *ast.CallExpr:
			sel, ok := n.Fun.(*ast.SelectorExpr)
			found = found || ok && sel.Sel.Name == "Go" && len(n.Args) == 1
		}
		return !found
	})
	return found
}

func verifiesLeaks(f *File) bool {
	return f.Test() && f.imports("go.uber.org/goleak") && testMain(f) != nil
}

func testMain(f *File) *ast.FuncDecl {
	for _, decl := range f.AST.Decls {
		if d, ok := decl.(*ast.FuncDecl); ok && d.Name.Name == "TestMain" && d.Recv == nil {
			return d
		}
	}
	return nil
}

// checkShort wants every package whose tests start real database servers to ask testing.Short, so
// that `make check-fast` stays fast.
func checkShort(t *Tree) []Finding {
	starts := func(f *File) bool {
		return f.Test() && (f.imports(t.Module+"/participant/postgres/pghost") ||
			f.imports(t.Module+"/participant/mysql/mariahost"))
	}
	var out []Finding
	for _, dir := range t.dirs() {
		files := t.in(dir)
		i := slices.IndexFunc(files, starts)
		if i >= 0 && !slices.ContainsFunc(files, asksShort) {
			msg := "starts databases for every run; TestMain must leave them out under -short"
			out = append(out, Finding{files[i].Path, 0, msg})
		}
	}
	return out
}

func asksShort(f *File) bool { return f.Test() && calls(f.AST, "testing", "Short") }

package tidy

import (
	"fmt"
	"go/ast"
	"go/token"
	"slices"
	"strings"
	"unicode"
)

// checkPackageDocs wants one package comment for each folder. A folder of tests alone has it in a
// test file.
func checkPackageDocs(t *Tree) []Finding {
	var out []Finding
	for _, dir := range t.dirs() {
		files := t.in(dir)
		if !slices.ContainsFunc(files, hasPackageDoc) && !allGenerated(files) {
			msg := fmt.Sprintf("package %s has no package comment", files[0].AST.Name.Name)
			out = append(out, Finding{dir, 0, msg})
		}
	}
	return out
}

// hasPackageDoc wants the comment in the form that godoc shows: "Package x …", or "Command x …" for
// a program. The parser attaches it only when no blank line stands before the package clause.
func hasPackageDoc(f *File) bool {
	if f.AST.Doc == nil {
		return false
	}
	name := strings.TrimSuffix(f.AST.Name.Name, "_test")
	text := f.AST.Doc.Text()
	if name == "main" {
		return strings.HasPrefix(text, "Command ")
	}
	return strings.HasPrefix(text, "Package "+name+" ")
}

func allGenerated(files []*File) bool {
	return !slices.ContainsFunc(files, func(f *File) bool { return !f.Generated })
}

// checkExported wants a comment on everything that godoc lists.
func checkExported(f *File) []Finding {
	if f.Test() || f.AST.Name.Name == "main" {
		return nil
	}
	var out []Finding
	for _, decl := range f.AST.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			out = append(out, undocumentedFunc(f, d)...)
		case *ast.GenDecl:
			out = append(out, undocumentedSpecs(f, d)...)
		}
	}
	return out
}

func undocumentedFunc(f *File, d *ast.FuncDecl) []Finding {
	if d.Doc != nil || !d.Name.IsExported() || !exportedReceiver(d.Recv) || wellKnown(d) {
		return nil
	}
	return []Finding{f.at(d, "%s has no comment", d.Name.Name)}
}

// wellKnown is true for methods whose name says all: a comment would only repeat it.
func wellKnown(d *ast.FuncDecl) bool {
	return d.Recv != nil && slices.Contains([]string{"String", "Error", "Unwrap"}, d.Name.Name)
}

// exportedReceiver is true for functions, and for methods of types that a caller can name.
func exportedReceiver(recv *ast.FieldList) bool {
	if recv == nil {
		return true
	}
	switch t := baseType(recv.List[0].Type).(type) {
	case *ast.Ident:
		return t.IsExported()
	default:
		return false
	}
}

// baseType strips the pointer and the type parameters from a receiver.
func baseType(e ast.Expr) ast.Expr {
	switch t := e.(type) {
	case *ast.StarExpr:
		return baseType(t.X)
	case *ast.IndexExpr:
		return t.X
	case *ast.IndexListExpr:
		return t.X
	default:
		return e
	}
}

// undocumentedSpecs accepts one comment for a parenthesised group of values, as godoc does, and one
// comment that names several of them, but wants each type to have its own.
func undocumentedSpecs(f *File, d *ast.GenDecl) []Finding {
	var out []Finding
	named := wordsOfDocs(d)
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			if s.Name.IsExported() && s.Doc == nil && (d.Doc == nil || d.Lparen.IsValid()) {
				out = append(out, f.at(s, "%s has no comment", s.Name.Name))
			}
		case *ast.ValueSpec:
			if d.Doc == nil && s.Doc == nil && s.Comment == nil {
				out = append(out, undocumentedNames(f, s.Names, named)...)
			}
		}
	}
	return out
}

// wordsOfDocs are the words of the comments above the values of one group.
func wordsOfDocs(d *ast.GenDecl) []string {
	var words []string
	for _, spec := range d.Specs {
		if s, ok := spec.(*ast.ValueSpec); ok {
			words = append(words, strings.FieldsFunc(s.Doc.Text(), notInName)...)
		}
	}
	return words
}

func notInName(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '_' }

func undocumentedNames(f *File, names []*ast.Ident, named []string) []Finding {
	var out []Finding
	for _, name := range names {
		if token.IsExported(name.Name) && !slices.Contains(named, name.Name) {
			out = append(out, f.at(name, "%s has no comment", name.Name))
		}
	}
	return out
}

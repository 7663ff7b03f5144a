package tidy

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// File is one Go file.
type File struct {
	// Path is slash-separated and starts at the module's root.
	Path   string
	Source []byte
	AST    *ast.File
	// Generated says that the file carries the standard mark of generated code.
	Generated bool

	fset *token.FileSet
}

// Text is one file that people read and no compiler does: documentation, configuration, scripts.
type Text struct {
	Path   string
	Source []byte
}

// Tree is a module's source: its Go files and the texts beside them.
type Tree struct {
	Module string
	Files  []*File
	Texts  []Text
}

// Finding is one place that breaks a rule.
type Finding struct {
	Path string
	// Line is 0 where the finding concerns a whole file or package.
	Line int
	Text string
}

// String gives the finding in the form that editors jump to.
func (f Finding) String() string {
	return fmt.Sprintf("%s:%d: %s", f.Path, f.Line, f.Text)
}

// Load reads the module at the root of fsys. It leaves out nested modules, testdata, hidden folders
// other than .ci, and what builds leave behind. A Go file that does not parse is an error.
func Load(fsys fs.FS) (*Tree, error) {
	mod, err := fs.ReadFile(fsys, "go.mod")
	if err != nil {
		return nil, fmt.Errorf("tidy: read the module's name: %w", err)
	}
	t := &Tree{Module: moduleName(mod)}
	err = fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return enter(fsys, p)
		default:
			return t.add(fsys, p)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("tidy: load the tree: %w", err)
	}
	return t, nil
}

// moduleName reads the module line, which is the first line of every go.mod that the go command
// wrote.
func moduleName(mod []byte) string {
	line, _, _ := strings.Cut(string(mod), "\n")
	return strings.TrimSpace(strings.TrimPrefix(line, "module "))
}

// enter decides whether a folder belongs to the tree.
func enter(fsys fs.FS, dir string) error {
	if dir == "." {
		return nil
	}
	base := path.Base(dir)
	hidden := strings.HasPrefix(base, ".") && base != ".ci"
	leftover := slices.Contains([]string{"bin", "build"}, dir)
	aside := slices.Contains([]string{"testdata", "node_modules", "vendor"}, base)
	_, err := fs.Stat(fsys, path.Join(dir, "go.mod"))
	if nested := err == nil; nested || hidden || leftover || aside {
		return fs.SkipDir
	}
	return nil
}

func (t *Tree) add(fsys fs.FS, p string) error {
	if !isGo(p) && !isText(p) {
		return nil
	}
	src, err := fs.ReadFile(fsys, p)
	if err != nil {
		return err
	}
	if isText(p) {
		t.Texts = append(t.Texts, Text{Path: p, Source: src})
		return nil
	}
	return t.parse(p, src)
}

func (t *Tree) parse(p string, src []byte) error {
	fset := token.NewFileSet()
	syntax, err := parser.ParseFile(fset, p, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	t.Files = append(t.Files, &File{
		Path: p, Source: src, AST: syntax, Generated: ast.IsGenerated(syntax), fset: fset,
	})
	return nil
}

func isGo(p string) bool { return path.Ext(p) == ".go" }

func isText(p string) bool {
	switch path.Ext(p) {
	case ".md", ".yml", ".yaml", ".proto", ".sh":
		return true
	}
	return slices.Contains([]string{"Makefile", "Dockerfile", "run"}, path.Base(p))
}

// Dir is the folder of the file, "." for the module's root.
func (f *File) Dir() string { return path.Dir(f.Path) }

// Test says whether the file is built for tests only.
func (f *File) Test() bool { return strings.HasSuffix(f.Path, "_test.go") }

func (f *File) line(p token.Pos) int { return f.fset.Position(p).Line }

// lines is how many lines a node covers.
func (f *File) lines(n ast.Node) int { return f.line(n.End()) - f.line(n.Pos()) + 1 }

func (f *File) at(n ast.Node, format string, args ...any) Finding {
	return Finding{Path: f.Path, Line: f.line(n.Pos()), Text: fmt.Sprintf(format, args...)}
}

// imports tells whether the file imports one of the paths.
func (f *File) imports(paths ...string) bool {
	return slices.ContainsFunc(f.AST.Imports, func(s *ast.ImportSpec) bool {
		return slices.Contains(paths, importPath(s))
	})
}

// importPath unquotes an import; the parser has accepted it as a string literal already.
func importPath(s *ast.ImportSpec) string { return strings.Trim(s.Path.Value, "\"`") }

// dirs lists the folders that hold Go files, in order, each once.
func (t *Tree) dirs() []string {
	var all []string
	for _, f := range t.Files {
		all = append(all, f.Dir())
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// in lists the files of one folder.
func (t *Tree) in(dir string) []*File {
	return slices.DeleteFunc(slices.Clone(t.Files), func(f *File) bool { return f.Dir() != dir })
}

package tidy

import (
	"bytes"
	"os"
	"testing"
)

// root is the module's root, seen from this folder, where the go command runs its tests.
const root = "../.."

func loadRoot(t *testing.T) *Tree {
	t.Helper()
	tree, err := Load(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// TestTree holds this module to every rule.
func TestTree(t *testing.T) {
	tree := loadRoot(t)
	for _, rule := range Rules(Graph()) {
		t.Run(rule.Name, func(t *testing.T) {
			report(t, rule.Check(tree))
		})
	}
}

// TestClosures asks the go command what a user of each package is made to link.
func TestClosures(t *testing.T) {
	findings, err := CheckClosures(t.Context(), GoList(root), Closures())
	if err != nil {
		t.Fatal(err)
	}
	report(t, findings)
}

// TestMeasures prints the measures; run it with -v to see them. It fails only when they count
// nothing.
func TestMeasures(t *testing.T) {
	tree := loadRoot(t)
	var table bytes.Buffer
	if err := Print(&table, tree.Measures()); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", table.String())
	all := tree.Measures()[len(tree.Measures())-1]
	if all.SourceLines == 0 || all.TestLines == 0 || all.Comments == 0 || all.Median() == 0 {
		t.Errorf("the tree measures as empty: %+v", all)
	}
}

func report(t *testing.T, findings []Finding) {
	t.Helper()
	for _, f := range sorted(findings) {
		t.Error(f)
	}
}

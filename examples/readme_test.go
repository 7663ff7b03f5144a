package examples

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// sample is a block of code of a document, and the file that it claims to be a part of.
type sample struct{ file, text string }

// fence is a fenced block, with the comment above it that names its file.
var fence = regexp.MustCompile("(?ms)^(?:<!-- (\\S+) -->\n)?^```[a-z]*\n(.*?)^```$")

func samples(document string) []sample {
	var out []sample
	for _, m := range fence.FindAllStringSubmatch(document, -1) {
		out = append(out, sample{file: m[1], text: m[2]})
	}
	return out
}

// partOf says whether the lines of a sample stand in a text one after the other, all of them
// indented alike.
func (s sample) partOf(text string) bool {
	lines, want := strings.Split(text, "\n"), strings.Split(strings.TrimSpace(s.text), "\n")
	for i := range len(lines) - len(want) + 1 {
		indent, ok := strings.CutSuffix(lines[i], want[0])
		if !ok || strings.TrimSpace(indent) != "" {
			continue
		}
		if slices.EqualFunc(want, lines[i:i+len(want)], func(want, line string) bool {
			return want == strings.TrimPrefix(line, indent)
		}) {
			return true
		}
	}
	return false
}

// TestSamples: what README shows as code is a part of a file that a test runs.
func TestSamples(t *testing.T) {
	text := readme(t)
	all := samples(text)
	if fences := strings.Count(text, "```"); len(all) == 0 || 2*len(all) != fences {
		t.Fatalf("README has %d fences, and the test sees %d blocks", fences, len(all))
	}
	for _, s := range all {
		if s.file == "" || !strings.HasPrefix(s.file, "examples/") {
			t.Errorf("no comment above it names a file of examples:\n%s", s.text)
			continue
		}
		text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(s.file)))
		if err != nil {
			t.Error(err)
		} else if !s.partOf(string(text)) {
			t.Errorf("not what %s says:\n%s", s.file, s.text)
		}
	}
}

// link is a link to a file of the tree.
var link = regexp.MustCompile(`\]\(([a-zA-Z.][^):]*)\)`)

// TestLinks: what README and the list of examples lead to is there.
func TestLinks(t *testing.T) {
	for _, document := range []string{"../README.md", "README.md"} {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		links := link.FindAllStringSubmatch(string(text), -1)
		if len(links) < 10 {
			t.Errorf("%s has %d links; the test does not see them", document, len(links))
		}
		for _, m := range links {
			if _, err := os.Stat(filepath.Join(filepath.Dir(document), m[1])); err != nil {
				t.Errorf("%s: %v", document, err)
			}
		}
	}
}

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestSamplesAreCompared(t *testing.T) {
	const document = "<!-- a.go -->\n```go\nx {\n\ty\n\n}\n```\n\ntext\n\n```\nz\n```\n"
	want := []sample{{"a.go", "x {\n\ty\n\n}\n"}, {"", "z\n"}}
	if got := samples(document); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for text, ok := range map[string]bool{
		"a\nx {\n\ty\n\n}\nb":         true,
		"\tx {\n\t\ty\n\n\t}\n":       true,
		"x {\nx {\n\ty\n\n}":          true,
		"\tx {\n\ty\n\n\t}\n":         false,
		"\tx {\n\t\ty\n\t\ty\n\n\t}":  false,
		"\tx { // more\n\t\ty\n\n\t}": false,
		"x {\n\ty":                    false,
	} {
		if got := want[0].partOf(text); got != ok {
			t.Errorf("%q: %t, want %t", text, got, ok)
		}
	}
}

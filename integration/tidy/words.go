package tidy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// unfinished returns the pattern of the marks of unfinished work, as whole words. They are put
// together here, so that this file does not find itself.
func unfinished() *regexp.Regexp {
	words := []string{"TO" + "DO", "FIX" + "ME", "X" + "XX"}
	return regexp.MustCompile(`\b(` + strings.Join(words, "|") + `)\b`)
}

func checkWords(t *Tree) []Finding {
	mark := unfinished()
	texts := slices.Clone(t.Texts)
	for _, f := range t.Files {
		if !f.Generated {
			texts = append(texts, Text{f.Path, f.Source})
		}
	}
	var out []Finding
	for _, text := range texts {
		out = append(out, findWords(mark, text)...)
	}
	return out
}

func findWords(mark *regexp.Regexp, text Text) []Finding {
	var out []Finding
	line := 0
	for s := range strings.Lines(string(text.Source)) {
		line++
		if word := mark.FindString(s); word != "" {
			msg := fmt.Sprintf("%s: finish it, or say what holds now", word)
			out = append(out, Finding{text.Path, line, msg})
		}
	}
	return out
}

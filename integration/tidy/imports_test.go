package tidy

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// small is a graph with every kind of row.
func small() []Row {
	return []Row{
		{Packages: "words"},
		{Packages: "core", Inside: []string{"words"},
			Without: []string{"time", "sync", "math/rand"}},
		{Packages: "face", Inside: []string{"core"}},
		{Packages: "face", Files: "wire*.go", Inside: []string{"core", "proto/v1"},
			Outside: []string{"example.com/wire"}},
		{Packages: "proto/v1", Outside: []string{"example.com/wire"}},
		{Packages: "cmd/...", Inside: []string{everything}, Outside: []string{everything}},
		{Packages: "cmd/pure/..."},
	}
}

// complete has a file for every row, so that no row is stale.
func complete() map[string]string {
	return map[string]string{
		"words/a.go":    "package words\n",
		"core/a.go":     "package core\n",
		"face/a.go":     "package face\n",
		"face/wire.go":  "package face\n",
		"proto/v1/a.go": "package v1\n",
		"cmd/x/a.go":    "package main\n",
		"cmd/pure/a.go": "package main\n",
	}
}

func TestImports(t *testing.T) {
	for _, c := range []struct{ path, imports, want string }{
		{"core/b.go", "example.org/m/words", ""},
		{"core/b.go", "example.org/m/face", "core must not import face: imports point down only"},
		{"core/b.go", "fmt", ""},
		{"core/b.go", "timeless", ""},
		{"core/b.go", "time", "core must not import time: it stays pure"},
		{"core/b.go", "sync/atomic", "core must not import sync/atomic: it stays pure"},
		{"core/b.go", "math/rand/v2", "core must not import math/rand/v2: it stays pure"},
		{"core/b.go", "math", ""},
		{"core/b_test.go", "time", ""},
		{"core/b.go", "example.com/wire",
			"core must not import example.com/wire: its row names no such module"},
		{"face/b.go", "example.org/m/core", ""},
		{"face/b.go", "example.org/m/proto/v1",
			"face must not import proto/v1: imports point down only"},
		{"face/b.go", "example.com/wire",
			"face must not import example.com/wire: its row names no such module"},
		{"face/wire_v1.go", "example.com/wire/codes", ""},
		{"face/wire_v1.go", "example.com/wireless",
			"face must not import example.com/wireless: its row names no such module"},
		{"face/wire_v1.go", "example.org/m/proto/v1", ""},
		{"words/b.go", "example.org/m/proto/v1",
			"words must not import proto/v1: imports point down only"},
		{"words/b.go", "example.org/m/none",
			"words imports none, which the import graph does not know"},
		{"core/internal/y/b.go", "example.org/m/words", ""},
		{"core/internal/y/b.go", "time", "core/internal/y must not import time: it stays pure"},
		{"core/b.go", "example.org/m/core/internal/y", ""},
		{"core/internal/z/b.go", "example.org/m/core/internal/y", ""},
		{"face/b.go", "example.org/m/core/internal/y",
			"face must not import core/internal/y: imports point down only"},
		{"cmd/x/b.go", "example.org/m/core/internal/y", ""},
		{"cmd/x/b.go", "example.com/anything", ""},
		{"cmd/pure/b.go", "example.com/anything",
			"cmd/pure must not import example.com/anything: its row names no such module"},
	} {
		files := complete()
		files[c.path] = fmt.Sprintf("package x\nimport %q\n", c.imports)
		var want []string
		if c.want != "" {
			want = []string{c.path + ":2: " + c.want}
		}
		if diff := cmp.Diff(want, texts(checkImports(snippets(t, files), small()))); diff != "" {
			t.Errorf("%s imports %s: %s", c.path, c.imports, diff)
		}
	}
}

func TestEveryPackageHasARow(t *testing.T) {
	files := complete()
	files["stray/a.go"] = "package stray\n"
	got := texts(checkImports(snippets(t, files), small()))
	want := []string{"stray/a.go:0: the import graph has no row for this package"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestEveryRowHasAPackage(t *testing.T) {
	files := complete()
	delete(files, "face/wire.go")
	delete(files, "cmd/x/a.go")
	delete(files, "cmd/pure/a.go")
	got := texts(checkImports(snippets(t, files), small()))
	want := []string{
		"cmd/...:0: the import graph names what is not there",
		"cmd/pure/...:0: the import graph names what is not there",
		"face/wire*.go:0: the import graph names what is not there",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestRowOfFindsTheClosest lists the rows in an order in which the first that matches is wrong.
func TestRowOfFindsTheClosest(t *testing.T) {
	graph := []Row{
		{Packages: "a/..."}, {Packages: "a/b/..."},
		{Packages: "a/b", Files: "x*.go"}, {Packages: "a/b"},
	}
	for _, c := range []struct{ dir, file, packages, files string }{
		{"a", "x.go", "a/...", ""},
		{"a/c", "x.go", "a/...", ""},
		{"a/b", "y.go", "a/b", ""},
		{"a/b", "", "a/b", ""},
		{"a/b", "x1.go", "a/b", "x*.go"},
		{"a/b/c", "x1.go", "a/b/...", ""},
		{"a/internal/b", "x1.go", "a/...", ""},
	} {
		row, ok := rowOf(graph, c.dir, c.file)
		if !ok || row.Packages != c.packages || row.Files != c.files {
			t.Errorf("%s/%s: got the row of %s %s", c.dir, c.file, row.Packages, row.Files)
		}
	}
	if row, ok := rowOf(graph, "b", "x.go"); ok {
		t.Errorf("b got the row of %s", row.Packages)
	}
}

// TestGraphPointsDown proves the table itself free of cycles: no row reaches itself through its
// Inside.
func TestGraphPointsDown(t *testing.T) {
	if up := cycle(Graph()); up != "" {
		t.Errorf("the import graph lets %s import itself", up)
	}
	loop := []Row{{Packages: "a", Inside: []string{"b"}}, {Packages: "b", Inside: []string{"a"}}}
	if cycle(loop) == "" {
		t.Error("a cycle was not found")
	}
}

// cycle names a row that reaches itself. The rows that may import everything are at the top by
// decree.
func cycle(graph []Row) string {
	for _, row := range graph {
		seen := map[string]bool{}
		if reach(graph, row, seen); seen[row.Packages] {
			return row.Packages
		}
	}
	return ""
}

func reach(graph []Row, from Row, seen map[string]bool) {
	for _, dir := range from.Inside {
		if dir == everything || seen[dir] {
			continue
		}
		seen[dir] = true
		if row, ok := rowOf(graph, dir, ""); ok {
			reach(graph, row, seen)
		}
	}
}

package tidy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// Closure says what the transitive imports of a package, its tests aside, must not hold.
type Closure struct {
	// Package is a folder of this module.
	Package string
	// Without lists import paths; what lies below them is meant as well.
	Without []string
}

// Lister returns the import paths of everything that a folder's package links.
type Lister func(ctx context.Context, dir string) ([]string, error)

// CheckClosures asks the lister about every closure. A package that cannot be listed is an error.
func CheckClosures(ctx context.Context, list Lister, closures []Closure) ([]Finding, error) {
	var out []Finding
	for _, c := range closures {
		deps, err := list(ctx, c.Package)
		if err != nil {
			return nil, fmt.Errorf("tidy: list what %s links: %w", c.Package, err)
		}
		for _, dep := range deps {
			if listed(c.Without, dep, "%s") != "" {
				out = append(out, Finding{c.Package, 0, "must not link " + dep})
			}
		}
	}
	return sorted(out), nil
}

// GoList returns a Lister that runs the go command in root.
func GoList(root string) Lister {
	return func(ctx context.Context, dir string) ([]string, error) {
		cmd := exec.CommandContext(ctx, "go", "list", "-deps", "-json=ImportPath", "./"+dir)
		cmd.Dir = root
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("go list: %w: %s", err, strings.TrimSpace(stderr.String()))
		}
		return parseList(strings.NewReader(string(out)))
	}
}

// parseList reads the stream of objects that go list prints.
func parseList(r io.Reader) ([]string, error) {
	var paths []string
	for dec := json.NewDecoder(r); ; {
		var pkg struct{ ImportPath string }
		err := dec.Decode(&pkg)
		if errors.Is(err, io.EOF) {
			return paths, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the list: %w", err)
		}
		paths = append(paths, pkg.ImportPath)
	}
}

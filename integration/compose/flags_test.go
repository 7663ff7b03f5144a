package compose

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
)

// helper returns what a command of the binary answers to --help.
type helper func(ctx context.Context, command ...string) (string, error)

// TestEveryFlagExists builds the binary and asks it about each command that the compose file
// starts. It sees the names of commands and flags; what they do, the tests of the commands show.
func TestEveryFlagExists(t *testing.T) {
	p, err := load(t.Context(), composeFile(t))
	if err != nil {
		t.Fatal(err)
	}
	help := buildBinary(t)
	for _, s := range services(p, isGavel) {
		for _, fault := range unknownFlags(t.Context(), help, s) {
			t.Error(fault)
		}
	}
}

func buildBinary(t *testing.T) helper {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "gavel")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./cmd/gavel")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the binary: %v: %s", err, out)
	}
	return func(ctx context.Context, command ...string) (string, error) {
		args := slices.Concat(command, []string{"--help"})
		out, err := exec.CommandContext(ctx, bin, args...).CombinedOutput()
		return string(out), err
	}
}

// unknownFlags asks for the help of a service's command, and looks for each of its flags there.
func unknownFlags(ctx context.Context, help helper, s types.ServiceConfig) []string {
	command := commandOf(s)
	text, err := help(ctx, command...)
	if err != nil {
		return []string{fmt.Sprintf("%s: gavel %s: %v: %s", s.Name, command, err, text)}
	}
	known := flagsIn(text)
	var out []string
	for _, word := range s.Command {
		if name, _, _ := strings.Cut(word, "="); isFlag(name) && !slices.Contains(known, name) {
			out = append(out, fmt.Sprintf("%s: gavel %s has no %s", s.Name, command, name))
		}
	}
	return out
}

// commandOf is what stands before the first flag.
func commandOf(s types.ServiceConfig) []string {
	if i := slices.IndexFunc(s.Command, isFlag); i >= 0 {
		return s.Command[:i]
	}
	return s.Command
}

func isFlag(word string) bool { return strings.HasPrefix(word, "-") }

var flagPattern = regexp.MustCompile(`(?m)^ +(?:-[a-z], )?(--[a-z][a-z-]*)`)

// flagsIn lists the flags that a help text explains, one at the start of each line.
func flagsIn(help string) []string {
	var out []string
	for _, m := range flagPattern.FindAllStringSubmatch(help, -1) {
		out = append(out, m[1])
	}
	return out
}

func TestUnknownFlagsAreFound(t *testing.T) {
	const text = "Runs it; see also --other.\n\nFlags:\n" +
		"      --grpc string     where to listen\n  -i, --insecure        plain text\n"
	help := func(_ context.Context, command ...string) (string, error) {
		if slices.Equal(command, []string{"log", "init"}) {
			return text, nil
		}
		return "unknown command", exec.ErrNotFound
	}
	for _, c := range []struct {
		command, want []string
	}{
		{[]string{"log", "init", "--grpc=:1", "--insecure", "/dir"}, nil},
		{[]string{"log", "init", "--other"}, []string{"x: gavel [log init] has no --other"}},
		{[]string{"log", "init", "--grp=1", "-x"},
			[]string{"x: gavel [log init] has no --grp", "x: gavel [log init] has no -x"}},
		{[]string{"log", "--grpc=:1"},
			[]string{"x: gavel [log]: executable file not found in $PATH: unknown command"}},
	} {
		s := types.ServiceConfig{Name: "x"}
		s.Command = c.command
		if got := unknownFlags(t.Context(), help, s); !slices.Equal(got, c.want) {
			t.Errorf("%v: got %q, want %q", c.command, got, c.want)
		}
	}
}

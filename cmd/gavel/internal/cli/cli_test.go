package cli_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/build"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/cli"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/clitest"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
)

// every calls do for each command of the tree.
func every(t *testing.T, do func(*cobra.Command)) {
	t.Helper()
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		do(c)
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(cli.Tree(ui.IO{Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv, Now: time.Now}))
}

// ours leaves out what cobra makes by itself.
func ours(c *cobra.Command) bool {
	path := c.CommandPath()
	return !strings.HasPrefix(path, "gavel completion") && path != "gavel help"
}

// TestEveryCommandExplainsItself: a line for the list, an example, and flags that say something.
func TestEveryCommandExplainsItself(t *testing.T) {
	n := 0
	every(t, func(c *cobra.Command) {
		if !ours(c) {
			return
		}
		n++
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || len(c.Short) > 80 {
			t.Errorf("%s: short help %q", c.CommandPath(), c.Short)
		}
		if c.Example == "" || !strings.Contains(c.Example, "gavel") {
			t.Errorf("%s has no example", c.CommandPath())
		}
		r := clitest.Run(t, append(strings.Fields(c.CommandPath())[1:], "--help")...)
		r.Want(t, exit.OK)
		for line := range strings.Lines(r.Out) {
			if len(line) > 200 {
				t.Errorf("%s: a line of %d characters", c.CommandPath(), len(line))
			}
		}
	})
	if n < 14 {
		t.Errorf("only %d commands", n)
	}
}

// TestExamplesParse: every command line in an example exists, with the flags it uses.
func TestExamplesParse(t *testing.T) {
	every(t, func(c *cobra.Command) {
		for line := range strings.Lines(c.Example) {
			words := strings.Fields(line)
			if len(words) < 2 || words[0] != "gavel" || !ours(c) {
				continue
			}
			found, rest, err := c.Root().Find(words[1:])
			if err != nil || found == c.Root() {
				t.Errorf("%s: %v", line, err)
				continue
			}
			for _, w := range rest {
				if w == "|" {
					break
				}
				name, isFlag := strings.CutPrefix(w, "--")
				name, _, _ = strings.Cut(name, "=")
				if isFlag && found.Flag(name) == nil && found.InheritedFlags().Lookup(name) == nil {
					t.Errorf("%s: no flag %s", strings.TrimSpace(line), w)
				}
			}
		}
	})
}

// TestTypos: 2, and a guess.
func TestTypos(t *testing.T) {
	for line, want := range map[string]string{
		"":                         "Usage:",
		"lgo":                      `Did you mean "log"?`,
		"log":                      "gavel log needs a command",
		"log vrfy x":               `Did you mean "verify"?`,
		"log zzzzzzz":              "See gavel log --help.",
		"tx":                       "ls, show",
		"tx l":                     `unknown command "l"`,
		"tx resovle":               "unknown command",
		"completion":               "bash",
		"completion bahs":          "bash",
		"coordinator --dta /x":     "Did you mean --data?",
		"log stat --ouput json x":  "Did you mean --output?",
		"log stat":                 "accepts 1 arg",
		"log stat a b":             "accepts 1 arg",
		"version now":              "unknown command",
		"demo --transfers 0":       "--transfers 0",
		"demo --clients 1000":      "--clients 1000",
		"demo --transfers many":    "invalid argument",
		"coordinator --grace soon": "invalid argument",
		"tx ls -o xml":             "neither",
		"tx -z":                    "unknown shorthand flag",
	} {
		clitest.Run(t, strings.Fields(line)...).Want(t, exit.Usage, want)
	}
}

// TestTyposSayNothingOnStdout: a script that reads the answer reads nothing.
func TestTyposSayNothingOnStdout(t *testing.T) {
	for _, line := range []string{"lgo", "log", "log vrfy", "tx ls --nope"} {
		if r := clitest.Run(t, strings.Fields(line)...); r.Out != "" || r.Err == "" {
			t.Errorf("%s: %q, %q", line, r.Out, r.Err)
		}
	}
}

// TestVersion: for people and for programs.
func TestVersion(t *testing.T) {
	clitest.Run(t, "version").Want(t, exit.OK, "log format", build.API)
	clitest.Run(t, "--version").Want(t, exit.OK, "gavel version")
	r := clitest.Run(t, "version", "-o", "json").Want(t, exit.OK)
	var info build.Info
	if err := json.Unmarshal([]byte(r.Out), &info); err != nil || info.LogFormat < 1 ||
		info.API != "gavel.v1" || info.Version == "" || info.Go == "" {
		t.Errorf("%+v, %v", info, err)
	}
}

// TestHelpTopics: the exit codes are explained, each of them.
func TestHelpTopics(t *testing.T) {
	for _, args := range [][]string{{"help", "exit-codes"}, {"exit-codes"}} {
		clitest.Run(t, args...).Want(t, exit.OK, "\n  0 ", "\n  1 ", "\n  2 ", "\n  3 ", "\n  4 ",
			"\n  5 ", "\n  6 ", "\n  70 ", "\n  130 ")
	}
	clitest.Run(t, "help").Want(t, exit.OK, "Start:", "Use:", "Repair:", "demo", "coordinator")
	clitest.Run(t, "help", "log", "verify").Want(t, exit.OK, "gavel log verify DIR")
}

// TestCompletion: a script for each shell.
func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		clitest.Run(t, "completion", shell).Want(t, exit.OK, "gavel")
	}
}

package settings_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/settings"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
)

const secret = "hunter2"

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gavel.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// parse is a command line, on top of a file if there is one.
func parse(t *testing.T, file string, args ...string) (settings.Coordinator, error) {
	t.Helper()
	c := settings.Defaults()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	c.Flags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	if file != "" {
		loaded, err := settings.Load(write(t, file))
		if err != nil {
			return c, err
		}
		c.Under(loaded, fs.Changed)
	}
	return c, c.Validate()
}

// TestFlagsAlone: what is not said has its default.
func TestFlagsAlone(t *testing.T) {
	c, err := parse(t, "", "--data", "/d", "--resource", "a=kv:/a", "--resource", "b=env:B",
		"--accept-foreign", "a", "--accept-identity", "a,b", "--grace", "1s", "--tls-cert", "c",
		"--insecure", "--experimental-mysql", "--execute", "a", "--execute", "b=env:C")
	if err != nil {
		t.Fatal(err)
	}
	if c.Resource["a"] != "kv:/a" || c.Resource["b"] != "env:B" || c.Grace != time.Second ||
		c.Sweep != time.Second || !slices.Equal(c.AcceptIdentity, []string{"a", "b"}) ||
		c.TLS().Cert != "c" || !c.Insecure || !c.ExperimentalMySQL || c.GRPC != "127.0.0.1:7440" ||
		len(c.Execute) != 2 || c.Execute["a"] != "" || c.Execute["b"] != "env:C" {
		t.Errorf("%+v", c)
	}
}

// TestFileAndFlags: a flag wins, a file beats a default, and what can be several adds up.
func TestFileAndFlags(t *testing.T) {
	const file = `
# a comment
data: /from/file
http: 127.0.0.1:9
resource:
  a: kv:/a
  b: kv:/b
execute:
  a: env:APP
accept-foreign: [a]
grace: 3s
retention: 48h
classic: true
insecure: true
tls-ca: ca.pem
log-format: json
`
	c, err := parse(t, file, "--data", "/d", "--resource", "b=kv:/other", "--resource", "c=kv:/c",
		"--accept-foreign", "c", "--grace", "1s")
	if err != nil {
		t.Fatal(err)
	}
	want := settings.Defaults()
	if c.Data != "/d" || c.HTTP != "127.0.0.1:9" || c.GRPC != want.GRPC || c.Grace != time.Second ||
		c.Retention != 48*time.Hour || !c.Classic || c.Sweep != want.Sweep || !c.Insecure ||
		c.CA != "ca.pem" || c.Format != "json" || c.Level != "info" {
		t.Errorf("%+v", c)
	}
	if c.Resource["a"] != "kv:/a" || c.Resource["b"] != "kv:/other" || c.Resource["c"] != "kv:/c" ||
		c.Execute["a"] != "env:APP" || !slices.Equal(c.AcceptForeign, []string{"a", "c"}) {
		t.Errorf("%+v", c)
	}
}

// TestEmptyFile says nothing, and is no error.
func TestEmptyFile(t *testing.T) {
	for _, text := range []string{" ", "# nothing\n", "{}"} {
		if c, err := parse(t, text, "--data", "/d"); err != nil || c.Grace != 2*time.Second {
			t.Errorf("%q: %+v, %v", text, c, err)
		}
	}
}

// TestFaultsInAFile are shown with their line, a caret below the place, and a guess; and no line
// that is shown has a password in it.
func TestFaultsInAFile(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
	}{
		{"data: /d\nresuorce:\n  a: kv:/a\n", []string{"line 2", `unknown key "resuorce"`,
			"> " + "  2 | resuorce:", "\n        ^", `Did you mean "resource"?`}},
		{"data: /d\ngrace: fast\n", []string{"line 2", "> " + "  2 | grace: fast", "^"}},
		{"grace: 1s\nsweep:  7 # seconds?\n", []string{"line 2", "a duration such as 2s"}},
		{"data: /d\ninsecure: 7\n", []string{"line 2", "true or false"}},
		{"data: /d\nresource: [a]\n", []string{"line 2", "where mapping is expected"}},
		{"accept-foreign:\n  a: b\n", []string{"where sequence is expected"}},
		{"data: /d\ndata: /e\n", []string{"line 2", "already defined"}},
		{"data: [\n", []string{"line 1"}},
		{"resource:\n  a: postgres://u:" + secret + "@h/d\nnope: 1\n", []string{"line 3",
			"postgres://u:…@h/d"}},
		{"resource:\n  a: postgres://u@h/d?password=" + secret + "\nnope: 1\n",
			[]string{"password=…"}},
		{"postgres://u:" + secret + "@h/d: 1\n", []string{"line 1"}},
	} {
		_, err := parse(t, c.text)
		e := exit.Of(err)
		var b bytes.Buffer
		exit.Print(&b, err)
		if e.Code != exit.Usage || strings.Contains(b.String(), secret) {
			t.Errorf("%q: code %d\n%s", c.text, e.Code, b.String())
		}
		for _, w := range c.want {
			if !strings.Contains(e.What+"\n"+e.Do, w) {
				t.Errorf("%q: %q is missing in\n%s\n%s", c.text, w, e.What, e.Do)
			}
		}
	}
}

// TestNoFile: what cannot be read is a fault of the command line.
func TestNoFile(t *testing.T) {
	for _, path := range []string{filepath.Join(t.TempDir(), "nope"), t.TempDir(),
		write(t, strings.Repeat("# x\n", 300_000))} {
		if _, err := settings.Load(path); exit.Of(err).Code != exit.Usage {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestValidate: contradictions are found before anything is opened, and a resource that cannot be
// read is not repeated, since it may be a URL with a password.
func TestValidate(t *testing.T) {
	for _, args := range [][]string{
		{}, {"--data", "/d", "--grace", "0s"}, {"--data", "/d", "--sweep", "-1s"},
		{"--data", "/d", "--timeout", "2h"}, {"--data", "/d", "--accept-foreign", "a"},
		{"--data", "/d", "--accept-identity", "a"},
		{"--data", "/d", "--resource", "postgres://u:" + secret + "@h/d"},
		{"--data", "/d", "--resource", "a"}, {"--data", "/d", "--execute", "a"},
		{"--data", "/d", "--resource", "a=kv:/a", "--execute",
			"postgres://u:" + secret + "@h/d"},
	} {
		_, err := parse(t, "", args...)
		if exit.Of(err).Code != exit.Usage || strings.Contains(err.Error(), secret) {
			t.Errorf("%v: %v", args, err)
		}
	}
	if _, err := parse(t, "resource:\n  a b: kv:/x\ndata: /d\n"); exit.Of(err).Code != exit.Usage {
		t.Error(err)
	}
}

// TestLogger refuses words that it does not know.
func TestLogger(t *testing.T) {
	var b bytes.Buffer
	io := ui.IO{Out: &b, Err: &b, Getenv: os.Getenv, Now: time.Now}
	log, err := settings.Log{Format: "text", Level: "warn"}.Logger(io)
	if err != nil {
		t.Fatal(err)
	}
	log.Info("hidden")
	log.Warn("shown")
	if b.String() == "" || strings.Contains(b.String(), "hidden") {
		t.Error(b.String())
	}
	for _, bad := range []settings.Log{{Format: "xml", Level: "info"},
		{Format: "auto", Level: "x"}} {
		if _, err := bad.Logger(io); exit.Of(err).Code != exit.Usage {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// TestHelpHidesResources: a flag's default is printed in the help, and may hold a password.
func TestHelpHidesResources(t *testing.T) {
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	settings.AddResources(fs, map[string]string{"a": "postgres://u:" + secret + "@h/d"})
	help := fs.FlagUsages()
	if strings.Contains(help, secret) || !strings.Contains(help, "NAME=URL") {
		t.Error(help)
	}
}

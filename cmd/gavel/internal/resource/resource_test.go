package resource_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/resource"
	"github.com/gavel-tx/gavel/participant/session"
	"github.com/gavel-tx/gavel/proto/wire/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// secret is a password that must be seen nowhere.
const secret = "hunter2"

func TestSplit(t *testing.T) {
	name, ref, err := resource.Split("bank_a=postgres://h/d?x=y")
	if name != "bank_a" || ref != "postgres://h/d?x=y" || err != nil {
		t.Error(name, ref, err)
	}
	for _, bad := range []string{"", "=", "a", "a=", "=kv:x", "a b=kv:x", "ä=kv:x",
		"postgres://u:" + secret + "@h/d", strings.Repeat("x", 64) + "=kv:x"} {
		_, _, err := resource.Split(bad)
		if exit.Of(err).Code != exit.Usage || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestCheckName(t *testing.T) {
	if err := resource.CheckName("Bank-1.a_b"); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "a/b", "a=b", strings.Repeat("x", 64)} {
		if exit.Of(resource.CheckName(bad)).Code != exit.Usage {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		text string
		want resource.Target
	}{
		{"kv:/var/lib/x", resource.Target{Kind: "kv", Dir: "/var/lib/x"}},
		{"kv:/x?max_size=8GiB", resource.Target{Kind: "kv", Dir: "/x", MaxBytes: 8 << 30}},
		{"kv:rel", resource.Target{Kind: "kv", Dir: "rel"}},
		{"grpc://host:7450", resource.Target{Kind: "grpc", Addr: "host:7450"}},
		{"grpc://[::1]:7450", resource.Target{Kind: "grpc", Addr: "[::1]:7450"}},
		{"postgres://u@h:1/d", resource.Target{Kind: "postgres", DSN: "postgres://u@h:1/d"}},
		{"postgresql://h/d?sslmode=disable&gavel_owner_role=gavel_owner", resource.Target{
			Kind: "postgres", DSN: "postgresql://h/d?sslmode=disable", OwnerRole: "gavel_owner"}},
		{"postgres:///d?host=/tmp/sock", resource.Target{Kind: "postgres",
			DSN: "postgres:///d?host=%2Ftmp%2Fsock"}},
		{"mysql://u@h/d", resource.Target{Kind: "mysql", DSN: "u@tcp(h:3306)/d",
			Addr: "mysql://u@h/d"}},
		{"mariadb://u:p%40w@h:33/d?tls=true", resource.Target{Kind: "mysql",
			DSN: "u:p@w@tcp(h:33)/d?tls=true", Addr: "mariadb://u@h:33/d?tls=true"}},
		{"mysql://u@/d?socket=/run/s", resource.Target{Kind: "mysql", DSN: "u@unix(/run/s)/d",
			Addr: "mysql://u@/d?socket=%2Frun%2Fs"}},
	} {
		if got, err := resource.Parse(c.text); got != c.want || err != nil {
			t.Errorf("%s: %#v, %v", c.text, got, err)
		}
	}
	for _, bad := range []string{"", "kv:", "kv:?max_size=1B", "kv:/x?", "kv:/x?max=1B",
		"kv:/x?max_size=0B", "grpc:host", "grpc://", "grpc://u:" + secret + "@h:1",
		"grpc://h:1/x", "mysql://u:" + secret + "@h", "mysql://u:" + secret + "@h:port/d",
		"mysql:u:" + secret, "mysql://a%3Ab:" + secret + "@h/d",
		"mysql://u:" + secret + "@h/d?timeout=" + secret,
		"sqlite://u:" + secret + "@h/d", "postgres://u:" + secret + "@h:port/d",
		"postgres:u:" + secret, "u:" + secret + "@h", "postgres://u:" + secret + "%zz@h/d"} {
		_, err := resource.Parse(bad)
		if exit.Of(err).Code != exit.Usage || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestNothingShowsAPassword: a target prints without it, wherever it stands in a URL.
func TestNothingShowsAPassword(t *testing.T) {
	for _, text := range []string{
		"postgres://u:" + secret + "@h/d", "postgres://u@h/d?password=" + secret,
		"postgres://u@h/d?sslpassword=" + secret + "&sslmode=require",
		"postgres://u:" + secret + "@h/d?PASSWORD=" + secret,
		"mysql://u:" + secret + "@h/d?tls=true",
	} {
		target, err := resource.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, shown := range []string{target.String(), resource.Redact(text)} {
			if strings.Contains(shown, secret) || !strings.Contains(shown, "u@h/d") {
				t.Errorf("%s is shown as %s", text, shown)
			}
		}
	}
	for _, odd := range []string{"u:" + secret + "@h", "host=h password=" + secret, "",
		"postgres://%zz" + secret} {
		if got := resource.Redact(odd); got != "[not shown]" {
			t.Errorf("%q is shown as %q", odd, got)
		}
	}
	for text, want := range map[string]string{"kv:/x": "kv:/x", "grpc://h:1": "grpc://h:1"} {
		if target, err := resource.Parse(text); err != nil || target.String() != want {
			t.Errorf("%s is shown as %s, %v", text, target, err)
		}
	}
}

func TestLookup(t *testing.T) {
	s := resource.Source{
		Getenv: func(name string) string { return map[string]string{"BANK": " kv:/x\n"}[name] },
		ReadFile: func(path string) ([]byte, error) {
			body, ok := map[string]string{"/s": "kv:/y\n", "/e": " \n", "/two": "kv:/a\nkv:/b",
				"/big": strings.Repeat("x", 20_000)}[path]
			if !ok {
				return nil, fs.ErrNotExist
			}
			return []byte(body), nil
		},
	}
	for ref, want := range map[string]string{"env:BANK": "kv:/x", "file:/s": "kv:/y",
		"kv:/z": "kv:/z", "grpc://h:1": "grpc://h:1"} {
		if got, err := s.Lookup(ref); got != want || err != nil {
			t.Errorf("%s: %s, %v", ref, got, err)
		}
	}
	for _, bad := range []string{"env:", "env:NOPE", "file:/nope", "file:/e", "file:/two",
		"file:/big"} {
		if _, err := s.Lookup(bad); exit.Of(err).Code != exit.Usage {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestLookupReadsFiles, by itself, where nobody says otherwise.
func TestLookupReadsFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dsn")
	if err := os.WriteFile(path, []byte("kv:/x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := (resource.Source{}).Lookup("file:" + path); got != "kv:/x" || err != nil {
		t.Error(got, err)
	}
}

// TestOpenAll: in the order of names, all or none, and without waiting for anybody to answer.
func TestOpenAll(t *testing.T) {
	dir := t.TempDir()
	src := resource.Source{Getenv: func(string) string {
		return "postgres://u:" + secret + "@127.0.0.1:1/d?gavel_owner_role=r"
	}}
	refs := map[string]string{"c": "grpc://127.0.0.1:1", "a": "env:X", "b": "kv:" + dir,
		"d": "mysql://u:" + secret + "@127.0.0.1:1/d"}
	opened, err := resource.OpenAll(t.Context(), src, refs, resource.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, o := range opened {
		kinds = append(kinds, o.Name+" "+o.Kind)
	}
	if got := strings.Join(kinds, ", "); got != "a postgres, b kv, c grpc, d mysql" {
		t.Error(got)
	}
	if err := resource.CloseAll(opened); err != nil {
		t.Error(err)
	}
	// The store can be opened again only if a failed OpenAll closed it.
	for range 2 {
		refs = map[string]string{"b": "kv:" + dir, "z": "ftp://u:" + secret + "@h"}
		_, err := resource.OpenAll(t.Context(), src, refs, resource.Options{})
		if exit.Of(err).Code != exit.Usage || !strings.Contains(err.Error(), "resource z") ||
			strings.Contains(err.Error(), secret) {
			t.Error(err)
		}
	}
}

// TestAStoreInUse is refused, and the way to it is named.
func TestAStoreInUse(t *testing.T) {
	target := resource.Target{Kind: "kv", Dir: t.TempDir()}
	first, err := resource.Open(t.Context(), "a", target, resource.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = resource.Open(t.Context(), "b", target, resource.Options{})
	if e := exit.Of(err); e.Code != exit.Refused || !strings.Contains(e.What, "resource b: ") ||
		!strings.Contains(e.Do, "grpc://") {
		t.Error(err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	bad := resource.Target{Kind: "kv", Dir: "/dev/null/x"}
	if _, err := resource.Open(t.Context(), "c", bad, resource.Options{}); err == nil {
		t.Error("a store is opened in a file")
	}
}

// TestPlaintextBeyondLoopback is refused, unless it is said explicitly.
func TestPlaintextBeyondLoopback(t *testing.T) {
	far := resource.Target{Kind: "grpc", Addr: "bank.example:7450"}
	_, err := resource.Open(t.Context(), "a", far, resource.Options{})
	if !errors.Is(err, transport.ErrPlaintext) || exit.Of(err).Code != exit.Refused {
		t.Error(err)
	}
	o, err := resource.Open(t.Context(), "a", far, resource.Options{Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
	_, err = resource.Open(t.Context(), "a", resource.Target{}, resource.Options{})
	if err == nil {
		t.Error("a target of no kind is opened")
	}
}

// TestExecute: SQL is run where somebody has said as which role.
func TestExecute(t *testing.T) {
	src := resource.Source{Getenv: func(string) string { return "postgres://app:secret@h/d" }}
	for name, c := range map[string]struct {
		url, at string
		says    string
	}{
		"a participant":               {"grpc://127.0.0.1:1", "", ""},
		"a participant with a URL":    {"grpc://127.0.0.1:1", "env:APP", "its participant runs"},
		"a database":                  {"postgres://gavel@h/d", "env:APP", ""},
		"a database without a URL":    {"postgres://gavel@h/d", "", "own role"},
		"a database and another kind": {"postgres://gavel@h/d", "kv:x", "of another kind"},
		"a store":                     {"kv:" + t.TempDir(), "env:APP", "no SQL can be run"},
	} {
		opened, err := resource.OpenAll(t.Context(), src, map[string]string{"a": c.url},
			resource.Options{Execute: map[string]string{"a": c.at}})
		if c.says != "" {
			if err == nil || !strings.Contains(err.Error(), c.says) ||
				strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, ok := opened[0].Manager.(session.Runner); !ok {
			t.Errorf("%s runs no SQL", name)
		}
		if err := resource.CloseAll(opened); err != nil {
			t.Error(err)
		}
	}
}

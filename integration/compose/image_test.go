package compose

import (
	"regexp"
	"strings"
	"testing"
)

var (
	from       = regexp.MustCompile(`(?m)^FROM (\S+)`)
	pinned     = regexp.MustCompile(`^[a-z/]+:[0-9][A-Za-z0-9._-]*$`)
	user       = regexp.MustCompile(`(?m)^USER (\S+)$`)
	entrypoint = regexp.MustCompile(`(?m)^ENTRYPOINT \["/usr/local/bin/gavel"\]$`)
	folder     = regexp.MustCompile(`install -d -o gavel -g gavel -m 0700 /var/lib/gavel`)
	static     = regexp.MustCompile(`CGO_ENABLED=0 go build -trimpath .*\./cmd/gavel`)
)

// imageFaults judges the image's text by what the compose file relies on.
func imageFaults(text string) []string {
	var out []string
	for _, m := range from.FindAllStringSubmatch(text, -1) {
		if !pinned.MatchString(m[1]) {
			out = append(out, m[1]+" may be anything tomorrow")
		}
	}
	if m := user.FindStringSubmatch(text); m == nil || strings.HasPrefix(m[1]+":", "0:") ||
		strings.HasPrefix(m[1], "root") {
		out = append(out, "the process is root")
	}
	for fault, want := range map[string]*regexp.Regexp{
		"gavel is not process 1":                       entrypoint,
		"a new volume would belong to root":            folder,
		"the binary needs libraries of another system": static,
	} {
		if !want.MatchString(text) {
			out = append(out, fault)
		}
	}
	return out
}

func TestImage(t *testing.T) {
	for _, fault := range imageFaults(dockerfile(t)) {
		t.Error(fault)
	}
}

func TestEveryImageFactCanFail(t *testing.T) {
	text := dockerfile(t)
	for _, m := range []struct{ old, new, want string }{
		{"FROM alpine:3", "FROM alpine:latest #", "alpine:latest may be anything tomorrow"},
		{"FROM golang:1.26-alpine", "FROM golang", "golang may be anything tomorrow"},
		{"USER 65532:65532\n", "", "the process is root"},
		{"USER 65532:65532", "USER 0:65532", "the process is root"},
		{"USER 65532:65532", "USER root", "the process is root"},
		{`["/usr/local/bin/gavel"]`, "/usr/local/bin/gavel", "gavel is not process 1"},
		{"-o gavel -g gavel", "", "a new volume would belong to root"},
		{"CGO_ENABLED=0 ", "", "the binary needs libraries of another system"},
	} {
		if !strings.Contains(text, m.old) {
			t.Errorf("the file does not hold %q", m.old)
			continue
		}
		faults := imageFaults(strings.ReplaceAll(text, m.old, m.new))
		if strings.Join(faults, "\n") != m.want {
			t.Errorf("%q for %q: want %q, got %q", m.new, m.old, m.want, faults)
		}
	}
}

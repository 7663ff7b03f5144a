package compose

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
)

// facts are everything that the stack depends on. Each returns what it found wrong.
func facts() map[string]func(*types.Project) []string {
	return map[string]func(*types.Project) []string{
		"the parts":          parts,
		"health":             health,
		"images":             images,
		"prepared slots":     preparedSlots,
		"secrets":            secrets,
		"order":              order,
		"published ports":    publishedPorts,
		"data on volumes":    volumes,
		"hardening":          hardening,
		"plain text":         plainText,
		"resources and URLs": resources,
		"the log is made":    logMade,
	}
}

func TestComposeFile(t *testing.T) {
	p, err := load(t.Context(), composeFile(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, check := range facts() {
		for _, fault := range check(p) {
			t.Errorf("%s: %s", name, fault)
		}
	}
	if fault := obsolete(composeFile(t)); fault != "" {
		t.Error(fault)
	}
}

// obsolete finds the version key, which compose ignores with a warning at every command.
func obsolete(text string) string {
	if regexp.MustCompile(`(?m)^version:`).MatchString(text) {
		return "the version key is obsolete"
	}
	return ""
}

func parts(p *types.Project) []string {
	var out []string
	count := func(what string, want int, is func(types.ServiceConfig) bool) {
		if got := len(services(p, is)); got != want {
			out = append(out, fmt.Sprintf("%d %s, want %d", got, what, want))
		}
	}
	count("coordinators", 1, isCoordinator)
	count("databases", 2, isDatabase)
	count("participants", 2, isParticipant)
	return out
}

// health wants a check on everything that stays up; without one, "started" would mean "ready".
func health(p *types.Project) []string {
	var out []string
	for name, s := range p.Services {
		if !runsOnce(s) && (s.HealthCheck == nil || s.HealthCheck.Disable) {
			out = append(out, name+" has no health check")
		}
	}
	for _, s := range services(p, isGavel) {
		out = append(out, healthPort(s)...)
	}
	return out
}

// healthPort compares the port that the check asks with the one that the process serves.
func healthPort(s types.ServiceConfig) []string {
	if runsOnce(s) || s.HealthCheck == nil {
		return nil
	}
	asks := strings.Join(s.HealthCheck.Test, " ")
	for _, addr := range flag(s, "http") {
		if strings.Contains(asks, "http://127.0.0.1:"+port(addr)+"/readyz") {
			return nil
		}
	}
	return []string{s.Name + " is not asked for readiness where it serves it"}
}

func port(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }

var tagged = regexp.MustCompile(`^[a-z/]+:([A-Za-z0-9._-]+)$`)

func images(p *types.Project) []string {
	var out []string
	for name, s := range p.Services {
		m := tagged.FindStringSubmatch(s.Image)
		if m == nil || m[1] == "latest" {
			msg := fmt.Sprintf("%s runs %q, which may be anything tomorrow", name, s.Image)
			out = append(out, msg)
		}
	}
	for _, s := range services(p, isGavel) {
		if s.Build == nil || s.Build.Dockerfile != "deploy/Dockerfile" {
			out = append(out, s.Name+" is not built from this tree")
		}
	}
	return out
}

func preparedSlots(p *types.Project) []string {
	var out []string
	for _, s := range services(p, isDatabase) {
		i := slices.Index(s.Command, "-c")
		if i < 0 || !slices.Contains(s.Command[i:], "max_prepared_transactions=200") {
			out = append(out, s.Name+" cannot prepare")
		}
		major, err := strconv.Atoi(strings.TrimPrefix(s.Image, "postgres:"))
		if err != nil || major < 15 {
			out = append(out, s.Name+" is not PostgreSQL 15 or later")
		}
	}
	return out
}

var (
	secretName = regexp.MustCompile(`(?i)(password|secret|token|dsn)$`)
	// inURL finds a password in a URL. A format's %s is none.
	inURL = regexp.MustCompile(`://[^/\s:]+:[^%@\s][^@\s]*@`)
)

// secrets finds passwords in the file, in the environment and on command lines, which every process
// of the machine can read.
func secrets(p *types.Project) []string {
	var out []string
	for name, s := range p.Services {
		for key := range s.Environment {
			if secretName.MatchString(key) {
				out = append(out, name+" has its secret in "+key)
			}
		}
		if inURL.MatchString(strings.Join(slices.Concat(s.Entrypoint, s.Command), "\n")) {
			out = append(out, name+" has a password on its command line")
		}
	}
	for _, s := range services(p, isDatabase) {
		if s.Environment["POSTGRES_PASSWORD_FILE"] == nil {
			out = append(out, s.Name+" has no password")
		}
	}
	for _, s := range services(p, isParticipant) {
		out = append(out, dsnByReference(s)...)
	}
	return out
}

func dsnByReference(s types.ServiceConfig) []string {
	dsn := flag(s, "postgres")
	if len(dsn) != 1 || !strings.HasPrefix(dsn[0], "file:") && !strings.HasPrefix(dsn[0], "env:") {
		return []string{s.Name + " does not name its database by reference"}
	}
	return nil
}

// order wants each service to wait until what it needs is ready, not merely started.
func order(p *types.Project) []string {
	var out []string
	for name, s := range p.Services {
		for on, d := range s.DependsOn {
			want := types.ServiceConditionHealthy
			if runsOnce(p.Services[on]) {
				want = types.ServiceConditionCompletedSuccessfully
			}
			if d.Condition != want {
				out = append(out, fmt.Sprintf("%s waits for %s as %s", name, on, d.Condition))
			}
		}
		if !runsOnce(s) && len(s.DependsOn) == 0 {
			out = append(out, name+" waits for nothing")
		}
	}
	for _, c := range services(p, isCoordinator) {
		for _, s := range services(p, isParticipant) {
			if _, ok := c.DependsOn[s.Name]; !ok {
				out = append(out, c.Name+" does not wait for "+s.Name)
			}
		}
	}
	return out
}

// publishedPorts wants the coordinator's two ports, and nothing that another machine could reach.
func publishedPorts(p *types.Project) []string {
	var out, published []string
	for name, s := range p.Services {
		for _, port := range s.Ports {
			published = append(published, port.Published)
			ip, err := netip.ParseAddr(port.HostIP)
			if err != nil || !ip.IsLoopback() {
				msg := fmt.Sprintf("%s publishes %s beyond loopback", name, port.Published)
				out = append(out, msg)
			}
		}
	}
	slices.Sort(published)
	if !slices.Equal(published, []string{"7440", "7441"}) {
		out = append(out, fmt.Sprintf("published are %v, want 7440 and 7441", published))
	}
	return out
}

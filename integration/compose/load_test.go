package compose

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

// root is the module's root, seen from this folder, where the go command runs its tests.
const root = "../.."

// composeFile returns the text of the file, and dockerfile that of the image.
func composeFile(t *testing.T) string { return read(t, "docker-compose.yml") }

func dockerfile(t *testing.T) string { return read(t, "deploy/Dockerfile") }

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// load reads a text the way docker compose does, with an empty environment: the stack must not
// depend on what somebody has exported.
func load(ctx context.Context, text string) (*types.Project, error) {
	dir, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	return loader.LoadWithContext(ctx, types.ConfigDetails{
		WorkingDir:  dir,
		Environment: types.Mapping{},
		ConfigFiles: []types.ConfigFile{{Filename: "docker-compose.yml", Content: []byte(text)}},
	})
}

// services are the services whose image or command is told by a word, in the order of their names.
func services(p *types.Project, is func(types.ServiceConfig) bool) []types.ServiceConfig {
	var out []types.ServiceConfig
	for _, name := range p.ServiceNames() {
		if s := p.Services[name]; is(s) {
			out = append(out, s)
		}
	}
	return out
}

func isGavel(s types.ServiceConfig) bool { return strings.HasPrefix(s.Image, "gavel:") }

// isDatabase leaves out services that only borrow the image for its shell.
func isDatabase(s types.ServiceConfig) bool {
	return strings.HasPrefix(s.Image, "postgres:") && len(s.Entrypoint) == 0
}

func isParticipant(s types.ServiceConfig) bool { return isGavel(s) && first(s) == "participant" }

func isCoordinator(s types.ServiceConfig) bool { return isGavel(s) && first(s) == "coordinator" }

// first is the first word of a service's command.
func first(s types.ServiceConfig) string {
	if len(s.Command) == 0 {
		return ""
	}
	return s.Command[0]
}

// runsOnce is true for services that do one thing and end.
func runsOnce(s types.ServiceConfig) bool { return s.Restart == types.RestartPolicyNo }

// flag returns the values of a flag in a command, which must be in the form --name=value.
func flag(s types.ServiceConfig, name string) []string {
	var out []string
	for _, word := range s.Command {
		if value, ok := strings.CutPrefix(word, "--"+name+"="); ok {
			out = append(out, value)
		}
	}
	return out
}

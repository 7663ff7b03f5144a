package crash_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gavel-tx/gavel/client/remote"
	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/txn"
)

// hang is how long anything is waited for before it counts as never. No healthy run comes near.
const hang = 60 * time.Second

// world is one installation: a coordinator, a teller, the sidecars of its mode, two databases.
type world struct {
	t    *testing.T
	mode crash.Mode
	rng  *rand.Rand
	dir  string
	post *post

	sides       [2]*side
	coordinator *process
	teller      *process
	sidecars    []*process
	addresses   map[string]string
	journals    map[string]*journal

	slips  *slips
	asking *remote.Client
	round  int64
	want   int64
	// begun is how the round that runs is called, for a failure's story.
	begun string
}

// newWorld starts everything, in databases of its own.
func newWorld(t *testing.T, mode crash.Mode, rng *rand.Rand) *world {
	t.Helper()
	w := &world{
		t: t, mode: mode, rng: rng, dir: t.TempDir(), post: newPost(t), slips: &slips{},
		addresses: map[string]string{}, journals: map[string]*journal{},
	}
	w.slips.begin(0)
	w.makeSides()
	t.Cleanup(w.end)
	for _, name := range []string{"coordinator", crash.ResourceA, crash.ResourceB} {
		w.addresses[name] = freeAddress(t, rng)
	}
	w.initLog()
	if mode == crash.Sidecars {
		w.sidecars = []*process{w.startSidecar(0), w.startSidecar(1)}
	}
	w.coordinator = w.startCoordinator()
	w.teller = w.startTeller()
	var err error
	w.asking, err = remote.Dial(w.addresses["coordinator"], remote.WithPauses(
		remote.Pauses{First: again, Most: 10 * again}))
	w.must(err)
	w.await("resources to be registered", w.registered)
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.fatal(err.Error())
	}
}

// fatal ends the test with everything that helps to understand it.
func (w *world) fatal(what string) {
	w.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nmode %s, %s\nthe last steps:\n%s", what, w.mode, w.begun, w.post.story(80))
	for name, j := range w.journals {
		fmt.Fprintf(&b, "the journal of %s ends:\n%s\n", name, tail(j.file, 3000))
	}
	w.t.Fatal(b.String())
}

// context is for one wait.
func (w *world) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(w.t.Context(), hang)
}

// await asks until the answer is yes. The death of a process that nobody killed ends the test.
func (w *world) await(what string, yes func(context.Context) bool) {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	tick := time.NewTicker(again)
	defer tick.Stop()
	for !yes(ctx) {
		w.checkAlive()
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.fatal("waited in vain for " + what)
		}
	}
}

func (w *world) checkAlive() {
	w.t.Helper()
	for _, p := range append([]*process{w.coordinator, w.teller}, w.sidecars...) {
		if p != nil && p.lost() {
			w.fatal(fmt.Sprintf("%s ended, and nobody killed it: %v", p.name, p.err))
		}
	}
}

func (w *world) makeSides() {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	for i, name := range []string{crash.ResourceA, crash.ResourceB} {
		s := &side{name: name, server: shared.servers[i],
			database: fmt.Sprintf("w%d", shared.databases.Add(1))}
		w.sides[i] = s
		w.must(s.server.CreateDatabase(ctx, s.database))
		w.must(s.server.Exec(ctx, s.database, crash.SchemaSQL()))
	}
	w.want = 2 * crash.Accounts * crash.Balance
}

// end kills everything.
func (w *world) end() {
	for _, p := range append([]*process{w.teller, w.coordinator}, w.sidecars...) {
		if p != nil {
			p.kill()
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	for _, s := range w.sides {
		s.close(ctx)
	}
	if w.asking != nil {
		_ = w.asking.Close()
	}
}

func (w *world) logDir() string { return filepath.Join(w.dir, "log") }

func (w *world) initLog() {
	w.t.Helper()
	out, err := exec.CommandContext(w.t.Context(), shared.gavel, "log", "init",
		w.logDir()).CombinedOutput()
	if err != nil {
		w.fatal(fmt.Sprintf("gavel log init: %v: %s", err, out))
	}
}

// start starts one life of a program.
func (w *world) start(p program) *process {
	w.t.Helper()
	p.journal = filepath.Join(w.dir, p.name+".journal")
	if w.journals[p.name] == nil {
		w.journals[p.name] = &journal{file: p.journal}
	}
	p.env = append(p.env, "GAVEL_POINTS="+w.post.socket)
	r, err := p.start()
	w.must(err)
	w.post.born(r.pid())
	return r
}

// kill kills a process. When it returns, the post takes nothing from it any more.
func (w *world) kill(p *process) {
	w.post.bury(p.pid())
	p.kill()
}

// The sweeps are quick, so that orphans are found soon. The grace between two sightings is not what
// keeps anybody safe.
func (w *world) startCoordinator() *process {
	w.t.Helper()
	args := []string{"coordinator", "--data", w.logDir(), "--grpc", w.addresses["coordinator"],
		"--http", "127.0.0.1:0", "--sweep", "40ms", "--grace", "40ms", "--log-format", "json"}
	var env []string
	for i, name := range []string{crash.ResourceA, crash.ResourceB} {
		url := "grpc://" + w.addresses[name]
		if w.mode == crash.InProcess {
			url = w.sides[i].dsn()
		}
		args = append(args, "--resource", name+"=env:CRASH_"+name)
		env = append(env, "CRASH_"+name+"="+url)
	}
	return w.start(program{name: "coordinator", path: shared.gavel, args: args, env: env})
}

func (w *world) startSidecar(i int) *process {
	w.t.Helper()
	name := w.sides[i].name
	return w.start(program{name: name, path: shared.gavel, args: []string{"participant",
		"--name", name, "--postgres", "env:CRASH_" + name, "--grpc", w.addresses[name],
		"--http", "127.0.0.1:0", "--data", filepath.Join(w.dir, name), "--log-format", "json"},
		env: []string{"CRASH_" + name + "=" + w.sides[i].dsn()}})
}

func (w *world) startTeller() *process {
	w.t.Helper()
	return w.start(program{name: "teller", path: shared.teller, line: w.slips.take, env: []string{
		crash.EnvCoordinator + "=" + w.addresses["coordinator"],
		crash.EnvBankA + "=" + w.sides[0].dsn(), crash.EnvBankB + "=" + w.sides[1].dsn()}})
}

// registered asks the coordinator whether it takes transactions of both resources, by one.
func (w *world) registered(ctx context.Context) bool {
	begun, err := w.asking.Begin(ctx, beginBoth())
	if err != nil {
		return false
	}
	_, err = w.asking.Rollback(ctx, begun.ID, "it was a question")
	return err == nil
}

func beginBoth() txn.BeginRequest {
	return txn.BeginRequest{Resources: []string{crash.ResourceA, crash.ResourceB}}
}

// freeAddress draws an address below the range from which the kernel takes ports for connections:
// one of those could take the port between two lives of a process.
func freeAddress(t *testing.T, rng *rand.Rand) string {
	t.Helper()
	var err error
	for range 100 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(15_000+rng.IntN(15_000)))
		var l net.Listener
		if l, err = net.Listen("tcp4", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal(errors.Join(errors.New("no port is free"), err))
	return ""
}

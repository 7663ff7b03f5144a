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
	"github.com/gavel-tx/gavel/integration/proxy"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
	"github.com/gavel-tx/gavel/txn"
)

// hang is how long anything is waited for before it counts as never. No healthy run comes near.
const hang = 60 * time.Second

// layout is how an installation is put together. The zero layout is in-process, over the shared
// servers, without anything between a process and what it calls.
type layout struct {
	mode crash.Mode
	// servers are the databases' servers. Defaults to the shared ones.
	servers [2]*pghost.Server
	// proxied puts a proxy before each database, for everybody but the test itself.
	proxied bool
	// storm has the teller add to the counters, and some of its callers leave early.
	storm bool
	// flags are further flags of the coordinator.
	flags []string
	// ground is the network that the processes stand in. Defaults to loopback for all.
	ground ground
}

// world is one installation: a coordinator, a teller, the sidecars of its mode, two databases.
type world struct {
	layout
	t    *testing.T
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
	// reminders are those that are due about transactions that wait for a person.
	reminders map[txn.ID]int
	// begun is how the round that runs is called, for a failure's story.
	begun string
}

// newWorld starts everything, in databases of its own.
func newWorld(t *testing.T, mode crash.Mode, rng *rand.Rand) *world {
	t.Helper()
	return build(t, layout{mode: mode}, rng)
}

// build starts everything that a layout asks for, in databases of its own.
func build(t *testing.T, l layout, rng *rand.Rand) *world {
	t.Helper()
	if l.servers[0] == nil {
		l.servers = shared.servers
	}
	if l.ground == nil {
		l.ground = loopback{}
	}
	w := &world{
		layout: l, t: t, rng: rng, dir: t.TempDir(), post: newPost(t), slips: &slips{},
		addresses: map[string]string{}, journals: map[string]*journal{},
		reminders: map[txn.ID]int{},
	}
	w.slips.begin(0)
	w.makeSides()
	t.Cleanup(w.end)
	for _, name := range []string{"coordinator", crash.ResourceA, crash.ResourceB} {
		w.addresses[name] = w.ground.address(t, name, rng)
	}
	w.initLog()
	if w.mode == crash.Sidecars {
		w.sidecars = []*process{w.startSidecar(0), w.startSidecar(1)}
	}
	w.coordinator = w.startCoordinator()
	w.teller = w.startTeller()
	w.asking = w.dial()
	w.await("resources to be registered", w.registered)
	return w
}

// dial makes a client of the coordinator's for the test itself.
func (w *world) dial() *remote.Client {
	w.t.Helper()
	opts := append(w.ground.dialing(), remote.WithPauses(
		remote.Pauses{First: again, Most: 10 * again}))
	c, err := remote.Dial(w.addresses["coordinator"], opts...)
	w.must(err)
	return c
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

// backgroundContext is for what happens after the test.
func backgroundContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), hang)
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
		s := &side{name: name, server: w.servers[i], local: w.ground.local(),
			database: fmt.Sprintf("w%d", shared.databases.Add(1))}
		if w.proxied {
			s.proxy = w.newProxy(s.server)
		}
		w.sides[i] = s
		w.must(s.server.CreateDatabase(ctx, s.database))
		w.must(s.server.Exec(ctx, s.database, crash.SchemaSQL()))
		if i == 0 {
			s.marks = true
			w.must(s.server.Exec(ctx, s.database,
				strings.Join(pgbranch.MarkerSchema("postgres"), ";")))
		}
	}
	w.want = 2 * crash.Accounts * crash.Balance
}

// newProxy makes a proxy that ends with the test. It outlives the processes, which would otherwise
// be told that their databases are gone.
func (w *world) newProxy(s *pghost.Server) *proxy.Postgres {
	w.t.Helper()
	p, err := proxy.ListenPostgres(tcpAddress(s))
	w.must(err)
	w.t.Cleanup(func() { p.Close() })
	return p
}

func tcpAddress(s *pghost.Server) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port()))
}

// end kills everything.
func (w *world) end() {
	for _, p := range append([]*process{w.teller, w.coordinator}, w.sidecars...) {
		if p != nil {
			p.kill()
		}
	}
	ctx, cancel := backgroundContext()
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
	p = w.ground.place(p)
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
	for id := range w.reminders {
		w.reminders[id]++
	}
	args := []string{"coordinator", "--data", w.logDir(), "--grpc", w.addresses["coordinator"],
		"--http", "127.0.0.1:0", "--sweep", "40ms", "--grace", "40ms", "--log-format", "json"}
	args = append(append(args, w.flags...), w.ground.flags()...)
	var env []string
	for i, name := range []string{crash.ResourceA, crash.ResourceB} {
		url := "grpc://" + w.ground.target(w.addresses[name])
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
	args := []string{"participant",
		"--name", name, "--postgres", "env:CRASH_" + name, "--grpc", w.addresses[name],
		"--http", "127.0.0.1:0", "--data", filepath.Join(w.dir, name), "--log-format", "json"}
	return w.start(program{name: name, path: shared.gavel,
		args: append(args, w.ground.flags()...),
		env:  []string{"CRASH_" + name + "=" + w.sides[i].dsn()}})
}

func (w *world) startTeller() *process {
	w.t.Helper()
	env := []string{crash.EnvCoordinator + "=" + w.addresses["coordinator"],
		crash.EnvBankA + "=" + w.sides[0].dsn(), crash.EnvBankB + "=" + w.sides[1].dsn()}
	if w.storm {
		env = append(env, crash.EnvStorm+"=1")
	}
	return w.start(program{name: "teller", path: shared.teller, line: w.slips.take, env: env})
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

package crash_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/integration/proxy"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
	"github.com/gavel-tx/gavel/txn"
)

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
	*rig
	sides [2]*side
	// reminders are those that are due about transactions that wait for a person.
	reminders map[txn.ID]int
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
		layout: l, reminders: map[txn.ID]int{},
		rig: newRig(t, "mode "+l.mode.String(), l.ground, rng,
			"coordinator", crash.ResourceA, crash.ResourceB),
	}
	w.makeSides()
	t.Cleanup(w.end)
	w.initLog()
	if w.mode == crash.Sidecars {
		w.sidecars = []*process{w.startSidecar(0), w.startSidecar(1)}
	}
	w.coordinator = w.startCoordinator()
	w.teller = w.startTeller()
	w.asking = w.dial()
	w.await("resources to be registered", w.registered(beginBoth().Resources))
	return w
}

// backgroundContext is for what happens after the test.
func backgroundContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), hang)
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
	w.rig.end()
	ctx, cancel := backgroundContext()
	defer cancel()
	for _, s := range w.sides {
		s.close(ctx)
	}
}

func (w *world) startCoordinator() *process {
	w.t.Helper()
	for id := range w.reminders {
		w.reminders[id]++
	}
	var urls []string
	for i, s := range w.sides {
		url := "grpc://" + w.ground.target(w.addresses[s.name])
		if w.mode == crash.InProcess {
			url = w.sides[i].dsn()
		}
		urls = append(urls, s.name+"="+url)
	}
	return w.runCoordinator(urls, append(w.flags, w.ground.flags()...)...)
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

package coordinatorcmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/build"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/resource"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/serve"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/settings"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/coordinator/metrics"
	"github.com/gavel-tx/gavel/coordinator/server"
	"github.com/gavel-tx/gavel/coordinator/server/web"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/proto/wire/transport"
)

// node is a coordinator with everything around it.
type node struct {
	io   ui.IO
	set  settings.Coordinator
	log  *slog.Logger
	c    *coordinator.Coordinator
	api  *server.Server
	srv  *serve.Server
	door *serve.Listener
	// draining says that the end has begun; only the main goroutine writes it, before the end of
	// the readiness watch.
	draining chan struct{}
}

// run serves until ctx ends, or the log fails.
func run(ctx context.Context, io ui.IO, set settings.Coordinator) (err error) {
	log, err := set.Logger(io)
	if err != nil {
		return err
	}
	n := &node{io: io, set: set, log: log, draining: make(chan struct{})}
	face := serve.Face{GRPC: set.GRPC, HTTP: set.HTTP, TLS: set.TLS(), Insecure: set.Insecure,
		Service: server.Service, MaxMessage: maxMessage(set), Logger: log}
	if n.door, err = face.Listen(); err != nil {
		return err
	}
	opened, err := open(ctx, io, set, log)
	if err != nil {
		return errors.Join(err, n.door.Close())
	}
	defer func() { err = errors.Join(err, resource.CloseAll(opened)) }()
	m := metrics.New()
	cfg := config(set, opened, log)
	cfg.Observer, cfg.Version = m, build.Read().Version
	if n.c, err = coordinator.Open(ctx, cfg); err != nil {
		return errors.Join(exit.Log(set.Data, err), n.door.Close())
	}
	m.Watch(n.c)
	registry := serve.Registry(build.Read().Version, m)
	recovery := transport.Recovery(face.Panicked)
	n.api = server.New(n.c, server.Options{MaxTimeout: set.MaxTimeout, Interceptor: recovery,
		SQL: runners(set, opened), Epoch: n.c.Epoch()})
	n.srv = n.door.Serve(n.api.Register, serve.Handler(registry, n.checks, serve.Route{
		Path: web.Path, Handler: web.Handler(n.api, web.Options{
			TLS: !set.TLS().IsZero(), Interceptor: recovery, MaxMessage: maxMessage(set)})}))
	n.banner(opened)
	return n.serve(ctx)
}

// banner tells where everything is. The addresses are the last lines, printed once they answer.
func (n *node) banner(opened []resource.Opened) {
	grpcAddr, httpAddr := n.door.Addrs()
	scheme := "http"
	if !n.set.TLS().IsZero() {
		scheme = "https"
	}
	out := n.io.Out
	fmt.Fprintf(out, "gavel %s coordinator\n", build.Read().Version)
	fmt.Fprintf(out, "  log       %s  id %s  epoch %d\n", n.set.Data, n.c.LogID(), n.c.Epoch())
	for _, o := range opened {
		fmt.Fprintf(out, "  resource  %s  %s\n", o.Name, o.Target)
		if o.SQL != nil {
			fmt.Fprintf(out, "  SQL       %s  %s\n", o.Name, o.SQL)
		}
	}
	fmt.Fprintf(out, "  gRPC      %s  (%s)\n", grpcAddr, n.door.Secured())
	fmt.Fprintf(out, "  HTTP      %s://%s  (the same as JSON; /metrics /livez /readyz?verbose)\n",
		scheme, httpAddr)
}

// serve waits for what ends the process.
func (n *node) serve(ctx context.Context) error {
	watch, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		n.watchReady(watch)
	}()
	var err error
	select {
	case <-ctx.Done():
	case <-n.c.Failed():
	case err = <-n.srv.Failed():
	}
	stop()
	<-watched
	close(n.draining)
	n.srv.Ready(false)
	if n.c.Err() == nil && err == nil {
		n.drain()
	}
	return errors.Join(err, n.end())
}

// drain lets running transactions end, for a bounded time.
func (n *node) drain() {
	n.log.Info("stopping: no new transactions; a second signal stops at once", "bound", n.set.Drain)
	ctx, cancel := context.WithTimeout(context.Background(), n.set.Drain)
	defer cancel()
	if err := n.c.Drain(ctx); err != nil {
		n.log.Warn("stopping with transactions under way; the next start finishes what is decided "+
			"and rolls back the rest", "err", err)
	}
}

// stopGrace is what calls in flight get to end after the drain.
const stopGrace = 2 * time.Second

// end closes servers and log. A failed log is the exit code, whatever else happens on the way out.
func (n *node) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	if n.c.Err() != nil {
		// Callers hear it from the coordinator, all at once; nothing is worth waiting for.
		cancel()
	}
	n.api.Drain()
	n.srv.Stop(ctx)
	err := n.c.Close()
	if failed := n.c.Err(); failed != nil {
		return stopped(n.set.Data, failed)
	}
	if err != nil {
		return exit.Log(n.set.Data, err)
	}
	n.log.Info("stopped")
	return nil
}

// stopped is the exit of a coordinator that stopped itself. One whose log failed must be started
// again; one that a participant refuses must not, or its epoch would rise with every start until
// nobody could tell it from its successor.
func stopped(dir string, failed error) error {
	e := &exit.Error{Code: exit.LogFailed, Err: failed,
		What: "the coordinator stopped: " + failed.Error(),
		Data: "Every decision that was acknowledged is durable. What became of the last requests " +
			"is known when the log is opened again.",
		Do: "Look at the disk of " + dir + ", then start the coordinator again; it finishes what " +
			"is in doubt."}
	switch {
	case errors.Is(failed, participant.ErrFenced):
		e.Code, e.Do = exit.Refused, "Another coordinator has taken over this log, or a copy of "+
			"it: find it, and do not start this one again."
	case errors.Is(failed, participant.ErrRegression):
		e.Code, e.Do = exit.Refused, "The log in "+dir+" is older than what was last heard of it: "+
			"it was restored from a backup. Find the newest copy of it."
	}
	return e
}

// readyEvery is the time between two looks at readiness, for gRPC's health service.
const readyEvery = 50 * time.Millisecond

func (n *node) watchReady(ctx context.Context) {
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	for {
		ready := serve.Passed(n.checks(ctx))
		if ctx.Err() != nil {
			return
		}
		n.srv.Ready(ready)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// stalled is how long the log's disk may owe a sync before the coordinator calls itself unready.
const stalled = 5 * time.Second

// checks are the lines of /readyz. A coordinator is ready when it decides transactions and has
// listed, or failed to list, every resource once. A resource that does not answer does not make it
// unready: that would take all others away as well.
func (n *node) checks(ctx context.Context) []serve.Check {
	log := serve.Check{Name: "log", OK: true, Required: true}
	if err := n.c.Err(); err != nil {
		log.OK, log.Detail = false, err.Error()
	}
	room := serve.Check{Name: "disk", OK: n.c.Room(), Detail: "room for the log"}
	accepting := serve.Check{Name: "accepting", OK: true, Required: true}
	select {
	case <-n.draining:
		accepting.OK, accepting.Detail = false, "shutting down"
	default:
	}
	all := []serve.Check{log, accepting, room}
	status, err := n.c.Resources(ctx)
	if err != nil {
		return append(all, serve.Check{Name: "loop", Required: true, Detail: err.Error()})
	}
	unsynced, err := n.c.Unsynced(ctx)
	disk := serve.Check{Name: "sync", OK: err == nil && unsynced < stalled, Required: true}
	if !disk.OK {
		disk.Detail = fmt.Sprintf("the log's disk has owed a sync for %s", unsynced)
	}
	all = append(all, disk)
	asked := serve.Check{Name: "resources asked", OK: true, Required: true}
	for _, r := range status {
		if !r.Up && r.Err == nil {
			asked.OK = false
		}
		all = append(all, resourceCheck(r))
	}
	return append(all, asked)
}

func resourceCheck(r coordinator.ResourceStatus) serve.Check {
	c := serve.Check{Name: "resource " + r.Name, OK: r.Up && r.Registered}
	if r.Err != nil {
		c.Detail = strings.ReplaceAll(r.Err.Error(), "\n", " ")
	} else if c.OK {
		c.Detail = fmt.Sprintf("%s, %d prepared here, %d pending", r.Kind, r.InDoubt, r.Pending)
	}
	return c
}

// Package participantcmd is `gavel participant`: the sidecar of a database, or an embedded
// key-value store, as a process that coordinators call.
package participantcmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/build"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/resource"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/serve"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/settings"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/kv"
	"github.com/gavel-tx/gavel/participant/remote"
	"github.com/gavel-tx/gavel/participant/session"
	"github.com/gavel-tx/gavel/proto/wire"
)

// options are what a participant can be told.
type options struct {
	name, postgres string
	mysql, kv      string
	// sql is where the statements of clients are run, sessions how many of them at one time.
	sql              string
	sessions         int
	owner            string
	experimental     bool
	kvMax            ui.Size
	grpc, http, data string
	drain            time.Duration
	secure           settings.Secure
	log              settings.Log
}

const long = `Run a participant next to a database: coordinators reach it as grpc://HOST:PORT,
and it finishes, lists and vouches for the prepared branches there. It remembers in --data
which coordinator it heard last, so that one that was replaced cannot act any more.

With --sql it also runs the statements of clients that have no driver of the database, and of
"gavel exec": whoever reaches its address may then do whatever the role of that URL may do.
Give it a role of its own, and TLS with client certificates beyond this machine.`

// Command is `gavel participant`.
func Command(io ui.IO) *cobra.Command {
	o := options{log: settings.Log{Format: "auto", Level: "info"}}
	cmd := &cobra.Command{
		Use:   "participant --name NAME (--postgres URL | --mysql URL | --kv DIR)",
		Short: "Run a participant: the sidecar that speaks for one database",
		Long:  long,
		Example: `  gavel participant --name bank_a --postgres env:BANK_A --data /var/lib/bank-a
  gavel participant --name bank_a --postgres env:BANK_A --sql env:APP_A --data /var/lib/bank-a
  gavel participant --name stock --mysql env:STOCK --data /var/lib/stock
  gavel participant --name cart --kv /var/lib/cart`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), io) },
	}
	fs := cmd.Flags()
	fs.StringVar(&o.name, "name", "", "`NAME` of the resource, as the coordinator knows it")
	fs.StringVar(&o.postgres, "postgres", "", "`URL` of a PostgreSQL database, or env:NAME or "+
		"file:PATH that holds it")
	fs.StringVar(&o.owner, "owner-role", "", "`ROLE` that owns prepared branches in PostgreSQL")
	fs.StringVar(&o.sql, "sql", "", "`URL` of the same database as the role that runs the SQL "+
		"of clients, or env:NAME or file:PATH (default: none is run)")
	fs.IntVar(&o.sessions, "sql-sessions", session.DefaultSessions, "most sessions of --sql "+
		"at one time, each of them a connection")
	fs.StringVar(&o.mysql, "mysql", "", "`URL` of a MariaDB database, or env:NAME or file:PATH "+
		"that holds it")
	settings.AddExperimental(fs, &o.experimental)
	fs.StringVar(&o.kv, "kv", "", "`DIR` of an embedded key-value store")
	fs.Var(&o.kvMax, "kv-max-size", "`SIZE` of what the store may hold, 4GiB by default")
	fs.StringVar(&o.data, "data", "", "`DIR` of what a participant must not forget")
	fs.StringVar(&o.grpc, "grpc", "127.0.0.1:7450", "`ADDR` that coordinators call")
	fs.StringVar(&o.http, "http", "127.0.0.1:7451", "`ADDR` of /metrics, /livez and /readyz")
	fs.DurationVar(&o.drain, "drain", 5*time.Second, "bound of an orderly end after SIGTERM")
	o.secure.Flags(fs)
	o.log.Flags(fs)
	return cmd
}

func (o options) validate() error {
	if o.name == "" {
		return exit.Usagef("Give --name NAME, as in the coordinator's --resource NAME=grpc://…",
			"the resource has no name")
	}
	if err := resource.CheckName(o.name); err != nil {
		return err
	}
	given := 0
	for _, url := range []string{o.postgres, o.mysql, o.kv} {
		if url != "" {
			given++
		}
	}
	if given != 1 {
		return exit.Usagef("Give --postgres env:NAME, --mysql env:NAME or --kv DIR.",
			"a participant speaks for one resource: --postgres, --mysql or --kv")
	}
	if o.kv == "" && o.kvMax != 0 {
		return exit.Usagef("Leave it out.", "--kv-max-size is for a store, and this is a database")
	}
	if o.kv == "" && o.data == "" {
		return exit.Usagef("Give --data DIR, on a disk as durable as the database's.",
			"a participant of a database needs --data: it must not forget which coordinator it "+
				"heard last")
	}
	if o.sql != "" && o.postgres == "" {
		return exit.Usagef("", "--sql is for a participant of PostgreSQL")
	}
	if o.sessions < 1 || o.sessions > resource.MaxSessions {
		return exit.Usagef("", "--sql-sessions %d is not within 1 and %d", o.sessions,
			resource.MaxSessions)
	}
	return nil
}

// run serves until ctx ends.
func (o options) run(ctx context.Context, io ui.IO) (err error) {
	if err := o.validate(); err != nil {
		return err
	}
	log, err := o.log.Logger(io)
	if err != nil {
		return err
	}
	face := serve.Face{GRPC: o.grpc, HTTP: o.http, TLS: o.secure.TLS(), Insecure: o.secure.Insecure,
		Service: remote.Service, Logger: log, MaxMessage: o.maxMessage()}
	door, err := face.Listen()
	if err != nil {
		return err
	}
	opened, err := o.open(ctx, io, log)
	if err != nil {
		return errors.Join(err, door.Close())
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	server, err := o.server(opened, log)
	if err != nil {
		return errors.Join(err, door.Close())
	}
	p := &probe{resource: opened, timeout: probeTimeout, now: io.Now}
	srv := door.Serve(func(r grpc.ServiceRegistrar) {
		server.Register(r)
		if store, ok := opened.Manager.(*kv.Store); ok {
			store.Register(r)
		}
	}, serve.Handler(serve.Registry(build.Read().Version), p.checks))
	o.banner(io, door, opened)
	err = wait(ctx, srv, p)
	if keeper, ok := opened.Manager.(*session.Keeper); ok {
		keeper.Drain() // nobody can ask for their votes any more
	}
	stop, cancel := context.WithTimeout(context.Background(), o.drain)
	defer cancel()
	srv.Stop(stop)
	return errors.Join(err, server.Close())
}

// maxMessage is the larger limit that a service beside ParticipantService needs.
func (o options) maxMessage() int {
	switch {
	case o.kv != "":
		return kv.MaxMessage
	case o.sql != "":
		return wire.MaxSQLMessage
	}
	return 0
}

func (o options) open(ctx context.Context, io ui.IO, log *slog.Logger) (resource.Opened, error) {
	opts := resource.Options{Logger: log, ExperimentalMySQL: o.experimental}
	if o.kv != "" {
		return resource.Open(ctx, o.name, resource.Target{Kind: resource.KindKV, Dir: o.kv,
			MaxBytes: int64(o.kvMax)}, opts)
	}
	kind, ref := resource.KindPostgres, o.postgres
	if o.mysql != "" {
		kind, ref = resource.KindMySQL, o.mysql
	}
	target, err := resource.Source{Getenv: io.Getenv}.Target(o.name, ref)
	if err != nil {
		return resource.Opened{}, err
	}
	if target.Kind != kind {
		return resource.Opened{}, exit.Usagef("", "--%s holds a URL of another kind: %s", kind,
			target)
	}
	if o.owner != "" {
		target.OwnerRole = o.owner
	}
	if o.sql != "" {
		opts.SQL, err = resource.SQLTarget(resource.Source{Getenv: io.Getenv}, o.sql)
		if err != nil {
			return resource.Opened{}, err
		}
		opts.Sessions = o.sessions
	}
	return resource.Open(ctx, o.name, target, opts)
}

// server is the wire in front of the resource, with its durable memory of coordinators.
func (o options) server(opened resource.Opened, log *slog.Logger) (*remote.Server, error) {
	cfg := remote.Config{Name: o.name, Resource: opened.Manager, Report: func(err error) {
		log.Warn("the memory of coordinators could not be written; trying again", "err", err)
	}}
	if keeper, ok := opened.Manager.(*session.Keeper); ok {
		cfg.SQL = keeper
	}
	if o.data != "" {
		if err := os.MkdirAll(o.data, 0o700); err != nil {
			return nil, &exit.Error{Code: exit.Refused, What: err.Error(), Err: err,
				Data: "Nothing was started.", Do: "Choose another --data."}
		}
		cfg.FenceFile = filepath.Join(o.data, "fences")
	}
	server, err := remote.NewServer(cfg)
	if err != nil {
		return nil, &exit.Error{Code: exit.Refused, What: err.Error(), Err: err,
			Data: "Nothing was started. Without its memory of coordinators a participant could " +
				"let a replaced one in again.",
			Do: "Bring back the file " + cfg.FenceFile + ", or move it away if no older " +
				"coordinator of any log can still be running."}
	}
	return server, nil
}

func (o options) banner(io ui.IO, door *serve.Listener, opened resource.Opened) {
	grpcAddr, httpAddr := door.Addrs()
	fmt.Fprintf(io.Out, "gavel %s participant\n", build.Read().Version)
	fmt.Fprintf(io.Out, "  resource  %s  %s\n", o.name, opened.Target)
	if opened.SQL != nil {
		fmt.Fprintf(io.Out, "  SQL       %s\n", opened.SQL)
	}
	fmt.Fprintf(io.Out, "  gRPC      %s  (%s)\n", grpcAddr, door.Secured())
	fmt.Fprintf(io.Out, "  HTTP      %s  (/metrics /livez /readyz?verbose)\n", httpAddr)
}

// wait keeps gRPC's health in step with the resource's, until something ends the process.
func wait(ctx context.Context, srv *serve.Server, p *probe) error {
	tick := time.NewTicker(probeEverySick)
	defer tick.Stop()
	for {
		srv.Ready(serve.Passed(p.checks(ctx)))
		select {
		case <-ctx.Done():
			srv.Ready(false)
			return nil
		case err := <-srv.Failed():
			return err
		case <-tick.C:
		}
	}
}

const (
	probeTimeout = 2 * time.Second
	// probeEvery bounds how often a resource that was well is asked again, however often a probe
	// comes: the question is a real prepare and rollback, with its fsyncs. One that was not well
	// is asked more often, so that its recovery is seen soon.
	probeEvery     = 10 * time.Second
	probeEverySick = time.Second
)

// probe asks the resource how it is, and remembers the answer for a moment. A participant is ready
// when its resource answers and nothing found there would make commits fail.
type probe struct {
	resource resource.Opened
	timeout  time.Duration
	now      func() time.Time

	mu     sync.Mutex
	asked  time.Time
	answer []serve.Check
}

func (p *probe) checks(ctx context.Context) []serve.Check {
	p.mu.Lock()
	defer p.mu.Unlock()
	every := probeEvery
	if !serve.Passed(p.answer) {
		every = probeEverySick
	}
	if p.answer == nil || p.now().Sub(p.asked) >= every {
		p.answer, p.asked = p.ask(ctx), p.now()
	}
	return p.answer
}

func (p *probe) ask(ctx context.Context) []serve.Check {
	name := "resource " + p.resource.Name
	describer, ok := p.resource.Manager.(participant.Describer)
	if !ok {
		return []serve.Check{{Name: name, OK: true, Required: true}}
	}
	// A prober that hangs up must not leave its own impatience behind as the answer for others.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.timeout)
	defer cancel()
	d, err := describer.Describe(ctx)
	if err != nil {
		return []serve.Check{{Name: name, Required: true, Detail: err.Error()}}
	}
	checks := []serve.Check{{Name: name, OK: true, Required: true,
		Detail: d.Kind + " " + d.Version}}
	for _, c := range d.Findings() {
		if c.Level == participant.LevelOK {
			continue
		}
		detail := c.What
		if c.Fix != "" {
			detail += "; fix: " + c.Fix
		}
		checks = append(checks, serve.Check{Name: c.Level.String(),
			Required: c.Level == participant.LevelFail, Detail: detail})
	}
	return checks
}

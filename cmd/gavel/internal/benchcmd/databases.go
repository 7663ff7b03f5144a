package benchcmd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/resource"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/integration/bench"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
)

// databases are what money is moved between.
type databases struct {
	resources []bench.Resource
	// urls are what the coordinator process gets, one for each resource. They may hold secrets.
	urls []string
	// about says for people what they are.
	about string
	// markers says that the first of them can keep markers.
	markers bool
	// servers are our own, if they are.
	servers []*pghost.Server
}

// ownDatabases is how many our two servers have together, so that a transaction can have that many
// branches.
const ownDatabases = 8

func (o *options) openDatabases(ctx context.Context, io ui.IO) (*databases, error) {
	if len(o.resources) > 0 {
		dbs, err := o.given(io)
		if err != nil {
			return nil, err
		}
		return dbs, dbs.lookForMarkers(ctx)
	}
	return o.own(ctx, io)
}

// given looks up the databases of the command line, in the order of their names.
func (o *options) given(io ui.IO) (*databases, error) {
	dbs := &databases{about: strconv.Itoa(len(o.resources)) + " given databases"}
	src := resource.Source{Getenv: io.Getenv}
	for _, name := range slices.Sorted(maps.Keys(o.resources)) {
		url, err := src.Lookup(o.resources[name])
		if err != nil {
			return nil, err
		}
		target, err := resource.Parse(url)
		if err == nil && target.Kind != resource.KindPostgres {
			err = exit.Usagef("", "resource %s is no postgres:// URL, which is what it takes here",
				name)
		}
		if err != nil {
			return nil, err
		}
		dbs.resources = append(dbs.resources, bench.Resource{Name: name, DSN: target.DSN,
			OwnerRole: target.OwnerRole})
		dbs.urls = append(dbs.urls, url)
	}
	return dbs, nil
}

// lookForMarkers asks the first of given databases whether decisions can be left to it.
func (d *databases) lookForMarkers(ctx context.Context) error {
	cfg, err := pgxpool.ParseConfig(d.resources[0].DSN)
	if err != nil {
		return fmt.Errorf("%w: resource %s: %w", bench.ErrConfig, d.resources[0].Name, err)
	}
	conn, err := pgconn.ConnectConfig(ctx, &cfg.ConnConfig.Config)
	if err != nil {
		return fmt.Errorf("%w: resource %s: %w", bench.ErrUnreachable, d.resources[0].Name, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	setup, err := pgbranch.LookMarkers(ctx, conn)
	d.markers = setup.Usable()
	return err
}

// own starts two servers.
func (o *options) own(ctx context.Context, io ui.IO) (_ *databases, err error) {
	inst, err := pghost.Ensure(ctx, io.Err)
	if errors.Is(err, pghost.ErrNoPostgres) {
		return nil, &exit.Error{Code: exit.Unreachable, Err: err, What: err.Error(),
			Do: "Install PostgreSQL, or name two databases with --resource."}
	}
	if err != nil {
		return nil, err
	}
	version, _, _ := strings.Cut(inst.Version, " ")
	dbs := &databases{about: "two PostgreSQL " + version + " servers of its own, fsync on"}
	defer func() {
		if err != nil {
			err = errors.Join(err, dbs.stop(context.WithoutCancel(ctx)))
		}
	}()
	if err := dbs.start(ctx, inst, o.serverSettings()); err != nil {
		return dbs, err
	}
	for i := range ownDatabases {
		name := fmt.Sprintf("bank_%d", i+1)
		srv := dbs.servers[i%len(dbs.servers)]
		if err := srv.CreateDatabase(ctx, name); err != nil {
			return dbs, err
		}
		dbs.resources = append(dbs.resources, bench.Resource{Name: name, DSN: srv.DSN(name)})
		dbs.urls = append(dbs.urls, srv.DSN(name))
	}
	schema := strings.Join(pgbranch.MarkerSchema("postgres"), ";")
	if err := dbs.servers[0].Exec(ctx, dbs.resources[0].Name, schema); err != nil {
		return dbs, err
	}
	dbs.markers = true
	return dbs, nil
}

// start starts both servers at the same time.
func (d *databases) start(
	ctx context.Context, inst pghost.Installation, settings map[string]string,
) error {
	names := []string{"bench_a", "bench_b"}
	d.servers = make([]*pghost.Server, len(names))
	errs := make([]error, len(names))
	var join sync.WaitGroup
	for i, name := range names {
		join.Go(func() {
			d.servers[i], errs[i] = inst.Start(ctx, pghost.Config{Name: name, Settings: settings})
		})
	}
	join.Wait()
	return errors.Join(errs...)
}

// serverSettings leave room for the clients, and keep checkpoints, which come when they want, from
// hitting some lines and sparing others.
func (o *options) serverSettings() map[string]string {
	most := slices.Max(o.clients)
	return map[string]string{
		"max_connections":           strconv.Itoa(most + 240),
		"max_prepared_transactions": strconv.Itoa(2*most + 200),
		"max_wal_size":              "8GB",
		"checkpoint_timeout":        "1h",
	}
}

func (d *databases) stop(ctx context.Context) error {
	var errs []error
	for _, srv := range d.servers {
		if srv != nil {
			errs = append(errs, srv.Stop(ctx))
		}
	}
	return errors.Join(errs...)
}

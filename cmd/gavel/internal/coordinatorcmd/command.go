// Package coordinatorcmd is `gavel coordinator`: a coordinator as a process, from its settings to
// its exit code.
//
// What may go wrong before it serves is refused with exit code 4 and nothing changed: a directory
// without a log, a copy of one, a damaged one, one in use, an address open to the network without
// encryption. Once it serves, it ends in one of three ways: by a signal, in order; by a second
// signal, at once; or because its log failed, with exit code 70 and at once, since only a fresh
// start may believe the disk again. Every end but the first is what a crash would be, and the next
// start takes up from there.
package coordinatorcmd

import (
	"context"
	"log/slog"
	"slices"

	"github.com/spf13/cobra"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/resource"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/settings"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/participant/session"
	"github.com/gavel-tx/gavel/proto/wire"
)

const long = `Run a coordinator: it decides global transactions, keeps the decisions in its
log, and finishes every branch at every resource, across any crash and without a person.

The log is made once, by "gavel log init DIR". Resources are given as NAME=URL:

  env:NAME, file:PATH   a URL kept out of sight; use these for passwords
  grpc://HOST:PORT      a participant (gavel participant) next to a database
  postgres://...        a PostgreSQL database; ?gavel_owner_role=ROLE names the role that owns
                        prepared branches
  kv:DIR                an embedded key-value store; kv:DIR?max_size=8GiB

With --execute clients may run SQL at a resource in one call, "gavel exec" for example: whoever
reaches the coordinator may then do there whatever the role may do that the SQL runs as.

--check connects to every resource, says what it finds with a fix for each fault, and exits 0
or 1 without serving.`

// Command is `gavel coordinator`.
func Command(io ui.IO) *cobra.Command {
	set := settings.Defaults()
	var file string
	var check bool
	var format = ui.Table
	cmd := &cobra.Command{
		Use:   "coordinator --data DIR [--resource NAME=URL ...]",
		Short: "Run a coordinator: it decides transactions and finishes them",
		Long:  long,
		Example: `  gavel log init /var/lib/gavel
  gavel coordinator --data /var/lib/gavel --resource bank_a=env:BANK_A --resource bank_b=env:BANK_B
  gavel coordinator --config /etc/gavel.yaml --check`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file != "" {
				fromFile, err := settings.Load(file)
				if err != nil {
					return err
				}
				set.Under(fromFile, cmd.Flags().Changed)
			}
			if err := set.Validate(); err != nil {
				return err
			}
			if check {
				return runCheck(cmd.Context(), io, set, format)
			}
			return run(cmd.Context(), io, set)
		},
	}
	set.Flags(cmd.Flags())
	cmd.Flags().StringVar(&file, "config", "", "YAML `FILE` with the same words as the flags")
	cmd.Flags().BoolVar(&check, "check", false, "check settings, log and resources, and exit")
	cmd.Flags().VarP(&format, "output", "o", "format of --check")
	return cmd
}

// open makes all resource managers, in the order of their names. On error none is left open.
func open(
	ctx context.Context, io ui.IO, set settings.Coordinator, log *slog.Logger,
) ([]resource.Opened, error) {
	src := resource.Source{Getenv: io.Getenv}
	opts := resource.Options{TLS: set.TLS(), Insecure: set.Insecure,
		ExperimentalMySQL: set.ExperimentalMySQL, Execute: set.Execute, Logger: log}
	return resource.OpenAll(ctx, src, set.Resource, opts)
}

// runners are those who run SQL for ExecuteTransaction, where that is allowed.
func runners(set settings.Coordinator, opened []resource.Opened) map[string]session.Runner {
	all := map[string]session.Runner{}
	for _, o := range opened {
		if _, allowed := set.Execute[o.Name]; !allowed {
			continue
		}
		if r, ok := o.Manager.(session.Runner); ok {
			all[o.Name] = r
		}
	}
	return all
}

// maxMessage bounds one request: statements are longer than votes.
func maxMessage(set settings.Coordinator) int {
	if len(set.Execute) > 0 {
		return wire.MaxSQLMessage
	}
	return 0
}

// config is what the library gets.
func config(
	set settings.Coordinator, opened []resource.Opened, log *slog.Logger,
) coordinator.Config {
	cfg := coordinator.Config{Dir: set.Data, DefaultTimeout: set.Timeout,
		MaxTimeout: set.MaxTimeout, Grace: set.Grace, SweepEvery: set.Sweep,
		Retention: set.Retention, Classic: set.Classic, CallTimeout: set.CallTimeout, Logger: log}
	for _, o := range opened {
		cfg.Resources = append(cfg.Resources, coordinator.Resource{
			Name: o.Name, Kind: o.Kind, Manager: o.Manager,
			AcceptIdentity: slices.Contains(set.AcceptIdentity, o.Name),
			AcceptForeign:  slices.Contains(set.AcceptForeign, o.Name),
		})
	}
	return cfg
}

// Package markercmd is `gavel markers`: it sets PostgreSQL databases up for decisions that are left
// to them. Without --apply it prints what it would run, for whoever may run it.
//
// It is a command of its own because a coordinator changes no schema by itself: that is for those
// who look after the database, once, and with other rights than a coordinator needs.
package markercmd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/resource"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/settings"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
)

// options are what the command can be told.
type options struct {
	refs         map[string]string
	role         string
	applications []string
	apply        bool
	timeout      time.Duration
}

const long = `Print the SQL that sets PostgreSQL databases up as delegates: a transaction may then
leave its decision to one of them, which commits without being prepared, together with a row
that says so, the marker.

With --apply it is run, as the user of the URL, who needs the right to create schemas there.
Running it again changes nothing, and adds what roles are missing.

Exit codes: 0 done, 1 what is there cannot be used, 3 a database cannot be reached, 4 refused.`

// Command is `gavel markers`.
func Command(io ui.IO) *cobra.Command {
	o := options{refs: map[string]string{}}
	cmd := &cobra.Command{
		Use:   "markers --resource NAME=URL ... [--application ROLE] ... [--apply]",
		Short: "Set databases up for decisions that are left to them",
		Long:  long,
		Example: `  gavel markers --resource bank_a=env:BANK_A --application bank_app
  gavel markers --resource bank_a=env:BANK_A_ADMIN --role gavel --application bank_app --apply`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), io) },
	}
	fs := cmd.Flags()
	settings.AddResources(fs, o.refs)
	fs.StringVar(&o.role, "role", "", "`ROLE` that the coordinator, or the sidecar, connects as; "+
		"the user of the URL if not given")
	fs.StringArrayVar(&o.applications, "application", nil,
		"`ROLE` that an application connects as (repeat the flag for more)")
	fs.BoolVar(&o.apply, "apply", false, "run it")
	fs.DurationVar(&o.timeout, "timeout", 10*time.Second, "how long to wait for a database")
	return cmd
}

func (o options) validate() error {
	switch {
	case len(o.refs) == 0:
		return exit.Usagef("Give --resource NAME=URL for every database.", "no resource is named")
	case o.timeout <= 0:
		return exit.Usagef("", "--timeout %v must be above zero", o.timeout)
	case slices.Contains(o.applications, ""):
		return exit.Usagef("", "--application needs the name of a role")
	}
	return settings.Check(o.refs)
}

// database is one of the resources.
type database struct {
	name   string
	target resource.Target
	config *pgconn.Config
	// finisher is the role that reads and removes markers there.
	finisher   string
	statements []string
}

func (o options) run(ctx context.Context, io ui.IO) error {
	if err := o.validate(); err != nil {
		return err
	}
	// All of them are understood before the first one is changed.
	var all []database
	for _, name := range slices.Sorted(maps.Keys(o.refs)) {
		d, err := o.database(resource.Source{Getenv: io.Getenv}, name)
		if err != nil {
			return err
		}
		all = append(all, d)
	}
	if len(o.applications) == 0 {
		fmt.Fprintln(io.Err, "no --application is named: no other role than that of the "+
			"coordinator may write markers")
	}
	for _, d := range all {
		if !o.apply {
			d.print(io)
			continue
		}
		if err := o.set(ctx, d); err != nil {
			return err
		}
		fmt.Fprintf(io.Out, "%s: markers are set up for %s\n", d.name,
			strings.Join(append([]string{d.finisher}, o.applications...), ", "))
	}
	return nil
}

func (o options) database(src resource.Source, name string) (database, error) {
	target, err := src.Target(name, o.refs[name])
	if err != nil {
		return database{}, err
	}
	if target.Kind != resource.KindPostgres {
		return database{}, exit.Usagef("Name the PostgreSQL database itself, also where a "+
			"coordinator reaches it through a sidecar.", "resource %s is none that markers can "+
			"be set up in: %s", name, target)
	}
	config, err := pgconn.ParseConfig(target.DSN)
	if err != nil {
		return database{}, exit.Usagef("", "resource %s: %v", name, err)
	}
	d := database{name: name, target: target, config: config, finisher: o.role}
	if d.finisher == "" {
		d.finisher = config.User
	}
	d.statements = pgbranch.MarkerSchema(d.finisher, o.applications...)
	return d, nil
}

func (d database) print(io ui.IO) {
	fmt.Fprintf(io.Out, "-- %s: %s\n%s;\n", d.name, d.target, strings.Join(d.statements, ";\n"))
}

// set runs the statements in one transaction, and looks at what came of it: a table that was there
// before is left as it is.
func (o options) set(ctx context.Context, d database) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	var warning string
	d.config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" {
			warning = n.Message
		}
	}
	conn, err := pgconn.ConnectConfig(ctx, d.config)
	if err != nil {
		return d.unreachable(err)
	}
	defer func() {
		// A connection that cannot say goodbye is closed all the same.
		_ = conn.Close(ctx)
		<-conn.CleanupDone()
	}()
	if _, err := conn.Exec(ctx, strings.Join(d.statements, ";")).ReadAll(); err != nil {
		return d.refused(err)
	}
	setup, err := pgbranch.LookMarkers(ctx, conn)
	switch {
	case err != nil:
		return d.unreachable(err)
	case !setup.Usable():
		return d.unusable(setup.Fault)
	case warning != "":
		// A GRANT of what the user may not grant is no more than that.
		return d.unusable(warning)
	}
	return nil
}

func (d database) unreachable(err error) error {
	return &exit.Error{Code: exit.Unreachable, Err: err,
		What: fmt.Sprintf("resource %s: %v", d.name, err),
		Data: "What was set up before stays as it is.",
		Do:   "Correct the URL, or bring the database back, and run this again."}
}

func (d database) unusable(fault string) error {
	return &exit.Error{Code: exit.No, What: fmt.Sprintf("resource %s: %s", d.name, fault),
		Data: "No transaction leaves its decision to this database.",
		Do: "Correct it as the owner of the table, or drop it if no coordinator has used it, " +
			"and run this again."}
}

// refused speaks of an error of the server, which has undone all of it.
func (d database) refused(err error) error {
	refusal, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || pgbranch.Classify(err) == pgbranch.ClassUnknown {
		return d.unreachable(err)
	}
	e := &exit.Error{Code: exit.Refused, Err: err, Data: "Nothing was changed there.",
		What: fmt.Sprintf("resource %s: %s", d.name, refusal.Message)}
	switch refusal.Code {
	case "42501":
		e.Do = "Give the URL of a role that may create schemas in the database, or owns the " +
			"one that is there, and --role " + d.finisher + "; or leave --apply out, and have " +
			"such a role run what is printed."
	case "42704":
		e.Code, e.Do = exit.Usage, "Name roles that exist there."
	case "25006":
		e.Do = "Name the primary: this server is a standby."
	}
	return e
}

// Package schemacmd is `gavel schema`: it sets MariaDB servers up, with the tables in which their
// branches leave a proof, and what the accounts of applications and of the coordinator must be
// allowed to do. Without --apply it prints what it would run, for whoever may run it.
package schemacmd

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	driver "github.com/go-sql-driver/mysql"
	"github.com/spf13/cobra"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/resource"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/settings"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/ui"
	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
)

// options are what the command can be told.
type options struct {
	refs         map[string]string
	user         string
	applications []string
	apply        bool
	timeout      time.Duration
}

const long = `Print the SQL that sets MariaDB servers up: the database gavel with its tables, once
for each server, and the grants of the accounts that use them.

With --apply it is run, as the user of the URL, who needs the right to create that database
and to grant. Running it again adds the tables and grants that are missing, and changes nothing
else: do so after an upgrade. The accounts themselves must be there.

Accounts are USER@HOST, or USER for USER@%.

Exit codes: 0 done, 1 what is there cannot be used, 3 a server cannot be reached, 4 refused.`

// Command is `gavel schema`.
func Command(io ui.IO) *cobra.Command {
	o := options{refs: map[string]string{}}
	cmd := &cobra.Command{
		Use: "schema --resource NAME=URL ... [--user ACCOUNT] [--application ACCOUNT] ... " +
			"[--apply]",
		Short: "Set MariaDB servers up",
		Long:  long,
		Example: `  gavel schema --resource stock=env:STOCK --user gavel --application app
  gavel schema --resource stock=env:STOCK_ADMIN --user gavel@10.% --application app --apply`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), io) },
	}
	fs := cmd.Flags()
	settings.AddResources(fs, o.refs)
	fs.StringVar(&o.user, "user", "", "`ACCOUNT` that the coordinator, or the sidecar, connects "+
		"as")
	fs.StringArrayVar(&o.applications, "application", nil,
		"`ACCOUNT` that an application connects as (repeat the flag for more)")
	fs.BoolVar(&o.apply, "apply", false, "run it")
	fs.DurationVar(&o.timeout, "timeout", 10*time.Second, "how long to wait for a server")
	return cmd
}

// server is that of one of the resources.
type server struct {
	name       string
	target     resource.Target
	config     *driver.Config
	statements []string
}

func (o options) run(ctx context.Context, io ui.IO) error {
	grants, err := o.validate()
	if err != nil {
		return err
	}
	// All of them are understood before the first one is changed.
	var all []server
	for _, name := range slices.Sorted(maps.Keys(o.refs)) {
		s, err := o.server(resource.Source{Getenv: io.Getenv}, name, grants)
		if err != nil {
			return err
		}
		all = append(all, s)
	}
	if o.user == "" || len(o.applications) == 0 {
		fmt.Fprintln(io.Err, "name both --user, for the coordinator, and --application: who is "+
			"not named is granted nothing")
	}
	for _, s := range all {
		if !o.apply {
			fmt.Fprintf(io.Out, "-- %s: %s\n%s;\n", s.name, s.target,
				strings.Join(s.statements, ";\n"))
			continue
		}
		if err := o.set(ctx, s); err != nil {
			return err
		}
		fmt.Fprintf(io.Out, "%s: the server is set up\n", s.name)
	}
	return nil
}

// validate returns the grants, but for that of a database.
func (o options) validate() ([]string, error) {
	switch {
	case len(o.refs) == 0:
		return nil, exit.Usagef("Give --resource NAME=URL for every server.",
			"no resource is named")
	case o.timeout <= 0:
		return nil, exit.Usagef("", "--timeout %v must be above zero", o.timeout)
	}
	if err := settings.Check(o.refs); err != nil {
		return nil, err
	}
	var grants []string
	for _, a := range o.applications {
		quoted, err := account(a)
		if err != nil {
			return nil, err
		}
		grants = append(grants, xabranch.ApplicationGrants(quoted)...)
	}
	if o.user != "" {
		quoted, err := account(o.user)
		if err != nil {
			return nil, err
		}
		grants = append(grants, xabranch.AdapterGrants(quoted)...)
	}
	return grants, nil
}

// maxAccount bounds the name of an account, in bytes: 80 of a user's, 255 of a host's.
const maxAccount = 80 + 1 + 255

// account writes USER@HOST in the quotes of SQL. What would need more than quotes is refused.
func account(text string) (string, error) {
	user, host, found := strings.Cut(text, "@")
	if !found {
		host = "%"
	}
	odd := func(r rune) bool { return r < ' ' || r == 0x7f || strings.ContainsRune("'\"`\\@", r) }
	if user == "" || host == "" || len(text) > maxAccount || strings.ContainsFunc(user+host, odd) {
		return "", exit.Usagef("Give USER@HOST, or USER for USER@%, without any quotes.",
			"%.80q is not the name of an account", text)
	}
	return "'" + user + "'@'" + host + "'", nil
}

func (o options) server(src resource.Source, name string, grants []string) (server, error) {
	target, err := src.Target(name, o.refs[name])
	if err != nil {
		return server{}, err
	}
	if target.Kind != resource.KindMySQL {
		return server{}, exit.Usagef("Name the MariaDB database itself, also where a coordinator "+
			"reaches it through a sidecar.", "resource %s is no MariaDB: %s", name, target)
	}
	config, err := driver.ParseDSN(target.DSN)
	if err != nil {
		// The driver's error may hold the password.
		return server{}, exit.Usagef("", "resource %s: the URL cannot be used", name)
	}
	// A GRANT to an account that is not there would make it, without a password.
	s := server{name: name, target: target, config: config, statements: slices.Concat(
		[]string{"SET SESSION sql_mode = 'NO_AUTO_CREATE_USER'"}, xabranch.Schema(), grants)}
	if o.user != "" {
		quoted, err := account(o.user)
		if err != nil {
			return server{}, err
		}
		// Any privilege lets an account connect to a database; this one shows no data.
		s.statements = append(s.statements,
			"GRANT SHOW VIEW ON "+databasePattern(config.DBName)+".* TO "+quoted)
	}
	// The database of the resource may not be there yet, and is not needed.
	s.config.DBName = ""
	s.config.Timeout = o.timeout
	s.config.Logger = &driver.NopLogger{}
	return s, nil
}

// databasePattern is the name of a database in a GRANT, where some letters stand for many.
func databasePattern(name string) string {
	return "`" + strings.NewReplacer("`", "``", `\`, `\\`, "_", `\_`, "%", `\%`).Replace(name) + "`"
}

// set runs the statements, of which each one commits by itself, and looks at what came of it.
func (o options) set(ctx context.Context, s server) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	connector, err := driver.NewConnector(s.config)
	if err != nil {
		return exit.Usagef("", "resource %s: the URL cannot be used", s.name)
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return s.failed(err)
	}
	defer conn.Close()
	place, err := xabranch.About(ctx, conn)
	if err != nil {
		return s.failed(err)
	}
	if !place.MariaDB() {
		return &exit.Error{Code: exit.Refused, Data: "Nothing was changed there.",
			What: fmt.Sprintf("resource %s: the server is no MariaDB: %s", s.name, place.Version),
			Do:   "Leave --apply out, and run what is printed with its own names of privileges."}
	}
	for _, statement := range s.statements {
		if _, err := conn.ExecContext(ctx, statement); err != nil {
			return s.failed(err)
		}
	}
	if _, err := xabranch.Look(ctx, conn); err != nil {
		return s.unusable(err)
	}
	return nil
}

// The numbers of the server's errors that have an advice of their own.
const (
	numDatabaseDenied = 1044
	numLoginDenied    = 1045
	numUnknownAccount = 1133
	numTableDenied    = 1142
	numDenied         = 1227
	numReadOnly       = 1290
	numCannotGrant    = 1410
	numNoTable        = 1146
	numNoColumn       = 1054
)

// failed speaks of an error of the server, which leaves what it has done before.
func (s server) failed(err error) error {
	e := &exit.Error{Code: exit.Refused, Err: err,
		What: fmt.Sprintf("resource %s: %v", s.name, err),
		Data: "What was set up before this stays; nothing else was changed.",
		Do:   "Correct it, and run this again: what is there already stays as it is."}
	switch xabranch.Number(err) {
	case 0:
		e.Code, e.Do = exit.Unreachable, "Correct the URL, or bring the server back, and run "+
			"this again."
		if errors.Is(err, context.DeadlineExceeded) {
			e.Do = "Run this again, with a longer --timeout if the server is slow."
		}
	case numDatabaseDenied, numTableDenied, numDenied, numLoginDenied, numCannotGrant:
		e.Do = "Give the URL of an account that may create the database gavel and grant " +
			"privileges; or leave --apply out, and have such an account run what is printed."
	case numUnknownAccount:
		e.Code, e.Do = exit.Usage, "Name accounts that exist there, as USER@HOST."
	case numReadOnly:
		e.Do = "Name the primary: this server is a replica."
	case numNoTable, numNoColumn:
		return s.unusable(err)
	}
	return e
}

func (s server) unusable(err error) error {
	return &exit.Error{Code: exit.No, Err: err,
		What: fmt.Sprintf("resource %s: what is in the database gavel cannot be used: %v", s.name,
			err),
		Data: "No transaction can use this server.",
		Do: "Give another name to what is there, if it is not of gavel, and run this " +
			"again."}
}

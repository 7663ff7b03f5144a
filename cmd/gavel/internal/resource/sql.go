package resource

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/postgres"
	"github.com/gavel-tx/gavel/participant/postgres/pgsession"
	"github.com/gavel-tx/gavel/participant/session"
	"github.com/gavel-tx/gavel/txn"
)

// MaxSessions bounds what an operator may allow.
const MaxSessions = 1000

// SQLTarget resolves the URL at which the statements of clients are run.
func SQLTarget(src Source, ref string) (*Target, error) {
	text, err := src.Lookup(ref)
	if err != nil {
		return nil, err
	}
	t, err := Parse(text)
	if err != nil {
		return nil, err
	}
	if t.Kind != KindPostgres {
		return nil, exit.Usagef("Give the postgres:// URL of the application's role.",
			"the SQL of clients is run at a URL of another kind: %s", t)
	}
	return &t, nil
}

// executeAt is where this process runs SQL at a resource, or nil if its participant does.
func executeAt(src Source, t Target, ref string) (*Target, error) {
	switch {
	case t.Kind == KindGRPC && ref == "":
		return nil, nil
	case t.Kind == KindGRPC:
		return nil, exit.Usagef("Give --execute NAME alone, and --sql to the participant.",
			"its participant runs the SQL, at a URL of its own")
	case t.Kind != KindPostgres:
		return nil, exit.Usagef("", "no SQL can be run at %s", t)
	case ref == "":
		return nil, exit.Usagef("Give --execute NAME=env:APP_URL, with the application's role.",
			"SQL must not be run as the coordinator's own role")
	}
	return SQLTarget(src, ref)
}

// openPostgres makes the adapter, which does not connect: a coordinator must start while one of its
// databases is down. With sessions it is within a keeper of them.
func openPostgres(name string, t Target, o Options) (participant.Resource, error) {
	r, err := postgres.New(postgres.Config{Name: name, DSN: t.DSN, OwnerRole: t.OwnerRole})
	if err != nil || o.SQL == nil {
		return r, err
	}
	keeper, err := openSessions(r, t, o)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return keeper, nil
}

func openSessions(r *postgres.Resource, t Target, o Options) (participant.Resource, error) {
	finisher, err := pgconn.ParseConfig(t.DSN)
	if err != nil {
		return nil, err
	}
	owner := o.SQL.OwnerRole
	if owner == "" {
		owner = t.OwnerRole
	}
	sessions, err := pgsession.New(pgsession.Config{DSN: o.SQL.DSN, OwnerRole: owner,
		Finisher: finisher.User, MaxSessions: o.Sessions})
	if err != nil {
		return nil, err
	}
	return session.New(session.Config{Resource: r, Database: sessions, MaxSessions: o.Sessions,
		Identity: func() txn.Identity {
			identity, _ := r.Seen()
			return identity
		}})
}

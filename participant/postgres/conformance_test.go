package postgres_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/internal/conformance"
	"github.com/gavel-tx/gavel/participant/participanttest"
	"github.com/gavel-tx/gavel/participant/postgres"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

// TestConformance runs the suite as a user's set-up would be run: the application prepares on its
// own connection, the adapter is no superuser.
func TestConformance(t *testing.T) {
	conformance.Keep(t, "postgres", participanttest.Run(t, participanttest.Harness{
		Open: func(t *testing.T) (participant.Resource, error) {
			r, err := postgres.Open(t.Context(), config(srv))
			if err != nil {
				return nil, err
			}
			return r, nil
		},
		Begin: func(t *testing.T, _ participant.Resource, _ txn.Fence, name txn.Name,
			key string) participanttest.Work {
			return beginWork(t, name, key)
		},
		Effect: func(t *testing.T, _ participant.Resource, key string) bool {
			sql := fmt.Sprintf("SELECT count(*) FROM effects WHERE key = '%s'", key)
			return connect(t, srv, "postgres").run(sql) == "1"
		},
		Resolve: func(t *testing.T, _ participant.Resource, name txn.Name, commit bool) {
			verb := "ROLLBACK"
			if commit {
				verb = "COMMIT"
			}
			connect(t, srv, "postgres").run(verb + " PREPARED '" + name.String() + "'")
		},
		Crash: func(t *testing.T, r participant.Resource) participant.Resource {
			srv.Kill()
			if err := srv.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			return r
		},
		Foreign: func(t *testing.T, name txn.Name) func() {
			s := connect(t, srv, "stranger")
			s.run(fmt.Sprintf("BEGIN; INSERT INTO effects VALUES ('%s')", name))
			s.run("PREPARE TRANSACTION '" + name.String() + "'")
			return func() { s.run("ROLLBACK PREPARED '" + name.String() + "'") }
		},
		Decide: func(t *testing.T, w participanttest.Work, decision []byte) participant.Vote {
			return w.(*work).decide(t, decision)
		},
		Mark: func(t *testing.T, w participanttest.Work, decision []byte) func(bool) {
			return w.(*work).mark(decision)
		},
		Traits: participanttest.Traits{Proof: participanttest.ProofEvidence, Shared: true,
			Delegate: true, Undecided: true},
	}))
}

// work is an application's session.
type work struct {
	*session
	name txn.Name
}

func beginWork(t *testing.T, name txn.Name, key string) *work {
	t.Helper()
	w := &work{session: connect(t, srv, "app"), name: name}
	err := pgbranch.Begin(t.Context(), w.PgConn, pgbranch.BeginOptions{ID: name.ID()})
	if err != nil {
		t.Fatal(err)
	}
	w.run(fmt.Sprintf("INSERT INTO effects VALUES ('%s')", key))
	return w
}

func (w *work) Prepare(t *testing.T) participant.Vote {
	t.Helper()
	v := pgbranch.Prepare(context.Background(), w.PgConn, w.name,
		pgbranch.PrepareOptions{OwnerRole: "gavel_owner"})
	return participant.Vote{Vote: v.Vote, Evidence: v.Evidence, Reason: v.Reason,
		SQLState: v.SQLState}
}

// decide commits as an application does that asks for no durability.
func (w *work) decide(t *testing.T, decision []byte) participant.Vote {
	t.Helper()
	w.run("SET synchronous_commit = off")
	v := pgbranch.Decide(context.Background(), w.PgConn, w.name.ID(), decision,
		pgbranch.PrepareOptions{})
	return participant.Vote{Vote: v.Vote, Evidence: v.Evidence, Reason: v.Reason,
		SQLState: v.SQLState}
}

func (w *work) mark(decision []byte) (end func(commit bool)) {
	w.run(fmt.Sprintf("INSERT INTO gavel.marker VALUES ('%s', '\\x%x')", w.name.ID(), decision))
	return func(commit bool) {
		if commit {
			w.run("COMMIT")
		} else {
			w.run("ROLLBACK")
		}
	}
}

func (w *work) Fail(t *testing.T) {
	t.Helper()
	if err := w.try("SELECT 1/0"); err == nil {
		t.Fatal("division by zero succeeded")
	}
}

func (w *work) Abandon(t *testing.T) {
	t.Helper()
	w.Close(context.Background())
	<-w.CleanupDone()
	// The server ends the session in its own time; the branch is gone when its lock is.
	observer := connect(t, srv, "postgres")
	await(t, "the abandoned session to end", func() bool {
		return observer.run(fmt.Sprintf(
			"SELECT count(*) FROM pg_stat_activity WHERE pid = %d", w.PID())) == "0"
	})
}

package pgsession_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/internal/conformance"
	"github.com/gavel-tx/gavel/participant/participanttest"
	"github.com/gavel-tx/gavel/participant/session"
	"github.com/gavel-tx/gavel/txn"
)

// TestConformance holds the resource to what it owes where its branches are worked at through
// sessions, and prepared by their coordinator.
func TestConformance(t *testing.T) {
	conform(t, func(t *testing.T) (participant.Resource, error) {
		s, err := open(t.Context(), nil)
		if err != nil {
			return nil, err
		}
		return s, nil
	})
}

// TestConformanceOverTheWire: by way of SqlService and ParticipantService.
func TestConformanceOverTheWire(t *testing.T) {
	conform(t, func(t *testing.T) (participant.Resource, error) {
		s, err := startSidecar(t.Context(), t.TempDir())
		if err != nil {
			return nil, err
		}
		return s, nil
	})
}

func conform(t *testing.T, open func(*testing.T) (participant.Resource, error)) {
	operator(t, "TRUNCATE effects") // the suite's keys are the same each time
	conformance.Keep(t, "pgsession", participanttest.Run(t, participanttest.Harness{
		Open: open,
		Begin: func(t *testing.T, r participant.Resource, f txn.Fence, name txn.Name,
			key string) participanttest.Work {
			return begin(t, r, f, name, key)
		},
		Effect: func(t *testing.T, _ participant.Resource, key string) bool {
			return effect(t, key)
		},
		Resolve: func(t *testing.T, _ participant.Resource, name txn.Name, commit bool) {
			verb := "ROLLBACK"
			if commit {
				verb = "COMMIT"
			}
			operator(t, verb+" PREPARED '"+name.String()+"'")
		},
		Crash: func(t *testing.T, r participant.Resource) participant.Resource {
			srv.Kill()
			if err := srv.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			return r
		},
		Foreign: func(t *testing.T, name txn.Name) func() {
			stranger, err := pgx.Connect(t.Context(), dsn("stranger"))
			if err != nil {
				t.Fatal(err)
			}
			defer stranger.Close(context.Background())
			_, err = stranger.PgConn().Exec(t.Context(), fmt.Sprintf(`BEGIN;
				INSERT INTO effects VALUES ('%[1]s'); PREPARE TRANSACTION '%[1]s'`,
				name)).ReadAll()
			if err != nil {
				t.Fatal(err)
			}
			return func() { operator(t, "ROLLBACK PREPARED '"+name.String()+"'") }
		},
		Traits: participanttest.Traits{Proof: participanttest.ProofEvidence, Shared: true,
			Undecided: true},
	}))
}

func operator(t *testing.T, sql string) {
	t.Helper()
	if err := srv.Exec(context.Background(), "postgres", sql); err != nil {
		t.Fatal(err)
	}
}

// work is a branch whose client has no driver.
type work struct {
	session.Branch
	r    participant.Resource
	f    txn.Fence
	name txn.Name
}

func begin(
	t *testing.T, r participant.Resource, f txn.Fence, name txn.Name, key string,
) *work {
	t.Helper()
	// The coordinator is heard of before its clients: what begins under an older epoch is ended.
	if _, err := r.Inquire(t.Context(), f, nil); err != nil {
		t.Fatal(err)
	}
	w := &work{attach(t, r.(session.Runner), name, session.Options{}), r, f, name}
	exec(t, w, "INSERT INTO effects VALUES ($1)", key)
	return w
}

func (w *work) Prepare(t *testing.T) participant.Vote {
	t.Helper()
	votes, err := w.r.Prepare(t.Context(), w.f, []participant.Branch{{Name: w.name}})
	if err != nil {
		t.Fatal(err)
	}
	return votes[0]
}

func (w *work) Fail(t *testing.T) {
	t.Helper()
	if _, err := w.Execute(t.Context(), session.Statement{SQL: "SELECT 1/0"}, nil); err == nil {
		t.Fatal("division by zero succeeded")
	}
}

func (w *work) Abandon(t *testing.T) {
	t.Helper()
	w.Close()
	awaitNoWork(t)
}

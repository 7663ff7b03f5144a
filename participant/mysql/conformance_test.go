package mysql_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/internal/conformance"
	"github.com/gavel-tx/gavel/participant/mysql"
	"github.com/gavel-tx/gavel/participant/mysql/mariahost"
	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/participant/participanttest"
	"github.com/gavel-tx/gavel/txn"
)

// TestConformance runs the suite as a user's set-up would be run: the application prepares on its
// own connection, and neither it nor the adapter is root.
func TestConformance(t *testing.T) { conform(t, srv) }

// TestConformanceWithBinaryLog runs it where XA PREPARE and XA COMMIT are written to two logs.
func TestConformanceWithBinaryLog(t *testing.T) {
	inst, err := mariahost.Find()
	if err != nil {
		t.Fatal(err)
	}
	s, err := inst.Start(t.Context(), mariahost.Config{Name: "binary log",
		Settings: []string{"log-bin=binlog", "server_id=3", "sync_binlog=1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := setUp(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	conform(t, s)
}

func conform(t *testing.T, srv *mariahost.Server) {
	conformance.Keep(t, "mysql", participanttest.Run(t, participanttest.Harness{
		Open: func(t *testing.T) (participant.Resource, error) {
			r, err := mysql.Open(t.Context(), config(srv))
			if err != nil {
				return nil, err
			}
			return r, nil
		},
		Begin: func(t *testing.T, _ participant.Resource, _ txn.Fence, name txn.Name,
			key string) participanttest.Work {
			s := connect(t, srv, "app", "bank")
			return &work{session: s, branch: s.begin(name, key)}
		},
		Effect: func(t *testing.T, _ participant.Resource, key string) bool {
			return effect(t, srv, key)
		},
		Resolve: func(t *testing.T, _ participant.Resource, name txn.Name, commit bool) {
			resolve(t, srv, name, commit)
		},
		Crash: func(t *testing.T, r participant.Resource) participant.Resource {
			srv.Kill()
			if err := srv.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			return r
		},
		Foreign: func(t *testing.T, name txn.Name) func() {
			prepareAs(t, connect(t, srv, "app", "other"), name)
			return func() { resolve(t, srv, name, false) }
		},
		Traits: participanttest.Traits{Proof: participanttest.ProofEvidence, Shared: true,
			Undecided: true},
	}))
}

// resolve finishes a branch as an operator does who knows that its session must have ended.
func resolve(t *testing.T, srv *mariahost.Server, name txn.Name, commit bool) {
	t.Helper()
	root := connect(t, srv, "root", "bank")
	await(t, "the session of the branch to end", func() bool {
		seen, err := xabranch.Sight(context.Background(), root.Conn, []txn.Name{name})
		return err == nil && seen[name].State == xabranch.StateFree
	})
	verb := "XA ROLLBACK "
	if commit {
		verb = "XA COMMIT "
	}
	root.run(verb + xidOf(name))
}

// xidOf writes the XID of a name by the published rule, independently of the code under test.
func xidOf(name txn.Name) string {
	at := strings.LastIndexByte(name.String(), '.')
	return fmt.Sprintf("X'%s',X'%s',%d", hex.EncodeToString([]byte(name.String()[:at])),
		hex.EncodeToString([]byte(name.String()[at+1:])), 0x47564C31)
}

// work is an application's session.
type work struct {
	*session
	branch *xabranch.Branch
}

func (w *work) Prepare(t *testing.T) participant.Vote {
	t.Helper()
	v := w.branch.Prepare(context.Background(), xabranch.PrepareOptions{})
	return participant.Vote{Vote: v.Vote, Evidence: v.Evidence, Reason: v.Reason,
		SQLState: v.SQLState}
}

func (w *work) Fail(t *testing.T) {
	t.Helper()
	if _, err := w.branch.Exec(context.Background(), "INSERT INTO nowhere VALUES (1)"); err == nil {
		t.Fatal("an insert into no table succeeded")
	}
}

func (w *work) Abandon(t *testing.T) {
	t.Helper()
	xabranch.Discard(w.Conn)
}

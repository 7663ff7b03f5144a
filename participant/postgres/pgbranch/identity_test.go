package pgbranch_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

func TestAnotherDatabasePreparesNothing(t *testing.T) { bothWays(t, testAnotherDatabase) }

func testAnotherDatabase(t *testing.T, open func(string) *session) {
	s := open("postgres")
	place, err := pgbranch.Look(t.Context(), s.PgConn)
	if err != nil {
		t.Fatal(err)
	}
	right := func() {
		t.Helper()
		s.write()
		name := newName()
		v := s.prepareWith(name, pgbranch.PrepareOptions{Expect: place.Identity})
		rollbackLater(t, name)
		if v.Vote != txn.VoteYes || v.Evidence.Identity != place.Identity {
			t.Errorf("the right database: vote %v: %s", v.Vote, v.Reason)
		}
	}
	// Before the identity is known to the connection, and when it is.
	for range 2 {
		for what, expect := range map[string]txn.Identity{
			"another cluster": {
				System: place.Identity.System + 1, Database: place.Identity.Database,
			},
			"another database": {
				System: place.Identity.System, Database: place.Identity.Database + 1,
			},
		} {
			s.write()
			name := newName()
			v := s.prepareWith(name, pgbranch.PrepareOptions{Expect: expect})
			if v.Vote != txn.VoteNo || !errors.Is(v.Err, pgbranch.ErrIdentity) || s.listed(name) {
				t.Errorf("%s: vote %v, %v, listed %v", what, v.Vote, v.Err, s.listed(name))
			}
		}
		right()
	}
}

// What a connection has learnt belongs to the backend behind it: a pooler may put another one
// there, of another server.
func TestAnotherBackendIsAskedWhoItIs(t *testing.T) { bothWays(t, testAnotherBackend) }

func testAnotherBackend(t *testing.T, open func(string) *session) {
	a, b := open("postgres"), open("postgres")
	_, want := a.mustPrepare()
	// As if the pooler had moved the connection that learnt it in another cluster.
	learnt := a.CustomData()
	for key := range learnt {
		b.CustomData()[key] = learnt[key]
	}
	if _, got := b.mustPrepare(); got.Identity != want.Identity {
		t.Errorf("identity %v, want %v", got.Identity, want.Identity)
	}
	for key := range learnt {
		if learnt[key] == b.CustomData()[key] {
			t.Errorf("%s is still that of the other backend: %+v", key, learnt[key])
		}
	}
	if _, got := a.mustPrepare(); got.Identity != want.Identity {
		t.Errorf("identity %v on what is known, want %v", got.Identity, want.Identity)
	}
}

// Reading the identity is what costs: it must stay away where the backend is the known one.
func TestAKnownBackendIsNotAskedAgain(t *testing.T) {
	s := open(t, srv, "postgres")
	var sql string
	for _, p := range pgbranch.Statements() {
		if p.Name == "gavel_evidence" {
			sql = p.SQL
		}
	}
	ask := func(pid, start string) (who []byte) {
		t.Helper()
		r := s.ExecParams(t.Context(), sql,
			[][]byte{[]byte(pid), []byte(start), {}}, nil, nil, nil).Read()
		if r.Err != nil || len(r.Rows) != 1 {
			t.Fatal(r.Rows, r.Err)
		}
		return r.Rows[0][1]
	}
	told := strings.Fields(string(ask("0", "0")))
	if len(told) != 5 {
		t.Fatalf("a backend of %q", told)
	}
	if got := ask(told[0], told[1]); got != nil {
		t.Errorf("the known backend says %q", got)
	}
	if ask(told[0], "1"+told[1]) == nil || ask("1"+told[0], told[1]) == nil {
		t.Error("another backend counts as known")
	}
}

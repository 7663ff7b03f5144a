package postgres_test

import (
	"context"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/postgres"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
)

// findings are the checks that are not ok.
func findings(t *testing.T, c postgres.Config) []participant.Check {
	t.Helper()
	r, err := postgres.New(c)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	d, err := r.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var found []participant.Check
	for _, check := range d.Checks {
		if check.Level != participant.LevelOK {
			found = append(found, check)
		}
	}
	return found
}

// Each fault is made at a real server, found, and gone after its fix was pasted.
func TestDescribeFindsFaultsAndTheirFixesWork(t *testing.T) {
	s, err := pghost.Start(t.Context(), pghost.Config{Name: "faulty", Settings: map[string]string{
		"max_connections": "20", "max_prepared_transactions": "1", "fsync": "off"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop(context.Background())
	admin := connect(t, s, "postgres")
	admin.run("CREATE ROLE gavel LOGIN")
	admin.run("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'theirs'")
	found := findings(t, config(s))
	var whats []string
	for _, f := range found {
		whats = append(whats, f.What)
	}
	all := strings.Join(whats, "\n")
	for _, want := range []string{"1 of 1 prepared slots", "fsync is off",
		"gavel_owner does not exist", "failed"} {
		if !strings.Contains(all, want) {
			t.Errorf("not found: %s, in\n%s", want, all)
		}
	}
	admin.run("ROLLBACK PREPARED 'theirs'")
	for _, f := range found {
		// Each statement by itself, since ALTER SYSTEM cannot share a message with others.
		for sql := range strings.SplitSeq(f.Fix, ";") {
			if sql, _, _ = strings.Cut(sql, "--"); strings.TrimSpace(sql) != "" &&
				!strings.HasPrefix(sql, "correct") {
				admin.run(sql)
			}
		}
	}
	// The server's own file said so too, and ALTER SYSTEM only wins where it sets something.
	if err := s.Configure(t.Context(), map[string]string{"fsync": "on"}); err != nil {
		t.Fatal(err)
	}
	restart(t, s)
	if left := findings(t, config(s)); len(left) != 0 {
		t.Errorf("after the fixes: %+v", left)
	}
	c := config(s)
	c.OwnerRole = "postgres"
	left := findings(t, c)
	if len(left) != 2 || !strings.Contains(left[0].What, "may not take") ||
		!strings.Contains(left[1].What, "42501") {
		t.Errorf("an owner role that may not be taken: %+v", left)
	}
}

func TestDescribeLeavesNothing(t *testing.T) {
	admin := connect(t, srv, "postgres")
	const count = "SELECT count(*) FROM pg_prepared_xacts"
	before := admin.run(count)
	if found := findings(t, config(srv)); len(found) != 0 {
		t.Errorf("a good set-up has findings: %+v", found)
	}
	if after := admin.run(count); after != before {
		t.Errorf("%s prepared transactions, then %s", before, after)
	}
}

func TestDescribeWithoutOwnerRole(t *testing.T) {
	c := config(srv)
	c.OwnerRole = ""
	found := findings(t, c)
	if len(found) != 1 || found[0].Level != participant.LevelWarn ||
		!strings.Contains(found[0].Fix, "CREATE ROLE") {
		t.Errorf("%+v", found)
	}
	c.DSN = dsn(srv, "postgres")
	if found := findings(t, c); len(found) != 0 {
		t.Errorf("a superuser needs none: %+v", found)
	}
}

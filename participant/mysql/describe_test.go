package mysql_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/mysql"
	"github.com/gavel-tx/gavel/participant/mysql/mariahost"
	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/txn"
)

// describe returns the description, and its findings that are not ok.
func describe(
	t *testing.T, c mysql.Config,
) (participant.Description, map[participant.Level]string) {
	t.Helper()
	r, err := mysql.New(c)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	d, err := r.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := map[participant.Level]string{}
	for _, check := range d.Checks {
		found[check.Level] += check.What + " | " + check.Fix + "\n"
		if (check.Fix == "") != (check.Level == participant.LevelOK) || check.What == "" {
			t.Errorf("check %+v", check)
		}
	}
	return d, found
}

func TestDescribe(t *testing.T) {
	d, found := describe(t, config(srv))
	if d.Kind != "mysql" || !strings.Contains(d.Version, "MariaDB") || d.Identity.IsZero() ||
		!d.Evidence || d.OnePhase || d.Delegate {
		t.Errorf("described as %+v", d)
	}
	for level, text := range found {
		if level != participant.LevelOK {
			t.Errorf("%v: %s", level, text)
		}
	}
}

// TestDescribeFindsFaults makes each fault at the server, or in the set-up of an account.
func TestDescribeFindsFaults(t *testing.T) {
	root := connect(t, srv, "root", "bank")
	other, asRoot := config(srv), config(srv)
	other.Expect = txn.Identity{System: 1, Database: 1}
	asRoot.DSN = srv.DSN("root", "bank")
	ahead := config(srv)
	d, _ := describe(t, ahead)
	ahead.Expect, ahead.Seen = d.Identity, txn.Position{Timeline: 1, LSN: 1 << 62}
	plain := config(srv)
	plain.DSN = srv.DSN("app", "bank")
	for _, c := range []struct {
		do, undo string
		c        mysql.Config
		level    participant.Level
		say      string
	}{
		{"DO 0", "DO 0", other, participant.LevelFail, "which was registered"},
		{"DO 0", "DO 0", ahead, participant.LevelFail, "went backwards"},
		{"DO 0", "DO 0", plain, participant.LevelWarn, "lacks PROCESS"},
		{"SET GLOBAL read_only = 1", "SET GLOBAL read_only = 0", config(srv),
			participant.LevelFail, "point the DSN at the primary"},
		{"SET GLOBAL innodb_flush_log_at_trx_commit = 2",
			"SET GLOBAL innodb_flush_log_at_trx_commit = 1", config(srv), participant.LevelFail,
			"can be lost by a power failure"},
		{"CREATE TABLE bank.plain (i INT) ENGINE = MyISAM", "DROP TABLE bank.plain", config(srv),
			participant.LevelWarn, "not of InnoDB"},
		{"REVOKE CONNECTION ADMIN ON *.* FROM gavel@localhost",
			"GRANT CONNECTION ADMIN ON *.* TO gavel@localhost", config(srv),
			participant.LevelWarn, "lacks CONNECTION ADMIN"},
		{"RENAME TABLE gavel.horizon TO bank.aside", "RENAME TABLE bank.aside TO gavel.horizon",
			config(srv), participant.LevelWarn, "gavel schema --resource NAME=URL --apply"},
	} {
		root.run(c.do)
		_, found := describe(t, c.c)
		root.run(c.undo)
		if !strings.Contains(found[c.level], c.say) {
			t.Errorf("%s: found %v, want %q", c.do, found, c.say)
		}
	}
}

// A position that cannot be written down is not told, and a failure to ask is no finding.
func TestDescribeCannotSettle(t *testing.T) {
	root := connect(t, srv, "root", "bank")
	root.run("UPDATE gavel.identity SET high = high + 1")
	root.run("REVOKE UPDATE ON gavel.* FROM gavel@localhost")
	d, found := describe(t, config(srv))
	root.run("GRANT UPDATE ON gavel.* TO gavel@localhost")
	if d.Position != (txn.Position{}) ||
		!strings.Contains(found[participant.LevelFail], "cannot be written down") {
		t.Errorf("described at %+v: %v", d.Position, found)
	}

	root.run("SET GLOBAL innodb_lock_wait_timeout = 1")
	defer root.run("SET GLOBAL innodb_lock_wait_timeout = 50")
	root.run("START TRANSACTION")
	root.run("UPDATE gavel.identity SET writes = writes + 1")
	defer root.run("ROLLBACK")
	r, err := mysql.New(config(srv))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if d, err := r.Describe(t.Context()); xabranch.Number(err) != 1205 {
		t.Errorf("described behind a lock: %+v, %v", d, err)
	}
}

// startBare starts a server without the set-up, which ends with the test.
func startBare(t *testing.T, settings ...string) *mariahost.Server {
	t.Helper()
	inst, err := mariahost.Find()
	if err != nil {
		t.Fatal(err)
	}
	s, err := inst.Start(t.Context(), mariahost.Config{Name: "bare", Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// A server without the set-up is described, and used for nothing.
func TestWithoutSetup(t *testing.T) {
	s := startBare(t)
	if err := s.Exec(t.Context(), "CREATE DATABASE bank"); err != nil {
		t.Fatal(err)
	}
	c := config(s)
	c.DSN = s.DSN("root", "bank")
	d, found := describe(t, c)
	if d.Evidence || !d.Identity.IsZero() ||
		!strings.Contains(found[participant.LevelFail], "CREATE TABLE IF NOT EXISTS gavel.branch") {
		t.Errorf("described as %+v", d)
	}
	if _, err := mysql.Open(t.Context(), c); !errors.Is(err, xabranch.ErrNoSetup) {
		t.Errorf("opened: %v", err)
	}
	// What the finding says to paste is all that is missing, and may be pasted twice.
	for range 2 {
		if err := s.Exec(t.Context(), xabranch.Schema()...); err != nil {
			t.Fatal(err)
		}
	}
	if _, found = describe(t, c); found[participant.LevelFail] != "" {
		t.Error(found)
	}
}

// MySQL is refused unless it is asked for. A MariaDB that calls itself by another version stands in
// for one here: no test of this package has seen a real one.
func TestMySQLIsExperimental(t *testing.T) {
	s := startBare(t, "version=8.0.36")
	if err := setUp(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if _, err := mysql.Open(t.Context(), config(s)); !errors.Is(err, xabranch.ErrMySQL) {
		t.Errorf("opened without being asked: %v", err)
	}
	_, found := describe(t, config(s))
	if !strings.Contains(found[participant.LevelFail], "--experimental-mysql") {
		t.Errorf("described as %v", found)
	}
	app := connect(t, s, "app", "bank")
	v := app.begin(newName(), "k").Prepare(t.Context(), xabranch.PrepareOptions{})
	if v.Vote != txn.VoteNo || !errors.Is(v.Err, xabranch.ErrMySQL) {
		t.Errorf("vote %v (%s)", v.Vote, v.Reason)
	}
	c := config(s)
	c.Experimental = true
	r := openResource(t, c)
	if _, found = describe(t, c); !strings.Contains(found[participant.LevelWarn],
		"never tested") || found[participant.LevelFail] != "" {
		t.Errorf("described as %v", found)
	}
	name := newName()
	v = connect(t, s, "app", "bank").begin(name, name.String()).Prepare(t.Context(),
		xabranch.PrepareOptions{Experimental: true})
	standing(t, r.Commit, newFence(), participant.Branch{Name: name, Evidence: v.Evidence},
		txn.StandingCommitted)
}

package schemacmd_test

import (
	"context"
	"database/sql"
	"net/url"
	"strings"
	"testing"

	driver "github.com/go-sql-driver/mysql"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/clitest"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/mysql"
	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/txn"
)

// TestCommandLine: what cannot be meant is refused before anything is connected to.
func TestCommandLine(t *testing.T) {
	t.Setenv("S", "mysql://root:hush@db.example/stock")
	for line, want := range map[string]string{
		"":                                     "no resource is named",
		"--resource nope":                      "NAME=URL",
		"--resource s=env:S --timeout 0s":      "above zero",
		"--resource s=env:S --application=":    "name of an account",
		"--resource s=env:S --user=a@":         "name of an account",
		"--resource s=env:S --user=a'b":        "name of an account",
		"--resource s=env:S --user=a@b@c":      "name of an account",
		"--resource s=env:S --application=a`b": "name of an account",
		"--resource s=env:NOTHING":             "resource s: the environment variable NOTHING",
		"--resource s=kv:/tmp":                 "resource s is no MariaDB",
		"--resource s=grpc://127.0.0.1:1":      "through a sidecar",
		"--resource s=postgres://h/b":          "resource s is no MariaDB",
		"--resource s=env:S --aply":            "Did you mean --apply?",
		"--resource s=env:S --resource b=kv:":  "resource b: kv: needs a directory",
	} {
		r := clitest.Run(t, append([]string{"schema"}, strings.Fields(line)...)...)
		if r.Want(t, exit.Usage, want); r.Out != "" {
			t.Errorf("%s: %s", line, r.Out)
		}
	}
}

// TestCommandLinePrints: the SQL is for a pipe, without secrets, and nobody is connected to.
func TestCommandLinePrints(t *testing.T) {
	t.Setenv("S", "mysql://root:hush@db.example/my_stock")
	r := clitest.Run(t, "schema", "--resource", "s=env:S", "--user", "gavel@10.%",
		"--application", "app", "--application", "the other@localhost")
	r.Want(t, exit.OK, "-- s: mysql://root@db.example/my_stock",
		"CREATE DATABASE IF NOT EXISTS gavel;",
		"GRANT SELECT, INSERT ON gavel.branch TO 'app'@'%';",
		"GRANT SELECT, INSERT ON gavel.branch TO 'the other'@'localhost';",
		"GRANT PROCESS, CONNECTION ADMIN ON *.* TO 'gavel'@'10.%';",
		"GRANT SHOW VIEW ON `my\\_stock`.* TO 'gavel'@'10.%';")
	if strings.Contains(r.Out+r.Err, "hush") || r.Err != "" {
		t.Errorf("%s%s", r.Out, r.Err)
	}
	r = clitest.Run(t, "schema", "--resource", "s=env:S")
	r.Want(t, exit.OK, "CREATE DATABASE")
	if !strings.Contains(r.Err, "--application") || strings.Contains(r.Out, "GRANT") {
		t.Errorf("%s%s", r.Out, r.Err)
	}
}

// TestCommandLineUnreachable: 3, and nothing is said to be done.
func TestCommandLineUnreachable(t *testing.T) {
	r := clitest.Run(t, "schema", "--apply", "--resource", "s=mysql://root@127.0.0.1:1/x",
		"--application", "app")
	if r.Want(t, exit.Unreachable, "resource s: "); r.Out != "" {
		t.Error(r.Out)
	}
}

// address is the URL of the database as an account.
func address(t *testing.T, account string) string {
	t.Helper()
	c, err := driver.ParseDSN(srv.DSN(account, "my_stock"))
	if err != nil {
		t.Fatal(err)
	}
	return "mysql://" + account + "@/my_stock?socket=" + url.QueryEscape(c.Addr)
}

// try connects as an account and calls f.
func try(t *testing.T, account string, f func(context.Context, *sql.Conn) error) error {
	t.Helper()
	db, err := sql.Open("mysql", srv.DSN(account, "my_stock"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	conn, err := db.Conn(t.Context())
	if err != nil {
		return err
	}
	defer conn.Close()
	return f(t.Context(), conn)
}

func exec(t *testing.T, statements ...string) {
	t.Helper()
	if err := srv.Exec(t.Context(), statements...); err != nil {
		t.Fatal(err)
	}
}

// faults are what the adapter finds wrong.
func faults(t *testing.T) (found []string) {
	t.Helper()
	r, err := mysql.New(mysql.Config{Name: "s", DSN: srv.DSN("gavel", "my_stock")})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	d, err := r.Describe(t.Context())
	if err != nil {
		return []string{err.Error()}
	}
	for _, c := range d.Checks {
		if c.Level != participant.LevelOK {
			found = append(found, c.What)
		}
	}
	return found
}

// TestApply: what is printed, run by hand, and --apply come to the same, as often as they are run.
func TestApply(t *testing.T) {
	t.Setenv("S", address(t, "root"))
	line := []string{"schema", "--resource", "s=env:S", "--user", "gavel@localhost",
		"--application", "the app@localhost"}
	for _, apply := range []bool{false, true} {
		exec(t, "DROP DATABASE IF EXISTS gavel", "REVOKE ALL, GRANT OPTION FROM gavel@localhost",
			"REVOKE ALL ON my_stock.* FROM `the app`@localhost",
			"GRANT CREATE, INSERT ON my_stock.* TO `the app`@localhost")
		if len(faults(t)) == 0 {
			t.Error("nothing is wrong before it is set up")
		}
		for range 2 {
			if apply {
				clitest.Run(t, append(line, "--apply")...).Want(t, exit.OK,
					"s: the server is set up")
				continue
			}
			out := clitest.Run(t, line...).Want(t, exit.OK).Out
			_, script, _ := strings.Cut(strings.TrimSpace(out), "\n")
			exec(t, strings.Split(strings.TrimSuffix(script, ";"), ";\n")...)
		}
		if found := faults(t); len(found) > 0 {
			t.Errorf("apply %v: %q", apply, found)
		}
		prepareAndRollBack(t, txn.Name{Log: 1, Seq: 1, Branch: 1})
		err := try(t, "the app", func(ctx context.Context, conn *sql.Conn) error {
			_, err := conn.ExecContext(ctx, "DELETE FROM gavel.branch")
			return err
		})
		if err == nil {
			t.Errorf("apply %v: the application may remove rows of branches", apply)
		}
	}
}

// prepareAndRollBack has an application prepare a branch, and the adapter roll it back.
func prepareAndRollBack(t *testing.T, name txn.Name) {
	t.Helper()
	b := participant.Branch{Name: name}
	err := try(t, "the app", func(ctx context.Context, conn *sql.Conn) error {
		branch, err := xabranch.Begin(ctx, conn, name, xabranch.BeginOptions{})
		if err != nil {
			return err
		}
		v := branch.Prepare(ctx, xabranch.PrepareOptions{})
		if v.Vote != txn.VoteYes {
			t.Errorf("vote %s: %s", v.Vote, v.Reason)
		}
		b.Evidence = v.Evidence
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := mysql.Open(t.Context(), mysql.Config{Name: "s", DSN: srv.DSN("gavel", "my_stock")})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	found, err := r.Rollback(t.Context(), txn.Fence{Log: name.Log, Epoch: 1, LSN: 1},
		[]participant.Branch{b})
	if err != nil || found[0].Standing != txn.StandingRolledBack {
		t.Errorf("%+v: %v", found, err)
	}
}

// TestApplyIsRefused: 4 for who may not, 2 for accounts that are not there and are not made, 1 for
// tables that are something else.
func TestApplyIsRefused(t *testing.T) {
	line := func(account string, more ...string) []string {
		t.Setenv("S", address(t, account))
		return append([]string{"schema", "--apply", "--resource", "s=env:S"}, more...)
	}
	exec(t, "DROP DATABASE IF EXISTS gavel", "REVOKE ALL, GRANT OPTION FROM guest@localhost",
		"GRANT SELECT ON my_stock.* TO guest@localhost")
	clitest.Run(t, line("guest")...).Want(t, exit.Refused, "denied", "leave --apply out")
	clitest.Run(t, line("stranger")...).Want(t, exit.Refused, "leave --apply out")
	clitest.Run(t, line("root", "--application", "nobody@localhost")...).Want(t, exit.Usage,
		"Name accounts that exist there", "stays")
	err := try(t, "nobody", func(context.Context, *sql.Conn) error { return nil })
	if err == nil {
		t.Error("the account was made")
	}
	exec(t, "DROP DATABASE gavel", "CREATE DATABASE gavel",
		"CREATE TABLE gavel.identity (one INT) ENGINE = InnoDB")
	clitest.Run(t, line("root")...).Want(t, exit.No, "cannot be used")
	exec(t, "DROP DATABASE gavel", "SET GLOBAL read_only = 1",
		"GRANT ALL ON *.* TO guest@localhost",
		"REVOKE READ_ONLY ADMIN ON *.* FROM guest@localhost")
	defer exec(t, "SET GLOBAL read_only = 0")
	clitest.Run(t, line("guest")...).Want(t, exit.Refused, "Name the primary")
}

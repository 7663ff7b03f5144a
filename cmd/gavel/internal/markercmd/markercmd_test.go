package markercmd_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/cmd/gavel/internal/clitest"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/postgres"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
)

// TestCommandLine: what cannot be meant is refused before anything is connected to.
func TestCommandLine(t *testing.T) {
	t.Setenv("A", "postgres://gavel:hush@db.example/bank?sslmode=disable")
	for line, want := range map[string]string{
		"":                                    "no resource is named",
		"--resource nope":                     "NAME=URL",
		"--resource a=env:A --timeout 0s":     "above zero",
		"--resource a=env:A --application=":   "name of a role",
		"--resource a=env:NOTHING":            "resource a: the environment variable NOTHING",
		"--resource a=nonsense:1":             "resource a: the URL begins with none",
		"--resource a=kv:/tmp":                "resource a is none that markers",
		"--resource a=grpc://127.0.0.1:1":     "through a sidecar",
		"--resource a=postgres://h:x%25/b":    "resource a: ",
		"--resource a=env:A --aply":           "Did you mean --apply?",
		"--resource a=env:A --resource b=kv:": "resource b: kv: needs a directory",
	} {
		r := clitest.Run(t, append([]string{"markers"}, strings.Fields(line)...)...)
		if r.Want(t, exit.Usage, want); r.Out != "" {
			t.Errorf("%s: %s", line, r.Out)
		}
	}
}

// TestCommandLinePrints: the SQL is for a pipe, without secrets, and nobody is connected to.
func TestCommandLinePrints(t *testing.T) {
	t.Setenv("A", "postgres://gavel:hush@db.example/bank?sslmode=disable")
	r := clitest.Run(t, "markers", "--resource", "a=env:A", "--application", "app",
		"--application", `the "other"`)
	r.Want(t, exit.OK,
		"-- a: postgres://gavel@db.example/bank", "CREATE SCHEMA IF NOT EXISTS gavel;",
		"txid uuid PRIMARY KEY, decision bytea",
		`GRANT SELECT, INSERT, DELETE ON gavel.marker TO "gavel";`,
		`GRANT INSERT ON gavel.marker TO "app";`,
		`GRANT INSERT ON gavel.marker TO "the ""other""";`)
	if strings.Contains(r.Out+r.Err, "hush") || r.Err != "" {
		t.Errorf("%s%s", r.Out, r.Err)
	}
	r = clitest.Run(t, "markers", "--resource", "a=env:A", "--role", "finisher")
	r.Want(t, exit.OK, `TO "finisher"`)
	if !strings.Contains(r.Err, "--application") || strings.Contains(r.Out, `TO "gavel"`) {
		t.Errorf("%s%s", r.Out, r.Err)
	}
}

// TestCommandLineUnreachable: 3, and nothing is said to be done.
func TestCommandLineUnreachable(t *testing.T) {
	r := clitest.Run(t, "markers", "--apply", "--resource",
		"a=postgres://127.0.0.1:1/x?sslmode=disable", "--application", "app")
	if r.Want(t, exit.Unreachable, "resource a: "); r.Out != "" {
		t.Error(r.Out)
	}
}

// address is the URL of a database as a role, or as the superuser.
func address(database, role string) string {
	if role == "" {
		return srv.TCPDSN(database)
	}
	return srv.DSN(database) + "&user=" + role
}

func newDatabase(t *testing.T, name string) {
	t.Helper()
	if err := srv.CreateDatabase(t.Context(), name); err != nil {
		t.Fatal(err)
	}
}

func exec(t *testing.T, database, sql string) {
	t.Helper()
	if err := srv.Exec(t.Context(), database, sql); err != nil {
		t.Fatal(err)
	}
}

// delegate says whether the adapter, as a role, would take decisions there.
func delegate(t *testing.T, database, role string) bool {
	t.Helper()
	r, err := postgres.New(postgres.Config{Name: "a", DSN: srv.DSN(database) + "&user=" + role})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var d participant.Description
	if d, err = r.Describe(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d.Delegate
}

// TestApply: what is printed, run by hand, and --apply come to the same, as often as they are run.
func TestApply(t *testing.T) {
	for i, apply := range []bool{false, true} {
		database := fmt.Sprintf("bank_%d", i)
		newDatabase(t, database)
		t.Setenv("A", address(database, ""))
		line := []string{"markers", "--resource", "a=env:A", "--role", "gavel", "--application",
			"the app"}
		if delegate(t, database, "gavel") {
			t.Error("it takes decisions before it is set up")
		}
		for range 2 {
			if apply {
				clitest.Run(t, append(line, "--apply")...).Want(t, exit.OK,
					"a: markers are set up for gavel, the app")
			} else {
				exec(t, database, clitest.Run(t, line...).Want(t, exit.OK).Out)
			}
		}
		if !delegate(t, database, "gavel") {
			t.Errorf("apply %v: it takes no decisions", apply)
		}
		exec(t, database, `SET ROLE "the app";
			INSERT INTO gavel.marker (txid) VALUES (gen_random_uuid())`)
		err := srv.Exec(t.Context(), database, `SET ROLE "the app"; DELETE FROM gavel.marker`)
		if err == nil {
			t.Errorf("apply %v: the application may remove markers", apply)
		}
	}
}

// TestApplyIsRefused: 4 for who may not, 2 for roles that are not there, 1 for a table that is no
// place for markers; and nothing of it is done.
func TestApplyIsRefused(t *testing.T) {
	newDatabase(t, "strict")
	line := func(role string, more ...string) []string {
		t.Setenv("A", address("strict", role))
		return append([]string{"markers", "--apply", "--resource", "a=env:A"}, more...)
	}
	clitest.Run(t, line("keeper", "--role", "gavel")...).Want(t, exit.Refused,
		"permission denied", "Nothing was changed", "--role gavel")
	clitest.Run(t, line("", "--application", "nobody")...).Want(t, exit.Usage,
		`role "nobody" does not exist`, "Nothing was changed")
	if err := srv.Exec(t.Context(), "strict", "CREATE SCHEMA gavel"); err != nil {
		t.Errorf("something of it was done: %v", err)
	}
	exec(t, "strict", "CREATE UNLOGGED TABLE gavel.marker (txid uuid PRIMARY KEY, decision bytea)")
	clitest.Run(t, line("")...).Want(t, exit.No, "survives a crash")
	exec(t, "strict", `DROP TABLE gavel.marker;
		CREATE TABLE gavel.marker (txid uuid PRIMARY KEY, decision bytea);
		GRANT CREATE ON DATABASE strict TO keeper;
		GRANT CREATE, USAGE ON SCHEMA gavel TO keeper`)
	clitest.Run(t, line("keeper", "--role", "gavel")...).Want(t, exit.Refused, "must be owner")
	// Who may use a schema, and not grant that, is told so by a mere WARNING.
	exec(t, "strict", "ALTER TABLE gavel.marker OWNER TO keeper")
	clitest.Run(t, line("keeper", "--role", "gavel")...).Want(t, exit.No,
		"no privileges were granted")
}

// TestApplyOnAStandby names the primary as the place.
func TestApplyOnAStandby(t *testing.T) {
	standby, err := pghost.Start(t.Context(), pghost.Config{Name: "standby", StandbyOf: srv})
	if err != nil {
		t.Fatal(err)
	}
	defer standby.Stop(t.Context())
	t.Setenv("A", standby.TCPDSN("postgres"))
	clitest.Run(t, "markers", "--apply", "--resource", "a=env:A").Want(t, exit.Refused,
		"standby", "Nothing was changed")
}

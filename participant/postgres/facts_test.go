package postgres_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
)

// These tests are about PostgreSQL alone: the facts that the adapter's rules rest on. Each was
// measured with version 15; a version that fails one of them needs a look at the rule.

// fact runs statements as superuser and returns the SQLSTATE of the first that fails.
func fact(t *testing.T, s *session, statements ...string) string {
	t.Helper()
	for _, sql := range statements {
		if err := s.try(sql); err != nil {
			if pgbranch.SQLState(err) == "" {
				t.Fatalf("%s: %v", sql, err)
			}
			return pgbranch.SQLState(err)
		}
	}
	return ""
}

func TestFactSQLStates(t *testing.T) {
	quoted := func(n int) string { return "PREPARE TRANSACTION '" + strings.Repeat("x", n) + "'" }
	const begin = "BEGIN; SELECT pg_current_xact_id()"
	for what, c := range map[string]struct {
		statements []string
		want       string
	}{
		"unknown name, commit":   {[]string{"COMMIT PREPARED 'no'"}, "42704"},
		"unknown name, rollback": {[]string{"ROLLBACK PREPARED 'no'"}, "42704"},
		"a second commit": {
			[]string{begin, quoted(5), "COMMIT PREPARED 'xxxxx'", "COMMIT PREPARED 'xxxxx'"},
			"42704",
		},
		"name of 200 bytes": {[]string{begin, quoted(200)}, "22023"},
		"name of 199 bytes": {
			[]string{begin, quoted(199), "ROLLBACK PREPARED '" + strings.Repeat("x", 199) + "'"},
			"",
		},
		"empty name":                  {[]string{begin, quoted(0), "ROLLBACK PREPARED ''"}, ""},
		"name taken":                  {[]string{begin, quoted(3), begin, quoted(3)}, "42710"},
		"finish inside a transaction": {[]string{"BEGIN", "COMMIT PREPARED 'no'"}, "25001"},
		"finish in a shared message":  {[]string{"SELECT 1; COMMIT PREPARED 'no'"}, "25001"},
		"temporary table": {
			[]string{"BEGIN; CREATE TEMP TABLE x ()", quoted(4)}, "0A000",
		},
		"notify": {[]string{"BEGIN; NOTIFY x", quoted(4)}, "0A000"},
		"advisory lock in transaction": {
			[]string{"BEGIN; SELECT pg_advisory_xact_lock(7)", quoted(4),
				"ROLLBACK PREPARED 'xxxx'"},
			"",
		},
		"deferred foreign key": {[]string{`BEGIN; CREATE TABLE p (x int PRIMARY KEY);
			CREATE TABLE c (x int REFERENCES p DEFERRABLE INITIALLY DEFERRED);
			INSERT INTO c VALUES (1)`, quoted(4)}, "23503"},
	} {
		s := connect(t, srv, "postgres")
		if got := fact(t, s, c.statements...); got != c.want {
			t.Errorf("%s: SQLSTATE %q, want %q", what, got, c.want)
		}
		if what == "name taken" {
			if got := fact(t, s, "ROLLBACK PREPARED 'xxx'"); got != "" {
				t.Errorf("the first owner of a name that was taken twice: SQLSTATE %q", got)
			}
		}
	}
}

// The name cannot be a bind parameter, so that it must be a literal that we have built.
func TestFactNameIsNoParameter(t *testing.T) {
	s := connect(t, srv, "postgres")
	s.run("BEGIN")
	_, err := s.ExecParams(t.Context(), "PREPARE TRANSACTION $1", [][]byte{[]byte("x")}, nil, nil,
		nil).Close()
	if pgbranch.SQLState(err) != "42601" {
		t.Errorf("%v", err)
	}
}

// A failed transaction: PREPARE answers with success, and the tag ROLLBACK.
func TestFactPrepareOfAFailedTransactionSucceeds(t *testing.T) {
	s := connect(t, srv, "postgres")
	s.run("BEGIN")
	if fact(t, s, "SELECT 1/0") == "" {
		t.Fatal("division by zero succeeded")
	}
	for what, prepare := range map[string]string{
		"failed transaction": "PREPARE TRANSACTION 'failed'",
		"no transaction":     "PREPARE TRANSACTION 'none'",
	} {
		results, err := s.Exec(t.Context(), prepare).ReadAll()
		if err != nil || results[0].CommandTag.String() != "ROLLBACK" {
			t.Errorf("%s: %v, %v", what, results, err)
		}
	}
}

// PREPARE and COMMIT PREPARED are flushed whatever synchronous_commit says.
func TestFactPrepareIsFlushedWithoutSynchronousCommit(t *testing.T) {
	s := connect(t, srv, "postgres")
	for _, sql := range []string{"PREPARE TRANSACTION 'async'", "COMMIT PREPARED 'async'"} {
		if strings.HasPrefix(sql, "PREPARE") {
			s.run("SET synchronous_commit = off; BEGIN; INSERT INTO effects VALUES ('async')")
		}
		s.run(sql)
		// Nothing else writes between the two: what was inserted last is what was just done.
		behind := s.run("SELECT pg_current_wal_insert_lsn() - pg_current_wal_flush_lsn() < 500")
		if behind != "t" {
			t.Errorf("%s left unflushed log", sql)
		}
	}
	s.run("DELETE FROM effects WHERE key = 'async'")
}

// A prepared branch has no session, and outlives the one that made it. It blocks others, and
// pg_blocking_pids names it 0.
func TestFactAPreparedBranchOutlivesItsSession(t *testing.T) {
	app, observer := connect(t, srv, "app"), connect(t, srv, "postgres")
	app.run("BEGIN; INSERT INTO effects VALUES ('outlives')")
	app.run("PREPARE TRANSACTION 'outlives'")
	app.Close(t.Context())
	blocked := connect(t, srv, "stranger")
	done := make(chan error, 1)
	go func() { done <- blocked.try("INSERT INTO effects VALUES ('outlives')") }()
	await(t, "the insert to wait", func() bool {
		return observer.run(
			fmt.Sprintf("SELECT wait_event_type FROM pg_stat_activity WHERE pid = %d",
				blocked.PID()),
		) == "Lock"
	})
	blockers := observer.run(fmt.Sprintf("SELECT pg_blocking_pids(%d)", blocked.PID()))
	if blockers != "{0}" {
		t.Errorf("blocked by %s", blockers)
	}
	observer.run("COMMIT PREPARED 'outlives'")
	if err := <-done; pgbranch.SQLState(err) != "23505" {
		t.Errorf("after the commit: %v", err)
	}
	observer.run("DELETE FROM effects WHERE key = 'outlives'")
}

// A read assigns no transaction number; a row lock and a PREPARE do. NOTIFY assigns none and has an
// effect all the same.
func TestFactWhatAssignsANumber(t *testing.T) {
	s := connect(t, srv, "postgres")
	const assigned = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL"
	s.run("INSERT INTO effects VALUES ('row')")
	for sql, want := range map[string]string{
		"SELECT * FROM effects":            "f",
		"SELECT * FROM effects FOR UPDATE": "t",
		"SELECT * FROM effects FOR SHARE":  "t",
		"NOTIFY x":                         "f",
		"LOCK TABLE effects IN SHARE MODE": "f",
		"CREATE TABLE made ()":             "t",
	} {
		s.run("BEGIN; " + sql)
		got := s.run(assigned)
		s.run("ROLLBACK")
		if got != want {
			t.Errorf("%s: assigned %s, want %s", sql, got, want)
		}
	}
	s.run("DELETE FROM effects WHERE key = 'row'")
}

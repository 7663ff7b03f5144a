package pgbranch_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

func TestBeginSetsWhatItIsAsked(t *testing.T) {
	for _, c := range []struct {
		options                   pgbranch.BeginOptions
		isolation, readonly, idle string
	}{
		{pgbranch.BeginOptions{}, "read committed", "off", "0"},
		{
			pgbranch.BeginOptions{Isolation: pgbranch.Serializable, ReadOnly: true},
			"serializable", "on", "0",
		},
		{pgbranch.BeginOptions{Isolation: pgbranch.RepeatableRead, IdleTimeout: 90 * time.Second},
			"repeatable read", "off", "90s"},
	} {
		s := open(t, srv, "postgres")
		if err := pgbranch.Begin(t.Context(), s.PgConn, c.options); err != nil {
			t.Fatal(err)
		}
		for setting, want := range map[string]string{"transaction_isolation": c.isolation,
			"transaction_read_only": c.readonly} {
			if got := s.run("SHOW " + setting); got != want {
				t.Errorf("%+v: %s is %s, want %s", c.options, setting, got, want)
			}
		}
		idle := s.run("SELECT setting::int * interval '1 ms' = '" + c.idle +
			"'::interval FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'")
		if idle != "t" {
			t.Errorf(
				"%+v: the idle timeout is %s",
				c.options,
				s.run("SHOW idle_in_transaction_session_timeout"),
			)
		}
	}
}

// A timeout below a millisecond must not become PostgreSQL's 0, which means "never".
func TestAnUnknownFractionOfAMillisecondIsKept(t *testing.T) {
	sql := pgbranch.BeginSQL(pgbranch.BeginOptions{IdleTimeout: time.Nanosecond})
	if !strings.HasSuffix(sql, "idle_in_transaction_session_timeout = 1") {
		t.Error(sql)
	}
}

func TestAnUnknownIsolationLevelIsABrokenInvariant(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("SQL was built from a string that is not an isolation level")
		}
	}()
	pgbranch.BeginSQL(pgbranch.BeginOptions{Isolation: "X; DROP TABLE acct"})
}

func TestAFailedBeginLeavesNoTransaction(t *testing.T) {
	s := open(t, srv, "postgres")
	s.run("BEGIN; SELECT 1")
	if err := s.try("SELECT 1/0"); err == nil {
		t.Fatal("division by zero succeeded")
	}
	if err := pgbranch.Begin(t.Context(), s.PgConn, pgbranch.BeginOptions{}); err == nil {
		t.Fatal("began inside a failed transaction")
	}
	if s.TxStatus() != 'I' {
		t.Errorf("transaction status %c", s.TxStatus())
	}
}

// PostgreSQL 15: a shared transaction-level advisory lock is kept by PREPARE and over a crash, and
// then has no backend, so that it maps a branch to its transaction for as long as the branch lives.
func TestTagSurvivesPrepareAndCrash(t *testing.T) {
	s := open(t, lonely, "postgres")
	s.run("SET synchronous_commit = local")
	id := txn.NewID(txn.MaxLogID, 1<<33-1)
	name := txn.NameOf(id, 1)
	if err := pgbranch.Begin(t.Context(), s.PgConn, pgbranch.BeginOptions{ID: id}); err != nil {
		t.Fatal(err)
	}
	tags := func(s *session) string {
		return s.run(fmt.Sprintf(`SELECT count(*) || ' ' || count(pid) FROM pg_locks
			WHERE locktype = 'advisory' AND mode = 'ShareLock' AND objsubid = 2
			AND classid::bigint = %d AND objid::bigint = %d`,
			pgbranch.TagKey(id.Log()), uint32(id.Seq())))
	}
	if got := tags(s); got != "1 1" {
		t.Errorf("tags while it runs: %s", got)
	}
	s.run("SELECT pg_current_xact_id(); PREPARE TRANSACTION '" + name.String() + "'")
	if got := tags(s); got != "1 0" {
		t.Errorf("tags when prepared: %s", got)
	}
	lonely.Kill()
	if err := lonely.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s = open(t, lonely, "postgres")
	if got := tags(s); got != "1 0" {
		t.Errorf("tags after the crash: %s", got)
	}
	s.run("ROLLBACK PREPARED '" + name.String() + "'")
	if got := tags(s); got != "0 0" {
		t.Errorf("tags at the end: %s", got)
	}
}

func TestTagLater(t *testing.T) {
	s := open(t, srv, "postgres")
	s.write()
	if err := pgbranch.Tag(t.Context(), s.PgConn, txn.NewID(testLog, 5)); err != nil {
		t.Fatal(err)
	}
	name := newName()
	rollbackLater(t, name)
	if v := s.prepare(name); v.Vote != txn.VoteYes {
		t.Errorf("a tagged branch votes %v: %s", v.Vote, v.Reason)
	}
}

// PostgreSQL 15: a read assigns no transaction number, a write and a row lock do.
func TestReadOnly(t *testing.T) {
	s := open(t, srv, "postgres")
	for sql, want := range map[string]bool{
		"SELECT * FROM acct":                                            true,
		"SELECT pg_advisory_xact_lock(9)":                               true,
		"LOCK TABLE acct IN SHARE MODE":                                 true,
		"INSERT INTO acct VALUES (-1, 0) RETURNING id; SAVEPOINT a":     false,
		"SELECT * FROM (VALUES (1)) v; CREATE TABLE temporary_table ()": false,
	} {
		s.begin()
		s.run(sql)
		got, err := pgbranch.ReadOnly(t.Context(), s.PgConn)
		if err != nil || got != want {
			t.Errorf("%s: read-only %v (%v), want %v", sql, got, err, want)
		}
		s.run("ROLLBACK")
	}
}

// PostgreSQL 15: an UPDATE through postgres_fdw assigns no transaction number here, so that a
// database with a way out is never read-only.
func TestCallsOut(t *testing.T) {
	s := openDatabase(t, srv, newDatabase(t), "postgres")
	for _, c := range []struct {
		sql  string
		want bool
	}{
		{"SELECT 1", false},
		{"CREATE FOREIGN DATA WRAPPER nothing", true},
		{"DROP FOREIGN DATA WRAPPER nothing", false},
		{"CREATE LANGUAGE wild HANDLER plpgsql_call_handler", true},
		{"DROP LANGUAGE wild", false},
	} {
		s.run(c.sql)
		got, err := pgbranch.CallsOut(t.Context(), s.PgConn)
		if err != nil || got != c.want {
			t.Errorf("after %s: calls out %v (%v), want %v", c.sql, got, err, c.want)
		}
	}
}

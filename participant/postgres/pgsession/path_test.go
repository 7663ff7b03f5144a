package pgsession_test

import (
	"testing"

	"github.com/gavel-tx/gavel/participant/postgres/pgsession"
	"github.com/gavel-tx/gavel/participant/session"
	"github.com/gavel-tx/gavel/txn"
)

// forgery is a role, and functions of its own with the names of PostgreSQL's. A sequence shows
// whether any was called.
var forgery = []string{
	"CREATE ROLE forger LOGIN IN ROLE gavel_owner",
	"GRANT ALL ON effects TO forger",
	"CREATE SCHEMA mine AUTHORIZATION forger",
	"CREATE SEQUENCE mine.calls",
	"GRANT ALL ON mine.calls TO forger",
	`CREATE FUNCTION mine.pg_current_xact_id_if_assigned() RETURNS xid8 LANGUAGE sql
		AS 'SELECT nextval(''mine.calls''); SELECT NULL::xid8'`,
	`CREATE FUNCTION mine.pg_current_wal_flush_lsn() RETURNS pg_lsn LANGUAGE sql
		AS 'SELECT nextval(''mine.calls''); SELECT ''0/1''::pg_lsn'`,
	`CREATE FUNCTION mine.pg_is_in_recovery() RETURNS bool LANGUAGE sql
		AS 'SELECT nextval(''mine.calls''); SELECT true'`,
	`CREATE FUNCTION mine.same(name, name) RETURNS bool LANGUAGE sql
		AS 'SELECT nextval(''mine.calls''); SELECT false'`,
	"CREATE OPERATOR mine.= (LEFTARG = name, RIGHTARG = name, FUNCTION = mine.same)",
	"ALTER ROLE forger SET search_path = mine, pg_catalog, public",
}

// TestFunctionsOfAClient: neither in the search_path that it sets, nor in that of its role, does
// one take the place of a function or operator of PostgreSQL.
func TestFunctionsOfAClient(t *testing.T) {
	for _, sql := range forgery {
		if err := srv.Exec(t.Context(), "postgres", sql); err != nil {
			t.Fatal(sql, err)
		}
	}
	s := start(t, func(c *pgsession.Config, _ *session.Config) { c.DSN = dsn("forger") })
	for _, sql := range []string{"SELECT", "SET search_path = mine, pg_catalog, public"} {
		n := newName()
		b := attach(t, s, n, session.Options{})
		if path := ask(t, b, "SHOW search_path"); path != "mine, pg_catalog, public" {
			t.Errorf("the client's search_path: %v", path)
		}
		exec(t, b, sql)
		exec(t, b, "WITH x AS (INSERT INTO effects VALUES ($1) RETURNING key) SELECT FROM x",
			n.String())
		v := vote(t, s, n)
		if v.Vote != txn.VoteYes || v.Evidence.XID == 0 || v.Evidence.Position.LSN <= 1 ||
			v.Evidence.Identity != b.Identity() {
			t.Fatalf("%+v", v)
		}
		finish(t, s, n, v, true)
		if !effect(t, n.String()) {
			t.Error("no effect")
		}
	}
	if called := query(t, "SELECT is_called::text FROM mine.calls"); called != "false" {
		t.Error("a function of the client was called")
	}
}

package pgsession_test

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/postgres/pgsession"
	"github.com/gavel-tx/gavel/participant/session"
	"github.com/gavel-tx/gavel/txn"
)

// finish ends a prepared branch, as its coordinator does.
func finish(t *testing.T, s *site, n txn.Name, v participant.Vote, commit bool) {
	t.Helper()
	call := s.Rollback
	if commit {
		call = s.Commit
	}
	_, err := call(t.Context(), fence(), []participant.Branch{{Name: n, Evidence: v.Evidence}})
	if err != nil {
		t.Fatal(err)
	}
}

// TestValues: what goes in comes out, in the kind that its type has.
func TestValues(t *testing.T) {
	b := attach(t, start(t, nil), newName(), session.Options{})
	for _, c := range []struct {
		sql  string
		args []any
		want []any
	}{
		{"SELECT $1::int, $2::bigint, $3::smallint", []any{int64(7), int64(math.MinInt64), nil},
			[]any{int64(7), int64(math.MinInt64), nil}},
		{"SELECT $1::bool, NOT $1::bool", []any{true}, []any{true, false}},
		{"SELECT $1::float8, $2::float8, $3::float4", []any{math.Inf(-1), 0.1, 1.5},
			[]any{math.Inf(-1), 0.1, 1.5}},
		{"SELECT $1::text, $2::bytea, ''::bytea", []any{"ö'\\", []byte{0, 255, '\\'}},
			[]any{"ö'\\", []byte{0, 255, '\\'}, []byte{}}},
		{"SELECT $1::numeric, $2::jsonb, ARRAY[1,2], $3::date", []any{int64(5), `{"a": 1}`,
			"2026-02-28"}, []any{"5", `{"a": 1}`, "{1,2}", "2026-02-28"}},
		{"SELECT bpchar 'x', varchar 'y', name 'z', 'q'::\"char\", null", nil,
			[]any{"x", "y", "z", "q", nil}},
	} {
		var rows [][]any
		r, err := b.Execute(t.Context(), session.Statement{SQL: c.sql, Args: c.args},
			func(_ []string, more [][]any) error { rows = append(rows, more...); return nil })
		if err != nil || r != (session.Result{Rows: 1, Read: true}) ||
			!reflect.DeepEqual(rows, [][]any{c.want}) {
			t.Errorf("%s: %+v, %#v, %v", c.sql, r, rows, err)
		}
	}
}

// TestRowsComeInBatches: with the columns in the first one, also if there are no rows, and not at
// all where there could be none.
func TestRowsComeInBatches(t *testing.T) {
	b := attach(t, start(t, nil), newName(), session.Options{})
	for sql, want := range map[string]string{
		"SELECT 1 AS a, 2 AS b WHERE false": "[a b]0 ",
		"SELECT generate_series(1, 300) AS n": fmt.Sprintf("[n]%d []%[1]d []%d ",
			session.BatchRows, 300-2*session.BatchRows),
		"SELECT repeat('x', 40000) AS x FROM generate_series(1, 2)": "[x]1 []1 ",
		"SAVEPOINT s": "",
		"INSERT INTO effects VALUES ('batches') RETURNING key": "[key]1 ",
	} {
		got := ""
		_, err := b.Execute(t.Context(), session.Statement{SQL: sql},
			func(columns []string, rows [][]any) error {
				got += fmt.Sprint(columns, len(rows)) + " "
				return nil
			})
		if got = strings.ReplaceAll(got, "] ", "]"); err != nil || got != want {
			t.Errorf("%s: %q, want %q (%v)", sql, got, want, err)
		}
	}
}

// TestStatementsThatFailTheirBranch: none of them has an effect, each says what is wrong, and the
// branch votes No with its reason.
func TestStatementsThatFailTheirBranch(t *testing.T) {
	s := start(t, nil)
	three := int64(3)
	for _, c := range []struct{ sql, says, state string }{
		{"COMMIT", "COMMIT is for the coordinator to decide", ""},
		{"/* x */ ; commit and chain", "COMMIT is for the coordinator", ""},
		{"PREPARE TRANSACTION 'x'", "PREPARE is for the coordinator", ""},
		{"COMMIT PREPARED 'x'", "COMMIT is for the coordinator", ""},
		{"ROLLBACK", "ROLLBACK is for the coordinator", ""},
		{"--\rCOMMIT AND CHAIN", "COMMIT is for the coordinator", ""},
		{"-- x\r\n--\rCOPY effects FROM STDIN", "COPY needs a connection", ""},
		{"COPY effects FROM STDIN", "COPY needs a connection of one's own", ""},
		{"SELECT 1; COMMIT", "cannot insert multiple commands", "42601"},
		{"SELECT 1\x00; COMMIT", "holds a NUL", ""},
		{"DO $$ BEGIN COMMIT; END $$", "invalid transaction termination", "2D000"},
		{"SELECT 1/0", "division by zero", "22012"},
		{"SELECT repeat('x', 2000000)", "a row is longer than 1048576 bytes", ""},
		{"UPDATE effects SET key = key WHERE false", "changed 0 rows, expected 3", ""},
		{"SELECT 1", "returned 1 rows, expected 3", ""},
		{"SELECT $1", "bind message supplies 0 parameters", "08P01"},
		{"SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "be called before any query", "25001"},
	} {
		n := newName()
		b := attach(t, s, n, session.Options{})
		exec(t, b, "INSERT INTO effects VALUES ($1)", n.String())
		statement := session.Statement{SQL: c.sql}
		if strings.Contains(c.says, "expected 3") {
			statement.Expect = &three
		}
		_, err := b.Execute(t.Context(), statement, nil)
		e, ok := errors.AsType[*session.Error](err)
		if !ok || !strings.Contains(e.Reason, c.says) || e.SQLState != c.state {
			t.Errorf("%s: %v (%+v)", c.sql, err, e)
			continue
		}
		v := vote(t, s, n)
		if v.Vote != txn.VoteNo || !strings.Contains(v.Reason, c.says) || v.SQLState != c.state {
			t.Errorf("%s: vote %+v", c.sql, v)
		}
		if effect(t, n.String()) {
			t.Errorf("%s: the branch had an effect", c.sql)
		}
	}
	awaitNoWork(t)
}

// TestWhatCannotBePrepared: a No that says what to do.
func TestWhatCannotBePrepared(t *testing.T) {
	s := start(t, nil)
	for sql, says := range map[string]string{
		"CREATE TEMP TABLE x (a int)":             "keep temporary tables",
		"NOTIFY x":                                "keep temporary tables, LISTEN, NOTIFY",
		"DECLARE c CURSOR WITH HOLD FOR SELECT 1": "WITH HOLD cursors",
		"SET CONSTRAINTS ALL DEFERRED":            "",
		"SELECT pg_advisory_xact_lock(1)":         "",
		"SET LOCAL ROLE gavel_owner":              "",
		"SET LOCAL client_min_messages = 'error'": "",
		"SET synchronous_commit = off":            "",
	} {
		n := newName()
		b := attach(t, s, n, session.Options{})
		exec(t, b, "INSERT INTO effects VALUES ($1)", n.String())
		exec(t, b, sql)
		v := vote(t, s, n)
		if says == "" {
			if v.Vote != txn.VoteYes {
				t.Errorf("%s: %+v", sql, v)
			}
			finish(t, s, n, v, false)
			continue
		}
		if v.Vote != txn.VoteNo || !strings.Contains(v.Reason, says) || v.SQLState != "0A000" {
			t.Errorf("%s: %+v", sql, v)
		}
	}
}

// TestReaders vote ReadOnly, and only they do.
func TestReaders(t *testing.T) {
	s := start(t, nil)
	for sql, want := range map[string]txn.Vote{
		"SELECT count(*) FROM effects":                                  txn.VoteReadOnly,
		"SHOW server_version":                                           txn.VoteReadOnly,
		"SELECT * FROM effects FOR UPDATE":                              txn.VoteYes,
		"UPDATE effects SET key = key":                                  txn.VoteYes,
		"SELECT set_config('a.b', 'c', false)":                          txn.VoteReadOnly,
		"WITH x AS (DELETE FROM effects RETURNING key) SELECT * FROM x": txn.VoteYes,
	} {
		key := newName()
		exec1 := attach(t, s, key, session.Options{})
		exec(t, exec1, "INSERT INTO effects VALUES ($1)", key.String())
		finish(t, s, key, vote(t, s, key), true)
		// A serializable one must have the database check what it read.
		for level, want := range map[session.Isolation]txn.Vote{
			session.DefaultIsolation: want, session.RepeatableRead: want,
			session.Serializable: txn.VoteYes,
		} {
			n := newName()
			b := attach(t, s, n, session.Options{Isolation: level})
			exec(t, b, sql)
			v := vote(t, s, n)
			if v.Vote != want {
				t.Errorf("%s at level %d: %+v, want %v", sql, level, v, want)
			}
			if v.Vote == txn.VoteYes {
				finish(t, s, n, v, false)
			}
		}
	}
	awaitNoWork(t)
}

// TestAReaderNotifiesNobody: a notification is an effect, and nobody has decided.
func TestAReaderNotifiesNobody(t *testing.T) {
	s, ctx := start(t, nil), t.Context()
	listener, err := pgx.Connect(ctx, srv.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close(ctx)
	if _, err := listener.Exec(ctx, "LISTEN news"); err != nil {
		t.Fatal(err)
	}
	for level, want := range map[session.Isolation]txn.Vote{
		session.DefaultIsolation: txn.VoteReadOnly, session.Serializable: txn.VoteNo,
	} {
		n := newName()
		b := attach(t, s, n, session.Options{Isolation: level})
		exec(t, b, "SELECT pg_notify('news', 'too early')")
		if v := vote(t, s, n); v.Vote != want {
			t.Errorf("level %d: %+v, want %v", level, v, want)
		}
	}
	// What was delivered before this one comes before it.
	if _, err := listener.Exec(ctx, "NOTIFY news, 'last'"); err != nil {
		t.Fatal(err)
	}
	if got, err := listener.WaitForNotification(ctx); err != nil || got.Payload != "last" {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestIsolation: the level is what was asked for, and a branch that is read only cannot write.
func TestIsolation(t *testing.T) {
	s := start(t, nil)
	for level, want := range map[session.Isolation]string{
		session.DefaultIsolation: "read committed", session.ReadCommitted: "read committed",
		session.RepeatableRead: "repeatable read", session.Serializable: "serializable",
	} {
		b := attach(t, s, newName(), session.Options{Isolation: level})
		if got := ask(t, b, "SHOW transaction_isolation"); got != want {
			t.Errorf("level %d: %v", level, got)
		}
	}
	n := newName()
	b := attach(t, s, n, session.Options{ReadOnly: true})
	_, err := b.Execute(t.Context(), session.Statement{SQL: "DELETE FROM effects"}, nil)
	if e, ok := errors.AsType[*session.Error](err); !ok || e.SQLState != "25006" {
		t.Errorf("%v", err)
	}
}

// ask is the only value of a statement.
func ask(t *testing.T, b session.Branch, sql string) (value any) {
	t.Helper()
	_, err := b.Execute(t.Context(), session.Statement{SQL: sql},
		func(_ []string, rows [][]any) error { value = rows[0][0]; return nil })
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// TestNothingIsLeftForTheNextClient: one connection serves two of them.
func TestNothingIsLeftForTheNextClient(t *testing.T) {
	s := start(t, func(c *pgsession.Config, k *session.Config) {
		c.MaxSessions, k.MaxSessions = 1, 2 // of two connections one is kept for checks
	})
	first := newName()
	b := attach(t, s, first, session.Options{})
	pid := ask(t, b, "SELECT pg_backend_pid()")
	for _, sql := range []string{"SET search_path = nowhere", "SET ROLE gavel_owner",
		"SET app.tenant = 'a'", "SELECT pg_advisory_lock(42)", "PREPARE q AS SELECT 1"} {
		exec(t, b, sql)
	}
	b.Close()
	<-b.Done()
	b = attach(t, s, newName(), session.Options{})
	if ask(t, b, "SELECT pg_backend_pid()") != pid {
		// The first one was still being cleaned. With the other one in use it is the only one.
		b = attach(t, s, newName(), session.Options{})
	}
	if again := ask(t, b, "SELECT pg_backend_pid()"); again != pid {
		t.Fatalf("another connection: %v, %v", again, pid)
	}
	for sql, want := range map[string]any{
		"SHOW search_path": `"$user", public`, "SELECT current_user::text": "app",
		"SELECT coalesce(current_setting('app.tenant', true), '')":                 "",
		"SELECT count(*) FROM pg_prepared_statements":                              int64(0),
		"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42": int64(0),
	} {
		if got := ask(t, b, sql); got != want {
			t.Errorf("%s: %v", sql, got)
		}
	}
}

// TestAClientThatDoesNotRead: nothing more is taken from the database than it has read.
func TestAClientThatDoesNotRead(t *testing.T) {
	s := start(t, nil)
	n := newName()
	b := attach(t, s, n, session.Options{})
	enough := errors.New("enough")
	got := 0
	_, err := b.Execute(t.Context(), session.Statement{
		SQL: "SELECT repeat('x', 1000) FROM generate_series(1, 10000000)"},
		func(_ []string, rows [][]any) error {
			if got += len(rows); got > 1000 {
				return enough
			}
			return nil
		})
	if !errors.Is(err, enough) || got > 2000 {
		t.Errorf("%d rows, %v", got, err)
	}
	if v := vote(t, s, n); v.Vote != txn.VoteNo {
		t.Errorf("%+v", v)
	}
	awaitNoWork(t)
}

// TestFullSessionsAreNoFailure: one connection more than sessions is for the checks, which tell
// within their limit if there is none, and fail no resource that others use.
func TestFullSessionsAreNoFailure(t *testing.T) {
	s := start(t, func(c *pgsession.Config, _ *session.Config) { c.MaxSessions = 1 })
	for _, want := range []participant.Level{participant.LevelOK, participant.LevelWarn} {
		attach(t, s, newName(), session.Options{})
		d, err := s.Describe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if last := d.Checks[len(d.Checks)-1]; last.Level != want {
			t.Errorf("%+v, want %v", last, want)
		}
	}
}

// TestASetUpThatCannotWork is refused at the attachment, and told by the description.
func TestASetUpThatCannotWork(t *testing.T) {
	for what, c := range map[string]struct {
		change func(*pgsession.Config, *session.Config)
		says   string
	}{
		"the role of the SQL": {func(c *pgsession.Config, _ *session.Config) {
			c.DSN = dsn("stranger")
		}, `may not become gavel_owner, which owns prepared branches: GRANT "gavel_owner"`},
		"the role of the participant": {func(c *pgsession.Config, _ *session.Config) {
			c.OwnerRole = ""
		}, "role gavel, which finishes branches, may not become app"},
		"no owner role": {func(c *pgsession.Config, _ *session.Config) {
			c.OwnerRole = "nobody"
		}, "may not become nobody"},
		"nobody there": {func(c *pgsession.Config, _ *session.Config) {
			c.DSN = "postgres://app@127.0.0.1:1/postgres"
		}, "connect"},
	} {
		s := start(t, c.change)
		_, err := s.Attach(t.Context(), session.Attachment{Name: newName()})
		if txn.ReasonOf(err) != txn.ReasonNotReady || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
		d, err := s.Describe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		last := d.Checks[len(d.Checks)-1]
		if last.Level != participant.LevelWarn || !strings.Contains(last.What, c.says) {
			t.Errorf("%s: %+v", what, last)
		}
	}
	another := start(t, func(c *pgsession.Config, k *session.Config) {
		c.DSN = srv.DSN("template1") + "&user=app"
	})
	_, err := another.Attach(t.Context(), session.Attachment{Name: newName()})
	if err == nil || !strings.Contains(err.Error(), "correct the address") {
		t.Errorf("another database: %v", err)
	}
}

// TestTheDatabaseIsStartedAnew: connections that died with it are noticed, and made again.
func TestTheDatabaseIsStartedAnew(t *testing.T) {
	s := start(t, nil)
	lost := newName()
	exec(t, attach(t, s, lost, session.Options{}), "INSERT INTO effects VALUES ($1)", lost.String())
	for range 2 {
		attach(t, s, newName(), session.Options{}).Close()
	}
	awaitOthers(t)
	srv.Kill()
	if err := srv.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v := vote(t, s, lost); v.Vote == txn.VoteYes {
		t.Errorf("%+v", v)
	}
	n := newName()
	exec(t, attach(t, s, n, session.Options{}), "INSERT INTO effects VALUES ($1)", n.String())
	v := vote(t, s, n)
	if v.Vote != txn.VoteYes {
		t.Fatalf("%+v", v)
	}
	finish(t, s, n, v, true)
	if effect(t, lost.String()) || !effect(t, n.String()) {
		t.Error("the wrong one has an effect")
	}
}

// awaitOthers waits until one session is in a transaction: the others have ended.
func awaitOthers(t *testing.T) {
	t.Helper()
	await(t, "the end of the other sessions", func() bool {
		return query(t, `SELECT count(*)::text FROM pg_stat_activity
			WHERE application_name = 'gavel sql' AND xact_start IS NOT NULL`) == "1"
	})
}

// TestPureConfig: what cannot be used is refused, without its password.
func TestPureConfig(t *testing.T) {
	for _, c := range []pgsession.Config{
		{DSN: "postgres://app:secret@h:port/db"}, {DSN: "host=x", MaxSessions: -1},
	} {
		if _, err := pgsession.New(c); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v", err)
		}
	}
}

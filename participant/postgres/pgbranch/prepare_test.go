package pgbranch_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

func TestYesCarriesEvidence(t *testing.T) {
	s := open(t, srv, "postgres")
	id := s.write()
	xid := s.run("SELECT pg_current_xact_id()::text")
	name := newName()
	v := s.prepare(name)
	rollbackLater(t, name)
	if v.Vote != txn.VoteYes || v.Err != nil || v.Reason != "" {
		t.Fatalf("vote %v, %q, %v", v.Vote, v.Reason, v.Err)
	}
	place, err := pgbranch.Look(t.Context(), s.PgConn)
	if err != nil {
		t.Fatal(err)
	}
	ev := v.Evidence
	if fmt.Sprint(ev.XID) != xid || ev.Identity != place.Identity ||
		ev.System != srv.SystemID() ||
		ev.Timeline != 1 ||
		ev.LSN == 0 ||
		ev.LSN > place.Position.LSN {
		t.Errorf("evidence %+v; number %s, place %+v", ev, xid, place)
	}
	if !s.listed(name) || s.TxStatus() != 'I' {
		t.Errorf("listed %v, transaction status %c", s.listed(name), s.TxStatus())
	}
	if f := s.finish(name, true); f.Result != pgbranch.FinishDone {
		t.Fatalf("commit: %v %v", f.Result, f.Err)
	}
	if got := s.run(fmt.Sprintf("SELECT bal FROM acct WHERE id = %d", id)); got != "1" {
		t.Errorf("balance %q after the commit", got)
	}
}

// PostgreSQL 15: PREPARE TRANSACTION of a failed transaction is no error, its tag is ROLLBACK. Here
// an earlier statement fails already, and each way to a No must leave an idle session.
func TestSwallowedErrorIsNo(t *testing.T) { bothWays(t, testSwallowed) }

func testSwallowed(t *testing.T, open func(string) *session) {
	s := open("postgres")
	s.write()
	if err := s.try("SELECT 1/0"); err == nil {
		t.Fatal("division by zero succeeded")
	}
	name := newName()
	v := s.prepare(name)
	if v.Vote != txn.VoteNo || !strings.Contains(v.Reason, "ignored") || v.SQLState != "25P02" {
		t.Errorf("vote %v, %q, %s", v.Vote, v.Reason, v.SQLState)
	}
	if s.listed(name) || s.TxStatus() != 'I' {
		t.Errorf("listed %v, transaction status %c", s.listed(name), s.TxStatus())
	}
}

// PostgreSQL 15: outside of a transaction block, a message with PREPARE TRANSACTION among other
// statements prepares the message's implicit transaction, with a WARNING 25P01. Nothing like it is
// sent.
func TestNoTransactionIsNo(t *testing.T) {
	s := open(t, srv, "postgres")
	name := newName()
	v := s.prepare(name)
	if v.Vote != txn.VoteNo || !errors.Is(v.Err, pgbranch.ErrNoTransaction) || s.listed(name) {
		t.Errorf("vote %v, error %v, listed %v", v.Vote, v.Err, s.listed(name))
	}
	s.write()
	s.run("COMMIT")
	if v := s.prepare(name); v.Vote != txn.VoteNo {
		t.Errorf("after a COMMIT of the application's own: vote %v", v.Vote)
	}
}

func TestRefusalsAreNoWithTheirReason(t *testing.T) { bothWays(t, testRefusals) }

func testRefusals(t *testing.T, open func(string) *session) {
	holder := open("postgres")
	taken, _ := holder.mustPrepare()
	for name, c := range map[string]struct {
		sql, role string
		name      txn.Name
		options   pgbranch.PrepareOptions
		sqlstate  string
		reason    string
	}{
		"name taken": {sql: "SELECT 1", name: taken, sqlstate: "42710", reason: "only once"},
		"temporary table": {sql: "CREATE TEMP TABLE x ()", sqlstate: "0A000",
			reason: "temporary"},
		"notify": {sql: "NOTIFY x", sqlstate: "0A000", reason: "NOTIFY"},
		"listen": {sql: "LISTEN x", sqlstate: "0A000", reason: "LISTEN"},
		"held cursor": {
			sql: "DECLARE c CURSOR WITH HOLD FOR SELECT 1", sqlstate: "0A000", reason: "HOLD",
		},
		"exported": {
			sql: "SELECT pg_export_snapshot()", sqlstate: "0A000", reason: "snapshot",
		},
		"session lock": {
			sql: "SELECT pg_advisory_lock(77), pg_advisory_xact_lock(77)", sqlstate: "0A000",
		},
		"no such owner": {
			options: pgbranch.PrepareOptions{OwnerRole: "nobody!"}, sqlstate: "22023",
			reason: "exists",
		},
		"not a member": {
			role: "other", options: pgbranch.PrepareOptions{OwnerRole: "gavel_owner"},
			sqlstate: "42501", reason: "grant",
		},
		"deferred unique": {
			sql: "CREATE TABLE u (x int UNIQUE DEFERRABLE INITIALLY DEFERRED); " +
				"INSERT INTO u VALUES (1), (1)",
			sqlstate: "23505",
		},
	} {
		t.Run(name, func(t *testing.T) {
			role := c.role
			if role == "" {
				role = "postgres"
			}
			s := open(role)
			s.write()
			if c.sql != "" {
				s.run(c.sql)
			}
			as := c.name
			if as == (txn.Name{}) {
				as = newName()
			}
			v := s.prepareWith(as, c.options)
			if v.Vote != txn.VoteNo || v.SQLState != c.sqlstate ||
				!strings.Contains(v.Reason, c.reason) {
				t.Errorf("vote %v, SQLSTATE %s, %q (%v)", v.Vote, v.SQLState, v.Reason, v.Err)
			}
			if s.TxStatus() != 'I' || as != taken && s.listed(as) {
				t.Errorf("transaction status %c, listed %v", s.TxStatus(), s.listed(as))
			}
		})
	}
	if !holder.listed(taken) {
		t.Error("a refused PREPARE of a taken name removed the one that had it")
	}
}

// PostgreSQL 15: without a free slot PREPARE fails with 53200, class "out of memory".
func TestNoFreeSlotIsNo(t *testing.T) {
	limit := lonelyLimit(t, "2")
	defer limit()
	s := open(t, lonely, "postgres")
	var names []txn.Name
	for range 2 {
		names = append(names, newName())
		s.write()
		s.run(
			"SELECT pg_current_xact_id(); PREPARE TRANSACTION '" +
				names[len(names)-1].String() + "'",
		)
	}
	s.write()
	v := s.prepare(newName())
	if v.Vote != txn.VoteNo || v.SQLState != "53200" ||
		!strings.Contains(v.Reason, "max_prepared_transactions") {
		t.Errorf("vote %v, SQLSTATE %s, %q", v.Vote, v.SQLState, v.Reason)
	}
	if pgbranch.Classify(v.Err) != pgbranch.ClassRetryable {
		t.Errorf("class %v", pgbranch.Classify(v.Err))
	}
	for _, name := range names {
		s.run("ROLLBACK PREPARED '" + name.String() + "'")
	}
}

// PostgreSQL 15: with max_prepared_transactions = 0, PREPARE fails with 55000.
func TestPreparedTransactionsSwitchedOffIsNo(t *testing.T) {
	limit := lonelyLimit(t, "0")
	defer limit()
	s := open(t, lonely, "postgres")
	s.write()
	v := s.prepare(newName())
	if v.Vote != txn.VoteNo || v.SQLState != "55000" ||
		!strings.Contains(v.Reason, "switched off") {
		t.Errorf("vote %v, SQLSTATE %s, %q", v.Vote, v.SQLState, v.Reason)
	}
}

// lonelyLimit restarts the lonely server with other slots, and returns what puts it back.
func lonelyLimit(t *testing.T, slots string) func() {
	t.Helper()
	set := func(value string) {
		t.Helper()
		ctx := context.Background()
		err := lonely.Configure(ctx, map[string]string{"max_prepared_transactions": value})
		if err != nil {
			t.Fatal(err)
		}
		if err := lonely.Restart(ctx); err != nil {
			t.Fatal(err)
		}
	}
	set(slots)
	return func() { set("200") }
}

func TestOwnerRoleOwnsTheBranchAndNeedsNoSuperuser(t *testing.T) {
	app, resolver, other := open(t, srv, "app"), open(t, srv, "resolver"), open(t, srv, "other")
	app.write()
	name := newName()
	v := pgbranch.Prepare(
		t.Context(),
		app.PgConn,
		name,
		pgbranch.PrepareOptions{OwnerRole: "gavel_owner"},
	)
	if v.Vote != txn.VoteYes {
		t.Fatalf("vote %v: %s", v.Vote, v.Reason)
	}
	owner := app.run("SELECT owner FROM pg_prepared_xacts WHERE gid = '" + name.String() + "'")
	if owner != "gavel_owner" || app.run("SELECT current_user") != "app" {
		t.Errorf("owner %s; the session is now %s", owner, app.run("SELECT current_user"))
	}
	names := []txn.Name{name}
	for _, c := range []struct {
		s    *session
		role string
		want pgbranch.FinishResult
	}{
		// A member must take the role: membership is not enough.
		{resolver, "", pgbranch.FinishForeign},
		{other, "gavel_owner", pgbranch.FinishForeign},
		{resolver, "gavel_owner", pgbranch.FinishDone},
		{resolver, "gavel_owner", pgbranch.FinishMissing},
	} {
		f := pgbranch.Finish(t.Context(), c.s.PgConn, c.role, true, names)[0]
		if f.Result != c.want {
			t.Errorf("as %q: %v (%v), want %v", c.role, f.Result, f.Err, c.want)
		}
		if user := c.s.run("SELECT current_user = session_user"); user != "t" {
			t.Error("the role was not given back")
		}
	}
}

// Deferred triggers run as the application, not as the owner role, because they run before the role
// changes.
func TestDeferredTriggersRunAsTheApplication(t *testing.T) {
	app := open(t, srv, "app")
	app.run(`CREATE TABLE seen (who name); CREATE TABLE d (x int);
		CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
			$$ BEGIN
				INSERT INTO seen VALUES (current_user); RAISE WARNING 'loud'; RETURN NULL;
			END $$;
		CREATE CONSTRAINT TRIGGER late AFTER INSERT ON d DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW EXECUTE FUNCTION note()`)
	app.begin()
	app.run("INSERT INTO d VALUES (1)")
	name := newName()
	v := pgbranch.Prepare(
		t.Context(),
		app.PgConn,
		name,
		pgbranch.PrepareOptions{OwnerRole: "gavel_owner"},
	)
	if v.Vote != txn.VoteYes {
		t.Fatalf("a trigger's own warning made the vote %v: %s", v.Vote, v.Reason)
	}
	pgbranch.Finish(t.Context(), app.PgConn, "gavel_owner", true, []txn.Name{name})
	if who := app.run("SELECT who FROM seen"); who != "app" {
		t.Errorf("the trigger ran as %q", who)
	}
	app.run("DROP TABLE seen, d; DROP FUNCTION note")
}

func TestSerializationFailureIsNo(t *testing.T) {
	a, b := open(t, srv, "postgres"), open(t, srv, "postgres")
	a.run("CREATE TABLE skew (id int); INSERT INTO skew VALUES (1)")
	defer a.run("DROP TABLE skew")
	options := pgbranch.BeginOptions{Isolation: pgbranch.Serializable}
	for i, s := range []*session{a, b} {
		if err := pgbranch.Begin(t.Context(), s.PgConn, options); err != nil {
			t.Fatal(err)
		}
		s.run("SELECT count(*) FROM skew")
		_ = i
	}
	a.run("INSERT INTO skew VALUES (2)")
	b.run("INSERT INTO skew VALUES (3)")
	first, second := newName(), newName()
	va := a.prepare(first)
	rollbackLater(t, first)
	vb := b.prepare(second)
	if va.Vote != txn.VoteYes || vb.Vote != txn.VoteNo || vb.SQLState != "40001" {
		t.Errorf("votes %v and %v (%s)", va.Vote, vb.Vote, vb.SQLState)
	}
	if pgbranch.Classify(vb.Err) != pgbranch.ClassRetryable {
		t.Errorf("class %v", pgbranch.Classify(vb.Err))
	}
	a.finish(first, false)
}

// prepareInBackground starts a Prepare that will hang, and returns its verdict's channel.
func prepareInBackground(ctx context.Context, s *session, name txn.Name) <-chan pgbranch.Verdict {
	verdict := make(chan pgbranch.Verdict, 1)
	go func() { verdict <- pgbranch.Prepare(ctx, s.PgConn, name, pgbranch.PrepareOptions{}) }()
	return verdict
}

// PostgreSQL 15: a PREPARE that waits for its synchronous standby and is cancelled reports success,
// with a WARNING 01000. An application that hides warnings or replicates asynchronously must not
// change the answer.
func TestWarningOfACancelledReplicationWaitIsUnknown(t *testing.T) {
	for name, set := range map[string]string{
		"default":                 "SELECT 1",
		"warnings hidden":         "SET client_min_messages = error",
		"asynchronous":            "SET synchronous_commit = off",
		"server speaks otherwise": "SET lc_messages = 'C'",
	} {
		t.Run(name, func(t *testing.T) {
			s, watcher := open(t, lonely, "postgres"), open(t, lonely, "postgres")
			s.run(set)
			s.write()
			gid := newName()
			verdict := prepareInBackground(t.Context(), s, gid)
			awaitWait(watcher, s.PID(), "SyncRep")
			if !watcher.listed(gid) {
				t.Error(
					"PostgreSQL 15 lists a PREPARE that waits for its standby; here it did not",
				)
			}
			watcher.run(fmt.Sprintf("SELECT pg_cancel_backend(%d)", s.PID()))
			v := <-verdict
			if v.Vote != txn.VoteUnknown || !errors.Is(v.Err, pgbranch.ErrNotReplicated) {
				t.Errorf("vote %v: %s (%v)", v.Vote, v.Reason, v.Err)
			}
			if !watcher.listed(gid) {
				t.Error("the branch is not there to be rolled back")
			}
			watcher.run("ROLLBACK PREPARED '" + gid.String() + "'")
		})
	}
}

// A caller that gives up must not turn "not replicated" into success by a cancel request: the
// PREPARE goes on at the server, and is known as unknown.
func TestEndOfContextSendsNoCancelRequest(t *testing.T) {
	canceller := &countingHandler{}
	s := openWith(t, lonely, func(c *pgconn.Config) {
		c.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
			canceller.conn = conn
			return canceller
		}
	})
	watcher := open(t, lonely, "postgres")
	s.write()
	name := newName()
	ctx, giveUp := context.WithCancelCause(t.Context())
	because := errors.New("the caller gave up")
	verdict := prepareInBackground(ctx, s, name)
	awaitWait(watcher, s.PID(), "SyncRep")
	pid := s.PID()
	giveUp(because)
	v := <-verdict
	if v.Vote != txn.VoteUnknown || !errors.Is(v.Err, because) || !s.IsClosed() {
		t.Errorf("vote %v, %v, closed %v", v.Vote, v.Err, s.IsClosed())
	}
	if pgbranch.Classify(v.Err) != pgbranch.ClassUnknown {
		t.Errorf("class %v", pgbranch.Classify(v.Err))
	}
	if n := canceller.called.Load(); n != 0 {
		t.Errorf("%d cancel requests", n)
	}
	waits := fmt.Sprintf("SELECT wait_event FROM pg_stat_activity WHERE pid = %d", pid)
	if got := watcher.run(waits); got != "SyncRep" {
		t.Errorf("the PREPARE does not wait any more, but %q", got)
	}
	watcher.run(fmt.Sprintf("SELECT pg_terminate_backend(%d, 60000)", pid))
	if !watcher.listed(name) {
		t.Error("the PREPARE did not survive its client")
	}
	watcher.run("ROLLBACK PREPARED '" + name.String() + "'")
}

// countingHandler is what an application may have configured: it cancels the query of a context
// that has ended, and here counts that too.
type countingHandler struct {
	conn   *pgconn.PgConn
	called atomic.Int32
}

func (h *countingHandler) HandleCancel(context.Context) {
	h.called.Add(1)
	_ = h.conn.CancelRequest(context.Background())
}

func (h *countingHandler) HandleUnwatchAfterCancel() {}

// A zombie: the client is told unknown, the branch is not there, and appears afterwards.
func TestZombiePrepareAppearsAfterItsClientLeft(t *testing.T) {
	s, watcher := open(t, srv, "postgres"), open(t, srv, "postgres")
	watcher.run(`CREATE TABLE z (x int);
		CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
			$$ BEGIN PERFORM pg_advisory_xact_lock(4242); RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER late AFTER INSERT ON z DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW EXECUTE FUNCTION slow();
		SELECT pg_advisory_lock(4242)`)
	s.begin()
	s.run("INSERT INTO z VALUES (1)")
	name := newName()
	ctx, giveUp := context.WithCancel(t.Context())
	verdict := prepareInBackground(ctx, s, name)
	awaitWait(watcher, s.PID(), "advisory")
	giveUp()
	if v := <-verdict; v.Vote != txn.VoteUnknown {
		t.Errorf("vote %v", v.Vote)
	}
	if f := watcher.finish(name, false); f.Result != pgbranch.FinishMissing {
		t.Errorf("rolled back before it was prepared: %v", f.Result)
	}
	watcher.run("SELECT pg_advisory_unlock(4242)")
	await(t, "the zombie", func() bool { return watcher.listed(name) })
	if f := watcher.finish(name, false); f.Result != pgbranch.FinishDone {
		t.Errorf("rolled back after it was prepared: %v (%v)", f.Result, f.Err)
	}
	watcher.run("DROP TABLE z; DROP FUNCTION slow")
}

// PostgreSQL ends sessions with severity FATAL and many codes; whatever the code, the vote is
// unknown.
func TestTerminatedBackendIsUnknown(t *testing.T) {
	s, watcher := open(t, lonely, "postgres"), open(t, lonely, "postgres")
	s.write()
	name := newName()
	verdict := prepareInBackground(t.Context(), s, name)
	awaitWait(watcher, s.PID(), "SyncRep")
	watcher.run(fmt.Sprintf("SELECT pg_terminate_backend(%d, 60000)", s.PID()))
	v := <-verdict
	if v.Vote != txn.VoteUnknown || pgbranch.Classify(v.Err) != pgbranch.ClassUnknown {
		t.Errorf("vote %v, class %v: %s", v.Vote, pgbranch.Classify(v.Err), v.Reason)
	}
	<-s.CleanupDone()
	if !watcher.listed(name) {
		t.Error(
			"PostgreSQL 15 keeps a PREPARE whose backend is terminated in its replication wait",
		)
	}
	watcher.run("ROLLBACK PREPARED '" + name.String() + "'")
}

func TestASessionLostBeforePrepareIsNo(t *testing.T) {
	s := open(t, srv, "postgres")
	s.write()
	s.Close(t.Context())
	if v := s.prepare(newName()); v.Vote != txn.VoteNo {
		t.Errorf("vote %v: %s", v.Vote, v.Reason)
	}
}

func TestNothingIsSentAfterTheContextOrOnABusyConnection(t *testing.T) {
	s := open(t, srv, "postgres")
	s.write()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	v := pgbranch.Prepare(ctx, s.PgConn, newName(), pgbranch.PrepareOptions{})
	if v.Vote != txn.VoteUnknown || pgbranch.Classify(v.Err) != pgbranch.ClassRetryable ||
		s.TxStatus() != 'T' {
		t.Errorf(
			"ended context: vote %v, class %v, transaction %c",
			v.Vote,
			pgbranch.Classify(v.Err),
			s.TxStatus(),
		)
	}
	rows := s.ExecParams(t.Context(), "SELECT generate_series(1, 1000)", nil, nil, nil, nil)
	v = s.prepare(newName())
	if v.Vote != txn.VoteUnknown || !errors.Is(v.Err, pgbranch.ErrBusy) || s.IsClosed() {
		t.Errorf("busy connection: vote %v, %v", v.Vote, v.Err)
	}
	if _, err := rows.Close(); err != nil {
		t.Errorf("the interrupted query: %v", err)
	}
	name := newName()
	rollbackLater(t, name)
	if v := s.prepare(name); v.Vote != txn.VoteYes {
		t.Errorf("afterwards: vote %v: %s", v.Vote, v.Reason)
	}
}

// The connection of a Prepare goes straight back to its pool, so that it must be as good as before.
func TestSettingsOfPrepareDoNotOutliveIt(t *testing.T) {
	s := open(t, srv, "postgres")
	s.run("SET client_min_messages = error; SET synchronous_commit = off")
	s.mustPrepare()
	got := s.run("SELECT current_setting('client_min_messages') || " +
		"current_setting('synchronous_commit')")
	if got != "erroroff" {
		t.Errorf("the session's settings are now %s", got)
	}
}

func TestClassify(t *testing.T) {
	pg := func(severity, code string) error {
		return fmt.Errorf(
			"wrapped: %w",
			&pgconn.PgError{SeverityUnlocalized: severity, Code: code},
		)
	}
	lost := func(sent bool, err error) error {
		return &pgbranch.TransportError{Sent: sent, Err: err}
	}
	for _, c := range []struct {
		err  error
		want pgbranch.Class
	}{
		{pg("ERROR", "40001"), pgbranch.ClassRetryable},
		{pg("ERROR", "40P01"), pgbranch.ClassRetryable},
		{pg("ERROR", "55P03"), pgbranch.ClassRetryable},
		{pg("ERROR", "53100"), pgbranch.ClassRetryable},
		{pg("ERROR", "57014"), pgbranch.ClassRetryable},
		{pg("ERROR", "23505"), pgbranch.ClassFinal},
		{pg("ERROR", "42704"), pgbranch.ClassFinal},
		{pg("ERROR", "0A000"), pgbranch.ClassFinal},
		{pg("FATAL", "57P01"), pgbranch.ClassUnknown},
		{pg("FATAL", "25P03"), pgbranch.ClassUnknown},
		{pg("FATAL", "57P05"), pgbranch.ClassUnknown},
		{pg("FATAL", "40001"), pgbranch.ClassUnknown},
		{pg("PANIC", "53100"), pgbranch.ClassUnknown},
		{lost(true, pg("ERROR", "42710")), pgbranch.ClassUnknown},
		{lost(true, context.Canceled), pgbranch.ClassUnknown},
		{lost(false, context.Canceled), pgbranch.ClassRetryable},
		{context.DeadlineExceeded, pgbranch.ClassUnknown},
		{errors.New("anything"), pgbranch.ClassUnknown},
		{cutOff{}, pgbranch.ClassUnknown},
		{&pgconn.ConnectError{}, pgbranch.ClassRetryable},
	} {
		if got := pgbranch.Classify(c.err); got != c.want {
			t.Errorf("Classify(%v) = %v, want %v", c.err, got, c.want)
		}
	}
}

// cutOff is how pgx 5.12 reports a query whose answer was cut off: as one that was never sent.
type cutOff struct{}

func (cutOff) Error() string     { return "conn closed" }
func (cutOff) SafeToRetry() bool { return true }

package pgbranch_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

func newID() txn.ID { return newName().ID() }

// decision is that of one other branch.
var decision = txn.AppendDecision(nil, []txn.BranchVote{{Branch: 2, Vote: txn.VoteYes,
	Evidence: txn.Evidence{Identity: txn.Identity{System: 1 << 63, Database: 1}, XID: 7}}})

func (s *session) decide(id txn.ID) pgbranch.Verdict {
	s.t.Helper()
	return s.decideWith(id, pgbranch.PrepareOptions{})
}

func (s *session) decideWith(id txn.ID, o pgbranch.PrepareOptions) pgbranch.Verdict {
	s.t.Helper()
	o.Ready = s.ready
	return pgbranch.Decide(s.t.Context(), s.PgConn, id, decision, o)
}

// wants asserts a vote, and that the session can be used on.
func (s *session) wants(v pgbranch.Verdict, want txn.Vote) {
	s.t.Helper()
	if v.Vote != want || s.IsClosed() || s.TxStatus() != 'I' {
		s.t.Errorf("vote %v, want %v: %s (%v); closed %v, transaction status %c", v.Vote, want,
			v.Reason, v.Err, s.IsClosed(), s.TxStatus())
	}
	if (v.Reason == "") != (want == txn.VoteCommitted) {
		s.t.Errorf("vote %v with the reason %q", v.Vote, v.Reason)
	}
}

// marker is what the row of a transaction holds: "none", "never", or its decision in hex.
func (s *session) marker(id txn.ID) string {
	s.t.Helper()
	return s.run(fmt.Sprintf(`SELECT coalesce((SELECT coalesce(encode(decision, 'hex'), 'never')
		FROM gavel.marker WHERE txid = '%s'), 'none')`, id))
}

func (s *session) balance(id int) string {
	s.t.Helper()
	return s.run(fmt.Sprintf("SELECT sum(bal) FROM acct WHERE id = %d", id))
}

func TestDecideCommitsWithTheMarker(t *testing.T) { bothWays(t, testDecide) }

func testDecide(t *testing.T, open func(string) *session) {
	s, admin := open("app"), open("postgres")
	for range 3 { // from the second one on, with what the first one has prepared
		row, id := s.write(), newID()
		xid := s.run("SELECT pg_current_xact_id()::text")
		v := s.decide(id)
		s.wants(v, txn.VoteCommitted)
		place, err := pgbranch.Look(t.Context(), s.PgConn)
		if err != nil {
			t.Fatal(err)
		}
		ev := v.Evidence
		if fmt.Sprint(ev.XID) != xid || ev.Identity != place.Identity || ev.Timeline != 1 ||
			ev.LSN == 0 || ev.LSN > place.Position.LSN {
			t.Errorf("evidence %+v; number %s, place %+v", ev, xid, place)
		}
		if got := admin.marker(id); got != fmt.Sprintf("%x", decision) {
			t.Errorf("the marker holds %s", got)
		}
		if got := admin.balance(row); got != "1" {
			t.Errorf("balance %q after the commit", got)
		}
	}
}

// TestDecideBeginsAndWorks: the whole branch is one message.
func TestDecideBeginsAndWorks(t *testing.T) {
	s, admin := open(t, srv, "app"), open(t, srv, "postgres")
	s.makeReady(true)
	id, row := newID(), newRows()
	v := s.decideWith(id, pgbranch.PrepareOptions{Begin: &pgbranch.BeginOptions{ID: id,
		Isolation: pgbranch.Serializable}, Work: s.inserts(-1, row, row+1)})
	s.wants(v, txn.VoteCommitted)
	if admin.balance(row) != "1" || admin.balance(row+1) != "1" ||
		admin.marker(id) == "none" {
		t.Error("the work or its marker is missing")
	}
	second := newID()
	v = s.decideWith(second, pgbranch.PrepareOptions{Begin: &pgbranch.BeginOptions{},
		Work: s.inserts(-1, row+2, row+1)})
	s.wants(v, txn.VoteNo)
	if v.SQLState != "23505" || errors.Is(v.Err, pgbranch.ErrDecided) {
		t.Errorf("work that fails: %s, %v", v.SQLState, v.Err)
	}
	if admin.balance(row+2) != "" || admin.marker(second) != "none" {
		t.Error("work of a branch that failed is there, or its marker")
	}
}

// newRows is the first of some ids of rows that no other test uses.
func newRows() int { return int(lastSeq.Add(4)) - 3 }

// inserts is work that inserts a row for each id, and demands so many rows of each.
func (s *session) inserts(exactly int64, ids ...int) []pgbranch.Work {
	s.t.Helper()
	name := fmt.Sprintf("test_insert_%d", lastSeq.Add(1))
	_, err := s.Prepare(s.t.Context(), name, `INSERT INTO acct SELECT $1::int, 1
		WHERE $1::int > 0`, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	work := make([]pgbranch.Work, len(ids))
	for i, id := range ids {
		work[i] = pgbranch.Work{Statement: name, Exactly: exactly,
			Parameters: [][]byte{fmt.Append(nil, id)}}
	}
	return work
}

// A number of rows is known behind its statement only, and behind COMMIT is too late.
func TestDecideCountsBeforeItCommits(t *testing.T) {
	s, admin := open(t, srv, "app"), open(t, srv, "postgres")
	s.makeReady(true)
	for _, begun := range []bool{true, false} {
		row := newRows()
		for _, c := range []struct {
			ids  []int
			want txn.Vote
			err  error
		}{
			{[]int{row, 0}, txn.VoteNo, pgbranch.ErrRows},
			{[]int{row, row + 1}, txn.VoteCommitted, nil},
		} {
			id, o := newID(), pgbranch.PrepareOptions{Work: s.inserts(1, c.ids...)}
			if begun {
				s.begin()
			} else {
				o.Begin = &pgbranch.BeginOptions{}
			}
			v := s.decideWith(id, o)
			s.wants(v, c.want)
			committed := c.want == txn.VoteCommitted
			if !errors.Is(v.Err, c.err) || (admin.marker(id) != "none") != committed ||
				(admin.balance(row) != "") != committed {
				t.Errorf("%v: %v, marker %s, balance %s", c.ids, v.Err, admin.marker(id),
					admin.balance(row))
			}
		}
	}
	id, row := newID(), newRows()
	s.run("BEGIN")
	v := s.decideWith(id, pgbranch.PrepareOptions{Work: s.inserts(1, row, row)})
	s.wants(v, txn.VoteNo)
	if v.SQLState != "23505" || strings.Contains(v.Reason, "decided") {
		t.Errorf("counted work that fails: %s, %q", v.SQLState, v.Reason)
	}
}

// A session that is lost while its work is counted has sent no COMMIT.
func TestASessionLostBeforeCommitIsNo(t *testing.T) {
	s, watcher := open(t, srv, "app"), open(t, srv, "postgres")
	s.makeReady(true)
	row := newRows()
	watcher.run(fmt.Sprintf("BEGIN; INSERT INTO acct VALUES (%d, 1)", row))
	work := s.inserts(1, row)
	verdict := make(chan pgbranch.Verdict, 1)
	go func() {
		verdict <- pgbranch.Decide(context.Background(), s.PgConn, newID(), decision,
			pgbranch.PrepareOptions{Ready: true, Begin: &pgbranch.BeginOptions{}, Work: work})
	}()
	other := open(t, srv, "postgres")
	awaitWait(other, s.PID(), "transactionid")
	other.run(fmt.Sprintf("SELECT pg_terminate_backend(%d, 60000)", s.PID()))
	if v := <-verdict; v.Vote != txn.VoteNo || !s.IsClosed() || v.SQLState != "57P01" {
		t.Errorf("vote %v: %s (%v)", v.Vote, v.Reason, v.Err)
	}
	watcher.run("ROLLBACK")
	closed := open(t, srv, "app")
	closed.write()
	closed.Close(t.Context())
	if v := closed.decide(newID()); v.Vote != txn.VoteNo {
		t.Errorf("a closed session: vote %v: %s", v.Vote, v.Reason)
	}
}

func TestDecideSaysNoWithItsReason(t *testing.T) { bothWays(t, testDecideRefusals) }

func testDecideRefusals(t *testing.T, open func(string) *session) {
	admin, taken := open("postgres"), newID()
	admin.run(fmt.Sprintf("INSERT INTO gavel.marker VALUES ('%s')", taken))
	place, err := pgbranch.Look(t.Context(), admin.PgConn)
	if err != nil {
		t.Fatal(err)
	}
	other := place.Identity
	other.System++
	for name, c := range map[string]struct {
		role, sql string
		id        txn.ID
		expect    txn.Identity
		sqlstate  string
		reason    string
		err       error
	}{
		"decided": {id: taken, sqlstate: "23505", reason: "decided before",
			err: pgbranch.ErrDecided},
		"no right": {role: "other", sqlstate: "42501", reason: "gavel markers",
			err: pgbranch.ErrNoMarkers},
		"another database": {expect: other, reason: "another database",
			err: pgbranch.ErrIdentity},
		"failed before": {sql: "SELECT 1/0", sqlstate: "25P02", reason: "ignored"},
		"read-only":     {sql: "SET TRANSACTION READ ONLY", sqlstate: "25006", reason: "read-only"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.role == "" {
				c.role = "app"
			}
			if c.id.IsZero() {
				c.id = newID()
			}
			s := open(c.role)
			row := s.write()
			_ = s.try(c.sql)
			before := admin.marker(c.id)
			v := s.decideWith(c.id, pgbranch.PrepareOptions{Expect: c.expect})
			s.wants(v, txn.VoteNo)
			if v.SQLState != c.sqlstate || !strings.Contains(v.Reason, c.reason) ||
				c.err != nil && !errors.Is(v.Err, c.err) {
				t.Errorf("SQLSTATE %q, %q (%v)", v.SQLState, v.Reason, v.Err)
			}
			if admin.marker(c.id) != before || admin.balance(row) != "" {
				t.Errorf("marker %s, balance %s", admin.marker(c.id), admin.balance(row))
			}
		})
	}
	s := open("app")
	if v := s.decide(newID()); v.Vote != txn.VoteNo || !errors.Is(v.Err,
		pgbranch.ErrNoTransaction) {
		t.Errorf("outside of a transaction: vote %v, %v", v.Vote, v.Err)
	}
}

// TestDecideKeepsToItsTimeline: at a server that has failed over since its coordinator looked, or
// did so without it, a marker would decide nothing.
func TestDecideKeepsToItsTimeline(t *testing.T) { bothWays(t, testTimeline) }

func testTimeline(t *testing.T, open func(string) *session) {
	s, admin := open("app"), open("postgres")
	for timeline, want := range map[uint32]txn.Vote{
		1: txn.VoteCommitted, 2: txn.VoteNo, 0xabc: txn.VoteNo, 0: txn.VoteCommitted,
	} {
		id := newID()
		s.run("BEGIN; UPDATE acct SET bal = bal + 1 WHERE id = 1")
		v := s.decideWith(id, pgbranch.PrepareOptions{Timeline: timeline})
		s.wants(v, want)
		if there := admin.marker(id) != "none"; there != (want == txn.VoteCommitted) {
			t.Errorf("timeline %d: a marker: %v", timeline, there)
		}
		if want == txn.VoteNo && (!errors.Is(v.Err, pgbranch.ErrTimeline) || v.SQLState != "") {
			t.Errorf("timeline %d: %v, SQLSTATE %q", timeline, v.Err, v.SQLState)
		}
	}
}

// Deferred triggers run before the marker is written and COMMIT is sent.
func TestDecideRunsDeferredTriggersFirst(t *testing.T) {
	s := open(t, srv, "postgres")
	s.run("CREATE TABLE late (x int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
	defer s.run("DROP TABLE late")
	s.begin()
	s.run("INSERT INTO late VALUES (1), (1)")
	id := newID()
	v := s.decide(id)
	s.wants(v, txn.VoteNo)
	if v.SQLState != "23505" || errors.Is(v.Err, pgbranch.ErrDecided) || s.marker(id) != "none" {
		t.Errorf("%s, %v, marker %s", v.SQLState, v.Err, s.marker(id))
	}
}

// What SERIALIZABLE refuses at COMMIT has ended.
func TestDecideThatFailsAtCommitIsNo(t *testing.T) {
	a, b := open(t, srv, "postgres"), open(t, srv, "postgres")
	a.run("CREATE TABLE skewed (id int); INSERT INTO skewed VALUES (1)")
	defer a.run("DROP TABLE skewed")
	for _, s := range []*session{a, b} {
		err := pgbranch.Begin(t.Context(), s.PgConn,
			pgbranch.BeginOptions{Isolation: pgbranch.Serializable})
		if err != nil {
			t.Fatal(err)
		}
		s.run("SELECT count(*) FROM skewed")
	}
	a.run("INSERT INTO skewed VALUES (2)")
	b.run("INSERT INTO skewed VALUES (3)")
	first, second := newID(), newID()
	a.wants(a.decide(first), txn.VoteCommitted)
	v := b.decide(second)
	b.wants(v, txn.VoteNo)
	if v.SQLState != "40001" || pgbranch.Classify(v.Err) != pgbranch.ClassRetryable ||
		a.marker(second) != "none" {
		t.Errorf("%s, %v, marker %s", v.SQLState, v.Err, a.marker(second))
	}
}

// A database may get its markers at any time, and lose its prepared statements.
func TestDecideOnADatabaseWithoutMarkers(t *testing.T) { bothWays(t, testUnmarked) }

func testUnmarked(t *testing.T, open func(string) *session) {
	ready := open("app").ready
	database := newDatabase(t)
	s := openDatabase(t, srv, database, "postgres")
	s.makeReady(ready)
	s.begin()
	v := s.decide(newID())
	s.wants(v, txn.VoteNo)
	if v.SQLState != "42P01" || !errors.Is(v.Err, pgbranch.ErrNoMarkers) ||
		!strings.Contains(v.Reason, "gavel markers") {
		t.Errorf("%s, %q, %v", v.SQLState, v.Reason, v.Err)
	}
	s.run(strings.Join(pgbranch.MarkerSchema("postgres"), ";"))
	s.begin()
	s.wants(s.decide(newID()), txn.VoteCommitted)
	s.run("DROP SCHEMA gavel CASCADE")
	s.begin()
	s.wants(s.decide(newID()), txn.VoteNo)
	s.run(strings.Join(pgbranch.MarkerSchema("postgres"), ";"))
	s.begin()
	s.wants(s.decide(newID()), txn.VoteCommitted)
	if !ready {
		return
	}
	for _, forget := range []string{"DEALLOCATE gavel_marker", "DISCARD PLANS", "DEALLOCATE ALL"} {
		s.run(forget)
		s.begin()
		v := s.decide(newID())
		if v.Vote == txn.VoteCommitted && forget == "DISCARD PLANS" {
			continue
		}
		s.wants(v, txn.VoteNo)
		if v.SQLState != "26000" {
			t.Errorf("%s: %s", forget, v.SQLState)
		}
		if forget == "DEALLOCATE ALL" {
			s.forgetStatements()
			s.makeReady(true)
		}
		s.begin()
		s.wants(s.decide(newID()), txn.VoteCommitted)
	}
}

// forgetStatements is what a pool does with a connection whose server has forgotten them.
func (s *session) forgetStatements() {
	s.t.Helper()
	for _, p := range pgbranch.Statements() {
		if err := s.Deallocate(s.t.Context(), p.Name); err != nil {
			s.t.Fatal(err)
		}
	}
}

// A marker that others see, and that a crash takes back, would let them finish what was never
// decided. So the commit waits for the disk, whatever the session says: behind it, the log is
// flushed up to where the branch had come before.
func TestADecisionIsDurableWhateverTheSessionSays(t *testing.T) {
	bothWays(t, func(t *testing.T, open func(string) *session) {
		s := open("app")
		for _, set := range []string{"off", "local", "on", "remote_apply"} {
			s.run("SET synchronous_commit = " + set)
			s.write()
			written, err := pgbranch.ParseLSN(s.run("SELECT pg_current_wal_insert_lsn()"))
			if err != nil {
				t.Fatal(err)
			}
			v := s.decide(newID())
			s.wants(v, txn.VoteCommitted)
			if v.Evidence.LSN <= written {
				t.Errorf("with synchronous_commit %s the commit is not on the disk: flushed up "+
					"to %X, written up to %X before it", set, v.Evidence.LSN, written)
			}
			if now := s.run("SHOW synchronous_commit"); now != set {
				t.Errorf("the session's synchronous_commit is now %s, was %s", now, set)
			}
		}
	})
}

// A COMMIT that waits for its synchronous standby and is cancelled reports success, with a WARNING:
// the marker is there, and a failover may lose it.
func TestADecisionThatIsNotReplicatedIsUnknown(t *testing.T) {
	for _, set := range []string{"SELECT 1", "SET client_min_messages = error",
		"SET synchronous_commit = off"} {
		s, watcher := open(t, lonely, "app"), open(t, lonely, "postgres")
		s.run(set)
		s.write()
		id := newID()
		verdict := decideInBackground(t.Context(), s, id)
		awaitWait(watcher, s.PID(), "SyncRep")
		if got := watcher.marker(id); got != "none" {
			t.Errorf("%s: the marker can be seen while its commit waits: %s", set, got)
		}
		watcher.run(fmt.Sprintf("SELECT pg_cancel_backend(%d)", s.PID()))
		v := <-verdict
		s.wants(v, txn.VoteUnknown)
		if !errors.Is(v.Err, pgbranch.ErrNotReplicated) || watcher.marker(id) == "none" {
			t.Errorf("%s: %v, marker %s", set, v.Err, watcher.marker(id))
		}
	}
}

func decideInBackground(ctx context.Context, s *session, id txn.ID) <-chan pgbranch.Verdict {
	verdict := make(chan pgbranch.Verdict, 1)
	go func() {
		verdict <- pgbranch.Decide(ctx, s.PgConn, id, decision, pgbranch.PrepareOptions{})
	}()
	return verdict
}

// A caller that gives up leaves the commit to go on at the server.
func TestEndOfContextWhileDecidingIsUnknown(t *testing.T) {
	s, watcher := open(t, lonely, "app"), open(t, lonely, "postgres")
	s.write()
	id := newID()
	ctx, giveUp := context.WithCancelCause(t.Context())
	because := errors.New("the caller gave up")
	verdict := decideInBackground(ctx, s, id)
	awaitWait(watcher, s.PID(), "SyncRep")
	giveUp(because)
	v := <-verdict
	if v.Vote != txn.VoteUnknown || !errors.Is(v.Err, because) || !s.IsClosed() ||
		!strings.Contains(v.Reason, "marker") {
		t.Errorf("vote %v, %q, %v, closed %v", v.Vote, v.Reason, v.Err, s.IsClosed())
	}
	watcher.run(fmt.Sprintf("SELECT pg_terminate_backend(%d, 60000)", s.PID()))
	if watcher.marker(id) == "none" {
		t.Error("the commit did not survive its client")
	}
}

func TestNothingIsDecidedAfterTheContextOrOnABusyConnection(t *testing.T) {
	bothWays(t, func(t *testing.T, open func(string) *session) {
		s := open("app")
		s.write()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		o := pgbranch.PrepareOptions{Ready: s.ready}
		options := []pgbranch.PrepareOptions{o}
		if s.ready {
			o.Work = s.inserts(1, newRows())
			options = append(options, o)
		}
		for _, o := range options {
			v := pgbranch.Decide(ctx, s.PgConn, newID(), decision, o)
			if v.Vote != txn.VoteUnknown || pgbranch.Classify(v.Err) != pgbranch.ClassRetryable ||
				s.TxStatus() != 'T' {
				t.Errorf("vote %v, %v, transaction %c", v.Vote, v.Err, s.TxStatus())
			}
		}
		rows := s.ExecParams(t.Context(), "SELECT generate_series(1, 1000)", nil, nil, nil, nil)
		if v := s.decide(newID()); v.Vote != txn.VoteUnknown || !errors.Is(v.Err,
			pgbranch.ErrBusy) {
			t.Errorf("busy connection: vote %v, %v", v.Vote, v.Err)
		}
		if _, err := rows.Close(); err != nil {
			t.Errorf("the interrupted query: %v", err)
		}
		s.wants(s.decide(newID()), txn.VoteCommitted)
	})
}

// The tag alone decides: ROLLBACK is what PostgreSQL answers to the COMMIT of a failed transaction.
func TestTagRollbackDecidesNothing(t *testing.T) {
	s := openBent(t, func(kind byte, body []byte) ([]byte, error) {
		if kind == commandComplete && string(body) == "COMMIT\x00" {
			return []byte("ROLLBACK\x00"), nil
		}
		return body, nil
	})
	s.write()
	if v := s.decide(newID()); v.Vote != txn.VoteNo || !strings.Contains(v.Reason, "ignored") {
		t.Errorf("vote %v, %q", v.Vote, v.Reason)
	}
}

// A line that is cut at any message of the reply leaves the vote unknown.
func TestALineCutWhileDecidingIsUnknown(t *testing.T) {
	const messages = 9
	for at := range messages + 1 {
		armed, seen := false, 0
		s := openBent(t, func(_ byte, body []byte) ([]byte, error) {
			if armed {
				if seen++; seen > at {
					return nil, io.EOF
				}
			}
			return body, nil
		})
		s.write()
		armed = true
		v := s.decide(newID())
		if at == messages {
			s.wants(v, txn.VoteCommitted)
			continue
		}
		if v.Vote != txn.VoteUnknown || pgbranch.Classify(v.Err) != pgbranch.ClassUnknown ||
			!s.IsClosed() {
			t.Errorf("cut at message %d: vote %v, %v, closed %v", at, v.Vote, v.Err, s.IsClosed())
		}
	}
}

func TestDecideRefusesWhatMakesNoSense(t *testing.T) {
	s := open(t, srv, "app")
	s.write()
	for what, call := range map[string]func(){
		"no decision": func() {
			pgbranch.Decide(t.Context(), s.PgConn, newID(), nil, pgbranch.PrepareOptions{})
		},
		"work without statements": func() {
			s.decideWith(newID(), pgbranch.PrepareOptions{Work: make([]pgbranch.Work, 1)})
		},
		"begin without statements": func() {
			s.decideWith(newID(), pgbranch.PrepareOptions{Begin: &pgbranch.BeginOptions{}})
		},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", what)
				}
			}()
			call()
		}()
	}
}

// The answer of a server that is none of PostgreSQL's proves nothing.
func TestDecideOverNonsenseIsUnknown(t *testing.T) {
	const rowOf = 'D'
	rows := 0
	s := openBent(t, func(kind byte, body []byte) ([]byte, error) {
		if kind == rowOf {
			if rows++; rows == 2 { // behind that of write
				return []byte{0, 0}, nil
			}
		}
		return body, nil
	})
	s.begin()
	s.run("SELECT 1")
	v := s.decide(newID())
	if v.Vote != txn.VoteUnknown || !errors.Is(v.Err, pgbranch.ErrProtocol) {
		t.Errorf("vote %v, %v", v.Vote, v.Err)
	}
}

// A branch that waits to be sent is one round trip with its decision, also when the marker's
// statement is prepared on the way; two where rows are counted.
func TestDecideIsOneRoundTrip(t *testing.T) {
	trips := 0
	s := openBent(t, func(kind byte, body []byte) ([]byte, error) {
		if kind == readyForQuery {
			trips++
		}
		return body, nil
	})
	s.makeReady(true)
	for _, c := range []struct {
		exactly int64
		want    int
	}{{-1, 1}, {-1, 1}, {1, 2}} {
		o := pgbranch.PrepareOptions{Begin: &pgbranch.BeginOptions{},
			Work: s.inserts(c.exactly, newRows())}
		trips = 0
		s.wants(s.decideWith(newID(), o), txn.VoteCommitted)
		if trips != c.want {
			t.Errorf("%d round trips, want %d", trips, c.want)
		}
	}
}

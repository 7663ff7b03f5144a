package pgbranch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
	"github.com/gavel-tx/gavel/txn"
)

func (s *session) standing(q pgbranch.Inquiry) pgbranch.Answer {
	s.t.Helper()
	a, err := pgbranch.Standing(s.t.Context(), s.PgConn, q)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

func TestStandingOnTheSameHistory(t *testing.T) {
	s := open(t, srv, "postgres")
	committed, evCommitted := s.mustPrepare()
	s.finish(committed, true)
	rolledBack, evRolledBack := s.mustPrepare()
	s.finish(rolledBack, false)
	_, running := s.mustPrepare()
	change := func(f func(*txn.Evidence)) txn.Evidence {
		ev := evCommitted
		f(&ev)
		return ev
	}
	far := txn.Position{Timeline: 1, LSN: 1 << 60}
	for label, c := range map[string]struct {
		q    pgbranch.Inquiry
		want txn.Standing
	}{
		"committed": {pgbranch.Inquiry{Evidence: evCommitted}, txn.StandingCommitted},
		"aborted":   {pgbranch.Inquiry{Evidence: evRolledBack}, txn.StandingRolledBack},
		"running":   {pgbranch.Inquiry{Evidence: running}, txn.StandingUnknown},
		"stranger, system": {
			pgbranch.Inquiry{Evidence: change(func(e *txn.Evidence) { e.System++ })},
			txn.StandingHeld},
		"stranger, database": {
			pgbranch.Inquiry{Evidence: change(func(e *txn.Evidence) { e.Database++ })},
			txn.StandingHeld},
		"past, timeline of the vote": {
			pgbranch.Inquiry{Evidence: change(func(e *txn.Evidence) { e.Timeline++ })},
			txn.StandingHeld},
		"past, position of the vote": {
			pgbranch.Inquiry{Evidence: change(func(e *txn.Evidence) { e.LSN = 1 << 60 })},
			txn.StandingHeld},
		"past, position ever seen": {
			pgbranch.Inquiry{Evidence: evCommitted, Seen: far}, txn.StandingHeld,
		},
		"past, timeline ever seen": {pgbranch.Inquiry{Evidence: evCommitted,
			Seen: txn.Position{Timeline: 2}}, txn.StandingHeld},
		"no number": {pgbranch.Inquiry{Evidence: change(func(e *txn.Evidence) { e.XID = 0 })},
			txn.StandingGone},
		"expired, from the future": {
			pgbranch.Inquiry{Evidence: change(func(e *txn.Evidence) { e.XID += 1 << 40 })},
			txn.StandingGone},
		"forked, history unknown": {
			pgbranch.Inquiry{Evidence: change(func(e *txn.Evidence) { e.Timeline = 0 })},
			txn.StandingGone},
	} {
		a := s.standing(c.q)
		if a.Standing != c.want {
			t.Errorf("(%s): %v, %q, want %v", label, a.Standing, a.Reason, c.want)
		}
		if a.Reason == "" && c.want != txn.StandingCommitted && c.want != txn.StandingRolledBack {
			t.Errorf("(%s): no reason given", label)
		}
		if a.Place.Identity.System != srv.SystemID() {
			t.Errorf("(%s): place %+v", label, a.Place)
		}
	}
}

// failover is a primary and its promoted standby, with the fates that a branch can have between
// them.
type failover struct {
	standby                 *pghost.Server
	copied, lost, atStandby txn.Evidence
	forks                   []pgbranch.Fork
}

func failOver(t *testing.T) failover {
	t.Helper()
	standby, err := pghost.Start(t.Context(), pghost.Config{Name: "standby", StandbyOf: srv})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { standby.Stop(context.Background()) })
	primary, reader := open(t, srv, "postgres"), open(t, standby, "postgres")
	f := failover{standby: standby}
	var name txn.Name
	name, f.copied = primary.mustPrepare()
	await(t, "the standby to replay the PREPARE", func() bool {
		return reader.run(fmt.Sprintf("SELECT pg_last_wal_replay_lsn() >= '%X/%X'",
			f.copied.LSN>>32, uint32(f.copied.LSN))) == "t"
	})
	// PostgreSQL 15: a hot standby lists no prepared transactions, though it has them.
	if reader.listed(name) {
		t.Error("a hot standby lists prepared transactions")
	}
	a := reader.standing(pgbranch.Inquiry{Evidence: f.copied})
	if a.Standing != txn.StandingUnknown || !a.Place.Standby {
		t.Errorf("asking a standby: %v, %+v", a.Standing, a.Place)
	}
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !reader.listed(name) {
		t.Error("the branch did not appear with the promotion")
	}
	if done := reader.finish(name, true); done.Result != pgbranch.FinishDone {
		t.Fatalf("commit after the failover: %v (%v)", done.Result, done.Err)
	}
	// The old primary goes on by itself: what it prepares now, the new one never had.
	for range 8 { // and its numbers run ahead of the new one's
		primary.run("SELECT pg_current_xact_id()")
	}
	_, f.lost = primary.mustPrepare()
	_, f.atStandby = reader.mustPrepare()
	f.forks = readHistory(t, standby)
	return f
}

func readHistory(t *testing.T, s *pghost.Server) []pgbranch.Fork {
	t.Helper()
	text := open(t, s, "postgres").run("SELECT pg_read_file('pg_wal/00000002.history')")
	forks, err := pgbranch.ParseHistory([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return forks
}

// PostgreSQL 15: after a failover transaction numbers are given out again, so that the number of a
// lost branch says "committed" once another transaction with it commits. Only the history tells.
func TestStandingAfterAFailover(t *testing.T) {
	f := failOver(t)
	s := open(t, f.standby, "postgres")
	for s.run("SELECT pg_current_xact_id()::text::bigint > "+fmt.Sprint(f.lost.XID)) != "t" {
	}
	status := s.run(fmt.Sprintf("SELECT pg_xact_status('%d')", f.lost.XID))
	if status != "committed" {
		t.Errorf("the lost branch's number says %q, and was expected to lie", status)
	}
	history := func(context.Context, uint32) ([]pgbranch.Fork, error) { return f.forks, nil }
	forbidden := func(context.Context, uint32) ([]pgbranch.Fork, error) {
		return nil, &pgconn.PgError{Severity: "ERROR", Code: "42501"}
	}
	unrelated := func(context.Context, uint32) ([]pgbranch.Fork, error) { return nil, nil }
	for what, c := range map[string]struct {
		q    pgbranch.Inquiry
		want txn.Standing
	}{
		"copied, history known": {
			pgbranch.Inquiry{Evidence: f.copied, History: history}, txn.StandingCommitted,
		},
		"copied, history unknown": {pgbranch.Inquiry{Evidence: f.copied}, txn.StandingGone},
		"copied, history forbidden": {
			pgbranch.Inquiry{Evidence: f.copied, History: forbidden}, txn.StandingGone,
		},
		"copied, another descent": {
			pgbranch.Inquiry{Evidence: f.copied, History: unrelated}, txn.StandingGone,
		},
		"lost, history known": {
			pgbranch.Inquiry{Evidence: f.lost, History: history}, txn.StandingGone,
		},
		"lost, history unknown": {pgbranch.Inquiry{Evidence: f.lost}, txn.StandingGone},
		"prepared on the new history": {
			pgbranch.Inquiry{Evidence: f.atStandby}, txn.StandingUnknown,
		},
	} {
		if a := s.standing(c.q); a.Standing != c.want {
			t.Errorf("%s: %v, %q, want %v", what, a.Standing, a.Reason, c.want)
		}
	}
	old := open(t, srv, "postgres")
	if a := old.standing(pgbranch.Inquiry{Evidence: f.atStandby}); a.Standing != txn.StandingHeld {
		t.Errorf("the old primary was believed: %v", a.Standing)
	}
	away := errors.New("network")
	_, err := pgbranch.Standing(t.Context(), s.PgConn, pgbranch.Inquiry{Evidence: f.copied,
		History: func(context.Context, uint32) ([]pgbranch.Fork, error) { return nil, away }})
	if !errors.Is(err, away) {
		t.Errorf("a history that could not be fetched: %v", err)
	}
}

func TestParseHistory(t *testing.T) {
	text := "1\t0/3000148\tno recovery target specified\n\n# a comment\n2\t16/B374D848\treason\n"
	got, err := pgbranch.ParseHistory([]byte(text))
	want := []pgbranch.Fork{{Timeline: 1, End: 0x3000148}, {Timeline: 2, End: 0x16B374D848}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v (%v)", got, err)
	}
	for _, bad := range []string{"1", "x 0/1", "1 01", "1 0/x", "99999999999 0/1"} {
		if _, err := pgbranch.ParseHistory([]byte(bad)); !errors.Is(err, pgbranch.ErrProtocol) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzParseHistory(f *testing.F) {
	f.Add([]byte("1\t0/3000148\tno recovery target specified\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		forks, err := pgbranch.ParseHistory(text)
		if err == nil && len(forks) > bytes.Count(text, []byte("\n"))+1 {
			t.Errorf("%d forks from %d bytes", len(forks), len(text))
		}
	})
}

func TestParseLSN(t *testing.T) {
	for text, want := range map[string]uint64{"0/0": 0, "16/B374D848": 0x16B374D848,
		"FFFFFFFF/FFFFFFFF": 1<<64 - 1} {
		if got, err := pgbranch.ParseLSN(text); err != nil || got != want {
			t.Errorf("%s: %X (%v)", text, got, err)
		}
	}
	for _, bad := range []string{"", "/", "1", "1/", "100000000/0", "-1/0", "0/g"} {
		if _, err := pgbranch.ParseLSN(bad); !errors.Is(err, pgbranch.ErrProtocol) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestOnePhaseOutcomeIsAskedFor(t *testing.T) {
	s, asker := open(t, srv, "postgres"), open(t, srv, "postgres")
	for end, want := range map[string]txn.Standing{"COMMIT": txn.StandingCommitted,
		"ROLLBACK": txn.StandingRolledBack} {
		s.write()
		m, err := pgbranch.MarkTransaction(t.Context(), s.PgConn, s.ready)
		if err != nil {
			t.Fatal(err)
		}
		a, err := pgbranch.OneFinished(t.Context(), asker.PgConn, m)
		if err != nil || a.Standing != txn.StandingUnknown || a.Reason != "still running" {
			t.Errorf("before %s: %v, %q, %v", end, a.Standing, a.Reason, err)
		}
		s.run(end)
		a, err = pgbranch.OneFinished(t.Context(), asker.PgConn, m)
		if err != nil || a.Standing != want {
			t.Errorf("after %s: %v, %q, %v", end, a.Standing, a.Reason, err)
		}
		elsewhere := open(t, lonely, "postgres")
		a, err = pgbranch.OneFinished(t.Context(), elsewhere.PgConn, m)
		if err != nil || a.Standing != txn.StandingUnknown {
			t.Errorf("another server says %v, %v", a.Standing, err)
		}
	}
}

// PostgreSQL 15: a transaction number that was never flushed is given out again after a crash, and
// a backend's crash does not even change the postmaster's start time. So a lost COMMIT is not
// answered across one.
func TestOnePhaseIsUnknownAcrossACrash(t *testing.T) {
	for what, crash := range map[string]func(s *session){
		"one backend is killed": func(s *session) {
			if err := syscall.Kill(int(s.PID()), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			// This returns when the connection is gone, that is when the server restarts.
			_ = s.try("SELECT 1")
			<-s.CleanupDone()
		},
		"the server is killed": func(*session) {
			lonely.Kill()
			if err := lonely.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		s := open(t, lonely, "postgres")
		s.run("SET synchronous_commit = local; CHECKPOINT")
		s.begin()
		m, err := pgbranch.MarkTransaction(t.Context(), s.PgConn, s.ready)
		if err != nil {
			t.Fatal(err)
		}
		started := s.run("SELECT pg_postmaster_start_time()")
		crash(s)
		again := reopen(t, lonely)
		again.run("SET synchronous_commit = local")
		if xid := again.run("SELECT pg_current_xact_id()::text"); xid != fmt.Sprint(m.XID) {
			t.Errorf("%s: number %d was not given out again, but %s", what, m.XID, xid)
		}
		if strings.HasPrefix(what, "one") &&
			again.run("SELECT pg_postmaster_start_time()") != started {
			t.Errorf("%s: the postmaster's start time changed", what)
		}
		a, err := pgbranch.OneFinished(t.Context(), again.PgConn, m)
		if err != nil || a.Standing != txn.StandingUnknown {
			t.Errorf("%s: %v, %q, %v", what, a.Standing, a.Reason, err)
		}
	}
}

// reopen connects as soon as the server lets anybody in again.
func reopen(t *testing.T, s *pghost.Server) *session {
	t.Helper()
	await(t, "the server to come back", func() bool {
		conn, err := pgconn.Connect(t.Context(), s.DSN("postgres"))
		if err == nil {
			conn.Close(t.Context())
		}
		return err == nil
	})
	return open(t, s, "postgres")
}

package xabranch_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/txn"
)

// voted asserts a vote that is not Yes, that its reason tells what to do, and that nothing is left.
func voted(
	t *testing.T, b *xabranch.Branch, o xabranch.PrepareOptions, want txn.Vote, say string,
) {
	t.Helper()
	v := b.Prepare(context.Background(), o)
	if v.Vote != want || !strings.Contains(v.Reason, say) || v.Evidence != (txn.Evidence{}) {
		t.Errorf("vote %v, reason %q, evidence %+v; want %v, %q", v.Vote, v.Reason, v.Evidence,
			want, say)
	}
	watcher := connect(t)
	p, err := xabranch.Recover(t.Context(), watcher.Conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, there := p.Names[b.Name()]; there {
		t.Error("it is prepared")
	}
	await(t, "its effect to be gone", func() bool {
		watcher.run("SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
		return !watcher.effect(b.Name())
	})
}

// tryBegin is begin for a branch that should not begin.
func tryBegin(s *session, name txn.Name) error {
	_, err := xabranch.Begin(context.Background(), s.Conn, name, xabranch.BeginOptions{})
	return err
}

// A branch at SERIALIZABLE locks what it reads, and must not lock what the adapter writes to.
func TestASerializableBranchHoldsNobodyUp(t *testing.T) {
	name, observer, app := newName(), connect(t), connect(t)
	app.run("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE")
	app.prepare(name)
	observer.run("SET SESSION innodb_lock_wait_timeout = 1")
	if _, err := xabranch.Vouch(t.Context(), observer.Conn, 0); err != nil {
		t.Error(err)
	}
	observer.awaitState(name, xabranch.StateFree)
	if got := observer.finish(false, name); got.Result != xabranch.FinishDone {
		t.Errorf("rollback: %v (%v)", got.Result, got.Err)
	}
}

// A session that begins transactions by itself has none open afterwards, and one that is open stays
// the application's.
func TestBeginWithoutAutocommit(t *testing.T) {
	s := connect(t)
	s.run("SET autocommit = 0")
	name := newName()
	if err := s.begin(name).Rollback(t.Context()); err != nil {
		t.Error(err)
	}
	s.run("START TRANSACTION")
	if err := tryBegin(s, newName()); !errors.Is(err, xabranch.ErrOpen) {
		t.Errorf("within a transaction: %v", err)
	}
	s.run("ROLLBACK")
}

func TestPrepareVotesYes(t *testing.T) {
	name, observer := newName(), connect(t)
	ev := connect(t).prepare(name)
	place, err := xabranch.Look(t.Context(), observer.Conn)
	if err != nil {
		t.Fatal(err)
	}
	if ev.Identity != place.Identity || ev.XID == 0 || ev.Timeline != 1 ||
		place.Position.Before(ev.Position) {
		t.Errorf("evidence %+v at %+v", ev, place)
	}
	if observer.effect(name) {
		t.Error("it is committed")
	}
	observer.awaitState(name, xabranch.StateFree)
	if got := observer.finish(true, name); got.Result != xabranch.FinishDone {
		t.Errorf("commit: %v (%v)", got.Result, got.Err)
	}
	if !observer.effect(name) {
		t.Error("it is not committed")
	}
}

// MariaDB would prepare a transaction of which a statement had failed.
func TestPrepareOfFailedWork(t *testing.T) {
	b := connect(t).begin(newName())
	if _, err := b.Exec(t.Context(), "INSERT INTO nowhere VALUES (1)"); err == nil {
		t.Fatal("an insert into no table succeeded")
	}
	voted(t, b, xabranch.PrepareOptions{}, txn.VoteNo, "check every statement's error")

	b = connect(t).begin(newName())
	rows, err := b.Query(t.Context(), "SELECT k FROM effects")
	if err != nil {
		t.Fatal(err)
	}
	rows.Close()
	b.Fail(errors.New("a scan failed"))
	voted(t, b, xabranch.PrepareOptions{}, txn.VoteNo, "check every statement's error")
}

// Statements that would commit are refused by MariaDB inside a branch, and so fail it.
func TestPrepareOfWhatXADoesNotAllow(t *testing.T) {
	for _, statement := range []string{"CREATE TABLE x (i INT)", "COMMIT", "START TRANSACTION"} {
		b := connect(t).begin(newName())
		_, err := b.Exec(t.Context(), statement)
		if xabranch.Number(err) != 1399 || !errors.Is(err, xabranch.ErrCommits) {
			t.Errorf("%s: %v, want 1399", statement, err)
		}
		voted(t, b, xabranch.PrepareOptions{}, txn.VoteNo, "before or after the transaction")
	}
}

// A deadlock rolls the branch back, and its vote says that the work may be done again.
func TestPrepareAfterDeadlock(t *testing.T) {
	setup, first, second := connect(t), connect(t), connect(t)
	one, two := "'"+newName().String()+"'", "'"+newName().String()+"'"
	setup.run("INSERT INTO effects VALUES (" + one + "), (" + two + ")")
	lockRow := func(b *xabranch.Branch, key string) error {
		rows, err := b.Query(context.Background(), "SELECT k FROM effects WHERE k = "+key+
			" FOR UPDATE")
		if err != nil {
			return err
		}
		for rows.Next() {
		}
		err = rows.Err()
		b.Fail(err)
		rows.Close()
		return err
	}
	a, b := first.begin(newName()), second.begin(newName())
	if err := errors.Join(lockRow(a, one), lockRow(b, two)); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- lockRow(a, two) }()
	errB := lockRow(b, one)
	errA := <-ended
	victim := b
	if errA != nil {
		victim = a
	}
	if xabranch.SQLState(errors.Join(errA, errB)) != "40001" {
		t.Fatalf("no deadlock: %v, %v", errA, errB)
	}
	v := victim.Prepare(t.Context(), xabranch.PrepareOptions{})
	if v.Vote != txn.VoteNo || v.SQLState != "40001" {
		t.Errorf("vote %v, state %q (%s)", v.Vote, v.SQLState, v.Reason)
	}
	for _, b := range []*xabranch.Branch{a, b} {
		if err := b.Rollback(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// A name is prepared once, whatever became of it.
func TestPrepareTwice(t *testing.T) {
	name, other := newName(), connect(t)
	connect(t).prepare(name)
	if err := tryBegin(other, name); !errors.Is(err, xabranch.ErrTaken) {
		t.Errorf("begun while it is prepared: %v", err)
	}
	other.awaitState(name, xabranch.StateFree)
	other.finish(true, name)
	b, err := xabranch.Begin(t.Context(), other.Conn, name, xabranch.BeginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	v := b.Prepare(t.Context(), xabranch.PrepareOptions{})
	if v.Vote != txn.VoteNo || !strings.Contains(v.Reason, "only once") {
		t.Errorf("prepared after it was committed: %v (%s)", v.Vote, v.Reason)
	}
}

func TestBeginWhereAnotherRuns(t *testing.T) {
	name, first, second := newName(), connect(t), connect(t)
	b := first.begin(name)
	if err := tryBegin(second, name); !errors.Is(err, xabranch.ErrTaken) {
		t.Errorf("begun twice: %v", err)
	}
	if err := b.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Both connections can be used on, and nothing holds the name.
	for _, s := range []*session{second, first} {
		if err := s.begin(name).Rollback(t.Context()); err != nil {
			t.Error(err)
		}
	}
	first.run("START TRANSACTION")
	if err := tryBegin(first, name); !errors.Is(err, xabranch.ErrOpen) {
		t.Errorf("begun in a transaction: %v", err)
	}
	first.run("ROLLBACK")
	if err := first.begin(name).Rollback(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestPrepareElsewhere(t *testing.T) {
	b := connect(t).begin(newName())
	expect := txn.Identity{System: 1, Database: 1}
	voted(t, b, xabranch.PrepareOptions{Expect: expect}, txn.VoteNo, "correct the address")

	s := connect(t)
	place, err := xabranch.Look(t.Context(), s.Conn)
	if err != nil {
		t.Fatal(err)
	}
	s.run("USE bare")
	s.run("CREATE TABLE IF NOT EXISTS effects (k VARCHAR(64))")
	b = s.begin(newName())
	voted(t, b, xabranch.PrepareOptions{Expect: place.Identity}, txn.VoteNo, "correct the address")
}

// An account without the grants of the set-up gets a No that says what to do.
func TestPrepareWithoutGrants(t *testing.T) {
	b := connectAs(t, "stranger").begin(newName())
	voted(t, b, xabranch.PrepareOptions{}, txn.VoteNo, "run the statements of the set-up")
}

func TestPrepareWithoutSync(t *testing.T) {
	s := connect(t)
	s.run("SET GLOBAL innodb_flush_log_at_trx_commit = 2")
	defer connect(t).run("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
	voted(t, s.begin(newName()), xabranch.PrepareOptions{}, txn.VoteNo,
		"SET GLOBAL innodb_flush_log_at_trx_commit = 1")
}

func TestPrepareReadOnly(t *testing.T) {
	s := connect(t)
	s.run("SET GLOBAL read_only = 1")
	defer connect(t).run("SET GLOBAL read_only = 0")
	voted(t, s.begin(newName()), xabranch.PrepareOptions{}, txn.VoteNo, "primary")
}

// Whoever never sent XA PREPARE knows that the branch ends with its session.
func TestPrepareOfLostSession(t *testing.T) {
	s, killer := connect(t), connect(t)
	b := s.begin(newName())
	killer.run("KILL " + s.ask("SELECT CONNECTION_ID()"))
	voted(t, b, xabranch.PrepareOptions{}, txn.VoteNo, "the server rolls it back")

	s = connect(t)
	b = s.begin(newName())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	v := b.Prepare(ctx, xabranch.PrepareOptions{})
	if v.Vote != txn.VoteNo || v.Err == nil {
		t.Errorf("with an ended context: %v (%s)", v.Vote, v.Reason)
	}
	if v = b.Prepare(t.Context(), xabranch.PrepareOptions{}); v.Vote != txn.VoteNo {
		t.Errorf("asked again: %v", v.Vote)
	}
}

// A branch that ended by No leaves a connection that works.
func TestConnectionAfterNo(t *testing.T) {
	s := connect(t)
	b := s.begin(newName())
	b.Fail(errors.New("the application says so"))
	b.Prepare(t.Context(), xabranch.PrepareOptions{})
	if err := b.Rollback(t.Context()); err != nil {
		t.Error(err)
	}
	name := newName()
	s.prepare(name)
	observer := connect(t)
	observer.awaitState(name, xabranch.StateFree)
	if got := observer.finish(false, name); got.Result != xabranch.FinishDone {
		t.Errorf("rollback: %v (%v)", got.Result, got.Err)
	}
}

// What SET TRANSACTION would say is said by the options, after all that Begin itself runs: the
// level shows in how often a branch sees the row of another session, which is not there, then
// there, then committed.
func TestBeginWithALevel(t *testing.T) {
	s, other := connect(t), connect(t)
	other.run("SET SESSION innodb_lock_wait_timeout = 1")
	for level, want := range map[xabranch.Isolation]string{
		xabranch.ReadUncommitted: "011", xabranch.ReadCommitted: "001",
		xabranch.RepeatableRead: "000", xabranch.Serializable: "0 locked",
	} {
		b, err := xabranch.Begin(t.Context(), s.Conn, newName(),
			xabranch.BeginOptions{Isolation: level})
		if err != nil {
			t.Fatal(err)
		}
		key := "'" + b.Name().String() + "'"
		look := "SELECT COUNT(*) FROM effects WHERE k = " + key
		got := s.ask(look)
		other.run("BEGIN")
		if err := other.try("INSERT INTO effects VALUES (" + key + ")"); err == nil {
			got += s.ask(look)
			other.run("COMMIT")
			got += s.ask(look)
		} else {
			got += " locked"
			other.run("ROLLBACK")
		}
		if got != want {
			t.Errorf("%s: %s, want %s", level, got, want)
		}
		if err := b.Rollback(t.Context()); err != nil {
			t.Error(err)
		}
	}
	_, err := xabranch.Begin(t.Context(), s.Conn, newName(),
		xabranch.BeginOptions{Isolation: "NONE; DROP TABLE x"})
	if err == nil || s.try("DO 1") != nil {
		t.Errorf("an unknown level: %v", err)
	}
}

func TestBeginReadOnly(t *testing.T) {
	s := connect(t)
	b, err := xabranch.Begin(t.Context(), s.Conn, newName(), xabranch.BeginOptions{
		Isolation: xabranch.RepeatableRead, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = b.Exec(t.Context(), "DELETE FROM effects"); xabranch.Number(err) != 1792 {
		t.Errorf("a write of a branch that only reads: %v", err)
	}
	if err := b.Rollback(t.Context()); err != nil {
		t.Error(err)
	}
	b, err = xabranch.Begin(t.Context(), s.Conn, newName(), xabranch.BeginOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	voted(t, b, xabranch.PrepareOptions{}, txn.VoteNo, "only reads")
}

// A branch that began in one database is not prepared in another.
func TestPrepareAfterUse(t *testing.T) {
	s := connect(t)
	b := s.begin(newName())
	s.run("USE bare")
	voted(t, b, xabranch.PrepareOptions{}, txn.VoteNo, "leave USE out")
}

// After USE a rolled-back branch does not give its connection back: what comes next would run in
// the other database.
func TestRollbackAfterUse(t *testing.T) {
	s := connect(t)
	b := s.begin(newName())
	s.run("USE bare")
	if err := b.Rollback(t.Context()); !errors.Is(err, xabranch.ErrMoved) {
		t.Errorf("rolled back in another database: %v", err)
	}
	if err := s.try("DO 1"); !errors.Is(err, sql.ErrConnDone) {
		t.Errorf("the connection is used on: %v", err)
	}
}

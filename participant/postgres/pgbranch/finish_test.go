package pgbranch_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

func TestFinishManyEachByItself(t *testing.T) {
	s := open(t, srv, "postgres")
	a, _ := s.mustPrepare()
	b, _ := s.mustPrepare()
	missing := newName()
	got := pgbranch.Finish(t.Context(), s.PgConn, "", true, []txn.Name{a, missing, b, a})
	want := []pgbranch.FinishResult{
		pgbranch.FinishDone,
		pgbranch.FinishMissing,
		pgbranch.FinishDone,
		pgbranch.FinishMissing,
	}
	for i, f := range got {
		if f.Result != want[i] || (f.Err == nil) != (want[i] == pgbranch.FinishDone) {
			t.Errorf("%d: %v (%v), want %v", i, f.Result, f.Err, want[i])
		}
	}
	if len(pgbranch.Finish(t.Context(), s.PgConn, "", true, nil)) != 0 {
		t.Error("finishing nothing gave an answer")
	}
}

// PostgreSQL 15: a branch can be finished only in the database that prepared it (0A000), and the
// list shows those of all databases.
func TestAnotherDatabasesBranchIsForeign(t *testing.T) {
	here, there := open(t, srv, "postgres"), openDatabase(t, srv, newDatabase(t), "postgres")
	name, _ := here.mustPrepare()
	if !there.listed(name) {
		t.Error("PostgreSQL 15 lists prepared transactions of all databases")
	}
	f := there.finish(name, true)
	if f.Result != pgbranch.FinishForeign || pgbranch.SQLState(f.Err) != "0A000" {
		t.Errorf("%v (%v)", f.Result, f.Err)
	}
}

// PostgreSQL 15: while one session finishes a branch, others hear 55000; and a COMMIT PREPARED
// whose wait for the synchronous standby is cancelled reports success with a warning, which is not
// enough.
func TestBusyAndNotReplicated(t *testing.T) {
	s, watcher := open(t, lonely, "postgres"), open(t, lonely, "postgres")
	watcher.run("SET synchronous_commit = local")
	name := newName()
	s.run(fmt.Sprintf("BEGIN; INSERT INTO acct VALUES (%d, 1); PREPARE TRANSACTION '%s'",
		lastSeq.Add(1), name))
	finished := make(chan pgbranch.Finished, 1)
	go func() {
		finished <- pgbranch.Finish(context.Background(), s.PgConn, "", true, []txn.Name{name})[0]
	}()
	awaitWait(watcher, s.PID(), "SyncRep")
	err := watcher.try("COMMIT PREPARED '" + name.String() + "'")
	if pgbranch.SQLState(err) != "55000" || pgbranch.Classify(err) != pgbranch.ClassRetryable {
		t.Errorf("while another session commits it: %v", err)
	}
	watcher.run(fmt.Sprintf("SELECT pg_cancel_backend(%d)", s.PID()))
	f := <-finished
	if f.Result != pgbranch.FinishUnknown || !errors.Is(f.Err, pgbranch.ErrNotReplicated) {
		t.Errorf("cancelled: %v (%v)", f.Result, f.Err)
	}
	if watcher.listed(name) {
		t.Error("PostgreSQL 15 has committed it locally by then")
	}
}

func TestBusyIsAnAnswerOfItsOwn(t *testing.T) {
	s, other, watcher := open(
		t,
		lonely,
		"postgres",
	), open(
		t,
		lonely,
		"postgres",
	), open(
		t,
		lonely,
		"postgres",
	)
	name := newName()
	s.run("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION '" + name.String() + "'")
	finished := make(chan pgbranch.Finished, 1)
	go func() {
		finished <- pgbranch.Finish(context.Background(), s.PgConn, "", false, []txn.Name{name})[0]
	}()
	awaitWait(watcher, s.PID(), "SyncRep")
	if f := other.finish(name, false); f.Result != pgbranch.FinishBusy {
		t.Errorf("%v (%v)", f.Result, f.Err)
	}
	watcher.run(fmt.Sprintf("SELECT pg_cancel_backend(%d)", s.PID()))
	<-finished
}

func TestFinishInsideATransactionIsRefused(t *testing.T) {
	s := open(t, srv, "postgres")
	name, _ := s.mustPrepare()
	s.begin()
	f := s.finish(name, true)
	if f.Result != pgbranch.FinishRefused || pgbranch.SQLState(f.Err) != "25001" {
		t.Errorf("%v (%v)", f.Result, f.Err)
	}
	s.run("ROLLBACK")
	if !s.listed(name) {
		t.Error("a refused COMMIT PREPARED finished the branch")
	}
}

func TestRollbackLeavesNothing(t *testing.T) {
	s := open(t, srv, "postgres")
	id := s.write()
	name := newName()
	s.prepare(name)
	if f := s.finish(name, false); f.Result != pgbranch.FinishDone {
		t.Fatalf("%v (%v)", f.Result, f.Err)
	}
	if s.run(fmt.Sprintf("SELECT count(*) FROM acct WHERE id = %d", id)) != "0" {
		t.Error("a rolled back write is visible")
	}
}

// PostgreSQL 15: committing a prepared transaction of a standby's is refused with 25006 or is not
// possible at all; here the connection is gone, which must not read as an answer.
func TestFinishOnAClosedConnectionIsUnknown(t *testing.T) {
	s := open(t, srv, "postgres")
	name, _ := s.mustPrepare()
	s.Close(t.Context())
	f := s.finish(name, true)
	if f.Result != pgbranch.FinishUnknown || f.Err == nil ||
		pgbranch.Classify(f.Err) != pgbranch.ClassRetryable {
		t.Errorf("%v (%v)", f.Result, f.Err)
	}
}

func TestBarrierVouchesOnlyForWhatIsReplicated(t *testing.T) {
	s := open(t, srv, "postgres")
	s.run("SET synchronous_commit = off")
	before, err := pgbranch.Look(t.Context(), s.PgConn)
	if err != nil {
		t.Fatal(err)
	}
	if err := pgbranch.Barrier(t.Context(), s.PgConn); err != nil {
		t.Fatal(err)
	}
	after, err := pgbranch.Look(t.Context(), s.PgConn)
	if err != nil {
		t.Fatal(err)
	}
	// The barrier is a real write: its commit was flushed, which moved the flush position.
	if after.Position.LSN <= before.Position.LSN {
		t.Errorf(
			"the barrier wrote nothing: %X, then %X",
			before.Position.LSN,
			after.Position.LSN,
		)
	}

	l, watcher := open(t, lonely, "postgres"), open(t, lonely, "postgres")
	result := make(chan error, 1)
	go func() { result <- pgbranch.Barrier(context.Background(), l.PgConn) }()
	awaitWait(watcher, l.PID(), "SyncRep")
	watcher.run(fmt.Sprintf("SELECT pg_cancel_backend(%d)", l.PID()))
	if err := <-result; !errors.Is(err, pgbranch.ErrNotReplicated) {
		t.Errorf("a barrier that was cancelled: %v", err)
	}
}

// Plain users may do all of it: nothing here needs more than CONNECT.
func TestPlainRolesMayLookAndWriteTheBarrier(t *testing.T) {
	s := open(t, srv, "other")
	place, err := pgbranch.Look(t.Context(), s.PgConn)
	if err != nil || place.Identity.System != srv.SystemID() || place.Standby ||
		place.Version < 140000 {
		t.Errorf("look: %+v, %v", place, err)
	}
	if err := pgbranch.Barrier(t.Context(), s.PgConn); err != nil {
		t.Errorf("barrier: %v", err)
	}
}

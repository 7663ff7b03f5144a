package session_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/session"
	"github.com/gavel-tx/gavel/txn"
)

// TestPreparedOnce: the session is prepared when the coordinator asks, once; who asks again hears
// the same, from the resource's list.
func TestPreparedOnce(t *testing.T) {
	d := &database{}
	k := keeper(t, d, session.Config{})
	b := worked(t, k, name(1))
	if err := b.Finish(); err != nil {
		t.Fatal(err)
	}
	b.Close()
	for range 2 {
		v := vote(t, k, at(1), name(1))
		if wantVote(t, v, txn.VoteYes, ""); v.Evidence != evidence() {
			t.Errorf("evidence %+v", v.Evidence)
		}
	}
	if len(d.did) != 2 || d.did[1] != "prepare" {
		t.Errorf("the session did %v", d.did)
	}
	_, err := b.Execute(t.Context(), session.Statement{SQL: "update"}, nil)
	if txn.ReasonOf(err) != txn.ReasonClosed || !strings.Contains(err.Error(), "GetTransaction") {
		t.Errorf("a statement after PREPARE: %v", err)
	}
	f, err := k.Commit(t.Context(), at(1), one(name(1)))
	if err != nil || f[0].Standing != txn.StandingCommitted {
		t.Errorf("%+v, %v", f, err)
	}
}

// TestPreparedWhileAttached: a client need not say that it has no more statements.
func TestPreparedWhileAttached(t *testing.T) {
	k := keeper(t, &database{}, session.Config{})
	b := worked(t, k, name(1))
	wantVote(t, vote(t, k, at(1), name(1)), txn.VoteYes, "")
	<-b.Done()
	b.Close()
	wantVote(t, vote(t, k, at(1), name(1)), txn.VoteYes, "")
}

// TestABrokenCallRollsBack: a client that leaves in the middle has not done its work.
func TestABrokenCallRollsBack(t *testing.T) {
	d := &database{}
	k := keeper(t, d, session.Config{})
	worked(t, k, name(1)).Close()
	wantVote(t, vote(t, k, at(1), name(1)), txn.VoteNo, "its client left before")
	if !d.done("rollback") {
		t.Error("it is not rolled back")
	}
}

// TestAFailedStatementIsANo, whatever its client makes of it.
func TestAFailedStatementIsANo(t *testing.T) {
	d := &database{}
	k := keeper(t, d, session.Config{})
	b := worked(t, k, name(1))
	_, err := b.Execute(t.Context(), session.Statement{SQL: "fail"}, nil)
	e, ok := errors.AsType[*session.Error](err)
	if !ok || e.SQLState != "23505" || e.Error() != "the statement failed: boom" {
		t.Errorf("%v", err)
	}
	if err := b.Finish(); err == nil {
		t.Error("finished after an error")
	}
	v := vote(t, k, at(1), name(1))
	if wantVote(t, v, txn.VoteNo, "boom"); v.SQLState != "23505" {
		t.Errorf("SQLSTATE %q", v.SQLState)
	}
	if !d.done("rollback") || d.done("prepare") {
		t.Errorf("the session did %v", d.did)
	}
}

// TestRowsAreCounted: another number than expected fails the statement.
func TestRowsAreCounted(t *testing.T) {
	k := keeper(t, &database{}, session.Config{})
	two := int64(2)
	for i, c := range []struct{ sql, says string }{
		{"update", "the statement changed 1 rows, expected 2"},
		{"select", "the statement returned 1 rows, expected 2"},
	} {
		n := name(txn.Seq(i + 1))
		b := attach(t, k, n)
		sink := func([]string, [][]any) error { return nil }
		_, err := b.Execute(t.Context(), session.Statement{SQL: c.sql, Expect: &two}, sink)
		if err == nil || err.Error() != c.says {
			t.Errorf("error %v, want %q", err, c.says)
		}
		wantVote(t, vote(t, k, at(1), n), txn.VoteNo, c.says)
	}
}

// TestPrepareWhileAStatementRuns: nobody knows what it will have done.
func TestPrepareWhileAStatementRuns(t *testing.T) {
	d := &database{run: make(chan struct{}), running: make(chan struct{}, 1)}
	k := keeper(t, d, session.Config{})
	b := attach(t, k, name(1))
	failed := make(chan error, 1)
	go func() {
		_, err := b.Execute(t.Context(), session.Statement{SQL: "update"}, nil)
		failed <- err
	}()
	<-d.running
	wantVote(t, vote(t, k, at(1), name(1)), txn.VoteNo,
		"a statement of the branch was still running")
	close(d.run)
	if err := <-failed; err == nil {
		t.Error("the statement succeeded")
	}
	if d.done("prepare") {
		t.Error("it was prepared")
	}
}

// TestPrepareWhileASessionOpens: what comes too late is rolled back.
func TestPrepareWhileASessionOpens(t *testing.T) {
	d := &database{open: make(chan struct{}), opening: make(chan struct{}, 1)}
	k := keeper(t, d, session.Config{})
	failed := make(chan error, 1)
	go func() {
		_, err := k.Attach(t.Context(), session.Attachment{Name: name(1)})
		failed <- err
	}()
	<-d.opening
	wantVote(t, vote(t, k, at(1), name(1)), txn.VoteNo, "still running")
	if err := <-failed; err == nil {
		t.Error("it was attached")
	}
}

// TestANewerEpochEndsOlderSessions, before it is told anything.
func TestANewerEpochEndsOlderSessions(t *testing.T) {
	d := &database{}
	k := keeper(t, d, session.Config{})
	if _, err := k.List(t.Context(), at(1)); err != nil {
		t.Fatal(err)
	}
	b := worked(t, k, name(1))
	if _, err := k.Inquire(t.Context(), at(2), one(name(1))); err != nil {
		t.Fatal(err)
	}
	select {
	case <-b.Done():
	default:
		t.Error("a session of epoch 1 is alive in epoch 2")
	}
	wantVote(t, vote(t, k, at(2), name(1)), txn.VoteNo, "its coordinator was restarted")
	_, err := k.Prepare(t.Context(), at(1), one(name(1)))
	if !errors.Is(err, participant.ErrFenced) {
		t.Errorf("the older epoch: %v", err)
	}
	younger := worked(t, k, name(2))
	if _, err := k.List(t.Context(), at(2)); err != nil {
		t.Fatal(err)
	}
	wantVote(t, vote(t, k, at(2), name(2)), txn.VoteYes, "")
	younger.Close()
}

// TestADeposedCallerEndsNothing: it is refused before it can.
func TestADeposedCallerEndsNothing(t *testing.T) {
	k := keeper(t, &database{}, session.Config{})
	if err := k.Hello(t.Context(), at(2)); err != nil {
		t.Fatal(err)
	}
	b := worked(t, k, name(1))
	defer b.Close()
	_, err := k.Rollback(t.Context(), at(1), one(name(1)))
	if !errors.Is(err, participant.ErrFenced) {
		t.Errorf("%v", err)
	}
	wantVote(t, vote(t, k, at(2), name(1)), txn.VoteYes, "")
}

// TestAnEpochThatTheCallerKnows: a session that begins before its coordinator's first call here
// belongs to the epoch that the caller has named.
func TestAnEpochThatTheCallerKnows(t *testing.T) {
	k := keeper(t, &database{}, session.Config{})
	b, err := k.Attach(t.Context(), session.Attachment{Name: name(1), Epoch: 5})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	wantVote(t, vote(t, k, at(5), name(1)), txn.VoteYes, "")
}

// TestPrepareOutlivesItsCaller: the PREPARE goes on, the next one who asks hears its vote, and a
// newer epoch and a rollback wait for it.
func TestPrepareOutlivesItsCaller(t *testing.T) {
	d := &database{prepare: make(chan struct{}), preparing: make(chan struct{}, 1)}
	k := keeper(t, d, session.Config{})
	worked(t, k, name(1))
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := k.Prepare(ctx, at(1), one(name(1)))
		failed <- err
	}()
	<-d.preparing
	cancel()
	if err := <-failed; !errors.Is(err, txn.ErrUnknown) {
		t.Errorf("%v", err)
	}
	if _, err := k.Rollback(ctx, at(1), one(name(1))); !errors.Is(err, txn.ErrUnknown) {
		t.Errorf("a rollback during PREPARE: %v", err)
	}
	if _, err := k.Inquire(ctx, at(1), one(name(1))); !errors.Is(err, txn.ErrUnknown) {
		t.Errorf("an inquiry during PREPARE: %v", err)
	}
	if _, err := k.List(ctx, at(2)); !errors.Is(err, txn.ErrUnknown) {
		t.Errorf("a newer epoch during PREPARE: %v", err)
	}
	close(d.prepare)
	found, err := k.Inquire(t.Context(), at(2), one(name(1)))
	if err != nil || found[0].Standing != txn.StandingPrepared {
		t.Errorf("%+v, %v", found, err)
	}
	if d.done("rollback") {
		t.Error("what may be prepared was rolled back")
	}
}

// TestALostPrepareIsUnknown: from then on the resource is asked, and nothing is rolled back here.
func TestALostPrepareIsUnknown(t *testing.T) {
	d := &database{vote: &participant.Vote{Reason: "lost"}}
	k := keeper(t, d, session.Config{})
	worked(t, k, name(1))
	wantVote(t, vote(t, k, at(1), name(1)), txn.VoteUnknown, "lost")
	wantVote(t, vote(t, k, at(1), name(1)), txn.VoteUnknown, "it is not listed")
	found, err := k.Rollback(t.Context(), at(1), one(name(1)))
	if err != nil || found[0].Standing != txn.StandingGone {
		t.Errorf("%+v, %v", found, err)
	}
	if d.done("rollback") {
		t.Error("what may be prepared was rolled back")
	}
}

// TestAReaderStaysOne: its vote is told again.
func TestAReaderStaysOne(t *testing.T) {
	k := keeper(t, &database{vote: &participant.Vote{Vote: txn.VoteReadOnly}}, session.Config{})
	worked(t, k, name(1))
	for range 2 {
		wantVote(t, vote(t, k, at(1), name(1)), txn.VoteReadOnly, "")
	}
}

// TestRollback: a session ends, which is a proof, and its name is used up. So is that of a branch
// which came after its rollback.
func TestRollback(t *testing.T) {
	d := &database{run: make(chan struct{}), running: make(chan struct{}, 1)}
	k := keeper(t, d, session.Config{})
	b := attach(t, k, name(1))
	failed := make(chan error, 1)
	go func() {
		_, err := b.Execute(t.Context(), session.Statement{SQL: "update"}, nil)
		failed <- err
	}()
	<-d.running
	attach(t, k, name(3))
	for seq, want := range map[txn.Seq]txn.Standing{1: txn.StandingRolledBack,
		2: txn.StandingGone, 3: txn.StandingRolledBack} {
		found, err := k.Rollback(t.Context(), at(1), one(name(seq)))
		if err != nil || found[0].Standing != want {
			t.Errorf("%d: %+v, %v", seq, found, err)
		}
		_, err = k.Attach(t.Context(), session.Attachment{Name: name(seq)})
		if txn.ReasonOf(err) != txn.ReasonInvalid {
			t.Errorf("%d is attached after its rollback: %v", seq, err)
		}
	}
	if err := <-failed; err == nil {
		t.Error("the statement succeeded")
	}
	wantVote(t, vote(t, k, at(1), name(1)), txn.VoteNo, "its coordinator has rolled it back")
	wantVote(t, vote(t, k, at(1), name(2)), txn.VoteUnknown, "it is not listed")
}

// TestInquireLeavesWorkAlone: of the caller's own epoch, and of other logs.
func TestInquireLeavesWorkAlone(t *testing.T) {
	k := keeper(t, &database{}, session.Config{})
	if _, err := k.List(t.Context(), at(3)); err != nil {
		t.Fatal(err)
	}
	worked(t, k, name(1))
	theirs := txn.Name{Log: otherLog, Seq: 1, Branch: 1}
	worked(t, k, theirs)
	found, err := k.Inquire(t.Context(), at(3), one(name(1)))
	if err != nil || found[0].Standing != txn.StandingUnknown || found[0].Reason == "" {
		t.Errorf("%+v, %v", found, err)
	}
	wantVote(t, vote(t, k, at(3), name(1)), txn.VoteYes, "")
	wantVote(t, vote(t, k, at(3), theirs), txn.VoteUnknown, "it is not listed")
	wantVote(t, vote(t, k, txn.Fence{Log: otherLog, Epoch: 1}, theirs), txn.VoteYes, "")
}

// TestNamesAreAttachedOnce, and no more of them than allowed.
func TestNamesAreAttachedOnce(t *testing.T) {
	k := keeper(t, &database{}, session.Config{MaxSessions: 2})
	a := attach(t, k, name(1))
	_, err := k.Attach(t.Context(), session.Attachment{Name: name(1)})
	if txn.ReasonOf(err) != txn.ReasonInvalid {
		t.Errorf("attached twice: %v", err)
	}
	attach(t, k, name(2))
	_, err = k.Attach(t.Context(), session.Attachment{Name: name(3)})
	if txn.ReasonOf(err) != txn.ReasonOverloaded {
		t.Errorf("a session too many: %v", err)
	}
	a.Close()
	<-a.Done()
	attach(t, k, name(3))
	k.Drain()
	_, err = k.Attach(t.Context(), session.Attachment{Name: name(4)})
	if txn.ReasonOf(err) != txn.ReasonShutdown {
		t.Errorf("attached while it shuts down: %v", err)
	}
}

// TestWhatNobodyAsksForEnds: by being idle, finished or not, and by its age.
func TestWhatNobodyAsksForEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		d := &database{}
		k := keeper(t, d, session.Config{Idle: time.Minute, Life: 150 * time.Second})
		finished, idle, busy := worked(t, k, name(1)), worked(t, k, name(2)), worked(t, k, name(3))
		if err := finished.Finish(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			time.Sleep(40 * time.Second)
			if _, err := busy.Execute(t.Context(), session.Statement{SQL: "x"}, nil); err != nil {
				t.Fatal(err)
			}
		}
		<-finished.Done()
		<-idle.Done()
		wantVote(t, vote(t, k, at(1), name(1)), txn.VoteNo, "was idle for 1m0s")
		_, err := idle.Execute(t.Context(), session.Statement{SQL: "x"}, nil)
		if err == nil {
			t.Error("a statement in a session that has ended")
		}
		time.Sleep(40 * time.Second)
		if _, err := busy.Execute(t.Context(), session.Statement{SQL: "x"}, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(31 * time.Second)
		synctest.Wait()
		<-busy.Done()
		wantVote(t, vote(t, k, at(1), name(3)), txn.VoteNo, "was open for 2m30s")
	})
}

// TestAStatementIsCancelledByItsCaller: the branch cannot go on, since nobody knows how far it
// came.
func TestAStatementIsCancelledByItsCaller(t *testing.T) {
	d := &database{run: make(chan struct{}), running: make(chan struct{}, 1)}
	k := keeper(t, d, session.Config{})
	b := attach(t, k, name(1))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-d.running
		cancel()
	}()
	if _, err := b.Execute(ctx, session.Statement{SQL: "update"}, nil); err == nil {
		t.Error("it succeeded")
	}
	wantVote(t, vote(t, k, at(1), name(1)), txn.VoteNo, "was cancelled")
}

// TestNobodyWaitsForAClientThatDoesNotRead: whatever ends a branch ends it also while its rows are
// not taken, and its client hears why.
func TestNobodyWaitsForAClientThatDoesNotRead(t *testing.T) {
	for why, end := range map[string]func(*testing.T, *session.Keeper) error{
		"restarted, or replaced": func(t *testing.T, k *session.Keeper) error {
			return k.Hello(t.Context(), at(2))
		},
		"has rolled it back": func(t *testing.T, k *session.Keeper) error {
			_, err := k.Rollback(t.Context(), at(1), one(name(1)))
			return err
		},
		"was still running": func(t *testing.T, k *session.Keeper) error {
			_, err := k.Prepare(t.Context(), at(1), one(name(1)))
			return err
		},
		"was shut down": func(_ *testing.T, k *session.Keeper) error { k.Drain(); return nil },
		"was open for":  func(*testing.T, *session.Keeper) error { return nil },
	} {
		bubble(t, func(t *testing.T) {
			d := &database{}
			k := keeper(t, d, session.Config{})
			b := attach(t, k, name(1))
			reading, read := make(chan struct{}), make(chan struct{})
			defer close(read)
			failed := make(chan error, 1)
			go func() {
				_, err := b.Execute(t.Context(), session.Statement{SQL: "select"},
					func([]string, [][]any) error { close(reading); <-read; return nil })
				failed <- err
			}()
			<-reading
			if err := end(t, k); err != nil {
				t.Error(err)
			}
			<-b.Done()
			if err := <-failed; err == nil || !strings.Contains(err.Error(), why) {
				t.Errorf("the statement: %v, want %q", err, why)
			}
			if !d.done("rollback") {
				t.Error("it is not rolled back")
			}
		})
	}
}

// TestAPanicEndsItsBranch, and goes on to whoever guards the call.
func TestAPanicEndsItsBranch(t *testing.T) {
	for what, c := range map[string]struct {
		opens bool
		sql   string
	}{
		"a session that opens": {opens: true}, "a statement": {sql: "panic"},
		"a sink": {sql: "select"},
	} {
		bubble(t, func(t *testing.T) {
			d := &database{panics: c.opens}
			k := keeper(t, d, session.Config{})
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s: the panic is lost", what)
					}
				}()
				_, _ = attach(t, k, name(1)).Execute(t.Context(), session.Statement{SQL: c.sql},
					func([]string, [][]any) error { panic("outside") })
			}()
			if err := k.Hello(t.Context(), at(2)); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			wantVote(t, vote(t, k, at(2), name(1)), txn.VoteNo, "a panic")
			if d.done("rollback") == c.opens {
				t.Errorf("%s: the session did %v", what, d.did)
			}
		})
	}
}

// TestAnotherDatabaseIsRefused, with what to do.
func TestAnotherDatabaseIsRefused(t *testing.T) {
	d := &database{}
	k := keeper(t, d, session.Config{Identity: func() txn.Identity {
		return txn.Identity{System: 4, Database: 4}
	}})
	_, err := k.Attach(t.Context(), session.Attachment{Name: name(1)})
	if txn.ReasonOf(err) != txn.ReasonNotReady {
		t.Errorf("%v", err)
	}
	wantVote(t, vote(t, k, at(1), name(1)), txn.VoteNo, "correct the address")
	if !d.done("rollback") {
		t.Error("the session stays open")
	}
}

// TestNoSession: the branch votes no when none could be opened.
func TestNoSession(t *testing.T) {
	k := keeper(t, &database{refuse: errors.New("too many clients")}, session.Config{})
	if _, err := k.Attach(t.Context(), session.Attachment{Name: name(1)}); err == nil {
		t.Error("attached")
	}
	wantVote(t, vote(t, k, at(1), name(1)), txn.VoteNo, "too many clients")
}

// TestLimits: a statement beyond them is not sent, and fails its branch.
func TestLimits(t *testing.T) {
	k := keeper(t, &database{}, session.Config{})
	minus := int64(-1)
	for i, s := range []session.Statement{
		{SQL: string(make([]byte, session.MaxSQLLen+1))},
		{Args: make([]any, session.MaxArgs+1)}, {Expect: &minus},
	} {
		n := name(txn.Seq(i + 1))
		_, err := attach(t, k, n).Execute(t.Context(), s, nil)
		if txn.ReasonOf(err) != txn.ReasonInvalid {
			t.Errorf("%d: %v", i, err)
		}
		wantVote(t, vote(t, k, at(1), n), txn.VoteNo, "was refused")
	}
}

// TestBatches: the votes are in the order of the branches, whoever gives them.
func TestBatches(t *testing.T) {
	d := &database{}
	k := keeper(t, d, session.Config{})
	worked(t, k, name(1))
	worked(t, k, name(3)).Close()
	d.inner.prepared[name(4)] = true
	votes, err := k.Prepare(t.Context(), at(1), []participant.Branch{{Name: name(3)},
		{Name: name(2)}, {Name: name(1)}, {Name: name(4)}})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []txn.Vote{txn.VoteNo, txn.VoteUnknown, txn.VoteYes, txn.VoteYes} {
		if votes[i].Vote != want {
			t.Errorf("vote %d: %v, want %v", i, votes[i].Vote, want)
		}
	}
}

// TestNew: what cannot work is refused.
func TestNew(t *testing.T) {
	for _, cfg := range []session.Config{{}, {Resource: &inner{}}, {Database: &database{}},
		{Resource: &inner{}, Database: &database{}, Idle: -1}} {
		if _, err := session.New(cfg); err == nil {
			t.Errorf("made of %+v", cfg)
		}
	}
}

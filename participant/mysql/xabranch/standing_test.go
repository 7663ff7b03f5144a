package xabranch_test

import (
	"testing"

	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/txn"
)

func standing(t *testing.T, s *session, name txn.Name, ev txn.Evidence) xabranch.Answer {
	t.Helper()
	place, err := xabranch.Look(t.Context(), s.Conn)
	if err != nil {
		t.Fatal(err)
	}
	answers, err := xabranch.Standing(t.Context(), s.Conn, place,
		[]xabranch.Inquiry{{Name: name, Evidence: ev}})
	if err != nil || len(answers) != 1 {
		t.Fatalf("%d answers, %v", len(answers), err)
	}
	return answers[0]
}

// TestStanding has a case for each label of the table.
func TestStanding(t *testing.T) {
	s := connect(t)
	end := func(commit bool) (txn.Name, txn.Evidence) {
		name := newName()
		ev := connect(t).prepare(name)
		s.awaitState(name, xabranch.StateFree)
		if got := s.finish(commit, name); got.Result != xabranch.FinishDone {
			t.Fatalf("%v (%v)", got.Result, got.Err)
		}
		return name, ev
	}
	done, doneEv := end(true)
	undone, undoneEv := end(false)
	never := newName()
	open := connect(t)
	running := newName()
	b := open.begin(running)
	if _, err := b.Exec(t.Context(), "INSERT INTO gavel.branch (name, db, connection, user) "+
		"VALUES ('"+running.String()+"', 'bank', 1, '')"); err != nil {
		t.Fatal(err)
	}
	defer b.Rollback(t.Context())
	with := func(ev txn.Evidence, change func(*txn.Evidence)) txn.Evidence {
		change(&ev)
		return ev
	}
	for _, c := range []struct {
		label string
		name  txn.Name
		ev    txn.Evidence
		want  txn.Standing
	}{
		{"no evidence", done, txn.Evidence{}, txn.StandingGone},
		{"stranger", done, with(doneEv, func(e *txn.Evidence) { e.System++ }), txn.StandingHeld},
		{"stranger", done, with(doneEv, func(e *txn.Evidence) { e.Database++ }),
			txn.StandingHeld},
		{"past", done, with(doneEv, func(e *txn.Evidence) { e.LSN = 1 << 62 }),
			txn.StandingHeld},
		{"committed", done, doneEv, txn.StandingCommitted},
		{"committed", done, with(doneEv, func(e *txn.Evidence) { e.XID = 0 }),
			txn.StandingCommitted},
		{"another", done, with(doneEv, func(e *txn.Evidence) { e.XID++ }), txn.StandingGone},
		{"hidden", running, doneEv, txn.StandingUnknown},
		{"no number", never, with(doneEv, func(e *txn.Evidence) { e.XID = 0 }),
			txn.StandingGone},
		{"rolled back", undone, undoneEv, txn.StandingRolledBack},
	} {
		got := standing(t, s, c.name, c.ev)
		if got.Standing != c.want {
			t.Errorf("%s: %v (%s), want %v", c.label, got.Standing, got.Reason, c.want)
		}
		ended := c.want == txn.StandingCommitted || c.want == txn.StandingRolledBack
		if (got.Reason == "") != ended {
			t.Errorf("%s: reason %q", c.label, got.Reason)
		}
	}
}

// A replica that was promoted has the rows, and another server_id: it is another server.
func TestIdentityHoldsTheServerID(t *testing.T) {
	before, err := xabranch.Look(t.Context(), connect(t).Conn)
	if err != nil {
		t.Fatal(err)
	}
	connect(t).run("SET GLOBAL server_id = 4711")
	defer connect(t).run("SET GLOBAL server_id = 1")
	after, err := xabranch.Look(t.Context(), connect(t).Conn)
	if err != nil {
		t.Fatal(err)
	}
	if after.Identity.System == before.Identity.System {
		t.Errorf("identity %s with another server_id", after.Identity)
	}
	ev := txn.Evidence{Identity: before.Identity, Position: before.Position, XID: 1}
	if reason := after.NotThatOf(ev); reason == "" {
		t.Error("it would be asked about branches of the other server")
	}
}

// The position only rises, and a crash does not set it back.
func TestVouch(t *testing.T) {
	s := connect(t)
	before, err := xabranch.Look(t.Context(), s.Conn)
	if err != nil {
		t.Fatal(err)
	}
	high := before.Position.LSN + 1000
	for _, number := range []uint64{high, high - 1, 0} {
		got, err := xabranch.Vouch(t.Context(), s.Conn, number)
		if err != nil || got.LSN != high {
			t.Errorf("position %+v after %d (%v), want %d", got, number, err, high)
		}
	}
	srv.Kill()
	if err := srv.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := xabranch.Look(t.Context(), connect(t).Conn)
	if err != nil || after.Position.LSN != high || after.Identity != before.Identity {
		t.Errorf("after the crash: %+v (%v), before %+v", after, err, before)
	}
}

// A set-up from before gavel.horizon has removed no rows: a missing one still proves a rollback.
func TestStandingWithoutHorizon(t *testing.T) {
	s := connect(t)
	name, kept := newName(), newName()
	ev, keptEv := connect(t).prepare(name), connect(t).prepare(kept)
	s.awaitState(name, xabranch.StateFree)
	s.awaitState(kept, xabranch.StateFree)
	s.run("RENAME TABLE gavel.horizon TO bank.aside")
	defer s.run("RENAME TABLE bank.aside TO gavel.horizon")
	for n, commit := range map[txn.Name]bool{name: false, kept: true} {
		if got := s.finish(commit, n); got.Result != xabranch.FinishDone {
			t.Fatalf("%v (%v)", got.Result, got.Err)
		}
	}
	if got := standing(t, s, name, ev); got.Standing != txn.StandingRolledBack {
		t.Errorf("%v (%s), want rolled back", got.Standing, got.Reason)
	}
	n, err := xabranch.Prune(t.Context(), s.Conn, testLog, kept.Seq+1)
	if n != 0 || err == nil {
		t.Errorf("removed %d rows without a note: %v", n, err)
	}
	if got := standing(t, s, kept, keptEv); got.Standing != txn.StandingCommitted {
		t.Errorf("%v (%s), want committed", got.Standing, got.Reason)
	}
}

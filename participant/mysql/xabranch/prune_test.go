package xabranch_test

import (
	"fmt"
	"testing"

	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	"github.com/gavel-tx/gavel/txn"
)

// pruneLog is a log of its own: others must keep their rows.
const pruneLog txn.LogID = 0x9999

func pruneName(seq txn.Seq) txn.Name { return txn.Name{Log: pruneLog, Seq: seq, Branch: 1} }

func (s *session) rows(where string) string {
	s.t.Helper()
	return s.ask("SELECT COUNT(*) FROM gavel.branch WHERE " + where)
}

// Rows below the mark go, if they are committed; what they proved is not known any more, and what
// others prove stays.
func TestPrune(t *testing.T) {
	s := connect(t)
	s.run("SET SESSION innodb_lock_wait_timeout = 1")
	end := func(name txn.Name, commit bool) txn.Evidence {
		ev := connect(t).prepare(name)
		s.awaitState(name, xabranch.StateFree)
		if got := s.finish(commit, name); got.Result != xabranch.FinishDone {
			t.Fatalf("%v (%v)", got.Result, got.Err)
		}
		return ev
	}
	other := newName()
	otherEv := end(other, true)
	evidence := map[txn.Seq]txn.Evidence{}
	for seq, commit := range map[txn.Seq]bool{1: true, 2: false, 31: true, 32: true, 33: false,
		1 << 40: true} {
		evidence[seq] = end(pruneName(seq), commit)
	}
	prepared := pruneName(3)
	connect(t).prepare(prepared)
	s.awaitState(prepared, xabranch.StateFree)
	elsewhere := connect(t)
	elsewhere.run("INSERT INTO gavel.branch (name, db, connection, user) VALUES ('" +
		pruneName(4).String() + "', 'bare', 1, '')")

	for _, want := range []int{2, 0} {
		n, err := xabranch.Prune(t.Context(), s.Conn, pruneLog, 32)
		if n != want || err != nil {
			t.Errorf("removed %d rows, want %d: %v", n, want, err)
		}
	}
	for seq, want := range map[txn.Seq]txn.Standing{
		1: txn.StandingGone, 2: txn.StandingGone, 31: txn.StandingGone,
		32: txn.StandingCommitted, 33: txn.StandingRolledBack, 1 << 40: txn.StandingCommitted,
	} {
		if got := standing(t, s, pruneName(seq), evidence[seq]); got.Standing != want {
			t.Errorf("%d: %v (%s), want %v", seq, got.Standing, got.Reason, want)
		}
	}
	if got := standing(t, s, other, otherEv); got.Standing != txn.StandingCommitted {
		t.Errorf("another log: %v (%s)", got.Standing, got.Reason)
	}
	if s.rows("db = 'bare'") != "1" {
		t.Error("the row of another database is gone")
	}
	s.run("DELETE FROM gavel.branch WHERE name = '" + pruneName(4).String() + "'")

	// What is still prepared is finished with its row, and is removed after that.
	if got := s.finish(true, prepared); got.Result != xabranch.FinishDone {
		t.Errorf("%v (%v)", got.Result, got.Err)
	}
	if n, err := xabranch.Prune(t.Context(), s.Conn, pruneLog, 32); n != 1 || err != nil {
		t.Errorf("removed %d rows, want the one: %v", n, err)
	}
	// A mark never falls, whoever says a lower one.
	if _, err := xabranch.Prune(t.Context(), s.Conn, pruneLog, 2); err != nil {
		t.Error(err)
	}
	if got := standing(t, s, pruneName(31), evidence[31]); got.Standing != txn.StandingGone {
		t.Errorf("after a lower mark: %v", got.Standing)
	}
}

// One call removes so many and no more, the oldest first.
func TestPruneIsBounded(t *testing.T) {
	const log txn.LogID = 0x9998
	s := connect(t)
	s.run("SET SESSION innodb_lock_wait_timeout = 1")
	// The row of a branch that is prepared is in nobody's way.
	prepared := txn.Name{Log: log, Seq: 1, Branch: 2}
	connect(t).prepare(prepared)
	s.awaitState(prepared, xabranch.StateFree)
	name := func(seq int) string {
		return txn.Name{Log: log, Seq: txn.Seq(seq), Branch: 1}.String()
	}
	statement := "INSERT INTO gavel.branch (name, db, connection, user) VALUES "
	for i := 1; i <= xabranch.MaxPruned+2; i++ {
		statement += fmt.Sprintf("('%s', 'bank', 1, ''), ", name(i))
	}
	s.run(statement[:len(statement)-2])
	for _, want := range []int{xabranch.MaxPruned, 1, 0} {
		n, err := xabranch.Prune(t.Context(), s.Conn, log, xabranch.MaxPruned+2)
		if n != want || err != nil {
			t.Errorf("removed %d rows, want %d: %v", n, want, err)
		}
		if n == xabranch.MaxPruned && s.rows("name = '"+name(xabranch.MaxPruned+1)+"'") != "1" {
			t.Error("not the oldest")
		}
	}
	if s.rows("name = '"+name(xabranch.MaxPruned+2)+"'") != "1" {
		t.Error("the row of the mark itself is gone")
	}
	s.run("DELETE FROM gavel.branch WHERE name = '" + name(xabranch.MaxPruned+2) + "'")
	if got := s.finish(false, prepared); got.Result != xabranch.FinishDone {
		t.Errorf("rollback: %v (%v)", got.Result, got.Err)
	}
}

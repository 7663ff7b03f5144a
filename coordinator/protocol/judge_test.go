package protocol

import (
	"testing"

	"github.com/gavel-tx/gavel/txn"
)

// TestJudge holds the table above Judge to its words, one label at a time.
func TestJudge(t *testing.T) {
	const (
		prepared   = txn.StandingPrepared
		committed  = txn.StandingCommitted
		rolledBack = txn.StandingRolledBack
		gone       = txn.StandingGone
		held       = txn.StandingHeld
		foreign    = txn.StandingForeign
		unknown    = txn.StandingUnknown
	)
	const onePhase = SaysOnePhase
	const (
		undone   = VerdictHeuristicRollback
		rollBack = VerdictRollback
		leave    = VerdictLeave
	)
	facts := func(says Says, standing txn.Standing, listed, older bool) Facts {
		return Facts{Says: says, Standing: standing, Listed: listed, Older: older}
	}
	for _, c := range []struct {
		name    string
		facts   Facts
		label   Label
		verdict Verdict
	}{
		{"decided, prepared", facts(SaysCommit, prepared, true, false), 'A', VerdictCommit},
		{"decided, committed", facts(SaysCommit, committed, true, false), 'B', VerdictAcknowledge},
		{"decided, rolled back", facts(SaysCommit, rolledBack, true, false), 'C', undone},
		{"decided, gone", facts(SaysCommit, gone, true, false), 'D', VerdictHazard},
		{"no record, earlier epoch", facts(SaysNothing, prepared, false, true), 'E', rollBack},
		{"aborting, earlier epoch", facts(SaysAborting, prepared, false, true), 'E', rollBack},
		{"live", facts(SaysLive, prepared, false, false), 'F', leave},
		{"no record, this epoch", facts(SaysNothing, prepared, false, false), 'G', rollBack},
		{"aborting", facts(SaysAborting, prepared, false, false), 'G', rollBack},
		{"another log", facts(SaysForeign, prepared, false, false), 'H', leave},
		{"decided, not ours", facts(SaysCommit, foreign, true, false), 'H', leave},
		{"no record, not ours", facts(SaysNothing, foreign, false, true), 'H', leave},
		{"never handed out", facts(SaysNever, prepared, false, false), 'I', leave},
		{"forgotten", facts(SaysForgotten, prepared, false, true), 'J', leave},
		{"ended, prepared again", facts(SaysEnded, prepared, false, false), 'K', VerdictCommit},
		{"decided without it", facts(SaysCommit, prepared, false, false), 'L', leave},
		{"unreachable", facts(SaysCommit, unknown, true, false), 'S', leave},
		{"unreachable, no record", facts(SaysNothing, unknown, false, true), 'S', leave},
		{"another server", facts(SaysCommit, held, true, false), 'T', leave},
		{"another server, no record", facts(SaysNothing, held, false, true), 'T', leave},
		{"one phase, committed", facts(onePhase, committed, true, true), 'Q', VerdictAcknowledge},
		{"one phase, rolled back", facts(onePhase, rolledBack, true, true), 'Q', rollBack},
		{"one phase, prepared", facts(onePhase, prepared, true, true), 'Q', rollBack},
		{"one phase, gone", facts(onePhase, gone, true, true), 'Q', VerdictHazard},
		{"one phase, unreachable", facts(onePhase, unknown, true, true), 'S', leave},
		{"intent, prepared", facts(SaysIntent, prepared, true, true), 'M', leave},
		{"intent, never prepared", Facts{Says: SaysIntent, Standing: gone, Never: true}, 'N',
			leave},
		{"intent, gone", facts(SaysIntent, gone, true, true), 'O', leave},
		{"intent, rolled back", facts(SaysIntent, rolledBack, true, true), 'O', leave},
		{"intent, unreachable", facts(SaysIntent, unknown, true, true), 'P', leave},
		{"intent without it", facts(SaysIntent, prepared, false, true), 'L', leave},
		{"intent, another server", facts(SaysIntent, held, true, true), 'T', leave},
		{"over and gone", facts(SaysNothing, gone, false, false), 'V', leave},
	} {
		label, verdict := Judge(c.facts)
		if label != c.label || verdict != c.verdict {
			t.Errorf("%s: %s %s, want %s %s", c.name, label, verdict, c.label, c.verdict)
		}
		if label.Because() == "" {
			t.Errorf("%s explains nothing", label)
		}
	}
}

// TestJudgeNeverGuesses goes through every combination: a branch is rolled back only where no
// record can mean abort, and acknowledged only by proof.
func TestJudgeNeverGuesses(t *testing.T) {
	const prepared = txn.StandingPrepared
	for says := SaysNothing; says <= SaysIntent; says++ {
		for standing := txn.StandingUnknown; standing <= txn.StandingForeign; standing++ {
			for i := range 4 {
				f := Facts{Says: says, Standing: standing, Listed: i&1 == 1, Older: i&2 == 2}
				_, v := Judge(f)
				unrecorded := says == SaysNothing || says == SaysAborting
				undone := says == SaysOnePhase &&
					(standing == prepared || standing == txn.StandingRolledBack)
				if v == VerdictRollback && !undone && !(unrecorded && standing == prepared) {
					t.Errorf("%+v is rolled back", f)
				}
				decided := says == SaysEnded || says == SaysCommit && f.Listed
				if v == VerdictCommit && !(decided && standing == prepared) {
					t.Errorf("%+v is committed", f)
				}
				if v == VerdictAcknowledge && standing != txn.StandingCommitted {
					t.Errorf("%+v is acknowledged", f)
				}
			}
		}
	}
}

// TestNeverPrepared: only who is the same, on the same timeline, and knows of no PREPARE, proves
// it.
func TestNeverPrepared(t *testing.T) {
	here := txn.Evidence{Identity: txn.Identity{System: 1, Database: 7},
		Position: txn.Position{Timeline: 3, LSN: 9}}
	later, elsewhere, prepared := here, here, here
	later.Timeline++
	elsewhere.System++
	prepared.XID = 5
	for _, c := range []struct {
		name     string
		standing txn.Standing
		shown    txn.Evidence
		want     bool
	}{
		{"not listed", txn.StandingGone, here, true},
		{"refused before it was prepared", txn.StandingRolledBack, here, true},
		{"prepared and rolled back", txn.StandingRolledBack, prepared, false},
		{"after a failover", txn.StandingGone, later, false},
		{"at another server", txn.StandingGone, elsewhere, false},
		{"without evidence", txn.StandingGone, txn.Evidence{}, false},
		{"prepared", txn.StandingPrepared, here, false},
		{"committed", txn.StandingCommitted, here, false},
		{"not known", txn.StandingUnknown, here, false},
	} {
		if got := NeverPrepared(here, c.standing, c.shown); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	untimed := txn.Evidence{Identity: here.Identity}
	if NeverPrepared(untimed, txn.StandingGone, txn.Evidence{}) {
		t.Error("an answer without evidence, where there are no timelines")
	}
}

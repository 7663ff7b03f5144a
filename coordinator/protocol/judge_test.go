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
	)
	for _, c := range []struct {
		name    string
		facts   Facts
		label   Label
		verdict Verdict
	}{
		{"decided, prepared", Facts{Says: SaysCommit, Standing: prepared, Listed: true}, 'A', VerdictCommit},
		{"decided, proven committed", Facts{Says: SaysCommit, Standing: committed, Listed: true}, 'B', VerdictAcknowledge},
		{"decided, proven rolled back", Facts{Says: SaysCommit, Standing: rolledBack, Listed: true}, 'C', VerdictHeuristicRollback},
		{"decided, gone without proof", Facts{Says: SaysCommit, Standing: gone, Listed: true}, 'D', VerdictHazard},
		{"no record, earlier epoch", Facts{Standing: prepared, Older: true}, 'E', VerdictRollback},
		{"aborting, earlier epoch", Facts{Says: SaysAborting, Standing: prepared, Older: true}, 'E', VerdictRollback},
		{"live", Facts{Says: SaysLive, Standing: prepared}, 'F', VerdictLeave},
		{"no record, this epoch", Facts{Standing: prepared}, 'G', VerdictRollback},
		{"aborting", Facts{Says: SaysAborting, Standing: prepared}, 'G', VerdictRollback},
		{"another log", Facts{Says: SaysForeign, Standing: prepared}, 'H', VerdictLeave},
		{"decided, not ours to finish", Facts{Says: SaysCommit, Standing: txn.StandingForeign, Listed: true}, 'H', VerdictLeave},
		{"no record, not ours to finish", Facts{Standing: txn.StandingForeign, Older: true}, 'H', VerdictLeave},
		{"never handed out", Facts{Says: SaysNever, Standing: prepared}, 'I', VerdictLeave},
		{"forgotten", Facts{Says: SaysForgotten, Standing: prepared, Older: true}, 'J', VerdictLeave},
		{"ended, prepared again", Facts{Says: SaysEnded, Standing: prepared}, 'K', VerdictCommit},
		{"decided without this branch", Facts{Says: SaysCommit, Standing: prepared}, 'L', VerdictLeave},
		{"unreachable", Facts{Says: SaysCommit, Listed: true}, 'S', VerdictLeave},
		{"unreachable, no record", Facts{Older: true}, 'S', VerdictLeave},
		{"another server", Facts{Says: SaysCommit, Standing: txn.StandingHeld, Listed: true}, 'T', VerdictLeave},
		{"another server, no record", Facts{Standing: txn.StandingHeld, Older: true}, 'T', VerdictLeave},
		{"over and gone", Facts{Standing: gone}, 'V', VerdictLeave},
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

// TestJudgeNeverGuesses goes through every combination: a branch is rolled back only where no record can
// mean abort, and acknowledged only by proof.
func TestJudgeNeverGuesses(t *testing.T) {
	for says := SaysNothing; says <= SaysAborting; says++ {
		for standing := txn.StandingUnknown; standing <= txn.StandingForeign; standing++ {
			for i := range 4 {
				f := Facts{Says: says, Standing: standing, Listed: i&1 == 1, Older: i&2 == 2}
				_, v := Judge(f)
				if v == VerdictRollback && (says != SaysNothing && says != SaysAborting || standing != txn.StandingPrepared) {
					t.Errorf("%+v is rolled back", f)
				}
				if v == VerdictCommit && (standing != txn.StandingPrepared || says != SaysEnded && !(says == SaysCommit && f.Listed)) {
					t.Errorf("%+v is committed", f)
				}
				if v == VerdictAcknowledge && standing != txn.StandingCommitted {
					t.Errorf("%+v is acknowledged", f)
				}
			}
		}
	}
}

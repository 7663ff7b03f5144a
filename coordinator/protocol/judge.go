package protocol

import (
	"github.com/gavel-tx/gavel/txn"
	"github.com/gavel-tx/gavel/txn/mutant"
)

// Says is what the log says about a prepared name.
type Says uint8

// What a log can say. Only SaysNothing, inside the known range of a log that one owns, means abort.
const (
	// SaysNothing: the sequence was handed out and no decision is recorded.
	SaysNothing Says = iota
	// SaysLive: undecided, or its decision is on the way to the disk.
	SaysLive
	// SaysCommit: decided, and the end is not recorded.
	SaysCommit
	// SaysEnded: committed, and every branch had been proven committed.
	SaysEnded
	// SaysForgotten: below the retained range.
	SaysForgotten
	// SaysNever: this log has not handed out that sequence.
	SaysNever
	// SaysForeign: the name is of another log.
	SaysForeign
	// SaysAborting: rolled back, and its branches are being told.
	SaysAborting
	// SaysOnePhase: its only branch was, or was about to be, told to commit without being prepared.
	SaysOnePhase
	// SaysIntent: its branches were being prepared, and it is committed if all of them are.
	SaysIntent
	// SaysDelegate: its decision was left to the marker of one of its resources.
	SaysDelegate
)

// Facts is what is known about one branch of one resource: the log's side and the resource's.
type Facts struct {
	Says     Says
	Standing txn.Standing
	// Listed says that the COMMIT record names this branch.
	Listed bool
	// Older says that the name was handed out in an earlier epoch.
	Older bool
	// Never says that it was never prepared, by NeverPrepared.
	Never bool
}

// Label names a row of the table above Judge.
type Label byte

// Verdict is what to do about a branch.
type Verdict uint8

// The verdicts. VerdictLeave is the safe one.
const (
	VerdictLeave Verdict = iota
	VerdictCommit
	VerdictRollback
	VerdictAcknowledge
	VerdictHeuristicRollback
	VerdictHazard
)

// Judge is the recovery table. The first row that matches decides. The same function serves the
// running coordinator, its restart and the recovery tool.
//
//	    the log says             the resource shows           so
//	@T  anything                 HELD (other server, old)     leave, alarm
//	@S  anything                 UNKNOWN (cannot be asked)    leave, ask again
//	@H  another log's            anything                     leave, report
//	@H  anything                 FOREIGN (owner, database)    leave, report
//	@I  never handed out         anything                     leave, alarm: LOG_REGRESSION
//	@J  forgotten                anything                     leave, report
//	@F  live or deciding         anything                     leave
//	@L  commit, does not list it PREPARED                     leave, alarm: reused sequence
//	@A  commit                   PREPARED                     commit
//	@B  commit                   COMMITTED, by proof          acknowledge
//	@C  commit                   ROLLED_BACK, by proof        heuristic rollback
//	@D  commit                   GONE, nothing proves how     heuristic hazard
//	@K  commit and end           PREPARED (failed over)       commit again, alarm
//	@P  intent                   UNKNOWN (cannot be asked)    leave, ask again
//	@M  intent                   PREPARED                     commit, if every branch is
//	@N  intent                   never prepared, by proof     abort
//	@O  intent                   GONE or ended                hazard
//	@R  delegate                 anything                     leave: the marker decides
//	@Q  one-phase                COMMITTED, by proof          acknowledge
//	@Q  one-phase                ROLLED_BACK, by proof        record the abort
//	@Q  one-phase                PREPARED                     it did not commit: roll back
//	@Q  one-phase                GONE, nothing proves how     hazard
//	@E  nothing, earlier epoch   PREPARED                     roll back: presumed abort
//	@G  nothing, this epoch      PREPARED (a late PREPARE)    roll back
//	@V  nothing, or end          not prepared                 nothing to do
//
// Not here: @U, a log that is damaged before its tail, refuses to open and so never comes to a
// judgement.
//
// @M to @O are about one branch of several. Their verdict is to leave it: what happens follows from
// all branches together. An intent alone means that no branch was told to commit, so one that is
// not prepared was never prepared; unless its history has moved to another server, which may have
// lost it together with the knowledge.
//
// @Q is for an inquiry by a later epoch than the one that asked for the commit: that inquiry has
// fenced the older request, so what it finds prepared can no longer commit by itself.
func Judge(f Facts) (Label, Verdict) {
	prepared := f.Standing == txn.StandingPrepared
	switch {
	case mutant.On(mutant.RecoverCommit) && f.Says == SaysNothing && prepared:
		return 'E', VerdictCommit
	case mutant.On(mutant.NotFoundIsOK) && f.Says == SaysCommit && f.Standing == txn.StandingGone:
		return 'B', VerdictAcknowledge
	case f.Standing == txn.StandingHeld:
		return 'T', VerdictLeave
	case f.Standing == txn.StandingUnknown && f.Says == SaysIntent:
		return 'P', VerdictLeave
	case f.Standing == txn.StandingUnknown:
		return 'S', VerdictLeave
	case f.Says == SaysForeign, f.Standing == txn.StandingForeign:
		return 'H', VerdictLeave
	case f.Says == SaysNever:
		return 'I', VerdictLeave
	case f.Says == SaysForgotten:
		return 'J', VerdictLeave
	case f.Says == SaysLive:
		return 'F', VerdictLeave
	case f.Says == SaysCommit && prepared && !f.Listed:
		return 'L', VerdictLeave
	case f.Says == SaysCommit && prepared:
		return 'A', VerdictCommit
	case f.Says == SaysCommit && f.Standing == txn.StandingCommitted:
		return 'B', VerdictAcknowledge
	case f.Says == SaysCommit && f.Standing == txn.StandingRolledBack:
		return 'C', VerdictHeuristicRollback
	case f.Says == SaysCommit && f.Standing == txn.StandingGone:
		return 'D', VerdictHazard
	case f.Says == SaysOnePhase:
		return 'Q', judgeOnePhase(f.Standing)
	case f.Says == SaysDelegate && prepared && !f.Listed:
		return 'L', VerdictLeave
	case f.Says == SaysDelegate:
		return 'R', VerdictLeave
	case f.Says == SaysIntent && prepared && f.Listed:
		return 'M', VerdictLeave
	case f.Says == SaysIntent && prepared:
		return 'L', VerdictLeave
	case f.Says == SaysIntent && f.Never:
		return 'N', VerdictLeave
	case f.Says == SaysIntent:
		return 'O', VerdictLeave
	case f.Says == SaysEnded && prepared:
		return 'K', VerdictCommit
	case (f.Says == SaysNothing || f.Says == SaysAborting) && prepared && f.Older:
		return 'E', VerdictRollback
	case (f.Says == SaysNothing || f.Says == SaysAborting) && prepared:
		return 'G', VerdictRollback
	}
	return 'V', VerdictLeave
}

func judgeOnePhase(s txn.Standing) Verdict {
	switch s {
	case txn.StandingCommitted:
		return VerdictAcknowledge
	case txn.StandingRolledBack, txn.StandingPrepared:
		return VerdictRollback
	}
	return VerdictHazard
}

// Because explains a label to an operator.
func (l Label) Because() string {
	switch l {
	case 'A':
		return "the log holds its commit"
	case 'B':
		return "committed already, by evidence"
	case 'C':
		return "the log holds its commit, and somebody rolled it back"
	case 'D':
		return "the log holds its commit, and it is gone without a trace of how it ended"
	case 'E':
		return "no decision in the log (presumed abort)"
	case 'F':
		return "its transaction is running"
	case 'G':
		return "no decision in the log, and its transaction is over (a late PREPARE)"
	case 'H':
		return "not ours: another log, owner or database"
	case 'I':
		return "this log never handed it out: the log may be an older copy (LOG_REGRESSION)"
	case 'J':
		return "older than the outcomes that the log retains"
	case 'K':
		return "committed and ended, and prepared again: a failover brought it back"
	case 'L':
		return "the log holds a commit of this transaction that does not list this branch"
	case 'M':
		return "its transaction was being prepared: it commits if every branch is prepared"
	case 'N':
		return "its transaction was being prepared, and this branch never was: it aborts"
	case 'O':
		return "its transaction was being prepared, and this branch ended or got lost"
	case 'P':
		return "its transaction was being prepared, and the resource could not be asked"
	case 'Q':
		return "its commit was left to this resource alone, which says how it ended"
	case 'R':
		return "its decision was left to a marker, which says how it ends"
	case 'S':
		return "the resource could not be asked"
	case 'T':
		return "the resource is another one, or its history went backwards"
	}
	return "nothing to do"
}

// Alarming says whether a person must hear of a branch with this label.
func (l Label) Alarming() bool {
	switch l {
	case 'C', 'D', 'I', 'K', 'L', 'O', 'T':
		return true
	}
	return false
}

// String is what is done, in the words of a plan of recovery.
func (v Verdict) String() string {
	return [...]string{
		"leave", "commit", "roll back", "acknowledge", "heuristic rollback", "hazard",
	}[v]
}

// String is the label as the table above Judge, the journal and gavel recover show it: @A.
func (l Label) String() string { return "@" + string(rune(l)) }

// Says is what the log says about the branches of d.
func (d *Decided) Says() Says {
	switch {
	case d.Asking && d.Commit.Plan == txn.PlanParallel:
		return SaysIntent
	case d.Asking && d.Commit.Plan == txn.PlanDelegate:
		return SaysDelegate
	case d.Asking:
		return SaysOnePhase
	}
	return SaysCommit
}

// Says is what the durable log alone says about a name that was found in the database with identity
// at. Next is the first sequence not handed out: for a log that nobody runs, High. A branch is
// listed if the decision names it in that database: the same name elsewhere is somebody's mistake.
func (s *State) Says(n txn.Name, at txn.Identity, next txn.Seq) (says Says, listed bool) {
	if n.Decider != 0 {
		// Reserved, and no transaction of this version has it: whoever made it, it is not ours.
		return SaysForeign, false
	}
	id := n.ID()
	if d := s.open[id]; d != nil && d.Commit.Plan != txn.PlanUnset {
		says = d.Says()
		for _, b := range d.Commit.Branches {
			if b.Branch == n.Branch && s.resources[b.RM-1].Identity == at {
				return says, true
			}
		}
		return says, false
	}
	switch {
	case n.Log != s.Log && !mutant.On(mutant.ForeignIsOurs):
		return SaysForeign, false
	case (n.Seq >= next || s.Lost(n.Seq)) && !mutant.On(mutant.OldLogInBlock):
		return SaysNever, false
	case n.Seq < s.Low:
		return SaysForgotten, false
	case s.committed.has(n.Seq):
		return SaysEnded, false
	}
	return SaysNothing, false
}

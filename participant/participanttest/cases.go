package participanttest

import "testing"

// Trait names one of the ways in which resources may differ without breaking a promise.
type Trait string

// The traits that a case can depend on; [Traits] explains them.
const (
	TraitProof    Trait = "proof"
	TraitOwners   Trait = "owners"
	TraitShared   Trait = "shared"
	TraitDecided  Trait = "decided"
	TraitOnePhase Trait = "one phase"
	TraitDelegate Trait = "delegate"
)

// Case is one situation of the suite.
type Case struct {
	// Name is that of its subtest.
	Name string
	// Promise is the one of docs/TESTING.md that a resource breaks that fails it.
	Promise string
	// Demands says in a line what the adapter owes there.
	Demands string
	// Needs is the trait without which the demand is another one; empty: it is the same for all.
	Needs Trait
	// Instead is what is demanded of a resource without the trait. Empty: nothing, and the case is
	// not run.
	Instead string

	test func(*suite, *testing.T)
}

// Cases are the situations of the suite, in the order in which it makes them.
//
//tidy:table one case after the other
func Cases() []Case {
	return []Case{
		{Name: "describe", Promise: "S13",
			Demands: "says kind and identity, its capabilities as they are, and with each " +
				"warning what to do",
			Needs: TraitProof, Instead: "says that it has no evidence",
			test: (*suite).testDescribe},
		{Name: "commit makes the effect visible, once", Promise: "S14",
			Demands: "a prepared branch shows nothing; its commit shows all, and repeated says " +
				"Committed",
			Needs: TraitProof, Instead: "repeated says Gone, and never a guess",
			test: (*suite).testCommit},
		{Name: "rollback leaves nothing", Promise: "S1",
			Demands: "what is rolled back leaves no effect, and repeated says RolledBack",
			Needs:   TraitProof, Instead: "repeated says Gone",
			test: (*suite).testRollback},
		{Name: "prepare is repeatable", Promise: "S14",
			Demands: "a prepared branch votes Yes again, with the same evidence",
			test:    (*suite).testPrepareRepeated},
		{Name: "prepare of what never was is not Yes", Promise: "S3",
			Demands: "no Yes without work, and a reason",
			test:    (*suite).testPrepareUnknown},
		{Name: "failed work is not Yes", Promise: "S3",
			Demands: "work of which a step failed votes No",
			Needs:   TraitDecided,
			Instead: "whoever ran it says No; the adapter may say Unknown",
			test:    (*suite).testFailedWork},
		{Name: "abandoned work is not Yes", Promise: "S3",
			Demands: "work whose process ended votes No",
			Needs:   TraitDecided, Instead: "it may say Unknown",
			test: (*suite).testAbandonedWork},
		{Name: "commit of what never was is no success", Promise: "S16",
			Demands: "“it does not exist” is Gone, not Committed",
			test:    (*suite).testFinishUnknown},
		{Name: "inquire changes nothing", Promise: "S14",
			Demands: "a question leaves a prepared branch prepared",
			test:    (*suite).testInquire},
		{Name: "inquire shows what it saw", Promise: "S2",
			Demands: "a question answers with evidence, or with identity and position where " +
				"nothing is found",
			test: (*suite).testInquireShows},
		{Name: "list is complete and exact", Promise: "L1",
			Demands: "lists every prepared branch once, with identity and slots",
			test:    (*suite).testList},
		{Name: "other logs are not touched", Promise: "S15",
			Demands: "a branch of another log is Foreign, listed, and left alone",
			test:    (*suite).testOtherLogs},
		{Name: "other owners are not touched", Promise: "S15",
			Demands: "a branch that its role may not finish is Foreign and listed as such",
			Needs:   TraitOwners,
			Instead: "every branch can be finished, and is listed so",
			test:    (*suite).testOtherOwners},
		{Name: "a person rolled it back", Promise: "S16",
			Demands: "says RolledBack, and never that it is committed",
			Needs:   TraitProof, Instead: "says Gone",
			test: func(s *suite, t *testing.T) { s.testResolvedByHand(t, false) }},
		{Name: "a person committed it", Promise: "S16",
			Demands: "says Committed, and never that it is rolled back",
			Needs:   TraitProof, Instead: "says Gone",
			test: func(s *suite, t *testing.T) { s.testResolvedByHand(t, true) }},
		{Name: "an older epoch is fenced", Promise: "S9",
			Demands: "once a newer epoch was heard, every call of an older one is ErrFenced",
			test:    (*suite).testFenced},
		{Name: "a log that went backwards is refused", Promise: "S13",
			Demands: "a newer epoch with a shorter log is ErrRegression",
			test:    (*suite).testRegression},
		{Name: "a newer epoch takes over", Promise: "S9",
			Demands: "one process at a time finishes branches; a newer epoch takes the right " +
				"over",
			Needs: TraitShared, Instead: "a second process cannot open it",
			test: (*suite).testTakeover},
		{Name: "prepared work survives a crash", Promise: "S5",
			Demands: "a Yes is there after a power cut, and what was not prepared is not",
			test:    (*suite).testCrash},
		{Name: "answers are in order", Promise: "S1",
			Demands: "one answer for each branch, in their order",
			test:    (*suite).testOrder},
		{Name: "concurrent calls have one effect", Promise: "S14",
			Demands: "the same call many times at once acts once",
			test:    (*suite).testConcurrent},
		{Name: "an ended context leaves a repeatable call", Promise: "S14",
			Demands: "a call that is cut off is Committed or Unknown, and can be repeated",
			test:    (*suite).testContext},
		{Name: "limits are named", Promise: "L7",
			Demands: "256 branches in a call are taken and 257 refused",
			test:    (*suite).testLimits},
		{Name: "slices are not kept", Promise: "S1",
			Demands: "what the caller does to its slices afterwards changes nothing",
			test:    (*suite).testSlices},
		{Name: "a closed resource says so", Promise: "S17",
			Demands: "after Close every call is an error, and what was prepared is prepared",
			test:    (*suite).testClosed},
		{Name: "one phase is told by the description", Promise: "S4",
			Demands: "the description says whether it can",
			Needs:   TraitOnePhase,
			Instead: "it says no, and a call is an error without effect",
			test:    (*suite).testOnePhaseDescribed},
		{Name: "one phase commits, once", Promise: "S5",
			Demands: "Committed is durable, and said again after a crash",
			Needs:   TraitOnePhase,
			test:    (*suite).testOnePhase},
		{Name: "one phase of failed work rolls back", Promise: "S3",
			Demands: "RolledBack, and said again after a crash",
			Needs:   TraitOnePhase,
			test:    (*suite).testOnePhaseFailed},
		{Name: "one phase of lost work is no success", Promise: "S16",
			Demands: "RolledBack or Gone, and the same when it is repeated",
			Needs:   TraitOnePhase,
			test:    (*suite).testOnePhaseLost},
		{Name: "one phase commits what is prepared", Promise: "S14",
			Demands: "a branch that voted meanwhile is committed",
			Needs:   TraitOnePhase,
			test:    (*suite).testOnePhasePrepared},
		{Name: "one phase of an older epoch is fenced", Promise: "S9",
			Demands: "once a newer epoch was answered, no late call commits",
			Needs:   TraitOnePhase,
			test:    (*suite).testOnePhaseFenced},
		{Name: "one phase of other logs is refused", Promise: "S15",
			Demands: "Foreign, and nothing is committed",
			Needs:   TraitOnePhase,
			test:    (*suite).testOnePhaseOtherLogs},
		{Name: "concurrent one phases have one effect", Promise: "S14",
			Demands: "the same call many times at once acts once",
			Needs:   TraitOnePhase,
			test:    (*suite).testOnePhaseConcurrent},
		{Name: "a delegate is told by the description", Promise: "S4",
			Demands: "the description says whether it can",
			Needs:   TraitDelegate,
			Instead: "it says no, and a call is an error without effect",
			test:    (*suite).testDelegateDescribed},
		{Name: "a delegate without its marker never commits", Promise: "S1",
			Demands: "who asks first writes “never”, and the client's commit fails, also after a" +
				" crash",
			Needs: TraitDelegate,
			test:  (*suite).testDelegateNever},
		{Name: "a delegate commits with its marker", Promise: "S5",
			Demands: "Committed with the votes of the others, also after a crash and to later " +
				"epochs",
			Needs: TraitDelegate,
			test:  (*suite).testDelegateCommits},
		{Name: "a delegate that just commits is unknown", Promise: "S2",
			Demands: "a marker that may be taken back is Unknown",
			Needs:   TraitDelegate,
			test:    (*suite).testDelegateUnderWay},
		{Name: "a delegate that crashes rolls back", Promise: "S1",
			Demands: "with the branch goes its marker",
			Needs:   TraitDelegate,
			test:    (*suite).testDelegateCrashed},
		{Name: "a delegate has one end", Promise: "S1",
			Demands: "client and coordinator at once: both say the same",
			Needs:   TraitDelegate,
			test:    (*suite).testDelegateRaces},
		{Name: "a delegate elsewhere is held", Promise: "S13",
			Demands: "another identity, or its future, decides nothing",
			Needs:   TraitDelegate,
			test:    (*suite).testDelegateHeld},
		{Name: "a delegate of another log is refused", Promise: "S15",
			Demands: "Foreign, and its client can commit",
			Needs:   TraitDelegate,
			test:    (*suite).testDelegateOtherLogs},
		{Name: "a delegate of an older epoch is fenced", Promise: "S9",
			Demands: "ErrFenced, and nothing is decided",
			Needs:   TraitDelegate,
			test:    (*suite).testDelegateFenced},
		{Name: "a delegate's marker is listed until it is removed", Promise: "L7",
			Demands: "markers of commits are listed and removed; one that says never stays",
			Needs:   TraitDelegate,
			test:    (*suite).testDelegateMarkers},
		{Name: "a delegate's limits are named", Promise: "L7",
			Demands: "256 questions and 10,000 removals are taken, one more is refused",
			Needs:   TraitDelegate,
			test:    (*suite).testDelegateLimits},
	}
}

// Package mutants tests the tests. Each promise has a test that can falsify it, and each such test
// has a mutant: the product with one wrong line, which the test must notice, for the expected
// reason. docs/TESTING.md is written from this table.
package mutants

import "slices"

// Promise is one thing that must hold, in words for users.
type Promise struct {
	// ID is S1, S2, … for safety and L1, L2, … for liveness.
	ID, Words string
}

// Promises lists what is promised.
func Promises() []Promise {
	return []Promise{
		{"S1", "never is one branch committed and another of the same transaction rolled back"},
		{"S2", "no two observers ever get different final answers"},
		{"S3", "committed only if every branch is positively known to be prepared"},
		{"S4", "without faults, and if all vote yes, it is committed"},
		{"S5", "what was told committed is committed after every crash"},
		{"S6", "the decision is durable before it is sent or told"},
		{"S7", "no record means abort only where the log is known to be complete"},
		{"S8", "a commit is forgotten only after every branch is proven finished"},
		{"S9", "whoever was deposed changes nothing any more"},
		{"S10", "an append of unknown result is neither commit nor abort"},
		{"S11", "damage to the log is detected, and never taken for its end"},
		{"S12", "a torn tail is no damage, and is mended unattended"},
		{"S13", "an empty, older, copied or foreign log rolls nothing back"},
		{"S14", "repeated requests act once, and get the same answer"},
		{"S15", "prepared transactions that are not ours are never touched"},
		{"S16", "a branch that ended otherwise is shown, and never called committed"},
		{"S17", "a client is told what happened, or that it is unknown"},
		{"S19", "a version that cannot read a record does not start"},
		{"L1", "once faults have ended, nothing of ours stays prepared"},
		{"L2", "a dead resource holds up nobody else"},
		{"L3", "a restart has loaded every decision before it answers"},
		{"L4", "on a full disk new work is refused and running work ends"},
		{"L6", "a stalled disk is noticed"},
		{"L7", "nothing grows without a limit"},
		{"L8", "what an application abandons is rolled back at its deadline"},
		{"L9", "no fault needs a person that does not have to"},
	}
}

// Kill is one mutant and the test that must notice it.
type Kill struct {
	// Promise is what the mutant breaks first.
	Promise string
	// Mutant is its word in package txn/mutant.
	Mutant string
	// Package and Test name the test, as `go test -run` takes them.
	Package, Test string
	// Says is what the failing test must say: the name of a checker, or a sentence of its own.
	Says string
}

const (
	explorer = "integration/explore"
	coord    = "coordinator"
	logTests = "txlog"
	branch   = "participant/postgres/pgbranch"
)

// Kills lists every mutant with a test that notices it.
func Kills() []Kill {
	return slices.Concat(decisions(), parts(), surroundings(), services(), sessions())
}

// world is a mutant that a world of the explorer shows, and rule one without which users would
// suffer.
func world(promise, mutant, name, checker string) Kill {
	return Kill{promise, mutant, explorer, "TestScenarios/" + name, checker + ": "}
}

func rule(promise, mutant, name, checker string) Kill {
	return Kill{promise, mutant, explorer, "TestRules/" + name, checker + ": "}
}

// decisions are the mutants of the protocol's machine, each with the world of the explorer that
// shows it soonest.
func decisions() []Kill {
	return []Kill{
		world("S6", "NO_LOG", "nothing goes wrong", "log before send"),
		world("S6", "PHASE2_BEFORE_COMMIT_DURABLE", "nothing goes wrong", "log before send"),
		world("S6", "PHASE2_BEFORE_COMMIT_DURABLE",
			"parallel, nothing goes wrong", "log before send"),
		rule("S1", "PHASE2_BEFORE_COMMIT_DURABLE",
			"no branch commits before COMMIT is durable", "atomicity"),
		world("S10", "UNLOGGED_ABORT", "parallel, a refusal and a rollback", "unknown append"),
		rule("S2", "UNLOGGED_ABORT", "after an intent an abort is recorded", "one truth"),
		rule("S9", "UNLOGGED_ABORT", "who is deposed does not roll back either", "one truth"),
		world("S6", "IMPLICIT_ACK_WITHOUT_INTENT",
			"parallel, nothing goes wrong", "unknown append"),
		rule("S5", "IMPLICIT_ACK_WITHOUT_INTENT",
			"nobody is told before the intent is durable", "one truth"),
		world("S3", "IMPLICIT_ACK_WITH_READER",
			"parallel, a reader among them", "unknown append"),
		rule("S3", "IMPLICIT_ACK_WITH_READER",
			"a branch that only read implies nothing", "one truth"),
		world("S9", "IMPLICIT_ACK_WITHOUT_CONFIRM",
			"parallel, a deposed owner goes on", "unknown append"),
		rule("S9", "IMPLICIT_ACK_WITHOUT_CONFIRM",
			"who tells has confirmed that it owns the log", "one truth"),
		world("S5", "GONE_IS_NEVER_PREPARED",
			"parallel, failover to a standby that lags", "acknowledged durability"),
		rule("S2", "GONE_IS_NEVER_PREPARED",
			"what another server has not may be lost", "one truth"),
		world("S10", "ACK_BEFORE_LOG", "answered when decided, crash and loss", "unknown append"),
		world("S2", "ABORT_WHILE_APPENDING", "two transactions of one key", "unknown append"),
		world("S3", "COMMIT_ON_MISSING_VOTE",
			"votes of the client, crash and loss", "commit validity"),
		world("S3", "VOTE_IDENTITY_UNCHECKED", "votes from another server", "commit validity"),
		world("S3", "RESUME_VOTING", "votes from another server", "commit validity"),
		world("S4", "SOFT_NO_IS_DEFINITIVE", "three branches, two losses", "abort validity"),
		world("S1", "HEURISTIC", "late PREPARE, deadline, sweep", "presumed abort"),
		world("S7", "DELEGATE_UNWRITTEN", "delegate, nothing goes wrong", "log before send"),
		rule("S1", "DELEGATE_UNWRITTEN",
			"nobody hears of a transaction whose delegate is not on the disk", "atomicity"),
		world("S2", "DELEGATE_PRESUMED", "delegate, a refusal and a rollback", "client truth"),
		rule("S1", "DELEGATE_PRESUMED", "only the marker calls off", "atomicity"),
		world("S5", "MARKER_LOSS_UNNOTICED",
			"delegate, failover of the delegate", "acknowledged durability"),
		world("S8", "MARKER_REMOVED_EARLY",
			"delegate, late marker, deadline, sweeps", "forget"),
		world("S8", "FORGET_EARLY", "nothing goes wrong", "forget"),
		world("S16", "NOTFOUND_IS_OK", "failover, nothing is proven", "no masked heuristic"),
		world("S7", "RECOVER_COMMIT", "votes from another server", "log before send"),
		world("S7", "SWEEP_INFLIGHT", "failover, nothing is proven", "presumed abort"),
		world("S7", "ONE_PHASE_UNLOGGED", "one phase, crash and loss", "log before send"),
		world("S2", "ONE_PHASE_DENIED", "one phase, crash and loss", "client truth"),
		world("S5", "ONE_PHASE_TOLD_EARLY", "one phase, crash and loss", "unknown append"),
		world("S13", "OLD_LOG_IN_BLOCK", "branches of others", "containment"),
		world("S13", "HOLE_UNNOTICED", "branches of others", "containment"),
		world("S15", "FOREIGN_IS_OURS", "branches of others", "containment"),
		world("S14", "ID_ABOVE_HIGHWATER", "sequences run out", "client truth"),
		world("S14", "KEY_NOT_LOGGED", "two transactions of one key", "exactly once"),
		world("L1", "NO_SWEEP", "votes from another server", "liveness"),
	}
}

// parts are the mutants of transactions in which several processes have part.
func parts() []Kill {
	return []Kill{
		world("S3", "PARTS_SHARE", "parts, nothing goes wrong", "exactly once"),
		world("S14", "UNHEARD_COMMITS", "parts, a call made twice", "commit validity"),
		rule("S14", "UNHEARD_COMMITS", "what a call did commits once", "exactly once"),
		world("S3", "PARTS_ANNOUNCED", "parts, parallel, announced", "commit validity"),
		rule("S14", "PARTS_ANNOUNCED", "no part is announced", "exactly once"),
		world("S3", "PARTS_LATE", "parts, one phase", "commit validity"),
		rule("S14", "PARTS_LATE", "nobody has part after Commit", "exactly once"),
	}
}

// surroundings are the mutants of everything around the machine.
func surroundings() []Kill {
	const (
		machine = "coordinator/protocol"
		adapter = "participant/kv"
		sdk     = "client"
		pools   = "client/pgxtx"
		calls   = "client/grpctx"
	)
	return []Kill{
		{"S5", "READY_UNREAD",
			coord, "TestCrashBetweenDecisionAndPhaseTwo", "an acknowledged commit is lost"},
		{"S5", "SNAPSHOT_OF_THE_TAIL",
			coord, "TestSnapshotIsOfWhatWasReported", "decision 2 is lost"},
		{"S9", "FENCE_IGNORED",
			adapter, "TestConformance/an older epoch is fenced", "want ErrFenced"},
		{"S10", "ABORT_ON_LOG_ERROR",
			coord, "TestLogFailureStops", "the answer to a commit whose append failed"},
		{"S10", "FSYNC_RETRY", logTests,
			"TestFailEveryCall", "calls for the log's files followed"},
		{"S11", "TRUNCATE_ON_ANY_CRC_ERROR", logTests,
			"TestJudge", "want a complete frame with a wrong checksum"},
		{"S12", "TAIL_NOT_ZEROED", logTests,
			"TestEveryCrash", "after recovery and one more append"},
		{"S5", "PAGE_CACHE_TRUST", logTests,
			"TestPageCacheLies", "a later frame says that this place was durable"},
		{"S13", "EMPTY_LOG_IS_FRESH", coord, "TestLostLog", "an empty directory opens"},
		{"S13", "NO_LEAP", coord, "TestOlderLog", "lost to the older log"},
		{"S19", "UNKNOWN_RECORD_SKIPPED", coord, "TestRecordOfANewerVersion", "version safety"},
		{"S3", "VOTE_BEFORE_DURABLE",
			adapter, "TestConformance/prepared work survives a crash", "want COMMITTED"},
		{"S3", "ROWS_UNCHECKED", pools, "TestQueuedRowsAreCounted", "error <nil>"},
		{"S3", "UNCOUNTED_IS_UNKNOWN", pools, "TestUncountedRowsAreNoYes", "error <nil>"},
		{"S3", "ROLLBACK_TAG", branch, "TestTagRollbackIsNo", "vote YES"},
		{"S3", "WARNING_IS_FINE",
			branch, "TestWarningOfACancelledReplicationWaitIsUnknown", "vote YES"},
		{"S14", "DUP_GID_IGNORED",
			branch, "TestRefusalsAreNoWithTheirReason/ready=true/name taken", "vote YES"},
		{"S3", "XID_NULL_IS_READONLY",
			pools, "TestADatabaseThatCallsOutHasNoReaders", "want [YES YES]"},
		{"S6", "DELEGATE_ASYNCHRONOUS", branch, "TestADecisionIsDurableWhateverTheSessionSays",
			"with synchronous_commit off the commit is not on the disk"},
		{"S1", "DELEGATE_ANYWHEN", branch, "TestDecideKeepsToItsTimeline",
			"vote COMMITTED, want NO"},
		{"S1", "MARKER_ONLY_READ", "participant/postgres",
			"TestConformance/a delegate without its marker never commits",
			"its client's commit: vote COMMITTED"},
		{"S3", "DELEGATE_DECIDES_FIRST", sdk, "TestTheDelegateDecidesLast", "has not voted"},
		{"S1", "FAILED_CALL_FORGOTTEN",
			sdk, "TestASwallowedFailedCallRollsBack/a failure", "error <nil>"},
		{"S3", "CALL_UNDER_WAY", sdk, "TestACallUnderWayRollsBack", "error <nil>"},
		{"S3", "NO_TRAILER_IS_YES", calls,
			"TestAFailedCallRollsBack/the service has no interceptor and no database",
			"error <nil>"},
		{"S3", "PARTS_SHARE", machine, "TestHistories/parts", "begun 1 [1=a 2=b]"},
		{"S4", "PARTS_SHARE", calls, "TestSeveralPartsAtOneDatabase", "already in use"},
		{"S14", "UNHEARD_COMMITS", machine, "TestHistories/parts", "send b PREPARE 2.2"},
		{"S14", "UNHEARD_COMMITS", calls, "TestACallThatIsMadeTwice", "error <nil>"},
		{"S17", "TIMEOUT_MEANS_ABORTED", sdk, "TestInDoubt", "want ErrInDoubt"},
		{"S17", "CLIENT_ROLLS_BACK_AFTER_COMMIT_SENT", sdk, "TestInDoubt", "client truth"},
		{"L2", "DOWN_FOR_ALL",
			coord, "TestDeadResourceHarmsNobodyElse", "result {"},
		{"L3", "READY_UNREAD", coord, "TestSnapshots", "Outcome:UNKNOWN"},
		{"L4", "ROOM_IGNORED", machine, "TestHistories/limits", "refused LOG_FULL"},
		{"L6", "STALL_UNNOTICED", coord, "TestStalledDiskIsNoticed", "stall unnoticed"},
		{"L7", "NO_LIMIT", machine, "TestHistories/limits", "refused RESOURCE_UNAVAILABLE"},
		{"L8", "NO_DEADLINE", coord, "TestDeadline", "rolled back 0, want 0 and 1"},
		{"L9", "GIVES_UP", coord, "TestBentAnswers", "State:COMMITTING"},
	}
}

// services are the mutants of a service with a journal.
func services() []Kill {
	const (
		adapter = "participant/service"
		table   = "participant/service/pgjournal"
	)
	return []Kill{
		{"S9", "FENCE_IGNORED",
			adapter, "TestConformanceBeside/an older epoch is fenced", "want ErrFenced"},
		{"S9", "FENCE_NOT_KEPT", adapter, "TestFencesOutliveACrash", "want ErrFenced"},
		{"S3", "VOTE_BEFORE_DURABLE",
			adapter, "TestConformanceBeside/prepared work survives a crash", "want PREPARED"},
		{"S5", "END_BEFORE_EFFECT",
			adapter, "TestACommitIsToldOnlyWhenItIsDone", "0 effects, want 1"},
		{"S9", "OWNER_IGNORED", table, "TestOneProcessOwnsTheJournal", "want ErrTaken"},
		{"S14", "SEEN_ONCE", adapter, "TestACommitThatLandsLate", "2 effects, want 1"},
		{"L1", "PREPARE_UNANNOUNCED",
			adapter, "TestAPrepareThatWasCutOff", "which the service may have prepared"},
		{"L1", "LATE_PREPARE_TAKEN",
			adapter, "TestARollbackThatComesFirstIsKept", "work that came late"},
	}
}

// sessions are the mutants of sessions that a participant keeps for clients without a driver.
func sessions() []Kill {
	const keeper = "participant/session"
	return []Kill{
		{"S3", "PREPARED_WHILE_RUNNING",
			keeper, "TestPrepareWhileAStatementRuns", "vote YES (), want NO"},
		{"S3", "ROWS_UNCHECKED", keeper, "TestRowsAreCounted", "error <nil>, want"},
		{"S9", "SESSION_OUTLIVES_EPOCH",
			keeper, "TestANewerEpochEndsOlderSessions", "is alive in epoch 2"},
		{"L8", "BROKEN_STREAM_KEPT",
			keeper, "TestABrokenCallRollsBack", "vote YES (), want NO"},
	}
}

package mutant

// ID is one mutant. It is a number, so that a build without mutants holds no names.
type ID uint8

// The mutants, by what they break. None is no mutant.
const (
	None ID = iota
	// NoLog decides without a record.
	NoLog
	// AckBeforeLog tells the client before the record is durable.
	AckBeforeLog
	// Phase2BeforeDurable sends COMMIT before the record is durable.
	Phase2BeforeDurable
	// CommitOnMissingVote takes a branch without a vote for one that only read.
	CommitOnMissingVote
	// VoteIdentityUnchecked takes a Yes from another database.
	VoteIdentityUnchecked
	// SoftNoIsDefinitive takes an unknown vote for a No.
	SoftNoIsDefinitive
	// AbortWhileAppending rolls back while the decision is on its way to the disk.
	AbortWhileAppending
	// AbortOnLogError tells a client that a failed append is a rollback.
	AbortOnLogError
	// HeuristicTimeout gives up a prepared branch that has waited for long.
	HeuristicTimeout
	// ForgetEarly ends a transaction whose branches are not all finished.
	ForgetEarly
	// NotFoundIsOK takes a branch that is gone for a committed one.
	NotFoundIsOK
	// RecoverCommit commits what is prepared and has no record.
	RecoverCommit
	// ResumeVoting lets votes of an older epoch decide.
	ResumeVoting
	// NoSweep never looks for orphans.
	NoSweep
	// SweepInFlight takes a running transaction's branch for an orphan.
	SweepInFlight
	// OldLogInBlock presumes abort for names that the log has never handed out.
	OldLogInBlock
	// HoleUnnoticed presumes abort for names of a lost epoch until their loss is on the disk.
	HoleUnnoticed
	// NoLeap begins an epoch with the sequence behind the last one that the log knows of.
	NoLeap
	// ForeignIsOurs presumes abort for names of another log.
	ForeignIsOurs
	// IDAboveHighWater hands out sequences before they are durably reserved.
	IDAboveHighWater
	// KeyNotLogged leaves the idempotency key out of the record.
	KeyNotLogged
	// AbortUnwritten tells an abort, and rolls back, although an intent may be durable.
	AbortUnwritten
	// ImpliedUnwritten tells a commit before its intent is durable.
	ImpliedUnwritten
	// ReadOnlyImplied tells a commit although a branch of its intent has nothing prepared.
	ReadOnlyImplied
	// ImpliedWithoutConfirm tells a commit without knowing who owns the log by now.
	ImpliedWithoutConfirm
	// GoneIsNeverPrepared takes a branch that a failover has lost for one that never was.
	GoneIsNeverPrepared
	// OnePhaseUnlogged commits in one phase without the record before.
	OnePhaseUnlogged
	// OnePhaseDenied records an abort of what an inquiry has found committed in one phase.
	OnePhaseDenied
	// OnePhaseToldEarly tells a commit in one phase before its record is durable.
	OnePhaseToldEarly
	// FenceIgnored lets a deposed coordinator act.
	FenceIgnored
	// NoDeadline never rolls back an abandoned transaction.
	NoDeadline
	// NoLimit takes on work for a dead resource without end.
	NoLimit
	// RoomIgnored takes on work while the disk is full.
	RoomIgnored
	// DownForAll stops asking every resource when one does not answer.
	DownForAll
	// ReadyUnread starts without reading what the log holds.
	ReadyUnread
	// GivesUp stops asking a resource that has failed some times.
	GivesUp
	// SnapshotOfTheTail labels a snapshot with what is durable instead of what it holds.
	SnapshotOfTheTail
	// StallUnnoticed calls a coordinator healthy whose disk has stopped.
	StallUnnoticed
	// EmptyLogIsFresh makes a log in an empty directory at start.
	EmptyLogIsFresh
	// FsyncRetry tries a failed sync again and believes it.
	FsyncRetry
	// TruncateOnAnyCRCError takes every damaged frame for a torn one.
	TruncateOnAnyCRCError
	// PageCacheTrust believes the last frame without writing it again.
	PageCacheTrust
	// TailNotZeroed leaves what is behind a cut.
	TailNotZeroed
	// UnknownRecordSkipped reads over a record that a newer version wrote.
	UnknownRecordSkipped
	// VoteBeforeDurable votes Yes before the branch is on the disk.
	VoteBeforeDurable
	// RowsUnchecked lets a statement affect another number of rows than it must.
	RowsUnchecked
	// UncountedIsUnknown leaves a vote open although the rows that matter were never counted.
	UncountedIsUnknown
	// RollbackTag takes PREPARE's answer ROLLBACK for success.
	RollbackTag
	// WarningIsFine takes a PREPARE that may not be replicated for a Yes.
	WarningIsFine
	// DupGIDIgnored takes a name that is in use for a Yes.
	DupGIDIgnored
	// XIDNullIsReadOnly takes a transaction without a number for one that only read.
	XIDNullIsReadOnly
	// TimeoutMeansAborted tells an application that an unanswered commit was rolled back.
	TimeoutMeansAborted
	// ClientRollsBack finishes prepared branches from the application after Commit was sent.
	ClientRollsBack
	// UnheardCommits leaves it to the coordinator to look for a vote that its client never heard.
	UnheardCommits
	// PartsShare gives the parts of a transaction one branch at a resource.
	PartsShare
	// PartsLate lets somebody enlist after Commit has closed the set of branches.
	PartsLate
	// PartsAnnounced writes an intent down that lists branches of others.
	PartsAnnounced
	// FailedCallForgotten lets a transaction commit although a call within it failed.
	FailedCallForgotten
	// CallUnderWay lets one commit while a call within it has not ended.
	CallUnderWay
	// NoTrailerIsYes takes a call without votes for one that did nothing.
	NoTrailerIsYes
	// DelegateUnwritten tells of a transaction whose delegate is not on the disk yet.
	DelegateUnwritten
	// DelegatePresumed calls one off without asking for its marker.
	DelegatePresumed
	// DelegateDecidesFirst commits the delegate's branch beside the PREPAREs of the others.
	DelegateDecidesFirst
	// DelegateAsynchronous lets a marker be seen that is not on the disk.
	DelegateAsynchronous
	// DelegateAnywhen commits with a marker on a timeline that the coordinator has not seen.
	DelegateAnywhen
	// MarkerOnlyRead looks for a marker and writes none.
	MarkerOnlyRead
	// MarkerLossUnnoticed takes a marker that a failover has lost for one that never was.
	MarkerLossUnnoticed
	// MarkerRemovedEarly removes the markers of transactions that have not ended.
	MarkerRemovedEarly
	// LatePrepareTaken forgets a rollback that came before the branch's work.
	LatePrepareTaken
	// FenceNotKept lets a coordinator in without remembering its epoch.
	FenceNotKept
	// EndBeforeEffect notes that a branch is committed before its service has committed it.
	EndBeforeEffect
	// PrepareUnannounced asks a service to prepare before the journal says so.
	PrepareUnannounced
	// OwnerIgnored goes on with a journal that another process has taken over.
	OwnerIgnored
	// SeenOnce acts on what a branch was before the transaction.
	SeenOnce
	// BrokenStreamKept keeps the session of a client that has left in the middle of its work.
	BrokenStreamKept
	// SessionOutlivesEpoch leaves the sessions of an older epoch alone.
	SessionOutlivesEpoch
	// PreparedWhileRunning prepares a session one of whose statements has not ended.
	PreparedWhileRunning
)

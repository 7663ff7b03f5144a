package explore

import "fmt"

// Flaw is a deliberate mistake of something around the machine: a driver, a resource, the log.
type Flaw uint8

// The flaws. Each is here for a checker that has to find it.
const (
	// NoFlaw: everybody does what is owed.
	NoFlaw Flaw = iota
	// MissingIsCommitted: a resource takes "it does not exist" for a commit.
	MissingIsCommitted
	// AnswerBeforeDone: a resource acknowledges a commit that it has not done.
	AnswerBeforeDone
	// VoteBeforeDurable: a resource votes Yes for what is not durably prepared.
	VoteBeforeDurable
	// Unilateral: a resource that hears nothing rolls prepared branches back by itself.
	Unilateral
	// FenceIgnored: a resource obeys an epoch that it knows to be deposed.
	FenceIgnored
	// ForeignTaken: an adapter lists the branches of others as its own.
	ForeignTaken
	// SentOnce: the driver does not repeat what is decided.
	SentOnce
	// SweepBlind: the driver judges a listing by the durable log alone.
	SweepBlind
	// ToldBeforeDurable: the log calls a record durable that it has not written yet.
	ToldBeforeDurable
	// LogLosesCommit, LogLosesRange: a restart does not find the last such record.
	LogLosesCommit
	LogLosesRange
	// FailedAppendAborts: the driver takes an append that it has no answer to for one that failed,
	// and rolls back.
	FailedAppendAborts
	// AnswersUnowned: questions are answered from the log by somebody who does not own it.
	AnswersUnowned
	// CrashIsRollback: callers whose coordinator died are told that it was rolled back.
	CrashIsRollback
	// ClockRunsBack: the driver shows the machine an earlier time.
	ClockRunsBack
	// AbortsAtWill: the driver aborts without any reason.
	AbortsAtWill
	// SaysGone: a resource that commits a branch says that it is gone.
	SaysGone
	// LooksOnly: a resource says that there is no marker, and does not write one that says never.
	LooksOnly
	// DecidesFirst: a client commits the delegate's branch before the others are prepared.
	DecidesFirst
)

// String is the name of the flaw in reports.
func (f Flaw) String() string {
	names := [...]string{"none", "missing is committed", "answer before done",
		"vote before durable", "unilateral", "fence ignored", "foreign taken", "sent once",
		"sweep blind", "told before durable", "log loses commit", "log loses range",
		"failed append aborts", "answers unowned", "crash is rollback", "clock runs back",
		"aborts at will", "says gone", "looks only", "decides first"}
	if int(f) < len(names) {
		return names[f]
	}
	return fmt.Sprintf("Flaw(%d)", uint8(f))
}

package protocol

import "github.com/gavel-tx/gavel/txn"

// Instant is a point on the driver's monotonic clock, in nanoseconds. The machine never reads a
// clock; it is told.
type Instant int64

// ReqID ties a Reply to the event that asked. The driver chooses it; zero means that nobody waits.
type ReqID uint64

// Event is an input of the machine.
type Event interface{ isEvent() }

// Tick moves the clock. Deadlines, waiting bounds and retention happen only here.
type Tick struct{ Now Instant }

// Register makes a resource known, with the identity that it showed. Accept takes a changed
// identity or a position that went backwards, by an operator's word.
type Register struct {
	Req      ReqID
	Name     string
	Kind     string
	Identity txn.Identity
	Position txn.Position
	// Floor is what Seen said before the resource was asked who it is.
	Floor  txn.Position
	Accept bool
	// OnePhase says that it can commit a branch in one step, without preparing it. Delegate says
	// that it can keep markers. Evidence says that it can prove how a branch ended that is gone.
	OnePhase, Delegate, Evidence bool
}

// Begin starts a transaction or, with Request.ID set, enlists in one.
type Begin struct {
	Req     ReqID
	Request txn.BeginRequest
	// Until is when its caller goes away; zero means never. One that waits for a key is not served
	// after it.
	Until Instant
}

// Commit asks for the decision.
type Commit struct {
	Req     ReqID
	Request txn.CommitRequest
}

// Rollback asks for the opposite.
type Rollback struct {
	Req    ReqID
	ID     txn.ID
	Reason string
}

// Ask asks what became of a transaction. It is the linearizable read: its answer is from the state
// at the moment of the event.
type Ask struct {
	Req ReqID
	ID  txn.ID
}

// Voted is a resource's answer to a Prepare message.
type Voted struct {
	ID   txn.ID
	Vote txn.BranchVote
}

// Finished is a resource's answer to every message but a Prepare.
type Finished struct {
	ID       txn.ID
	Branch   txn.BranchNo
	Act      Act
	Standing txn.Standing
	Reason   string
	// SQLState is the database's code behind the reason, if it was one.
	SQLState string
	// Evidence answers an inquiry: of a prepared branch that of a vote, of one that is gone the
	// identity and the position at which it was not found. It also says who has decided, and when.
	Evidence txn.Evidence
	// Votes are what the marker of a Decide that was Committed holds.
	Votes []txn.BranchVote
}

// Swept is a complete listing of one resource. The listing was taken before this event, so whatever
// it shows was true before the state that the machine now judges it by.
type Swept struct {
	RM       RM
	Identity txn.Identity
	Position txn.Position
	// Floor is what Seen said when the listing was asked for: the history must not have gone below
	// it.
	Floor txn.Position
	Names []SweptName
	// Markers are transactions that have a marker of their commit at the resource.
	Markers []txn.ID
	// Partial says that the list was cut; it then proves the presence of names but not their
	// absence.
	Partial bool
}

// SweptName is one prepared branch of a listing.
type SweptName struct {
	Name txn.Name
	// Ours says that the resource may finish it.
	Ours bool
}

// Persisted says that every append up to Index is durable.
type Persisted struct{ Index uint64 }

// Confirmed says that this machine still owned the log at some moment after the Ready that asked
// for the round.
type Confirmed struct{ Round uint64 }

// Room says whether the log has room for new work, beyond the reserve that decisions may use.
type Room struct{ Available bool }

// Reached says whether a resource answers at present. It is a hint: nothing depends on its truth.
type Reached struct {
	Name string
	Up   bool
}

// Cancel says that whoever sent an event has gone away and wants no reply. What the event has done
// stays done; a Begin that still waits for a key or for sequences does nothing any more.
type Cancel struct {
	// Of is the event, with its Req.
	Of Event
}

// Drain refuses new transactions from now on. Those that run go on.
type Drain struct{}

func (Tick) isEvent()      {}
func (Register) isEvent()  {}
func (Begin) isEvent()     {}
func (Commit) isEvent()    {}
func (Rollback) isEvent()  {}
func (Ask) isEvent()       {}
func (Voted) isEvent()     {}
func (Finished) isEvent()  {}
func (Swept) isEvent()     {}
func (Persisted) isEvent() {}
func (Confirmed) isEvent() {}
func (Room) isEvent()      {}
func (Cancel) isEvent()    {}
func (Reached) isEvent()   {}
func (Drain) isEvent()     {}

// Act is what a message asks of a resource.
type Act uint8

// The acts.
const (
	ActPrepare Act = iota
	ActCommit
	ActRollback
	// ActOnePhase commits a branch that is not prepared. Its own commit is the decision.
	ActOnePhase
	// ActInquire asks where a branch stands and changes nothing.
	ActInquire
	// ActDecide asks how the transaction ends whose marker the resource keeps, and makes it so.
	ActDecide
)

// Acts is the number of acts.
const Acts = 6

// String is the name of the act in histories and messages.
func (a Act) String() string {
	return [Acts]string{"PREPARE", "COMMIT", "ROLLBACK", "ONE_PHASE", "INQUIRE", "DECIDE"}[a]
}

// Lasting says whether a message must be repeated until its resource has proven an end: what it
// asks is decided, or its answer is the decision. The others are asked once, and again by a later
// event.
func (a Act) Lasting() bool { return a != ActPrepare && a != ActRollback }

// Ready is what the machine wants done, in the order of each slice. The driver takes it after each
// event, or after several.
type Ready struct {
	// Appends go to the log, in this order; their effects come out when Persisted says that they
	// are durable.
	Appends []Append
	// Messages go to resources. A lost message is asked for again by a later event.
	Messages []Message
	Replies  []Reply
	Notes    []Note
	// Removals are of markers. One that is lost is asked for again after a later listing.
	Removals []Removal
	// Confirm, if not zero, is a round: the driver makes sure, at a moment after this, that nobody
	// else owns the log by now, and says Confirmed. If it cannot, it says nothing: what is held
	// back until then waits for a record to become durable, which proves the same.
	Confirm uint64
}

// Append is one record for the log. A forced one is waited for by somebody; a lazy one may ride
// along.
type Append struct {
	Index  uint64
	Record Record
	Forced bool
}

// Message asks one resource about one branch. The driver repeats one whose act is Lasting until its
// resource has proven an end (StandingCommitted, StandingRolledBack, StandingGone; for an inquiry
// StandingPrepared too), and hands every answer back.
type Message struct {
	Act      Act
	RM       RM
	ID       txn.ID
	Name     txn.Name
	Evidence txn.Evidence
}

// Removal asks one resource to remove markers that nobody needs any more.
type Removal struct {
	RM  RM
	IDs []txn.ID
}

// Reply answers an event's Req. Exactly one of the pointers is set, or none and Err is nil where
// success says it all.
type Reply struct {
	Req    ReqID
	Begun  *txn.Begun
	Result *txn.Result
	Err    error
}

// Note is something for people: a line in the journal, a metric, an alarm.
type Note struct {
	Kind   NoteKind
	ID     txn.ID
	Name   txn.Name
	RM     RM
	Label  Label
	Reason string
	// Result is set for NoteDone.
	Result *txn.Result
}

// NoteKind says what a Note is about.
type NoteKind uint8

// The kinds of notes. NoteAlarm needs a person.
const (
	NoteDone NoteKind = iota
	NoteSwept
	NoteAlarm
)

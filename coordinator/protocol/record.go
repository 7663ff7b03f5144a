package protocol

import "github.com/gavel-tx/gavel/txn"

// RM numbers a registered resource within one log, from 1, so that records need not repeat its
// name.
type RM uint16

// Record is what the log keeps. Package coordinator/record knows the bytes.
type Record interface{ isRecord() }

// OpenRecord is the first record of an epoch: who runs it. Nothing depends on it but people.
type OpenRecord struct {
	Epoch   txn.Epoch
	Host    string
	PID     int
	Version string
	// Wall is the wall clock in Unix nanoseconds, for people only.
	Wall int64
}

// RangeRecord moves the known range [Low, High) of sequences. High is raised before a sequence
// below it is handed out, so a restart never hands one out twice; Low is raised when outcomes below
// it may be forgotten.
type RangeRecord struct{ Low, High txn.Seq }

// ResourceRecord registers a resource, or changes what is known about it. It is durable before any
// commit names its RM.
type ResourceRecord struct {
	RM       RM
	Name     string
	Kind     string
	Identity txn.Identity
	Position txn.Position
}

// CommitRecord is the decision to commit. Its durability is the commit point. Only the branches it
// lists are ever committed.
type CommitRecord struct {
	ID       txn.ID
	Plan     txn.Plan
	Label    string
	Key      Key
	Branches []CommitBranch
}

// CommitBranch is a branch that voted Yes, with the evidence of its vote.
type CommitBranch struct {
	Branch   txn.BranchNo
	RM       RM
	Evidence txn.Evidence
}

// OnePhaseRecord says that the only branch with work is about to be asked to commit without being
// prepared. Its resource decides: until COMMIT or ABORT is recorded, no record does not mean abort.
type OnePhaseRecord struct {
	ID    txn.ID
	Label string
	Key   Key
	// Branch has, as evidence, who its resource was and how far its history had come.
	Branch CommitBranch
}

// IntentRecord says that the branches it lists are being prepared, and that the transaction is
// committed if all of them are. Until COMMIT or ABORT is recorded, no record does not mean abort.
type IntentRecord struct {
	ID    txn.ID
	Label string
	Key   Key
	// Branches have, as evidence, who their resources were and how far their histories had come.
	Branches []CommitBranch
}

// DelegateRecord says that the decision was left to the first of the branches that it lists, and
// which others are being prepared. Until COMMIT or ABORT is recorded, no record does not mean
// abort. A second one adds branches.
type DelegateRecord struct {
	ID    txn.ID
	Label string
	Key   Key
	// Branches have, as evidence, who their resources were and how far their histories had come.
	Branches []CommitBranch
}

// AbortRecord says that a transaction with a OnePhaseRecord, an IntentRecord or a DelegateRecord
// did not commit and never will.
type AbortRecord struct{ ID txn.ID }

// EndRecord says that every branch of these commits is proven finished, so that a restart need not
// ask.
type EndRecord struct{ IDs []txn.ID }

// HeuristicRecord says that a branch ended against the decision, or disappeared without proof. It
// is forced before anybody is told.
type HeuristicRecord struct {
	ID     txn.ID
	Branch txn.BranchNo
	RM     RM
	What   txn.BranchState
	// Wrote has bit n-1 set if branch n was more than a reader. An abort has no other record that
	// could say how many branches were rolled back.
	Wrote  uint64
	Reason string
}

// AdoptedRecord names a log whose decisions this log took over, and how far it was read: its
// branches are finished on its behalf, as of that epoch and position.
type AdoptedRecord struct {
	Log   txn.LogID
	Epoch txn.Epoch
	LSN   uint64
}

// HoleRecord says that no epoch in this log has handed out, or ever will, the sequences from From
// up to, not including, To: an epoch has leapt over them when it began, or some were found at a
// resource. Epochs may have that this log has lost, if it was set back to an earlier moment.
// Nothing is known about them, for ever.
type HoleRecord struct{ From, To txn.Seq }

// MarkRecord says how far sequences had come when the log had been run for Uptime, over all its
// epochs: what was begun before is at least that much older. Retention is counted by it.
type MarkRecord struct {
	Uptime Instant
	Next   txn.Seq
}

// OutcomesRecord is the committed set of a snapshot: bit i of Bits stands for sequence First+i.
type OutcomesRecord struct {
	First txn.Seq
	Bits  []byte
}

// KeyRecord is one retained idempotency key of a snapshot.
type KeyRecord struct {
	Key Key
	ID  txn.ID
}

func (OpenRecord) isRecord()      {}
func (RangeRecord) isRecord()     {}
func (ResourceRecord) isRecord()  {}
func (CommitRecord) isRecord()    {}
func (OnePhaseRecord) isRecord()  {}
func (IntentRecord) isRecord()    {}
func (DelegateRecord) isRecord()  {}
func (AbortRecord) isRecord()     {}
func (EndRecord) isRecord()       {}
func (HeuristicRecord) isRecord() {}
func (OutcomesRecord) isRecord()  {}
func (KeyRecord) isRecord()       {}
func (AdoptedRecord) isRecord()   {}
func (HoleRecord) isRecord()      {}
func (MarkRecord) isRecord()      {}

// Key is an idempotency key: half a SHA-256 of the key and of the body that it stands for. The zero
// Key means that the transaction has none.
type Key struct{ Hash, Body [16]byte }

// IsZero says whether there is no key.
func (k Key) IsZero() bool { return k == Key{} }

package participanttest

import (
	"testing"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txn"
)

// Proof is by what an adapter can tell how a branch ended that is not prepared any more.
type Proof uint8

const (
	// ProofNone: by nothing. It must answer Gone.
	ProofNone Proof = iota
	// ProofEvidence: by the evidence of the vote, where the caller still has it; else Gone.
	ProofEvidence
	// ProofMemory: by its own durable memory, whatever the caller brings.
	ProofMemory
)

// String is the word for the proof in tables.
func (p Proof) String() string { return [...]string{"no proof", "evidence", "memory"}[p] }

// Traits are the ways in which resources may differ without breaking a promise.
type Traits struct {
	// Proof is the strongest proof that the adapter has.
	Proof Proof
	// Shared says that several processes may have the resource open at once. If not, a second Open
	// must fail.
	Shared bool
	// OnePhase says that the adapter is a participant.OnePhaser. If not, its description must not
	// say so either, and where it has the method all the same, the call must fail.
	OnePhase bool
	// Delegate says that the adapter is a participant.Delegate, and that the resource under test is
	// set up for it: Decide and Mark of the Harness are set then. If not, the description must not
	// say so either, and where it has the methods all the same, the calls must fail.
	Delegate bool
	// Undecided says that a Prepare for a branch that failed or was abandoned before may answer
	// Unknown, because another process ran it. Without it the answer must be No.
	Undecided bool
}

// Work is one branch that an application has written in, and not prepared.
type Work interface {
	// Prepare prepares it in the resource's own way, as its application or its adapter does, and
	// returns the vote of the one who saw it.
	Prepare(t *testing.T) participant.Vote
	// Fail makes one of its steps fail in a way that the application ignores.
	Fail(t *testing.T)
	// Abandon ends the process or session that runs it, before it is prepared.
	Abandon(t *testing.T)
}

// Harness is a resource manager under test. All functions but the last three must be set. They end
// the test on failure. The suite uses one resource for all its tests, one after the other, with
// other names and keys each time.
type Harness struct {
	// Open returns an adapter onto the resource, as a process of its own would have it: two of them
	// share nothing but the resource itself. The suite closes it if it is a participant.Closer.
	Open func(t *testing.T) (participant.Resource, error)
	// Begin starts a branch under name, and writes one effect in it that Effect finds under key.
	// The resource and fence are for those whose adapter runs the branch; others ignore them.
	Begin func(t *testing.T, r participant.Resource, f txn.Fence, name txn.Name, key string) Work
	// Effect says whether the effect under key is there, as any other reader sees it. It must not
	// wait for branches.
	Effect func(t *testing.T, r participant.Resource, key string) bool
	// Resolve finishes a prepared branch behind the adapter's back, as an operator would.
	Resolve func(t *testing.T, r participant.Resource, name txn.Name, commit bool)
	// Crash ends the resource manager without any warning and starts it again. Adapters that were
	// open may be used on; those that the resource manager itself consists of are opened again, and
	// the one to use from now on is returned.
	Crash func(t *testing.T, r participant.Resource) participant.Resource
	// Foreign, if not nil, prepares a branch under name that the adapter is not allowed to finish,
	// and returns what removes it. Nil says that this resource knows no owners.
	Foreign func(t *testing.T, name txn.Name) (remove func())
	// Decide has the client commit a branch with the marker of its transaction, and returns the
	// vote of the one who saw it: Committed or No.
	Decide func(t *testing.T, w Work, decision []byte) participant.Vote
	// Mark has the client write the marker, as Decide does, and wait with its commit. What it
	// returns commits the branch, or rolls it back, and works until the resource crashes.
	Mark   func(t *testing.T, w Work, decision []byte) (end func(commit bool))
	Traits Traits
}

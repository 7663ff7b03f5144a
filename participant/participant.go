// Package participant is the side of gavel that speaks for resource managers: databases and
// services that can promise to commit.
//
// A [Resource] is one resource manager behind one interface, whether its adapter runs inside the
// coordinator's process or in a sidecar next to the database and is reached over gRPC (package
// participant/remote is both ends of that wire, and its client is a Resource again). The
// coordinator uses nothing else. What an adapter owes the protocol:
//
//   - Yes only on positive proof, No only from who saw the branch end, everything else is unknown.
//   - "It does not exist" is never success. An adapter with evidence proves how the branch ended
//     ([txn.StandingCommitted], [txn.StandingRolledBack]); one without says [txn.StandingGone].
//   - It asks the right database: a primary, of the registered identity, with a history that did
//     not go backwards. Otherwise [txn.StandingHeld], and nothing is finished.
//   - It touches only names of the log that calls, in its own database, that it may finish.
//   - Every call may be repeated, reordered and concurrent with any other; the effect is that of
//     one.
//
// Where one branch alone has work to do, no vote is needed: an adapter that is a [OnePhaser]
// commits it in one step, and that commit is the decision.
//
// The conformance suite in participant/participanttest holds an adapter to all of it.
package participant

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/gavel-tx/gavel/txn"
)

// MaxBatch bounds the branches of one call.
const MaxBatch = 256

// MaxListed bounds the names of one Listing; a longer list is reported as incomplete and acted upon
// in part.
const MaxListed = 100_000

// MaxMarkers bounds the markers of one Listing, and those of one call of RemoveMarkers. What is
// left out is listed later, when others were removed.
const MaxMarkers = 10_000

// ErrFenced is returned by every method when the call's fence is older than one already seen from
// the same log: the caller was deposed and must stop. Nothing was done.
var ErrFenced = errors.New("participant: fenced: a newer epoch of this log has been seen")

// ErrRegression is returned when the caller's log, at an equal or higher epoch, shows a durable
// position below one already seen: it was restored from a backup. Nothing was done.
var ErrRegression = errors.New("participant: the coordinator's log went backwards")

// ErrNotResolver is returned by Commit, Rollback and CommitOnePhase while another session holds the
// right to finish branches of this log in this database. Nothing was done; ask again.
var ErrNotResolver = errors.New(
	"participant: another process finishes the branches of this log here",
)

// ErrNoMarkers is returned by Decide and RemoveMarkers where the resource cannot keep markers, or
// cannot any more. It answers for everything else; somebody has to see to it. Nothing was done.
var ErrNoMarkers = errors.New("participant: the resource keeps no markers")

// Branch names one branch in a call, with the evidence of its vote where there is one.
type Branch struct {
	Name txn.Name
	// Evidence of a branch that was never prepared has no XID. It then says which resource is meant
	// and a position that its history had reached, so that one that was replaced or restored since
	// answers Held.
	Evidence txn.Evidence
}

// Vote is the answer to Prepare for one branch.
type Vote struct {
	Vote     txn.Vote
	Evidence txn.Evidence
	// Reason and SQLState say why the vote is not Yes.
	Reason   string
	SQLState string
}

// Finding is the answer to Commit, Rollback, Inquire and CommitOnePhase for one branch.
type Finding struct {
	Standing txn.Standing
	// Reason says what was seen, in words for an operator. Empty where Standing says it all.
	Reason string
	// SQLState of a RolledBack says why, as that of a Vote does: the caller sees by it whether the
	// work may succeed when it is run again. Empty: not known.
	SQLState string
	// Evidence answers an Inquire. Of a Prepared branch it is that of a Yes vote, with all that a
	// Yes vote vouches for. Of one that is Gone or RolledBack it has the identity and the position
	// at which it was not found, and an XID only if the branch is known to have been prepared. A
	// Decide has the identity and the position in any case.
	Evidence txn.Evidence
	// Votes answer a Decide that found the branch Committed: those that its marker holds.
	Votes []txn.BranchVote
}

// Listed is one prepared branch found by List.
type Listed struct {
	Name txn.Name
	// Ours says whether this adapter's role may finish the branch. Branches of other logs are
	// listed too; telling them apart is the caller's work.
	Ours bool
	// Owner is the database role that owns the branch, for people.
	Owner string
	// Age is how long it has been prepared, by the resource's own clock; for people, never for
	// decisions.
	Age time.Duration
	// Evidence of the branch as far as a listing can show it: identity, position and transaction
	// number.
	Evidence txn.Evidence
}

// Listing is the complete answer to "which branches are prepared?" at one moment.
type Listing struct {
	Identity txn.Identity
	Position txn.Position
	// Branches whose name starts with our prefix and parses, at most MaxListed of them.
	Branches []Listed
	// Unknown counts prepared transactions that are not ours: other prefixes, or names that do not
	// parse.
	Unknown int
	// Truncated says that there were more than MaxListed.
	Truncated bool
	// Used and Limit are the prepared slots of the resource manager, all databases together. Limit
	// 0: none.
	Used, Limit int
	// Markers are the transactions of the caller's log that have a marker of their commit here, in
	// the order of their ids, at most MaxMarkers of them.
	Markers []txn.ID
}

// Resource is one resource manager. All methods are safe for concurrent use. Slices passed in are
// not kept after the return; slices returned belong to the caller. The result has one element per
// branch, in order, whenever the error is nil; an error means that nothing is known about any of
// them, except for the sentinels above, which promise that nothing was done.
type Resource interface {
	// Prepare asks for the vote of branches that the caller did not prepare itself. On Yes the
	// branch is durable at the resource. Repeating it returns the same vote.
	Prepare(ctx context.Context, f txn.Fence, b []Branch) ([]Vote, error)
	// Commit finishes prepared branches whose COMMIT is durable in the caller's log. Standing
	// Committed means durably committed, now or before; only evidence makes it say so for a branch
	// that is not listed.
	Commit(ctx context.Context, f txn.Fence, b []Branch) ([]Finding, error)
	// Rollback finishes prepared branches that will never commit. A branch that does not exist is
	// Gone, which is enough for the caller's log; should it appear later, a sweep finds it.
	Rollback(ctx context.Context, f txn.Fence, b []Branch) ([]Finding, error)
	// Inquire tells where branches stand. It changes nothing about what is prepared, nor about work
	// of the caller's own epoch. Unprepared work of older epochs has been rolled back when it
	// answers, as when any call of a newer epoch does: of such a branch it says Committed or
	// RolledBack, with the proof that [OnePhaser] demands, or Gone. RolledBack is a promise, and
	// may be remembered against the branch's name.
	Inquire(ctx context.Context, f txn.Fence, b []Branch) ([]Finding, error)
	// List names every prepared branch with our prefix in this database, of all logs. It fails,
	// rather than returning less, on a standby, on a wrong identity or when it cannot see
	// everything.
	List(ctx context.Context, f txn.Fence) (Listing, error)
}

// OnePhaser is implemented by resources that can commit a branch that is not prepared. It is safe
// for concurrent use, and slices are treated as those of a Resource are.
type OnePhaser interface {
	// CommitOnePhase commits branches in one step: the resource's own commit is the decision. The
	// caller's log holds, durably, that it was asked for, and nothing about how it ends, so that
	// every answer must be one that the resource gives again after a crash of either.
	//
	//	Committed    durably committed, by this call or before
	//	RolledBack   proven that it did not commit, and never will under this or an older fence: a
	//	             conflict, an earlier call of the branch that failed, or work that was lost
	//	             where the adapter durably knows every commit
	//	Gone         it is not here, and nothing proves how it ended; this very call did not
	//	             commit it, so that as the answer to the only call it is a rollback
	//	Held         as everywhere: the resource is another one, or went backwards
	//	Foreign      as everywhere: it must not be finished by this caller
	//	Unknown      ask again
	//
	// A branch that is prepared already is committed. Repeating the call gives the same answer;
	// Committed and RolledBack may only ever turn into Gone, when the adapter's memory is bounded.
	//
	// An older fence than one already seen is ErrFenced, as everywhere. For the other calls it is
	// enough to refuse when they arrive, since what a deposed caller delivers was decided durably.
	// Here the call itself decides, and so the fence is judged where the branch commits: once any
	// call of a newer epoch was answered, no call of an older one, not even one that was let in
	// before, makes a branch commit.
	CommitOnePhase(ctx context.Context, f txn.Fence, b []Branch) ([]Finding, error)
}

// Delegate is implemented by resources to which the decision can be left: instead of preparing its
// branch there, a client commits it together with a marker, which holds the votes of all other
// branches. There is one marker for a transaction at most, and whoever writes it first decides: one
// without votes says that the transaction never commits. It is safe for concurrent use, and slices
// are treated as those of a Resource are.
//
// A marker is the LogOnce of Cornus (Guo et al., PVLDB 16, 2022), kept by a database.
type Delegate interface {
	// Decide tells how transactions end of which each branch given is the one with the marker, and
	// makes it so: where there is no marker it writes one that says never.
	//
	//	Committed    durably committed, with Votes
	//	RolledBack   there is, durably, a marker that says never, by this call or before; so that
	//	             no commit with a marker can succeed any more, not even one under way
	//	Held         as everywhere: the resource is another one, or went backwards
	//	Foreign      as everywhere: it is not of the caller's log
	//	Unknown      ask again; a commit with a marker may be under way
	//
	// Its Finding has the identity and the position of the resource in any case but Unknown.
	Decide(ctx context.Context, f txn.Fence, b []Branch) ([]Finding, error)
	// RemoveMarkers removes markers of commits, of the caller's log, that nobody will ask for any
	// more. A marker that says never stays: the client that it is against may be no more than slow.
	// An error leaves them where they are, or some of them.
	RemoveMarkers(ctx context.Context, f txn.Fence, ids []txn.ID) error
}

// Describer is implemented by resources that can tell what they are.
type Describer interface {
	// Describe connects and returns the facts that registration records, with a check of everything
	// that would make commits fail later. It changes nothing that lasts.
	Describe(ctx context.Context) (Description, error)
}

// Closer is implemented by resources that own connections. Close waits until they are gone.
type Closer interface{ Close() error }

// Description is what a resource says about itself.
type Description struct {
	// Kind is "postgres", "kv", …; Version is the server's own.
	Kind, Version string
	Identity      txn.Identity
	Position      txn.Position
	Used, Limit   int
	// Evidence says whether the adapter can prove how a vanished branch ended, by the evidence of
	// its vote or by a memory of its own. The coordinator never takes the parallel plan with one
	// that cannot, and a branch that is gone after a commit is a hazard there, for a person.
	Evidence bool
	// OnePhase says whether the adapter implements OnePhaser. A caller asks this and not the type:
	// the client of a resource in another process has the method whatever the resource can do.
	OnePhase bool
	// Delegate says, likewise, whether the adapter implements Delegate and was set up for it.
	Delegate bool
	Checks   []Check
}

// Findings are the checks, and what the description itself warns of: a resource without evidence
// works, and needs a person where others do not.
func (d Description) Findings() []Check {
	if d.Evidence {
		return d.Checks
	}
	return append(slices.Clone(d.Checks), Check{Level: LevelWarn,
		What: "it cannot prove how a branch ended: where the answer to a commit is lost, the " +
			"outcome is HEURISTIC_HAZARD",
		Fix: "see docs/ADAPTERS.md: an adapter that keeps evidence, or remembers ends, can"})
}

// Level grades a Check.
type Level uint8

// The levels of a check.
const (
	LevelOK Level = iota
	LevelWarn
	LevelFail
)

// String is the level as commands print it; what fails stands out.
func (l Level) String() string { return [...]string{"ok", "warn", "FAIL"}[l] }

// Check is one finding about a resource's set-up.
type Check struct {
	Level Level
	// What was found, in one line.
	What string
	// Fix is a command or setting to paste; empty for LevelOK.
	Fix string
}

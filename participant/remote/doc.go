// Package remote is both ends of the wire between a coordinator and a participant in another
// process: a [Server] over any participant.Resource, and a [Client] that is a
// participant.Resource again.
//
//	coordinator ── Client ══ ParticipantService ══ Server ── Resource (postgres, kv, …)
//
// Nothing is lost or added in between: the sentinels of package participant come out as they went
// in, every other failure is an error that says nothing about the branches, and an answer with a
// missing or a foreign element is no answer.
//
// # Fencing
//
// Every call carries the coordinator's fence. The server refuses a deposed coordinator
// (participant.ErrFenced) and a log that went backwards (participant.ErrRegression) before it
// touches the resource, and remembers what it has seen in a file. The client says Hello before
// the first call of an epoch, so that the participant learns of the epoch, and can drop what an
// older one left unprepared, before it is asked to do anything for it.
//
// A call of the deposed coordinator that was let in just before the newer one's Hello may still
// be under way afterwards. That is harmless: a commit that it delivers was decided durably in the
// log that the newer one has read; a rollback concerns a transaction without a decision, which
// the newer one presumes aborted as well; and a prepare makes an orphan at worst, which the sweep
// finds.
//
// A one-phase commit is the exception, since it decides. The server cannot take it back once it is
// let in, and so a resource that is a participant.OnePhaser judges the fence itself, where the
// branch commits.
//
// What a participant.Delegate is asked for decides as well, and is harmless all the same: of a
// transaction whose decision was left to it, the newer coordinator knows no more than that, and
// asks for the same marker; there is one, whoever had it written. Markers that the deposed one has
// removed were those of transactions whose end its log holds.
package remote

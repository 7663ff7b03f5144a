// Package protocol is presumed-abort two-phase commit as a pure state machine.
//
// The [Machine] takes events ([Machine.Step]) and says what to do ([Machine.Ready]): records to
// append, messages to send, replies to give. It does no I/O, reads no clock, starts no goroutine,
// and iterates over no map where the order could be seen. Production, exhaustive exploration and
// simulation drive the same code.
//
// # A transaction
//
//	     Begin            Commit           all voted, one wrote
//	──▶ ACTIVE ────────▶ PREPARING ───────────────────────▶ DECIDING
//	      │  ▲ Enlist        │                                  │ COMMIT is on its way to the
//	      │  └──┘            │ a No, a deadline, a client       │ disk: nothing may abort it
//	      ▼                  ▼                                  ▼ Persisted: the commit point
//	   ROLLING_BACK ◀────────┘                              COMMITTING ──▶ COMMITTED
//	      │ each branch gone, or left to the sweep              │            (END, lazily)
//	      ▼                                                     ▼ a branch ended otherwise
//	   ROLLED_BACK                                          HEURISTIC (until a person forgets it)
//
// # A branch
//
//	ENLISTED ──Yes──▶ PREPARED ──COMMIT PREPARED──▶ COMMITTED
//	   │                 │ └──proof of the opposite──▶ HEURISTIC_ROLLBACK
//	   │                 │ └──gone without proof─────▶ HEURISTIC_HAZARD
//	   ├──ReadOnly──▶ READ_ONLY
//	   └──No────────▶ ROLLED_BACK ◀──ROLLBACK PREPARED── PREPARED
//
// A transaction in which one branch wrote, that is not prepared, may be committed in one phase: the
// diagram is in onephase.go. It is DECIDING until its resource has answered, and IN_DOUBT after a
// restart until then. One whose decision was left to a branch has been DELEGATE in the log since it
// began: delegate.go.
//
// # The rules that the code is arranged around
//
//   - Only decisions to commit are forced. Begin, votes and aborts leave no record, and no record
//     means abort: Mohan, Lindsay and Obermarck (TODS 1986), section 3.2.
//   - What depends on a forced record is an effect of [Persisted]. No function that sends a COMMIT
//     or tells a client "committed" is reachable otherwise.
//   - From the append of COMMIT until it is durable nothing may abort: an append whose result is
//     unknown is neither commit nor abort.
//   - END is appended when every branch is proven finished, and a branch that ended otherwise never
//     ends the transaction by itself.
//   - A machine that starts from a log never resumes voting: what the log does not hold is aborted.
//   - A sweep judges each listed name by the table above [Judge], from one look at the state taken
//     after the list.
package protocol

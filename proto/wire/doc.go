// Package wire translates between the words of gavel and their wire format: package txn and package
// participant on one side, proto/gavel/v1 on the other. Nothing else in the tree does.
//
// # Errors
//
// [Status] is the one place where an error becomes a gRPC status. Each reason, a stable word, has
// one code and one [Explanation]: what happened, what it means for the data, what to do.
// [TransactionError] and [ParticipantError] are the way back. They are strict in one direction
// only: what is not positively a definite answer of gavel's own is unknown ([txn.ErrUnknown]). So
// ABORTED from a proxy, a lost connection and a deadline all mean "ask again", and never "rolled
// back".
//
//	server                          status                          client
//	*txn.Refusal             ──▶    code of its reason       ──▶    *txn.Refusal
//	*OutcomeError: rolled back ──▶  ABORTED, cause           ──▶    *OutcomeError
//	*OutcomeError: heuristic ──▶    DATA_LOSS                ──▶    *OutcomeError
//	participant.ErrFenced …  ──▶    FAILED_PRECONDITION …    ──▶    participant.ErrFenced …
//	anything else            ──▶    UNAVAILABLE, INTERNAL …  ──▶    wraps txn.ErrUnknown
//
// # Values
//
// A word that this version does not know, sent by a newer one, is read as the unknown of its
// kind: VoteUnknown, StandingUnknown, OutcomeUnknown. It is never rounded to an answer. Strings
// that do not parse (ids, prepared names) are errors.
package wire

// Package remote reaches a coordinator in another process, over gRPC.
//
// A [Client] has the three methods by which package client decides transactions (Begin, Commit,
// Outcome), so an application that embeds a coordinator and one that dials it look the same:
//
//	c, err := remote.Dial("coordinator.internal:7440", remote.WithTLS(files))
//
// # One session for all calls
//
// The calls of a Client share one stream, the service's Session, that opens with the first of them,
// and share its messages when they meet. This costs a fraction of what calls by themselves cost,
// and changes nothing of what they mean:
//
//	call ──▶ queue ──▶ sender ──▶ SessionRequest{calls, cancels} ──▶ coordinator
//	call ◀──────── receiver ◀── SessionResponse{answers} ◀────────────────┘
//
// No timer gathers anything: a lone call is sent at once, and calls gather while a message is being
// sent. A call whose context ends returns at once, and the coordinator hears of it. A stream that
// breaks leaves the effect of every call on it unknown, as if each answer had been lost; the next
// call opens another one. The coordinator asks for another one as well, now and then, and then no
// call is lost. Calls go by themselves to a coordinator that is too old for sessions, where they
// are too large for a message that is shared, and with [WithSingleCalls].
//
// # Asking until it is known
//
// A lost reply says nothing about what the coordinator did. Every call of the service may be
// repeated, so the client repeats it, with growing and jittered pauses:
//
//	Commit     until the answer is final or the context ends. Then the error wraps txn.ErrUnknown.
//	Begin      for a bounded time: a transaction whose id was lost leaves no trace
//	others     for a bounded time
//
// What a Commit may return, and what it means:
//
//	result                        meaning
//	Committed                     durable
//	RolledBack                    the coordinator said so, positively; nothing remains
//	Heuristic…, Forgotten         final; a person has to look
//	error with txn.ErrUnknown     open: ask Outcome later
//	any other error               the commit was refused or never sent, and did nothing
//
// A timeout is never RolledBack. Neither is a refusal that follows an unanswered attempt, or a
// commit of the delegate: "there is no such transaction" may then well come from a coordinator that
// lost its log, and is reported as open.
package remote

// Package remote reaches a coordinator in another process, over gRPC.
//
// A [Client] has the three methods by which package client decides transactions (Begin, Commit,
// Outcome), so an application that embeds a coordinator and one that dials it look the same:
//
//	c, err := remote.Dial("coordinator.internal:7440", remote.WithTLS(files))
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
// A timeout is never RolledBack. Neither is a refusal that follows an unanswered attempt: "there
// is no such transaction" may then well come from a coordinator that lost its log, and is
// reported as open.
package remote

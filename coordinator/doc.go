// Package coordinator runs two-phase commit: it decides global transactions, keeps the decisions in
// a write-ahead log, and drives every branch to its outcome, across any crash and without a person.
//
// It is a library. A server is not needed:
//
//	c, err := coordinator.Open(ctx, coordinator.Config{
//		Dir: "/var/lib/app/gavel", // made once by Init
//		Resources: []coordinator.Resource{
//			{Name: "bank_a", Manager: a}, {Name: "bank_b", Manager: b},
//		},
//	})
//	defer c.Close()
//	// c is a client.Decider: see package client.
//
// # How it works
//
//	callers ─▶ inbox ─▶ loop ─────────▶ core.Core (pure)
//	                     │   Appends ─▶ txlog ── Persisted ──▶ loop
//	                     │   Calls ───▶ workers ─▶ resources ── answers ──▶ inbox
//	                     └─  Replies ─▶ callers
//
// One goroutine, the loop, owns the core, which knows what to ask of whom and when. The goroutines
// around it only carry: the log's flusher, and a few workers for each resource. [Coordinator.Close]
// joins them all.
//
// # What callers may rely on
//
// Commit returns an error that wraps [txn.ErrUnknown] whenever it does not know the outcome; every
// other error means that the request changed nothing. Once it has answered Committed, that decision
// is on disk. If the log fails, the coordinator fails with it, for good ([Coordinator.Failed]):
// what an append of unknown result did is learnt by opening the log again, never guessed.
package coordinator

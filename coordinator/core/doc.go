// Package core is a coordinator without goroutines, clock and I/O: the protocol's machine, the
// queues in front of the resources, the sweeps, registration, retries and snapshots, as steps over
// (now, event).
//
//	            Tick, Request, Answered, Persisted          Work
//	driver ───────────────────────────────▶ Core ──────────────────▶ driver
//	                                         │  │ Calls to resources, Replies, Notes, Lines
//	                      protocol.Machine ◀─┘  └─▶ Log.Append
//
// The driver carries: it makes the calls that Work asks for, with a time limit, and hands their
// answers back; it tells when the log has made something durable; it gives replies to their
// callers. Package coordinator does it with goroutines and the real clock, a simulation with a
// random number generator. The same steps give the same work.
//
// Nothing that depends on a record is in the work before the record is durable, because it comes
// out of the machine only then.
package core

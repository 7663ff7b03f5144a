// Package bench measures what an atomic commit costs: transfers of money between real databases, by
// gavel and by hand, side by side in the same run.
//
// A [Row] is a line of the benchmark, one way of making a transfer. The floors are written by hand
// on bare connections, as tight as a careful person would write them; most of them give up
// something that gavel keeps (see Row.About). Everything that is said about gavel is said as a
// ratio to its floor, and a ratio is taken within one round, so that a machine which is busier for
// a while is busier for both.
//
//	round ─┬─ group: all lines at 8 clients ─┬─ cell: warm-up, measure, settle, audit
//	       │   (groups, and the lines of a   ├─ cell
//	       │    group, in a fresh order)     └─ …
//	       ├─ group: 2, 4, 8 branches
//	       └─ group: open loop at a rate from this round's floor
//
// Throughput is measured in a closed loop: each client starts its next transfer when the last one
// is done. Latency is measured in an open loop: transfers are due at a constant rate, whatever
// became of those before, and count from the moment they were due, so that a line that stalls pays
// for everybody who waited meanwhile (Tene, "How NOT to Measure Latency", 2015).
//
// After each cell nothing may be prepared any more, and the sum of all balances must be what it was
// at the beginning. A run that finds otherwise ends with [ErrAudit]: figures about a line that
// loses money are of no interest.
//
// A transfer that ends in a lock timeout, a deadlock or a lack of prepared slots is certain to have
// changed nothing. It is made again and counted as aborted, and its latency includes all attempts.
// Any other error ends the run.
//
// To add a line, add one row to [Rows], with the function that opens it.
package bench

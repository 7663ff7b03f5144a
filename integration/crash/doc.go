// Package crash kills processes of a running installation at every named step of a transaction, and
// looks whether what was promised still holds.
//
//	test ──┬── post          every process reports its steps here, and waits for a word to go on
//	       ├── coordinator   gavel coordinator, with the bank's two databases as its resources
//	       ├── sidecars      gavel participant, one per database, where the mode has them
//	       ├── PostgreSQL    two servers, private to the test
//	       └── teller        a client process: transfers between the databases, several at once
//
// One round is one kill. The teller works; the post catches one process at one step and holds it
// there ([Cell]); the victim is killed, and is gone before the held process may go on; what was
// killed is started again; the teller finishes what it has begun, and rests. Then everything that
// can be known about every transfer of the round is put into a [Book], and [Book.Check] compares:
// the rows at both databases, what the teller was told, what the coordinator says now, what its log
// says, what is still prepared, and the sum of all balances. No step is ever reached by waiting for
// a time.
//
// The steps are those of package txn/point, which only binaries with the tag failpoints report. The
// mapping from promises to what is checked:
//
//	atomicity                     a transfer has its row at both databases or at neither
//	one truth                     answer, outcome and log agree with the rows
//	durable acknowledgement       "committed" was said: the rows are there
//	no masked damage              no outcome is heuristic, and the journal has no error
//	client truth                  "rolled back" was said: the rows are not there
//	resolution                    soon after the round nothing is prepared any more
//
// # Looking again
//
// GAVEL_SEED chooses another order, and GAVEL_CELL a part of the table by its name:
//
//	GAVEL_SEED=7 GAVEL_CELL=sidecars/beforeForce/ go test -run KillTable -v ./integration/crash
//
// Real processes do not run the same way twice; the same seed kills the same victims at the same
// steps in the same order. A violation ends the run with the last steps of all processes and the
// ends of their journals.
package crash

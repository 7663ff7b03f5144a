// Package crash kills, stops and cuts off the processes of a running installation, at every named
// step of a transaction and at any other moment, and looks whether what was promised still holds.
//
//	test ──┬── post          every process reports its steps here, and waits for a word to go on
//	       ├── coordinator   gavel coordinator, with the bank's two databases as its resources
//	       ├── sidecars      gavel participant, one per database, where the mode has them
//	       ├── proxies       before the databases, or the sidecars, where messages are to be lost
//	       ├── PostgreSQL    two servers, private to the test, and a standby where one has to die
//	       └── teller        a client process: transfers between the databases, several at once
//
// There is another installation, the ring: one transaction spans a resource manager of each kind,
// and whatever one place pays the others receive.
//
//	test ──┬── post          as above
//	       ├── coordinator   gavel coordinator, with PostgreSQL and MariaDB in its process
//	       ├── kv            gavel participant --kv
//	       ├── service       purse, a service as a user writes it over participant/service, with a
//	       │                 bbolt file of its own
//	       └── teller        transfers between all four, or some of them: also with places that
//	                         are only read, with one place alone, with one that must refuse
//
// In the kill table, one round is one kill. The teller works; the post catches one process at one
// step and holds it there ([Cell]); the victim is killed, and is gone before the held process may
// go on; what was killed is started again; the teller finishes what it has begun, and rests. The
// other tests do something else in the middle ([Fault]), to the same installation:
//
//	kill table           every victim at every step
//	storm                any victim at any moment, also while the last one is still getting up
//	ring                 a kill table and a storm over PostgreSQL, MariaDB, kv and a service
//	lost messages        request or reply, lost or late, of PREPARE, COMMIT and ROLLBACK PREPARED
//	frozen               a process that wakes up after every timeout, as if no time had passed
//	partition            coordinator and sidecars cut off from each other, one way or both
//	slow client          a client that sends its Commit long after its votes
//	caller leaves        a caller who goes away between the decision and its answer
//	zombie PREPARE       a branch that is prepared after its transaction was rolled back
//	slots exhausted      a server that can prepare nothing more
//	hands                a person who finishes branches between decision and phase two
//	failover             a primary that dies there, and a standby that has all of it, or not
//	second coordinator   on the same log, or on a copy of it
//
// After each round everything that can be known about every transfer of it is put into a [Book],
// and [Book.Check] compares: the rows at both databases, what the teller was told, what the
// coordinator says now, what its log says, what is still prepared, the order of transfers that
// count ([CompareTrails]), and the sum of all balances. Where a person is needed, by hands and by a
// failover that lost something, exactly that transaction may be wrong, and must be shown as wrong.
// No step is ever reached by waiting for a time; only how long a fault lasts is one.
//
// The steps are those of package txn/point, which only binaries with the tag failpoints report. The
// mapping from promises to what is checked:
//
//	atomicity                     a transfer has its row wherever it changes something, or nowhere
//	one truth                     answer, outcome and log agree with the rows
//	durable acknowledgement       "committed" was said: the rows are there
//	no masked damage              no outcome is heuristic, and the journal has no error
//	client truth                  "rolled back" was said: the rows are not there
//	resolution                    soon after the round nothing is prepared any more, at any place
//	refusal                       what one place refuses is nowhere
//	irrevocability                the answers of a storm have an order in which all were true
//	containment                   branches of others, planted before a storm, are there after it
//	fencing                       a late commit, a late PREPARE, a late coordinator change nothing
//
// # A branch that MariaDB hides
//
// MariaDB may say OK to the end of a branch, do nothing, and show the branch no more until its
// server is restarted (package xabranch). What is promised is that nobody is told of its end
// before, and that it comes to its end after. So a branch that has written its row, has not ended
// and is not listed counts as prepared; where nothing else is left of a round, the test restarts
// the server, says so and how often, and everything must hold as in any other round. One test hides
// a branch by hand.
//
// # Looking again
//
// GAVEL_SEED chooses other dice, and GAVEL_CELL a part of the kill table by its name:
//
//	GAVEL_SEED=7 GAVEL_CELL=sidecars/beforeForce/ go test -run KillTable -v ./integration/crash
//
// The ring's cells begin with "ring/", and TestRealRing hits each of them once. The other tests
// draw a sample of what they could do. GAVEL_FULL=1 does all of it, the ring's table three times,
// and a storm ten times as long; GAVEL_KILLS sets the number of a storm's kills. The last line
// counts every fault, and a run of all tests fails if one never happened.
//
// Real processes do not run the same way twice; the same seed kills the same victims at the same
// steps in the same order. A violation ends the run with the last steps of all processes and the
// ends of their journals.
package crash

// Package explore walks through every history of the real coordinator in a small world.
//
// The coordinator is not a model: it is [protocol.Machine] over [protocol.State], with records that
// pass through package coordinator/record. Everything around it is a world in one value:
//
//	clients ──Begin, Commit, Rollback, Ask──▶ machine ──appends──▶ log      durable one by one, or
//	   │                                       ▲  │                         lost by a crash
//	   │ PREPARE on their own sessions         │  └─messages─▶ calls        late, lost, twice
//	   ▼                                       │                 │
//	resources: sessions, prepared branches, ◀──┼─────────────────┘
//	timelines, evidence, fences, people        └── answers, listings that have grown old
//
// A coordinator can also be deposed: a new epoch starts on what is durable, and the old one goes on
// for some steps. What it has sent is under way, what it replies is an answer that somebody got,
// and nothing that it appends becomes durable.
//
// A client may call other processes, which work in parts of their own and send their votes home. A
// call may be made again at any time, by somebody between the two, and run beside the first; one
// answer comes home, or none.
//
// A [Scenario] says who takes part and how often each kind of fault may strike. [Run] goes through
// its states breadth first: from each state every possible next step is taken, on a copy, and a
// state that was seen before is not followed again. So the first violation that is found is one of
// the shortest, and a run without one is a proof within the bounds.
//
// # What is checked
//
// Each promise has a [Checker] with a name. Most look at single steps: what the machine appends,
// sends and replies is compared with what has really happened in the world, which knows more than
// any of its inhabitants. From every state the world is also set right on a copy: faults end, calls
// arrive, time passes. Nothing may then be in doubt ("liveness"), and what was told must be true.
//
// A checker that never complains proves nothing, so a scenario can have a [Flaw]: one deliberate
// mistake of the driver, a resource or the log, which a named checker must find.
//
// # Looking further
//
//	go test -run Scenarios -v ./integration/explore                  what every test run sees
//	GAVEL_EXPLORE=deep go test -timeout 2h ./integration/explore     more of everything
//
// A violation is printed with the name of its checker and the history that leads to it, in the form
// of the files in coordinator/protocol/testdata/histories.
//
// # How a coordinator is copied
//
// A machine cannot be cloned from outside, and running its history again for every step is slow.
// The file deep.go copies the whole world by reflection, and writes it down in a canonical form by
// which states are told apart: instants relative to now and maps in order. Left out is what only
// people see, and counters that are compared with nothing but themselves; of a count that a
// decision depends on, as much as that needs. A test holds the copies against histories that are
// run anew.
//
// # What is not in this world
//
// Torn and corrupt frames (package txlog), adopted logs, resources that answer from another server
// or from a restored backup, more than one listing or registration of a resource under way at once,
// and the coordinator's limits. Package sim has worlds with most of that.
//
// A commit may be told that follows from an intent and from prepared branches. Before its record is
// durable a person who ends such a branch may turn the answer into a lie: an intent does not hold
// the numbers by which PostgreSQL tells how a branch has ended. The checkers do not complain then.
package explore

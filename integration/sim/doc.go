// Package sim runs the coordinator in worlds that are drawn from a seed.
//
// A world is one value in one goroutine: a clock that jumps from event to event, a network that
// loses, repeats, delays and reorders, databases that crash and fail over, clients that die, people
// who meddle, and a coordinator. One seed is one world is one checksum over everything that has
// happened in it, on any machine. What goes wrong once goes wrong again:
//
//	go test ./integration/sim -run TestReplay -v -sim.world=full -sim.seed=123
//
// # Two coordinators
//
//	full   core.Core as in production, over a real txlog in driven mode, on files in memory that
//	       crash sector by sector, fill up, fail and rot
//	bare   protocol.Machine alone, over a list of records; some thirty times as many worlds in
//	       the same time
//
// Network, databases, clients and checkers are the same for both.
//
//	clients ──requests──▶ life ──calls──▶ databases
//	   │                   │ ▲ answers        ▲  sessions, prepared branches, timelines,
//	   │                   ▼ │                │  evidence, fences, slots
//	   │                  disk                │
//	   └───────── SQL, PREPARE ───────────────┘
//
// A life is one epoch of the coordinator: what belongs to it ends with it. Messages that are on
// their way do not.
//
// Some clients announce that they prepare, some let the coordinator do that, and some ask for the
// plan without an intent. A commit that was told ahead of its record is where faults like to lie in
// ambush.
//
// Some leave the decision to one of their databases, if that keeps markers: the client prepares all
// other branches by itself, and then commits the delegate's with its marker, or calls it off. Its
// commit may answer late or never, may come after the coordinator had it decided otherwise, and a
// failover may take it back.
//
// Some call other processes, which enlist as parts of their own, at any database, prepare, and send
// their votes home. Such a call may be lost, made again, or doubled by the network; the processes
// die by themselves; and a few clients go on without an answer, as if nobody had been called. What
// a call did commits in one of its parts, with its caller's transaction, or not at all.
//
// # Two phases
//
// First everything that the seed has drawn goes wrong, and the checkers watch single steps: what is
// appended, sent, answered and told is compared with what has really happened, which the world
// knows and nobody in it. Then all faults end, and within a bounded virtual time nothing of ours
// may be prepared or in doubt, and every question must be answered.
//
// Which faults a world knows, and how often, is drawn with its seed: a world with everything in it
// seldom gets anywhere (swarm testing: Groce et al., ISSTA 2012). A run counts what really
// happened, by kind; one of the fixed worlds, in its usual size, fails if a kind never did.
//
// The checkers have the names of package integration/explore, which proves the same promises of all
// histories of small worlds, and there are a few more, for disks and deadlines. A checker that
// never complains proves nothing: each is the first to be named for some flaw of the world, its
// driver or its clients, and must find it.
//
// # What is not in these worlds
//
// A database that was restored from a backup and has caught up with the position that was seen of
// it before: nothing tells it from the right one. A coordinator's log that was set back. Adopted
// logs.
package sim

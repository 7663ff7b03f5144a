package explore

import (
	"slices"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/txn"
)

// Depth says how much there is time for.
type Depth uint8

// The depths. Quick is for slow builds, Usual for every test run, Deep for a long one.
const (
	Quick Depth = iota
	Usual
	Deep
)

// Scenarios returns the worlds that there is time for. Each looks at one kind of trouble, with
// bounds that let it be gone through to the end.
func Scenarios(d Depth) []Scenario {
	all := quick()
	if d >= Usual {
		all = append(append(all, crashes()...), troubles()...)
		all = append(append(append(all, parallel()...), delegate()...), parts()...)
	}
	if d >= Deep {
		all = append(append(all, deeper()...), parallelDeeper()...)
		all = append(append(all, delegateDeeper()...), partsDeeper()...)
	}
	return all
}

// quick are small worlds.
func quick() []Scenario {
	return []Scenario{
		{Name: "nothing goes wrong",
			Resources: resources("ab", proves), Transactions: ofClient("a", "b"),
			Bounds: Bounds{Repeats: 1, Asks: 1}},
		{Name: "votes from another server",
			Resources: resources("ab", proves), Transactions: ofClient("a", "b"),
			Bounds: Bounds{Strays: 1, Crashes: 1}},
		{Name: "three branches, two losses",
			Resources: resources("abc", proves), Transactions: ofCoordinator("a", "b", "c"),
			Bounds: Bounds{Losses: 2}},
		{Name: "failover, nothing is proven",
			Resources: resources("ab", forgets), Transactions: ofCoordinator("a", "b"),
			Bounds: Bounds{Failovers: 1, LostOps: 2, Losses: 1}},
		{Name: "nobody writes",
			Resources: resources("a", proves), Transactions: reading("a", ofClient("a")),
			Bounds: Bounds{Crashes: 1, Repeats: 1, Asks: 1}},
		{Name: "readers beside a writer",
			Resources:    resources("abc", proves),
			Transactions: reading("a", ofClient("a", "b", "c")),
			Bounds:       Bounds{Crashes: 1, Repeats: 1, Noes: 1}},
		{Name: "parallel, nothing goes wrong",
			Resources: resources("ab", proves), Transactions: announced("a", "b"),
			Bounds: Bounds{Repeats: 1, Asks: 1}},
		{Name: "delegate, nothing goes wrong",
			Resources:    append(resources("a", proves), resources("b", marks)...),
			Transactions: delegated("a", "b"),
			Bounds:       Bounds{Repeats: 1, Asks: 1}},
		{Name: "parts, nothing goes wrong",
			Resources: resources("ab", proves), Transactions: calling(ofClient("a"), "a"),
			Bounds: Bounds{Repeats: 1, Asks: 1, Enlists: 1}},
	}
}

// crashes are worlds about what a coordinator leaves behind, and what is late.
func crashes() []Scenario {
	return []Scenario{
		{Name: "nothing goes wrong, twice at once",
			Resources:    resources("abc", proves),
			Transactions: append(ofCoordinator("a", "b"), ofClient("b", "c")...)},
		{Name: "votes asked for, crash and loss",
			Resources: resources("ab", proves), Transactions: ofCoordinator("a", "b"),
			Bounds: Bounds{Crashes: 1, Losses: 1, Repeats: 1}},
		{Name: "votes of the client, crash and loss",
			Resources: resources("ab", proves), Transactions: ofClient("a", "b"),
			Bounds: Bounds{Crashes: 1, Losses: 1, Repeats: 1, Asks: 1}},
		{Name: "two crashes",
			Resources: resources("ab", proves), Transactions: ofClient("a", "b"),
			Bounds: Bounds{Crashes: 2, Repeats: 1}},
		{Name: "answered when decided, crash and loss",
			Resources: resources("ab", proves), Transactions: decided(ofClient("a", "b")),
			Machine: protocol.Config{Classic: true},
			Bounds:  Bounds{Crashes: 1, Losses: 1, Repeats: 1, Rollbacks: 1, Enlists: 1}},
		{Name: "late PREPARE, deadline, sweep",
			Resources:    append(resources("a", proves), resources("b", quietly)...),
			Transactions: ofClient("a", "b"),
			Bounds:       Bounds{Losses: 1, Ticks: 2, Sweeps: 2}},
		{Name: "late PREPARE of an older epoch",
			Resources:    append(resources("a", proves), resources("b", quietly)...),
			Transactions: ofCoordinator("a", "b"),
			Bounds:       Bounds{Crashes: 1, Ticks: 1, Sweeps: 2}},
		{Name: "old listings",
			Resources:    append(resources("a", proves), resources("b", quietly)...),
			Transactions: ofClient("a", "b"),
			Bounds:       Bounds{Crashes: 1, Ticks: 1, Sweeps: 2}},
	}
}

// troubles are worlds about resources, people and limits.
func troubles() []Scenario {
	return []Scenario{
		{Name: "a refusal, a rollback, lost sessions",
			Resources: resources("ab", proves), Transactions: ofCoordinator("a", "b"),
			Bounds: Bounds{Noes: 1, SessionLosses: 1, Rollbacks: 2, Crashes: 1, Repeats: 1}},
		{Name: "a person steps in",
			Resources: resources("ab", proves), Transactions: ofClient("a", "b"),
			Bounds: Bounds{Interventions: 1, Losses: 1, Crashes: 1}},
		{Name: "a person steps in, nothing is proven",
			Resources: resources("ab", forgets), Transactions: ofClient("a", "b"),
			Bounds: Bounds{Interventions: 1, Crashes: 1}},
		{Name: "failover to a standby that lags",
			Resources: resources("ab", proves), Transactions: ofClient("a", "b"),
			Bounds: Bounds{Failovers: 1, LostOps: 2, Crashes: 1}},
		{Name: "a failover brings a branch back",
			Resources:    append(resources("a", proves), resources("b", quietly)...),
			Transactions: ofClient("a", "b"),
			Bounds:       Bounds{Failovers: 1, LostOps: 1, Sweeps: 2, Ticks: 1}},
		{Name: "one phase, crash and loss",
			Resources:    resources("ab", commitsPlainly),
			Transactions: reading("a", leaving("b", ofClient("a", "b"))),
			Bounds:       Bounds{Crashes: 1, Losses: 1, Noes: 1, Repeats: 1}},
		{Name: "one phase, failover",
			Resources: resources("a", commitsPlainly), Transactions: ofCoordinator("a"),
			Bounds: Bounds{Crashes: 1, Losses: 1, Failovers: 1, LostOps: 1, Repeats: 1}},
		{Name: "one phase, out of reach for a while",
			Resources: resources("a", commitsPlainly), Transactions: ofCoordinator("a"),
			Bounds: Bounds{Crashes: 1, Noes: 1, Outages: 1}},
		{Name: "two transactions of one key",
			Resources:    resources("a", proves),
			Transactions: keyed("k", append(ofClient("a"), ofClient("a")...)),
			Bounds:       Bounds{Crashes: 1, Rollbacks: 1}},
		{Name: "sequences run out",
			Resources: resources("a", proves), Machine: protocol.Config{Block: 1},
			Transactions: append(ofClient("a"), ofClient("a")...),
			Bounds:       Bounds{Crashes: 1}},
		{Name: "epochs that leap",
			Resources:    resources("a", proves),
			Machine:      protocol.Config{Block: 1, Leap: 3},
			Transactions: ofClient("a"),
			Bounds:       Bounds{Crashes: 2, Sweeps: 1}},
		{Name: "branches of others",
			Resources:    append(resources("a", isShared), resources("b", quietly)...),
			Transactions: ofClient("a", "b"),
			Bounds:       Bounds{Sweeps: 3, Ticks: 1}},
		{Name: "outcomes are forgotten",
			Resources: resources("a", proves), Transactions: ofClient("a"),
			Machine: protocol.Config{Retention: 40 * second}, Jump: 50 * second,
			Retained: true, ListAlways: true,
			Bounds: Bounds{Ticks: 3, Sweeps: 1}},
		{Name: "callers go away",
			Resources: resources("ab", proves), Transactions: ofClient("a", "b"),
			Bounds: Bounds{Cancels: 1, Repeats: 2, Rollbacks: 1, Ticks: 1}},
	}
}

// deeper are worlds for a long run: more of everything at once.
func deeper() []Scenario {
	ab, three := resources("ab", proves), resources("abc", proves)
	oneQuiet := append(resources("a", proves), resources("b", quietly)...)
	return []Scenario{
		{Name: "deep: two transactions, nothing goes wrong", Resources: three,
			Transactions: append(ofCoordinator("a", "b"), ofClient("b", "c")...),
			Bounds:       Bounds{Repeats: 1, Asks: 1}},
		{Name: "deep: two transactions, a crash", Resources: ab,
			Transactions: append(ofClient("a", "b"), ofClient("a")...),
			Bounds:       Bounds{Crashes: 1}},
		{Name: "deep: three branches, crash and loss", Resources: three,
			Transactions: ofClient("a", "b", "c"), Bounds: Bounds{Crashes: 1, Losses: 1}},
		{Name: "deep: two crashes, two losses", Resources: ab,
			Transactions: ofClient("a", "b"), Bounds: Bounds{Crashes: 2, Losses: 2, Repeats: 1}},
		{Name: "deep: late PREPARE, two losses", Resources: oneQuiet,
			Transactions: ofClient("a", "b"), Bounds: Bounds{Losses: 2, Ticks: 2, Sweeps: 2}},
		{Name: "deep: old listings over two crashes", Resources: ab,
			Transactions: ofClient("a", "b"), Bounds: Bounds{Crashes: 2, Ticks: 1, Sweeps: 2}},
		{Name: "deep: two people step in", Resources: ab, Transactions: ofClient("a", "b"),
			Bounds: Bounds{Interventions: 2, Losses: 1, Crashes: 1, Rollbacks: 1}},
		{Name: "deep: failover, crash and coming back", Resources: oneQuiet, Registers: true,
			Transactions: ofClient("a", "b"),
			Bounds:       Bounds{Failovers: 1, LostOps: 2, Crashes: 1, Sweeps: 1}},
		{Name: "deep: two failovers, crash and loss", Resources: ab,
			Transactions: ofClient("a", "b"),
			Bounds:       Bounds{Failovers: 2, LostOps: 2, Crashes: 1, Losses: 1}},
		{Name: "deep: one phase, two crashes, a failover",
			Resources: resources("a", commitsPlainly), Transactions: ofCoordinator("a"),
			Bounds: Bounds{Crashes: 2, Losses: 1, Noes: 1, Failovers: 1, LostOps: 1,
				Repeats: 1}},
		{Name: "deep: one phase, failover, out of reach twice",
			Resources: resources("a", commitsPlainly), Transactions: ofCoordinator("a"),
			Bounds: Bounds{Crashes: 1, Losses: 1, Failovers: 1, LostOps: 1, Outages: 2}},
		{Name: "deep: one key, two branches each", Resources: ab,
			Transactions: keyed("k", append(ofClient("a", "b"), ofClient("a", "b")...)),
			Bounds:       Bounds{Crashes: 1, Rollbacks: 1}},
		{Name: "deep: sequences run out, callers go away", Resources: resources("a", proves),
			Machine:      protocol.Config{Block: 1},
			Transactions: append(ofClient("a"), ofClient("a")...),
			Bounds:       Bounds{Crashes: 1, Cancels: 1}},
		{Name: "deep: outcomes are forgotten, a crash", Resources: resources("a", proves),
			Transactions: ofClient("a"), Machine: protocol.Config{Retention: 40 * second},
			Jump: 50 * second, Retained: true, ListAlways: true,
			Bounds: Bounds{Crashes: 1, Ticks: 3, Sweeps: 1}},
	}
}

// resources makes one resource for each letter.
func resources(names string, how func(*Resource)) []Resource {
	var all []Resource
	for _, n := range names {
		r := Resource{Name: string(n)}
		how(&r)
		all = append(all, r)
	}
	return all
}

// A resource proves how a branch ended, or forgets it; it does so quietly; it commits plainly,
// without a prepare; it is shared with others.
func proves(r *Resource)         { r.Evidence = true }
func forgets(*Resource)          {}
func commitsPlainly(r *Resource) { r.Evidence, r.OnePhase = true, true }
func quietly(r *Resource)        { r.Evidence, r.Quiet = true, true }
func isShared(r *Resource)       { r.Evidence, r.Decoys = true, true }

// ofClient is a transaction whose client prepares its branches, ofCoordinator one whose coordinator
// does.
func ofClient(resources ...string) []Transaction {
	return []Transaction{{Resources: resources, ByClient: resources}}
}

func ofCoordinator(resources ...string) []Transaction {
	return []Transaction{{Resources: resources}}
}

// leaving has the client leave a branch to the coordinator.
func leaving(resource string, ts []Transaction) []Transaction {
	for i := range ts {
		ts[i].ByClient = slices.DeleteFunc(slices.Clone(ts[i].ByClient), func(r string) bool {
			return r == resource
		})
	}
	return ts
}

func decided(ts []Transaction) []Transaction {
	for i := range ts {
		ts[i].Ack = txn.AckDecided
	}
	return ts
}

// announced has a client that prepares its branches say so meanwhile, and wait for the decision.
func announced(resources ...string) []Transaction {
	ts := decided(ofClient(resources...))
	ts[0].Announces = true
	return ts
}

func keyed(key string, ts []Transaction) []Transaction {
	for i := range ts {
		ts[i].Key = key
	}
	return ts
}

func reading(resource string, ts []Transaction) []Transaction {
	for i := range ts {
		ts[i].Readers = []string{resource}
	}
	return ts
}

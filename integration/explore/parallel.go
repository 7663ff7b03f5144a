package explore

// parallel are worlds about the plan in which a commit follows from an intent.
func parallel() []Scenario {
	ab := resources("ab", proves)
	oneQuiet := append(resources("a", proves), resources("b", quietly)...)
	return []Scenario{
		{Name: "parallel, two crashes",
			Resources: ab, Transactions: announced("a", "b"),
			Bounds: Bounds{Crashes: 2}},
		{Name: "parallel, votes asked for, crash and loss",
			Resources: ab, Transactions: decided(ofCoordinator("a", "b")),
			Bounds: Bounds{Crashes: 1, Losses: 1}},
		{Name: "parallel, a reader among them",
			Resources: ab, Transactions: reading("b", announced("a", "b")),
			Bounds: Bounds{Crashes: 1, Repeats: 1}},
		{Name: "parallel, a refusal and a rollback",
			Resources: ab, Transactions: announced("a", "b"),
			Bounds: Bounds{Noes: 1, Rollbacks: 1, Crashes: 1}},
		{Name: "parallel, late PREPARE, deadline, sweep",
			Resources: oneQuiet, Transactions: announced("a", "b"),
			Bounds: Bounds{Losses: 1, Ticks: 1, Sweeps: 1}},
		{Name: "parallel, failover to a standby that lags",
			Resources: oneQuiet, Transactions: announced("a", "b"),
			Bounds: Bounds{Failovers: 1, LostOps: 1, Crashes: 1}},
		{Name: "parallel, a person steps in",
			Resources: oneQuiet, Transactions: announced("a", "b"),
			Bounds: Bounds{Interventions: 1, Crashes: 1}},
		{Name: "parallel, resources that remember",
			Resources:    resources("ab", commitsPlainly),
			Transactions: decided(ofCoordinator("a", "b")),
			Bounds:       Bounds{Crashes: 1}},
		{Name: "parallel, out of reach for a while",
			Resources: ab, Transactions: announced("a", "b"),
			Bounds: Bounds{Noes: 1, Outages: 1, Repeats: 1}},
		{Name: "parallel, a deposed owner goes on",
			Resources: ab, Transactions: announced("a", "b"),
			Bounds: Bounds{Depositions: 1, Lingers: 3}},
	}
}

// parallelDeeper are such worlds for a long run.
func parallelDeeper() []Scenario {
	ab := resources("ab", proves)
	oneQuiet := append(resources("a", proves), resources("b", quietly)...)
	return []Scenario{
		{Name: "deep: parallel, announced, crash, loss and repetition", Resources: ab,
			Transactions: announced("a", "b"),
			Bounds:       Bounds{Crashes: 1, Losses: 1, Repeats: 1}},
		{Name: "deep: parallel, three branches, a reader, a crash",
			Resources:    resources("abc", proves),
			Transactions: reading("c", decided(ofCoordinator("a", "b", "c"))),
			Bounds:       Bounds{Crashes: 1}},
		{Name: "deep: parallel, two of one key, a crash", Resources: ab,
			Transactions: keyed("k", append(announced("a", "b"), ofCoordinator("a")...)),
			Bounds:       Bounds{Crashes: 1}},
		{Name: "deep: parallel, deadline, crash and sweep", Resources: oneQuiet,
			Transactions: announced("a", "b"),
			Bounds:       Bounds{Crashes: 1, Ticks: 1, Sweeps: 2}},
		{Name: "deep: parallel, two failovers and a crash", Resources: oneQuiet,
			Transactions: announced("a", "b"),
			Bounds:       Bounds{Failovers: 2, LostOps: 2, Crashes: 1, Losses: 1}},
		{Name: "deep: parallel, two crashes and a failover", Resources: oneQuiet,
			Transactions: announced("a", "b"),
			Bounds:       Bounds{Failovers: 1, LostOps: 1, Crashes: 2}},
		{Name: "deep: parallel, people and resources that remember",
			Resources:    resources("ab", commitsPlainly),
			Transactions: decided(ofCoordinator("a", "b")),
			Bounds:       Bounds{Crashes: 1, Noes: 1, Interventions: 1}},
		{Name: "deep: parallel, resources that remember, out of reach",
			Resources:    resources("ab", commitsPlainly),
			Transactions: decided(ofCoordinator("a", "b")),
			Bounds:       Bounds{Crashes: 1, Outages: 1}},
		{Name: "deep: parallel, out of reach and a crash", Resources: ab,
			Transactions: announced("a", "b"), Bounds: Bounds{Crashes: 1, Outages: 1}},
		{Name: "deep: parallel, a deposed owner and its resources", Resources: ab,
			Transactions: decided(ofCoordinator("a", "b")),
			Bounds:       Bounds{Depositions: 1, Lingers: 4}},
		{Name: "deep: parallel, a deposed owner, rollback", Resources: ab,
			Transactions: announced("a", "b"),
			Bounds:       Bounds{Depositions: 1, Lingers: 2, Rollbacks: 1}},
		{Name: "deep: parallel, a deposed owner, rollback and deadline", Resources: ab,
			Transactions: announced("a", "b"),
			Bounds:       Bounds{Depositions: 1, Lingers: 3, Rollbacks: 1, Ticks: 1}},
		{Name: "deep: parallel, two are deposed", Resources: oneQuiet,
			Transactions: announced("a", "b"),
			Bounds:       Bounds{Depositions: 2, Lingers: 2}},
	}
}

package bench

import (
	"context"
	"slices"
)

// Line is one way of making transfers, opened for a number of clients.
type Line interface {
	// Transfer makes one transfer on behalf of a client, a number below that of the clients. One
	// client does one thing at a time. The transfer has happened, at all databases, when it returns
	// nil; an error for which aborted is true says that nothing of it has.
	Transfer(ctx context.Context, client int, t Transfer) error
	// Close lets go of what the line holds. No Transfer is under way.
	Close()
}

// Transfer moves money out of an account of the first database, and the same amount into one of
// each other.
type Transfer struct {
	Amount int64
	// Accounts has one account for each database.
	Accounts []int
}

// change is what the transfer does to its account at one of the databases.
func (t Transfer) change(database int) int64 {
	if database == 0 {
		return -t.Amount * int64(len(t.Accounts)-1)
	}
	return t.Amount
}

// Row is a line of the benchmark.
type Row struct {
	Name string
	// Floor names the line that this one is compared with; empty for a floor.
	Floor string
	// About says, for people, what the line does and what it gives up.
	About string
	// Paced lines are also measured in the open loop, Growing ones also over more databases.
	Paced, Growing bool
	// Marks says that it needs markers at the first database.
	Marks bool

	open func(ctx context.Context, w *world, clients, databases int) (Line, error)
}

// The floors that others are compared with.
const (
	twoPhaseName  = "2pc"
	plainPoolName = "plain-pgx"
)

// Rows is the benchmark, line by line.
func Rows() []Row {
	return []Row{
		{Name: twoPhaseName, Paced: true, Growing: true, open: openTwoPhase(false, false),
			About: "by hand: BEGIN, UPDATE, PREPARE, each a round trip, all branches at " +
				"once; then COMMIT PREPARED at once. No log: a crash in between leaves branches " +
				"in doubt"},
		{Name: "2pc-pipelined", Floor: twoPhaseName, Paced: true, open: openTwoPhase(true, false),
			About: "the same with BEGIN, UPDATE and PREPARE in one round trip"},
		{Name: "2pc-pipelined-log", Floor: twoPhaseName, Paced: true,
			open: openTwoPhase(true, true),
			About: "the same with the decision forced to a file before phase two (64 bytes, " +
				"fdatasync, concurrent decisions share one). Nobody reads the file after a crash"},
		{Name: "independent", Floor: twoPhaseName, Paced: true, open: openIndependent,
			About: "two commits that know nothing of each other. Unsafe: a crash in between " +
				"loses money"},
		{Name: "one-database", Floor: twoPhaseName, Paced: true, open: openOneDatabase,
			About: "both accounts in the same database, one plain transaction"},
		{Name: "server-classic-applied", Floor: twoPhaseName, Paced: true, Growing: true,
			open: openServer(applied),
			About: "gavel: the SDK on connection pools and a coordinator process over gRPC; " +
				"answers when every branch is committed"},
		{Name: "server-queued-applied", Floor: twoPhaseName, Paced: true, Growing: true,
			open:  queued(openServer(applied)),
			About: "the same with the UPDATE queued, so that it travels with PREPARE"},
		{Name: "server-delegate-applied", Floor: twoPhaseName, Paced: true, Growing: true,
			Marks: true, open: queued(openServer(left)),
			About: "the same, with the decision left to the first database"},
		{Name: "server-classic-decided", Floor: twoPhaseName, Paced: true,
			open:  openServer(decided),
			About: "the same; answers when the decision is durable"},
		{Name: "server-parallel-decided", Floor: twoPhaseName, Paced: true,
			open: openServer(parallel),
			About: "the same by the parallel plan: the log is written beside the prepares, and " +
				"the answer follows from both"},
		{Name: "embedded-classic-applied", Floor: twoPhaseName, Paced: true,
			open: openEmbedded(applied),
			About: "gavel with the coordinator inside the application; answers when every branch " +
				"is committed"},
		{Name: "embedded-queued-applied", Floor: twoPhaseName, Paced: true,
			open:  queued(openEmbedded(applied)),
			About: "the same with the UPDATE queued"},
		{Name: "embedded-delegate-applied", Floor: twoPhaseName, Paced: true,
			Marks: true, open: queued(openEmbedded(left)),
			About: "the same, with the decision left to the first database"},
		{Name: "embedded-classic-decided", Floor: twoPhaseName, Paced: true,
			open:  openEmbedded(decided),
			About: "the same; answers when the decision is durable"},
		{Name: "embedded-parallel-decided", Floor: twoPhaseName, Paced: true,
			open:  openEmbedded(parallel),
			About: "the same by the parallel plan"},
		{Name: plainPoolName, open: openPlainPool,
			About: "both accounts in the same database, one plain transaction on a pool, without " +
				"gavel"},
		{Name: "one-resource", Floor: plainPoolName, open: openOneResource,
			About: "gavel: the same through the SDK, which commits in one phase by itself"},
		{Name: "empty-rpc", open: openEmptyRPC,
			About: "one health check of the coordinator process over gRPC; no transaction"},
	}
}

// Names are the names of all lines.
func Names() []string {
	var names []string
	for _, r := range Rows() {
		names = append(names, r.Name)
	}
	return names
}

// choose keeps the rows of these names, all if there are none, and the floors that they are
// compared with.
// Without names it is all that the databases are set up for.
func choose(names []string, markers bool) []Row {
	rows := Rows()
	if len(names) == 0 {
		return slices.DeleteFunc(rows, func(r Row) bool { return r.Marks && !markers })
	}
	wanted := slices.Clone(names)
	for _, r := range rows {
		if slices.Contains(names, r.Name) && r.Floor != "" {
			wanted = append(wanted, r.Floor)
		}
	}
	return slices.DeleteFunc(rows, func(r Row) bool { return !slices.Contains(wanted, r.Name) })
}

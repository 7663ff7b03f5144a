package coordinator

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/coordinator/record"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// instant is a resource manager that agrees with everything and does nothing.
type instant struct{ identity txn.Identity }

// Prepare is never called here: clients bring their votes.
func (instant) Prepare(
	_ context.Context, _ txn.Fence, b []participant.Branch,
) ([]participant.Vote, error) {
	return make([]participant.Vote, len(b)), nil
}

// Commit agrees.
func (instant) Commit(
	_ context.Context, _ txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return findings(len(b), txn.StandingCommitted), nil
}

// Rollback agrees.
func (instant) Rollback(
	_ context.Context, _ txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return findings(len(b), txn.StandingRolledBack), nil
}

// Inquire knows that all is well.
func (instant) Inquire(
	_ context.Context, _ txn.Fence, b []participant.Branch,
) ([]participant.Finding, error) {
	return findings(len(b), txn.StandingCommitted), nil
}

// List finds nothing prepared.
func (i instant) List(context.Context, txn.Fence) (participant.Listing, error) {
	return participant.Listing{Identity: i.identity, Position: i.position()}, nil
}

// Describe says who it is.
func (i instant) Describe(context.Context) (participant.Description, error) {
	return participant.Description{Kind: "instant", Evidence: true,
		Identity: i.identity, Position: i.position()}, nil
}

func (instant) position() txn.Position { return txn.Position{Timeline: 1, LSN: 100} }

func findings(n int, s txn.Standing) []participant.Finding {
	found := make([]participant.Finding, n)
	for i := range found {
		found[i].Standing = s
	}
	return found
}

// instants are the resources of a benchmark.
func instants() []Resource {
	var all []Resource
	for i, name := range []string{"a", "b"} {
		all = append(all, Resource{Name: name, Kind: "instant",
			Manager: instant{txn.Identity{System: uint64(i + 1), Database: 1}}})
	}
	return all
}

// openInstant opens a coordinator on a log on a real disk, and waits until it has its resources.
func openInstant(b *testing.B, dir string) *Coordinator {
	b.Helper()
	// A snapshot in the middle of it would make the next opening another one.
	c, err := Open(b.Context(), Config{Dir: dir, Resources: instants(), SnapshotEvery: 1 << 40,
		Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	for {
		begun, err := c.Begin(b.Context(), txn.BeginRequest{Resources: []string{"a", "b"}})
		if err == nil {
			_, err = c.Rollback(b.Context(), begun.ID, "it was only a question")
			if err != nil {
				b.Fatal(err)
			}
			return c
		}
	}
}

// oneTransaction is Begin and Commit with the votes of two branches.
func oneTransaction(ctx context.Context, c *Coordinator, ack txn.AckLevel) error {
	begun, err := c.Begin(ctx, txn.BeginRequest{Resources: []string{"a", "b"}})
	if err != nil {
		return err
	}
	req := txn.CommitRequest{ID: begun.ID, Ack: ack}
	for i, e := range begun.Branches {
		req.Votes = append(req.Votes, txn.BranchVote{Branch: e.Branch, Vote: txn.VoteYes,
			Evidence: txn.Evidence{Identity: txn.Identity{System: uint64(i + 1), Database: 1},
				Position: txn.Position{Timeline: 1, LSN: 100}, XID: 9}})
	}
	r, err := c.Commit(ctx, req)
	if err == nil && r.Outcome != txn.OutcomeCommitted {
		err = fmt.Errorf("%s: %s", r.Outcome, r.Reason)
	}
	return err
}

// BenchmarkCommit is Begin and Commit of a coordinator in this process, on a real disk and with
// resources that take no time: what the protocol and its log cost by themselves.
func BenchmarkCommit(b *testing.B) {
	for _, ack := range []txn.AckLevel{txn.AckApplied, txn.AckDecided} {
		for _, clients := range []int{1, 64} {
			b.Run(fmt.Sprintf("ack=%s/clients=%d", ack, clients), func(b *testing.B) {
				benchCommit(b, ack, clients)
			})
		}
	}
}

func benchCommit(b *testing.B, ack txn.AckLevel, clients int) {
	dir := filepath.Join(b.TempDir(), "log")
	if _, err := Init(vfs.OS(), dir); err != nil {
		b.Fatal(err)
	}
	c := openInstant(b, dir)
	var next atomic.Int64
	var join sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range clients {
		join.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if err := oneTransaction(b.Context(), c, ack); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	join.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "txns/s")
	if err := c.Close(); err != nil {
		b.Error(err)
	}
}

// benchRecords is how many records the log has that a recovery starts from: a COMMIT and an END for
// each transaction.
const benchRecords = 1_000_000

// BenchmarkReady is how long a coordinator takes from its start until it takes transactions, with a
// million records of finished transactions in its log since the last snapshot.
func BenchmarkReady(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "log")
	if _, err := Init(vfs.OS(), dir); err != nil {
		b.Fatal(err)
	}
	fillCommits(b, dir)
	b.ResetTimer()
	memory := 0.0
	for b.Loop() {
		c := openInstant(b, dir)
		b.StopTimer()
		memory = residentMB(b)
		first, err := c.Outcome(b.Context(), txn.NewID(c.LogID(), 1))
		if err != nil || first.Outcome != txn.OutcomeCommitted {
			b.Fatalf("the first transaction of the log: %+v, %v", first, err)
		}
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(benchRecords*float64(b.N)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(memory, "resident-MB")
}

// fillCommits writes what a coordinator would have written, many records to an append.
func fillCommits(b *testing.B, dir string) {
	b.Helper()
	durable := latest{wake: make(chan struct{}, 1)}
	log, err := txlog.Open(txlog.Options{Dir: dir, OnPersisted: durable.set})
	if err != nil {
		b.Fatal(err)
	}
	const batch = 1000
	recs := []txlog.Record{record.Encode(nil, protocol.RangeRecord{Low: 1, High: benchRecords})}
	for i := range 2 {
		recs = append(recs, record.Encode(nil, protocol.ResourceRecord{RM: protocol.RM(i + 1),
			Name: string(rune('a' + i)), Kind: "instant",
			Identity: txn.Identity{System: uint64(i + 1), Database: 1},
			Position: txn.Position{Timeline: 1, LSN: 100}}))
	}
	for seq := txn.Seq(1); seq <= benchRecords/2; seq++ {
		id := txn.NewID(log.ID(), seq)
		recs = append(recs, record.Encode(nil, commitOf(id)),
			record.Encode(nil, protocol.EndRecord{IDs: []txn.ID{id}}))
		if len(recs) < batch && seq < benchRecords/2 {
			continue
		}
		index, err := log.Append(recs, true)
		for err == nil && durable.get().Index < index {
			<-durable.wake
		}
		if err != nil {
			b.Fatal(err)
		}
		recs = recs[:0]
	}
	if err := log.Close(); err != nil {
		b.Fatal(err)
	}
}

// commitOf is the decision about a transaction with two branches.
func commitOf(id txn.ID) protocol.CommitRecord {
	r := protocol.CommitRecord{ID: id, Plan: txn.PlanClassic}
	for i := range 2 {
		r.Branches = append(r.Branches, protocol.CommitBranch{Branch: txn.BranchNo(i + 1),
			RM: protocol.RM(i + 1), Evidence: txn.Evidence{
				Identity: txn.Identity{System: uint64(i + 1), Database: 1},
				Position: txn.Position{Timeline: 1, LSN: 100}, XID: 9}})
	}
	return r
}

// residentMB is the memory of this process that is in use now, after the garbage is gone, in
// millions of bytes. Where the system does not say it is 0.
func residentMB(b *testing.B) float64 {
	b.Helper()
	debug.FreeOSMemory()
	body, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	pages, err := strconv.Atoi(strings.Fields(string(body))[1])
	if err != nil {
		b.Fatal(err)
	}
	return float64(pages*os.Getpagesize()) / 1e6
}

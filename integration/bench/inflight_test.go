package bench

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/postgres"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// inFlight is how many transactions a coordinator leaves behind.
const inFlight = 1000

// speechless is a database that nobody can tell to finish anything.
type speechless struct{ *postgres.Resource }

func (speechless) Commit(
	ctx context.Context, _ txn.Fence, _ []participant.Branch,
) ([]participant.Finding, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// BenchmarkInFlight is the time that a coordinator needs, from its start on, to finish the branches
// of a thousand transactions that were decided when the one before it died.
func BenchmarkInFlight(b *testing.B) {
	inst, err := pghost.Ensure(b.Context(), b.Output())
	if err != nil {
		b.Fatal(err)
	}
	s, err := inst.Start(b.Context(), pghost.Config{Name: "inflight", Settings: map[string]string{
		"max_prepared_transactions": "2200"}})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Stop(context.Background())
	var dbs [2]*postgres.Resource
	for i, name := range []string{"bank_a", "bank_b"} {
		err := errors.Join(s.CreateDatabase(b.Context(), name),
			s.Exec(b.Context(), name, "CREATE TABLE t (n int)"))
		if err != nil {
			b.Fatal(err)
		}
		if dbs[i], err = postgres.New(postgres.Config{Name: name, DSN: s.DSN(name)}); err != nil {
			b.Fatal(err)
		}
		defer dbs[i].Close()
	}
	dir := filepath.Join(b.TempDir(), "log")
	if _, err := coordinator.Init(vfs.OS(), dir); err != nil {
		b.Fatal(err)
	}
	watcher, err := pgconn.Connect(b.Context(), s.DSN("bank_a"))
	if err != nil {
		b.Fatal(err)
	}
	defer watcher.Close(context.Background())
	b.StopTimer()
	b.ResetTimer()
	for range b.N {
		leave(b, s, dir, dbs)
		b.StartTimer()
		c := openOver(b, dir, dbs[0], dbs[1])
		awaitNone(b, watcher)
		b.StopTimer()
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func openOver(
	b *testing.B, dir string, managers ...participant.Resource,
) *coordinator.Coordinator {
	b.Helper()
	cfg := coordinator.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)}
	for i, name := range []string{"bank_a", "bank_b"} {
		cfg.Resources = append(cfg.Resources, coordinator.Resource{Name: name, Kind: "postgres",
			Manager: managers[i]})
	}
	c, err := coordinator.Open(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	return c
}

// awaitNone waits until no branch is prepared.
func awaitNone(b *testing.B, watcher *pgconn.PgConn) {
	b.Helper()
	for {
		found, err := watcher.Exec(b.Context(),
			"SELECT EXISTS (SELECT FROM pg_prepared_xacts WHERE gid LIKE 'gavel1.%')").ReadAll()
		if err != nil {
			b.Fatal(err)
		}
		if string(found[0].Rows[0][0]) == "f" {
			return
		}
		if err := until(b.Context(), time.Now().Add(readyEvery)); err != nil {
			b.Fatal(err)
		}
	}
}

// leave has a coordinator decide transactions, and die before any database has heard of it.
func leave(b *testing.B, s *pghost.Server, dir string, dbs [2]*postgres.Resource) {
	b.Helper()
	c := openOver(b, dir, speechless{dbs[0]}, speechless{dbs[1]})
	work := make(chan struct{}, inFlight)
	for range inFlight {
		work <- struct{}{}
	}
	close(work)
	var join sync.WaitGroup
	for range 8 {
		join.Go(func() {
			var conns [2]*pgconn.PgConn
			for i, name := range []string{"bank_a", "bank_b"} {
				conn, err := pgconn.Connect(b.Context(), s.DSN(name))
				if err != nil {
					b.Error(err)
					return
				}
				defer conn.Close(context.Background())
				conns[i] = conn
			}
			for range work {
				if err := decideOne(b.Context(), c, conns); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	join.Wait()
	if err := c.Close(); err != nil || b.Failed() {
		b.Fatal(err)
	}
}

func decideOne(
	ctx context.Context, c *coordinator.Coordinator, conns [2]*pgconn.PgConn,
) error {
	begun, err := c.Begin(ctx, txn.BeginRequest{Resources: []string{"bank_a", "bank_b"}})
	for txn.ReasonOf(err) == txn.ReasonNotReady || txn.ReasonOf(err) == txn.ReasonNoResource {
		if err := until(ctx, time.Now().Add(readyEvery)); err != nil {
			return err
		}
		begun, err = c.Begin(ctx, txn.BeginRequest{Resources: []string{"bank_a", "bank_b"}})
	}
	if err != nil {
		return err
	}
	r := txn.CommitRequest{ID: begun.ID, Ack: txn.AckDecided}
	for i, e := range begun.Branches {
		_, err := conns[i].Exec(ctx, "BEGIN; INSERT INTO t VALUES (1)").ReadAll()
		if err != nil {
			return err
		}
		v := pgbranch.Prepare(ctx, conns[i], e.Name, pgbranch.PrepareOptions{})
		if v.Vote != txn.VoteYes {
			return v.Err
		}
		r.Votes = append(r.Votes, txn.BranchVote{Branch: e.Branch, Vote: v.Vote,
			Evidence: v.Evidence})
	}
	_, err = c.Commit(ctx, r)
	return err
}

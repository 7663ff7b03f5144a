package crash_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
	"github.com/gavel-tx/gavel/txn"
)

// pair is a primary with a hot standby.
type pair struct{ primary, standby *pghost.Server }

// newPair starts both. With a synchronous standby a commit waits for it, and so does a PREPARE.
func newPair(t *testing.T, synchronous bool) pair {
	t.Helper()
	primary := startServer(t, pghost.Config{Name: "primary", Settings: quick()})
	standby := startServer(t, pghost.Config{Name: "standby", Settings: quick(), StandbyOf: primary})
	if synchronous {
		err := primary.Configure(t.Context(), map[string]string{"synchronous_standby_names": "*"})
		if err != nil {
			t.Fatal(err)
		}
	}
	return pair{primary, standby}
}

func startServer(t *testing.T, c pghost.Config) *pghost.Server {
	t.Helper()
	s, err := pghost.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := backgroundContext()
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestRealFailover kills a primary between decision and phase two, and promotes its standby. Of an
// asynchronous one a prepared branch may be missing: that transaction needs a person, who is
// called, and all others go on. Of a synchronous one nothing is missing.
func TestRealFailover(t *testing.T) {
	rng := dice(t, 26)
	kinds := []bool{true, false}
	for i, mode := range modes(rng) {
		for _, synchronous := range kinds {
			// Each mode sees one kind, unless all of it is wanted.
			if synchronous == (i == 0) || full() {
				p := newPair(t, synchronous)
				w := build(t, layout{mode: mode, proxied: true,
					servers: [2]*pghost.Server{p.primary, shared.servers[1]}}, rng)
				w.failOver(p, synchronous)
				w.end()
			}
		}
	}
}

// failOver works, lets the primary of the first side die, and works again.
func (w *world) failOver(p pair, synchronous bool) {
	w.t.Helper()
	w.begun = fmt.Sprintf("failover, synchronous: %v", synchronous)
	w.open()
	w.gate()
	if synchronous {
		w.failOverSynchronously(p)
	} else {
		w.failOverAndLose(p)
	}
	w.open()
	w.gate()
	if n := w.timeline(); n != 2 {
		w.fatal(fmt.Sprintf("the side is on timeline %d", n))
	}
	w.t.Log(w.mode, w.begun, "and everything that was left is finished on timeline 2")
}

// failOverSynchronously needs no rest: what anybody was told is at the standby.
func (w *world) failOverSynchronously(p pair) {
	w.t.Helper()
	w.open()
	h := w.reach("afterForceBeforeSend")
	p.primary.Kill()
	w.promote(p)
	h.release()
	w.gate()
	shared.faults.Add(crash.SyncFailover)
}

// failOverAndLose loses exactly one branch: the standby has everything but the last transfer, which
// is prepared, and decided. That its coordinator asks once more and once more would not help, and
// the test sees that it does not.
func (w *world) failOverAndLose(p pair) {
	w.t.Helper()
	w.awaitReplay(p)
	w.freeze(w.sender(p))
	id, h := w.catchDecided()
	p.primary.Kill()
	w.promote(p)
	h.release()
	w.closeRound()
	w.judge(id, txn.OutcomeHeuristicHazard, true)
	before := w.attempts(id)
	w.open()
	w.gate()
	if after := w.attempts(id); after != before {
		w.fatal(fmt.Sprintf("%d attempts at a branch that is lost, and then %d", before, after))
	}
	w.checkShown(id, txn.OutcomeHeuristicHazard)
	shared.faults.Add(crash.AsyncFailover)
}

// awaitReplay waits until the standby has everything that the primary has.
func (w *world) awaitReplay(p pair) {
	w.t.Helper()
	w.await("the standby to have everything", func(ctx context.Context) bool {
		var same bool
		w.must(w.sides[0].ask(ctx, func(c *pgx.Conn) error {
			return c.QueryRow(ctx, `SELECT count(*) = 1 FROM pg_stat_replication
				WHERE replay_lsn >= pg_current_wal_insert_lsn()`).Scan(&same)
		}))
		return same
	})
}

// sender is the process of the primary's that feeds the standby. While it is stopped nothing leaves
// the primary, not even into the network.
func (w *world) sender(p pair) (pid int) {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	w.must(w.sides[0].ask(ctx, func(c *pgx.Conn) error {
		return c.QueryRow(ctx, "SELECT pid FROM pg_stat_replication").Scan(&pid)
	}))
	return pid
}

// promote makes the standby the primary, and leads everybody there.
func (w *world) promote(p pair) {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	w.must(p.standby.Promote(ctx))
	s := w.sides[0]
	s.close(ctx)
	s.conn, s.server = nil, p.standby
	s.proxy.SetTarget(tcpAddress(p.standby))
}

func (w *world) timeline() (n int) {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	w.must(w.sides[0].ask(ctx, func(c *pgx.Conn) error {
		return c.QueryRow(ctx,
			"SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int").Scan(&n)
	}))
	return n
}

// attempts counts what was tried for the branches of a transaction.
func (w *world) attempts(id txn.ID) (n int) {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	r, err := w.asking.Outcome(ctx, id)
	w.must(err)
	for _, b := range r.Branches {
		n += b.Attempts
	}
	return n
}

package crash_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/gavel-tx/gavel/integration/crash"
)

// TestRealSlotsExhausted fills every prepared slot of one server. Transfers are then rolled back,
// each with a reason that says what to do, and leave nothing behind; and as soon as there is room
// they commit again.
func TestRealSlotsExhausted(t *testing.T) {
	rng := dice(t, 24)
	for _, mode := range sample(rng, modes(rng), 1) {
		w := newWorld(t, mode, rng)
		w.begun = "no slots"
		// At the first one, transfers whose decision is left to it need no slot.
		free := w.fillSlots(1)
		w.round++
		w.slips.begin(w.from())
		w.teller.order(fmt.Sprintf("go %d", w.from()))
		w.await("transfers to be refused", func(context.Context) bool {
			return len(w.slips.all()) > 20
		})
		w.closeRound()
		book := w.observe()
		w.report(book)
		w.checkRefused(book)
		free()
		w.open()
		w.gate()
		w.checkWhole()
		shared.faults.Add(crash.SlotsExhausted)
		t.Log(mode, "without a free slot,", len(book.Transfers), "transfers were rolled back, "+
			"and said why")
		w.end()
	}
}

// fillSlots takes every slot that a server has, until the function that it returns is called.
func (w *world) fillSlots(i int) (free func()) {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	s := w.sides[i]
	conn, err := pgx.Connect(ctx, s.server.DSN(s.database))
	w.must(err)
	defer conn.Close(ctx)
	w.clearAttic(ctx, conn, s)
	var limit int
	w.must(conn.QueryRow(ctx,
		"SELECT current_setting('max_prepared_transactions')::int").Scan(&limit))
	taken := 0
	free = sync.OnceFunc(func() { w.freeSlots(s, taken) })
	w.t.Cleanup(free)
	// A slot may be in use for a moment, by a sidecar that tries whether it could prepare.
	w.await("every slot to be taken", func(ctx context.Context) bool {
		for taken < limit && takeSlot(ctx, conn, taken) == nil {
			taken++
		}
		return taken == limit
	})
	return free
}

// clearAttic rolls back what earlier worlds have left prepared on the server they shared: a process
// that was killed while it tried whether it could prepare, in a database that nobody uses any more.
func (w *world) clearAttic(ctx context.Context, conn *pgx.Conn, s *side) {
	w.t.Helper()
	rows, err := conn.Query(ctx, "SELECT gid, database FROM pg_prepared_xacts "+
		"WHERE database <> current_database()")
	w.must(err)
	type left struct{ GID, Database string }
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[left])
	w.must(err)
	for _, l := range all {
		w.must(s.server.Exec(ctx, l.Database, "ROLLBACK PREPARED '"+l.GID+"'"))
		w.t.Logf("an earlier world has left %s in %s", l.GID, l.Database)
	}
}

// freeSlots gives back what was taken; the shared servers have other worlds to serve.
func (w *world) freeSlots(s *side, taken int) {
	ctx, cancel := backgroundContext()
	defer cancel()
	for n := range taken {
		err := s.server.Exec(ctx, s.database, fmt.Sprintf("ROLLBACK PREPARED 'slot.%d'", n))
		if err != nil {
			w.t.Errorf("slot %d: %v", n, err)
		}
	}
}

func takeSlot(ctx context.Context, conn *pgx.Conn, n int) error {
	_, err := conn.Exec(ctx, fmt.Sprintf("BEGIN; SELECT pg_current_xact_id(); "+
		"PREPARE TRANSACTION 'slot.%d'", n), pgx.QueryExecModeSimpleProtocol)
	if err != nil && conn.PgConn().TxStatus() != 'I' {
		_, _ = conn.Exec(ctx, "ROLLBACK")
	}
	return err
}

// checkRefused wants every transfer rolled back, for the reason that there is.
func (w *world) checkRefused(b crash.Book) {
	w.t.Helper()
	for _, x := range b.Transfers {
		if x.Answer != crash.RolledBack || !strings.Contains(x.Why, "prepared slots are in use") {
			w.fatal("without a free slot: " + x.String())
		}
	}
}

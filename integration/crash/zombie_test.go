package crash_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/txn"
)

// door is the key of a lock at which PREPARE has to wait. It is one of the test's own.
const door = 4711

// slowSQL makes a table whose rows are checked at the end of their transaction, by a check that
// takes as long as somebody holds the lock. A deferred trigger that sleeps would do the same, for
// a time that nobody knows to be right.
func slowSQL() string {
	return fmt.Sprintf(`
	CREATE TABLE slow (id bigint);
	CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
		'BEGIN PERFORM pg_advisory_xact_lock_shared(%d); RETURN NULL; END';
	CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION slow()`, door)
}

// TestRealZombiePrepare has a PREPARE outlive its client's patience, the client, and the
// transaction. When it succeeds at last, there is a branch that nobody waits for, with locks that
// nobody would ever release but the sweep.
func TestRealZombiePrepare(t *testing.T) {
	rng := dice(t, 23)
	for _, mode := range modes(rng) {
		w := newWorld(t, mode, rng)
		w.begun = "a zombie"
		w.run(0, slowSQL())
		shut := w.shutDoor()
		err := w.prepareSlowly()
		id := client.IDOf(err)
		if id.IsZero() {
			w.fatal(fmt.Sprintf("a transaction whose PREPARE hangs ended with %v", err))
		}
		told := crash.Transfer{ID: id}
		w.learnOutcome(&told)
		if told.Outcome != txn.OutcomeRolledBack {
			w.fatal("a transaction whose PREPARE hangs is " + told.Outcome.String())
		}
		if zombies := w.inPrepare(); zombies != 1 {
			w.fatal(fmt.Sprintf("%d sessions are at PREPARE; the client is gone", zombies))
		}
		// The rollback that the branch was told must have missed it, or nobody will find an orphan.
		w.await("the rollback to have missed it", func(context.Context) bool {
			return w.journaled("transaction is over", id.String())
		})
		shut()
		w.await("the zombie to be found", func(context.Context) bool {
			return w.journaled("finishing an orphan", txn.NameOf(id, 1).String())
		})
		w.open()
		w.gate()
		shared.faults.Add(crash.ZombiePrepare)
		t.Log(mode, "a PREPARE that came back after the rollback was rolled back by the sweep")
		w.end()
	}
}

// TestRealSlowClient is the opposite of a zombie: a client that takes its time between its votes
// and its Commit. Its branches are seen by sweep after sweep, and are not orphans.
func TestRealSlowClient(t *testing.T) {
	rng := dice(t, 29)
	w := newWorld(t, sample(rng, modes(rng), 1)[0], rng)
	for range 3 {
		w.begun = fmt.Sprintf("round %d: a client that is slow", w.round+1)
		w.open()
		h := w.reach("afterVote")
		// Several sweeps and their grace, and less than a transfer may take.
		w.last(undecided / 2)
		h.release()
		shared.faults.Add(crash.SlowClient)
		w.gate()
		t.Log(w.mode, w.begun)
	}
	w.checkWhole()
}

// shutDoor makes whoever prepares wait until the function that it returns is called.
func (w *world) shutDoor() (open func()) {
	w.t.Helper()
	s := w.sides[0]
	ctx, cancel := w.context()
	defer cancel()
	conn, err := pgx.Connect(ctx, s.server.DSN(s.database))
	w.must(err)
	_, err = conn.Exec(ctx, "SELECT pg_advisory_lock($1)", door)
	w.must(err)
	open = func() {
		ctx, cancel := backgroundContext()
		defer cancel()
		_ = conn.Close(ctx)
	}
	w.t.Cleanup(open)
	return open
}

// prepareSlowly is a client that gives up: a transaction with a short life, whose PREPARE takes
// longer. It leaves no connection behind.
func (w *world) prepareSlowly() error {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	var dbs [2]*pgxtx.DB
	for i, s := range w.sides {
		pool, err := pgxpool.New(ctx, s.dsn())
		w.must(err)
		defer pool.Close()
		dbs[i] = pgxtx.New(s.name, pool)
	}
	c := client.New(w.asking, client.Timeout(longer/2))
	return c.InTx(ctx, func(ctx context.Context) error {
		_, err := dbs[0].Exec(ctx, "INSERT INTO slow VALUES (1)")
		if err == nil {
			_, err = dbs[1].Exec(ctx, "SELECT FROM account WHERE id = 1 FOR UPDATE")
		}
		return err
	})
}

// inPrepare counts the sessions that execute a PREPARE. Its deferred trigger runs in the statement
// before it, and the rest has arrived behind.
func (w *world) inPrepare() (n int) {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	s := w.sides[0]
	w.must(s.ask(ctx, func(c *pgx.Conn) error {
		return c.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE state = 'active'
			AND datname = current_database() AND (query LIKE '%PREPARE TRANSACTION ''%'
				OR query = 'SET CONSTRAINTS ALL IMMEDIATE')
			AND pid <> pg_backend_pid()`).Scan(&n)
	}))
	return n
}

// journaled says whether a line of the coordinator's journal has both words.
func (w *world) journaled(message, what string) bool {
	w.t.Helper()
	text, err := os.ReadFile(w.journals["coordinator"].file)
	w.must(err)
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, message) && strings.Contains(line, what) {
			return true
		}
	}
	return false
}

package pgxtx_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
	"github.com/gavel-tx/gavel/txn"
)

// payLater is pay with both statements queued.
func (bk *bank) payLater(ctx context.Context) error {
	return errors.Join(bk.a.QueueExactly(ctx, 1, debit, 30), bk.b.Queue(ctx, credit, 30))
}

// TestAQueuedBranchIsOnePacket: a branch whose statements are all queued costs one packet, once its
// connection has seen them before. Where statements are not kept they run at once.
func TestAQueuedBranchIsOnePacket(t *testing.T) {
	for mode, want := range map[pgx.QueryExecMode]int64{
		pgx.QueryExecModeCacheStatement: 1, pgx.QueryExecModeExec: 2,
		pgx.QueryExecModeSimpleProtocol: 3,
	} {
		var p packets
		bk := newBank(t, p.into(mode))
		for range 2 {
			if err := bk.client.InTx(t.Context(), bk.payLater); err != nil {
				t.Fatal(err)
			}
		}
		before := p.all.Load()
		if err := bk.client.InTx(t.Context(), bk.payLater); err != nil {
			t.Fatal(err)
		}
		if got := p.all.Load() - before; got != 2*want {
			t.Errorf("%v: %d packets for two branches, want %d", mode, got, 2*want)
		}
		bk.want(10, 190)
	}
}

// TestQueuedRowsAreCounted: a statement that affects another number of rows than it must makes the
// whole transaction roll back, at two databases, at one, and where it runs at once.
func TestQueuedRowsAreCounted(t *testing.T) {
	nobody := `UPDATE acct SET bal = bal + $1 WHERE id = 'nobody'`
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec,
	} {
		var p packets
		bk := newBank(t, p.into(mode))
		for name, f := range map[string]func(context.Context) error{
			"two databases": func(ctx context.Context) error {
				_, err := bk.a.Exec(ctx, debit, 30)
				return errors.Join(err, ignored(bk.b.QueueExactly(ctx, 1, nobody, 30)))
			},
			"one": func(ctx context.Context) error {
				return errors.Join(bk.b.Queue(ctx, credit, 30),
					ignored(bk.b.QueueExactly(ctx, 1, nobody, 30)))
			},
			"before another statement": func(ctx context.Context) error {
				_, err := bk.a.Exec(ctx, debit, 30)
				_ = bk.b.QueueExactly(ctx, 1, nobody, 30)
				_, _ = bk.b.Exec(ctx, credit, 30)
				return err
			},
		} {
			err := bk.client.InTx(t.Context(), f)
			if _, ok := errors.AsType[*client.AbortedError](err); !ok {
				t.Fatalf("%v: %s: error %v", mode, name, err)
			}
			if !errors.Is(err, pgxtx.ErrRows) {
				t.Errorf("%v: %s: %v does not wrap ErrRows", mode, name, err)
			}
			bk.want(100, 100)
		}
		bk.wantClean()
	}
}

// ignored is for an application that does not look at the error of a statement.
func ignored(error) error { return nil }

// TestQueuedErrors: an error of a queued statement rolls everything back and says so by its code,
// wherever it shows.
func TestQueuedErrors(t *testing.T) {
	bk := newBank(t)
	for name, c := range map[string]struct {
		state string
		f     func(context.Context) error
	}{
		"check violated": {"23514", func(ctx context.Context) error {
			return errors.Join(bk.a.Queue(ctx, debit, 1000), bk.b.Queue(ctx, credit, 1000))
		}},
		"at one database": {"23514", func(ctx context.Context) error {
			return bk.a.Queue(ctx, debit, 1000)
		}},
		"the second of three": {"23505", func(ctx context.Context) error {
			insert := `INSERT INTO acct VALUES ('bob', 1)`
			return errors.Join(bk.a.Queue(ctx, debit, 1), bk.b.Queue(ctx, credit, 1),
				bk.b.Queue(ctx, insert), bk.b.Queue(ctx, credit, 1))
		}},
		"no such table": {"42P01", func(ctx context.Context) error {
			_ = bk.b.Queue(ctx, `DELETE FROM nowhere`)
			return bk.a.Queue(ctx, debit, 1)
		}},
		"seen by another statement": {"23514", func(ctx context.Context) error {
			_ = bk.a.Queue(ctx, debit, 1000)
			_, err := bk.a.Exec(ctx, debit, 1)
			if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "23514" {
				t.Errorf("the next statement hears %v", err)
			}
			return bk.b.Queue(ctx, credit, 1)
		}},
		"an argument that cannot be encoded": {"", func(ctx context.Context) error {
			_ = bk.b.Queue(ctx, credit, struct{}{})
			return bk.a.Queue(ctx, debit, 1)
		}},
	} {
		e := wantAborted(t, bk.client.InTx(t.Context(), c.f))
		if e.SQLState != c.state {
			t.Errorf("%s: state %q, want %q: %v", name, e.SQLState, c.state, e)
		}
		bk.want(100, 100)
	}
}

// TestQueuedStatementsKeepTheirOrder among themselves and with others, savepoints included.
func TestQueuedStatementsKeepTheirOrder(t *testing.T) {
	bk := newBank(t)
	times := func(n int) string {
		return fmt.Sprintf(`UPDATE acct SET bal = bal * %d WHERE id = 'bob'`, n)
	}
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		if err := bk.b.Queue(ctx, credit, 1); err != nil { // 101
			return err
		}
		var bal int
		err := bk.b.QueryRow(ctx, `SELECT bal FROM acct WHERE id = 'bob'`).Scan(&bal)
		if err != nil || bal != 101 {
			t.Errorf("a query sees %d, %v", bal, err)
		}
		if err := bk.b.Queue(ctx, times(2)); err != nil { // 202
			return err
		}
		if _, err := bk.b.Exec(ctx, credit, 8); err != nil { // 210
			return err
		}
		return errors.Join(
			bk.save(ctx, false, func(pgx.Tx) { _ = bk.b.Queue(ctx, times(7)) }), // undone
			bk.save(ctx, true, func(pgx.Tx) { _ = bk.b.Queue(ctx, credit, 5) }), // 215
			bk.b.Queue(ctx, times(2)), // 430
			bk.a.Queue(ctx, debit, 1),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	bk.want(99, 430)
}

// TestQueueHasLimits: beyond them statements run at once, and all of them count.
func TestQueueHasLimits(t *testing.T) {
	bk := newBank(t)
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		for i := range 300 {
			text := credit + strings.Repeat(" ", i) // another text each time
			if err := bk.b.Queue(ctx, text, 1); err != nil {
				return err
			}
		}
		for range 300 {
			if err := bk.a.Queue(ctx, `UPDATE acct SET bal = bal + $1 WHERE id = 'alice'`,
				1); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	bk.want(400, 400)
}

// TestAQueueBelongsToItsTransaction: without one, after its end, and with text that would end it,
// nothing is queued.
func TestAQueueBelongsToItsTransaction(t *testing.T) {
	bk := newBank(t)
	if err := bk.a.Queue(t.Context(), debit, 1); !errors.Is(err, client.ErrNoTransaction) {
		t.Errorf("without a transaction: %v", err)
	}
	var late context.Context
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		late = ctx
		return bk.a.Queue(ctx, `COMMIT`)
	})
	if wantAborted(t, err); !errors.Is(err, pgxtx.ErrControl) {
		t.Errorf("COMMIT: %v", err)
	}
	if err := bk.a.Queue(late, debit, 1); !errors.Is(err, client.ErrFinished) {
		t.Errorf("afterwards: %v", err)
	}
	bk.want(100, 100)
}

// TestAQueueThatTheServerForgot: a connection whose statements were deallocated rolls back once,
// and is replaced.
func TestAQueueThatTheServerForgot(t *testing.T) {
	bk := newBank(t)
	if err := bk.client.InTx(t.Context(), bk.payLater); err != nil {
		t.Fatal(err)
	}
	for _, conn := range bk.poolA.AcquireAllIdle(t.Context()) {
		_, err := conn.Conn().PgConn().Exec(t.Context(), "DEALLOCATE ALL").ReadAll()
		if err != nil {
			t.Error(err)
		}
		conn.Release()
	}
	if e := wantAborted(t, bk.client.InTx(t.Context(), bk.payLater)); e.SQLState != "26000" {
		t.Errorf("%v", e)
	}
	if err := bk.client.InTx(t.Context(), bk.payLater); err != nil {
		t.Error(err)
	}
	bk.want(40, 160)
	bk.wantVotes(txn.VoteYes, txn.VoteYes)
}

// rolledBack waits until the coordinator, or its sweep, has rolled back what is prepared.
func (bk *bank) rolledBack() {
	bk.t.Helper()
	for _, s := range []*pghost.Server{srvA, srvB} {
		eventually(bk.t, "nothing is prepared any more", func() bool {
			return scan[int](bk.t, s, "SELECT count(*) FROM pg_prepared_xacts") == 0
		})
	}
}

const creditNobody = `UPDATE acct SET bal = bal + $1 WHERE id = 'nobody'`

// TestARegrettedBranchIsRolledBack by the real coordinator, at once: its No says that the branch is
// prepared.
func TestARegrettedBranchIsRolledBack(t *testing.T) {
	bk, _ := realBank(t)
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		_, err := bk.a.Exec(ctx, debit, 30)
		return errors.Join(err, bk.b.QueueExactly(ctx, 1, creditNobody, 30))
	})
	if wantAborted(t, err); !errors.Is(err, pgxtx.ErrRows) {
		t.Errorf("%v does not wrap ErrRows", err)
	}
	bk.rolledBack()
	bk.want(100, 100)
}

// TestUncountedRowsAreNoYes: a branch whose answer was lost, and with it the number of rows, must
// not commit because the coordinator finds it prepared; whatever the number was, and also where the
// caller waits for the decision alone.
func TestUncountedRowsAreNoYes(t *testing.T) {
	for _, c := range []struct {
		sql       string
		delivered bool
		opts      []client.Option
	}{
		{creditNobody, true, nil},
		{creditNobody, true, []client.Option{client.Ack(txn.AckDecided)}},
		{creditNobody, false, nil},
		{credit, true, nil},
	} {
		bk, coord := realBank(t)
		f := &fault{text: "PREPARE TRANSACTION", delivered: c.delivered}
		bk.b = pgxtx.New("bank_b", newPool(t, srvB, f.into))
		var told txn.Result
		opts := append(c.opts, client.Report(&told))
		err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
			_, err := bk.a.Exec(ctx, debit, 30)
			return errors.Join(err, bk.b.QueueExactly(ctx, 1, c.sql, 30))
		}, opts...)
		if wantAborted(t, err); !f.used.Load() {
			t.Error("the line was not cut")
		}
		r, err := coord.Outcome(t.Context(), told.ID)
		if err != nil || r.Outcome != txn.OutcomeRolledBack {
			t.Errorf("the coordinator says %s, %v", r.Outcome, err)
		}
		bk.want(100, 100)
		bk.rolledBack()
	}
}

// TestWhatMayNotWait: statements that return rows, change how others are understood, or speak
// another protocol run at once; and pgx goes on to know what it has prepared itself.
func TestWhatMayNotWait(t *testing.T) {
	bk := newBank(t)
	exec(t, srvB, `CREATE TABLE wide (id int)`)
	t.Cleanup(func() { exec(t, srvB, `DROP TABLE wide`) })
	insert := `INSERT INTO wide VALUES ($1) RETURNING *`
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		return errors.Join(
			bk.a.Queue(ctx, debit, 1),
			bk.b.Queue(ctx, `SET LOCAL lock_timeout = 0`),
			bk.b.Queue(ctx, `CREATE TABLE made (id int)`),
			bk.b.Queue(ctx, `INSERT INTO made VALUES ($1)`, 1),
			bk.b.Queue(ctx, `DROP TABLE made`),
			bk.b.Queue(ctx, insert, 1),
			bk.b.Queue(ctx, credit, 1),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	exec(t, srvB, `ALTER TABLE wide ADD COLUMN more int`)
	for range 2 {
		// pgx finds out at its first failure.
		_, err = bk.poolB.Exec(t.Context(), insert, 2)
	}
	if err != nil {
		t.Errorf("a statement of the pool stays broken: %v", err)
	}
	bk.want(99, 101)
}

// TestAQueueOutlivesAChangeOfItsTable: a text that was prepared before fails once.
func TestAQueueOutlivesAChangeOfItsTable(t *testing.T) {
	bk := newBank(t)
	exec(t, srvB, `CREATE TABLE changing (id text)`)
	t.Cleanup(func() { exec(t, srvB, `DROP TABLE changing`) })
	for name, f := range map[string]func(context.Context) error{
		"at one database": func(ctx context.Context) error {
			return bk.b.Queue(ctx, `INSERT INTO changing VALUES ($1)`, "1")
		},
		"at two": func(ctx context.Context) error {
			_, err := bk.a.Exec(ctx, debit, 1)
			return errors.Join(err, bk.b.Queue(ctx, `INSERT INTO changing VALUES ($1)`, "1"))
		},
	} {
		exec(t, srvB, `ALTER TABLE changing ALTER id TYPE text`)
		if err := bk.client.InTx(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		exec(t, srvB, `ALTER TABLE changing ALTER id TYPE int USING 1`)
		var err error
		for range 2 {
			err = bk.client.InTx(t.Context(), f)
		}
		if err != nil {
			t.Errorf("%s: a queued statement stays broken: %v", name, err)
		}
	}
}

// TestALargeArgumentLeavesRoom: a statement that is too large to wait runs at once, and those after
// it wait again.
func TestALargeArgumentLeavesRoom(t *testing.T) {
	var p packets
	bk := newBank(t, p.into(pgx.QueryExecModeCacheStatement))
	large := `UPDATE acct SET bal = bal + length($1) WHERE id = 'bob'`
	f := func(ctx context.Context) error {
		err := bk.b.Queue(ctx, large, strings.Repeat("x", maxQueuedBytes+1))
		for range 10 {
			err = errors.Join(err, bk.b.Queue(ctx, credit, 1))
		}
		return err
	}
	for range 2 {
		if err := bk.client.InTx(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	before := p.all.Load()
	if err := bk.client.InTx(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	// The large one with BEGIN and the mark, the others, COMMIT.
	if n := p.all.Load() - before; n != 3 {
		t.Errorf("%d packets", n)
	}
}

// maxQueuedBytes is that of the package.
const maxQueuedBytes = 32 << 10

// TestAForgottenQueueAtOneDatabase: a connection that has lost its statements does not come back
// from the pool, where one database decides too.
func TestAForgottenQueueAtOneDatabase(t *testing.T) {
	bk := newBank(t)
	pay := func(ctx context.Context) error { return bk.a.Queue(ctx, debit, 1) }
	if err := bk.client.InTx(t.Context(), pay); err != nil {
		t.Fatal(err)
	}
	for _, conn := range bk.poolA.AcquireAllIdle(t.Context()) {
		_, err := conn.Conn().PgConn().Exec(t.Context(), "DEALLOCATE ALL").ReadAll()
		if err != nil {
			t.Error(err)
		}
		conn.Release()
	}
	if e := wantAborted(t, bk.client.InTx(t.Context(), pay)); e.SQLState != "26000" {
		t.Errorf("%v", e)
	}
	if err := bk.client.InTx(t.Context(), pay); err != nil {
		t.Error(err)
	}
	bk.want(98, 100)
}

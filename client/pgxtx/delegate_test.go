package pgxtx_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

// delegatingBank is a bank with a real coordinator whose transactions leave their decision to
// bank_a, which has the schema of the markers; bank_b has not.
func delegatingBank(t *testing.T) (*bank, *coordinator.Coordinator) {
	t.Helper()
	exec(t, srvA, `TRUNCATE gavel.marker`)
	bk, coord := realBank(t)
	bk.client = client.New(coord, client.Delegate("bank_a"))
	return bk, coord
}

// gate lets a first packet with a text pass only when something has happened, and counts all of
// them.
type gate struct {
	text string
	// before is called by the first packet, on the goroutine that sends it. Nil: nothing.
	before func()
	passed atomic.Int64
}

type gated struct {
	net.Conn
	g *gate
}

func (c gated) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(c.g.text)) && c.g.passed.Add(1) == 1 && c.g.before != nil {
		c.g.before()
	}
	return c.Conn.Write(p)
}

func (g *gate) into(c *pgxpool.Config) {
	dial := c.ConnConfig.DialFunc
	c.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		return gated{conn, g}, err
	}
}

// decision is a text of the packet that decides.
const decision = "gavel.marker"

// through has the delegate's connections pass by way of change.
func (bk *bank) through(change func(*pgxpool.Config)) {
	bk.poolA.Close()
	bk.poolA = newPool(bk.t, srvA, change)
	bk.a = pgxtx.New("bank_a", bk.poolA)
}

// TestTheDelegateIsNotPrepared, in whatever manner its connection is used.
func TestTheDelegateIsNotPrepared(t *testing.T) {
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		bk, coord := delegatingBank(t)
		prepares := gate{text: "PREPARE TRANSACTION"}
		bk.through(func(c *pgxpool.Config) {
			c.ConnConfig.DefaultQueryExecMode = mode
			prepares.into(c)
		})
		for i, f := range []func(context.Context) error{bk.pay, bk.payLater} {
			var r txn.Result
			if err := bk.client.InTx(t.Context(), f, client.Report(&r)); err != nil {
				t.Fatal(err)
			}
			bk.want(70-30*i, 130+30*i)
			if r.Plan != txn.PlanDelegate || r.Outcome != txn.OutcomeCommitted ||
				len(r.Pending()) != 0 {
				t.Errorf("%v: reported %+v", mode, r)
			}
			got, err := coord.Outcome(t.Context(), r.ID)
			if err != nil || got.Outcome != txn.OutcomeCommitted {
				t.Errorf("%v: the coordinator says %s: %v", mode, got.Outcome, err)
			}
		}
		if n := prepares.passed.Load(); n != 0 {
			t.Errorf("%v: the delegate was prepared %d times", mode, n)
		}
	}
}

// TestAQueuedDelegateIsOnePacket: what is queued, the marker and COMMIT travel together. Where the
// number of rows matters it must be known before COMMIT is sent.
func TestAQueuedDelegateIsOnePacket(t *testing.T) {
	for _, rows := range []int64{-1, 1} {
		var p packets
		bk, _ := delegatingBank(t)
		bk.through(p.into(pgx.QueryExecModeCacheStatement))
		pay := func(ctx context.Context) error {
			if rows > 0 {
				return bk.payLater(ctx)
			}
			return errors.Join(bk.a.Queue(ctx, debit, 30), bk.b.Queue(ctx, credit, 30))
		}
		for range 2 {
			if err := bk.client.InTx(t.Context(), pay); err != nil {
				t.Fatal(err)
			}
		}
		before, want := p.all.Load(), int64(1)
		if rows > 0 {
			want++
		}
		if err := bk.client.InTx(t.Context(), pay); err != nil {
			t.Fatal(err)
		}
		if n := p.all.Load() - before; n != want {
			t.Errorf("counted %v: %d packets, want %d", rows > 0, n, want)
		}
		bk.want(10, 190)
	}
}

// TestADelegatedTransactionRollsBack as a whole, whatever its function has overlooked.
func TestADelegatedTransactionRollsBack(t *testing.T) {
	const debitNobody = `UPDATE acct SET bal = bal - $1 WHERE id = 'nobody'`
	for name, tc := range map[string]struct {
		f     func(context.Context, *bank) error
		at    string
		state string
		err   error
	}{
		"an error that the delegate ignored": {func(ctx context.Context, bk *bank) error {
			_ = bk.pay(ctx)
			_, _ = bk.a.Exec(ctx, `INSERT INTO acct VALUES ('alice', 0)`)
			return nil
		}, "bank_a", "23505", nil},
		"an error that another ignored": {func(ctx context.Context, bk *bank) error {
			_ = bk.pay(ctx)
			return credits(ctx, bk.b)
		}, "bank_b", "23505", nil},
		"a queued statement of the delegate": {func(ctx context.Context, bk *bank) error {
			return errors.Join(bk.a.Queue(ctx, debit, 1000), bk.b.Queue(ctx, credit, 1000))
		}, "bank_a", "23514", nil},
		"rows of the delegate": {func(ctx context.Context, bk *bank) error {
			return errors.Join(bk.a.QueueExactly(ctx, 1, debitNobody, 30),
				bk.b.Queue(ctx, credit, 30))
		}, "bank_a", "", pgxtx.ErrRows},
		"rows of another": {func(ctx context.Context, bk *bank) error {
			return errors.Join(bk.a.QueueExactly(ctx, 1, debit, 30),
				bk.b.QueueExactly(ctx, 1, creditNobody, 30))
		}, "bank_b", "", pgxtx.ErrRows},
		"a deferred constraint of the delegate": {func(ctx context.Context, bk *bank) error {
			_, err := bk.a.Exec(ctx, `INSERT INTO once VALUES (1), (1)`)
			return errors.Join(err, bk.pay(ctx))
		}, "bank_a", "23505", nil},
	} {
		t.Run(name, func(t *testing.T) {
			bk, coord := delegatingBank(t)
			e := wantAborted(t, bk.client.InTx(t.Context(), func(ctx context.Context) error {
				return tc.f(ctx, bk)
			}))
			if e.Resource != tc.at || e.SQLState != tc.state || !errors.Is(e, tc.err) &&
				tc.err != nil {
				t.Errorf("%+v", e)
			}
			r, err := coord.Outcome(t.Context(), e.ID)
			if err != nil || r.Outcome != txn.OutcomeRolledBack {
				t.Errorf("the coordinator says %s: %v", r.Outcome, err)
			}
			if n := markers(t, "true"); n != 0 {
				t.Errorf("%d markers: nobody had to look for one", n)
			}
			bk.rolledBack()
			bk.want(100, 100)
		})
	}
}

// markers counts those of a kind.
func markers(t *testing.T, kind string) int {
	t.Helper()
	return scan[int](t, srvA, `SELECT count(*) FROM gavel.marker WHERE `+kind)
}

// TestALostDecision is found in the marker, or prevented for ever.
func TestALostDecision(t *testing.T) {
	for _, delivered := range []bool{true, false} {
		for _, ack := range []txn.AckLevel{txn.AckApplied, txn.AckDecided} {
			bk, _ := delegatingBank(t)
			f := &fault{text: decision, delivered: delivered}
			bk.through(f.into)
			err := bk.client.InTx(t.Context(), bk.payLater, client.Ack(ack))
			if !f.used.Load() {
				t.Error("the line was not cut")
			}
			if delivered && err != nil {
				t.Errorf("committed, and yet %v", err)
			}
			if !delivered {
				wantAborted(t, err)
				bk.rolledBack()
				bk.want(100, 100)
				continue
			}
			bk.rolledBack() // or rather committed: nothing is left prepared
			bk.want(70, 130)
		}
	}
}

// TestADecisionThatComesTooLate: the coordinator writes its marker while that of the client is on
// its way.
func TestADecisionThatComesTooLate(t *testing.T) {
	for name, tc := range map[string]struct {
		opts   []client.Option
		cause  txn.Cause
		before func(t *testing.T, coord *coordinator.Coordinator, id txn.ID)
	}{
		"called off": {nil, txn.CauseClient,
			func(t *testing.T, coord *coordinator.Coordinator, id txn.ID) {
				r, err := coord.Rollback(context.Background(), id, "somebody wants it gone")
				if err != nil || r.Outcome != txn.OutcomeRolledBack {
					t.Errorf("the coordinator says %s: %v", r.Outcome, err)
				}
			}},
		"expired": {[]client.Option{client.Timeout(time.Second)}, txn.CauseExpired,
			func(t *testing.T, _ *coordinator.Coordinator, _ txn.ID) {
				eventually(t, "the coordinator has written its marker", func() bool {
					return markers(t, "decision IS NULL") == 1
				})
			}},
	} {
		t.Run(name, func(t *testing.T) {
			bk, coord := delegatingBank(t)
			var id txn.ID
			bk.through((&gate{text: decision, before: func() { tc.before(t, coord, id) }}).into)
			err := bk.client.InTx(t.Context(), func(ctx context.Context) (err error) {
				if err := bk.payLater(ctx); err != nil {
					return err
				}
				id, err = client.IDFrom(ctx)
				return err
			}, tc.opts...)
			if e := wantAborted(t, err); e.ID != id || e.Cause != tc.cause || e.SQLState != "" {
				t.Errorf("%+v", e)
			}
			if tc.opts == nil && !errors.Is(err, pgbranch.ErrDecided) {
				t.Errorf("%v does not say that it was decided before", err)
			}
			if n := markers(t, "decision IS NULL"); n != 1 {
				t.Errorf("%d markers say never", n)
			}
			bk.rolledBack()
			bk.want(100, 100)
		})
	}
}

// TestADelegateElsewhere does not commit: the coordinator would look for its marker in vain.
func TestADelegateElsewhere(t *testing.T) {
	stranger := txn.Identity{System: 1, Database: 2}
	t.Cleanup(func() { exec(t, srvB, `DROP SCHEMA gavel CASCADE`) })
	for name, db := range map[string]func(bk *bank) *pgxtx.DB{
		"another database": func(bk *bank) *pgxtx.DB { return pgxtx.New("bank_a", bk.poolB) },
		"not the expected one": func(bk *bank) *pgxtx.DB {
			return pgxtx.New("bank_a", bk.poolA, pgxtx.Expect(stranger))
		},
	} {
		bk, _ := delegatingBank(t)
		exec(t, srvB, markerSchema())
		bk.a = db(bk)
		err := bk.client.InTx(t.Context(), bk.pay)
		e := wantAborted(t, err)
		if e.Resource != "bank_a" || !errors.Is(err, pgbranch.ErrIdentity) {
			t.Errorf("%s: %+v", name, e)
		}
		if n := scan[int](t, srvB, `SELECT count(*) FROM gavel.marker`); n != 0 {
			t.Errorf("%s: %d markers where nobody looks for them", name, n)
		}
		bk.rolledBack()
		bk.want(100, 100)
	}
}

// elsewhen is a coordinator that has seen the delegate on another timeline.
type elsewhen struct{ client.Decider }

func (d elsewhen) Begin(ctx context.Context, r txn.BeginRequest) (txn.Begun, error) {
	b, err := d.Decider.Begin(ctx, r)
	for i := range b.Branches {
		if b.Branches[i].Branch == b.Delegate {
			b.Branches[i].At.Timeline++
		}
	}
	return b, err
}

// TestADelegateOnAnotherTimeline commits nothing: the coordinator would ask a server that need not
// have its marker.
func TestADelegateOnAnotherTimeline(t *testing.T) {
	bk, coord := delegatingBank(t)
	bk.client = client.New(elsewhen{coord}, client.Delegate("bank_a"))
	err := bk.client.InTx(t.Context(), bk.pay)
	if e := wantAborted(t, err); e.Resource != "bank_a" || !errors.Is(err, pgbranch.ErrTimeline) {
		t.Errorf("%+v", e)
	}
	bk.rolledBack()
	bk.want(100, 100)
}

// TestWithoutMarkersTheCoordinatorDecides, as if nobody had asked it to leave the decision.
func TestWithoutMarkersTheCoordinatorDecides(t *testing.T) {
	bk, _ := delegatingBank(t)
	var r txn.Result
	err := bk.client.InTx(t.Context(), bk.pay, client.Delegate("bank_b"), client.Report(&r))
	if err != nil || r.Plan != txn.PlanClassic {
		t.Errorf("reported plan %s: %v", r.Plan, err)
	}
	bk.want(70, 130)
}

// TestADelegateThatOnlyRead decides all the same, and so does one that used what PostgreSQL cannot
// prepare.
func TestADelegateThatOnlyRead(t *testing.T) {
	for name, sql := range map[string]string{
		"a query": `SELECT 1`, "a temporary table": `CREATE TEMPORARY TABLE passing (id int)`,
	} {
		bk, _ := delegatingBank(t)
		var r txn.Result
		err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
			_, err := bk.a.Exec(ctx, sql)
			return errors.Join(err, bk.creditOnly(ctx))
		}, client.Report(&r))
		if err != nil || r.Plan != txn.PlanDelegate {
			t.Errorf("%s: reported plan %s: %v", name, r.Plan, err)
		}
		bk.want(100, 130)
	}
}

// TestADelegateThatTheServerForgot: a connection whose statements were deallocated rolls back once,
// and is replaced.
func TestADelegateThatTheServerForgot(t *testing.T) {
	bk, _ := delegatingBank(t)
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
}

// TestPreparedElsewhere: a branch beside the delegate that was prepared in another database than
// the registered one is found by its evidence, before anything is decided, and is swept up.
func TestPreparedElsewhere(t *testing.T) {
	bk, _ := delegatingBank(t)
	bk.b = pgxtx.New("bank_b", bk.poolA)
	err := bk.client.InTx(t.Context(), bk.pay)
	if e := wantAborted(t, err); e.Resource != "bank_b" || e.Cause != txn.CauseIdentity {
		t.Errorf("%+v", e)
	}
	bk.rolledBack()
	if n := scan[int](t, srvA, `SELECT sum(bal) FROM acct`); n != 200 {
		t.Errorf("the accounts of one bank sum up to %d", n)
	}
}

package pgxtx_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
)

// packets counts what a pool's connections write, and those writes that begin a transaction and do
// something else too.
type packets struct{ all, together atomic.Int64 }

type counted struct {
	net.Conn
	p *packets
}

func (c counted) Write(b []byte) (int, error) {
	c.p.all.Add(1)
	if bytes.Contains(b, []byte("UPDATE")) && bytes.Contains(b, []byte("idle_in_transaction")) {
		c.p.together.Add(1)
	}
	return c.Conn.Write(b)
}

func (p *packets) into(mode pgx.QueryExecMode) func(*pgxpool.Config) {
	return func(c *pgxpool.Config) {
		c.ConnConfig.DefaultQueryExecMode = mode
		dial := c.ConnConfig.DialFunc
		c.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			return counted{conn, p}, err
		}
	}
}

// TestBeginTravelsWithTheFirstStatement: a branch costs one packet for BEGIN and its first
// statement, and one for PREPARE, once its connection has seen them before. In the simple protocol
// BEGIN goes by itself.
func TestBeginTravelsWithTheFirstStatement(t *testing.T) {
	for mode, want := range map[pgx.QueryExecMode]int64{
		pgx.QueryExecModeCacheStatement: 2, pgx.QueryExecModeExec: 2,
		pgx.QueryExecModeSimpleProtocol: 3,
	} {
		var p packets
		bk := newBank(t, p.into(mode))
		for range 2 {
			if err := bk.client.InTx(t.Context(), bk.pay); err != nil {
				t.Fatal(err)
			}
		}
		before := p.all.Load()
		if err := bk.client.InTx(t.Context(), bk.pay); err != nil {
			t.Fatal(err)
		}
		if got := p.all.Load() - before; got != 2*want {
			t.Errorf("%v: %d packets for two branches, want %d", mode, got, 2*want)
		}
		bk.want(10, 190)
	}
}

// TestOneDatabaseCostsNoMoreThanWithoutGavel: the mark of a transaction that begins with a write
// travels with it, so that BEGIN is what is saved.
func TestOneDatabaseCostsNoMoreThanWithoutGavel(t *testing.T) {
	var p packets
	bk := newBank(t, p.into(pgx.QueryExecModeCacheStatement))
	for name, c := range map[string]struct {
		work func(context.Context) error
		want int64
	}{
		"a write":            {bk.creditOnly, 2},
		"a read and a write": {bk.lookAndCredit, 5},
		"two writes":         {bk.twice, 3},
	} {
		var before int64
		for range 3 {
			before = p.all.Load()
			if err := bk.client.InTx(t.Context(), c.work); err != nil {
				t.Fatal(err)
			}
		}
		if got := p.all.Load() - before; got != c.want {
			t.Errorf("%s: %d packets, want %d", name, got, c.want)
		}
	}
}

func (bk *bank) twice(ctx context.Context) error {
	return errors.Join(bk.creditOnly(ctx), bk.creditOnly(ctx))
}

// TestAWriteAtAStandbySaysSo: what asks for a number with the first write must not be what fails.
func TestAWriteAtAStandbySaysSo(t *testing.T) {
	standby, err := pghost.Start(t.Context(), pghost.Config{Name: "standby", StandbyOf: srvB})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { standby.Stop(context.Background()) })
	bk := newBank(t)
	bk.b = pgxtx.New("bank_b", newPool(t, standby))
	if err := bk.client.InTx(t.Context(), bk.creditOnly); pgbranch.SQLState(err) != "25006" {
		t.Errorf("error %v", err)
	}
}

// firsts are all ways in which a branch may get its first statement.
func firsts() map[string]func(context.Context, *pgxtx.DB) error {
	return map[string]func(context.Context, *pgxtx.DB) error{
		"exec": func(ctx context.Context, db *pgxtx.DB) error {
			_, err := db.Exec(ctx, credit, 30)
			return err
		},
		"exec without arguments": func(ctx context.Context, db *pgxtx.DB) error {
			_, err := db.Exec(ctx, `UPDATE acct SET bal = bal + 20 WHERE id = 'bob';
				UPDATE acct SET bal = bal + 10 WHERE id = 'bob'`)
			return err
		},
		"exec with a mode": func(ctx context.Context, db *pgxtx.DB) error {
			_, err := db.Exec(ctx, credit, pgx.QueryExecModeExec, 30)
			return err
		},
		"exec with named arguments": func(ctx context.Context, db *pgxtx.DB) error {
			_, err := db.Exec(ctx, `UPDATE acct SET bal = bal + @n WHERE id = 'bob'`,
				pgx.NamedArgs{"n": 30})
			return err
		},
		"query": func(ctx context.Context, db *pgxtx.DB) error {
			rows, err := db.Query(ctx, credit+` RETURNING bal`, 30)
			if err != nil {
				return err
			}
			_, err = pgx.CollectRows(rows, pgx.RowTo[int])
			return err
		},
		"query, closed at once": func(ctx context.Context, db *pgxtx.DB) error {
			rows, err := db.Query(ctx, credit+` RETURNING bal`, 30)
			rows.Close()
			return err
		},
		"query row": func(ctx context.Context, db *pgxtx.DB) error {
			var bal int
			return db.QueryRow(ctx, credit+` RETURNING bal`, 30).Scan(&bal)
		},
		"nothing but a comment": func(ctx context.Context, db *pgxtx.DB) error {
			rows, err := db.Query(ctx, `-- nothing`)
			rows.Close()
			_, second := db.Exec(ctx, credit, 30)
			return errors.Join(err, rows.Err(), second)
		},
		"transaction": func(ctx context.Context, db *pgxtx.DB) error {
			tx, err := db.Tx(ctx)
			if err != nil {
				return err
			}
			_, err = tx.Exec(ctx, credit, 30)
			return err
		},
	}
}

// firstBatches are ways to begin with a batch.
func firstBatches() map[string]func(context.Context, *pgxtx.DB) error {
	return map[string]func(context.Context, *pgxtx.DB) error{
		"batch": func(ctx context.Context, db *pgxtx.DB) error {
			var b pgx.Batch
			b.Queue(credit, 20)
			b.Queue(credit, 10)
			return db.SendBatch(ctx, &b).Close()
		},
		"batch, result by result": func(ctx context.Context, db *pgxtx.DB) error {
			var b pgx.Batch
			b.Queue(credit, 10)
			b.Queue(credit+` RETURNING bal`, 10)
			b.Queue(credit+` RETURNING bal`, 10)
			results := db.SendBatch(ctx, &b)
			_, first := results.Exec()
			rows, second := results.Query()
			rows.Close()
			var bal int
			third := results.QueryRow().Scan(&bal)
			return errors.Join(first, second, third, results.Close())
		},
	}
}

// TestEveryFirstStatementBegins: whatever comes first is part of the branch, commits with it, and
// rolls back with it.
func TestEveryFirstStatementBegins(t *testing.T) {
	bk := newBank(t)
	bob := 100
	all := firsts()
	maps.Copy(all, firstBatches())
	for name, first := range all {
		err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
			if err := first(ctx, bk.b); err != nil {
				return err
			}
			return errPoor
		})
		if !errors.Is(err, errPoor) {
			t.Errorf("%s: %v", name, err)
		}
		bk.want(100, bob)
		err = bk.client.InTx(t.Context(), func(ctx context.Context) error {
			return first(ctx, bk.b)
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		bob += 30
		bk.want(100, bob)
	}
}

// TestAFirstStatementThatFails takes its branch with it, also where the error is ignored, and
// nothing that comes after it commits by itself.
func TestAFirstStatementThatFails(t *testing.T) {
	for name, c := range map[string]struct {
		sql  string
		arg  any
		code string
	}{
		"refused by the parser":   {`UPDATE nowhere SET bal = $1`, 1, "42P01"},
		"refused when it ran":     {`INSERT INTO acct (id, bal) VALUES ('bob', $1)`, 1, "23505"},
		"an argument of no type":  {credit, make(chan int), ""},
		"an argument of bad form": {credit, "many", "22P02"},
	} {
		bk := newBank(t)
		var second error
		err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
			if _, err := bk.a.Exec(ctx, debit, 30); err != nil {
				return err
			}
			if _, err := bk.b.Exec(ctx, c.sql, c.arg); err == nil {
				t.Errorf("%s: no error", name)
			}
			_, second = bk.b.Exec(ctx, credit, 30)
			return nil
		})
		if second == nil {
			t.Errorf("%s: a statement after it was sent", name)
		}
		e := wantAborted(t, err)
		if e.Resource != "bank_b" || e.SQLState != c.code {
			t.Errorf("%s: %+v", name, e)
		}
		bk.want(100, 100)
	}
}

// TestABeginInParts: BEGIN has taken effect, and what belongs to it fails. The transaction rolls
// back, and its connection is not used again.
func TestABeginInParts(t *testing.T) {
	bk := newBank(t)
	blocker, err := pgx.Connect(t.Context(), srvB.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer blocker.Close(context.Background())
	// The tag of the second branch waits for this, and not for long.
	tag := int32(bk.judge.log & (1<<31 - 1))
	if _, err := blocker.Exec(t.Context(), "SELECT pg_advisory_lock($1::int, 1)", tag); err != nil {
		t.Fatal(err)
	}
	impatient := func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["lock_timeout"] = "100ms" }
	bk.b = pgxtx.New("bank_b", newPool(t, srvB, impatient))
	err = bk.client.InTx(t.Context(), func(ctx context.Context) error {
		if _, err := bk.a.Exec(ctx, debit, 30); err != nil {
			return err
		}
		// With the id in hand the next branch takes its tag when it begins.
		if _, err := client.IDFrom(ctx); err != nil {
			return err
		}
		_, err := bk.b.Exec(ctx, `UPDATE acct SET bal = bal`)
		return err
	})
	if e := wantAborted(t, err); !strings.Contains(e.Error(), "lock timeout") {
		t.Errorf("%v", err)
	}
	bk.want(100, 100)
}

// TestStatementsThatTheServerForgot: whoever deallocates all statements costs one transaction, and
// not every one from then on.
func TestStatementsThatTheServerForgot(t *testing.T) {
	bk := newBank(t)
	if err := bk.client.InTx(t.Context(), bk.pay); err != nil {
		t.Fatal(err)
	}
	for _, pool := range []*pgxpool.Pool{bk.poolA, bk.poolB} {
		if _, err := pool.Exec(t.Context(), "DEALLOCATE ALL"); err != nil {
			t.Fatal(err)
		}
	}
	failed := 0
	for range 5 {
		if err := bk.client.InTx(t.Context(), bk.pay); err != nil {
			wantAborted(t, err)
			failed++
		}
	}
	if failed > 3 {
		t.Errorf("%d of 5 transactions failed", failed)
	}
}

// TestABranchWithoutAStatement does nothing and stands in nobody's way.
func TestABranchWithoutAStatement(t *testing.T) {
	bk := newBank(t)
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		if _, err := bk.b.CopyFrom(ctx, pgx.Identifier{"acct"}, []string{"id", "bal"},
			pgx.CopyFromRows(nil)); err != nil {
			return err
		}
		_, err := bk.a.Exec(ctx, debit, 30)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	bk.want(70, 100)
}

// tracer remembers the texts of queries, one by one.
type tracer struct{ texts *[]string }

func (r tracer) TraceQueryStart(
	ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData,
) context.Context {
	*r.texts = append(*r.texts, d.SQL)
	return ctx
}

func (tracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TestTracedQueriesStaySingle: who traces queries sees the first one too, with its own text.
func TestTracedQueriesStaySingle(t *testing.T) {
	var texts []string
	bk := newBank(t, func(c *pgxpool.Config) { c.ConnConfig.Tracer = tracer{&texts} })
	if err := bk.client.InTx(t.Context(), bk.creditOnly); err != nil {
		t.Fatal(err)
	}
	if len(texts) < 2 || !strings.HasPrefix(texts[0], "BEGIN") || texts[1] != credit {
		t.Errorf("traced %q", texts)
	}
	var refused *pgconn.PgError
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		_, err := bk.b.Exec(ctx, `SELECT 1/$1::int`, 0)
		return err
	})
	if !errors.As(err, &refused) || refused.Code != "22012" || !errors.As(err,
		new(*client.AbortedError)) {
		t.Errorf("%v", err)
	}
}

package pgxtx_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

// dbtx is what sqlc writes into the packages that it generates.
type dbtx interface {
	Exec(context.Context, string, ...interface{}) (pgconn.CommandTag, error)
	Query(context.Context, string, ...interface{}) (pgx.Rows, error)
	QueryRow(context.Context, string, ...interface{}) pgx.Row
	CopyFrom(ctx context.Context, tableName pgx.Identifier, columnNames []string,
		rowSrc pgx.CopyFromSource) (int64, error)
	SendBatch(context.Context, *pgx.Batch) pgx.BatchResults
}

var _ dbtx = (*pgxtx.DB)(nil)

func TestATransferCommitsOnBothSides(t *testing.T) {
	bk := newBank(t)
	for range 3 { // on connections that have prepared before
		if err := bk.client.InTx(t.Context(), bk.pay); err != nil {
			t.Fatal(err)
		}
	}
	bk.want(10, 190)
	bk.wantVotes(txn.VoteYes, txn.VoteYes)
	for _, v := range bk.judge.commits[0].Votes {
		if e := v.Evidence; e.System == 0 || e.Database == 0 || e.XID == 0 || e.LSN == 0 {
			t.Errorf("incomplete evidence %+v", e)
		}
	}
}

func TestEveryWayToSendSQL(t *testing.T) {
	for name, mode := range map[string]pgx.QueryExecMode{
		"cached":    pgx.QueryExecModeCacheStatement,
		"described": pgx.QueryExecModeCacheDescribe,
		"exec":      pgx.QueryExecModeExec,
		"simple":    pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(name, func(t *testing.T) {
			bk := newBank(t, func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = mode })
			for range 2 {
				if err := bk.client.InTx(t.Context(), bk.everything); err != nil {
					t.Fatal(err)
				}
				exec(t, srvA, `DELETE FROM acct WHERE id LIKE 'new%'`)
			}
			bk.want(100-2*15, 100+2*15)
		})
	}
}

// everything moves 15 in many ways.
func (bk *bank) everything(ctx context.Context) error {
	var bal int
	err := bk.a.QueryRow(ctx, `UPDATE acct SET bal = bal - $1 WHERE id = 'alice' RETURNING bal`, 5).
		Scan(&bal)
	if err != nil {
		return err
	}
	rows, err := bk.a.Query(ctx, `SELECT bal FROM acct WHERE id = $1`, "alice")
	if err != nil {
		return err
	}
	seen, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[int])
	if err != nil {
		return err
	}
	if seen != bal {
		bk.t.Errorf("the transaction reads %d after it wrote %d", seen, bal)
	}
	var batch pgx.Batch
	batch.Queue(debit, 4)
	batch.Queue(debit, 6)
	batch.Queue(`SELECT bal FROM acct WHERE id = 'alice'`).QueryRow(func(row pgx.Row) error {
		return row.Scan(&seen)
	})
	if err := bk.a.SendBatch(ctx, &batch).Close(); err != nil {
		return err
	}
	if seen != bal-10 {
		bk.t.Errorf("the batch read %d, want %d", seen, bal-10)
	}
	n, err := bk.a.CopyFrom(ctx, pgx.Identifier{"acct"}, []string{"id", "bal"},
		pgx.CopyFromRows([][]any{{"new1", int64(1)}, {"new2", int64(2)}}))
	if err != nil || n != 2 {
		bk.t.Errorf("copied %d: %v", n, err)
		return err
	}
	_, err = bk.b.Exec(ctx, credit, 15)
	return err
}

func TestOneDatabaseNeedsNoCoordinator(t *testing.T) {
	bk := newBank(t)
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		_, err := bk.a.Exec(ctx, debit, 30)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	bk.want(70, 100)
	if bk.judge.seq != 0 {
		t.Error("the coordinator was called")
	}
}

// Who reads and who writes is PostgreSQL's to say: FOR UPDATE writes, a SELECT of a writing
// function too.
func TestReadersAreFound(t *testing.T) {
	exec(t, srvB, `CREATE OR REPLACE FUNCTION give(n int) RETURNS int LANGUAGE sql AS
		$$ UPDATE acct SET bal = bal + n WHERE id = 'bob' RETURNING n $$`)
	read := `SELECT bal FROM acct WHERE id = 'bob'`
	for _, tc := range []struct {
		name, sql string
		votes     []txn.Vote
		bob       int
	}{
		{"select", read, []txn.Vote{txn.VoteReadOnly, txn.VoteReadOnly}, 100},
		{"show", `SHOW server_version`, []txn.Vote{txn.VoteReadOnly, txn.VoteReadOnly}, 100},
		{"for update", read + ` FOR UPDATE`, []txn.Vote{txn.VoteYes, txn.VoteYes}, 100},
		{"function", `SELECT give(30)`, []txn.Vote{txn.VoteYes, txn.VoteYes}, 130},
		{"update of nothing", `UPDATE acct SET bal = 0 WHERE false`,
			[]txn.Vote{txn.VoteYes, txn.VoteYes}, 100},
		{"two statements", read + `; ` + read, []txn.Vote{txn.VoteYes, txn.VoteYes}, 100},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bk := newBank(t)
			err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
				if _, err := bk.a.Exec(ctx, debit, 30); err != nil {
					return err
				}
				_, err := bk.b.Exec(ctx, tc.sql)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			bk.want(70, tc.bob)
			bk.wantVotes(tc.votes...)
		})
	}
}

// A database that may write elsewhere has no readers: postgres_fdw assigns no number here.
func TestADatabaseThatCallsOutHasNoReaders(t *testing.T) {
	exec(t, srvB, `CREATE FOREIGN DATA WRAPPER elsewhere`)
	defer exec(t, srvB, `DROP FOREIGN DATA WRAPPER elsewhere`)
	bk := newBank(t)
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		if _, err := bk.a.Exec(ctx, debit, 30); err != nil {
			return err
		}
		var n int
		return bk.b.QueryRow(ctx, `SELECT count(*) FROM acct`).Scan(&n)
	})
	if err != nil {
		t.Fatal(err)
	}
	bk.wantVotes(txn.VoteYes, txn.VoteYes)
}

func TestIsolationAndReadOnlyReachTheDatabases(t *testing.T) {
	bk := newBank(t)
	for level, want := range map[client.Level]string{
		"": "read committed", client.RepeatableRead: "repeatable read",
		client.Serializable: "serializable",
	} {
		err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
			for _, db := range []*pgxtx.DB{bk.a, bk.b} {
				var got, readOnly, idle string
				err := db.QueryRow(ctx, `SELECT current_setting('transaction_isolation'),
					current_setting('transaction_read_only'),
					current_setting('idle_in_transaction_session_timeout')`).
					Scan(&got, &readOnly, &idle)
				if err != nil {
					return err
				}
				if got != want || readOnly != "on" || idle != "30s" {
					t.Errorf("level %q: isolation %s, read only %s, idle %s",
						level, got, readOnly, idle)
				}
			}
			return nil
		}, client.Isolation(level), client.ReadOnly())
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheOwnerRoleOwnsWhatIsPrepared(t *testing.T) {
	asApp := func(c *pgxpool.Config) { c.ConnConfig.User = "app" }
	bk := newBank(t, asApp)
	bk.judge.owner = "gavel_owner"
	bk.a = pgxtx.New("bank_a", bk.poolA, pgxtx.OwnerRole("gavel_owner"))
	bk.b = pgxtx.New("bank_b", bk.poolB, pgxtx.OwnerRole("gavel_owner"))
	if err := bk.client.InTx(t.Context(), bk.pay); err != nil {
		t.Fatal(err)
	}
	bk.want(70, 130)
	// The role was local to the branch.
	var role string
	if err := bk.poolA.QueryRow(t.Context(), `SELECT current_user`).Scan(&role); err != nil {
		t.Fatal(err)
	}
	if role != "app" {
		t.Errorf("the connection came back as %s", role)
	}
}

func TestExpectRefusesAnotherDatabase(t *testing.T) {
	bk := newBank(t)
	bk.b = pgxtx.New("bank_b", bk.poolB, pgxtx.Expect(txn.Identity{System: 1, Database: 1}))
	err := bk.client.InTx(t.Context(), bk.pay)
	if e := wantAborted(t, err); e.Resource != "bank_b" {
		t.Errorf("%+v", e)
	}
	bk.want(100, 100)
}

func TestOutsideOfATransaction(t *testing.T) {
	bk := newBank(t)
	ctx := t.Context()
	free := pgxtx.New("bank_a", bk.poolA, pgxtx.AllowAutocommit())
	for name, f := range map[string]func(*pgxtx.DB) error{
		"Exec": func(db *pgxtx.DB) error { _, err := db.Exec(ctx, `SELECT 1`); return err },
		"Query": func(db *pgxtx.DB) error {
			rows, err := db.Query(ctx, `SELECT 1`)
			if rows.Next() != (err == nil) || rows.Err() != err {
				t.Errorf("rows of a query with error %v: %v", err, rows.Err())
			}
			rows.Close()
			return err
		},
		"QueryRow": func(db *pgxtx.DB) error {
			var n int
			return db.QueryRow(ctx, `SELECT 1`).Scan(&n)
		},
		"SendBatch": func(db *pgxtx.DB) error {
			var b pgx.Batch
			b.Queue(`SELECT 1`)
			return db.SendBatch(ctx, &b).Close()
		},
		"CopyFrom": func(db *pgxtx.DB) error {
			_, err := db.CopyFrom(ctx, pgx.Identifier{"acct"}, []string{"id"},
				pgx.CopyFromRows(nil))
			return err
		},
	} {
		if err := f(bk.a); err != client.ErrNoTransaction {
			t.Errorf("%s: error %v, want ErrNoTransaction", name, err)
		}
		if err := f(free); err != nil {
			t.Errorf("%s with AllowAutocommit: %v", name, err)
		}
	}
	if _, err := free.Tx(ctx); err != client.ErrNoTransaction {
		t.Errorf("Tx: %v", err)
	}
	if free.Resource() != "bank_a" {
		t.Errorf("resource %q", free.Resource())
	}
}

func TestAutocommitIsNoWayOutOfATransactionThatIsOver(t *testing.T) {
	bk := newBank(t)
	free := pgxtx.New("bank_a", bk.poolA, pgxtx.AllowAutocommit())
	var kept context.Context
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error { kept = ctx; return nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := free.Exec(context.WithoutCancel(kept), debit, 30); err == nil {
		t.Error("a statement of a finished transaction was sent")
	}
	bk.want(100, 100)
}

func TestABranchIsTaggedWhereTheTransactionIsKnown(t *testing.T) {
	bk := newBank(t)
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		id, err := client.IDFrom(ctx)
		if err != nil {
			return err
		}
		if err := bk.pay(ctx); err != nil {
			return err
		}
		n := scan[int](t, srvA, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
			AND mode = 'ShareLock'`)
		if n != 1 {
			t.Errorf("%d tags for %s with key %d", n, id, pgbranch.TagKey(id.Log()))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	bk.want(70, 130)
}

func TestTheNeedsOfAPoolAreOneConnection(t *testing.T) {
	bk := newBank(t, func(c *pgxpool.Config) { c.MaxConns = 1 })
	for range 2 {
		if err := bk.client.InTx(t.Context(), bk.pay); err != nil {
			t.Fatal(err)
		}
	}
	bk.want(40, 160)
}

package pgxtx_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
	"github.com/gavel-tx/gavel/txn"
)

// judge is a coordinator without a log: it decides by the votes, and finishes the branches before
// it answers.
type judge struct {
	t   testing.TB
	log txn.LogID
	// owner is taken to finish branches.
	owner string

	mu       sync.Mutex
	seq      txn.Seq
	branches map[txn.ID][]txn.Enlisted
	commits  []txn.CommitRequest
}

func newJudge(t testing.TB) *judge {
	t.Helper()
	log, err := txn.NewLogID()
	if err != nil {
		t.Fatal(err)
	}
	return &judge{t: t, log: log, branches: map[txn.ID][]txn.Enlisted{}}
}

func (j *judge) Begin(_ context.Context, r txn.BeginRequest) (txn.Begun, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	id := r.ID
	if id.IsZero() {
		j.seq++
		id = txn.NewID(j.log, j.seq)
	}
	for _, name := range r.Resources {
		no := txn.BranchNo(len(j.branches[id]) + 1)
		j.branches[id] = append(j.branches[id],
			txn.Enlisted{Branch: no, Resource: name, Name: txn.NameOf(id, no)})
	}
	return txn.Begun{ID: id, Branches: slices.Clone(j.branches[id])}, nil
}

// Commit commits if every vote is Yes or ReadOnly. A vote that is Unknown, or missing, is not
// guessed: here it is enough to roll back, because nobody else knows the decision yet.
func (j *judge) Commit(ctx context.Context, r txn.CommitRequest) (txn.Result, error) {
	j.mu.Lock()
	j.commits = append(j.commits, r)
	branches := slices.Clone(j.branches[r.ID])
	j.mu.Unlock()
	res := txn.Result{ID: r.ID, Outcome: txn.OutcomeCommitted, State: txn.StateCommitted}
	for _, v := range r.Votes {
		if v.Vote != txn.VoteYes && v.Vote != txn.VoteReadOnly {
			res = txn.Result{ID: r.ID, Outcome: txn.OutcomeRolledBack, State: txn.StateRolledBack,
				Cause: txn.CauseVotedNo, Reason: v.Reason, SQLState: v.SQLState}
		}
	}
	for _, v := range r.Votes {
		regretted := v.Vote == txn.VoteNo && !v.Evidence.IsZero()
		if v.Vote == txn.VoteYes || v.Vote == txn.VoteUnknown || regretted {
			j.finish(ctx, branches[v.Branch-1], res.Outcome == txn.OutcomeCommitted, v.Vote)
		}
	}
	return res, nil
}

func (j *judge) finish(ctx context.Context, b txn.Enlisted, commit bool, v txn.Vote) {
	conn, err := pgx.Connect(ctx, serverOf(b.Resource).DSN("postgres"))
	if err != nil {
		j.t.Errorf("finish %s: %v", b.Resource, err)
		return
	}
	defer conn.Close(context.Background())
	done := pgbranch.Finish(ctx, conn.PgConn(), j.owner, commit, []txn.Name{b.Name})
	missing := v == txn.VoteUnknown && done[0].Result == pgbranch.FinishMissing
	if done[0].Result != pgbranch.FinishDone && !missing {
		j.t.Errorf("finish %s: %s: %v", b.Resource, done[0].Result, done[0].Err)
	}
}

func (j *judge) Outcome(context.Context, txn.ID) (txn.Result, error) {
	return txn.Result{}, errors.New("the judge keeps no outcomes")
}

// votes are those of the last Commit.
func (j *judge) votes() []txn.Vote {
	j.mu.Lock()
	defer j.mu.Unlock()
	var votes []txn.Vote
	if len(j.commits) > 0 {
		for _, v := range j.commits[len(j.commits)-1].Votes {
			votes = append(votes, v.Vote)
		}
	}
	return votes
}

func serverOf(resource string) *pghost.Server {
	if resource == "bank_a" {
		return srvA
	}
	return srvB
}

// bank is two databases with 100 on each side, and a client for them.
type bank struct {
	t      testing.TB
	judge  *judge
	client *client.Client
	a, b   *pgxtx.DB
	poolA  *pgxpool.Pool
	poolB  *pgxpool.Pool
}

// newBank makes pools by the standard configuration, changed by the test.
func newBank(t testing.TB, change ...func(*pgxpool.Config)) *bank {
	t.Helper()
	bk := &bank{t: t, judge: newJudge(t)}
	bk.client = client.New(bk.judge)
	bk.poolA, bk.poolB = newPool(t, srvA, change...), newPool(t, srvB, change...)
	bk.a, bk.b = pgxtx.New("bank_a", bk.poolA), pgxtx.New("bank_b", bk.poolB)
	for _, s := range []*pghost.Server{srvA, srvB} {
		exec(t, s, `TRUNCATE acct, once; INSERT INTO acct VALUES ('alice', 100), ('bob', 100)`)
	}
	t.Cleanup(func() { bk.wantClean() })
	return bk
}

func newPool(
	t testing.TB, s *pghost.Server, change ...func(*pgxpool.Config),
) *pgxpool.Pool {
	t.Helper()
	conf, err := pgxpool.ParseConfig(s.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(conf)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func exec(t testing.TB, s *pghost.Server, sql string) {
	t.Helper()
	if err := s.Exec(context.Background(), "postgres", sql); err != nil {
		t.Fatal(err)
	}
}

// scan asks a server on a connection of its own, as somebody outside of every transaction.
func scan[T any](t testing.TB, s *pghost.Server, sql string) T {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, s.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var v T
	if err := conn.QueryRow(ctx, sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// wantClean: no connection of the pools is left in use or in a transaction, and nothing stays
// prepared.
func (bk *bank) wantClean() {
	bk.t.Helper()
	for _, p := range []*pgxpool.Pool{bk.poolA, bk.poolB} {
		// A pool closes broken connections in the background.
		eventually(bk.t, "every connection is given back", func() bool {
			return p.Stat().AcquiredConns() == 0
		})
		for _, conn := range p.AcquireAllIdle(context.Background()) {
			if s := conn.Conn().PgConn().TxStatus(); s != 'I' {
				bk.t.Errorf("a connection came back in status %c", s)
			}
			conn.Release()
		}
	}
	for _, s := range []*pghost.Server{srvA, srvB} {
		if n := scan[int](bk.t, s, "SELECT count(*) FROM pg_prepared_xacts"); n != 0 {
			bk.t.Errorf("%s: %d prepared transactions are left", s.Name(), n)
		}
	}
}

// eventually waits for what happens in the background.
func eventually(t testing.TB, what string, happened func() bool) {
	t.Helper()
	limit := time.After(30 * time.Second)
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for !happened() {
		select {
		case <-again.C:
		case <-limit:
			t.Fatalf("not after 30 s: %s", what)
		}
	}
}

// want compares the books: alice's account is in bank_a, bob's in bank_b.
func (bk *bank) want(alice, bob int) {
	bk.t.Helper()
	a := scan[int](bk.t, srvA, `SELECT bal FROM acct WHERE id = 'alice'`)
	b := scan[int](bk.t, srvB, `SELECT bal FROM acct WHERE id = 'bob'`)
	if a != alice || b != bob {
		bk.t.Errorf("alice has %d and bob %d, want %d and %d", a, b, alice, bob)
	}
}

const (
	debit  = `UPDATE acct SET bal = bal - $1 WHERE id = 'alice'`
	credit = `UPDATE acct SET bal = bal + $1 WHERE id = 'bob'`
)

// pay moves 30 from alice to bob.
func (bk *bank) pay(ctx context.Context) error {
	if _, err := bk.a.Exec(ctx, debit, 30); err != nil {
		return err
	}
	_, err := bk.b.Exec(ctx, credit, 30)
	return err
}

func wantAborted(t testing.TB, err error) *client.AbortedError {
	t.Helper()
	a, ok := errors.AsType[*client.AbortedError](err)
	if !ok {
		t.Fatalf("error %v (%T), want an AbortedError", err, err)
	}
	return a
}

func (bk *bank) wantVotes(want ...txn.Vote) {
	bk.t.Helper()
	if got := bk.judge.votes(); !slices.Equal(got, want) {
		bk.t.Errorf("votes %v, want %v", got, want)
	}
}

// sessions counts the sessions of a server that are inside a transaction.
func sessions(t testing.TB, s *pghost.Server) int {
	t.Helper()
	return scan[int](t, s, `SELECT count(*) FROM pg_stat_activity
		WHERE state LIKE 'idle in transaction%' AND pid <> pg_backend_pid()`)
}

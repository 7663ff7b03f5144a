package pgxtx_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
	"github.com/gavel-tx/gavel/txn"
)

// fault breaks the connection of the first message that holds a text. Everything else of it is
// real.
type fault struct {
	text string
	// delivered says whether the server gets the message: its answer is lost then.
	delivered bool
	// meanwhile runs when the connection is broken, before the client notices.
	meanwhile func()
	used      atomic.Bool
}

func (f *fault) into(c *pgxpool.Config) {
	dial := c.ConnConfig.DialFunc
	c.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &faulty{Conn: conn, fault: f}, nil
	}
}

type faulty struct {
	net.Conn
	fault *fault
	cut   atomic.Bool
}

var errCut = errors.New("the network is down")

func (c *faulty) Write(p []byte) (int, error) {
	if !bytes.Contains(p, []byte(c.fault.text)) || c.fault.used.Swap(true) {
		return c.Conn.Write(p)
	}
	if !c.fault.delivered {
		c.Conn.Close()
		c.fault.happen()
		return 0, errCut
	}
	c.cut.Store(true)
	return c.Conn.Write(p)
}

// Read waits for the answer that will be lost: by then the server has done what it was told.
func (c *faulty) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.cut.Load() {
		c.Conn.Close()
		c.fault.happen()
		return 0, errCut
	}
	return n, err
}

func (f *fault) happen() {
	if f.meanwhile != nil {
		f.meanwhile()
		f.meanwhile = nil
	}
}

// atB puts the fault into the connections of bank_b alone.
func (f *fault) atB(t *testing.T) *bank {
	bk := newBank(t)
	bk.poolB.Close()
	bk.poolB = newPool(t, srvB, f.into)
	bk.b = pgxtx.New("bank_b", bk.poolB)
	return bk
}

func (bk *bank) creditOnly(ctx context.Context) error {
	_, err := bk.b.Exec(ctx, credit, 30)
	return err
}

// lookAndCredit does not begin with a write, so that its mark is not known from the first answer.
func (bk *bank) lookAndCredit(ctx context.Context) error {
	if _, err := bk.b.Exec(ctx, `SELECT 1`); err != nil {
		return err
	}
	return bk.creditOnly(ctx)
}

// One database decides alone, and its answer is lost. Only it knows, and it is asked.
func TestALostCommitIsAnsweredByTheDatabase(t *testing.T) {
	for name, tc := range map[string]struct {
		delivered, reads bool
		bob              int
	}{
		"it arrived":     {true, false, 130},
		"it did not":     {false, false, 100},
		"a later write":  {true, true, 130},
		"and it did not": {false, true, 100},
	} {
		t.Run(name, func(t *testing.T) {
			bk := (&fault{text: "commit\x00", delivered: tc.delivered}).atB(t)
			work := bk.creditOnly
			if tc.reads {
				work = bk.lookAndCredit
			}
			err := bk.client.InTx(t.Context(), work)
			if tc.delivered && err != nil {
				t.Errorf("committed, and yet %v", err)
			}
			if !tc.delivered {
				wantAborted(t, err)
			}
			bk.want(100, tc.bob)
		})
	}
}

// A text of several statements may begin another transaction, and that one is asked for.
func TestTheMarkIsOfTheTransactionThatCommits(t *testing.T) {
	bk := (&fault{text: "commit\x00"}).atB(t)
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		if err := bk.creditOnly(ctx); err != nil {
			return err
		}
		_, err := bk.b.Exec(ctx, `SELECT 1; COMMIT; BEGIN;
			UPDATE acct SET bal = bal + 1000 WHERE id = 'bob'`)
		return err
	})
	wantAborted(t, err)
	bk.want(100, 130)
}

// A server that crashed may give the number of the transaction to another one, so that nothing it
// says about it is proof any more.
func TestALostCommitAndACrashOfTheServerLeaveDoubt(t *testing.T) {
	for _, reads := range []bool{false, true} {
		f := &fault{text: "commit\x00", delivered: true}
		bk := f.atB(t)
		f.meanwhile = func() { restart(t, srvB) }
		work := bk.creditOnly
		if reads {
			work = bk.lookAndCredit
		}
		err := bk.client.InTx(t.Context(), work)
		if !errors.Is(err, client.ErrInDoubt) || !client.IDOf(err).IsZero() {
			t.Errorf("error %v", err)
		}
		// In truth it was committed: the answer was "yes", and never "no".
		bk.want(100, 130)
	}
}

func restart(t *testing.T, s *pghost.Server) {
	s.Kill()
	if err := s.Restart(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestTheMarkIsLostBeforeCommitIsSent(t *testing.T) {
	bk := (&fault{text: "\x00gavel_mark\x00\x00\x00", delivered: true}).atB(t)
	e := wantAborted(t, bk.client.InTx(t.Context(), bk.lookAndCredit))
	if e.Resource != "bank_b" {
		t.Errorf("%+v", e)
	}
	bk.want(100, 100)
}

// A transaction that only read is asked about by nobody: it has no number.
func TestALostCommitOfAReaderLeavesDoubt(t *testing.T) {
	bk := (&fault{text: "commit\x00", delivered: true}).atB(t)
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		_, err := bk.b.Exec(ctx, `SELECT 1`)
		return err
	})
	if !errors.Is(err, client.ErrInDoubt) {
		t.Errorf("error %v", err)
	}
}

func TestTheReaderTestIsLost(t *testing.T) {
	bk := (&fault{text: "pg_current_xact_id_if_assigned"}).atB(t)
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		if _, err := bk.a.Exec(ctx, debit, 30); err != nil {
			return err
		}
		_, err := bk.b.Exec(ctx, `SELECT 1`)
		return err
	})
	if e := wantAborted(t, err); e.Resource != "bank_b" {
		t.Errorf("%+v", e)
	}
	bk.want(100, 100)
}

// Whether a branch is prepared whose PREPARE was not answered, only the coordinator can find out.
func TestALostPrepareIsAnUnknownVote(t *testing.T) {
	for _, delivered := range []bool{true, false} {
		bk := (&fault{text: "PREPARE TRANSACTION", delivered: delivered}).atB(t)
		wantAborted(t, bk.client.InTx(t.Context(), bk.pay))
		bk.wantVotes(txn.VoteYes, txn.VoteUnknown)
		bk.want(100, 100)
	}
}

func TestAStatementWhoseAnswerIsLostRollsBack(t *testing.T) {
	bk := (&fault{text: "bob", delivered: true}).atB(t)
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		_ = bk.pay(ctx)
		return nil
	})
	if e := wantAborted(t, err); e.Resource != "bank_b" {
		t.Errorf("%+v", e)
	}
	bk.want(100, 100)
}

// An idle session dies by the hand of the server; the function ignores that its statement failed.
func TestTheServersLastWordIsToldWithALostSession(t *testing.T) {
	bk := newBank(t)
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		if _, err := bk.a.Exec(ctx, debit, 30); err != nil {
			return err
		}
		_, _ = bk.b.Exec(ctx, `SELECT pg_terminate_backend(pg_backend_pid())`)
		return nil
	})
	e := wantAborted(t, err)
	if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != e.SQLState {
		t.Errorf("%+v does not tell the server's last word", e)
	}
	bk.want(100, 100)
}

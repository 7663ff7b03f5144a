package gaveltest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/gaveltest"
	"github.com/gavel-tx/gavel/client/kvtx"
	"github.com/gavel-tx/gavel/txn"
)

// shop is code under test: an order takes from the stock.
type shop struct {
	client        *client.Client
	orders, stock *kvtx.DB
}

func newShop(t *testing.T) (*gaveltest.Gavel, *shop) {
	g := gaveltest.New(t, gaveltest.KV("orders"), gaveltest.KV("stock"))
	s := &shop{client.New(g), g.Store("orders"), g.Store("stock")}
	if err := s.deliver(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	return g, s
}

// deliver is a transaction at one resource.
func (s *shop) deliver(ctx context.Context, n int64, opts ...client.Option) error {
	return s.client.InTx(ctx, func(ctx context.Context) error {
		_, err := s.stock.Add(ctx, "apples", n)
		return err
	}, opts...)
}

func (s *shop) order(ctx context.Context, n int64, opts ...client.Option) error {
	return s.client.InTx(ctx, func(ctx context.Context) error { return s.work(ctx, n) }, opts...)
}

func (s *shop) work(ctx context.Context, n int64) error {
	if _, err := s.orders.Add(ctx, "apples", n); err != nil {
		return err
	}
	_, err := s.stock.Add(ctx, "apples", -n, kvtx.AtLeast(0))
	return err
}

// wants compares what is committed when all has settled, and that every fault happened.
func wants(t *testing.T, g *gaveltest.Gavel, orders, stock string) {
	t.Helper()
	g.Settle()
	if o, s := g.Value("orders", "apples"), g.Value("stock", "apples"); o != orders || s != stock {
		t.Errorf("ordered %q and in stock %q, want %q and %q", o, s, orders, stock)
	}
	if left := g.Unhappened(); len(left) > 0 {
		t.Errorf("it did not happen: %q", left)
	}
}

func wantAborted(t *testing.T, err error) *client.AbortedError {
	t.Helper()
	a, ok := errors.AsType[*client.AbortedError](err)
	if !ok {
		t.Fatalf("error %v, want an AbortedError", err)
	}
	return a
}

func TestCommit(t *testing.T) {
	g, s := newShop(t)
	if err := s.order(t.Context(), 3); err != nil {
		t.Error(err)
	}
	wants(t, g, "3", "7")
}

// TestFailPrepare: at either of two resources, and at the only one.
func TestFailPrepare(t *testing.T) {
	g, s := newShop(t)
	for _, name := range []string{"orders", "stock"} {
		g.FailNext(gaveltest.Prepare, name)
		a := wantAborted(t, s.order(t.Context(), 3))
		if a.Resource != name || !a.Retryable {
			t.Errorf("%+v", a)
		}
		wants(t, g, "", "10")
	}
	g.FailNext(gaveltest.Prepare, "stock")
	if a := wantAborted(t, s.deliver(t.Context(), 1)); a.Resource != "stock" || !a.Retryable {
		t.Errorf("%+v", a)
	}
	wants(t, g, "", "10")
	g.FailNext(gaveltest.Prepare, "orders")
	if err := s.order(t.Context(), 3, client.Retry(1)); err != nil {
		t.Error(err)
	}
	wants(t, g, "3", "7")
}

// TestFailBegin: the coordinator does not take it.
func TestFailBegin(t *testing.T) {
	g, s := newShop(t)
	g.FailNext(gaveltest.Begin, "stock")
	wantAborted(t, s.order(t.Context(), 3))
	wants(t, g, "", "10")
}

// TestFailCommit: what is decided is carried out, though not at once.
func TestFailCommit(t *testing.T) {
	g, s := newShop(t)
	g.FailNext(gaveltest.Commit, "orders")
	g.FailNext(gaveltest.Commit, "stock")
	if err := s.order(t.Context(), 3); err != nil {
		t.Error(err)
	}
	wants(t, g, "3", "7")
	g.FailNext(gaveltest.Commit, "stock")
	if err := s.deliver(t.Context(), 1); err != nil {
		t.Error(err)
	}
	wants(t, g, "3", "8")
}

// TestFailAnswer: the client asks, and hears.
func TestFailAnswer(t *testing.T) {
	g, s := newShop(t)
	g.FailNext(gaveltest.Answer, "stock")
	if err := s.order(t.Context(), 3); err != nil {
		t.Error(err)
	}
	wants(t, g, "3", "7")
}

// TestRestartUndecided: what was not decided is gone.
func TestRestartUndecided(t *testing.T) {
	g, s := newShop(t)
	err := s.client.InTx(t.Context(), func(ctx context.Context) error {
		err := s.work(ctx, 3)
		g.Restart()
		return err
	})
	wantAborted(t, err)
	wants(t, g, "", "10")
	if err := s.order(t.Context(), 3); err != nil {
		t.Error(err)
	}
	wants(t, g, "3", "7")
}

// TestRestartDecided: what was decided is carried out.
func TestRestartDecided(t *testing.T) {
	g, s := newShop(t)
	for range 3 {
		g.FailNext(gaveltest.Commit, "orders")
	}
	if err := s.order(t.Context(), 3, client.Ack(txn.AckDecided)); err != nil {
		t.Error(err)
	}
	g.Restart()
	wants(t, g, "3", "7")
}

// TestTimeIsVirtual: ten seconds pass at once.
func TestTimeIsVirtual(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s := newShop(t)
		begun := time.Now()
		err := s.client.InTx(t.Context(), func(ctx context.Context) error {
			if err := s.work(ctx, 3); err != nil {
				return err
			}
			time.Sleep(10 * time.Second)
			return nil
		}, client.Timeout(5*time.Second))
		wantAborted(t, err)
		if took := time.Since(begun); took < 10*time.Second {
			t.Errorf("it took %v of the test's time", took)
		}
		wants(t, g, "", "10")
	})
}

// TestKV: operations, and what the transaction hears of them.
func TestKV(t *testing.T) {
	g, s := newShop(t)
	err := s.client.InTx(t.Context(), func(ctx context.Context) error {
		if err := s.stock.Put(ctx, "pears", []byte("5")); err != nil {
			return err
		}
		sum, err := s.stock.Add(ctx, "pears", 2)
		if err != nil || sum != 7 {
			t.Errorf("sum %d, %v", sum, err)
		}
		if err := s.stock.Delete(ctx, "apples"); err != nil {
			return err
		}
		for key, want := range map[string]string{"pears": "7", "apples": "", "plums": ""} {
			v, found, err := s.stock.Get(ctx, key)
			if err != nil || string(v) != want || found != (want != "") {
				t.Errorf("%s: %q, %v, %v", key, v, found, err)
			}
		}
		return nil
	})
	if err != nil || g.Value("stock", "pears") != "7" || g.Value("stock", "apples") != "" {
		t.Errorf("%v", err)
	}
}

// TestAnErrorThatIsIgnored: the transaction does not commit without what failed.
func TestAnErrorThatIsIgnored(t *testing.T) {
	g, s := newShop(t)
	err := s.client.InTx(t.Context(), func(ctx context.Context) error {
		_ = s.work(ctx, 11)
		return nil
	})
	if a := wantAborted(t, err); a.Resource != "stock" || a.Retryable {
		t.Errorf("%+v", a)
	}
	wants(t, g, "", "10")
}

// TestConflict: of two that read what the other writes one is to be run again.
func TestConflict(t *testing.T) {
	g, s := newShop(t)
	err := s.client.InTx(t.Context(), func(ctx context.Context) error {
		if _, _, err := s.stock.Get(ctx, "apples"); err != nil {
			return err
		}
		if err := s.deliver(client.Detach(ctx), 5); err != nil {
			t.Error(err)
		}
		return s.work(ctx, 3)
	})
	if a := wantAborted(t, err); a.SQLState != "40001" || !a.Retryable {
		t.Errorf("%+v", a)
	}
	wants(t, g, "", "15")
}

// TestOutsideOfATransaction nothing is done.
func TestOutsideOfATransaction(t *testing.T) {
	g, s := newShop(t)
	if err := s.work(t.Context(), 3); !errors.Is(err, client.ErrNoTransaction) {
		t.Errorf("before: %v", err)
	}
	var late context.Context
	if err := s.client.InTx(t.Context(), func(ctx context.Context) error {
		late = ctx
		return s.work(ctx, 3)
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.work(late, 3); !errors.Is(err, client.ErrFinished) {
		t.Errorf("afterwards: %v", err)
	}
	wants(t, g, "3", "7")
}

// TestRestartBetween: the store has let go of what it held for the coordinator that is gone. Run
// again, it succeeds.
func TestRestartBetween(t *testing.T) {
	g, s := newShop(t)
	runs := 0
	err := s.client.InTx(t.Context(), func(ctx context.Context) error {
		if err := s.work(ctx, 2); err != nil {
			return err
		}
		if runs++; runs == 1 {
			g.Restart()
		}
		return s.work(ctx, 1)
	}, client.Retry(1))
	if err != nil || runs != 2 {
		t.Errorf("%d runs: %v", runs, err)
	}
	wants(t, g, "3", "7")
}

// TestUnhappened: what did not happen is told.
func TestUnhappened(t *testing.T) {
	g, _ := newShop(t)
	g.FailNext(gaveltest.Commit, "stock")
	if left := g.Unhappened(); len(left) != 1 || left[0] != "commit stock" {
		t.Errorf("%q", left)
	}
}

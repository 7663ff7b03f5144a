package pgxtx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/participant/postgres"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// realBank is a bank whose coordinator is the real one, within this process, over both databases.
func realBank(t *testing.T) (*bank, *coordinator.Coordinator) {
	t.Helper()
	bk := newBank(t)
	// The cleanup of the bank looks for what is left behind, after the coordinator has closed.
	coord, err := openCoordinator(t.Context(), t.TempDir(), func(closer io.Closer) {
		t.Cleanup(func() {
			if err := closer.Close(); err != nil {
				t.Error(err)
			}
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	bk.client = client.New(coord)
	awaitResources(t, coord)
	return bk, coord
}

// openCoordinator opens a coordinator over both databases on a new log. What must be closed is
// told, in the order of its opening.
func openCoordinator(
	ctx context.Context, dir string, opened func(io.Closer),
) (*coordinator.Coordinator, error) {
	if _, err := coordinator.Init(vfs.OS(), dir); err != nil {
		return nil, err
	}
	conf := coordinator.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)}
	for _, s := range []*pghost.Server{srvA, srvB} {
		r, err := postgres.Open(ctx, postgres.Config{Name: s.Name(), DSN: s.DSN("postgres")})
		if err != nil {
			return nil, err
		}
		opened(r)
		conf.Resources = append(conf.Resources,
			coordinator.Resource{Name: s.Name(), Kind: "postgres", Manager: r})
	}
	coord, err := coordinator.Open(ctx, conf)
	if err == nil {
		opened(coord)
	}
	return coord, err
}

func awaitResources(t *testing.T, coord *coordinator.Coordinator) {
	t.Helper()
	eventually(t, "the resources are registered", func() bool {
		begun, err := coord.Begin(t.Context(),
			txn.BeginRequest{Resources: []string{"bank_a", "bank_b"}})
		if err != nil {
			return false
		}
		_, err = coord.Rollback(t.Context(), begun.ID, "only a question")
		return err == nil
	})
}

func TestTheRealCoordinatorCommits(t *testing.T) {
	bk, coord := realBank(t)
	var r txn.Result
	var id txn.ID
	err := bk.client.InTx(t.Context(), func(ctx context.Context) (err error) {
		if id, err = client.IDFrom(ctx); err != nil {
			return err
		}
		return bk.pay(ctx)
	}, client.Name("transfer"), client.Report(&r))
	if err != nil {
		t.Fatal(err)
	}
	bk.want(70, 130)
	if r.ID != id || r.Outcome != txn.OutcomeCommitted || len(r.Pending()) != 0 {
		t.Errorf("reported %+v", r)
	}
	got, err := coord.Outcome(t.Context(), id)
	if err != nil || got.Outcome != txn.OutcomeCommitted {
		t.Errorf("the coordinator says %s: %v", got.Outcome, err)
	}
	if err := bk.client.Await(t.Context(), id); err != nil {
		t.Errorf("Await: %v", err)
	}
}

func TestTheRealCoordinatorRollsBack(t *testing.T) {
	bk, coord := realBank(t)
	for name, f := range map[string]func(context.Context) error{
		"an error": func(ctx context.Context) error { return errors.Join(bk.pay(ctx), errPoor) },
		"an ignored error": func(ctx context.Context) error {
			_ = bk.pay(ctx)
			return credits(ctx, bk.b)
		},
		"a deferred constraint": func(ctx context.Context) error {
			_ = bk.pay(ctx)
			_, err := bk.b.Exec(ctx, `INSERT INTO once VALUES (1), (1)`)
			return err
		},
	} {
		e := wantAborted(t, bk.client.InTx(t.Context(), f))
		r, err := coord.Outcome(t.Context(), e.ID)
		if err != nil || r.Outcome != txn.OutcomeRolledBack {
			t.Errorf("%s: the coordinator says %s of %s: %v", name, r.Outcome, e.ID, err)
		}
		bk.rolledBack()
		bk.want(100, 100)
	}
}

func TestTheRealCoordinatorKeepsAKey(t *testing.T) {
	bk, _ := realBank(t)
	key := client.IdempotencyKey("order 1", []byte("30 from alice to bob"))
	for _, f := range []func(context.Context) error{
		func(context.Context) error { return errPoor }, // leaves the key free
		bk.pay,
		func(context.Context) error { t.Error("the work was done again"); return nil },
	} {
		err := bk.client.InTx(t.Context(), f, key)
		if err != nil && !errors.Is(err, errPoor) {
			t.Errorf("error %v", err)
		}
	}
	bk.want(70, 130)
	err := bk.client.InTx(t.Context(), bk.pay, client.IdempotencyKey("order 1", nil))
	if txn.ReasonOf(err) != txn.ReasonKeyReused {
		t.Errorf("another body: %v", err)
	}
}

// Whether a PREPARE whose answer was lost has happened, the coordinator finds out at the database.
func TestTheRealCoordinatorLooksForALostPrepare(t *testing.T) {
	for _, delivered := range []bool{true, false} {
		t.Run(fmt.Sprintf("delivered %v", delivered), func(t *testing.T) {
			bk, _ := realBank(t)
			f := &fault{text: "PREPARE TRANSACTION", delivered: delivered}
			broken := newPool(t, srvB, f.into)
			bk.b = pgxtx.New("bank_b", broken)
			var opts []client.Option
			if !delivered {
				// The coordinator looks until the deadline for what is not there.
				opts = append(opts, client.Timeout(2*time.Second))
			}
			err := bk.client.InTx(t.Context(), bk.pay, opts...)
			if delivered && err != nil {
				t.Errorf("prepared, and yet %v", err)
			}
			if !delivered {
				wantAborted(t, err)
				bk.want(100, 100)
				return
			}
			bk.want(70, 130)
		})
	}
}

// Readers and single writers leave nothing behind at a coordinator that gave them an id.
func TestTheRealCoordinatorIsToldOfWhatItDidNotDecide(t *testing.T) {
	bk, coord := realBank(t)
	err := bk.client.InTx(t.Context(), func(ctx context.Context) error {
		if _, err := bk.a.Exec(ctx, debit, 30); err != nil {
			return err
		}
		_, err := bk.b.Exec(ctx, `SELECT 1`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	bk.want(70, 100)
	left, err := coord.List(t.Context(), txn.ListRequest{})
	left = slices.DeleteFunc(left, func(r txn.Result) bool {
		return r.State == txn.StateRollingBack
	})
	if err != nil || len(left) != 0 {
		t.Errorf("the coordinator still holds %+v: %v", left, err)
	}
}

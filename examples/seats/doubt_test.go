package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/kv"
	"github.com/gavel-tx/gavel/participant/service"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// deaf is a theatre that votes, and cannot be reached when it is told how it ended.
type deaf struct{ *service.Resource }

var errDeaf = errors.New("the theatre does not answer")

func (deaf) Commit(
	context.Context, txn.Fence, []participant.Branch,
) ([]participant.Finding, error) {
	return nil, errDeaf
}

// TestADecisionOutlivesTheTheatre: the sale is decided, and everything ends before the seat is
// sold. The next opening sells it, and nobody else could have had it meanwhile.
func TestADecisionOutlivesTheTheatre(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	if _, err := coordinator.Init(vfs.OS(), filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	err := during(ctx, dir, io.Discard, func(ctx context.Context, th *theatre) error {
		return th.seed(ctx)
	})
	if err != nil {
		t.Fatal(err)
	}
	decideAndEnd(t, dir)
	err = during(ctx, dir, io.Discard, func(ctx context.Context, th *theatre) error {
		return th.buy(ctx, "bob", "A1")
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := during(ctx, dir, io.Discard, check); err != nil {
		t.Error(err)
	}
}

// decideAndEnd buys seat A1 for ann at a theatre that is deaf.
func decideAndEnd(t *testing.T, dir string) {
	t.Helper()
	money, err := kv.Open(kv.Config{Dir: filepath.Join(dir, "money")})
	if err != nil {
		t.Fatal(err)
	}
	seats, err := OpenSeats(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := coordinator.Open(t.Context(), coordinator.Config{
		Dir: filepath.Join(dir, "log"), Logger: slog.New(slog.DiscardHandler),
		Resources: []coordinator.Resource{
			{Name: "money", Manager: money}, {Name: "seats", Manager: deaf{seats.Resource}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	th := &theatre{coordinator: c, money: money, seats: seats, out: io.Discard,
		wait: time.Millisecond}
	if err := errors.Join(c.Settle(t.Context()), th.buy(t.Context(), "ann", "A1")); err != nil {
		t.Error(err)
	}
	if buyer, err := seats.Buyer("A1"); buyer != "" || err != nil {
		t.Errorf("sold to %q, %v, by a theatre that is deaf", buyer, err)
	}
	if n, err := th.inDoubt(t.Context()); n == 0 || err != nil {
		t.Errorf("in doubt: %d, %v", n, err)
	}
	if err := th.close(); err != nil {
		t.Error(err)
	}
}

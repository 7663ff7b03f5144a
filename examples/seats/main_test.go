package main

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/participant/service/servicetest"
	"github.com/gavel-tx/gavel/txn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestRun sells one seat once, and gives the money for the second try back. What it checks in the
// stores itself is here once more, as what it says.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	var out strings.Builder
	if err := run(t.Context(), dir, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	const want = `  COMMITTED
ann buys seat A1 for 30:
  COMMITTED
bob buys seat A1 for 30:
  overlooked: seats: the seat is taken: A1
  ROLLED_BACK
ann has 20
bob has 50
box office has 30
seat A1 belongs to ann; sum 100; in doubt 0
`
	if out.String() != want {
		t.Errorf("it said:\n%s", out.String())
	}
}

// TestSeats holds the theatre to what every resource manager owes.
func TestSeats(t *testing.T) {
	servicetest.Run(t, func(dir string) (*servicetest.Instance, error) {
		s, err := OpenSeats(filepath.Clean(dir))
		if err != nil {
			return nil, err
		}
		return &servicetest.Instance{
			Resource: s.Resource,
			Work: func(ctx context.Context, branch txn.Name, call uint64, key string) error {
				return s.Reserve(ctx, branch, call, key, "ann")
			},
			Effect: func(_ context.Context, key string) (bool, error) {
				buyer, err := s.Buyer(key)
				return buyer == "ann", err
			},
			Close: s.Close,
		}, nil
	})
}

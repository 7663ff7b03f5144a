package main

import (
	"context"
	"hash/fnv"
	"testing"

	"go.uber.org/goleak"

	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/participant/service/servicetest"
	"github.com/gavel-tx/gavel/txn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// number is the number of the transfer that stands for a key of the suite's.
func number(key string) int64 {
	h := fnv.New32a()
	h.Write([]byte(key))
	return int64(h.Sum32())
}

// TestPurse holds the service to what every resource manager owes, with either journal: what its
// crashes then show is gavel's doing, and not its own.
func TestPurse(t *testing.T) {
	for name, join := range map[string]bool{"journal beside": false, "journal joined": true} {
		t.Run(name, func(t *testing.T) {
			servicetest.Run(t, func(dir string) (*servicetest.Instance, error) {
				p, err := openPurse(dir, join)
				if err != nil {
					return nil, err
				}
				return instance(p), nil
			})
		})
	}
}

func instance(p *purse) *servicetest.Instance {
	return &servicetest.Instance{
		Resource: p.resource,
		Work: func(ctx context.Context, branch txn.Name, call uint64, key string) error {
			return p.do(ctx, crash.Job{Branch: branch.String(), Call: call, N: number(key),
				Amount: 0, Legs: crash.Share{Role: crash.Moves}.Legs(1, 2)})
		},
		Effect: func(_ context.Context, key string) (bool, error) {
			s, err := p.statement(number(key))
			for _, r := range s.Rows {
				if r.N == number(key) {
					return true, err
				}
			}
			return false, err
		},
		Close: p.Close,
	}
}

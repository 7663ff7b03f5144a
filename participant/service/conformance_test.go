package service_test

import (
	"context"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/internal/conformance"
	"github.com/gavel-tx/gavel/participant/service"
	"github.com/gavel-tx/gavel/participant/service/boltjournal"
	"github.com/gavel-tx/gavel/participant/service/servicetest"
	"github.com/gavel-tx/gavel/txn"
)

// TestConformanceBeside is the suite over a service whose journal has a file of its own.
func TestConformanceBeside(t *testing.T) {
	d := newDisk()
	report := servicetest.RunCrashing(t, func(dir string) (*servicetest.Instance, error) {
		o, err := tryOpen(service.Config{}, d, filepath.Join(dir, "journal"))
		if err != nil {
			return nil, err
		}
		return &servicetest.Instance{
			Resource: o.Resource,
			Work: func(ctx context.Context, n txn.Name, call uint64, key string) error {
				return o.Work(ctx, n, call, func(context.Context) error {
					o.drawer.put(n, key)
					return nil
				})
			},
			Effect: func(_ context.Context, key string) (bool, error) {
				return d.effect(key) == 1, nil
			},
			Close: o.journal.Close,
		}, nil
	}, func(t *testing.T, i *servicetest.Instance) {
		t.Helper()
		if err := i.Close(); err != nil {
			t.Fatal(err)
		}
	})
	conformance.Keep(t, "boltjournal", report)
}

// shelf is a service in whose bbolt file the journal is. It looks at nothing before it writes, and
// adds one where an idempotent service would set: a method that was run twice shows.
type shelf struct {
	*drawer
}

var bucket = []byte("shelf")

func (s shelf) Prepare(ctx context.Context, n txn.Name) (participant.Vote, error) {
	for _, key := range s.keys(n) {
		err := boltjournal.Tx(ctx).Bucket(bucket).Put([]byte(n.String()), []byte(key))
		if err != nil {
			return participant.Vote{}, err
		}
	}
	return service.Yes(), nil
}

func (s shelf) Commit(ctx context.Context, n txn.Name) error {
	b := boltjournal.Tx(ctx).Bucket(bucket)
	key := append([]byte("effect "), b.Get([]byte(n.String()))...)
	return b.Put(key, append([]byte("x"), b.Get(key)...))
}

func (s shelf) Rollback(ctx context.Context, n txn.Name) error {
	return boltjournal.Tx(ctx).Bucket(bucket).Delete([]byte(n.String()))
}

func openShelf(dir string) (*servicetest.Instance, error) {
	db, err := bbolt.Open(filepath.Join(dir, "shelf.db"), 0o600, &bbolt.Options{Timeout: 1})
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucket)
		return err
	})
	if err != nil {
		return nil, err
	}
	j, err := boltjournal.In(db)
	if err != nil {
		return nil, err
	}
	s := shelf{newDrawer(nil)}
	r, err := service.Open(service.Config{Service: s, Journal: j})
	if err != nil {
		return nil, err
	}
	return &servicetest.Instance{
		Resource: r,
		Work: func(ctx context.Context, n txn.Name, call uint64, key string) error {
			return r.Work(ctx, n, call, func(context.Context) error {
				s.put(n, key)
				return nil
			})
		},
		Effect: func(_ context.Context, key string) (once bool, err error) {
			err = db.View(func(tx *bbolt.Tx) error {
				once = string(tx.Bucket(bucket).Get([]byte("effect "+key))) == "x"
				return nil
			})
			return once, err
		},
		Close: db.Close,
	}, nil
}

// TestConformanceWithin is the suite over a service that has the journal in its own file, with
// methods that are not idempotent.
func TestConformanceWithin(t *testing.T) {
	conformance.Keep(t, "boltjournal", servicetest.Run(t, openShelf))
}

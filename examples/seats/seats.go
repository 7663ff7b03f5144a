package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/service"
	"github.com/gavel-tx/gavel/participant/service/boltjournal"
	"github.com/gavel-tx/gavel/txn"
)

// ErrTaken is returned by Reserve for a seat that is sold, or held by another branch.
var ErrTaken = errors.New("seats: the seat is taken")

// The buckets of the file, beside that of the journal.
var (
	// sold is seat → buyer.
	sold = []byte("sold")
	// kept is prepared name / seat → buyer: what a branch that voted Yes will sell.
	kept = []byte("kept")
)

// Seats sells the seats of a theatre. Its journal is in its own file, so that each method works in
// the transaction that says it was done.
type Seats struct {
	// Resource is what coordinators call.
	Resource *service.Resource
	db       *bbolt.DB

	mu sync.Mutex
	// held are the seats of branches that have not ended. Those that are not prepared are here and
	// nowhere else, and so a restart gives them up.
	held map[string]hold
}

type hold struct {
	branch txn.Name
	buyer  string
}

var _ service.Service = (*Seats)(nil)

// OpenSeats opens the theatre in dir.
func OpenSeats(dir string) (*Seats, error) {
	db, err := bbolt.Open(filepath.Join(dir, "seats.db"), 0o600,
		&bbolt.Options{Timeout: time.Second})
	if err != nil {
		return nil, err
	}
	s := &Seats{db: db, held: map[string]hold{}}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

func (s *Seats) open() error {
	if err := s.db.Update(s.load); err != nil {
		return err
	}
	journal, err := boltjournal.In(s.db)
	if err != nil {
		return err
	}
	s.Resource, err = service.Open(service.Config{Service: s, Journal: journal, Kind: "seats"})
	return err
}

// load reads what branches keep that have voted Yes.
func (s *Seats) load(tx *bbolt.Tx) error {
	_, err := tx.CreateBucketIfNotExists(sold)
	b, err2 := tx.CreateBucketIfNotExists(kept)
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	return b.ForEach(func(k, buyer []byte) error {
		text, seat, _ := bytes.Cut(k, []byte("/"))
		branch, err := txn.ParseName(string(text))
		s.held[string(seat)] = hold{branch, string(buyer)}
		return err
	})
}

// Close closes the theatre. What is kept for branches stays so.
func (s *Seats) Close() error { return errors.Join(s.Resource.Close(), s.db.Close()) }

// Buyer is who has bought a seat, or "".
func (s *Seats) Buyer(seat string) (buyer string, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		buyer = string(tx.Bucket(sold).Get([]byte(seat)))
		return nil
	})
	return buyer, err
}

// Reserve is the service's own API: it holds a seat for a branch. The client numbers its calls
// within the branch from 1.
func (s *Seats) Reserve(
	ctx context.Context, branch txn.Name, call uint64, seat, buyer string,
) error {
	err := s.Resource.Work(ctx, branch, call, func(context.Context) error {
		return s.hold(seat, hold{branch, buyer})
	})
	if errors.Is(err, service.ErrRepeated) {
		return nil // the answer was lost, and the seat is held
	}
	return err
}

func (s *Seats) hold(seat string, h hold) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	owner, err := s.Buyer(seat)
	if err != nil {
		return err
	}
	if other, ok := s.held[seat]; owner != "" || ok && other.branch != h.branch {
		return fmt.Errorf("%w: %s", ErrTaken, seat)
	}
	s.held[seat] = h
	return nil
}

// of are the seats that are held for a branch.
func (s *Seats) of(branch txn.Name) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	seats := map[string]string{}
	for seat, h := range s.held {
		if h.branch == branch {
			seats[seat] = h.buyer
		}
	}
	return seats
}

func (s *Seats) letGo(branch txn.Name) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for seat, h := range s.held {
		if h.branch == branch {
			delete(s.held, seat)
		}
	}
}

func keptKey(branch txn.Name, seat string) []byte { return []byte(branch.String() + "/" + seat) }

// Prepare implements service.Service: from now on the seats are kept whatever crashes.
func (s *Seats) Prepare(ctx context.Context, branch txn.Name) (participant.Vote, error) {
	seats := s.of(branch)
	if len(seats) == 0 {
		return service.ReadOnly(), nil
	}
	for seat, buyer := range seats {
		err := boltjournal.Tx(ctx).Bucket(kept).Put(keptKey(branch, seat), []byte(buyer))
		if err != nil {
			return participant.Vote{}, err
		}
	}
	return service.Yes(), nil
}

// Commit implements service.Service.
func (s *Seats) Commit(ctx context.Context, branch txn.Name) error {
	tx := boltjournal.Tx(ctx)
	for seat, buyer := range s.of(branch) {
		if err := tx.Bucket(sold).Put([]byte(seat), []byte(buyer)); err != nil {
			return err
		}
	}
	return s.Rollback(ctx, branch)
}

// Rollback implements service.Service. The seats are free in memory only once they are so on the
// disk: until then the transaction may be taken back.
func (s *Seats) Rollback(ctx context.Context, branch txn.Name) error {
	tx := boltjournal.Tx(ctx)
	for seat := range s.of(branch) {
		if err := tx.Bucket(kept).Delete(keptKey(branch, seat)); err != nil {
			return err
		}
	}
	tx.OnCommit(func() { s.letGo(branch) })
	return nil
}

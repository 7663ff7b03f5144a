package service_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/service"
	"github.com/gavel-tx/gavel/participant/service/boltjournal"
	"github.com/gavel-tx/gavel/txn"
)

// late is a journal whose database answers nothing and commits all the same, when the next update
// comes: in between everybody sees what was before.
type late struct {
	*boltjournal.Journal
	// armed is how many updates pass until one is late.
	armed int
	due   []func() error
}

var errLate = errors.New("the connection was lost")

func (l *late) Update(
	ctx context.Context, f func(context.Context, service.Tx) error,
) error {
	due := l.due
	l.due = nil
	for _, do := range due {
		if err := do(); err != nil {
			return err
		}
	}
	if l.armed--; l.armed == 0 {
		l.due = append(l.due, func() error { return l.Journal.Update(ctx, f) })
		return errLate
	}
	return l.Journal.Update(ctx, f)
}

// lateShelf is a service with such a journal in its own file.
func lateShelf(t *testing.T) (*service.Resource, *late, func(key string) int) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "shelf.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucket)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	j, err := boltjournal.In(db)
	if err != nil {
		t.Fatal(err)
	}
	l, s := &late{Journal: j}, shelf{newDrawer(nil)}
	r, err := service.Open(service.Config{Service: s, Journal: l})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(r.Close(), db.Close()); err != nil {
			t.Error(err)
		}
	})
	if err := r.Hello(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	err = r.Work(t.Context(), name(1), 1, func(context.Context) error {
		s.put(name(1), "k")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return r, l, func(key string) (times int) {
		err := db.View(func(tx *bbolt.Tx) error {
			times = len(tx.Bucket(bucket).Get([]byte("effect " + key)))
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		return times
	}
}

// TestACommitThatLandsLate: the answer to the journal's transaction is lost, and the branch is
// asked about again before the transaction ends. What was done then is not done twice.
func TestACommitThatLandsLate(t *testing.T) {
	r, l, effects := lateShelf(t)
	b := branchOf(name(1))
	l.armed = 1
	if _, err := r.Prepare(t.Context(), first, b); !errors.Is(err, errLate) {
		t.Fatalf("a prepare without an answer: %v", err)
	}
	votes, err := r.Prepare(t.Context(), first, b)
	if err != nil || votes[0].Vote != txn.VoteYes {
		t.Fatalf("asked again: %+v, %v", votes, err)
	}
	b[0].Evidence = votes[0].Evidence
	l.armed = 1
	if _, err := r.Commit(t.Context(), first, b); !errors.Is(err, errLate) {
		t.Fatalf("a commit without an answer: %v", err)
	}
	stands(t, r.Commit, first, b[0], txn.StandingCommitted)
	if got := effects("k"); got != 1 {
		t.Errorf("%d effects, want 1", got)
	}
}

// TestAYesThatNobodyHeardIsNotGivenUp: by whoever saw that the branch is prepared it may be
// committed.
func TestAYesThatNobodyHeardIsNotGivenUp(t *testing.T) {
	r, l, effects := lateShelf(t)
	b := participant.Branch{Name: name(1)}
	l.armed = 1
	if _, err := r.Prepare(t.Context(), first, branchOf(b.Name)); !errors.Is(err, errLate) {
		t.Fatalf("a prepare without an answer: %v", err)
	}
	if err := r.Abandon(t.Context(), b.Name); err != nil {
		t.Errorf("abandoned: %v", err)
	}
	stands(t, r.Inquire, fenceAt(2, 2), b, txn.StandingPrepared)
	stands(t, r.Commit, fenceAt(2, 2), b, txn.StandingCommitted)
	if got := effects("k"); got != 1 {
		t.Errorf("%d effects, want 1", got)
	}
}

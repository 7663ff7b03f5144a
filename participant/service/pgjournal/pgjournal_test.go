package pgjournal_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/participant"
	"github.com/gavel-tx/gavel/participant/internal/conformance"
	"github.com/gavel-tx/gavel/participant/service"
	"github.com/gavel-tx/gavel/participant/service/pgjournal"
	"github.com/gavel-tx/gavel/participant/service/servicetest"
	"github.com/gavel-tx/gavel/txn"
)

// shelf is a service in whose database the journal is. It counts what it does: a method that was
// run twice, or by half, shows.
type shelf struct {
	mu      sync.Mutex
	working map[txn.Name]string
}

func (s *shelf) put(n txn.Name, item string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.working[n] = item
}

func (s *shelf) Prepare(ctx context.Context, n txn.Name) (participant.Vote, error) {
	s.mu.Lock()
	item := s.working[n]
	s.mu.Unlock()
	_, err := pgjournal.Tx(ctx).Exec(ctx, "INSERT INTO shelf VALUES ($1, $2)", n.String(), item)
	return service.Yes(), err
}

func (s *shelf) Commit(ctx context.Context, n txn.Name) error {
	_, err := pgjournal.Tx(ctx).Exec(ctx, `INSERT INTO effects SELECT item, 1 FROM shelf
		WHERE branch = $1 ON CONFLICT (item) DO UPDATE SET times = effects.times + 1`, n.String())
	return err
}

func (s *shelf) Rollback(ctx context.Context, n txn.Name) error {
	_, err := pgjournal.Tx(ctx).Exec(ctx, "DELETE FROM shelf WHERE branch = $1", n.String())
	return err
}

// openShelf opens the service as a process of its own would.
func openShelf(ctx context.Context, table string) (*servicetest.Instance, error) {
	pool, err := pgxpool.New(ctx, srv.DSN("postgres"))
	if err != nil {
		return nil, err
	}
	j, err := pgjournal.Open(ctx, pool, table)
	if err != nil {
		pool.Close()
		return nil, err
	}
	s := &shelf{working: map[txn.Name]string{}}
	r, err := service.Open(service.Config{Service: s, Journal: j})
	if err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return &servicetest.Instance{
		Resource: r,
		Work: func(ctx context.Context, n txn.Name, call uint64, key string) error {
			return r.Work(ctx, n, call, func(context.Context) error {
				s.put(n, key)
				return nil
			})
		},
		Effect: func(ctx context.Context, key string) (bool, error) {
			var times int
			err := pool.QueryRow(ctx, "SELECT times FROM effects WHERE item = $1", key).
				Scan(&times)
			if errors.Is(err, pgx.ErrNoRows) {
				return false, nil
			}
			return times == 1, err
		},
		Close: func() error {
			err := j.Close()
			pool.Close()
			return err
		},
	}, nil
}

// TestConformance is the suite over a service with its journal in a table. A crash is one of the
// whole server, in the middle of everything.
func TestConformance(t *testing.T) {
	ctx := context.Background()
	report := servicetest.RunCrashing(t, func(string) (*servicetest.Instance, error) {
		return openShelf(ctx, "gavel_journal")
	}, func(t *testing.T, i *servicetest.Instance) {
		t.Helper()
		srv.Kill()
		if err := errors.Join(srv.Restart(ctx), i.Close()); err != nil {
			t.Fatal(err)
		}
	})
	conformance.Keep(t, "pgjournal", report)
}

func open(t *testing.T, pool *pgxpool.Pool, table string) *pgjournal.Journal {
	t.Helper()
	j, err := pgjournal.Open(t.Context(), pool, table)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

func write(j *pgjournal.Journal, key, value string) error {
	return j.Update(context.Background(), func(_ context.Context, tx service.Tx) error {
		return tx.Put([]byte(key), []byte(value))
	})
}

// TestOneProcessOwnsTheJournal: a second one is refused; and where the first one's session was
// lost, and a second one came, the first one does nothing more.
func TestOneProcessOwnsTheJournal(t *testing.T) {
	ctx, pool := t.Context(), connect(t, "")
	old := open(t, pool, "owned")
	if err := write(old, "x1", "old"); err != nil {
		t.Fatal(err)
	}
	if _, err := pgjournal.Open(ctx, pool, "owned"); !errors.Is(err, pgjournal.ErrInUse) {
		t.Fatalf("a second process: %v, want ErrInUse", err)
	}
	open(t, pool, "another")
	_, err := pool.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_locks
		WHERE locktype = 'advisory' AND objid = 'owned'::regclass::oid`)
	if err != nil {
		t.Fatal(err)
	}
	next := open(t, pool, "owned")
	if err := write(old, "x1", "older"); !errors.Is(err, pgjournal.ErrTaken) {
		t.Errorf("a write of the old owner: %v, want ErrTaken", err)
	}
	err = old.View(ctx, func(service.Tx) error { return nil })
	if !errors.Is(err, pgjournal.ErrTaken) {
		t.Errorf("a look of the old owner: %v, want ErrTaken", err)
	}
	err = next.View(ctx, func(tx service.Tx) error {
		v, err := tx.Get([]byte("x1"))
		if string(v) != "old" {
			t.Errorf("the entry is %q", v)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestAnUpdateIsWholeOrNothing: what the service did in it included.
func TestAnUpdateIsWholeOrNothing(t *testing.T) {
	pool := connect(t, "")
	j := open(t, pool, "whole")
	refusal := errors.New("refused")
	for _, want := range []error{refusal, nil} {
		err := j.Update(t.Context(), func(ctx context.Context, tx service.Tx) error {
			_, err := pgjournal.Tx(ctx).Exec(ctx, "INSERT INTO shelf VALUES ('whole', 'x')")
			return errors.Join(err, tx.Put([]byte("x"), []byte("1")), want)
		})
		if !errors.Is(err, want) {
			t.Fatalf("error %v, want %v", err, want)
		}
		var rows int
		err = pool.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM shelf
			WHERE branch = 'whole') + (SELECT count(*) FROM whole WHERE key = 'x')`).Scan(&rows)
		if err != nil || (rows == 2) != (want == nil) || rows == 1 {
			t.Errorf("%d rows, %v, after %v", rows, err, want)
		}
	}
	if pgjournal.Tx(t.Context()) != nil {
		t.Error("a transaction outside of one")
	}
	// A statement that fails takes all of it back, also where the method overlooks the error.
	err := j.Update(t.Context(), func(ctx context.Context, tx service.Tx) error {
		_, _ = pgjournal.Tx(ctx).Exec(ctx, "SELECT 1/0")
		return nil
	})
	if err == nil {
		t.Error("a transaction that failed was called durable")
	}
}

// TestAHastySessionCommitsInEarnest, whatever its settings are.
func TestAHastySessionCommitsInEarnest(t *testing.T) {
	j := open(t, connect(t, "hasty"), "hasty")
	err := j.Update(t.Context(), func(ctx context.Context, _ service.Tx) error {
		var mode string
		err := pgjournal.Tx(ctx).QueryRow(ctx, "SHOW synchronous_commit").Scan(&mode)
		if mode != "on" {
			t.Errorf("synchronous_commit is %s", mode)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestScan goes over several pages, and stops when it is told to.
func TestScan(t *testing.T) {
	j := open(t, connect(t, ""), "scanned")
	const n = 2500
	err := j.Update(t.Context(), func(_ context.Context, tx service.Tx) error {
		var errs []error
		for _, prefix := range []string{"a", "b", "c"} {
			for i := range n {
				errs = append(errs, tx.Put(fmt.Appendf(nil, "%s%05d", prefix, i), []byte("v")))
			}
		}
		errs = append(errs, tx.Put([]byte("b00007"), nil))
		return errors.Join(errs...)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, most := range []int{1, 2, 1000, n} {
		seen, last := 0, ""
		err := j.View(t.Context(), func(tx service.Tx) error {
			return tx.Scan([]byte("b"), func(k, _ []byte) (bool, error) {
				if string(k) <= last || k[0] != 'b' {
					t.Errorf("%q after %q", k, last)
				}
				seen, last = seen+1, string(k)
				return seen < most, nil
			})
		})
		if want := min(most, n-1); err != nil || seen != want {
			t.Errorf("%d entries, %v, want %d", seen, err, want)
		}
	}
}

// TestTheTableIsNamed so that it needs no thought how to quote it.
func TestTheTableIsNamed(t *testing.T) {
	for _, table := range []string{"", "Journal", "a.b.c", `a"b`, "1a", "a;b"} {
		if _, err := pgjournal.Open(t.Context(), nil, table); err == nil {
			t.Errorf("%q is a table", table)
		}
	}
	if got := pgjournal.Schema("app.journal"); got != `CREATE TABLE IF NOT EXISTS "app"."journal" `+
		`(key bytea PRIMARY KEY, value bytea NOT NULL)` {
		t.Error(got)
	}
}

// TestWhoMayNot is told by the database, and leaves no session behind.
func TestWhoMayNot(t *testing.T) {
	pool := connect(t, "guest")
	if _, err := pgjournal.Open(t.Context(), pool, "forbidden"); err == nil {
		t.Error("a guest has made a table")
	}
}

// TestClosed: nothing is answered any more.
func TestClosed(t *testing.T) {
	j := open(t, connect(t, ""), "closed")
	for range 2 {
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	look := j.View(t.Context(), func(service.Tx) error { return nil })
	if err := write(j, "x", "1"); !errors.Is(err, service.ErrClosed) ||
		!errors.Is(look, service.ErrClosed) {
		t.Errorf("a write: %v, a look: %v, want ErrClosed", err, look)
	}
}

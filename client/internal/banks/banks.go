package banks

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/participant/postgres"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// World is a caller with its database, bank_a, and a coordinator.
type World struct {
	T      testing.TB
	Coord  *coordinator.Coordinator
	Client *client.Client
	A      *pgxtx.DB
}

// New makes a world with 100 in each account. In its end nothing may be prepared.
func New(t testing.TB) *World {
	t.Helper()
	for _, s := range []*pghost.Server{A, B} {
		err := s.Exec(t.Context(), "postgres", `TRUNCATE acct, notes;
			INSERT INTO acct VALUES ('alice', 100), ('bob', 100), ('carol', 100)`)
		if err != nil {
			t.Fatal(err)
		}
	}
	w := &World{T: t}
	w.Coord = openCoordinator(t)
	w.Client = client.New(w.Coord)
	w.A = pgxtx.New("bank_a", Pool(t, A))
	t.Cleanup(w.WantNothingPrepared)
	return w
}

func openCoordinator(t testing.TB) *coordinator.Coordinator {
	t.Helper()
	dir := t.TempDir()
	if _, err := coordinator.Init(vfs.OS(), dir); err != nil {
		t.Fatal(err)
	}
	conf := coordinator.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)}
	for _, s := range []*pghost.Server{A, B} {
		r, err := postgres.Open(t.Context(),
			postgres.Config{Name: s.Name(), DSN: s.DSN("postgres")})
		if err != nil {
			t.Fatal(err)
		}
		Closing(t, r)
		conf.Resources = append(conf.Resources,
			coordinator.Resource{Name: s.Name(), Kind: "postgres", Manager: r})
	}
	coord, err := coordinator.Open(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	Closing(t, coord)
	Eventually(t, "the resources are registered", func() bool {
		begun, err := coord.Begin(t.Context(),
			txn.BeginRequest{Resources: []string{"bank_a", "bank_b"}})
		if err == nil {
			_, err = coord.Rollback(t.Context(), begun.ID, "only a question")
		}
		return err == nil
	})
	return coord
}

// Closing closes c when the test ends.
func Closing(t testing.TB, c io.Closer) {
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Pool makes connections to a server, until the test ends.
func Pool(t testing.TB, s *pghost.Server) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), s.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// Eventually waits for what happens in the background.
func Eventually(t testing.TB, what string, happened func() bool) {
	t.Helper()
	limit := time.After(30 * time.Second)
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for !happened() {
		select {
		case <-again.C:
		case <-limit:
			t.Fatalf("not after 30 s: %s", what)
		}
	}
}

// Scan asks a server on a connection of its own, as somebody outside of every transaction.
func Scan[T any](t testing.TB, s *pghost.Server, sql string) T {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, s.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var v T
	if err := conn.QueryRow(ctx, sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// WantNothingPrepared: whatever happened, the coordinator finishes it, and no session stays behind.
func (w *World) WantNothingPrepared() {
	for _, s := range []*pghost.Server{A, B} {
		Eventually(w.T, "nothing is prepared at "+s.Name(), func() bool {
			return Scan[int](w.T, s, `SELECT (SELECT count(*) FROM pg_prepared_xacts) +
				(SELECT count(*) FROM pg_stat_activity
				WHERE state LIKE 'idle in transaction%')`) == 0
		})
	}
}

// Want compares the books: alice's account is in bank_a, bob's in bank_b. Whoever is still prepared
// is waited for.
func (w *World) Want(alice, bob int) {
	w.T.Helper()
	w.WantNothingPrepared()
	a := Scan[int](w.T, A, `SELECT bal FROM acct WHERE id = 'alice'`)
	b := Scan[int](w.T, B, `SELECT bal FROM acct WHERE id = 'bob'`)
	if a != alice || b != bob {
		w.T.Errorf("alice has %d and bob %d, want %d and %d", a, b, alice, bob)
	}
}

// Debit takes from alice, at bank_a, and Credit gives to bob, at bank_b.
const (
	Debit  = `UPDATE acct SET bal = bal - $1 WHERE id = 'alice'`
	Credit = `UPDATE acct SET bal = bal + $1 WHERE id = 'bob'`
)

// Debit takes 30 from alice.
func (w *World) Debit(ctx context.Context) error {
	_, err := w.A.Exec(ctx, Debit, 30)
	return err
}

// WantAborted wants an error to say that the transaction was rolled back.
func WantAborted(t testing.TB, err error) *client.AbortedError {
	t.Helper()
	a, ok := errors.AsType[*client.AbortedError](err)
	if !ok {
		t.Fatalf("error %v (%T), want an AbortedError", err, err)
	}
	return a
}

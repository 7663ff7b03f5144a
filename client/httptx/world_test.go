package httptx_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/httptx"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/participant/postgres"
	"github.com/gavel-tx/gavel/participant/postgres/pghost"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// world is a caller with its database, bank_a, a coordinator, and whatever services a test starts.
// Each service is another process, as far as one test binary can have it: it shares nothing with
// the caller but the coordinator.
type world struct {
	t      testing.TB
	coord  *coordinator.Coordinator
	client *client.Client
	a      *pgxtx.DB
}

func newWorld(t testing.TB) *world {
	t.Helper()
	for _, s := range []*pghost.Server{srvA, srvB} {
		err := s.Exec(t.Context(), "postgres", `TRUNCATE acct, notes;
			INSERT INTO acct VALUES ('alice', 100), ('bob', 100), ('carol', 100)`)
		if err != nil {
			t.Fatal(err)
		}
	}
	w := &world{t: t}
	w.coord = openCoordinator(t)
	w.client = client.New(w.coord)
	w.a = pgxtx.New("bank_a", newPool(t, srvA))
	t.Cleanup(w.wantNothingPrepared)
	return w
}

func openCoordinator(t testing.TB) *coordinator.Coordinator {
	t.Helper()
	dir := t.TempDir()
	if _, err := coordinator.Init(vfs.OS(), dir); err != nil {
		t.Fatal(err)
	}
	conf := coordinator.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)}
	for _, s := range []*pghost.Server{srvA, srvB} {
		r, err := postgres.Open(t.Context(),
			postgres.Config{Name: s.Name(), DSN: s.DSN("postgres")})
		if err != nil {
			t.Fatal(err)
		}
		closing(t, r)
		conf.Resources = append(conf.Resources,
			coordinator.Resource{Name: s.Name(), Kind: "postgres", Manager: r})
	}
	coord, err := coordinator.Open(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	closing(t, coord)
	eventually(t, "the resources are registered", func() bool {
		begun, err := coord.Begin(t.Context(),
			txn.BeginRequest{Resources: []string{"bank_a", "bank_b"}})
		if err == nil {
			_, err = coord.Rollback(t.Context(), begun.ID, "only a question")
		}
		return err == nil
	})
	return coord
}

func closing(t testing.TB, c io.Closer) {
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

func newPool(t testing.TB, s *pghost.Server) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), s.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// eventually waits for what happens in the background.
func eventually(t testing.TB, what string, happened func() bool) {
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

// scan asks a server on a connection of its own, as somebody outside of every transaction.
func scan[T any](t testing.TB, s *pghost.Server, sql string) T {
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

// wantNothingPrepared: whatever happened, the coordinator finishes it, and no session stays behind.
func (w *world) wantNothingPrepared() {
	for _, s := range []*pghost.Server{srvA, srvB} {
		eventually(w.t, "nothing is prepared at "+s.Name(), func() bool {
			return scan[int](w.t, s, `SELECT (SELECT count(*) FROM pg_prepared_xacts) +
				(SELECT count(*) FROM pg_stat_activity
				WHERE state LIKE 'idle in transaction%')`) == 0
		})
	}
}

// want compares the books: alice's account is in bank_a, bob's in bank_b. Whoever is still prepared
// is waited for.
func (w *world) want(alice, bob int) {
	w.t.Helper()
	w.wantNothingPrepared()
	a := scan[int](w.t, srvA, `SELECT bal FROM acct WHERE id = 'alice'`)
	b := scan[int](w.t, srvB, `SELECT bal FROM acct WHERE id = 'bob'`)
	if a != alice || b != bob {
		w.t.Errorf("alice has %d and bob %d, want %d and %d", a, b, alice, bob)
	}
}

const (
	debit  = `UPDATE acct SET bal = bal - $1 WHERE id = 'alice'`
	credit = `UPDATE acct SET bal = bal + $1 WHERE id = 'bob'`
)

func (w *world) debit(ctx context.Context) error {
	_, err := w.a.Exec(ctx, debit, 30)
	return err
}

// credits pays 30 to bob, and says so.
func credits(db *pgxtx.DB) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if _, err := db.Exec(r.Context(), credit, 30); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("X-App", "mine")
		_, _ = io.WriteString(w, "paid")
	}
}

// bankB is the database of a service.
func bankB(t testing.TB) *pgxtx.DB { return pgxtx.New("bank_b", newPool(t, srvB)) }

// serve starts a service, and returns its address. Around is what its answers pass through.
func (w *world) serve(h http.Handler, around func(http.Handler) http.Handler) string {
	w.t.Helper()
	h = httptx.Handler(client.New(w.coord), h)
	if around != nil {
		h = around(h)
	}
	return w.listen(h)
}

func (w *world) listen(h http.Handler) string {
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.Start()
	w.t.Cleanup(srv.Close)
	return srv.URL
}

// call makes a request and reads all of its answer.
func call(ctx context.Context, method, url string) (*http.Response, string, error) {
	return callBy(ctx, web, method, url)
}

func callBy(
	ctx context.Context, web *http.Client, method, url string,
) (*http.Response, string, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, "", err
	}
	r.Header.Set("X-App", "caller")
	answer, err := web.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return answer, string(text), err
}

var web = &http.Client{Transport: httptx.Transport(nil)}

// transfer debits here and calls a service for the rest.
func (w *world) transfer(ctx context.Context, url string) (*http.Response, string, error) {
	if err := w.debit(ctx); err != nil {
		return nil, "", err
	}
	return call(ctx, http.MethodPost, url)
}

func wantAborted(t testing.TB, err error) *client.AbortedError {
	t.Helper()
	a, ok := errors.AsType[*client.AbortedError](err)
	if !ok {
		t.Fatalf("error %v (%T), want an AbortedError", err, err)
	}
	return a
}

package httptx_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/httptx"
	"github.com/gavel-tx/gavel/client/internal/banks"
	"github.com/gavel-tx/gavel/client/pgxtx"
)

// world is that of package banks, with whatever services a test starts. Each of them is another
// process, as far as one test binary can have it: it shares nothing with the caller but the
// coordinator.
type world struct{ *banks.World }

func newWorld(t testing.TB) *world {
	t.Helper()
	return &world{banks.New(t)}
}

const (
	debit  = banks.Debit
	credit = banks.Credit
)

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
func bankB(t testing.TB) *pgxtx.DB { return pgxtx.New("bank_b", banks.Pool(t, banks.B)) }

// serve starts a service, and returns its address. Around is what its answers pass through.
func (w *world) serve(h http.Handler, around func(http.Handler) http.Handler) string {
	w.T.Helper()
	h = httptx.Handler(client.New(w.Coord), h)
	if around != nil {
		h = around(h)
	}
	return w.listen(h)
}

func (w *world) listen(h http.Handler) string {
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.Start()
	w.T.Cleanup(srv.Close)
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
	if err := w.Debit(ctx); err != nil {
		return nil, "", err
	}
	return call(ctx, http.MethodPost, url)
}

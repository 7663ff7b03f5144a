package httptx_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/httptx"
	"github.com/gavel-tx/gavel/client/internal/banks"
	"github.com/gavel-tx/gavel/client/pgxtx"
	"github.com/gavel-tx/gavel/txn"
)

// long is an answer that is not kept back.
var long = strings.Repeat("0123456789abcdef", 8<<10)

// answersLong does its work and says much about it; flushed says it in pieces.
func answersLong(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, long)
		h(w, r)
	}
}

func answersFlushed(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000000")
		w.WriteHeader(http.StatusAccepted)
		w.(http.Flusher).Flush()
		h(w, r)
	}
}

func answersNothing(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		h(discarded{w}, r)
		w.WriteHeader(http.StatusNoContent)
	}
}

func answersPart(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "so far so good")
		h(w, r)
	}
}

// discarded takes an answer and forgets it.
type discarded struct{ http.ResponseWriter }

func (discarded) WriteHeader(int)              {}
func (discarded) Write(b []byte) (int, error)  { return len(b), nil }
func asIs(h http.HandlerFunc) http.HandlerFunc { return h }
func returned(err error) error                 { return err }
func swallowed(error) error                    { return nil }

func TestARequestIsPartOfTheTransaction(t *testing.T) {
	for name, tc := range map[string]struct {
		shape func(http.HandlerFunc) http.HandlerFunc
		code  int
		says  string
	}{
		"short":   {asIs, http.StatusOK, "paid"},
		"long":    {answersLong, http.StatusOK, long + "paid"},
		"flushed": {answersFlushed, http.StatusAccepted, "paid"},
		"nothing": {answersNothing, http.StatusNoContent, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			url := w.serve(tc.shape(credits(bankB(t))), nil)
			err := w.Client.InTx(t.Context(), func(ctx context.Context) error {
				answer, text, err := w.transfer(ctx, url)
				if err == nil && (answer.StatusCode != tc.code || text != tc.says) {
					t.Errorf("%s: %d bytes", answer.Status, len(text))
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			w.Want(70, 130)
		})
	}
}

// failure is a way for a request to go wrong.
type failure struct {
	name   string
	handle func(*pgxtx.DB) http.HandlerFunc
	around func(http.Handler) http.Handler
	// code is the answer's, or zero if the caller gets an error.
	code int
	says string
}

func failures() []failure {
	ignores := func(db *pgxtx.DB) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = db.Exec(r.Context(), credit, -1000)
			_, _ = io.WriteString(w, "paid")
		}
	}
	panics := func(db *pgxtx.DB) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			credits(db)(w, r)
			panic("oops")
		}
	}
	refuses := func(db *pgxtx.DB) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = db.Exec(r.Context(), credit, 30)
			http.Error(w, "too much", http.StatusTeapot)
		}
	}
	of := func(shape func(http.HandlerFunc) http.HandlerFunc,
		h func(*pgxtx.DB) http.HandlerFunc) func(*pgxtx.DB) http.HandlerFunc {
		return func(db *pgxtx.DB) http.HandlerFunc { return shape(h(db)) }
	}
	const noVotes = "without the votes"
	return []failure{
		{name: "it is refused", handle: refuses, code: http.StatusTeapot, says: "too much"},
		{name: "it is refused at length", handle: of(answersLong, refuses), says: "418"},
		{name: "it is refused too late", handle: of(answersPart, refuses), says: "418",
			code: http.StatusConflict},
		{name: "an error is ignored", handle: ignores, code: http.StatusConflict,
			says: "acct_bal_check"},
		{name: "an error is ignored at length", handle: of(answersLong, ignores),
			says: "acct_bal_check"},
		{name: "a panic", handle: panics, says: "EOF"},
		{name: "a panic at length", handle: of(answersLong, panics), says: "EOF"},
		{name: "a panic is called a success", handle: panics, around: recovers, says: noVotes},
		{name: "the votes are lost", handle: credits, around: without, says: noVotes},
		{name: "the trailer is lost", handle: of(answersLong, credits), around: without,
			says: noVotes},
		{name: "the votes are nonsense", handle: credits, around: with("nonsense"), says: noVotes},
		{name: "the votes are no base 64", handle: credits, around: with("?"), says: noVotes},
		{name: "the votes are too long", handle: credits,
			around: with(strings.Repeat("AAAA", txn.MaxVotesLen)), says: noVotes},
	}
}

// recovers calls every panic a success.
func recovers(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { _ = recover() }()
		h.ServeHTTP(w, r)
	})
}

// bent replaces the votes of an answer.
type bent struct {
	http.ResponseWriter
	votes string
}

func (b bent) WriteHeader(code int) {
	b.Header().Del("Gavel-Votes")
	b.Header().Del("Trailer")
	if b.votes != "" {
		b.Header().Set("Gavel-Votes", b.votes)
	}
	b.ResponseWriter.WriteHeader(code)
}

func with(votes string) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(bent{w, votes}, r)
		})
	}
}

func without(h http.Handler) http.Handler { return with("")(h) }

// Whatever goes wrong in a request, and whoever ignores it: nothing of the transaction remains.
func TestAFailedRequestRollsBack(t *testing.T) {
	for _, tc := range failures() {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			url := w.serve(tc.handle(bankB(t)), tc.around)
			for _, way := range []func(error) error{returned, swallowed} {
				err := w.Client.InTx(t.Context(), func(ctx context.Context) error {
					answer, text, err := w.transfer(ctx, url)
					switch {
					case tc.code != 0 && (err != nil || answer.StatusCode != tc.code ||
						!strings.Contains(text, tc.says)):
						t.Errorf("answer %q, %v", text, err)
					case tc.code == 0 && (err == nil || !strings.Contains(err.Error(), tc.says)):
						t.Errorf("error %v", err)
					}
					return way(err)
				})
				banks.WantAborted(t, err)
				w.Want(100, 100)
			}
		})
	}
}

// A service that is no part of it makes all roll back, also if it has nothing to do.
func TestAServiceWithoutTheHandler(t *testing.T) {
	w := newWorld(t)
	url := w.listen(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	err := w.Client.InTx(t.Context(), func(ctx context.Context) error {
		_, _, err := w.transfer(ctx, url)
		return swallowed(err)
	})
	if banks.WantAborted(t, err); !errors.Is(err, httptx.ErrNoVotes) {
		t.Error(err)
	}
	w.Want(100, 100)
}

// Votes behind a body come home when it has been read, or when little of it is left.
func TestABodyThatIsLeft(t *testing.T) {
	for name, tc := range map[string]struct {
		shape func(http.HandlerFunc) http.HandlerFunc
		leave func(io.ReadCloser) error
		says  string
	}{
		"short and closed":   {asIs, io.ReadCloser.Close, ""},
		"flushed and closed": {answersFlushed, io.ReadCloser.Close, ""},
		"long and closed":    {answersLong, io.ReadCloser.Close, "closed before its end"},
		"never closed": {answersFlushed, func(io.ReadCloser) error { return nil },
			"still under way"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			url := w.serve(tc.shape(credits(bankB(t))), nil)
			err := w.Client.InTx(t.Context(), func(ctx context.Context) error {
				r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
				if err != nil {
					return err
				}
				answer, err := web.Do(r)
				if err != nil {
					return err
				}
				t.Cleanup(func() { _ = answer.Body.Close() })
				return errors.Join(tc.leave(answer.Body), w.Debit(ctx))
			})
			if tc.says == "" {
				if err != nil {
					t.Fatal(err)
				}
				w.Want(70, 130)
				return
			}
			if banks.WantAborted(t, err); !strings.Contains(err.Error(), tc.says) {
				t.Error(err)
			}
			w.Want(100, 100)
		})
	}
}

func TestARequestOutsideOfATransaction(t *testing.T) {
	w := newWorld(t)
	var got http.Header
	url := w.serve(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = r.Header
	}), nil)
	var late context.Context
	err := w.Client.InTx(t.Context(), func(ctx context.Context) error {
		late = ctx
		_, _, err := call(ctx, http.MethodGet, url)
		if got.Get("X-App") != "caller" || got.Get("Gavel-Transaction-Id") == "" ||
			got.Get("Gavel-Deadline") == "" {
			t.Errorf("within: %v", got)
		}
		_, _, detached := call(client.Detach(ctx), http.MethodGet, url)
		if got.Get("X-App") != "caller" || got.Get("Gavel-Transaction-Id") != "" {
			t.Errorf("detached: %v", got)
		}
		return errors.Join(err, detached)
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := call(late, http.MethodGet, url); !errors.Is(err, client.ErrFinished) {
		t.Errorf("late: %v", err)
	}
	// What was handed on from another request is not sent, and the request stays as it was.
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Gavel-Transaction-Id", "stale")
	answer, err := web.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if _, sent := got["Gavel-Transaction-Id"]; sent || r.Header.Get("Gavel-Transaction-Id") == "" {
		t.Errorf("handed on: %v", got)
	}
}

// What cannot be right is refused, and what comes too late does nothing.
func TestRequestsThatComeByHand(t *testing.T) {
	w := newWorld(t)
	url := w.serve(credits(bankB(t)), nil)
	begun, err := w.Coord.Begin(t.Context(), txn.BeginRequest{})
	if err == nil {
		_, err = w.Coord.Rollback(t.Context(), begun.ID, "by a test")
	}
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]int{
		"x": http.StatusBadRequest, begun.ID.String(): http.StatusConflict,
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Gavel-Transaction-Id", id)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("%s: %s", id, answer.Status)
		}
	}
	w.Want(100, 100)
}

// A service calls another one, and a body that the caller sends arrives.
func TestARequestWithinARequest(t *testing.T) {
	w := newWorld(t)
	last := w.serve(credits(bankB(t)), nil)
	var sent []byte
	url := w.serve(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		sent, _ = io.ReadAll(r.Body)
		if _, _, err := call(r.Context(), http.MethodPost, last); err != nil {
			http.Error(out, err.Error(), http.StatusBadGateway)
		}
	}), nil)
	err := w.Client.InTx(t.Context(), func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("30"))
		if err != nil {
			return err
		}
		answer, err := web.Do(r)
		if err != nil {
			return err
		}
		return errors.Join(answer.Body.Close(), w.Debit(ctx))
	})
	if err != nil || !slices.Equal(sent, []byte("30")) {
		t.Fatalf("%q, %v", sent, err)
	}
	w.Want(70, 130)
}

// HTTP/2 has trailers of its own kind.
func TestARequestOverHTTP2(t *testing.T) {
	for name, shape := range map[string]func(http.HandlerFunc) http.HandlerFunc{
		"short": asIs, "long": answersLong,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			srv := httptest.NewUnstartedServer(
				httptx.Handler(client.New(w.Coord), shape(credits(bankB(t)))))
			srv.EnableHTTP2 = true
			srv.StartTLS()
			t.Cleanup(srv.Close)
			web := &http.Client{Transport: httptx.Transport(srv.Client().Transport)}
			err := w.Client.InTx(t.Context(), func(ctx context.Context) error {
				r, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL, nil)
				if err != nil {
					return err
				}
				answer, err := web.Do(r)
				if err != nil {
					return err
				}
				if answer.ProtoMajor != 2 {
					t.Errorf("it goes by %s", answer.Proto)
				}
				_, err = io.Copy(io.Discard, answer.Body)
				return errors.Join(err, answer.Body.Close(), w.Debit(ctx))
			})
			if err != nil {
				t.Fatal(err)
			}
			w.Want(70, 130)
		})
	}
}

// cache hands the first answer out again, trailer and all, whatever the request.
type cache struct {
	answer *http.Response
	text   []byte
	hits   int
}

func (c *cache) RoundTrip(r *http.Request) (*http.Response, error) {
	if c.answer == nil {
		answer, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		defer answer.Body.Close()
		if c.text, err = io.ReadAll(answer.Body); err != nil {
			return nil, err
		}
		c.answer, c.hits = answer, -1
	}
	c.hits++
	again := *c.answer
	again.Header, again.Trailer = c.answer.Header.Clone(), c.answer.Trailer.Clone()
	again.Body = io.NopCloser(bytes.NewReader(c.text))
	return &again, nil
}

// TestACachedAnswerHasTheVotesOfAnother: they count for nothing, wherever they stand, and whatever
// the application makes of the error.
func TestACachedAnswerHasTheVotesOfAnother(t *testing.T) {
	for name, shape := range map[string]func(http.HandlerFunc) http.HandlerFunc{
		"in the header": asIs, "behind the body": answersLong,
	} {
		for _, makes := range []func(error) error{returned, swallowed} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t)
				url := w.serve(shape(credits(bankB(t))), nil)
				cached := &cache{}
				web := &http.Client{Transport: httptx.Transport(cached)}
				transfer := func(ctx context.Context) error {
					if err := w.Debit(ctx); err != nil {
						return err
					}
					_, _, err := callBy(ctx, web, http.MethodPost, url)
					if (err != nil) != (cached.hits > 0) {
						t.Errorf("with %d hits: %v", cached.hits, err)
					}
					return makes(err)
				}
				if err := w.Client.InTx(t.Context(), transfer); err != nil {
					t.Fatal(err)
				}
				a := banks.WantAborted(t, w.Client.InTx(t.Context(), transfer))
				if cached.hits != 1 || !errors.Is(a, httptx.ErrNoVotes) ||
					!strings.Contains(a.Error(), "not of transaction") {
					t.Errorf("%d hits: %v", cached.hits, a)
				}
				w.Want(70, 130)
			})
		}
	}
}

package httptx

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/internal/ticket"
	"github.com/gavel-tx/gavel/txn"
)

// The fields of requests and answers.
const (
	idKey       = "Gavel-Transaction-Id"
	deadlineKey = "Gavel-Deadline"
	votesKey    = "Gavel-Votes"
)

// maxDrained bounds what Close reads of a body, in bytes, to come to the votes behind it.
const maxDrained = 64 << 10

// maxDrain bounds how long it does.
const maxDrain = time.Second

// ErrNoVotes is behind the error of a request that was answered without the votes of the service.
// What it has done is not part of the transaction or cannot be known to be, so that all is rolled
// back.
var ErrNoVotes = errors.New("httptx: the answer came without the votes of the service; give it " +
	"the Handler of httptx, or make the request with client.Detach")

// errLeft is why a transaction rolls back that has not read what comes before the votes.
var errLeft = errors.New("httptx: the body was closed before its end, and the votes of the " +
	"service are behind it; read it")

// StatusError says that a service answered a request within a transaction with 400 or above.
type StatusError struct {
	// Code is the answer's, and Status its line, as "404 Not Found".
	Code   int
	Status string
	Method string
	URL    string
}

// Error names the request and the status line of its answer.
func (e *StatusError) Error() string {
	return fmt.Sprintf("httptx: %s %s: %s", e.Method, e.URL, e.Status)
}

// Transport makes a RoundTripper for requests that take transactions along, on one that sends them.
// A request with the context of an InTx fails if the service cannot commit what it did; an answer
// of 400 or above is an answer, and the transaction can only roll back. Nil stands for
// http.DefaultTransport.
func Transport(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &transport{base}
}

type transport struct{ base http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	call, err := client.Carry(r.Context())
	switch {
	case errors.Is(err, client.ErrNoTransaction):
		return t.base.RoundTrip(without(r))
	case err != nil:
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, fmt.Errorf("httptx: %s %s was not sent: %w", r.Method, r.URL.Redacted(), err)
	}
	out := r.Clone(r.Context())
	out.Header.Set(idKey, call.ID().String())
	out.Header.Del(deadlineKey)
	if left := ticket.Deadline(call.Remaining()); left != "" {
		out.Header.Set(deadlineKey, left)
	}
	answer, err := t.base.RoundTrip(out)
	if err != nil {
		return nil, call.Done(nil, err)
	}
	return take(call, r, answer)
}

// without is a request that carries no transaction. What was handed on from an incoming request
// would have a service work in a transaction whose client does not hear of it.
func without(r *http.Request) *http.Request {
	if r.Header.Get(idKey) == "" && r.Header.Get(deadlineKey) == "" {
		return r
	}
	r = r.Clone(r.Context())
	r.Header.Del(idKey)
	r.Header.Del(deadlineKey)
	return r
}

// take finds the votes of an answer:
//
//	400 or above            the call has failed; votes, if any, say why
//	they are in the header  the call is done
//	they are announced      the call is done when the body has been read
//	they are not            the call has failed
func take(call *client.Call, r *http.Request, answer *http.Response) (*http.Response, error) {
	in := answer.Header.Values(votesKey)
	_, announced := answer.Trailer[votesKey]
	switch {
	case answer.StatusCode >= http.StatusBadRequest:
		votes, _ := parse(in, call.ID())
		_ = call.Done(votes, &StatusError{Code: answer.StatusCode, Status: answer.Status,
			Method: r.Method, URL: r.URL.Redacted()})
		return answer, nil
	case len(in) == 0 && announced:
		answer.Body = &body{ReadCloser: answer.Body, call: call, answer: answer}
		return answer, nil
	}
	if err := done(call, in); err != nil {
		_ = answer.Body.Close()
		return nil, fmt.Errorf("httptx: %s %s: %w", r.Method, r.URL.Redacted(), err)
	}
	return answer, nil
}

// done ends a call that was answered.
func done(call *client.Call, values []string) error {
	votes, err := parse(values, call.ID())
	return call.Done(votes, err)
}

// parse reads votes. None at all is not the same as those of a service that did nothing.
func parse(values []string, id txn.ID) ([]txn.BranchVote, error) {
	if len(values) != 1 || base64.StdEncoding.DecodedLen(len(values[0])) > txn.MaxVotesLen+3 {
		return nil, ErrNoVotes
	}
	b, err := base64.StdEncoding.DecodeString(values[0])
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrNoVotes, err)
	}
	votes, err := txn.ParseVotes(b, id)
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrNoVotes, err)
	}
	return votes, nil
}

// body is one with votes behind it.
type body struct {
	io.ReadCloser
	call   *client.Call
	answer *http.Response
	// end is what a Read after the last one returns.
	end error
}

// Read is the answer's. Its end is an error if the votes are missing or a No.
func (b *body) Read(p []byte) (int, error) {
	if b.end != nil {
		return 0, b.end
	}
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == io.EOF:
		b.end = io.EOF
		if why := done(b.call, b.answer.Trailer.Values(votesKey)); why != nil {
			b.end = fmt.Errorf("httptx: %w", why)
		}
	case err != nil:
		b.end = b.call.Done(nil, err)
	}
	return n, b.end
}

// Close reads on to the votes, if that is not far.
func (b *body) Close() error {
	if b.end == nil {
		// Who sends slowly is not waited for.
		late := time.AfterFunc(maxDrain, func() { _ = b.ReadCloser.Close() })
		defer late.Stop()
		_, _ = io.CopyN(io.Discard, b, maxDrained)
	}
	if b.end == nil {
		b.end = b.call.Done(nil, errLeft)
	}
	return b.ReadCloser.Close()
}

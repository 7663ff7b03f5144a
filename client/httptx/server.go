package httptx

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/client/internal/ticket"
	"github.com/gavel-tx/gavel/txn"
)

// maxKept bounds how much of an answer is kept back until the votes are known, in bytes.
const maxKept = 64 << 10

// Handler makes a handler whose work is part of the transactions that requests bring along. What
// next did with a request's context is prepared before the answer is sent, or before its end. An
// answer of 400 or above rolls it back. The Client is the one that next uses for an InTx of its
// own, if it does; it must lead to the coordinator of the callers. Use it once, inside of handlers
// that turn panics into answers, and outside of those that compress.
func Handler(c *client.Client, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, err := ticket.Parse(r.Header.Values(idKey), r.Header.Values(deadlineKey))
		switch {
		case err != nil:
			http.Error(w, "httptx: "+err.Error(), http.StatusBadRequest)
			return
		case from == nil:
			next.ServeHTTP(w, r)
			return
		}
		a := &answer{w: w, id: from.ID}
		votes, err := c.TakePart(r.Context(), from.ID, from.Remaining,
			func(ctx context.Context) error {
				next.ServeHTTP(a, r.WithContext(ctx))
				return a.failure()
			})
		a.finish(votes, err)
	})
}

// answer keeps an answer back, until its votes are known or it becomes too long.
//
//	kept ── Flush, or more than maxKept ──▶ sent: the votes follow in the trailer
//	  └──── finish ──▶ sent, with the votes in its header
type answer struct {
	w  http.ResponseWriter
	id txn.ID
	// code is the answer's, and worst the highest that the handler gave.
	code, worst int
	kept        bytes.Buffer
	sent        bool
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.w.Header() }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(code int) {
	switch {
	case code < http.StatusOK && code != http.StatusSwitchingProtocols:
		a.w.WriteHeader(code)
	case a.code == 0:
		a.code = code
	}
	// One that comes too late for the answer is meant all the same.
	a.worst = max(a.worst, code)
}

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if !a.sent && a.kept.Len()+len(b) <= maxKept {
		return a.kept.Write(b)
	}
	if err := a.release(); err != nil {
		return 0, err
	}
	return a.w.Write(b)
}

// FlushError sends what there is.
func (a *answer) FlushError() error {
	a.WriteHeader(http.StatusOK)
	if err := a.release(); err != nil {
		return err
	}
	return http.NewResponseController(a.w).Flush()
}

// Flush implements http.Flusher.
func (a *answer) Flush() { _ = a.FlushError() }

// release sends what was kept, with its votes announced.
func (a *answer) release() error {
	if a.sent {
		return nil
	}
	a.Header().Del(votesKey)
	a.Header().Del("Content-Length") // there is no trailer behind a body of known length
	a.Header().Add("Trailer", votesKey)
	return a.send()
}

func (a *answer) send() error {
	a.sent = true
	// What was answered within a transaction is nobody else's.
	a.Header().Set("Cache-Control", "no-store")
	a.w.WriteHeader(a.code)
	_, err := a.w.Write(a.kept.Bytes())
	return err
}

// errAnswered is the failure of a handler that has answered so.
var errAnswered = errors.New("httptx: the service answered")

// failure is why what the handler did must not stay, if it says so.
func (a *answer) failure() error {
	if a.worst < http.StatusBadRequest {
		return nil
	}
	return fmt.Errorf("%w %d %s", errAnswered, a.worst, http.StatusText(a.worst))
}

// finish sends the votes, with what is left of the answer. One that cannot commit must not look
// like a success: where the answer is on its way it gets no votes that could be taken for one.
func (a *answer) finish(votes []txn.BranchVote, err error) {
	no := slices.ContainsFunc(votes, func(v txn.BranchVote) bool { return v.Vote == txn.VoteNo })
	text := base64.StdEncoding.EncodeToString(txn.AppendVotes(nil, a.id, votes))
	switch {
	case a.sent:
		if err == nil || no {
			a.Header().Set(votesKey, text)
		}
		return
	case err != nil && a.code < http.StatusBadRequest:
		a.Header().Set(votesKey, text)
		http.Error(a.w, "httptx: "+err.Error(), statusOf(err))
		return
	}
	a.WriteHeader(http.StatusOK)
	a.Header().Set(votesKey, text)
	_ = a.send() // who does not get it does not get the votes
}

// statusOf is what a part that cannot commit is for a caller: a conflict, or a coordinator that
// does not answer now.
func statusOf(err error) int {
	switch txn.ReasonOf(err) {
	case txn.ReasonOverloaded, txn.ReasonLogFull, txn.ReasonShutdown, txn.ReasonFailed,
		txn.ReasonFenced, txn.ReasonNotReady:
		return http.StatusServiceUnavailable
	}
	if errors.Is(err, txn.ErrUnknown) {
		return http.StatusServiceUnavailable
	}
	return http.StatusConflict
}

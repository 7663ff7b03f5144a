package remote

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/txn"
)

// executor answers attempts in their order; the last answer stays.
type executor struct {
	gavelv1.UnimplementedTransactionServiceServer
	answers []error
	calls   int
}

func (e *executor) ExecuteTransaction(
	context.Context, *gavelv1.ExecuteTransactionRequest,
) (*gavelv1.ExecuteTransactionResponse, error) {
	at := min(e.calls, len(e.answers)-1)
	e.calls++
	if err := e.answers[at]; err != nil {
		return nil, err
	}
	return &gavelv1.ExecuteTransactionResponse{Transaction: wire.EncodeResult(committed())}, nil
}

// TestExecute: with a key it is repeated until the outcome is known; without one never, once it may
// have been heard.
func TestExecute(t *testing.T) {
	open := wire.Status(&wire.OutcomeError{Result: txn.Result{ID: testID()}})
	busy := wire.Status(txn.Refusef(txn.ReasonKeyBusy, "", "busy"))
	refused := wire.Status(txn.Refusef(txn.ReasonNotAllowed, "", "not here"))
	aborted := wire.Status(&wire.OutcomeError{Result: rolledBack()})
	for name, c := range map[string]struct {
		key     string
		answers []error
		calls   int
		want    string
	}{
		"committed":                    {"", []error{nil}, 1, "committed"},
		"rolled back":                  {"k", []error{aborted, nil}, 1, "rolled back"},
		"refused":                      {"k", []error{refused, nil}, 1, "refused"},
		"not yet":                      {"", []error{busy, busy, nil}, 3, "committed"},
		"lost, with a key":             {"k", []error{lost(), open, busy, nil}, 4, "committed"},
		"lost, without a key":          {"", []error{lost(), nil}, 1, "unknown"},
		"open, without a key":          {"", []error{open, nil}, 1, "unknown"},
		"refused behind a lost answer": {"k", []error{lost(), refused}, 2, "unknown"},
		"no such method": {"k", []error{status.Error(codes.Unimplemented, "")}, 1,
			"unknown"},
		"lost, and never answered again": {"k", []error{lost()}, 0, "unknown"},
		"not now, for ever":              {"k", []error{busy}, 0, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &executor{answers: c.answers}
				var n network
				defer n.serve(t, e)()
				client := n.client(t, WithPatience(5*time.Second))
				defer client.Close()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err := client.Execute(ctx, &gavelv1.ExecuteTransactionRequest{
					IdempotencyKey: c.key})
				if got := told(err); got != c.want || c.calls > 0 && e.calls != c.calls {
					t.Errorf("%s after %d calls (%v), want %s after %d", got, e.calls, err, c.want,
						c.calls)
				}
			})
		})
	}
}

// TestExecuteUnreachable: what nobody has heard was not done.
func TestExecuteUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n network
		client := n.client(t, WithPatience(5*time.Second))
		defer client.Close()
		_, err := client.Execute(t.Context(), &gavelv1.ExecuteTransactionRequest{})
		if got := told(err); got != "unreachable" {
			t.Errorf("%s (%v)", got, err)
		}
	})
}

// told is what the caller of Execute may believe.
func told(err error) string {
	_, ended := errors.AsType[*wire.OutcomeError](err)
	_, refused := errors.AsType[*txn.Refusal](err)
	switch {
	case err == nil:
		return "committed"
	case ended:
		return "rolled back"
	case errors.Is(err, ErrUnreachable):
		return "unreachable"
	case errors.Is(err, txn.ErrUnknown):
		return "unknown"
	case refused:
		return "refused"
	}
	return "nothing"
}

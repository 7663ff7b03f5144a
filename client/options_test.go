package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gavel-tx/gavel/client"
	"github.com/gavel-tx/gavel/txn"
)

func TestOptionsReachTheirPlaces(t *testing.T) {
	d, a, b := &decider{}, writer("a"), writer("b")
	c := client.New(d, client.Isolation(client.Serializable), client.Name("default"))
	err := c.InTx(t.Context(), all(a, b), client.Name("mine"), client.ReadOnly(),
		client.Timeout(time.Minute), client.Wait(time.Second),
		client.IdempotencyKey("key", []byte("body")))
	if err != nil {
		t.Fatal(err)
	}
	begins, commits := d.calls()
	r := begins[0]
	if r.Label != "mine" || r.Key != "key" || string(r.Body) != "body" || r.Timeout != time.Minute {
		t.Errorf("begin %+v", r)
	}
	if commits[0].Wait != time.Second || commits[0].Ack != txn.AckApplied {
		t.Errorf("commit %+v", commits[0])
	}
	want := client.OpenOptions{Level: client.Serializable, ReadOnly: true,
		IdleTimeout: time.Minute, ID: firstID()}
	if a.opened[0] != want {
		t.Errorf("opened with %+v, want %+v", a.opened[0], want)
	}
}

func TestDefaultsOfAClientAreNotChangedByATransaction(t *testing.T) {
	a := writer("a")
	c := client.New(&decider{})
	if err := c.InTx(t.Context(), all(a), client.ReadOnly()); err != nil {
		t.Fatal(err)
	}
	if err := c.InTx(t.Context(), all(a)); err != nil {
		t.Fatal(err)
	}
	if !a.opened[0].ReadOnly || a.opened[1].ReadOnly {
		t.Errorf("opened with %+v", a.opened)
	}
	if a.opened[1].IdleTimeout != txn.DefaultTimeout {
		t.Errorf("idle timeout %v", a.opened[1].IdleTimeout)
	}
}

func TestInvalidOptions(t *testing.T) {
	for name, o := range map[string]client.Option{
		"label":     client.Name(strings.Repeat("x", txn.MaxLabelLen+1)),
		"key":       client.IdempotencyKey(strings.Repeat("x", txn.MaxKeyLen+1), nil),
		"body":      client.IdempotencyKey("", []byte("body")),
		"timeout":   client.Timeout(-1),
		"wait":      client.Wait(-1),
		"ask":       client.AskFor(-1),
		"retry":     client.Retry(-1),
		"retries":   client.Retry(client.MaxRetries + 1),
		"isolation": client.Isolation("CHAOS"),
		"delegate":  client.Delegate(strings.Repeat("x", txn.MaxResourceNameLen+1)),
	} {
		err := client.New(&decider{}).InTx(t.Context(), func(context.Context) error {
			t.Errorf("%s: the function was called", name)
			return nil
		}, o)
		if !errors.Is(err, client.ErrOption) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	keyed := client.New(&decider{}, client.IdempotencyKey("for all", nil))
	if err := keyed.InTx(t.Context(), all()); !errors.Is(err, client.ErrOption) {
		t.Errorf("a key as default: %v", err)
	}
}

func TestAKeyedTransactionAlwaysAsksTheCoordinator(t *testing.T) {
	for n := range 2 {
		d, a := &decider{}, writer("a")
		dbs := []*database{a}[:n]
		err := client.New(d).InTx(t.Context(), func(ctx context.Context) error {
			if begins, _ := d.calls(); len(begins) != 1 || begins[0].Key != "k" {
				t.Errorf("the work began before its key was known to be new: %+v", begins)
			}
			return all(dbs...)(ctx)
		}, client.IdempotencyKey("k", nil))
		if err != nil {
			t.Fatal(err)
		}
		if got := votesOf(t, d); len(got) != n || n == 1 && got[0] != txn.VoteYes {
			t.Errorf("%d branches: votes %v", n, got)
		}
	}
}

func TestAUsedKeyDoesNothingAgain(t *testing.T) {
	existing := committed(txn.NewID(testLog, 99))
	d := &decider{onBegin: func(context.Context, txn.BeginRequest) (txn.Begun, error) {
		return txn.Begun{ID: existing.ID, Existing: &existing}, nil
	}}
	var r txn.Result
	err := client.New(d).InTx(t.Context(), func(context.Context) error {
		t.Error("the function was called")
		return nil
	}, client.IdempotencyKey("k", nil), client.Report(&r))
	if err != nil || r.ID != existing.ID {
		t.Errorf("error %v, reported %+v", err, r)
	}
	if _, commits := d.calls(); len(commits) != 0 {
		t.Errorf("commits %+v", commits)
	}
}

func TestAKeyWithAnotherBodyIsRefused(t *testing.T) {
	d := &decider{onBegin: func(context.Context, txn.BeginRequest) (txn.Begun, error) {
		return txn.Begun{}, txn.Refusef(txn.ReasonKeyReused, "idempotency_key", "another body")
	}}
	err := client.New(d).InTx(t.Context(), func(context.Context) error {
		t.Error("the function was called")
		return nil
	}, client.IdempotencyKey("k", []byte("b")))
	wantAborted(t, err)
	if txn.ReasonOf(err) != txn.ReasonKeyReused {
		t.Errorf("error %v", err)
	}
}

func TestRetry(t *testing.T) {
	for _, tc := range []struct {
		name     string
		failures int
		err      error
		tries    int
		ok       bool
	}{
		{"success at once", 0, nil, 1, true},
		{"serialization failure", 2, state("40001"), 3, true},
		{"deadlock", 1, state("40P01"), 2, true},
		{"lock not available", 3, state("55P03"), 4, true},
		{"too often", 4, state("40001"), 4, false},
		{"a duplicate", 1, state("23505"), 1, false},
		{"not the database's", 1, errPoor, 1, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tries, start := 0, time.Now()
				a := writer("a")
				err := client.New(&decider{}).InTx(t.Context(), func(ctx context.Context) error {
					_ = a.do(ctx)
					if tries++; tries <= tc.failures {
						return tc.err
					}
					return nil
				}, client.Retry(3))
				if (err == nil) != tc.ok || tries != tc.tries {
					t.Errorf("error %v after %d tries, want %d", err, tries, tc.tries)
				}
				if len(a.opened) != tries {
					t.Errorf("%d branches in %d tries", len(a.opened), tries)
				}
				if tries > 1 && time.Since(start) == 0 {
					t.Error("it was tried again without a pause")
				}
			})
		})
	}
}

func TestRetryEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := client.New(&decider{}).InTx(ctx, func(context.Context) error {
			return state("40001")
		}, client.Retry(client.MaxRetries))
		wantAborted(t, err)
		if ctx.Err() == nil {
			t.Error("it gave up before its context did")
		}
	})
}

func TestARetryableErrorOfAnotherTransactionIsNotOurs(t *testing.T) {
	tries := 0
	err := client.New(&decider{}).InTx(t.Context(), func(context.Context) error {
		tries++
		return &client.AbortedError{Retryable: true, Reason: "some other transaction's"}
	}, client.Retry(3))
	if wantAborted(t, err).Retryable || tries != 1 {
		t.Errorf("%d tries, error %v", tries, err)
	}
}

func TestIDFrom(t *testing.T) {
	d, a := &decider{}, writer("a")
	var inside txn.ID
	c := client.New(d)
	err := c.InTx(t.Context(), func(ctx context.Context) (err error) {
		if err = a.do(ctx); err != nil {
			return err
		}
		if inside, err = client.IDFrom(ctx); err != nil {
			return err
		}
		return c.InTx(ctx, func(ctx context.Context) error {
			if again, err := client.IDFrom(ctx); err != nil || again != inside {
				t.Errorf("a second id %s, error %v", again, err)
			}
			return nil
		})
	})
	if err != nil || inside != firstID() {
		t.Fatalf("id %s, error %v", inside, err)
	}
	// The id may be asked for, so that the coordinator must know the outcome.
	wantHistory(t, a, "review", prepareOf(1))
	votesOf(t, d)
}

func TestErrorTexts(t *testing.T) {
	id := firstID()
	for _, tc := range []struct {
		err  error
		want string
	}{
		{&client.AbortedError{ID: id, Resource: "b", Reason: "deadlock", SQLState: "40P01"},
			"client: transaction " + id.String() + " was rolled back because of b: deadlock " +
				"(SQLSTATE 40P01); nothing of it remains"},
		{&client.AbortedError{Err: errPoor},
			"client: transaction was rolled back: balance too low; nothing of it remains"},
		{&client.AbortedError{Cause: txn.CauseExpired},
			"client: transaction was rolled back: TRANSACTION_EXPIRED; nothing of it remains"},
		{&client.InDoubtError{ID: id, Err: errReset}, "client: the outcome of transaction " +
			id.String() + " is unknown, it may have committed: connection reset"},
		{&client.InDoubtError{Resource: "b", Err: errReset},
			"client: the outcome of the transaction at b is unknown, it may have committed: " +
				"connection reset"},
		{&client.HeuristicError{Result: txn.Result{ID: id, Outcome: txn.OutcomeHeuristicMixed,
			Reason: "b was rolled back by hand"}}, "client: transaction " + id.String() +
			" ended as HEURISTIC_MIXED: b was rolled back by hand; a person must look at the data"},
	} {
		if got := tc.err.Error(); got != tc.want {
			t.Errorf("%T:\n%s\nwant\n%s", tc.err, got, tc.want)
		}
	}
	if !client.IDOf(errPoor).IsZero() {
		t.Error("an id of somebody else's error")
	}
	if got := client.FoundReader.String() + client.FoundFailed.String(); got != "readerfailed" {
		t.Errorf("findings %q", got)
	}
}

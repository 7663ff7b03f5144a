package exit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/client/remote"
	"github.com/gavel-tx/gavel/cmd/gavel/internal/exit"
	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/coordinator/record"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/proto/wire/transport"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txn"
)

func refused(r txn.Reason) error { return &txn.Refusal{Reason: r, Message: "no"} }

func ended(o txn.Outcome) error { return &wire.OutcomeError{Result: txn.Result{Outcome: o}} }

// TestCodes is the contract: which error ends in which code, and what a person is told about it.
func TestCodes(t *testing.T) {
	lost := fmt.Errorf("%w: %w", txn.ErrUnknown, remote.ErrUnreachable)
	for _, c := range []struct {
		err  error
		code exit.Code
		said []string
	}{
		{nil, 0, nil},
		{errors.New("something"), 1, []string{"something"}},
		{exit.Usagef("try this", "bad %d", 7), 2, []string{"bad 7", "do:    try this"}},
		{remote.ErrUnreachable, 3, []string{"does not answer", "Check the address"}},
		{lost, 3, nil},
		{context.DeadlineExceeded, 3, nil},
		{&txlog.LockedError{Dir: "/d", Host: "h", PID: 42}, 4,
			[]string{"the log in /d is in use by process 42 on host h", "Nothing was changed"}},
		{&txlog.LockedError{Dir: "/d"}, 4, []string{"in use by another process"}},
		{&txlog.CopyError{Dir: "/d"}, 4, []string{"/d is a copy of a log", "gavel log adopt /d"}},
		{fmt.Errorf("%w: /d", txlog.ErrNotALog), 4, []string{"gavel log init", "committed"}},
		{&txlog.CorruptionError{File: "7.log", Offset: 4096, Err: errors.New("bad sum")}, 4,
			[]string{"7.log, offset 4096: bad sum", "never presume abort over a hole"}},
		{&txlog.VersionError{Found: 9}, 4, []string{"version"}},
		{record.ErrUnknownType, 4, []string{"newer"}},
		{protocol.ErrContradiction, 4, []string{"Do not run a coordinator"}},
		{record.ErrMalformed, 4, nil},
		{txlog.ErrExists, 4, []string{"another directory"}},
		{txlog.ErrNoSpace, 4, []string{"Make room"}},
		{transport.ErrPlaintext, 4, []string{"Nothing was started.", "--insecure"}},
		{refused(txn.ReasonForeign), 4, []string{"Ask the coordinator of that log"}},
		{refused(txn.ReasonNotFound), 1, nil},
		{refused(txn.ReasonForgotten), 1, []string{"retention"}},
		{refused(txn.ReasonInvalid), 2, nil},
		{refused(txn.ReasonRolledBack), 6, nil},
		{refused(txn.ReasonNotReady), 3, nil},
		{ended(txn.OutcomeUnknown), 5, nil},
		{ended(txn.OutcomeRolledBack), 6, nil},
		{ended(txn.OutcomeHeuristicMixed), 1, nil},
		{txn.ErrUnknown, 5, []string{"committed, rolled back, or still open"}},
		{coordinator.ErrFailed, 70, []string{"start the coordinator again"}},
		{fmt.Errorf("%w: %w", coordinator.ErrFailed, txn.ErrUnknown), 70, nil},
		{txlog.ErrFailed, 70, []string{"acknowledged are durable"}},
		{context.Canceled, 130, []string{"interrupted"}},
	} {
		for _, err := range []error{c.err, wrapped(c.err)} {
			var w bytes.Buffer
			if code := exit.Print(&w, err); code != c.code {
				t.Errorf("%v: code %d, want %d", err, code, c.code)
			}
			for _, s := range c.said {
				if !strings.Contains(w.String(), s) {
					t.Errorf("%v: %q is missing in\n%s", err, s, w.String())
				}
			}
		}
	}
}

// wrapped is what callers make of an error on its way up.
func wrapped(err error) error {
	if err == nil {
		return nil
	}
	return errors.Join(fmt.Errorf("on the way: %w", err), nil)
}

// TestEveryReasonHasACode: no refusal of the API falls through to "something went wrong".
func TestEveryReasonHasACode(t *testing.T) {
	for _, r := range []txn.Reason{txn.ReasonNoResource, txn.ReasonTooMany, txn.ReasonClosed,
		txn.ReasonKeyReused, txn.ReasonKeyBusy, txn.ReasonOverloaded, txn.ReasonLogFull,
		txn.ReasonShutdown, txn.ReasonFailed, txn.ReasonFenced, txn.ReasonAlreadyDecided,
		txn.ReasonRegression} {
		if e := exit.Of(refused(r)); e.Code == exit.No || e.Do == "" {
			t.Errorf("%s: code %d, do %q", r, e.Code, e.Do)
		}
	}
}

// TestSilent: a command that has said everything says nothing more, and keeps its code.
func TestSilent(t *testing.T) {
	var w bytes.Buffer
	if code := exit.Print(&w, exit.Silent(exit.Aborted)); code != exit.Aborted || w.Len() > 0 {
		t.Errorf("code %d, said %q", code, w.String())
	}
	if exit.Silent(exit.OK) != nil {
		t.Error("success is an error")
	}
}

// TestOutcomes: a script reads the outcome from the code alone.
func TestOutcomes(t *testing.T) {
	for o, want := range map[txn.Outcome]exit.Code{
		txn.OutcomeCommitted: 0, txn.OutcomeRolledBack: 6, txn.OutcomeUnknown: 5,
		txn.OutcomeForgotten: 1, txn.OutcomeHeuristicHazard: 1,
	} {
		if got := exit.ForOutcome(o); got != want {
			t.Errorf("%s: %d, want %d", o, got, want)
		}
	}
}

// TestLog puts the directory into the advice.
func TestLog(t *testing.T) {
	if exit.Log("/d", nil) != nil {
		t.Error("no error became one")
	}
	err := exit.Log("/d", fmt.Errorf("%w: empty", txlog.ErrNotALog))
	if e := exit.Of(err); !strings.Contains(e.Do, "`gavel log init /d`") {
		t.Errorf("do: %s", e.Do)
	}
	if !errors.Is(err, txlog.ErrNotALog) {
		t.Error("the cause is lost")
	}
	if text := err.Error(); !strings.Contains(text, "log init") {
		t.Errorf("the text is %q", text)
	}
}

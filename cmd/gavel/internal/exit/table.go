package exit

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/gavel-tx/gavel/client/remote"
	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/coordinator/protocol"
	"github.com/gavel-tx/gavel/coordinator/record"
	"github.com/gavel-tx/gavel/proto/wire"
	"github.com/gavel-tx/gavel/proto/wire/transport"
	"github.com/gavel-tx/gavel/txlog"
	"github.com/gavel-tx/gavel/txn"
)

const (
	nothingChanged = "Nothing was changed."
	// hole is why a damaged log is not opened: a record that cannot be read any more may have been
	// a decision to commit, so its absence proves nothing.
	hole = nothingChanged + " The damaged part may have held decisions to commit: " +
		"never presume abort over a hole."
)

// rule recognises an error by type or sentinel, and is nil for all others.
type rule func(error) *Error

// table holds the rules in the order in which they are asked. A failed log comes before what it
// makes of the callers' requests; unreachable before unknown, since a question that nobody heard
// was not answered with "unknown".
func table() []rule {
	return []rule{logFailed, locked, copied, noLog, corrupt, version, contradiction,
		sentinel(txlog.ErrExists, Refused, nothingChanged, "Choose another directory, or go on "+
			"with the log that is there."),
		sentinel(txlog.ErrNoSpace, Refused, nothingChanged, "Make room on the disk of the log."),
		sentinel(transport.ErrPlaintext, Refused, "Nothing was started.",
			"Give --tls-cert, --tls-key and --tls-ca, or say --insecure if anybody who can reach "+
				"the address may read and change the traffic."),
		interrupted, sentinel(remote.ErrUnreachable, Unreachable, "Nothing was changed by this "+
			"command.", "Check the address, and that the coordinator runs."),
		refusal, sentinel(txn.ErrUnknown, Unknown, "The outcome is unknown: committed, rolled "+
			"back, or still open.", "Ask again: gavel tx show ID."),
		sentinel(context.DeadlineExceeded, Unreachable, "Nothing was changed by this command.",
			"Try again, with a longer --timeout if the other side is slow."),
	}
}

func sentinel(target error, code Code, data, do string) rule {
	return func(err error) *Error {
		if !errors.Is(err, target) {
			return nil
		}
		return &Error{Code: code, Data: data, Do: do}
	}
}

func interrupted(err error) *Error {
	if !errors.Is(err, context.Canceled) {
		return nil
	}
	return &Error{Code: Interrupted, What: "interrupted"}
}

func logFailed(err error) *Error {
	if !errors.Is(err, coordinator.ErrFailed) && !errors.Is(err, txlog.ErrFailed) {
		return nil
	}
	return &Error{Code: LogFailed,
		Data: "Decisions that were acknowledged are durable. Which of the last requests became " +
			"durable is not known until the log is opened again.",
		Do: "Look at the disk of the log, then start the coordinator again; it finishes what is " +
			"in doubt."}
}

func locked(err error) *Error {
	l, ok := errors.AsType[*txlog.LockedError](err)
	if !ok {
		return nil
	}
	who := "another process"
	if l.PID != 0 {
		who = fmt.Sprintf("process %d on host %s", l.PID, l.Host)
	}
	return &Error{Code: Refused, What: fmt.Sprintf("the log in %s is in use by %s", l.Dir, who),
		Data: nothingChanged + " Two coordinators on one log would contradict each other.",
		Do:   fmt.Sprintf("Stop %s first, or name another directory.", who)}
}

func copied(err error) *Error {
	c, ok := errors.AsType[*txlog.CopyError](err)
	if !ok {
		return nil
	}
	return &Error{Code: Refused,
		What: c.Dir + " is a copy of a log: it was restored, or moved between file systems",
		Data: nothingChanged + " What a copy does not know may have been decided in the original.",
		Do: fmt.Sprintf("Use the original directory. If it is lost, `gavel log adopt %s` makes "+
			"this copy a log of its own.", c.Dir)}
}

func noLog(err error) *Error {
	if !errors.Is(err, txlog.ErrNotALog) {
		return nil
	}
	return &Error{Code: Refused,
		Data: nothingChanged + " A lost log must not become a new one silently: prepared " +
			"branches of the old one would be rolled back although they were committed.",
		Do: "If this directory never held a log, make one: `gavel log init DIR`. If it did, find " +
			"it again first."}
}

func corrupt(err error) *Error {
	c, ok := errors.AsType[*txlog.CorruptionError](err)
	if !ok {
		return nil
	}
	return &Error{Code: Refused,
		What: fmt.Sprintf("the log is damaged: %s, offset %d: %v", c.File, c.Offset, c.Err),
		Data: hole,
		Do: "See all of the damage with `gavel log verify DIR`, what is left with " +
			"`gavel log dump DIR`, and bring back an undamaged disk."}
}

func version(err error) *Error {
	if !errors.Is(err, txlog.ErrVersion) && !errors.Is(err, record.ErrUnknownType) {
		return nil
	}
	return &Error{Code: Refused, Data: nothingChanged,
		Do: "Use the version of gavel that wrote this log, or a newer one."}
}

func contradiction(err error) *Error {
	if !errors.Is(err, protocol.ErrContradiction) && !errors.Is(err, record.ErrMalformed) {
		return nil
	}
	return &Error{Code: Refused, Data: nothingChanged,
		Do: "Do not run a coordinator on this log; see `gavel log dump DIR`."}
}

// refusal speaks with the words of the API.
func refusal(err error) *Error {
	if o, ok := errors.AsType[*wire.OutcomeError](err); ok {
		return &Error{Code: ForOutcome(o.Result.Outcome)}
	}
	r, ok := errors.AsType[*txn.Refusal](err)
	if !ok {
		return nil
	}
	e := &Error{Code: Refused}
	switch r.Reason {
	case txn.ReasonNotFound, txn.ReasonForgotten:
		e.Code = No
	case txn.ReasonInvalid:
		e.Code = Usage
	case txn.ReasonRolledBack:
		e.Code = Aborted
	case txn.ReasonNotReady, txn.ReasonShutdown:
		e.Code = Unreachable
	}
	if why, ok := wire.Explain(string(r.Reason)); ok {
		e.Do = why.Do
	}
	return e
}

// ForOutcome is the exit code that tells a transaction's outcome to a script: 0 committed, 6 rolled
// back, 5 not known (yet), 1 heuristic or forgotten.
func ForOutcome(o txn.Outcome) Code {
	switch o {
	case txn.OutcomeCommitted:
		return OK
	case txn.OutcomeRolledBack:
		return Aborted
	case txn.OutcomeUnknown:
		return Unknown
	}
	return No
}

// Log puts the directory into the advice about a log that could not be opened.
func Log(dir string, err error) error {
	if err == nil {
		return nil
	}
	e := *Of(err)
	e.Do = strings.ReplaceAll(e.Do, "DIR", dir)
	return &e
}

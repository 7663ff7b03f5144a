// Package exit says how a command ended: with a code for scripts, and for people with three
// sentences, what happened, what it means for the data, and what to do.
//
// Codes are part of the contract of the command line; scripts decide by them. Every error that can
// leave a command is mapped to its code in one table ([Of]), by type and sentinel and never by
// text:
//
//	0    done, and the answer is yes
//	1    the answer is no: unhealthy, not found, something is left to do
//	2    the command line or the configuration is wrong
//	3    a coordinator or a resource cannot be reached
//	4    refused: going on would endanger data, or somebody else is in charge
//	5    the outcome of a transaction is not known, or not yet
//	6    a transaction is rolled back
//	70   the log failed; only a fresh start may believe the disk again
//	130  interrupted
package exit

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// Code is the exit code of a process.
type Code int

// The exit codes.
const (
	OK          Code = 0
	No          Code = 1
	Usage       Code = 2
	Unreachable Code = 3
	Refused     Code = 4
	Unknown     Code = 5
	Aborted     Code = 6
	LogFailed   Code = 70
	Interrupted Code = 130
)

// Error is an error that knows its exit code and speaks to people. Its zero parts are left out
// when it is printed.
type Error struct {
	Code Code
	// What happened, Data what that means for the data, Do what to do: whole sentences.
	What, Data, Do string
	// Err is the cause, for errors.Is; it is not printed.
	Err error
	// Said says that the command has printed all of it already.
	Said bool
}

// Error is all three sentences in one line.
func (e *Error) Error() string {
	return strings.Join(strings.Fields(e.What+" "+e.Data+" "+e.Do), " ")
}

func (e *Error) Unwrap() error { return e.Err }

// Silent is the error of a command that has printed its answer, where only the code is left to say.
func Silent(code Code) error {
	if code == OK {
		return nil
	}
	return &Error{Code: code, Said: true}
}

// Usagef is an error about the command line or the configuration.
func Usagef(do, format string, args ...any) error {
	return &Error{Code: Usage, What: fmt.Sprintf(format, args...), Do: do}
}

// Print writes err to w, each sentence on its own line, and returns the code. A nil error is OK.
func Print(w io.Writer, err error) Code {
	if err == nil {
		return OK
	}
	e := Of(err)
	if e.Said {
		return e.Code
	}
	for i, line := range []string{e.What, e.Data, e.Do} {
		label := [...]string{"error: ", "data:  ", "do:    "}[i]
		if line != "" {
			fmt.Fprintln(w, label+strings.ReplaceAll(strings.TrimSpace(line), "\n", "\n       "))
		}
	}
	return e.Code
}

// Of is err with its code and sentences. An *Error in its chain stays as it is.
func Of(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	for _, row := range table() {
		if e := row(err); e != nil {
			e.Err = err
			if e.What == "" {
				e.What = err.Error()
			}
			return e
		}
	}
	return &Error{Code: No, What: err.Error(), Err: err}
}

package proxy

import (
	"fmt"
	"strings"
	"sync"
)

// Statement is one of the three that end, or promise to end, a branch.
type Statement uint8

const (
	// Prepare is PREPARE TRANSACTION.
	Prepare Statement = iota
	// CommitPrepared is COMMIT PREPARED.
	CommitPrepared
	// RollbackPrepared is ROLLBACK PREPARED.
	RollbackPrepared
)

// tags are the command tags of the statements, and also how their texts begin.
func tags() [3]string {
	return [...]string{"PREPARE TRANSACTION", "COMMIT PREPARED", "ROLLBACK PREPARED"}
}

// String is the command tag.
func (s Statement) String() string {
	if all := tags(); int(s) < len(all) {
		return all[s]
	}
	return fmt.Sprintf("INVALID(%d)", uint8(s))
}

// in says whether an SQL text, of one or several statements, has this one. The quote tells it from
// the name of a view or a setting.
func (s Statement) in(sql string) bool {
	return strings.Contains(strings.ToUpper(sql), s.String()+" '")
}

// Act is what happens to a message.
type Act uint8

const (
	// LoseRequest drops the connection in place of forwarding the statement: it never happens.
	LoseRequest Act = iota
	// LoseReply forwards the statement, and drops the connection in place of its command tag: it
	// has happened, and its client does not know.
	LoseReply
	// HoldRequest keeps the statement back until Release, and forwards it then, whether its client
	// still waits or not: it comes late.
	HoldRequest
	// HoldReply keeps the command tag back until Release: the answer comes late.
	HoldReply
)

// String is the word for the act in reports.
func (a Act) String() string {
	words := [...]string{"request lost", "reply lost", "request late", "reply late"}
	if int(a) < len(words) {
		return words[a]
	}
	return fmt.Sprintf("INVALID(%d)", uint8(a))
}

// Fault is a message to look for and what to do to it.
type Fault struct {
	Statement Statement
	Act       Act
	// Skip is how many such messages go by untouched first. Must not be negative.
	Skip int
}

// String says what is done to which statement.
func (f Fault) String() string { return fmt.Sprintf("%s of %s", f.Act, f.Statement) }

func (f Fault) onRequest() bool { return f.Act == LoseRequest || f.Act == HoldRequest }

func (f Fault) holds() bool { return f.Act == HoldRequest || f.Act == HoldReply }

// Trap is an armed fault. It strikes once.
type Trap struct {
	fault   Fault
	skip    int
	caught  chan struct{}
	release func()
	freed   chan struct{}
}

func newTrap(f Fault) *Trap {
	t := &Trap{fault: f, skip: f.Skip, caught: make(chan struct{}), freed: make(chan struct{})}
	t.release = sync.OnceFunc(func() { close(t.freed) })
	return t
}

// Caught is closed when the fault has struck: the connection is dropped, or the message is held.
func (t *Trap) Caught() <-chan struct{} { return t.caught }

// Release lets a held message go on. It may be called early, late, and again.
func (t *Trap) Release() { t.release() }

package crash

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Fault is a kind of thing that a run has done to an installation.
type Fault string

// The faults, by what they are done to.
const (
	KillCoordinator Fault = "kills coordinator"
	KillSidecar     Fault = "kills sidecar"
	KillPostmaster  Fault = "kills postmaster"
	KillBackend     Fault = "kills backend"
	KillClient      Fault = "kills client"
	KillMaria       Fault = "kills mariadbd"
	KillStore       Fault = "kills kv"
	KillOwn         Fault = "kills service"

	StopCoordinator Fault = "stops coordinator"
	StopSidecar     Fault = "stops sidecar"
	StopPostmaster  Fault = "stops postmaster"
	StopBackend     Fault = "stops backend"
	LateCommit      Fault = "commit after the deadline"
	SlowClient      Fault = "slow client"
	CallerLeaves    Fault = "caller leaves"

	RequestLost Fault = "request lost"
	ReplyLost   Fault = "reply lost"
	RequestLate Fault = "request late"
	ReplyLate   Fault = "reply late"

	CutToSidecar   Fault = "cut to sidecar"
	CutFromSidecar Fault = "cut from sidecar"
	CutBothWays    Fault = "cut both ways"

	ZombiePrepare   Fault = "zombie prepare"
	SlotsExhausted  Fault = "slots exhausted"
	HandRollback    Fault = "rollback by hand"
	HandCommit      Fault = "commit by hand"
	AsyncFailover   Fault = "asynchronous failover"
	SyncFailover    Fault = "synchronous failover"
	SecondOnLog     Fault = "second coordinator on the log"
	SecondOnCopy    Fault = "second coordinator on a copy"
	DecoysUntouched Fault = "decoys left alone"
)

// AllFaults are the kinds, in the order in which they are printed.
func AllFaults() []Fault {
	return []Fault{KillCoordinator, KillSidecar, KillPostmaster, KillBackend, KillClient,
		KillMaria, KillStore, KillOwn,
		StopCoordinator, StopSidecar, StopPostmaster, StopBackend,
		LateCommit, SlowClient, CallerLeaves,
		RequestLost, ReplyLost, RequestLate, ReplyLate, CutToSidecar, CutFromSidecar, CutBothWays,
		ZombiePrepare, SlotsExhausted, HandRollback, HandCommit, AsyncFailover, SyncFailover,
		SecondOnLog, SecondOnCopy, DecoysUntouched}
}

// Faults counts what a run has done. The zero Faults has done nothing; its methods may be called
// concurrently.
type Faults struct {
	mu    sync.Mutex
	count map[Fault]int
}

// Add counts one.
func (f *Faults) Add(kind Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count == nil {
		f.count = map[Fault]int{}
	}
	f.count[kind]++
}

// Missing are the kinds that never happened.
func (f *Faults) Missing() []Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(AllFaults(), func(k Fault) bool { return f.count[k] > 0 })
}

// String is one line, with every kind that happened: "kills coordinator=9 sidecar=5; request
// lost=6". Kinds with the same first word share it.
func (f *Faults) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	last := ""
	for _, k := range AllFaults() {
		n := f.count[k]
		if n == 0 {
			continue
		}
		word, rest, _ := strings.Cut(string(k), " ")
		grouped := word == "kills" || word == "stops"
		switch {
		case grouped && word == last:
			fmt.Fprintf(&b, " %s=%d", rest, n)
		case b.Len() > 0:
			b.WriteString("; ")
			fallthrough
		default:
			fmt.Fprintf(&b, "%s=%d", k, n)
		}
		last = word
	}
	return b.String()
}

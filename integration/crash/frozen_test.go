package crash_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/participant/postgres/pgbranch"
	"github.com/gavel-tx/gavel/txn"
)

// TestRealFrozen stops processes for longer than every timeout and lets them go on, as a busy host
// or the move of a virtual machine does. A process that wakes up believes that no time has passed.
func TestRealFrozen(t *testing.T) {
	rng := dice(t, 21)
	for _, mode := range modes(rng) {
		w := build(t, layout{mode: mode,
			flags: []string{"--call-timeout", impatient.String()}}, rng)
		victims := sample(rng, w.freezable(), map[crash.Mode]int{crash.InProcess: 2,
			crash.Sidecars: 4}[mode])
		for _, v := range victims {
			for _, step := range sample(rng, freezeSteps(), 1) {
				w.begun = fmt.Sprintf("round %d: %s while one stands at %s", w.round+1, v, step)
				w.freezeRound(v, step)
			}
		}
		w.begun = "a commit that comes late"
		w.commitLate()
		w.checkWhole()
		w.end()
	}
}

// freezeSteps are those at which something waits to be overtaken by a timeout.
func freezeSteps() []string {
	return []string{"afterBegin", "afterVote", "beforeForce", "afterForceBeforeSend", "beforeSend",
		"beforeAckClient", "beforeEnd"}
}

func (w *world) freezable() []crash.Fault {
	all := []crash.Fault{crash.StopCoordinator, crash.StopBackend, crash.StopPostmaster}
	if w.mode == crash.Sidecars {
		all = append(all, crash.StopSidecar)
	}
	return all
}

// freezeRound stops a process while another, or the same, stands at a step.
func (w *world) freezeRound(v crash.Fault, step string) {
	w.t.Helper()
	w.open()
	h := w.reach(step)
	thaw := w.freeze(w.victimOf(v))
	h.release()
	w.last(longer)
	if v == crash.StopCoordinator {
		// It looks dead, and its log is not to be had all the same.
		w.refuseSecond(w.logDir())
		shared.faults.Add(crash.SecondOnLog)
	}
	thaw()
	shared.faults.Add(v)
	w.gate()
	w.t.Log(w.mode, w.begun)
}

// victimOf is the process that is meant.
func (w *world) victimOf(v crash.Fault) int {
	w.t.Helper()
	s := w.sides[w.rng.IntN(len(w.sides))]
	switch v {
	case crash.StopCoordinator:
		return w.coordinator.pid()
	case crash.StopSidecar:
		return w.sidecars[w.rng.IntN(len(w.sidecars))].pid()
	case crash.StopPostmaster:
		return s.server.PID()
	}
	ctx, cancel := w.context()
	defer cancel()
	pids, err := s.backends(ctx)
	w.must(err)
	if len(pids) == 0 {
		w.fatal("nobody is connected to " + s.name)
	}
	return pids[w.rng.IntN(len(pids))]
}

// freeze stops a process until the function that it returns is called, at the latest when the test
// ends: a stopped server could not be ended in order. It returns when every thread stands still,
// which on a busy machine is later than the signal.
func (w *world) freeze(pid int) (thaw func()) {
	w.t.Helper()
	w.must(syscall.Kill(pid, syscall.SIGSTOP))
	thaw = func() {
		if err := syscall.Kill(pid, syscall.SIGCONT); !errors.Is(err, syscall.ESRCH) {
			w.must(err)
		}
	}
	w.t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	w.await("a process to stand still", func(context.Context) bool { return w.still(pid) })
	return thaw
}

// still says whether all threads of a process are stopped. The state follows the name, which is in
// brackets and may have anything in it.
func (w *world) still(pid int) bool {
	w.t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	w.must(err)
	for _, file := range threads {
		text, err := os.ReadFile(file)
		end := bytes.LastIndexByte(text, ')')
		if err != nil || !bytes.HasPrefix(text[end+1:], []byte(" T ")) {
			return false
		}
	}
	return len(threads) > 0
}

// commitLate sends a stopped coordinator the votes of a transaction whose time is over when it
// wakes up. The votes lie in its socket by then, and its timer has not run: whichever it looks at
// first, it must roll back.
func (w *world) commitLate() {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	request := beginBoth()
	request.Timeout = longer / 2
	begun, err := w.asking.Begin(ctx, request)
	w.must(err)
	votes := w.vote(ctx, begun)
	thaw := w.freeze(w.coordinator.pid())
	answered := make(chan txn.Result, 1)
	go func() {
		defer close(answered)
		// The connection is there: the message leaves at once.
		r, err := w.asking.Commit(ctx, txn.CommitRequest{ID: begun.ID, Votes: votes})
		if err == nil {
			answered <- r
		}
	}()
	w.last(longer)
	thaw()
	r, ok := <-answered
	if !ok || r.Outcome != txn.OutcomeRolledBack {
		w.fatal(fmt.Sprintf("a commit after the deadline: %+v (%v)", r, ok))
	}
	w.await("nothing to be prepared", func(ctx context.Context) bool {
		return len(w.prepared(ctx)) == 0
	})
	shared.faults.Add(crash.LateCommit)
	w.t.Log(w.mode, w.begun, "is rolled back")
}

// vote prepares an empty branch at each database.
func (w *world) vote(ctx context.Context, begun txn.Begun) (votes []txn.BranchVote) {
	w.t.Helper()
	for i, b := range begun.Branches {
		conn, err := pgconn.Connect(ctx, w.sides[i].server.DSN(w.sides[i].database))
		w.must(err)
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, "BEGIN; SELECT 1 FROM account WHERE id = 0 FOR UPDATE").ReadAll()
		w.must(err)
		v := pgbranch.Prepare(ctx, conn, b.Name, pgbranch.PrepareOptions{})
		w.must(v.Err)
		votes = append(votes, txn.BranchVote{Branch: b.Branch, Vote: v.Vote, Evidence: v.Evidence})
	}
	return votes
}

// patience is how long a second coordinator gets to be refused. One that is not refused would run
// for ever.
const patience = 30 * time.Second

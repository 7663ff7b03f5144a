package crash_test

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/txn"
)

// hand is what a person does to the branches of a transaction that is decided: the log holds its
// COMMIT, and no database has heard of it.
type hand struct {
	verb  string
	sides []int
	// outcome is what must be said of the transaction from then on.
	outcome txn.Outcome
	// half says that the databases disagree from then on.
	half bool
	kind crash.Fault
}

func (h hand) String() string {
	return fmt.Sprintf("%s at %v, so that it is %s", h.verb, h.sides, h.outcome)
}

func hands() []hand {
	return []hand{
		{"ROLLBACK PREPARED", []int{0}, txn.OutcomeHeuristicMixed, true, crash.HandRollback},
		{"ROLLBACK PREPARED", []int{1}, txn.OutcomeHeuristicMixed, true, crash.HandRollback},
		{"ROLLBACK PREPARED", []int{0, 1}, txn.OutcomeHeuristicRollback, false,
			crash.HandRollback},
		{"COMMIT PREPARED", []int{0}, txn.OutcomeCommitted, false, crash.HandCommit},
		{"COMMIT PREPARED", []int{0, 1}, txn.OutcomeCommitted, false, crash.HandCommit},
	}
}

// TestRealHands finishes branches behind the coordinator's back, between decision and phase two.
// What was rolled back is never called committed, and never forgotten; what was committed is
// acknowledged, because the database can prove it.
func TestRealHands(t *testing.T) {
	rng := dice(t, 25)
	for _, mode := range modes(rng) {
		w := newWorld(t, mode, rng)
		for _, h := range sample(rng, hands(), len(hands())) {
			for _, kill := range sample(rng, []bool{true, false}, 1) {
				w.handRound(h, kill)
			}
		}
		w.end()
	}
}

// handRound is one transfer that a person meddles with. The coordinator is stopped at the failpoint
// meanwhile, and is killed there or goes on.
func (w *world) handRound(x hand, kill bool) {
	w.t.Helper()
	w.begun = fmt.Sprintf("%s; the coordinator is killed: %v", x, kill)
	id, h := w.catchDecided()
	for _, i := range x.sides {
		w.run(i, fmt.Sprintf("%s '%s'", x.verb, w.branchAt(i)))
	}
	if kill {
		w.kill(w.coordinator)
	}
	h.release()
	if kill {
		w.coordinator = w.startCoordinator()
	}
	w.closeRound()
	w.judge(id, x.outcome, x.half)
	shared.faults.Add(x.kind)
	w.t.Log(w.mode, w.begun)
	w.open()
	w.gate()
}

// catchDecided has the teller make one transfer, and holds the coordinator when its COMMIT is
// durable and nobody knows. The teller asks until every branch is done.
func (w *world) catchDecided() (txn.ID, held) {
	w.t.Helper()
	w.round++
	w.slips.begin(w.from())
	trap := w.post.arm("afterForceBeforeSend", 0)
	w.teller.order(fmt.Sprintf("one %d", w.from()+1))
	h := w.caught(trap)
	id, err := txn.ParseID(h.id)
	w.must(err)
	return id, h
}

// branchAt is the only prepared name at a side.
func (w *world) branchAt(i int) string {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	names, err := w.sides[i].prepared(ctx)
	w.must(err)
	if len(names) != 1 {
		w.fatal(fmt.Sprintf("prepared at %s: %v, want one name", w.sides[i].name, names))
	}
	return names[0]
}

// judge wants an outcome for the only transfer of a round. One that needs a person must be shown as
// that everywhere, with an alarm about it and about nothing else; and the databases must differ by
// exactly that transfer, or not at all.
func (w *world) judge(id txn.ID, outcome txn.Outcome, half bool) {
	w.t.Helper()
	book := w.observe()
	i := slices.IndexFunc(book.Transfers, func(x crash.Transfer) bool { return x.ID == id })
	if i < 0 || book.Transfers[i].Outcome != outcome {
		w.fatal(fmt.Sprintf("%s is not %s: %v", id, outcome, book.Transfers))
	}
	if !outcome.IsHeuristic() {
		w.report(book)
		return
	}
	x := book.Transfers[i]
	if x.Answer != crash.Heuristic || (len(x.Rows[0]) != len(x.Rows[1])) != half {
		w.fatal("the client was not told, or the rows are others: " + x.String())
	}
	w.checkAlarms(book.Alarms, id)
	w.reminders[id] = 0
	w.checkShown(id, outcome)
	// What is left over is as if this transfer had never been.
	book.Transfers = slices.Delete(book.Transfers, i, i+1)
	book.Alarms = nil
	for _, amount := range slices.Concat(x.Rows...) {
		w.want += amount
	}
	book.Want = w.want
	w.report(book)
}

// checkAlarms wants at least one call for a person, and all of them for one transaction.
func (w *world) checkAlarms(all []string, id txn.ID) {
	w.t.Helper()
	if len(all) == 0 {
		w.fatal("nobody was called for " + id.String())
	}
	for _, a := range all {
		if !strings.Contains(a, id.String()) {
			w.fatal("a person was called for something else: " + a)
		}
	}
}

// checkShown has the commands show what a person has to look at: in the list until somebody has,
// and by itself, with an exit code that is not that of a clean end.
func (w *world) checkShown(id txn.ID, outcome txn.Outcome) {
	w.t.Helper()
	listed, err := w.gavel("tx", "ls")
	if err != nil || !strings.Contains(listed, id.String()) {
		w.fatal(fmt.Sprintf("gavel tx ls (%v) does not list %s:\n%s", err, id, listed))
	}
	shown, err := w.gavel("tx", "show", id.String())
	if exitCode(err) != 1 || !strings.Contains(shown, outcome.String()) {
		w.fatal(fmt.Sprintf("gavel tx show (%v) does not say %s:\n%s", err, outcome, shown))
	}
}

// gavel runs a command against the coordinator.
func (w *world) gavel(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	args = append(args, "--coordinator", w.addresses["coordinator"])
	out, err := exec.CommandContext(ctx, shared.gavel, args...).CombinedOutput()
	return string(out), err
}

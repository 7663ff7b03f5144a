package crash_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/gavel-tx/gavel/coordinator"
	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/txlog/vfs"
	"github.com/gavel-tx/gavel/txn"
)

// observe writes the book of the round. The order matters: once every outcome is final and nothing
// is prepared any more, the rows do not change.
func (w *world) observe() crash.Book {
	w.t.Helper()
	transfers := w.learn()
	w.await("nothing to be prepared, or marked", func(ctx context.Context) bool {
		return len(w.prepared(ctx))+len(w.markers(ctx)) == 0
	})
	return w.look(transfers)
}

// look writes down what is there, without waiting for anything.
func (w *world) look(transfers []crash.Transfer) crash.Book {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	book := crash.Book{Prepared: append(w.prepared(ctx), w.markers(ctx)...), Want: w.want,
		Damage: w.verifyLog(ctx)}
	var rows [2][]row
	for i, s := range w.sides {
		sum, err := s.sum(ctx)
		w.must(err)
		book.Sum += sum
		rows[i], err = s.rows(ctx, w.from())
		w.must(err)
		book.Trails[i], err = s.trail(ctx)
		w.must(err)
	}
	book.Transfers = enter(transfers, rows[0], rows[1])
	w.readLog(book.Transfers)
	w.sort(&book, w.alarms())
	return book
}

// learnOutcome asks the coordinator until it knows: a transaction whose client is dead is undecided
// until its time is over.
func (w *world) learnOutcome(t *crash.Transfer) {
	w.t.Helper()
	if t.ID.IsZero() {
		return
	}
	w.await("the outcome of "+t.ID.String(), func(ctx context.Context) bool {
		r, err := w.asking.Outcome(ctx, t.ID)
		if err != nil && !errors.Is(err, txn.ErrUnknown) {
			w.fatal(fmt.Sprintf("the coordinator refuses to tell the outcome of %s: %v", t.ID, err))
		}
		t.Outcome = r.Outcome
		return err == nil && r.Outcome != txn.OutcomeUnknown
	})
}

// prepared are the names at both databases.
func (w *world) prepared(ctx context.Context) []string {
	w.t.Helper()
	var all []string
	for _, s := range w.sides {
		names, err := s.prepared(ctx)
		w.must(err)
		for _, n := range names {
			all = append(all, s.name+" "+n)
		}
	}
	return all
}

// markers are those of commits at both databases.
func (w *world) markers(ctx context.Context) []string {
	w.t.Helper()
	var all []string
	for _, s := range w.sides {
		ids, err := s.markers(ctx)
		w.must(err)
		all = append(all, ids...)
	}
	return all
}

// readLog reads the decisions from the files of the log, beside the coordinator that writes them.
// Every decision that somebody has heard of was durable before.
func (w *world) readLog(transfers []crash.Transfer) {
	w.t.Helper()
	state, _, err := coordinator.ReadState(vfs.OS(), w.logDir())
	w.must(err)
	for i := range transfers {
		transfers[i].Decided = state.Committed(transfers[i].ID)
	}
}

// verifyLog has the command verify the log, and returns what it says of a damaged one.
func (w *world) verifyLog(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, shared.gavel, "log", "verify", w.logDir()).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("gavel log verify: %v: %s", err, out)
	}
	return ""
}

// alarms are what a person would have been called for since the last look.
func (w *world) alarms() []alarm {
	w.t.Helper()
	var all []alarm
	for _, j := range w.journals {
		text, err := j.news()
		w.must(err)
		all = append(all, alarms(text)...)
	}
	return all
}

// sort puts every call for a person into the book: no crash here needs one, so that each is a
// promise broken. A decoy is meant to be reported, and is. So is, once more with each start of a
// coordinator and not without one, a transaction that waits for a person already.
func (w *world) sort(book *crash.Book, all []alarm) {
	w.t.Helper()
	for _, a := range all {
		switch {
		case w.isDecoy(a.Name):
		case w.reminders[a.ID] > 0:
			w.reminders[a.ID]--
		default:
			book.Alarms = append(book.Alarms, a.text)
		}
	}
}

// gate ends a round: the teller finishes what is under way, and then everything must be as if
// nothing had happened.
func (w *world) gate() {
	w.t.Helper()
	w.closeRound()
	w.report(w.observe())
}

// report ends the test if a book has violations.
func (w *world) report(book crash.Book) {
	w.t.Helper()
	if violations := book.Check(); len(violations) > 0 {
		var b strings.Builder
		for _, v := range violations {
			fmt.Fprintln(&b, "VIOLATED:", v)
		}
		w.fatal(b.String())
	}
}

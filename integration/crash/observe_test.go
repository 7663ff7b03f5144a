package crash_test

import (
	"context"

	"github.com/gavel-tx/gavel/integration/crash"
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
	book.Transfers = enter(transfers, nil, rows[:]...)
	w.readLog(book.Transfers)
	w.sort(&book, w.alarms())
	return book
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

package crash_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/txn"
)

// breakage is one thing that a person does to a healthy installation behind everybody's back, and
// what the checker must say of it.
type breakage[W any] struct {
	name string
	do   func(W)
	// undo repairs it.
	undo func(W)
	want []crash.Kind
}

// TestCheckerComplains breaks a real installation by hand, in one way after the other. A checker
// that never complains proves nothing about the kill table.
func TestCheckerComplains(t *testing.T) {
	w := newWorld(t, crash.InProcess, rand.New(rand.NewPCG(seed(t), 99)))
	w.begun = "broken by hand"
	w.open()
	w.closeRound()
	book := w.observe()
	w.report(book)
	n := committedIn(t, book)
	breakAll(t, w, breakages(n))
	// The log's own damage comes last: it cannot be repaired.
	w.kill(w.coordinator)
	w.damageLog()
	ctx, cancel := w.context()
	defer cancel()
	expectKinds(t, "a damaged log", crash.Book{Damage: w.verifyLog(ctx)}, kinds(crash.LogDamaged))
}

// breakAll breaks, looks, and repairs, one breakage after the other.
func breakAll[W interface {
	learn() []crash.Transfer
	look([]crash.Transfer) crash.Book
}](t *testing.T, w W, all []breakage[W]) {
	t.Helper()
	for _, b := range all {
		b.do(w)
		expectKinds(t, b.name, w.look(w.learn()), b.want)
		b.undo(w)
		if left := w.look(w.learn()).Check(); len(left) > 0 {
			t.Fatalf("%s cannot be repaired: %v", b.name, left)
		}
	}
}

func committedIn(t *testing.T, b crash.Book) int64 {
	t.Helper()
	i := slices.IndexFunc(b.Transfers, func(x crash.Transfer) bool {
		return x.Answer == crash.Committed
	})
	if i < 0 {
		t.Fatal("no transfer was committed")
	}
	return b.Transfers[i].N
}

// breakages break, and repair, the committed transfer n, and what is around it.
func breakages(n int64) []breakage[*world] {
	hide := fmt.Sprintf("UPDATE ledger SET n = -n WHERE n = %d", n)
	show := fmt.Sprintf("UPDATE ledger SET n = -n WHERE n = %d", -n)
	nobody := fmt.Sprintf("INSERT INTO ledger VALUES (%d, 0)", n+500_000)
	forget := fmt.Sprintf("DELETE FROM ledger WHERE n = %d", n+500_000)
	prepared := txn.NameOf(txn.NewID(1, 1), 1)
	sql := func(sides []int, text string) func(*world) {
		return func(w *world) {
			for _, i := range sides {
				w.run(i, text)
			}
		}
	}
	first, second, both := []int{0}, []int{1}, []int{0, 1}
	return []breakage[*world]{
		{"a row that is on one side only", sql(second, hide), sql(second, show),
			kinds(crash.HalfTransfer)},
		{"a committed transfer that is gone", sql(both, hide), sql(both, show),
			kinds(crash.FalseCommit, crash.LogDiffers, crash.OutcomeDiffers)},
		{"a transfer that nobody began", sql(both, nobody), sql(both, forget),
			kinds(crash.Stranger)},
		{"a row too many", sql(first, nobody+"; "+nobody), sql(first, forget),
			kinds(crash.TwiceApplied)},
		{"money from nowhere", sql(first, "UPDATE account SET balance = balance + 1 WHERE id = 0"),
			sql(first, "UPDATE account SET balance = balance - 1 WHERE id = 0"),
			kinds(crash.SumChanged)},
		{"a mark on one side only", sql(first, "INSERT INTO trail VALUES (1, 1)"),
			sql(first, "DELETE FROM trail"), kinds(crash.OrderDiffers)},
		{"a branch that nobody finishes",
			sql(first, "BEGIN; SELECT 1 FROM account WHERE id = 0 FOR UPDATE; "+
				"PREPARE TRANSACTION '"+prepared.String()+"'"),
			sql(first, "ROLLBACK PREPARED '"+prepared.String()+"'"), kinds(crash.PreparedRemains)},
		{"a wrong answer: rolled back", say(crash.Line{N: n, Answer: crash.RolledBack}),
			say(crash.Line{N: n, Answer: crash.Committed}), kinds(crash.FalseRollback)},
		{"a wrong answer: committed", say(crash.Line{N: n + 1_000, Answer: crash.Committed}),
			say(crash.Line{N: n + 1_000, Answer: crash.RolledBack}), kinds(crash.FalseCommit)},
		{"a cry for help", func(w *world) { w.cry() }, func(*world) {}, kinds(crash.Alarmed)},
	}
}

// say is a teller that says something.
func say(l crash.Line) func(*world) { return func(w *world) { sayTo(w.t, w.slips, l) } }

// run runs SQL at a side.
func (w *world) run(i int, sql string) {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	w.must(w.sides[i].server.Exec(ctx, w.sides[i].database, sql))
}

// cry adds an error to the coordinator's journal.
func (w *world) cry() {
	w.t.Helper()
	f, err := os.OpenFile(w.journals["coordinator"].file, os.O_APPEND|os.O_WRONLY, 0)
	w.must(err)
	defer f.Close()
	_, err = f.WriteString(`{"level":"ERROR","msg":"a person is needed"}` + "\n")
	w.must(err)
}

// damageLog flips one bit, in the middle of what the first segment holds.
func (w *world) damageLog() {
	w.t.Helper()
	segments, err := filepath.Glob(filepath.Join(w.logDir(), "*.seg"))
	w.must(err)
	if len(segments) == 0 {
		w.fatal("the log has no segments")
	}
	text, err := os.ReadFile(segments[0])
	w.must(err)
	end := len(text)
	for end > 0 && text[end-1] == 0 {
		end--
	}
	text[end/2] ^= 1
	w.must(os.WriteFile(segments[0], text, 0o600))
}

// The journal is read once, and only its errors count.
func TestJournalsAreReadOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "j")
	write := func(text string) {
		t.Helper()
		f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	j := &journal{file: file}
	read := func() []alarm {
		t.Helper()
		text, err := j.news()
		if err != nil {
			t.Fatal(err)
		}
		return alarms(text)
	}
	id := txn.NewID(5, 6)
	write(`{"level":"INFO","msg":"a"}` + "\n" + `{"level":"ERROR","transaction":"` + id.String() +
		`"}` + "\nhello\npanic: c\n")
	if got := read(); len(got) != 2 || got[0].ID != id || got[1].text != "panic: c" {
		t.Errorf("alarms: %v", got)
	}
	write(`{"level":"WARN","msg":"d"}` + "\n")
	if got := read(); len(got) != 0 {
		t.Errorf("alarms twice: %v", got)
	}
	if got := tail(file, 4); got != "d\"}\n" {
		t.Errorf("tail: %q", got)
	}
}

// A process of the test's is joined, whether it ends by itself or is killed, and has told
// everything that it said before.
func TestProcessesAreJoined(t *testing.T) {
	p := program{name: "cat", path: "/bin/cat", journal: filepath.Join(t.TempDir(), "cat")}
	for _, kill := range []bool{true, false} {
		said := make(chan string, 2)
		p.line = func(text []byte) { said <- string(text) }
		r, err := p.start()
		if err != nil {
			t.Fatal(err)
		}
		r.order("hello")
		if got := <-said; got != "hello" {
			t.Errorf("it said %q", got)
		}
		if kill {
			r.kill()
		} else {
			r.orders.Close()
			<-r.done
		}
		if r.lost() == kill {
			t.Errorf("killed %v, and lost %v", kill, r.lost())
		}
	}
	if _, err := (program{path: "/nowhere", journal: p.journal}).start(); err == nil {
		t.Error("a program that does not exist was started")
	}
}

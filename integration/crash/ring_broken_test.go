package crash_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/gavel-tx/gavel/integration/crash"
	"github.com/gavel-tx/gavel/participant/mysql/xabranch"
	gavelv1 "github.com/gavel-tx/gavel/proto/gavel/v1"
	"github.com/gavel-tx/gavel/txn"
)

// TestCheckerComplainsOfRing breaks a real ring by hand, at each place, in one way after the other.
func TestCheckerComplainsOfRing(t *testing.T) {
	w := newRing(t, purse{}, rand.New(rand.NewPCG(seed(t), 98)))
	w.begun = "broken by hand"
	w.openUntil(crash.FourMove)
	w.closeRound()
	book := w.observe()
	w.report(book)
	i := slices.IndexFunc(book.Transfers, w.committed(crash.FourMove))
	breakAll(t, w, ringBreakages(book.Transfers[i].N))
	breakAll(t, w, unseenBySums(book.Transfers[i].N))
	w.workByHand()
	w.hideByHand()
}

// openUntil begins a round and lets it go on until a transfer of a kind was committed.
func (w *ring) openUntil(k crash.Traffic) {
	w.t.Helper()
	w.open()
	w.await("a transfer: "+k.String(), func(context.Context) bool {
		return slices.ContainsFunc(w.slips.all(), w.committed(k))
	})
}

func (w *ring) committed(k crash.Traffic) func(crash.Transfer) bool {
	return func(x crash.Transfer) bool {
		return x.Answer == crash.Committed && crash.CourseOf(x.N).Traffic == k
	}
}

// ringBreakages break, and repair, the committed transfer n of all four places, and what is around
// it.
func ringBreakages(n int64) []breakage[*ring] {
	move := func(from, to int64) string {
		return fmt.Sprintf("UPDATE ledger SET n = %d WHERE n = %d", to, from)
	}
	kv := func(key string, delta int64) func(*ring) {
		return func(w *ring) { w.add(key, delta) }
	}
	xid := xidOf(txn.NameOf(txn.NewID(1, 1), 1))
	lost := crash.KVTimes(n)
	return []breakage[*ring]{
		{"a row that PostgreSQL has lost", atPostgres(move(n, -n)), atPostgres(move(-n, n)),
			kinds(crash.HalfTransfer, crash.LedgerDiffers)},
		{"a row that MariaDB has lost", atMaria(move(n, -n)), atMaria(move(-n, n)),
			kinds(crash.HalfTransfer, crash.LedgerDiffers)},
		{"a row that the store has lost", kv(lost, -1), kv(lost, 1),
			kinds(crash.HalfTransfer, crash.LedgerDiffers)},
		{"a row that the store has twice", kv(lost, 1), kv(lost, -1),
			kinds(crash.TwiceApplied, crash.LedgerDiffers)},
		{"another amount", kv(crash.KVRow(n), 1), kv(crash.KVRow(n), -1),
			kinds(crash.WrongAmount, crash.LedgerDiffers)},
		{"money from nowhere at the store", kv(crash.KVBalance(1), 1), kv(crash.KVBalance(1), -1),
			kinds(crash.SumChanged, crash.LedgerDiffers)},
		{"money from nowhere at MariaDB",
			atMaria("UPDATE account SET balance = balance + 1 WHERE id = 0"),
			atMaria("UPDATE account SET balance = balance - 1 WHERE id = 0"),
			kinds(crash.SumChanged, crash.LedgerDiffers)},
		{"a branch at MariaDB that nobody finishes",
			atMaria("XA START "+xid, "INSERT INTO ledger VALUES (0, 0)", "XA END "+xid,
				"XA PREPARE "+xid),
			atMaria("XA ROLLBACK " + xid), kinds(crash.PreparedRemains)},
	}
}

// unseenBySums break, and repair, what neither the sum of the amounts of the transfer n shows nor
// that of all balances.
func unseenBySums(n int64) []breakage[*ring] {
	balance := func(delta int) string {
		return fmt.Sprintf("UPDATE account SET balance = balance + (%d) WHERE id = 0", delta)
	}
	both := func(delta int) []string {
		return []string{balance(delta),
			fmt.Sprintf("UPDATE ledger SET amount = amount + (%d) WHERE n = %d", delta, n)}
	}
	move := func(from, to []string) func(*ring) {
		return func(w *ring) {
			atPostgres(from...)(w)
			atMaria(to...)(w)
		}
	}
	only := func(s string) []string { return []string{s} }
	return []breakage[*ring]{
		{"money that went elsewhere, with rows that say so", move(both(-1), both(1)),
			move(both(1), both(-1)), kinds(crash.WrongAmount)},
		{"money that went from place to place beside the ledgers",
			move(only(balance(-1)), only(balance(1))), move(only(balance(1)), only(balance(-1))),
			kinds(crash.LedgerDiffers, crash.LedgerDiffers)},
	}
}

// atPostgres runs statements at PostgreSQL.
func atPostgres(sql ...string) func(*ring) {
	return func(w *ring) {
		for _, s := range sql {
			w.must(w.postgres.server.Exec(w.t.Context(), w.postgres.database, s))
		}
	}
}

// atMaria runs statements at MariaDB, in a session of their own.
func atMaria(sql ...string) func(*ring) {
	return func(w *ring) { w.must(w.maria.run(w.t.Context(), sql...)) }
}

// xidOf writes the XID of a name by the published rule.
func xidOf(n txn.Name) string {
	at := strings.LastIndexByte(n.String(), '.')
	return fmt.Sprintf("'%s','%s',%d", n.String()[:at], n.String()[at+1:], xabranch.FormatID)
}

// run runs statements in a session of their own, which has ended when it returns.
func (m *maria) run(ctx context.Context, statements ...string) error {
	conn, err := m.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer xabranch.Discard(conn)
	for _, s := range statements {
		if _, err := conn.ExecContext(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// add changes a number in the kv store, by a transaction of the test's own.
func (w *ring) add(key string, delta int64) {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	begun, err := w.asking.Begin(ctx, txn.BeginRequest{Resources: []string{crash.KV.String()}})
	w.must(err)
	_, err = w.store.data.Apply(ctx, &gavelv1.ApplyRequest{
		PreparedName: begun.Branches[0].Name.String(), Sequence: 1,
		Operations: []*gavelv1.Operation{{Kind: &gavelv1.Operation_Add{
			Add: &gavelv1.AddOperation{Key: []byte(key), Delta: delta}}}},
	})
	w.must(err)
	r, err := w.asking.Commit(ctx, txn.CommitRequest{ID: begun.ID})
	w.must(err)
	if r.Outcome != txn.OutcomeCommitted {
		w.fatal(fmt.Sprintf("%s %+d is %v", key, delta, r))
	}
}

// workByHand does work in a branch at MariaDB that nobody has prepared. The book must not see it.
func (w *ring) workByHand() {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	conn, err := w.maria.db.Conn(ctx)
	w.must(err)
	defer xabranch.Discard(conn)
	for _, sql := range []string{"XA START " + xidOf(txn.NameOf(txn.NewID(1, 3), 1)),
		fmt.Sprintf("INSERT INTO ledger VALUES (%d, 1)", w.from()+500_000),
		"UPDATE account SET balance = balance + 1 WHERE id = 0"} {
		_, err := conn.ExecContext(ctx, sql)
		w.must(err)
	}
	expectKinds(w.t, "work that is not committed", w.look(w.learn()), nil)
}

// hideByHand leaves a row of a branch that XA RECOVER does not show, as a branch has that MariaDB
// has lost sight of. The book must not be closed over it; and the restart of the server, which is
// the only help, must end it.
func (w *ring) hideByHand() {
	w.t.Helper()
	ctx, cancel := w.context()
	defer cancel()
	conn, err := w.maria.db.Conn(ctx)
	w.must(err)
	defer conn.Close()
	name, before := txn.NameOf(txn.NewID(1, 2), 1), w.hidden
	for _, sql := range []string{"XA START " + xidOf(name),
		"INSERT INTO gavel.branch (name, db, connection, user) VALUES ('" + name.String() +
			"', DATABASE(), CONNECTION_ID(), CURRENT_USER())"} {
		_, err := conn.ExecContext(ctx, sql)
		w.must(err)
	}
	expectKinds(w.t, "a hidden branch", w.look(w.learn()), kinds(crash.PreparedRemains))
	w.report(w.observe())
	if w.hidden != before+1 {
		w.fatal(fmt.Sprintf("MariaDB hid a branch, and was restarted %d times", w.hidden-before))
	}
}

// TestCheckerComplainsOfDeafService runs a ring whose service says that it has committed, and has
// not. What is missing there, and nothing else, is in the book.
func TestCheckerComplainsOfDeafService(t *testing.T) {
	w := newRing(t, purse{deaf: true}, rand.New(rand.NewPCG(seed(t), 97)))
	w.begun = "a service that is deaf"
	w.openUntil(crash.FourMove)
	w.closeRound()
	book := w.observe()
	for _, k := range []crash.Kind{crash.HalfTransfer, crash.SumChanged} {
		if !slices.ContainsFunc(book.Check(), func(v crash.Violation) bool { return v.Kind == k }) {
			t.Errorf("nobody complains: %s", k)
		}
	}
	// Without its transfers everybody agrees.
	book.Transfers = slices.DeleteFunc(book.Transfers, func(x crash.Transfer) bool {
		return crash.CourseOf(x.N).Moves(crash.Service)
	})
	book.Sum = book.Want
	w.report(book)
}
